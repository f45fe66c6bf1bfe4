//! Connections that change their protocol (WebSocket): opened only after the upstream's 101.

use http::{Request, Response};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tracing::debug;

/// The client's half, taken off a request before it goes up.
pub(crate) fn client_half<B>(request: &mut Request<B>) -> OnUpgrade {
    hyper::upgrade::on(request)
}

/// Joins both halves once both sides have switched. The task belongs to the core and ends with
/// either side.
pub(crate) fn join<B>(client: OnUpgrade, answer: &mut Response<B>) {
    let upstream = hyper::upgrade::on(answer);
    tokio::task::spawn_local(async move {
        let (client, upstream) = match tokio::try_join!(client, upstream) {
            Ok(halves) => halves,
            Err(error) => {
                debug!(%error, "a tunnel was not opened");
                return;
            }
        };
        let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
        if let Err(error) = copy_bidirectional(&mut client, &mut upstream).await {
            debug!(%error, "a tunnel was cut off");
        }
    });
}
