//! What spans say, by the semantic conventions of OpenTelemetry for HTTP.
//! <https://opentelemetry.io/docs/specs/semconv/http/http-spans/>

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use http::uri::Authority;
use http::{HeaderValue, Method, Uri, Version};

use super::proto::{bytes, fixed32, fixed64, number, prefix, text, truth, whole};
use super::{End, Try};
use crate::slice::Slice;
use crate::trace::Span;
use crate::trail::{Ending, Trail};

/// `ScopeSpans.spans`: before each span of a block.
pub(super) const SPANS: u32 = 2;

// Fields of `Span`.
const TRACE_ID: u32 = 1;
const SPAN_ID: u32 = 2;
const TRACE_STATE: u32 = 3;
const PARENT_SPAN_ID: u32 = 4;
const NAME: u32 = 5;
const KIND: u32 = 6;
const START: u32 = 7;
const END: u32 = 8;
const ATTRIBUTES: u32 = 9;
const STATUS: u32 = 15;
const FLAGS: u32 = 16;

const SERVER: u64 = 2;
const CLIENT: u64 = 3;
const STATUS_CODE: u32 = 3;
const STATUS_ERROR: u64 = 2;

/// Sampled, and it is known where the parent is: here.
const LOCAL: u32 = 0x101;
/// The same, and elsewhere.
const REMOTE: u32 = 0x301;

/// Methods that name a span; others would make as many names as somebody likes.
const METHODS: [&str; 10] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY",
];

/// Before everything: what has made the spans.
pub(super) fn around(resource: &[(String, String)]) -> Head {
    let mut attributes = Vec::new();
    let given = |name| resource.iter().any(|(key, _)| key == name);
    if !given("service.name") {
        text(&mut attributes, 1, "service.name", "outgrow");
    }
    if !given("service.version") {
        text(
            &mut attributes,
            1,
            "service.version",
            env!("CARGO_PKG_VERSION"),
        );
    }
    for (name, value) in resource {
        text(&mut attributes, 1, name, value);
    }
    let mut resource = Vec::new();
    bytes(&mut resource, 1, &attributes);
    let mut about = Vec::new();
    bytes(&mut about, 1, b"outgrow-proxy");
    bytes(&mut about, 2, env!("CARGO_PKG_VERSION").as_bytes());
    let mut scope = Vec::new();
    bytes(&mut scope, 1, &about);
    Head { resource, scope }
}

/// What an export has beside its spans.
#[derive(Debug)]
pub(super) struct Head {
    resource: Vec<u8>,
    scope: Vec<u8>,
}

impl Head {
    /// An `ExportTraceServiceRequest` with these spans.
    pub(super) fn export(&self, blocks: &[Vec<u8>]) -> Vec<u8> {
        let spans = blocks.iter().map(Vec::len).sum::<usize>();
        let scope = self.scope.len() + spans;
        let mut of_scope = Vec::new();
        prefix(&mut of_scope, 2, scope);
        let mut whole = Vec::with_capacity(scope + self.resource.len() + 64);
        prefix(&mut whole, 1, self.resource.len() + of_scope.len() + scope);
        whole.extend_from_slice(&self.resource);
        whole.extend_from_slice(&of_scope);
        whole.extend_from_slice(&self.scope);
        for block in blocks {
            whole.extend_from_slice(block);
        }
        whole
    }
}

/// The span of a request, from its head to the end of its answer's body.
pub(super) fn server(to: &mut Vec<u8>, ending: &Ending, slices: &[Arc<Slice>], query: bool) {
    let trail = &*ending.trail;
    let Some(span) = &trail.span else { return };
    let known = trail.known.borrow();
    let ids = (
        span.id,
        span.parent,
        if span.parent.is_some() { REMOTE } else { LOCAL },
    );
    head(to, span, ids, SERVER);
    times(to, trail.begun);
    let route = known.route.as_deref().map(template);
    name(to, &trail.method, route);
    request(to, trail);
    target(to, &trail.target, query);
    attribute(to, "url.scheme", trail.peer.scheme.name());
    if let Some(route) = route {
        attribute(to, "http.route", route);
    }
    if let Some(host) = trail
        .target
        .authority()
        .map(Authority::as_str)
        .or(shown(&trail.host))
    {
        server_of(to, host);
    }
    if let Some(agent) = shown(&trail.agent) {
        attribute(to, "user_agent.original", agent);
    }
    if let Ok(client) = trail.peer.client.to_str() {
        attribute(to, "client.address", client);
    }
    if let Some(version) = version(trail.version) {
        attribute(to, "network.protocol.version", version);
    }
    if let Some(slice) = known.slice.and_then(|index| slices.get(index)) {
        attribute(to, "outgrow.slice", slice.settings.id.as_str());
    }
    if let Some(side) = known.side {
        attribute(to, "outgrow.side", side.as_str());
    }
    if let Some(upstream) = &known.upstream {
        attribute(to, "outgrow.upstream", upstream.as_str());
    }
    if let Some(bucket) = known.bucket {
        whole(to, ATTRIBUTES, "outgrow.bucket", bucket.into());
    }
    for (name, said) in [
        ("outgrow.cache", known.cache),
        ("outgrow.refusal", known.refusal),
        ("outgrow.request_id", shown(&trail.id)),
    ] {
        if let Some(said) = said {
            attribute(to, name, said);
        }
    }
    outcome(to, ending, known.refusal);
}

/// What became of a request. An error is the server's: what a client has done wrong is none.
fn outcome(to: &mut Vec<u8>, ending: &Ending, refusal: Option<&str>) {
    let Some(status) = ending.status else {
        // Nobody has seen an answer.
        return attribute(to, "error.type", "client_left");
    };
    answered(to, status);
    whole(to, ATTRIBUTES, "http.response.body.size", ending.bytes);
    if !ending.whole {
        truth(to, ATTRIBUTES, "outgrow.cut");
    }
    if status.is_server_error() {
        attribute(to, "error.type", refusal.unwrap_or(status.as_str()));
        error(to);
    }
}

/// The span of one try at an upstream, to the head of its answer.
pub(super) fn client(to: &mut Vec<u8>, tried: &Try, query: bool) {
    let trail = &*tried.trail;
    let Some(span) = &trail.span else { return };
    let known = trail.known.borrow();
    head(to, span, (tried.id, Some(span.id), LOCAL), CLIENT);
    times(to, tried.begun);
    name(to, &trail.method, known.route.as_deref().map(template));
    request(to, trail);
    let scheme = if tried.service.dialer.is_safe() {
        "https"
    } else {
        "http"
    };
    let path = match query {
        true => tried
            .target
            .path_and_query()
            .map_or("/", |whole| whole.as_str()),
        false => tried.target.path(),
    };
    attribute(
        to,
        "url.full",
        &format!("{scheme}://{}{path}", tried.to.host()),
    );
    server_of(to, tried.to.as_str());
    attribute(to, "outgrow.service", &tried.service.settings.name);
    if let Some(side) = known.side {
        attribute(to, "outgrow.side", side.as_str());
    }
    if tried.before > 0 {
        whole(
            to,
            ATTRIBUTES,
            "http.request.resend_count",
            tried.before.into(),
        );
    }
    match tried.end {
        End::Answered(status, failed) => {
            answered(to, status);
            if status.is_client_error() || status.is_server_error() {
                attribute(to, "error.type", status.as_str());
                error(to);
            } else if failed {
                attribute(to, "error.type", "grpc");
                error(to);
            }
        }
        End::Failed(code) => {
            attribute(to, "error.type", code);
            error(to);
        }
        End::Dropped => attribute(to, "error.type", "client_left"),
    }
}

fn head(to: &mut Vec<u8>, of: &Span, (id, parent, flags): (u64, Option<u64>, u32), kind: u64) {
    bytes(to, TRACE_ID, &of.trace.to_be_bytes());
    bytes(to, SPAN_ID, &id.to_be_bytes());
    if let Some(state) = shown(&of.state) {
        bytes(to, TRACE_STATE, state.as_bytes());
    }
    if let Some(parent) = parent {
        bytes(to, PARENT_SPAN_ID, &parent.to_be_bytes());
    }
    number(to, KIND, kind);
    fixed32(to, FLAGS, flags);
}

/// From then until now.
fn times(to: &mut Vec<u8>, begun: Instant) {
    let now = SystemTime::now();
    let since = |at: SystemTime| {
        let nanos = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        u64::try_from(nanos).unwrap_or(u64::MAX)
    };
    let start = now.checked_sub(begun.elapsed()).unwrap_or(now);
    fixed64(to, START, since(start));
    fixed64(to, END, since(now));
}

/// A route's path of its label, `METHOD [HOST]/PATH`.
fn template(label: &str) -> &str {
    label.find('/').map_or(label, |at| &label[at..])
}

fn name(to: &mut Vec<u8>, method: &Method, route: Option<&str>) {
    let method = match METHODS.contains(&method.as_str()) {
        true => method.as_str(),
        false => "HTTP",
    };
    match route {
        None => bytes(to, NAME, method.as_bytes()),
        Some(route) => {
            prefix(to, NAME, method.len() + 1 + route.len());
            to.extend_from_slice(method.as_bytes());
            to.push(b' ');
            to.extend_from_slice(route.as_bytes());
        }
    }
}

fn attribute(to: &mut Vec<u8>, name: &str, value: &str) {
    text(to, ATTRIBUTES, name, value);
}

fn request(to: &mut Vec<u8>, trail: &Trail) {
    let method = trail.method.as_str();
    if METHODS.contains(&method) {
        return attribute(to, "http.request.method", method);
    }
    attribute(to, "http.request.method", "_OTHER");
    attribute(to, "http.request.method_original", method);
}

fn target(to: &mut Vec<u8>, target: &Uri, query: bool) {
    attribute(to, "url.path", target.path());
    if let Some(query) = target.query().filter(|_| query) {
        attribute(to, "url.query", query);
    }
}

/// `HOST[:PORT]`, or `unix:/PATH`.
fn server_of(to: &mut Vec<u8>, at: &str) {
    let split = at
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port): (&str, Option<u16>) = match split {
        Some((host, port)) => (host, Some(port)),
        None => (at, None),
    };
    let socket = host.strip_prefix("unix:").unwrap_or(host);
    attribute(to, "server.address", socket.trim_matches(['[', ']']));
    if let Some(port) = port {
        whole(to, ATTRIBUTES, "server.port", port.into());
    }
}

fn answered(to: &mut Vec<u8>, status: http::StatusCode) {
    let code = status.as_u16().into();
    whole(to, ATTRIBUTES, "http.response.status_code", code);
}

fn error(to: &mut Vec<u8>) {
    prefix(to, STATUS, 2);
    number(to, STATUS_CODE, STATUS_ERROR);
}

fn shown(value: &Option<HeaderValue>) -> Option<&str> {
    value.as_ref()?.to_str().ok()
}

fn version(version: Version) -> Option<&'static str> {
    match version {
        Version::HTTP_10 => Some("1.0"),
        Version::HTTP_11 => Some("1.1"),
        Version::HTTP_2 => Some("2"),
        _ => None,
    }
}
