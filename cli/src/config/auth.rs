//! `[proxy.issuers.NAME]`: whose tokens are believed. And what routes ask for, against it.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Uri;
use outgrow_proxy::{Algorithm, ApiKeys, AuthSettings, IssuerSettings, KeySource, TokenRule, Way};

use super::model::{Proxy, Route};
use super::problem::{Findings, Place, nearest};
use super::section::{Node, Section};
use super::{Surroundings, introspection};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
/// Clocks of machines that keep time differ by less.
const LEEWAY: Duration = Duration::from_secs(30);
/// Keys are announced hours before they sign; a key that is not known is looked for at once.
const REFRESH: Duration = Duration::from_secs(600);
/// What made-up key names can cost an issuer.
const PAUSE: Duration = Duration::from_secs(10);
/// What issuers sign with by default, and keys of which no two are of one kind.
const ALGORITHMS: [Algorithm; 3] = [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa];

/// `issuers` and `api_keys` of `[proxy]`.
pub(super) fn read(
    section: &mut Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> AuthSettings {
    let issuers = section.get("issuers");
    let issuers = issuers.and_then(|node| node.section(findings));
    let issuers = issuers.map(|section| section.entries()).unwrap_or_default();
    let issuers = issuers.into_iter().filter_map(|(name, _, node)| {
        let section = node.section(findings)?;
        issuer(name, section, findings, around)
    });
    let issuers = issuers.collect();
    let api_keys = section.get("api_keys").and_then(|node| {
        let path = around.dir.join(node.word(findings)?);
        if let Err(why) = ApiKeys::load(&path) {
            let rule = format!("no API keys in {}: {why}", path.display());
            let fix =
                "a line is NAME sha256:HEX SCOPE.., with HEX from `printf %s KEY | sha256sum`";
            findings.refuse(&node.place, rule, fix);
        }
        Some(path)
    });
    AuthSettings {
        issuers,
        introspection: introspection::read(section, findings, around),
        api_keys,
    }
}

fn issuer(
    name: String,
    mut section: Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Option<IssuerSettings> {
    let fix = "write what tokens have in `iss`, e.g. \"https://login.example\"";
    let issuer = section.need(findings, "issuer", fix);
    let issuer = issuer.and_then(|node| Some((node.word(findings)?, node.place)));
    let fix = "write audience = [\"shop\"], or [] where tokens of any audience are for us";
    let audience = section.need(findings, "audience", fix);
    let audience = audience.map(|node| node.words(findings));
    let algorithms = section.get("algorithms");
    let algorithms = algorithms.map(|node| algorithms_of(&node, findings));
    let jwks = section.get("jwks");
    let keys = match (&jwks, &issuer) {
        (Some(node), _) => source(node, findings, around),
        (None, Some((issuer, place))) => discovered(issuer, place, findings),
        (None, None) => None,
    };
    let ca = section.get("ca");
    let ca = ca.and_then(|node| Some(around.dir.join(node.word(findings)?)));
    let leeway = section.duration(findings, "leeway", LEEWAY, Duration::ZERO..=600 * SECOND);
    let refresh = section.duration(findings, "refresh", REFRESH, SECOND..=24 * HOUR);
    let pause = section.duration(findings, "pause", PAUSE, SECOND..=HOUR);
    section.finish(findings);
    let words = |words: Vec<(Place, String)>| words.into_iter().map(|(_, text)| text).collect();
    Some(IssuerSettings {
        name,
        rule: TokenRule {
            issuer: issuer?.0,
            audience: audience.map(words)?,
            algorithms: algorithms.unwrap_or(ALGORITHMS.to_vec()),
            leeway,
        },
        keys: keys?,
        ca,
        refresh,
        pause,
    })
}

fn algorithms_of(node: &Node<'_>, findings: &mut Findings<'_>) -> Vec<Algorithm> {
    let words = node.words(findings);
    if words.is_empty() && node.is_list() {
        findings.refuse(&node.place, "no token could be signed", "name an algorithm");
    }
    let names = Algorithm::ALL.map(Algorithm::name);
    let mut found = Vec::new();
    for (place, text) in words {
        match Algorithm::ALL.into_iter().find(|one| one.name() == text) {
            Some(algorithm) => found.push(algorithm),
            None => {
                let fix = format!("the algorithms are {}", names.join(", "));
                findings.refuse(&place, "tokens signed so cannot be believed", fix);
            }
        }
    }
    found
}

fn source(
    node: &Node<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Option<KeySource> {
    let text = node.word(findings)?;
    if text.contains("://") {
        let fix = "write \"https://HOST/PATH\", or the name of a file";
        let url = url(&text);
        if url.is_none() {
            findings.refuse(&node.place, "keys cannot be got from there", fix);
        }
        return url.map(KeySource::Url);
    }
    let source = KeySource::File(around.dir.join(text));
    if let Err(why) = source.check() {
        let fix = "put a JWK set there: {\"keys\": [..]} with public keys";
        findings.refuse(&node.place, why, fix);
    }
    Some(source)
}

fn url(text: &str) -> Option<Uri> {
    let url: Uri = text.parse().ok()?;
    let known = matches!(url.scheme_str(), Some("http" | "https"));
    (known && url.host().is_some_and(|host| !host.is_empty())).then_some(url)
}

/// OpenID Connect Discovery, section 4.
fn discovered(issuer: &str, place: &Place, findings: &mut Findings<'_>) -> Option<KeySource> {
    let base = issuer.trim_end_matches('/');
    let url = url(&format!("{base}/.well-known/openid-configuration"));
    if url.is_none() {
        let fix = "add jwks with the URL or the file of its public keys";
        findings.refuse(place, "its keys cannot be found by its name", fix);
    }
    url.map(KeySource::Discover)
}

/// Whether what the filters of a route ask for is there.
pub(super) fn check<'a, T>(
    proxy: &Proxy,
    services: &BTreeMap<String, T>,
    routes: impl Iterator<Item = (&'a Place, &'a Route)>,
    findings: &mut Findings<'_>,
) {
    let mut told: Vec<String> = Vec::new();
    for (place, route) in routes {
        let rule = route
            .filters
            .as_ref()
            .and_then(|filters| filters.auth.as_ref());
        let Some(rule) = rule else {
            continue;
        };
        for (rule, fix) in missing(&rule.way, proxy, services) {
            if !told.contains(&rule) {
                findings.refuse(place, rule.clone(), fix);
                told.push(rule);
            }
        }
    }
}

pub(super) fn missing<T>(
    way: &Way,
    proxy: &Proxy,
    services: &BTreeMap<String, T>,
) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let settings = &proxy.auth;
    match way {
        Way::Asked { service, .. } if !services.contains_key(service) => {
            let fix = format!("add [services.{service}] with urls");
            found.push((
                format!("its `auth` asks `{service}`, which is no service"),
                fix,
            ));
        }
        Way::Asked { .. } => {}
        Way::Shown(means) => {
            let clients = proxy.tls.as_ref().and_then(|tls| tls.clients.as_ref());
            if means.certificate && clients.is_none() {
                let fix = "add client_ca = \"clients.pem\" to [proxy.tls]".to_owned();
                let rule = "its `auth` takes certificates, and no client is asked for one";
                found.push((rule.to_owned(), fix));
            }
            let known = settings.issuers.iter().map(|one| one.name.as_str());
            let unknown = |name: &String| unknown(name, known.clone(), "issuer", "issuers");
            found.extend(means.issuers.iter().filter_map(unknown));
            let known = settings.introspection.iter().map(|one| one.name.as_str());
            let unknown =
                |name: &String| self::unknown(name, known, "introspection", "introspection");
            found.extend(means.introspection.as_ref().and_then(unknown));
            if means.key.is_some() && settings.api_keys.is_none() {
                let fix = "add api_keys = \"FILE\" to [proxy]".to_owned();
                found.push((
                    "its `auth` takes API keys, and there are none".to_owned(),
                    fix,
                ));
            }
        }
    }
    found
}

/// What is wrong with a name that is none of these, and what helps.
fn unknown<'a>(
    name: &str,
    known: impl Iterator<Item = &'a str> + Clone,
    what: &str,
    section: &str,
) -> Option<(String, String)> {
    if known.clone().any(|one| one == name) {
        return None;
    }
    let fix = match nearest(name, known) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("add [proxy.{section}.{name}]"),
    };
    Some((
        format!("its `auth` names `{name}`, which is no {what}"),
        fix,
    ))
}

/// Services that are asked who may ask, or about tokens.
pub(super) fn asked<'a>(
    proxy: Option<&Proxy>,
    routes: impl Iterator<Item = (&'a Place, &'a Route)>,
) -> Vec<String> {
    let of_routes = routes.filter_map(|(_, route)| route.filters.as_deref());
    let of_proxy = proxy.and_then(|proxy| proxy.filters.as_deref());
    let rules = of_proxy.into_iter().chain(of_routes);
    let rules = rules.filter_map(|filters| filters.auth.as_ref());
    let gates = rules.filter_map(|rule| match &rule.way {
        Way::Asked { service, .. } => Some(service.clone()),
        Way::Shown(_) => None,
    });
    let about_tokens = proxy.map_or(&[][..], |proxy| &proxy.auth.introspection);
    let about_tokens = about_tokens.iter().map(|one| one.service.clone());
    gates.chain(about_tokens).collect()
}

/// Whether those who are asked about tokens are there.
pub(super) fn check_asked<T>(
    settings: &AuthSettings,
    services: &BTreeMap<String, T>,
    place: &Place,
    findings: &mut Findings<'_>,
) {
    for one in &settings.introspection {
        let (name, service) = (&one.name, &one.service);
        if !services.contains_key(service) {
            let rule = format!("`introspection.{name}` asks `{service}`, which is no service");
            findings.lack(place, rule, format!("add [services.{service}] with urls"));
        }
    }
}
