//! What may be passed on, in both directions, and what a proxy adds (RFC 9110 section 7.6).

use std::sync::Arc;

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, Method, Version, request};

use crate::core::{Certificate, Peer};
use crate::error::Refusal;
use crate::kinds::{Asked, Kind};
use crate::overrides::is_override;
use crate::trace::TraceSettings;
use crate::trust::Word;

/// Says who calls; only the proxy may.
pub(crate) const IDENTITY: HeaderName = HeaderName::from_static("x-outgrow-identity");
/// A tester's wish for a side, and the secret that allows it.
pub(crate) const SIDE: HeaderName = HeaderName::from_static("x-outgrow-side");
pub(crate) const SECRET: HeaderName = HeaderName::from_static("x-outgrow-secret");

/// On what the shadow asks.
pub(crate) const SHADOW: HeaderName = HeaderName::from_static(outgrow_shadow::SHADOW_MARK);
const DRY_RUN: HeaderName = HeaderName::from_static(outgrow_shadow::DRY_RUN);

pub(crate) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Who a client is by its certificate, as other proxies say it, too.
pub(crate) const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What proxies say of clients, also to those who know no difference between `-` and `_`.
pub(crate) fn is_forwarded(name: &HeaderName) -> bool {
    let name = name.as_str();
    let begins = |ours: &str| {
        let begin = name.get(..ours.len());
        begin.is_some_and(|begin| is_like(begin, ours))
    };
    name == FORWARDED.as_str() || begins("x-forwarded-") || is_like(name, "x-real-ip")
}

/// Fields for one hop, beside those that `connection` names; what is kept of `te` is made anew.
pub(crate) fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// What a client may not say to an upstream, beside what is hop-by-hop; whom the config knows may say
/// that it asks as a shadow. By length first, for every name of every head is looked at.
pub(crate) fn is_ours(name: &HeaderName, known: bool) -> bool {
    let name = name.as_str();
    let twin = |ours: &HeaderName| name != ours.as_str() && is_like(name, ours.as_str());
    match name.len() {
        6 => name == EXPECT.as_str(),
        14 => is_like(name, SIDE.as_str()) || is_like(name, "http2-settings"),
        15 => twin(&FORWARDED_FOR),
        16 => {
            is_like(name, SECRET.as_str())
                || is_like(name, SHADOW.as_str()) && !(known && name == SHADOW.as_str())
                || twin(&FORWARDED_HOST)
        }
        17 => {
            is_like(name, DRY_RUN.as_str()) && !(known && name == DRY_RUN.as_str())
                || twin(&FORWARDED_PROTO)
        }
        18 => is_like(name, IDENTITY.as_str()),
        _ => false,
    }
}

/// Whether a name is this one to those who know no difference between `-` and `_`, as CGI, WSGI and their
/// like do.
pub(crate) fn is_like(name: &str, ours: &str) -> bool {
    let line = |byte: u8| if byte == b'_' { b'-' } else { byte };
    let same = |(one, other): (u8, u8)| line(one) == line(other);
    name.len() == ours.len() && name.bytes().zip(ours.bytes()).all(same)
}

/// Takes off what others could take for one of these fields, and is not.
pub(crate) fn drop_twins<'a>(
    headers: &mut HeaderMap,
    ours: impl Iterator<Item = &'a HeaderName> + Clone,
) {
    let twin = |name: &&HeaderName| {
        let of = |ours: &HeaderName| *name != ours && is_like(name.as_str(), ours.as_str());
        ours.clone().any(of)
    };
    let found: Vec<HeaderName> = headers.keys().filter(twin).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

/// Fields that a service has said of a request. Nobody says them behind its body.
#[derive(Debug, Clone)]
pub(crate) struct Apart(pub(crate) Arc<[HeaderName]>);

impl Apart {
    pub(crate) fn has(&self, name: &HeaderName) -> bool {
        self.0
            .iter()
            .any(|ours| is_like(name.as_str(), ours.as_str()))
    }
}

/// What says of a client who it is, or of its request what it is, or comes from the proxy alone. Some servers take what follows a body
/// for fields of the head.
pub(crate) fn says_who(name: &HeaderName) -> bool {
    if is_override(name) {
        return true;
    }
    let name = name.as_str();
    let begins = |ours: &str| {
        name.get(..ours.len())
            .is_some_and(|begin| is_like(begin, ours))
    };
    matches!(name, "cookie" | "forwarded") || begins("x-forwarded-") || begins("x-outgrow-")
}

/// Refuses what two servers could read in two ways (RFC 9112 sections 3.2 and 6.3).
pub(crate) fn check(asked: &Asked) -> Result<(), Refusal> {
    let (request, kinds) = (&asked.parts, asked.kinds);
    if request.method == Method::CONNECT {
        return Err(Refusal::Connect);
    }
    // HTTP/2 says `:path` by itself, and may leave it out no more than `:scheme` (RFC 9113 section 8.3.1), of which
    // its reader keeps nothing where there is no `:authority`. Of HTTP/1 both are there or not asked for.
    if request.uri.path().is_empty() {
        return Err(Refusal::Malformed("no :path"));
    }
    if request.uri.scheme_str().is_some_and(str::is_empty) {
        return Err(Refusal::Malformed("an empty :scheme"));
    }
    let target = request.uri.path_and_query().map_or("/", |t| t.as_str());
    if !target.starts_with('/') && target != "*" {
        return Err(Refusal::Malformed("the target is not a path"));
    }
    let headers = &request.headers;
    if kinds.has_many(Kind::HOST) {
        return Err(Refusal::Malformed("more than one Host"));
    }
    if request.version == Version::HTTP_11 && !kinds.has(Kind::HOST) {
        return Err(Refusal::Malformed("no Host"));
    }
    // RFC 9113 section 8.3.1 lets neither be empty; of an authority that is known.
    if request.version == Version::HTTP_2 && request.uri.authority().is_none() {
        let host = headers.get(HOST);
        if host.is_none_or(HeaderValue::is_empty) {
            return Err(Refusal::Malformed("neither :authority nor Host"));
        }
    }
    if kinds.has(Kind::ODD_HOST)
        && let Some(host) = headers.get(HOST)
        && !host.is_empty()
        && !is_host(host.as_bytes())
    {
        return Err(Refusal::Malformed("Host is not a host"));
    }
    // It takes the field's place.
    if let Some(authority) = request.uri.authority()
        && !is_host(authority.as_str().as_bytes())
    {
        return Err(Refusal::Malformed("the target's host is not a host"));
    }
    // Of HTTP/1 it was read strictly with the head.
    if request.version == Version::HTTP_2 && kinds.has(Kind::LENGTH) {
        let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
        let is_number = |length: &HeaderValue| {
            let digits = length.as_bytes();
            !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
        };
        if !lengths.next().is_none_or(is_number) || lengths.next().is_some() {
            return Err(Refusal::Malformed("Content-Length"));
        }
    }
    if kinds.has(Kind::CODING) {
        if kinds.has(Kind::LENGTH) {
            return Err(Refusal::Malformed(
                "both Content-Length and Transfer-Encoding",
            ));
        }
        if request.version == Version::HTTP_10 {
            return Err(Refusal::Malformed("Transfer-Encoding in HTTP/1.0"));
        }
        let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
        let chunked = codings
            .next()
            .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"chunked"));
        if !chunked || codings.next().is_some() {
            return Err(Refusal::Malformed("a transfer coding other than chunked"));
        }
    }
    Ok(())
}

/// Takes spaces off the ends of values, as every reader of HTTP/1 does. HTTP/2 has them as they were said
/// (RFC 9113 section 8.2.1 forbids it, and clients do it): an upstream is to read what was decided on.
pub(crate) fn trim(headers: &mut HeaderMap) {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let is_padded = |value: &HeaderValue| {
        let value = value.as_bytes();
        is_space(value.first()) || is_space(value.last())
    };
    for value in headers.values_mut().filter(|value| is_padded(value)) {
        if let Ok(trimmed) = HeaderValue::from_bytes(value.as_bytes().trim_ascii()) {
            *value = trimmed;
        }
    }
}

/// A host with or without a port; nobody's name before it.
fn is_host(text: &[u8]) -> bool {
    if is_plain_host(text) {
        return true;
    }
    let text = std::str::from_utf8(text).unwrap_or_default();
    let escaped = text.contains('%') && !text.starts_with('[');
    let host = text.parse::<http::uri::Authority>();
    host.is_ok_and(|host| !host.host().is_empty() && !text.contains('@') && !escaped)
}

/// A name or an IPv4 address with or without a port, as nearly every Host is: for these the full
/// reading, which copies, is spared.
pub(crate) fn is_plain_host(host: &[u8]) -> bool {
    let letter = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let end = host.iter().position(|byte| !letter(byte));
    let (name, port) = host.split_at(end.unwrap_or(host.len()));
    let is_port = |port: &[u8]| {
        let add = |sum: u32, byte: &u8| {
            let digit = byte.is_ascii_digit().then(|| u32::from(byte - b'0'))?;
            Some(sum * 10 + digit).filter(|port| *port <= u32::from(u16::MAX))
        };
        matches!(port, [b':', digits @ ..]
            if !digits.is_empty() && digits.iter().try_fold(0, add).is_some())
    };
    !name.is_empty() && (port.is_empty() || is_port(port))
}

/// The protocols that a request or an answer asks to change to.
pub(crate) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let first = headers.get(UPGRADE)?;
    let asks = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| {
            value
                .split(',')
                .any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
        });
    if !asks {
        return None;
    }
    let one = headers.get_all(UPGRADE).iter().nth(1).is_none();
    if one && !protocols(headers).any(is_h2c) {
        return Some(first.clone());
    }
    let kept: Vec<&str> = protocols(headers).filter(|of| !is_h2c(of)).collect();
    let kept = (!kept.is_empty()).then(|| kept.join(", "));
    kept.and_then(|list| HeaderValue::from_str(&list).ok())
}

/// Upgrading to h2c would hide requests from the proxy (RFC 9113 section 3.1 dropped it), and servers take
/// it from anywhere in a list.
fn is_h2c(protocol: &str) -> bool {
    let start = protocol.get(..3);
    start.is_some_and(|start| start.eq_ignore_ascii_case("h2c"))
}

/// What a head's `Upgrade` names.
fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(UPGRADE).iter();
    let tokens = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|l| l.split(','));
    tokens.map(str::trim).filter(|token| !token.is_empty())
}

/// Whether an answer that changes the protocol changes it to one of those that were asked for
/// (RFC 9110 section 7.8).
pub(crate) fn is_as_asked(asked: &HeaderMap, told: &HeaderMap) -> bool {
    let was = |token: &str| protocols(asked).any(|one| one.eq_ignore_ascii_case(token));
    protocols(told).next().is_some() && protocols(told).all(was)
}

/// Takes hop-by-hop fields off, with those that `connection` names. `host` stays: naming it there
/// is a known way to make a proxy lose it.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    strip_but(headers, |_| false);
}

/// As [`strip_hop_by_hop`], but for names that are the proxy's own: nobody else's `connection` takes off
/// what it has added.
fn strip_but(headers: &mut HeaderMap, own: impl Fn(&HeaderName) -> bool) {
    // One look at all of them is cheaper than to ask for each, and most heads have none or one.
    let mut found = headers.keys().filter(|name| is_hop_by_hop(name));
    match (found.next().cloned(), found.next()) {
        (None, _) => return,
        (Some(CONNECTION), None) if only_persistence(headers) => {
            headers.remove(CONNECTION);
            return;
        }
        _ => {}
    }
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|token| token.trim().parse().ok())
        .filter(|name| *name != HOST && *name != TE && !own(name))
        .collect();
    for name in named {
        headers.remove(name);
    }
    let trailers = headers.get(TE).is_some_and(|te| {
        te.to_str().is_ok_and(|te| {
            te.split(',')
                .any(|t| t.trim().eq_ignore_ascii_case("trailers"))
        })
    });
    let found: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_hop_by_hop(name))
        .cloned()
        .collect();
    for name in found {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// `connection` says no more than whether the connection stays.
fn only_persistence(headers: &HeaderMap) -> bool {
    let mut all = headers.get_all(CONNECTION).iter();
    all.all(|value| is_persistence(value.as_bytes()))
}

pub(crate) fn is_persistence(value: &[u8]) -> bool {
    value.eq_ignore_ascii_case(b"keep-alive") || value.eq_ignore_ascii_case(b"close")
}

/// Makes a client's head fit for an upstream: origin form, one Host, forwarded fields.
/// `known`: the config knows who asks, by its network or the secret.
pub(crate) fn prepare(
    asked: Asked,
    peer: &Peer,
    known: bool,
    trace: TraceSettings,
) -> Result<Box<request::Parts>, Refusal> {
    let Asked { mut parts, kinds } = asked;
    if kinds.has(Kind::HOP) {
        strip_but(&mut parts.headers, |name| trace.says(name));
    }
    if kinds.has(Kind::OURS) {
        let ours = |name: &&HeaderName| is_ours(name, known);
        let found: Vec<HeaderName> = parts.headers.keys().filter(ours).cloned().collect();
        for name in found {
            parts.headers.remove(name);
        }
    }
    // The target's authority beats the field (RFC 9112 section 3.2.2, RFC 9113 section 8.3.1).
    if let Some(authority) = parts.uri.authority() {
        let host = HeaderValue::from_str(authority.as_str())
            .map_err(|_| Refusal::Malformed("the target's host"))?;
        parts.headers.insert(HOST, host);
    }
    let target = parts.uri.path_and_query();
    let text = target.map_or("/", |target| target.as_str());
    let asterisk = text == "*" && parts.method == Method::OPTIONS;
    if !text.starts_with('/') && !asterisk {
        return Err(Refusal::Malformed("the target is not a path"));
    }
    if parts.uri.authority().is_some() || target.is_none() {
        parts.uri = text
            .to_owned()
            .parse()
            .map_err(|_| Refusal::Malformed("the target"))?;
    }
    parts.version = Version::HTTP_11;
    if kinds.has_many(Kind::COOKIE) {
        join_cookies(&mut parts.headers);
    }
    told_of_certificate(&mut parts.headers, &peer.certificate);
    forwarded(&mut parts.headers, peer, kinds.has(Kind::FORWARDED));
    // HTTP/1.0 may name none; it goes on as HTTP/1.1, which must (RFC 9112 section 3.2).
    if !parts.headers.contains_key(HOST) {
        parts.headers.insert(HOST, HeaderValue::from_static(""));
    }
    Ok(parts)
}

/// Services are told of a client's certificate by the proxy that has checked it, and nobody else.
fn told_of_certificate(headers: &mut HeaderMap, certificate: &Certificate) {
    if matches!(certificate, Certificate::NotAsked) {
        return;
    }
    drop_twins(headers, [&CLIENT_CERT].into_iter());
    match certificate.shown() {
        Some(shown) => headers.insert(CLIENT_CERT, shown.field.clone()),
        None => headers.remove(CLIENT_CERT),
    };
}

/// HTTP/2 clients may send cookies in crumbs; HTTP/1.1 knows one field (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

/// `brought`: there are some of these already.
fn forwarded(headers: &mut HeaderMap, peer: &Peer, brought: bool) {
    match peer.word {
        _ if !brought => {}
        Word::Usual => {}
        Word::Believed => lengthen_forwarded(headers, peer),
        Word::Stranger => {
            // The certificate that the proxy has asked for it has told of already.
            let told = !matches!(peer.certificate, Certificate::NotAsked);
            let theirs =
                |name: &&HeaderName| is_forwarded(name) && !(told && **name == CLIENT_CERT);
            let found: Vec<HeaderName> = headers.keys().filter(theirs).cloned().collect();
            for name in found {
                headers.remove(name);
            }
        }
    }
    let (mut chain, mut proto, mut host) = (false, false, false);
    for name in headers.keys().filter(|_| brought) {
        chain |= *name == FORWARDED_FOR;
        proto |= *name == FORWARDED_PROTO;
        host |= *name == FORWARDED_HOST;
    }
    let longer = if chain {
        lengthened(headers, &peer.address)
    } else {
        None
    };
    headers.insert(
        FORWARDED_FOR,
        longer.unwrap_or_else(|| peer.address.clone()),
    );
    if !proto {
        headers.insert(
            FORWARDED_PROTO,
            HeaderValue::from_static(peer.scheme.name()),
        );
    }
    if !host && let Some(host) = headers.get(HOST).cloned() {
        headers.insert(FORWARDED_HOST, host);
    }
}

/// Adds the client to a chain that it brought (RFC 7239 section 4). None is begun: `X-Forwarded-*`
/// says the same.
fn lengthen_forwarded(headers: &mut HeaderMap, peer: &Peer) {
    if !headers.contains_key(FORWARDED) {
        return;
    }
    let mut chain: Vec<u8> = Vec::new();
    for value in headers.get_all(FORWARDED) {
        chain.extend_from_slice(value.as_bytes());
        chain.extend_from_slice(b", ");
    }
    chain.extend_from_slice(b"for=");
    chain.extend_from_slice(peer.node.as_bytes());
    chain.extend_from_slice(b";proto=");
    chain.extend_from_slice(peer.scheme.name().as_bytes());
    if let Ok(longer) = HeaderValue::from_bytes(&chain) {
        headers.insert(FORWARDED, longer);
    }
}

/// The chain of addresses that a client brought, and the client.
fn lengthened(headers: &HeaderMap, peer: &HeaderValue) -> Option<HeaderValue> {
    let mut chain: Vec<u8> = Vec::new();
    for value in headers.get_all(FORWARDED_FOR) {
        chain.extend_from_slice(value.as_bytes());
        chain.extend_from_slice(b", ");
    }
    chain.extend_from_slice(peer.as_bytes());
    HeaderValue::from_bytes(&chain).ok()
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::core::Scheme;
    use crate::kinds::Kinds;
    use crate::trust::Trust;

    fn asked(request: Request<()>) -> Asked {
        let parts = Box::new(request.into_parts().0);
        let kinds = Kinds::of(&parts.headers);
        Asked { parts, kinds }
    }

    fn prepared(request: Request<()>) -> http::request::Parts {
        let peer = peer("10.0.0.1", &Trust::default());
        prepare(asked(request), &peer, false, TraceSettings::default())
            .map(|parts| *parts)
            .unwrap()
    }

    fn peer(address: &str, trust: &Trust) -> Peer {
        Peer::new(address.parse().unwrap(), Scheme::Http, trust)
    }

    #[test]
    fn only_who_is_trusted_speaks_for_others() {
        let trust = Trust {
            forwarded: Some(vec!["10.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()]),
            ..Trust::default()
        };
        let from = |address: &str| {
            let request = Request::get("/")
                .header(HOST, "shop.example")
                .header("x-forwarded-for", "9.9.9.9")
                .header("x-forwarded-proto", "https")
                .header("x-forwarded-host", "evil.example")
                .header("x-forwarded-port", "1")
                .header("x_forwarded_prefix", "/evil")
                .header("x-real-ip", "9.9.9.9")
                .header("forwarded", "for=9.9.9.9");
            let request = asked(request.body(()).unwrap());
            let trace = TraceSettings::default();
            let parts = prepare(request, &peer(address, &trust), false, trace).unwrap();
            let rest = ["x-forwarded-port", "x_forwarded_prefix", "x-real-ip"];
            let kept = rest
                .iter()
                .filter(|name| parts.headers.contains_key(**name));
            assert_eq!(kept.count(), if address == "192.0.2.1" { 0 } else { 3 });
            let field = |name: HeaderName| {
                let value = parts.headers.get(name).map(|v| v.to_str().unwrap());
                value.unwrap_or("-").to_owned()
            };
            [FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST, FORWARDED].map(field)
        };
        assert_eq!(
            from("10.1.1.1"),
            [
                "9.9.9.9, 10.1.1.1",
                "https",
                "evil.example",
                "for=9.9.9.9, for=10.1.1.1;proto=http"
            ]
        );
        assert_eq!(from("::1")[3], "for=9.9.9.9, for=\"[::1]\";proto=http");
        assert_eq!(
            from("192.0.2.1"),
            ["192.0.2.1", "http", "shop.example", "-"]
        );
    }

    #[test]
    fn hop_by_hop_fields_stay_on_their_hop_and_host_stays() {
        let request = Request::get("/a%2Fb?x=1")
            .header(HOST, "shop.example")
            .header(CONNECTION, "keep-alive, x-secret, host")
            .header("x-secret", "1")
            .header("keep-alive", "timeout=5")
            .header("x-forwarded-for", "9.9.9.9")
            .header("x-outgrow-identity", "forged");
        let parts = prepared(request.body(()).unwrap());
        let names: Vec<&str> = parts.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(
            names,
            [
                "host",
                "x-forwarded-for",
                "x-forwarded-proto",
                "x-forwarded-host"
            ]
        );
        assert_eq!(parts.headers[FORWARDED_FOR], "9.9.9.9, 10.0.0.1");
        assert_eq!(parts.uri, "/a%2Fb?x=1");
    }

    #[test]
    fn the_target_beats_the_host_field() {
        let request = Request::get("http://real.example/x").header(HOST, "other.example");
        let parts = prepared(request.body(()).unwrap());
        assert_eq!(
            (parts.headers[HOST].to_str().unwrap(), parts.uri.path()),
            ("real.example", "/x")
        );
    }

    #[test]
    fn ambiguous_heads_are_refused() {
        let with = |fields: &[(&str, &str)]| {
            let mut request = Request::post("/");
            for (name, value) in fields {
                request = request.header(*name, *value);
            }
            check(&asked(request.body(()).unwrap())).is_err()
        };
        assert!(!with(&[("host", "a.example:80")]));
        assert!(!with(&[("host", "a"), ("transfer-encoding", "Chunked")]));
        for bad in [
            &[][..],
            &[("host", "a"), ("host", "a")],
            &[("host", "a b")],
            &[("host", "u@a")],
            &[
                ("host", "a"),
                ("content-length", "3"),
                ("transfer-encoding", "chunked"),
            ],
            &[("host", "a"), ("transfer-encoding", "gzip, chunked")],
        ] {
            assert!(with(bad), "{bad:?}");
        }
    }

    #[test]
    fn only_a_real_upgrade_is_one() {
        let headers = |connection, upgrade| {
            HeaderMap::from_iter([
                (CONNECTION, HeaderValue::from_static(connection)),
                (UPGRADE, HeaderValue::from_static(upgrade)),
            ])
        };
        assert!(upgrade(&headers("keep-alive, Upgrade", "websocket")).is_some());
        assert!(upgrade(&headers("keep-alive", "websocket")).is_none());
        assert!(upgrade(&headers("upgrade", "h2c")).is_none());
    }
}
