//! Kubernetes: the ready endpoints of a service, by its EndpointSlices: listed once, then watched.
//!
//! <https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes> and
//! `/docs/concepts/services-networking/endpoint-slices`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::sleep;

use super::Teller;
use super::rest::{self, Answering};
use crate::dial::Dialer;
use crate::sources::{EndpointPort, Kubernetes};
use crate::upstreams::address::Address;

/// After a failure, and after a watch that ended as soon as it began.
const RETRY: Duration = Duration::from_secs(1);
/// For a list, and for the head of a watch.
const ANSWER: Duration = Duration::from_secs(5);
/// A watch is begun anew after this: below the minute after which balancers between cut a silent
/// connection, and often enough that one that has died unseen is soon another one.
const WATCH: Duration = Duration::from_secs(55);

/// Its resource version is too old: what it was is not known there any more.
const GONE: u16 = 410;

/// `EndpointSliceList`, as far as it says where endpoints are.
#[derive(Debug, Deserialize)]
struct List {
    metadata: Metadata,
    #[serde(default)]
    items: Vec<Slice>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    name: String,
    #[serde(default)]
    resource_version: String,
}

/// `EndpointSlice`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Slice {
    metadata: Metadata,
    address_type: String,
    /// `null` where there are none.
    endpoints: Option<Vec<Endpoint>>,
    ports: Option<Vec<Port>>,
}

#[derive(Debug, Deserialize)]
struct Endpoint {
    #[serde(default)]
    addresses: Vec<String>,
    #[serde(default)]
    conditions: Conditions,
}

#[derive(Debug, Default, Deserialize)]
struct Conditions {
    ready: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Port {
    name: Option<String>,
    port: Option<u16>,
}

/// A line of a watch.
#[derive(Debug, Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: Kind,
    object: serde_json::Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Kind {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

/// `Status`: why something is not done.
#[derive(Debug, Deserialize)]
struct Status {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    message: String,
}

/// What is known of a service.
#[derive(Debug)]
struct Known {
    slices: BTreeMap<String, Slice>,
    version: String,
}

/// How a watch ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// Its time was over, or somebody between ended it.
    Over,
    /// It is to be listed anew.
    Gone,
}

impl EndpointPort {
    fn of(&self, ports: &[Port]) -> Result<Option<u16>, String> {
        let found = match self {
            Self::Number(number) => ports.iter().find(|port| port.port == Some(*number)),
            Self::Name(name) => {
                let named = |port: &&Port| port.name.as_deref() == Some(name);
                ports.iter().find(named)
            }
            Self::Only => match ports {
                [] => None,
                [port] => Some(port),
                _ => return Err("it has several ports; say which by `port`".to_owned()),
            },
        };
        Ok(found.and_then(|port| port.port))
    }
}

impl Known {
    /// Who is ready, each once. Where pods have addresses of both families those of version 4: both are
    /// the same pod.
    fn upstreams(&self, wanted: &EndpointPort) -> Result<Vec<Address>, String> {
        let (mut four, mut six, mut unnamed) = (Vec::new(), Vec::new(), false);
        for slice in self.slices.values() {
            let into = match slice.address_type.as_str() {
                "IPv4" => &mut four,
                "IPv6" => &mut six,
                // Names are what `urls` are for.
                _ => continue,
            };
            let endpoints = slice.endpoints.as_deref().unwrap_or_default();
            let ready = endpoints
                .iter()
                .filter(|e| e.conditions.ready != Some(false));
            // Of several addresses only the first one means something.
            let all = ready.filter_map(|e| e.addresses.first()?.parse::<IpAddr>().ok());
            let all: Vec<IpAddr> = all.collect();
            if all.is_empty() {
                continue;
            }
            match wanted.of(slice.ports.as_deref().unwrap_or_default())? {
                Some(port) => into.extend(all.into_iter().map(|ip| (ip, port))),
                None => unnamed = true,
            }
        }
        let mut found = if four.is_empty() { six } else { four };
        if found.is_empty() && unnamed {
            return Err(format!("its endpoints have no port {wanted}"));
        }
        found.sort_unstable();
        found.dedup();
        let all = found.into_iter().map(std::net::SocketAddr::from);
        Ok(all.map(Address::from).collect())
    }

    /// Takes a line in; `Some` where the watch is over with it.
    fn take(&mut self, line: &[u8]) -> Result<Option<Ended>, String> {
        let Event { kind, object } = read(line)?;
        if kind == Kind::Error {
            let status: Status = object_of(object)?;
            return match status.code {
                GONE => Ok(Some(Ended::Gone)),
                code => Err(format!("the watch ends with {code}: {}", status.message)),
            };
        }
        if kind == Kind::Bookmark {
            #[derive(Deserialize)]
            struct Bookmark {
                metadata: Metadata,
            }
            let Bookmark { metadata } = object_of(object)?;
            self.version = metadata.resource_version;
            return Ok(None);
        }
        let slice: Slice = object_of(object)?;
        self.version.clone_from(&slice.metadata.resource_version);
        let name = slice.metadata.name.clone();
        match kind {
            Kind::Deleted => self.slices.remove(&name),
            _ => self.slices.insert(name, slice),
        };
        Ok(None)
    }
}

fn read<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    let read = serde_json::from_slice(text);
    read.map_err(|error| format!("what it says is not understood: {error}"))
}

fn object_of<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, String> {
    let read = serde_json::from_value(value);
    read.map_err(|error| format!("what it says is not understood: {error}"))
}

/// Follows for ever.
pub(super) async fn watch(of: Kubernetes, teller: Teller) {
    let dialer = match rest::dialer(of.tls.as_ref()) {
        Ok(dialer) => dialer,
        Err(why) => return teller.tell(Err(why)),
    };
    loop {
        match list(&dialer, &of).await {
            Ok(known) => follow(&dialer, &of, known, &teller).await,
            Err(why) => teller.tell(Err(why)),
        }
        // A server that forgets at once is not listed for all the time.
        sleep(RETRY).await;
    }
}

/// Watches until it is to be listed anew.
async fn follow(dialer: &Dialer, of: &Kubernetes, mut known: Known, teller: &Teller) {
    teller.tell(known.upstreams(&of.port));
    loop {
        let begun = Instant::now();
        match look(dialer, of, &mut known, teller).await {
            Ok(Ended::Gone) => return,
            Ok(Ended::Over) if begun.elapsed() >= RETRY => continue,
            Ok(Ended::Over) => {}
            Err(why) => teller.tell(Err(why)),
        }
        sleep(RETRY).await;
    }
}

/// One watch.
async fn look(
    dialer: &Dialer,
    of: &Kubernetes,
    known: &mut Known,
    teller: &Teller,
) -> Result<Ended, String> {
    let more = format!(
        "&watch=true&allowWatchBookmarks=true&timeoutSeconds={}&resourceVersion={}",
        WATCH.as_secs(),
        known.version
    );
    let mut answer = open(dialer, of, &more, WATCH + ANSWER).await?;
    if answer.status.as_u16() == GONE {
        return Ok(Ended::Gone);
    }
    refused(of, &mut answer).await?;
    // It answers again, whatever was before.
    teller.tell(known.upstreams(&of.port));
    let mut rest = Vec::new();
    loop {
        let part = match answer.part().await {
            Ok(Some(part)) => part,
            // The end of a watch is no failure, whoever ends it: the next one goes on from here.
            Ok(None) | Err(_) => return Ok(Ended::Over),
        };
        rest.extend_from_slice(&part);
        let mut changed = false;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            if line.trim_ascii().is_empty() {
                continue;
            }
            if let Some(ended) = known.take(&line)? {
                return Ok(ended);
            }
            changed = true;
        }
        if rest.len() > rest::BODY_MAX {
            return Err(format!("a line has more than {} bytes", rest::BODY_MAX));
        }
        if changed {
            teller.tell(known.upstreams(&of.port));
        }
    }
}

/// The endpoints that are ready, asked for once.
pub(super) async fn ask(dialer: &Dialer, of: &Kubernetes) -> Result<Vec<Address>, String> {
    list(dialer, of).await?.upstreams(&of.port)
}

async fn list(dialer: &Dialer, of: &Kubernetes) -> Result<Known, String> {
    let mut answer = open(dialer, of, "", ANSWER).await?;
    refused(of, &mut answer).await?;
    let list: List = read(&answer.whole().await?)?;
    let slices = list.items.into_iter();
    Ok(Known {
        slices: slices
            .map(|slice| (slice.metadata.name.clone(), slice))
            .collect(),
        version: list.metadata.resource_version,
    })
}

async fn refused(of: &Kubernetes, answer: &mut Answering) -> Result<(), String> {
    if answer.status.is_success() {
        return Ok(());
    }
    let body = answer.whole().await.unwrap_or_default();
    let said = read::<Status>(&body).map_or_else(
        |_| String::from_utf8_lossy(&body).trim().to_owned(),
        |status| status.message,
    );
    let said: String = said.chars().take(200).collect();
    let hint = match answer.status {
        StatusCode::FORBIDDEN => "; the account needs `list` and `watch` of `endpointslices`",
        _ => "",
    };
    Err(format!(
        "{} answers {}: {said}{hint}",
        of.server, answer.status
    ))
}

async fn open(
    dialer: &Dialer,
    of: &Kubernetes,
    more: &str,
    within: Duration,
) -> Result<Answering, String> {
    let path = format!(
        "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3D{}{more}",
        of.namespace, of.service
    );
    // Each time: the file's token is another one long before the last one ends.
    let token = token(of).await?;
    rest::open((dialer, &of.server), &path, token, (ANSWER, within)).await
}

async fn token(of: &Kubernetes) -> Result<Option<(HeaderName, HeaderValue)>, String> {
    let Some(path) = &of.token_file else {
        return Ok(None);
    };
    let text = tokio::fs::read_to_string(path).await;
    let text = text.map_err(|error| format!("no token in {}: {error}", path.display()))?;
    let value = HeaderValue::from_str(&format!("Bearer {}", text.trim()));
    let mut value = value.map_err(|_| "the token is no header's value".to_owned())?;
    value.set_sensitive(true);
    Ok(Some((AUTHORIZATION, value)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(kind: &str, ready: &[(&str, Option<bool>)], ports: &[(&str, u16)]) -> Slice {
        let endpoint = |(ip, ready): &(&str, Option<bool>)| json!({"addresses": [ip, "10.9.9.9"], "conditions": {"ready": ready, "serving": true}});
        let port = |(name, port): &(&str, u16)| json!({"name": name, "port": port});
        let text = json!({
            "metadata": {"name": "catalog-x7k2p", "resourceVersion": "7"},
            "addressType": kind,
            "endpoints": ready.iter().map(endpoint).collect::<Vec<_>>(),
            "ports": ports.iter().map(port).collect::<Vec<_>>(),
        });
        serde_json::from_value(text).unwrap()
    }

    fn check(slices: Vec<Slice>, port: &EndpointPort, expected: Result<&[&str], &str>) {
        let slices = slices.into_iter().enumerate();
        let known = Known {
            slices: slices.map(|(n, slice)| (n.to_string(), slice)).collect(),
            version: String::new(),
        };
        let found = known.upstreams(port);
        let found = found.map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>());
        let expected = expected.map(|all| all.iter().map(ToString::to_string).collect());
        assert_eq!(found, expected.map_err(str::to_owned));
    }

    #[test]
    fn ready_endpoints_are_upstreams() {
        let http = [("http", 80)];
        let some = [
            ("10.0.0.1", Some(true)),
            ("10.0.0.2", Some(false)),
            ("10.0.0.3", None),
        ];
        let only = EndpointPort::Only;
        check(
            vec![slice("IPv4", &some, &http)],
            &only,
            Ok(&["10.0.0.1:80", "10.0.0.3:80"]),
        );
        // Two slices may name one endpoint while it moves from one to the other.
        check(
            vec![
                slice("IPv4", &some, &http),
                slice("IPv4", &some[..1], &http),
            ],
            &only,
            Ok(&["10.0.0.1:80", "10.0.0.3:80"]),
        );
        let six = [("fd00::1", Some(true))];
        check(
            vec![slice("IPv6", &six, &http), slice("IPv4", &some[..1], &http)],
            &only,
            Ok(&["10.0.0.1:80"]),
        );
        check(
            vec![slice("IPv6", &six, &http)],
            &only,
            Ok(&["[fd00::1]:80"]),
        );
        let names = slice("FQDN", &[("shop.example", Some(true))], &http);
        check(vec![names], &only, Ok(&[]));
    }

    #[test]
    fn ports_are_chosen_by_name_by_number_or_alone() {
        let two = [("http", 8_080), ("metrics", 9_090)];
        let one = || vec![slice("IPv4", &[("10.0.0.1", Some(true))], &two)];
        let named = |name: &str| EndpointPort::Name(name.to_owned());
        check(one(), &named("metrics"), Ok(&["10.0.0.1:9090"]));
        check(one(), &EndpointPort::Number(8_080), Ok(&["10.0.0.1:8080"]));
        check(
            one(),
            &EndpointPort::Only,
            Err("it has several ports; say which by `port`"),
        );
        check(
            one(),
            &named("grpc"),
            Err("its endpoints have no port grpc"),
        );
    }
}
