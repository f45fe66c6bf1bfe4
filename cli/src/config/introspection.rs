//! `[proxy.introspection.NAME]`: who is asked about tokens.

use std::time::Duration;

use http::HeaderValue;
use http::uri::PathAndQuery;
use outgrow_proxy::{Credentials, IntrospectionSettings, Secret};

use super::Surroundings;
use super::problem::{Findings, Place};
use super::process::secret;
use super::section::{Node, Section};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3_600);
/// Clocks of machines that keep time differ by less.
const LEEWAY: Duration = Duration::from_secs(30);
/// A lookup in a table of sessions takes milliseconds.
const TIMEOUT: Duration = Duration::from_secs(3);
/// For so long a token that was taken back may pass.
const KEEP: Duration = Duration::from_secs(30);
/// Long enough to keep a client that repeats itself away, short enough for one that has just logged in.
const KEEP_INACTIVE: Duration = Duration::from_secs(5);
/// Some thousands of answers.
const SIZE: u64 = 16 << 20;

pub(super) fn read(
    section: &mut Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Vec<IntrospectionSettings> {
    let all = section.get("introspection");
    let all = all.and_then(|node| node.section(findings));
    let all = all.map(|section| section.entries()).unwrap_or_default();
    let all = all.into_iter().filter_map(|(name, _, node)| {
        let section = node.section(findings)?;
        one(name, section, findings, around)
    });
    all.collect()
}

fn one(
    name: String,
    mut section: Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Option<IntrospectionSettings> {
    let fix = "write service = \"login\", the name of one of [services]";
    let service = section.need(findings, "service", fix);
    let service = service.and_then(|node| node.word(findings));
    let fix = "write the path of its introspection endpoint, e.g. \"/oauth2/introspect\"";
    let path = section.need(findings, "path", fix);
    let path = path.and_then(|node| target(&node, findings));
    let host = section.get("host").map(|node| host(&node, findings));
    let credentials = credentials(&mut section, findings, around);
    let hint = section.get("hint").map(|node| node.text(findings));
    let issuer = section.get("issuer").map(|node| node.word(findings));
    let fix = "write audience = [\"shop\"], or [] where tokens of any audience are for us";
    let audience = section.need(findings, "audience", fix);
    let audience = audience.map(|node| node.words(findings));
    let leeway = section.duration(findings, "leeway", LEEWAY, Duration::ZERO..=600 * SECOND);
    let timeout = section.duration(findings, "timeout", TIMEOUT, 10 * MS..=60 * SECOND);
    let keep = section.duration(findings, "keep", KEEP, Duration::ZERO..=HOUR);
    let usual = KEEP_INACTIVE.min(keep);
    let inactive = section.get("keep_inactive");
    let keep_inactive = match &inactive {
        None => Some(usual),
        Some(node) => node.duration(findings, Duration::ZERO..=HOUR),
    };
    if let Some(node) = inactive.filter(|_| keep_inactive.is_some_and(|own| own > keep)) {
        let rule = "a token that is taken for a bad one would be so for longer than for a good one";
        findings.refuse(&node.place, rule, "write at most what `keep` is");
    }
    let size = section.size(findings, "size", SIZE, 1 << 20..=1 << 30);
    section.finish(findings);
    let words = |words: Vec<(Place, String)>| words.into_iter().map(|(_, text)| text).collect();
    Some(IntrospectionSettings {
        name,
        service: service?,
        path: path?,
        host: host.map_or(Some(None), |found| found.map(Some))?,
        credentials: credentials?,
        hint: hint.map_or(Some("access_token"), |found| found)?.to_owned(),
        issuer: issuer.map_or(Some(None), |found| found.map(Some))?,
        audience: audience.map(words)?,
        leeway,
        timeout,
        keep,
        keep_inactive: keep_inactive?,
        size,
    })
}

fn target(node: &Node<'_>, findings: &mut Findings<'_>) -> Option<PathAndQuery> {
    let text = node.word(findings)?;
    let path: Option<PathAndQuery> = text.parse().ok().filter(|_| text.starts_with('/'));
    if path.is_none() {
        let fix = "write \"/oauth2/introspect\"; where it is says the service's `urls`";
        findings.refuse(&node.place, "it is not a path", fix);
    }
    path
}

fn host(node: &Node<'_>, findings: &mut Findings<'_>) -> Option<HeaderValue> {
    let text = node.word(findings)?;
    let authority = text.parse::<http::uri::Authority>().ok();
    let plain = authority.is_some_and(|found| !found.as_str().contains('@'));
    let value = HeaderValue::try_from(&text).ok().filter(|_| plain);
    if value.is_none() {
        let fix = "write \"login.example\", with a port where it is not the usual one";
        findings.refuse(&node.place, "it is not a host", fix);
    }
    value
}

/// Whoever asks about tokens must show who it is (RFC 7662 section 2.1).
fn credentials(
    section: &mut Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Option<Credentials> {
    let place = section.place.clone();
    let id = section.get("client_id").map(|node| node.word(findings));
    let names = ["client_secret_file", "client_secret_env"];
    let own = secret(section, findings, around, names).ok()?;
    let bearer = secret(section, findings, around, ["bearer_file", "bearer_env"]).ok()?;
    let fix = "add client_id = \"outgrow\" and client_secret_file = \"FILE\", or bearer_file = \"FILE\" alone";
    let ours = |secret: super::Secret| Secret::new(secret.bytes());
    match (id, own, bearer) {
        (Some(id), Some(secret), None) => Some(Credentials::Basic {
            id: id?,
            secret: ours(secret),
        }),
        (None, None, Some(bearer)) if fits(&bearer) => Some(Credentials::Bearer(ours(bearer))),
        (None, None, Some(_)) => {
            let rule = "what the bearer file or variable has does not fit into a header";
            findings.lack(&place, rule, "put a token there, in one line of ASCII");
            None
        }
        (None, None, None) => {
            findings.lack(
                &place,
                "nobody would be told about tokens without credentials",
                fix,
            );
            None
        }
        (_, _, Some(_)) => {
            let rule = "`bearer_file` stands alone, without `client_id` and its secret";
            findings.lack(&place, rule, "keep one of the two ways");
            None
        }
        (Some(_), None, None) | (None, Some(_), None) => {
            findings.lack(&place, "`client_id` and its secret go together", fix);
            None
        }
    }
}

fn fits(secret: &super::Secret) -> bool {
    secret.bytes().iter().all(u8::is_ascii_graphic)
}
