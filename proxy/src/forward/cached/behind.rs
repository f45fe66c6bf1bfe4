//! A side that is asked behind an answer that was given already (RFC 5861 section 3).

use std::sync::Arc;

use http::header::{IF_MODIFIED_SINCE, IF_NONE_MATCH};
use http_body_util::BodyExt;
use tokio::time::timeout;

use super::super::Call;
use super::Asks;
use crate::body::Body;
use crate::cache::Cache;
use crate::limits::Allowed;
use crate::pool::Outgoing;
use crate::reply::Reply;

/// Asks the side whether what was given is still good, in a task of its own: the client has its
/// answer. It belongs to the core and ends by the side's timeouts.
pub(super) fn ask(call: &Call, cache: &Arc<Cache>, mut asks: Box<Asks>, out: &Outgoing) {
    let mut out = Outgoing {
        parts: out.parts.clone(),
        body: None,
        until: None,
        told: None,
        hints: None,
        allowed: Allowed::ALL,
    };
    // What the client has is its own matter.
    for name in [IF_NONE_MATCH, IF_MODIFIED_SINCE] {
        out.parts.headers.remove(&name);
        asks.fields.remove(&name);
    }
    asks.behind = true;
    asks.ask_whether(&mut out);
    let (call, cache) = (call.behind(), cache.clone());
    let within = call.core.shared.settings.limits.request_timeout;
    tokio::task::spawn_local(async move {
        // The other side's answer would not be kept: only this one is asked.
        let answered = call.ask(asks.question.side, &mut out).await;
        if let Ok(response) = call.settle(&cache, *asks, answered) {
            // Late, it is given up, and with it what was gathered.
            let _ = timeout(within, take(response, cache.body_max())).await;
        }
    });
}

/// Takes a body into the store: a client would have read it.
async fn take(response: Reply<Body>, most: usize) {
    let mut body = response.into_body();
    let mut taken = 0;
    while let Some(Ok(frame)) = body.frame().await {
        taken += frame.data_ref().map_or(0, bytes::Bytes::len);
        if taken > most {
            return;
        }
    }
}
