//! Connections that change their protocol (WebSocket): opened only after the upstream's 101.

use http::Request;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tracing::debug;

use crate::pool::Lent;

/// The client's half, taken off a request before it goes up.
pub(crate) fn client_half<B>(request: &mut Request<B>) -> OnUpgrade {
    hyper::upgrade::on(request)
}

/// Joins both halves once both sides have switched. The task belongs to the core and ends with
/// either side.
pub(crate) fn join(client: OnUpgrade, upstream: Lent) {
    tokio::task::spawn_local(async move {
        // The slot is kept: a tunnel is a request in flight as long as it is open.
        let Lent { wire, slot, .. } = upstream;
        let Some((mut upstream, said)) = wire.into_tunnel() else {
            debug!("a tunnel was not opened: the upload before it is not through");
            return;
        };
        let mut client = match client.await {
            Ok(client) => TokioIo::new(client),
            Err(error) => {
                debug!(%error, "a tunnel was not opened");
                return;
            }
        };
        // What the upstream said right behind its 101 comes first.
        let joined = async {
            client.write_all(&said).await?;
            copy_bidirectional(&mut client, &mut upstream).await
        };
        if let Err(error) = joined.await {
            debug!(%error, "a tunnel was cut off");
        }
        drop(slot);
    });
}
