//! The admin API: JSON over HTTP on a loopback address, for whoever holds the token.
//!
//! It translates and checks words; what they do is the controller's. It refuses any address
//! that another machine could reach, because it speaks no TLS.

mod answer;
mod builds;
mod look;
mod metrics;
mod operate;
mod token;

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

pub use token::Token;

use self::answer::Failure;
use crate::controller::Controller;

/// The largest request is an ignore rule; this leaves room for long reasons.
const BODY_MAX: usize = 256 * 1024;

/// Answers under way at a shutdown get so long.
const DRAIN: Duration = Duration::from_secs(5);

/// Why the admin API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error(
        "`[control] listen = {0}` can be reached from other machines; use a loopback address \
         such as 127.0.0.1:7070, and a tunnel from outside"
    )]
    NotLoopback(SocketAddr),
    #[error("the admin address cannot be listened on")]
    Listen(#[source] std::io::Error),
    #[error("the token file `{path}` cannot be {what}")]
    TokenFile {
        path: String,
        what: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "the token in `{0}` is shorter than {min} characters; delete the file and a new one is made",
        min = token::LENGTH_MIN
    )]
    WeakToken(String),
}

/// Serves the admin API until `shutdown`; the caller joins the task.
///
/// # Errors
/// [`AdminError::NotLoopback`] for an address that other machines could reach.
pub fn serve_admin(
    listener: TcpListener,
    controller: Controller,
    token: Token,
    shutdown: CancellationToken,
) -> Result<JoinHandle<()>, AdminError> {
    let address = listener.local_addr().map_err(AdminError::Listen)?;
    if !address.ip().is_loopback() {
        return Err(AdminError::NotLoopback(address));
    }
    let app = router(controller, token);
    Ok(tokio::spawn(async move {
        let drained = shutdown.clone();
        let serving = axum::serve(listener, app)
            .with_graceful_shutdown(async move { drained.cancelled().await });
        let late = async {
            shutdown.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        };
        tokio::select! {
            ended = serving => {
                if let Err(error) = ended {
                    warn!(%error, "the admin API ended");
                }
            }
            () = late => warn!("an answer of the admin API was cut off"),
        }
    }))
}

fn router(controller: Controller, token: Token) -> Router {
    let looking = Router::new()
        .route("/metrics", get(metrics::metrics))
        .route("/v1/status", get(look::status))
        .route("/v1/slices/{slice}", get(look::slice))
        .route("/v1/figures", get(look::figures))
        .route("/v1/explain", get(look::explain))
        .route("/v1/builds", get(builds::all))
        .route("/v1/builds/{service}", get(builds::one))
        .route("/v1/shadow", get(look::shadow))
        .route("/v1/shadow/{slice}/report", get(look::report))
        .route("/v1/shadow/pairs/{id}", get(look::pair))
        .route(
            "/v1/shadow/{slice}/rules",
            get(look::rules).post(operate::add_rule),
        )
        .route("/v1/sync", get(look::sync_all))
        .route("/v1/sync/{slice}", get(look::sync))
        .route("/v1/sync/{slice}/conflicts", get(look::conflicts))
        .route("/v1/sync/{slice}/preflight", get(look::preflight))
        .route("/v1/runbook/{slice}", get(look::runbook))
        .route("/v1/journal", get(look::journal))
        .route("/v1/journal/verify", get(look::verify_journal));
    let operating = Router::new()
        .route("/v1/reload", post(operate::reload))
        .route("/v1/upgrade", post(operate::upgrade))
        .route("/v1/builds/{service}/{verb}", post(builds::change))
        .route("/v1/slices/{slice}/flip", post(operate::flip))
        .route("/v1/slices/{slice}/rollback", post(operate::rollback))
        .route("/v1/slices/{slice}/freeze", post(operate::freeze))
        .route("/v1/slices/{slice}/unfreeze", post(operate::unfreeze))
        .route("/v1/slices/{slice}/maintenance", post(operate::maintenance))
        .route("/v1/slices/{slice}/mirroring", post(operate::mirroring))
        .route("/v1/shadow/{slice}/reset", post(operate::reset_shadow))
        .route("/v1/shadow/{slice}/record", post(operate::record))
        .route("/v1/shadow/{slice}/what-if", post(operate::what_if))
        .route("/v1/sync/{slice}/start", post(operate::sync_start))
        .route("/v1/sync/{slice}/pause", post(operate::sync_pause))
        .route("/v1/sync/{slice}/resume", post(operate::sync_resume))
        .route(
            "/v1/sync/{slice}/another-server",
            post(operate::sync_another_server),
        )
        .route("/v1/sync/{slice}/verify", post(operate::sync_verify))
        .route("/v1/sync/{slice}/repair", post(operate::sync_repair))
        .route(
            "/v1/sync/{slice}/resume-events",
            post(operate::sync_resume_events),
        )
        .route("/v1/sync/{slice}/settle", post(operate::sync_settle))
        .route("/v1/sync/{slice}/close", post(operate::sync_close))
        .route("/v1/sync/{slice}/reverse", post(operate::sync_reverse))
        .route("/v1/runbook/{slice}/next", post(operate::runbook_next))
        .route("/v1/runbook/{slice}/approve", post(operate::approve))
        .route("/v1/runbook/{slice}/abort", post(operate::runbook_abort));
    looking
        .merge(operating)
        .fallback(|| async { Failure::no_endpoint() })
        .method_not_allowed_fallback(|| async { Failure::wrong_method() })
        // Outermost: who has no token learns nothing, not even which endpoints there are.
        .layer(middleware::from_fn_with_state(token, authorized))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(middleware::map_response(answer::too_large))
        .with_state(controller)
}

async fn authorized(State(token): State<Token>, request: Request, next: Next) -> Response {
    let given = request
        .headers()
        .get(axum::http::header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    match given {
        Some(given) if token.is(given) => next.run(request).await,
        _ => Failure::unauthorized().into_response(),
    }
}
