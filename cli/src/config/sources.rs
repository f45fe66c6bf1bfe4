//! Where upstreams are: `urls`, `discovery`, and `[proxy.dns]`.

use std::time::Duration;

use outgrow_proxy::{
    Address, Consul, DnsSettings, Eureka, Family, FileList, Source, Transport, UpstreamTls,
};

use super::Surroundings;
use super::problem::{Findings, Place};
use super::process::secret;
use super::section::{Node, Section};
use super::{kubernetes, scalar, transport};

/// What a word of the proxy has bits for.
const URLS_MAX: usize = 64;
/// How often a list is looked at: a file costs nothing, a server a request.
const FILE_EVERY: Duration = Duration::from_secs(1);
const EUREKA_EVERY: Duration = Duration::from_secs(5);
/// Below the minute after which balancers between cut a silent connection.
const CONSUL_WAIT: Duration = Duration::from_secs(55);
const TENTH: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

const URLS: &str = "write urls = [\"http://HOST:PORT\"]";

/// All of a service; at least one.
pub(super) struct Upstreams {
    pub(super) all: Vec<Source>,
    /// Whether their URLs say `https`; `None` where there are none that say anything.
    pub(super) safe: Option<bool>,
}

pub(super) fn read(
    section: &mut Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Option<Upstreams> {
    let discovery = section.get("discovery");
    let urls = match &discovery {
        None => section.need(findings, "urls", URLS),
        Some(_) => section.get("urls"),
    };
    let (mut all, safe) = urls
        .map(|node| urls_of(&node, findings))
        .unwrap_or_default();
    let discovered = match discovery {
        None => None,
        Some(node) => Some(discovery_of(node.section(findings)?, findings, around)?),
    };
    all.extend(discovered);
    (!all.is_empty()).then_some(Upstreams { all, safe })
}

fn urls_of(node: &Node<'_>, findings: &mut Findings<'_>) -> (Vec<Source>, Option<bool>) {
    let words = node.words(findings);
    let count = words.len();
    let mut found = Vec::with_capacity(count);
    let mut said = None;
    for (place, text) in words {
        match scalar::upstream(&text) {
            Ok((source, _)) if found.contains(&source) => {
                findings.refuse(&place, "it is listed twice", "remove one of them");
            }
            Ok((source, safe)) => {
                if let (Some(said), Some(safe)) = (said, safe)
                    && said != safe
                {
                    let rule = "some upstreams are asked over TLS and others are not";
                    findings.refuse(&place, rule, "make two services of them, or one of a kind");
                }
                said = said.or(safe);
                found.push(source);
            }
            Err(rule) => {
                let fix = "write \"http://HOST:PORT\", \"https://HOST:PORT\", \"unix:/PATH\" or \"srv:NAME\"";
                findings.refuse(&place, rule, fix);
            }
        }
    }
    if count == 0 && node.is_list() {
        findings.refuse(&node.place, "it names no upstream", URLS);
    }
    if count > URLS_MAX {
        let rule = format!("there are more than {URLS_MAX} upstreams");
        let fix = "put a balancer before them, or name fewer";
        findings.refuse(&node.place, rule, fix);
    }
    (found, said)
}

fn discovery_of(
    mut section: Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Option<Source> {
    let place = section.place.clone();
    let (file, consul, eureka, kubernetes) = (
        section.get("file"),
        section.get("consul"),
        section.get("eureka"),
        section.get("kubernetes"),
    );
    let found = match (file, consul, eureka, kubernetes) {
        (Some(node), None, None, None) => file_list(&node, &mut section, findings, around),
        (None, Some(node), None, None) => from_consul(&node, &mut section, findings, around),
        (None, None, Some(node), None) => from_eureka(&node, &mut section, findings, around),
        (None, None, None, Some(node)) => kubernetes::read(&node, &mut section, findings, around),
        _ => {
            let fix = "write one of `file`, `consul`, `eureka`, `kubernetes`";
            findings.refuse(&place, "it does not say by what", fix);
            return None;
        }
    };
    section.finish(findings);
    found
}

fn file_list(
    node: &Node<'_>,
    section: &mut Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Option<Source> {
    let path = around.dir.join(node.word(findings)?);
    let every = section.duration(findings, "every", FILE_EVERY, TENTH..=DAY);
    Some(Source::File(FileList { path, every }))
}

fn from_consul(
    node: &Node<'_>,
    section: &mut Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Option<Source> {
    let agent = node.word(findings).and_then(|text| {
        let fix = "write \"http://127.0.0.1:8500\", the address of an agent";
        let found = scalar::upstream(&text);
        let found = found.map_err(|rule| findings.refuse(&node.place, rule, fix));
        match found.ok()? {
            (Source::At(address), safe) => Some((address, safe)),
            _ => {
                findings.refuse(&node.place, "it is no address", fix);
                None
            }
        }
    });
    let fix = "name the service as Consul knows it: service = \"catalog\"";
    let service = section.need(findings, "service", fix);
    let service = service.and_then(|node| name(&node, findings));
    let mut optional = |key| match section.get(key) {
        None => Some(None),
        Some(node) => name(&node, findings).map(Some),
    };
    let (tag, datacenter) = (optional("tag"), optional("datacenter"));
    let token = secret(section, findings, around, ["token_file", "token_env"]);
    let wait = section.duration(findings, "wait", CONSUL_WAIT, SECOND..=10 * MINUTE);
    let safe = agent.as_ref().and_then(|(_, safe)| *safe);
    let tls = registry_tls(section, findings, around, safe);
    Some(Source::Consul(Consul {
        agent: agent?.0,
        tls,
        service: service?,
        tag: tag?,
        datacenter: datacenter?,
        token: token
            .ok()?
            .map(|token| outgrow_proxy::Secret::new(token.bytes())),
        wait,
    }))
}

/// TLS with a registry, where its URL wants that.
pub(super) fn registry_tls(
    section: &mut Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
    safe: Option<bool>,
) -> Option<UpstreamTls> {
    let node = section.get("ca");
    let ca = node
        .as_ref()
        .and_then(|node| transport::path(node, findings, around));
    if safe != Some(true) {
        if let Some(node) = node {
            let rule = "the registry is asked without TLS";
            findings.refuse(
                &node.place,
                rule,
                "write its URL with https://, or remove it",
            );
        }
        return None;
    }
    let tls = UpstreamTls {
        ca,
        ..UpstreamTls::default()
    };
    let transport = Transport {
        tls: Some(tls.clone()),
        ..Transport::default()
    };
    if let Err(error) = transport.check() {
        let place = node.map_or_else(|| section.place.clone(), |node| node.place);
        findings.lack(&place, error.to_string(), transport::fix(&error));
    }
    Some(tls)
}

fn from_eureka(
    node: &Node<'_>,
    section: &mut Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Option<Source> {
    let fix = "write eureka = [\"http://127.0.0.1:8761/eureka\"]";
    let words = node.words(findings);
    if words.is_empty() && node.is_list() {
        findings.refuse(&node.place, "it names no server", fix);
    }
    let server = |(place, text): (Place, String)| {
        let found = eureka_server(&text).map_err(|rule| findings.refuse(&place, rule, fix));
        found.ok()
    };
    let found: Vec<_> = words.into_iter().filter_map(server).collect();
    let safe = found.first().and_then(|(_, safe)| *safe);
    if found.iter().any(|(_, other)| *other != safe) {
        let rule = "some servers are asked over TLS and others are not";
        findings.refuse(&node.place, rule, "write all of them with https://");
    }
    let servers: Vec<(Address, String)> = found.into_iter().map(|(server, _)| server).collect();
    let fix = "name the application as Eureka knows it: app = \"CATALOG\"";
    let app = section.need(findings, "app", fix);
    let app = app.and_then(|node| name(&node, findings));
    let every = section.duration(findings, "every", EUREKA_EVERY, TENTH..=DAY);
    let tls = registry_tls(section, findings, around, safe);
    Some(Source::Eureka(Eureka {
        servers: (!servers.is_empty()).then_some(servers)?,
        tls,
        app: app?,
        every,
    }))
}

/// `http://HOST:PORT/PATH`, in parts, and whether that is over TLS.
fn eureka_server(text: &str) -> Result<((Address, String), Option<bool>), String> {
    let at = text.find("://").map_or(0, |at| at + 3);
    let path = text[at..].find('/').map_or(text.len(), |path| at + path);
    let (server, path) = text.split_at(path);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
    if !path.bytes().all(plain) {
        return Err("its path is more than letters and digits".to_owned());
    }
    match scalar::upstream(server)? {
        (Source::At(address), safe) => Ok(((address, path.trim_end_matches('/').to_owned()), safe)),
        _ => Err("it is no address".to_owned()),
    }
}

/// What stands in a URL as it is.
pub(super) fn name(node: &Node<'_>, findings: &mut Findings<'_>) -> Option<String> {
    let word = node.word(findings)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if word.bytes().all(plain) {
        return Some(word);
    }
    let fix = "use letters, digits, `-`, `_` and `.`";
    findings.refuse(&node.place, "it is no such name", fix);
    None
}

/// `[proxy.dns]`.
pub(super) fn dns(proxy: &mut Section<'_>, findings: &mut Findings<'_>) -> DnsSettings {
    let section = proxy.get("dns").and_then(|node| node.section(findings));
    section.map_or_else(DnsSettings::default, |section| dns_of(section, findings))
}

fn dns_of(mut section: Section<'_>, findings: &mut Findings<'_>) -> DnsSettings {
    let usual = DnsSettings::default();
    let servers = section.get("servers").map(|node| {
        let words = node.words(findings);
        let read = |(place, text): (Place, String)| {
            let text = match text.parse::<std::net::IpAddr>() {
                Ok(ip) => std::net::SocketAddr::new(ip, 53).to_string(),
                Err(_) => text,
            };
            let found = text.parse();
            let fix = "write \"10.0.0.2\" or \"10.0.0.2:53\"";
            found
                .map_err(|_| findings.refuse(&place, "it is no address", fix))
                .ok()
        };
        words.into_iter().filter_map(read).collect()
    });
    let family = section.get("family").and_then(|node| {
        let word = node.word(findings)?;
        let known = Family::ALL.iter().find(|(name, _)| *name == word);
        if known.is_none() {
            let names = Family::ALL.map(|(name, _)| format!("\"{name}\""));
            let fix = format!("write one of {}", names.join(", "));
            findings.refuse(&node.place, "there is no such family", fix);
        }
        known.map(|(_, family)| *family)
    });
    let timeout = section.duration(findings, "timeout", usual.timeout, TENTH..=MINUTE);
    let ttl_min = section.duration(findings, "ttl_min", usual.ttl_min, TENTH..=DAY);
    let longest = usual.ttl_max.max(ttl_min);
    let ttl_max = section.duration(findings, "ttl_max", longest, TENTH..=DAY);
    if ttl_max < ttl_min {
        let fix = format!("write {} or more", scalar::show(ttl_min));
        findings.refuse(&section.at("ttl_max"), "it is less than `ttl_min`", fix);
    }
    section.finish(findings);
    DnsSettings {
        servers: servers.unwrap_or_default(),
        family: family.unwrap_or(usual.family),
        timeout,
        ttl_min,
        ttl_max,
    }
}
