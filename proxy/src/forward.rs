//! The life of a request, from its route to its answer. Read top to bottom.

mod cached;
mod call;
mod copied;
mod verdict;

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONTENT_LENGTH, HOST, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, request};
use http_body::Body as _;
use outgrow_rollout::{Side, bucket};

use crate::auth::{Entry, admit};
use crate::body::{Body, Copy};
use crate::cohort;
use crate::core::{Core, Peer};
use crate::deadline::Idle;
use crate::error::{Declined, Refusal, UpstreamError};
use crate::filters::compress::Wanted;
use crate::filters::cors::{self, Grant};
use crate::filters::{BodyLinks, Filters};
use crate::grpc;
use crate::guard::ErrorEvent;
use crate::headers;
use crate::inbound::{ClientBody, ClientHalf};
use crate::kinds::{Asked, Kind, Kinds};
use crate::limits::{Allowance, Allowed};
use crate::overrides;
use crate::pool::{Client, Lent, Outgoing};
use crate::reply::Reply;
use crate::routes::{self, Ambiguous, Found};
use crate::trace::Timing;
use crate::trail::Trail;
use crate::trust::Word;
use crate::tunnel;
pub(crate) use call::Call;
pub(crate) use copied::Lookup;
pub(crate) use verdict::Verdict;

/// Between two tries of a write whose connection was refused.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Carries one request.
pub(crate) async fn carry(
    core: Rc<Core>,
    peer: &Peer,
    (asked, body): (Asked, ClientBody),
    trail: Option<Rc<Trail>>,
) -> Result<Reply<Body>, Declined> {
    let (parts, kinds) = (&asked.parts, asked.kinds);
    // In HTTP/1.0 it means nothing (RFC 9110 section 7.8).
    let protocol = match kinds.has(Kind::UPGRADE) && parts.version == Version::HTTP_11 {
        true => headers::upgrade(&parts.headers),
        false => None,
    };
    let client = protocol.as_ref().and_then(|_| body.half());
    let hints = body.hints(parts.version);
    let marks = Marks::of(&core, peer, (&parts.headers, kinds));
    let until = grpc::timeout(parts).and_then(|within| Instant::now().checked_add(within));
    let is_call = grpc::is_call((&parts.method, parts.version), &parts.headers);
    let mut parts = headers::prepare(asked, peer, marks.known, core.shared.settings.trace)?;
    admit_all(&core, &parts.headers, peer)?;
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
    let told = trail.as_ref().filter(|trail| trail.span.is_some()).cloned();
    let mut out = Outgoing {
        parts,
        body,
        until,
        told,
        hints,
        allowed: Allowed::ALL,
    };
    let found = route(&core, &out.parts.method, &out.parts)?;
    if kinds.has(Kind::OVERRIDE) {
        overridden(&core, found, &mut out.parts)?;
    }
    let chosen = filters(&core, found);
    let fits = allow(&core, chosen, &mut out, is_call);
    let found = found.map(|found| found.route);
    let dress = Dress::of(chosen, &mut out.parts);
    let answered = match found {
        _ if !fits => Err(Refusal::BodyTooLong),
        None => pass_through(core, peer, out, (client, trail)).await,
        Some(found) => match begin(core, peer, (found, &mut out), marks, trail).await {
            Ok(Begun::Call(call)) if is_read(&out.parts.method) => {
                call.read(&mut out, client).await
            }
            Ok(Begun::Call(call)) => call.write(out, client).await,
            Ok(Begun::Answered(answer)) => Ok(answer),
            Err(refusal) => Err(refusal),
        },
    };
    dress.apply(answered)
}

/// What an answer is given on its way down, whoever says it.
struct Dress {
    grant: Option<Grant>,
    links: Option<Arc<BodyLinks>>,
    compressed: Option<Wanted>,
}

impl Dress {
    /// By what the client has sent, before anybody changes that.
    fn of(chosen: Option<&Filters>, parts: &mut request::Parts) -> Self {
        let grant = chosen.and_then(|filters| filters.cors.as_ref());
        let grant = grant.map(|cors| cors.grant(&parts.headers));
        let compressed = chosen.and_then(|filters| filters.compress.as_ref());
        let compressed = compressed.map(|rule| Wanted::new(rule, &parts.method, &parts.headers));
        let links = chosen.and_then(|filters| filters.body_links.clone());
        if links.is_some() {
            BodyLinks::request(&mut parts.headers);
        }
        Self {
            grant,
            links,
            compressed,
        }
    }

    fn apply(self, mut answered: Result<Reply<Body>, Refusal>) -> Result<Reply<Body>, Declined> {
        if let Ok(answer) = &mut answered {
            if let Some(links) = self.links {
                links.apply(answer);
            }
            if let Some(compressed) = self.compressed {
                compressed.apply(answer);
            }
        }
        match (answered, self.grant) {
            (answered, None) => answered.map_err(Declined::from),
            (Ok(mut response), Some(grant)) => {
                grant.dress(response.headers_mut());
                Ok(response)
            }
            (Err(refusal), Some(grant)) => Err(Declined {
                refusal,
                grant: Some(Box::new(grant)),
            }),
        }
    }
}

/// Past the limit of all requests together.
fn admit_all(core: &Core, fields: &HeaderMap, peer: &Peer) -> Result<(), Refusal> {
    match &core.shared.settings.limit {
        None => Ok(()),
        Some(limit) => {
            let checked = limit.check(fields, peer.client.as_bytes());
            checked.map_err(Refusal::Limited)
        }
    }
}

/// What a request may take, by its route. Whether its body fits, as far as its head says.
fn allow(core: &Core, chosen: Option<&Filters>, out: &mut Outgoing, is_call: bool) -> bool {
    let usual = &core.shared.settings.limits.allowance;
    let own = chosen.map(|filters| &filters.allowance);
    let total = usual.total.or(own.and_then(|own| own.total));
    if out.body.is_none() && total.is_none() {
        return true;
    }
    out.allowed = Allowance::resolve(usual, own, is_call);
    if out.body.is_none() || out.allowed.body_max == u64::MAX {
        return true;
    }
    let length = out.parts.headers.get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    length.is_none_or(|length| length <= out.allowed.body_max)
}

/// What a request has said that its upstream is not told.
struct Marks {
    wish: Option<Side>,
    /// Who asks is of a network that is believed, or has the secret: it may be another proxy's shadow.
    known: bool,
    mirrored: bool,
    cookies: bool,
}

impl Marks {
    fn of(core: &Core, peer: &Peer, (fields, kinds): (&HeaderMap, Kinds)) -> Self {
        let known = peer.word == Word::Believed || is_tester(core, fields);
        Self {
            wish: wish(core, fields),
            known,
            mirrored: known && kinds.has(Kind::OURS) && fields.contains_key(&headers::SHADOW),
            cookies: kinds.has(Kind::COOKIE),
        }
    }
}

/// A request of a slice behind its filters.
enum Begun {
    Call(Box<Call>),
    /// A filter has answered.
    Answered(Reply<Body>),
}

/// A request of a slice, through its filters.
async fn begin(
    core: Rc<Core>,
    peer: &Peer,
    (route, out): (usize, &mut Outgoing),
    marks: Marks,
    trail: Option<Rc<Trail>>,
) -> Result<Begun, Refusal> {
    let found = core.shared.table.route(route);
    let index = found.slice;
    let (settings, fields) = (&core.shared.slices[index].settings, &out.parts.headers);
    let client = || Some(core.client_id(peer, fields));
    let keys = (&core.shared.cookies, marks.cookies);
    let cohort = cohort::of(settings, keys, fields, client);
    if let Some(trail) = &trail {
        trail.found(index, &found.label, bucket(cohort.hash));
    }
    let (mut caller, mut targets) = (None, None);
    if let Some(filters) = &found.filters {
        match enter(&core, filters, (&mut *out.parts, peer), trail.as_ref()).await? {
            Entry::Answered(answer) => return Ok(Begun::Answered(answer)),
            Entry::Open(found) => {
                let identities = core.identities.as_ref();
                caller = found.and_then(|found| identities?.signed(&found));
            }
        }
        targets = filters.targets(&out.parts.uri)?;
    }
    let origin = core.legacy_client(&out.parts.headers, peer);
    let call = Box::new(Call {
        core,
        index,
        route,
        cohort,
        origin,
        targets,
        caller,
        wish: marks.wish,
        mirrored: marks.mirrored,
        trail,
    });
    Ok(Begun::Call(call))
}

/// Past the filters of a request: how many, who, and with which fields.
async fn enter(
    core: &Rc<Core>,
    filters: &Filters,
    (parts, peer): (&mut request::Parts, &Peer),
    trail: Option<&Rc<Trail>>,
) -> Result<Entry, Refusal> {
    if let Some(trail) = trail {
        trail.is_slow_after(filters.slow);
    }
    filters.limit(&parts.headers, &peer.client)?;
    let entry = match &filters.auth {
        None => Entry::Open(None),
        // Boxed, so that requests that nobody is asked about are no larger for it.
        Some(rule) => Box::pin(admit(core, rule, (parts, peer), trail)).await?,
    };
    filters.request(&mut parts.headers);
    Ok(entry)
}

/// The answer to a preflight: that of the route which the page wants to ask, where it has one.
fn preflight(core: &Core, parts: &request::Parts) -> Option<Result<Reply<Body>, Refusal>> {
    let method = cors::asked(&parts.method, &parts.headers)?;
    let found = match route(core, &method, parts) {
        Ok(found) => found,
        Err(refusal) => return Some(Err(refusal)),
    };
    let cors = filters(core, found)?.cors.as_ref()?;
    let Some(fields) = cors.preflight(&parts.headers) else {
        return Some(Err(Refusal::Origin));
    };
    Some(Ok(Reply::with_fields(
        StatusCode::NO_CONTENT,
        fields,
        Body::Empty,
    )))
}

fn filters<'a>(core: &'a Core, found: Option<&'a Found>) -> Option<&'a Filters> {
    routes::filters(found, core.shared.settings.filters.as_deref())
}

pub(crate) fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// The route of a head that was prepared already.
fn route<'a>(
    core: &'a Core,
    method: &Method,
    parts: &request::Parts,
) -> Result<Option<&'a Found>, Refusal> {
    let table = &core.shared.table;
    let host = table.asks_hosts().then(|| parts.headers.get(HOST));
    let host = host.flatten().and_then(|host| host.to_str().ok());
    let elsewhere = core.shared.settings.filters.as_deref();
    let found = table.find((method, host), parts.uri.path(), elsewhere);
    found.map_err(|Ambiguous| Refusal::Malformed("its path can be read as one of another route"))
}

/// A request that some servers would take for another one.
#[cold]
fn overridden(
    core: &Core,
    found: Option<&Found>,
    parts: &mut request::Parts,
) -> Result<(), Refusal> {
    let table = &core.shared.table;
    let elsewhere = core.shared.settings.filters.as_deref();
    let host = parts.headers.get(HOST).cloned();
    let host = host.as_ref().and_then(|host| host.to_str().ok());
    let find = |method: &Method, path: &str| {
        let found = table.find((method, host), path, elsewhere);
        found.map(|found| found.map(|found| found.route))
    };
    let guards = |other| table.guards(found, other, elsewhere);
    overrides::apply(core, found, parts, find, guards)
}

/// Whether the override secret came with the request.
fn is_tester(core: &Core, fields: &HeaderMap) -> bool {
    // First whether there is one: then most proxies look at no field.
    let Some(secret) = &core.shared.settings.override_secret else {
        return false;
    };
    let given = fields.get(&headers::SECRET);
    given.is_some_and(|given| secret.is(given.as_bytes()))
}

/// Whether who asks is told where the time went.
pub(crate) fn is_timed(core: &Core, fields: &HeaderMap) -> bool {
    match core.shared.settings.trace.server_timing {
        None => false,
        Some(Timing::Everybody) => true,
        Some(Timing::Testers) => is_tester(core, fields),
    }
}

/// The side that a tester asks for; without the secret the field means nothing.
fn wish(core: &Core, fields: &HeaderMap) -> Option<Side> {
    if !is_tester(core, fields) {
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
) -> Result<Reply<Body>, Refusal> {
    let filters = core.shared.settings.filters.as_deref();
    let mut targets = None;
    if let Some(filters) = filters {
        let entered = enter(&core, filters, (&mut *out.parts, peer), trail.as_ref());
        if let Entry::Answered(answer) = entered.await? {
            return Ok(answer);
        }
        targets = filters.targets(&out.parts.uri)?;
    }
    // By the URL that the client has asked, as answers are kept.
    let touched = cached::Touched::by(&core, &out);
    if let Some(targets) = targets {
        out.parts.uri = targets.of(Side::Legacy).clone();
    }
    let asking = Client::Address(&peer.client);
    let origin = core.legacy_client(&out.parts.headers, peer);
    let begun = Instant::now();
    let (mut sent, build) = ask_legacy(&core, &mut out, (asking, origin), trail.as_deref()).await;
    if let Some(touched) = touched {
        touched.after(sent.as_mut().ok().map(|(response, _)| response));
    }
    let routes = &core.shared.routes;
    let event = build.map(|build| ErrorEvent {
        slice: None,
        side: Side::Legacy,
        build: Some(build),
        key: origin,
    });
    if let Some((error, latency)) = outcome(&sent, begun) {
        let status = sent.as_ref().ok().map(|(response, _)| response.status());
        let answered = (Side::Legacy, status);
        routes.count(core.index, routes.other(), answered, (error, latency));
        if build.is_some() {
            core.count_legacy((build, origin), status, (error, latency));
        }
        if let Some(event) = event.filter(|_| error) {
            verdict::tell(&core, event);
        }
    }
    let (response, lent) = sent?;
    if let Some(trail) = &trail {
        trail.answered(&lent, begun);
    }
    let verdict = || Verdict {
        core: core.clone(),
        slice: None,
        event,
        route: routes.other(),
        side: Side::Legacy,
    };
    let response = hand_down((response, lent), client, None, filters, verdict);
    Ok(response)
}

/// Asks the legacy side: where a write's connection is refused again, as a slice's writer.
async fn ask_legacy(
    core: &Core,
    out: &mut Outgoing,
    (asking, origin): (Client<'_>, u64),
    trail: Option<&Trail>,
) -> (Result<(Reply<()>, Lent), UpstreamError>, Option<usize>) {
    let begun = Instant::now();
    let (_going, until) = match is_read(&out.parts.method) {
        true => (None, begun),
        false => {
            let until = begun + core.shared.settings.limits.connect_retry;
            (core.shared.writes.begins(), until)
        }
    };
    loop {
        let (cluster, build) = core.legacy_to(origin);
        if let Some(trail) = trail {
            trail.asks(Side::Legacy, cluster.build());
        }
        match cluster.send(out, asking, Instant::now()).await {
            Err(error) if error.may_pass() && Instant::now() < until => {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            sent => return (sent, build),
        }
    }
}

/// Whether a side failed, and after which time; `None` where it was not asked to the end because the
/// client did not do its part.
fn outcome(
    sent: &Result<(Reply<()>, Lent), UpstreamError>,
    begun: Instant,
) -> Option<(bool, Duration)> {
    let error = match sent {
        Ok((response, lent)) => return Some((lent.has_failed(response), lent.took(begun))),
        Err(error) if error.is_clients() => return None,
        // A client that waits for less than others do says nothing of the side.
        Err(UpstreamError::Expired { .. }) => false,
        Err(_) => true,
    };
    Some((error, begun.elapsed()))
}

/// Gives an upstream's answer to the client.
fn hand_down(
    (mut response, lent): (Reply<()>, Lent),
    client: Option<ClientHalf>,
    copy: Option<Copy>,
    filters: Option<&Filters>,
    verdict: impl FnOnce() -> Verdict,
) -> Reply<Body> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(client) = client
    {
        let protocol = headers::upgrade(response.headers());
        let own = filters.and_then(|filters| filters.allowance.tunnel_idle);
        let idle = own.or(lent.allowance().tunnel_idle);
        let core = verdict().core;
        tunnel::join(core, client, lent, idle.filter(|idle| !idle.is_zero()));
        headers::strip_hop_by_hop(response.headers_mut());
        if let Some(protocol) = protocol {
            let fields = response.headers_mut();
            fields.insert(
                http::header::CONNECTION,
                HeaderValue::from_static("upgrade"),
            );
            fields.insert(UPGRADE, protocol);
        }
        return response.with(Body::Empty);
    }
    if response.lines().is_none() {
        headers::strip_hop_by_hop(response.headers_mut());
    }
    let later = lent.is_stream() && grpc::tells_later(response.headers());
    if let Some(filters) = filters {
        filters.response(response.headers_mut());
    }
    let usual = lent.allowance().answer_idle;
    let mut body = Body::answer(lent, copy);
    if let Body::Answer(answer) = &mut body {
        let own = filters.and_then(|filters| filters.allowance.answer_idle);
        let idle = own.or_else(|| usual.filter(|_| !answer.is_open(&response)));
        answer.idle = idle.filter(|idle| !idle.is_zero()).map(Idle::new);
        answer.client_idle = filters.and_then(|filters| filters.allowance.client_idle);
        // Of an answer that is a failure by its head nothing more is to be said.
        if later || !response.status().is_server_error() {
            answer.verdict = Some(verdict());
        }
    }
    response.with(body)
}
