//! The life of a request, from its route to its answer. Read top to bottom.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use http::header::{SET_COOKIE, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, request};
use http_body::Body as _;
use outgrow_rollout::{Live, Side, Weight, bucket, side_for};
use outgrow_shadow::{CapturedRequest, CapturedResponse, Exchange, SHADOW_MARK, Tap};
use tokio::sync::oneshot;

use crate::auth::{Entry, admit};
use crate::body::{Body, Copy};
use crate::cohort::{self, Cohort};
use crate::core::{Core, Peer};
use crate::error::{Declined, Refusal, UpstreamError};
use crate::filters::{Filters, cors};
use crate::guard::ErrorEvent;
use crate::headers;
use crate::hold::Refused;
use crate::inbound::{ClientBody, ClientHalf};
use crate::pool::{Client, Lent, Outgoing};
use crate::routes::Found;
use crate::slice::Slice;
use crate::trail::Trail;
use crate::tunnel;

/// Between two tries of a write whose connection was refused.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// A request that belongs to a slice.
struct Call {
    core: Rc<Core>,
    slice: Arc<Slice>,
    index: usize,
    /// For the counts.
    route: usize,
    label: Arc<str>,
    cohort: Cohort,
    filters: Option<Arc<Filters>>,
    /// Who asks, signed, where a token or a key has shown it.
    caller: Option<HeaderValue>,
    /// What a tester asked for, with the right secret.
    wish: Option<Side>,
    /// The client's fields before any was taken off, for the caller's session and the shadow.
    mirrored: bool,
    trail: Option<Rc<Trail>>,
}

/// An upstream's answer before its body is wrapped.
struct Answered {
    response: Response<()>,
    lent: Lent,
    side: Side,
    latency: Duration,
}

/// Carries one request.
pub(crate) async fn carry(
    core: Rc<Core>,
    peer: &Peer,
    request: Request<ClientBody>,
    trail: Option<Rc<Trail>>,
) -> Result<Response<Body>, Declined> {
    let protocol = headers::upgrade(request.headers());
    let client = protocol.as_ref().and_then(|_| request.body().half());
    let wish = wish(&core, request.headers());
    let (mut parts, body) = request.into_parts();
    let mirrored = parts.headers.contains_key(SHADOW_MARK);
    headers::prepare(&mut parts, peer)?;
    if let Some(answer) = preflight(&core, &parts) {
        return Ok(answer?);
    }
    if let Some(protocol) = protocol.filter(|_| client.is_some()) {
        parts.headers.insert(
            http::header::CONNECTION,
            HeaderValue::from_static("upgrade"),
        );
        parts.headers.insert(UPGRADE, protocol);
    }
    let body = (!body.is_end_stream()).then_some(body);
    let out = Outgoing { parts, body };
    let found = route(&core, &out.parts.method, &out.parts).cloned();
    let grant = filters(&core, found.as_ref())
        .and_then(|filters| filters.cors.as_ref())
        .map(|cors| cors.grant(&out.parts.headers));
    let answered = match found {
        None => pass_through(core, peer, out, (client, trail)).await,
        Some(found) => {
            let marks = Marks { wish, mirrored };
            of_slice(core, peer, (found, out), marks, (client, trail)).await
        }
    };
    let Some(grant) = grant else {
        return answered.map_err(Declined::from);
    };
    match answered {
        Ok(mut response) => {
            grant.dress(response.headers_mut());
            Ok(response)
        }
        Err(refusal) => Err(Declined {
            refusal,
            grant: Some(Box::new(grant)),
        }),
    }
}

/// What a request has said that its upstream is not told.
struct Marks {
    wish: Option<Side>,
    mirrored: bool,
}

/// A request of a slice, from its filters on.
async fn of_slice(
    core: Rc<Core>,
    peer: &Peer,
    (found, mut out): (Found, Outgoing),
    marks: Marks,
    (client, trail): (Option<ClientHalf>, Option<Rc<Trail>>),
) -> Result<Response<Body>, Refusal> {
    let Found {
        slice: index,
        route,
        label,
        filters,
    } = found;
    let slice = core.shared.slices[index].clone();
    let cohort = cohort::of(&slice.settings, &out.parts.headers);
    if let Some(trail) = &trail {
        trail.found(index, &label, bucket(cohort.hash));
    }
    let mut caller = None;
    if let Some(filters) = &filters {
        match enter(&core, filters, (&mut out.parts, peer), trail.as_ref()).await? {
            Entry::Answered(answer) => return Ok(answer),
            Entry::Open(found) => {
                let identities = core.identities.as_ref();
                caller = found.and_then(|found| identities?.signed(&found));
            }
        }
    }
    let call = Call {
        core,
        slice,
        index,
        route,
        label,
        cohort,
        filters,
        caller,
        wish: marks.wish,
        mirrored: marks.mirrored,
        trail,
    };
    if is_read(&out.parts.method) {
        call.read(out, client).await
    } else {
        call.write(out, client).await
    }
}

/// Past the filters of a request: how many, who, and with which fields.
async fn enter(
    core: &Rc<Core>,
    filters: &Filters,
    (parts, peer): (&mut request::Parts, &Peer),
    trail: Option<&Rc<Trail>>,
) -> Result<Entry, Refusal> {
    filters.limit(&parts.headers, &peer.address)?;
    let entry = match &filters.auth {
        None => Entry::Open(None),
        // Boxed, so that requests that nobody is asked about are no larger for it.
        Some(rule) => Box::pin(admit(core, rule, parts, trail)).await?,
    };
    filters.request(&mut parts.headers);
    Ok(entry)
}

/// The answer to a preflight: that of the route which the page wants to ask, where it has one.
fn preflight(core: &Core, parts: &request::Parts) -> Option<Result<Response<Body>, Refusal>> {
    let method = cors::asked(&parts.method, &parts.headers)?;
    let found = route(core, &method, parts);
    let cors = filters(core, found)?.cors.as_ref()?;
    let Some(fields) = cors.preflight(&parts.headers) else {
        return Some(Err(Refusal::Origin));
    };
    let mut answer = Response::new(Body::Empty);
    *answer.status_mut() = StatusCode::NO_CONTENT;
    *answer.headers_mut() = fields;
    Some(Ok(answer))
}

/// What the config has chosen for a route, or for what has none.
fn filters<'a>(core: &'a Core, found: Option<&'a Found>) -> Option<&'a Filters> {
    match found {
        Some(found) => found.filters.as_deref(),
        None => core.shared.settings.filters.as_deref(),
    }
}

pub(crate) fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// The route of a head that was prepared already.
fn route<'a>(core: &'a Core, method: &Method, parts: &request::Parts) -> Option<&'a Found> {
    let host = parts
        .headers
        .get(http::header::HOST)
        .and_then(|host| host.to_str().ok());
    core.shared.table.find(method, host, parts.uri.path())
}

/// The side that a tester asks for; without the secret the field means nothing.
fn wish(core: &Core, fields: &HeaderMap) -> Option<Side> {
    let secret = core.shared.settings.override_secret.as_ref()?;
    let given = fields.get(&headers::SECRET)?;
    if !secret.is(given.as_bytes()) {
        return None;
    }
    match fields.get(&headers::SIDE)?.as_bytes() {
        b"legacy" => Some(Side::Legacy),
        b"extracted" => Some(Side::Extracted),
        _ => None,
    }
}

/// No slice: the legacy side, faithfully.
async fn pass_through(
    core: Rc<Core>,
    peer: &Peer,
    mut out: Outgoing,
    (client, trail): (Option<ClientHalf>, Option<Rc<Trail>>),
) -> Result<Response<Body>, Refusal> {
    let filters = core.shared.settings.filters.as_deref();
    if let Some(filters) = filters {
        let entered = enter(&core, filters, (&mut out.parts, peer), trail.as_ref());
        if let Entry::Answered(answer) = entered.await? {
            return Ok(answer);
        }
    }
    let asking = Client::Address(&peer.address);
    if let Some(trail) = &trail {
        trail.asks(Side::Legacy);
    }
    let begun = Instant::now();
    let sent = core.legacy().send(&mut out, asking, begun).await;
    let (error, latency) = outcome(&sent, begun);
    let routes = &core.shared.routes;
    routes.count(core.index, routes.other(), Side::Legacy, (error, latency));
    let (response, lent) = sent?;
    if let Some(trail) = &trail {
        trail.answered(&lent, begun);
    }
    Ok(hand_down(response, lent, client, None, filters))
}

/// Whether a side failed, and after which time.
fn outcome(sent: &Result<(Response<()>, Lent), UpstreamError>, begun: Instant) -> (bool, Duration) {
    let (error, ended) = match sent {
        Ok((response, lent)) => (response.status().is_server_error(), lent.answered),
        Err(_) => (true, Instant::now()),
    };
    (error, ended.saturating_duration_since(begun))
}

/// Gives an upstream's answer to the client.
fn hand_down(
    mut response: Response<()>,
    lent: Lent,
    client: Option<ClientHalf>,
    copy: Option<Copy>,
    filters: Option<&Filters>,
) -> Response<Body> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(client) = client
    {
        let protocol = headers::upgrade(response.headers());
        tunnel::join(client, lent);
        headers::strip_hop_by_hop(response.headers_mut());
        if let Some(protocol) = protocol {
            let fields = response.headers_mut();
            fields.insert(
                http::header::CONNECTION,
                HeaderValue::from_static("upgrade"),
            );
            fields.insert(UPGRADE, protocol);
        }
        return response.map(|()| Body::Empty);
    }
    headers::strip_hop_by_hop(response.headers_mut());
    if let Some(filters) = filters {
        filters.response(response.headers_mut());
    }
    response.map(|()| Body::answer(lent, copy))
}

impl Call {
    /// Which side answers this read, and whether the other may step in.
    pub(crate) fn side_of_read(&self, live: &Live) -> Side {
        if let Some(side) = self.wish {
            return side;
        }
        let side = side_for(bucket(self.cohort.hash), live.weight);
        if side != live.writer && self.slice.recent.ahead(self.cohort.hash) {
            return live.writer;
        }
        side
    }

    /// Testers are served in any case: they see whether others can be.
    fn open(&self, live: &Live) -> Result<(), Refusal> {
        match live.maintenance && self.wish.is_none() {
            true => Err(Refusal::Maintenance),
            false => Ok(()),
        }
    }

    async fn read(
        self,
        mut out: Outgoing,
        client: Option<ClientHalf>,
    ) -> Result<Response<Body>, Refusal> {
        let live = self.slice.live();
        self.open(&live)?;
        let mut side = self.side_of_read(&live);
        let ticket = self.ticket(&live, &out);
        let asked = ticket.is_some().then(|| out.parts.clone());
        // Only a request without a body can be asked twice.
        let may_fall_back = side == Side::Extracted
            && self.slice.settings.fallback
            && self.wish.is_none()
            && out.body.is_none()
            && client.is_none();
        let mut answered = self.ask(side, &mut out).await;
        if may_fall_back && failed(&answered) {
            side = Side::Legacy;
            answered = self.ask(side, &mut out).await;
        }
        let answered = answered?;
        let copy = match (ticket, asked) {
            (Some((tap, ticket)), Some(parts)) => Some(self.copy(tap, ticket, parts, &answered)),
            _ => None,
        };
        let filters = self.filters.as_deref();
        let mut response = hand_down(answered.response, answered.lent, client, copy, filters);
        self.stick(&live, &mut response);
        Ok(response)
    }

    /// Writes go to the writer, whoever holds them up.
    async fn write(
        self,
        mut out: Outgoing,
        client: Option<ClientHalf>,
    ) -> Result<Response<Body>, Refusal> {
        let limits = &self.core.shared.settings.limits;
        let passage = self
            .slice
            .gate
            .pass(limits.hold_timeout, limits.held_max)
            .await
            .map_err(|refused| match refused {
                Refused::TooLong => Refusal::Held,
                Refused::TooMany => Refusal::Crowded,
            })?;
        // Only now: while it waited the writer may have changed.
        let live = self.slice.live();
        self.open(&live)?;
        let (done, answer) = oneshot::channel();
        // A task of its own, because a client that leaves must not end the count of a write that
        // its upstream is still carrying out. It belongs to the core and ends by its timeouts.
        tokio::task::spawn_local(async move {
            let answered = self.ask_writer(live.writer, &mut out).await;
            if answered.is_ok() {
                self.slice.recent.wrote(self.cohort.hash, SystemTime::now());
            }
            drop(passage);
            let response = answered.map(|answered| {
                let filters = self.filters.as_deref();
                let mut response =
                    hand_down(answered.response, answered.lent, client, None, filters);
                self.stick(&live, &mut response);
                response
            });
            // Refused when the client has left.
            let _ = done.send(response);
        });
        let lost = || Refusal::Identity("the write's task ended early".to_owned());
        answer.await.map_err(|_| lost())?
    }

    /// Tries again while nothing could be sent: a service that restarts is back within seconds.
    async fn ask_writer(&self, writer: Side, out: &mut Outgoing) -> Result<Answered, Refusal> {
        let until = Instant::now() + self.core.shared.settings.limits.connect_retry;
        loop {
            match self.ask(writer, out).await {
                Err(Refusal::Upstream(error))
                    if error.is_unreachable() && Instant::now() < until =>
                {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                ended => return ended,
            }
        }
    }

    /// Asks one side, and counts how it did.
    async fn ask(&self, side: Side, out: &mut Outgoing) -> Result<Answered, Refusal> {
        let cluster = match side {
            Side::Legacy => self.core.legacy(),
            Side::Extracted => self.core.extracted(self.index),
        };
        out.parts.headers.remove(headers::IDENTITY);
        if side == Side::Extracted
            && let Some(identities) = &self.core.identities
        {
            let legacy = self.core.legacy();
            let caller = match &self.caller {
                Some(caller) => Some(caller.clone()),
                None => identities.of(legacy, &out.parts.headers).await?,
            };
            if let Some(caller) = caller {
                out.parts.headers.insert(headers::IDENTITY, caller);
            }
        }
        if let Some(trail) = &self.trail {
            trail.asks(side);
        }
        let begun = Instant::now();
        let asking = Client::Cohort(self.cohort.hash);
        let sent = cluster.send(out, asking, begun).await;
        let (error, latency) = outcome(&sent, begun);
        let routes = &self.core.shared.routes;
        routes.count(self.core.index, self.route, side, (error, latency));
        self.slice
            .counts
            .count(self.core.index, side, error, latency);
        if error {
            let event = ErrorEvent {
                slice: self.index,
                side,
                key: self.cohort.hash,
            };
            // Full means a storm; the guard has enough to judge by, and reads the counts too.
            let _ = self.core.shared.errors.try_send(event);
        }
        let (response, lent) = sent?;
        if let Some(trail) = &self.trail {
            trail.answered(&lent, begun);
        }
        Ok(Answered {
            response,
            lent,
            side,
            latency,
        })
    }

    fn ticket(
        &self,
        live: &Live,
        out: &Outgoing,
    ) -> Option<(Arc<dyn Tap>, outgrow_shadow::Ticket)> {
        if !live.mirror || self.mirrored {
            return None;
        }
        let tap = self.core.shared.tap.as_ref()?;
        let (slice, client) = (&self.slice.settings.id, self.cohort.hash);
        let ticket = tap.admit(slice, &self.label, &out.parts.method, client)?;
        Some((tap.clone(), ticket))
    }

    fn copy(
        &self,
        tap: Arc<dyn Tap>,
        ticket: outgrow_shadow::Ticket,
        mut asked: request::Parts,
        answered: &Answered,
    ) -> Copy {
        let known = |identities: &crate::identity::Identities| identities.known(&asked.headers);
        let identity = self.caller.clone();
        let identity = identity.or_else(|| self.core.identities.as_ref().and_then(known));
        asked.headers.remove(headers::IDENTITY);
        let target = asked.uri.path_and_query().cloned();
        let exchange = Exchange {
            ticket,
            slice: self.slice.settings.id.clone(),
            route: self.label.clone(),
            primary: answered.side,
            request: CapturedRequest {
                method: asked.method,
                target: target.unwrap_or_else(|| http::uri::PathAndQuery::from_static("/")),
                headers: asked.headers,
                body: Bytes::new(),
            },
            response: CapturedResponse {
                status: answered.response.status(),
                headers: answered.response.headers().clone(),
                body: Bytes::new(),
                whole: false,
            },
            finished: SystemTime::now(),
            latency: answered.latency,
            identity,
        };
        Copy {
            tap,
            exchange: Some(Box::new(exchange)),
            kept: BytesMut::new(),
            whole: true,
        }
    }

    /// Gives a client without a key its cookie, where a split makes it matter.
    fn stick(&self, live: &Live, response: &mut Response<Body>) {
        if let Some(cookie) = self
            .cohort
            .issue
            .clone()
            .filter(|_| live.weight > Weight::ZERO)
        {
            response.headers_mut().append(SET_COOKIE, cookie);
        }
    }
}

fn failed(answered: &Result<Answered, Refusal>) -> bool {
    match answered {
        Ok(answered) => answered.response.status().is_server_error(),
        Err(Refusal::Upstream(_) | Refusal::Identity(_)) => true,
        Err(_) => false,
    }
}
