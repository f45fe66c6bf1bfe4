//! The running shop: listener, background jobs, orderly end.
//!
//! Owns the tasks that run beside the requests and joins them at shutdown.

use axum::serve::ListenerExt as _;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::error::StartError;
use crate::shop::Shop;
use crate::{recommendations, session};

/// How long requests in flight may take after the signal to stop.
const DRAIN: Duration = Duration::from_secs(10);
/// Sessions last for days; removing old ones each quarter of an hour is plenty.
const SWEEP: Duration = Duration::from_secs(15 * 60);

/// How the shop serves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// How often recommendations are recomputed; `None` for only on request.
    pub recommend_every: Option<Duration>,
}

/// Serves until `stop` resolves, then finishes the requests in flight (ten seconds at most).
///
/// `ready` is called once with the bound address.
///
/// # Errors
/// The address is taken or not of this machine; the listener fails.
pub async fn serve(
    shop: Shop,
    options: &Options,
    stop: impl Future<Output = ()> + Send + 'static,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), StartError> {
    let failed = |source| StartError::Listen {
        addr: options.listen,
        source,
    };
    let listener = TcpListener::bind(options.listen).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let cancel = CancellationToken::new();
    let mut jobs = JoinSet::new();
    if let Some(period) = options.recommend_every {
        jobs.spawn(recommendations::run(shop.clone(), period, cancel.clone()));
    }
    jobs.spawn(sweep(shop.clone(), cancel.clone()));
    ready(bound);
    let result = answer_until(&shop, listener, stop, &cancel).await;
    cancel.cancel();
    while let Some(ended) = jobs.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a background job died");
        }
    }
    shop.database().close().await;
    result.map_err(StartError::Serve)
}

async fn answer_until(
    shop: &Shop,
    listener: TcpListener,
    stop: impl Future<Output = ()> + Send + 'static,
    cancel: &CancellationToken,
) -> Result<(), std::io::Error> {
    let listener = listener.tap_io(|connection| {
        // Small answers in several writes would wait for the client's delayed acknowledgement.
        if let Err(error) = connection.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
    });
    let stopping = cancel.clone();
    let signal = async move {
        stop.await;
        stopping.cancel();
    };
    let serving = axum::serve(listener, shop.router())
        .with_graceful_shutdown(signal)
        .into_future();
    let overdue = async {
        cancel.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = serving => served,
        () = overdue => {
            tracing::warn!(seconds = DRAIN.as_secs(), "requests still in flight, cutting them");
            Ok(())
        }
    }
}

async fn sweep(shop: Shop, cancel: CancellationToken) {
    while cancel
        .run_until_cancelled(tokio::time::sleep(SWEEP))
        .await
        .is_some()
    {
        match session::sweep(shop.database()).await {
            Ok(gone) => tracing::debug!(gone, "old sessions removed"),
            Err(why) => tracing::warn!(%why, "cannot remove old sessions"),
        }
    }
}
