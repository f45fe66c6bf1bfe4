//! What the proxy itself asks of a service: its answer is whole, short, and there in time.

use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use tokio::time::timeout_at;

use crate::body::Body;
use crate::pool::{Cluster, Lent};

/// Bytes of an answer; a longer one is none.
const ANSWER_MAX: usize = 64 * 1024;

/// The body of an answer. It has the time that the service has for its head, together with it: who waits for it is a
/// client, to whom nobody has promised more.
///
/// # Errors
/// Why there is none.
pub(crate) async fn whole(cluster: &Cluster, lent: Lent, begun: Instant) -> Result<Bytes, String> {
    let within = cluster.patience();
    let body = Limited::new(Body::answer(lent, None), ANSWER_MAX);
    let body = Box::pin(timeout_at((begun + within).into(), body.collect())).await;
    let body = body.map_err(|_| format!("its answer is not whole within {within:?}"))?;
    Ok(body.map_err(|error| error.to_string())?.to_bytes())
}
