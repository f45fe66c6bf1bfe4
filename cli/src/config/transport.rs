//! How upstreams are spoken with: `tls` and `protocol` of `[legacy]` and of a service.

use std::time::Duration;

use outgrow_proxy::{CertificateError, CertificateFiles, Protocol, Transport, UpstreamTls};

use super::Surroundings;
use super::problem::Findings;
use super::scalar;
use super::section::{Node, Section};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// `safe`: what the schemes of the service's URLs say, where they say anything.
pub(super) fn read(
    section: &mut Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
    safe: Option<bool>,
) -> Transport {
    let node = section.get("tls");
    let tls = match &node {
        None => (safe == Some(true)).then(UpstreamTls::default),
        Some(node) => {
            let tls = match node.flag() {
                Some(on) => on.then(UpstreamTls::default),
                None => node
                    .section(findings)
                    .map(|section| settings(section, findings, around)),
            };
            let clash = match (safe, tls.is_some()) {
                (Some(false), true) => Some("its `urls` say http://, or are no addresses"),
                (Some(true), false) => Some("its `urls` say https://"),
                _ => None,
            };
            if let Some(rule) = clash {
                findings.refuse(
                    &node.place,
                    rule,
                    "write `urls` with https://, or remove it",
                );
            }
            tls
        }
    };
    let transport = Transport {
        protocol: protocol(section, findings, tls.is_some()),
        tls,
    };
    if let Err(error) = transport.check() {
        let place = node.map_or_else(|| section.place.clone(), |node| node.place);
        findings.lack(&place, error.to_string(), fix(&error));
    }
    transport
}

fn settings(
    mut section: Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> UpstreamTls {
    let usual = UpstreamTls::default();
    let mut file = |key| {
        section
            .get(key)
            .and_then(|node| path(&node, findings, around))
    };
    let (ca, cert, key) = (file("ca"), file("cert"), file("key"));
    let client = match (cert, key) {
        (Some(cert), Some(key)) => Some(CertificateFiles { cert, key }),
        (None, None) => None,
        (cert, _) => {
            let missing = if cert.is_some() { "key" } else { "cert" };
            let rule = "a certificate is shown with its key";
            findings.refuse(&section.place, rule, format!("add `{missing}`"));
            None
        }
    };
    let name = section.get("name").and_then(|node| {
        let name = node.word(findings)?;
        if scalar::is_host(&name) {
            return Some(name.trim_matches(['[', ']']).to_owned());
        }
        let fix = "write the name that the certificate is for: name = \"shop.internal\"";
        findings.refuse(&node.place, "it is no host name or address", fix);
        None
    });
    let reload = section.duration(findings, "reload", usual.reload, SECOND..=DAY);
    section.finish(findings);
    UpstreamTls {
        ca,
        client,
        name,
        reload,
    }
}

pub(super) fn path(
    node: &Node<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Option<std::path::PathBuf> {
    Some(around.dir.join(node.word(findings)?))
}

fn protocol(section: &mut Section<'_>, findings: &mut Findings<'_>, safe: bool) -> Protocol {
    let Some(node) = section.get("protocol") else {
        return Protocol::default();
    };
    let Some(word) = node.word(findings) else {
        return Protocol::default();
    };
    let known = Protocol::ALL.iter().find(|(name, _)| *name == word);
    let Some((_, protocol)) = known else {
        let names = Protocol::ALL.map(|(name, _)| format!("\"{name}\""));
        let fix = format!("write one of {}", names.join(", "));
        findings.refuse(&node.place, "there is no such protocol", fix);
        return Protocol::default();
    };
    if *protocol == Protocol::Auto && !safe {
        let rule = "it is agreed on over TLS, and there is none";
        let fix = "write \"h2\" or \"http1\", or use https://";
        findings.refuse(&node.place, rule, fix);
    }
    *protocol
}

/// What mends files of certificates.
pub(super) fn fix(error: &CertificateError) -> &'static str {
    match error {
        CertificateError::Read { .. } => "put it there, readable for who runs `outgrow serve`",
        CertificateError::Pem { .. } => "a file in PEM form has lines `-----BEGIN ..-----`",
        CertificateError::Pair { .. } => "give the key that the certificate was made for",
        CertificateError::Authority { .. } => "give the certificate of who has signed theirs",
        CertificateError::List { .. } => "give the list that the authority of clients publishes",
        CertificateError::Expired { .. } => {
            "fetch the next list, or write client_crl_expired = \"accept\""
        }
        CertificateError::NoAuthority => "add tls = { ca = \"ca.pem\" }",
        CertificateError::Name(_) => "write the name that the certificate is for",
        CertificateError::Setup(_) | CertificateError::Clients(_) => "leave out what is not needed",
    }
}
