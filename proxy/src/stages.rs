//! The stages around every request, outermost first:
//!
//! 1. nothing leaves as an error: whatever is refused becomes an answer here;
//! 2. it gets an id and its place in a trace, where the settings want that;
//! 3. what two servers could read in two ways goes no further;
//! 4. the life of a request in `forward.rs`, and in it what the config has chosen for the route
//!    (`filters.rs`; what is not chosen costs one branch):
//!    - pre: `headers::prepare` takes off what is for one hop or forged, so that no filter sees it;
//!    - pre: a preflight is answered for the route that its page wants to ask (`filters/cors.rs`);
//!    - pre: the rate limit of the whole proxy, where there is one;
//!    - route: the route is found, and the cohort by what the client itself has sent;
//!    - pre: what the request may take in time and bytes is known, and a body that says that it is too long
//!      goes no further (`limits.rs`);
//!    - pre: the rate limit, before anything is spent on the request;
//!    - pre: who asks, by a token, an API key or a service's word, and what they may (`auth.rs`);
//!    - pre: request fields are changed, once, so that both sides and the shadow see the same;
//!    - pre: each side's path is made of the client's (`filters/path.rs`), which routes, cohorts and
//!      reports keep to;
//!    - a slice in maintenance serves nobody;
//!    - what is kept of the side that would answer is given in its place (`forward/cached.rs`);
//!    - a side answers; the shadow's copy is taken from what it really said;
//!    - post: links, then cookies, then response fields, so that the config has the last word;
//!    - post: the proxy's own cohort cookie, which no filter may change;
//!    - post: links in bodies (`filters/bodies.rs`), before they are compressed;
//!    - post: what the client is to get is compressed (`filters/compress.rs`);
//!    - post: who may read the answer (CORS), also one of the proxy's own.
//! 5. error: a refusal is an answer of the proxy's own, with a page of the config where there is one
//!    (`pages.rs`), and no other filter changes it (1). Who calls by gRPC gets a status (`grpc.rs`).
//!
//! One future for all of them: a box a stage and a request is dearer than what the stages do.

use std::convert::Infallible;
use std::rc::Rc;

use http::HeaderName;
use http::header::ACCEPT;
use tracing::debug;

use crate::answer::refuse;
use crate::body::Body;
use crate::core::{Core, Peer};
use crate::error::Declined;
use crate::forward;
use crate::grpc;
use crate::headers;
use crate::inbound::ClientBody;
use crate::kinds::Asked;
use crate::reply::Reply;
use crate::trace;
use crate::trail::Ending;

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Answers one request.
pub(crate) async fn answer(
    core: Rc<Core>,
    peer: Rc<Peer>,
    (mut asked, body): (Asked, ClientBody),
) -> Result<Reply<Body>, Infallible> {
    let told = core.shared.settings.trust.told(&peer, &asked.parts.headers);
    let peer = match told.filter(|client| *client != peer.ip) {
        Some(client) => Rc::new(peer.asking_for(client)),
        None => peer,
    };
    let parts = &mut asked.parts;
    let trace = core.shared.settings.trace;
    let id = trace
        .request_id
        .then(|| trace::identify(&mut parts.headers, &core.dice));
    let mut span = None;
    if trace.span {
        let share = core.spans.as_ref().map(|spans| spans.share);
        span = trace::continue_trace(&mut parts.headers, trace.start, &core.dice, share);
    }
    let timed = forward::is_timed(&core, &parts.headers);
    let ending = Ending::of(&core, &peer, parts, id.as_ref(), (timed, span));
    let own = core.clone();
    let pages = &own.shared.settings.error_pages[..];
    let accept = match pages {
        [] => None,
        _ => parts.headers.get(ACCEPT).cloned(),
    };
    let call = grpc::is_call((&parts.method, parts.version), &parts.headers);
    let trail = ending.as_ref().map(|ending| ending.trail.clone());
    let answered = match headers::check(&asked) {
        Ok(()) => forward::carry(core, &peer, (asked, body), trail).await,
        Err(refusal) => Err(refusal.into()),
    };
    let mut response = answered.unwrap_or_else(|Declined { refusal, grant }| {
        debug!(%refusal, "refused");
        own.refuses(&refusal);
        if let Some(ending) = &ending {
            ending.refused(&refusal);
        }
        let mut response = match call {
            true => grpc::refuse(&refusal),
            false => refuse(&refusal, pages, accept.as_ref()),
        };
        if let Some(grant) = grant {
            grant.dress(response.headers_mut());
        }
        response
    });
    if timed && let Some(timing) = ending.as_ref().and_then(|ending| ending.trail.timing()) {
        response.headers_mut().append(SERVER_TIMING, timing);
    }
    if let Some(id) = id {
        response.headers_mut().insert(trace::REQUEST_ID, id);
    }
    if let Some(ending) = ending {
        ending.follow(&mut response);
    }
    Ok(response)
}
