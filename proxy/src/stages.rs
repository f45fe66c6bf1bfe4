//! The stages around every request, outermost first:
//!
//! 1. nothing leaves as an error: whatever is refused becomes an answer here;
//! 2. what two servers could read in two ways goes no further;
//! 3. the life of a request in `forward.rs`.
//!
//! One future for all of them, which hyper keeps in place: a box a stage and a request is dearer
//! than what the stages do.

use std::convert::Infallible;
use std::rc::Rc;

use http::{Request, Response};
use hyper::body::Incoming;
use tracing::debug;

use crate::answer::refuse;
use crate::body::Body;
use crate::core::{Core, Peer};
use crate::error::Refusal;
use crate::forward;
use crate::headers;

/// Answers one request.
pub(crate) async fn answer(
    core: Rc<Core>,
    peer: Rc<Peer>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    Ok(checked(core, &peer, request)
        .await
        .unwrap_or_else(|refusal| {
            debug!(%refusal, "refused");
            refuse(&refusal)
        }))
}

async fn checked(
    core: Rc<Core>,
    peer: &Peer,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    headers::check(&request)?;
    forward::carry(core, peer, request).await
}
