//! Connections that change their protocol (WebSocket): opened only after the upstream's 101.

use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tracing::debug;

use crate::inbound::ClientHalf;
use crate::pool::{Flow, Lent};

/// Joins both halves once both sides have switched. The task belongs to the core and ends with
/// either side.
pub(crate) fn join(client: ClientHalf, upstream: Lent) {
    tokio::task::spawn_local(async move {
        // The slot is kept: a tunnel is a request in flight as long as it is open.
        let Lent { flow, slot, .. } = upstream;
        let opened = match flow {
            Flow::Line(wire) => wire.into_tunnel(),
            // HTTP/2 changes no protocol.
            Flow::Stream(_) => None,
        };
        let Some((mut upstream, said)) = opened else {
            debug!("a tunnel was not opened: the upload before it is not through");
            return;
        };
        // A proxy that ends waits for it as for any request.
        let Some((mut client, asked, open)) = client.come().await else {
            debug!("a tunnel was not opened: the client had left");
            return;
        };
        // What either side said right behind its head comes first.
        let joined = async {
            upstream.write_all(&asked).await?;
            client.write_all(&said).await?;
            // What TLS keeps back would wait for more.
            upstream.flush().await?;
            client.flush().await?;
            copy_bidirectional(&mut client, &mut upstream).await
        };
        if let Err(error) = joined.await {
            debug!(%error, "a tunnel was cut off");
        }
        drop((slot, open));
    });
}
