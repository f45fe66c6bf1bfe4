//! `[proxy.tls]`: where clients come in over TLS, and what they are shown.

use std::time::Duration;

use outgrow_proxy::{CertificateFiles, ClientAuth, Revocation, TlsSettings};

use super::Surroundings;
use super::problem::{Findings, Place};
use super::process::{Reported, needed_addresses};
use super::section::{Node, Section};
use super::transport;

/// A certificate is changed days before the old one ends; sooner than this nobody waits for it.
const RELOAD: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn read(
    mut section: Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Option<TlsSettings> {
    let fix = "add listen = [\"0.0.0.0:443\"]";
    let listen = section
        .need(findings, "listen", fix)
        .map(|node| needed_addresses(&node, findings, fix));
    let fix = "add certificates = [{ cert = \"shop.pem\", key = \"shop.key\" }]";
    let certificates = section.need(findings, "certificates", fix).map(|node| {
        let items = node.list(findings);
        if items.is_empty() && node.is_list() {
            findings.refuse(&node.place, "it must not be empty", fix);
        }
        let read = |item: Node<'_>| certificate(&item, findings, around);
        items.into_iter().filter_map(read).collect()
    });
    let clients = clients(&mut section, findings, around);
    let reload = section.duration(findings, "reload", RELOAD, SECOND..=DAY);
    section.finish(findings);
    Some(TlsSettings {
        listen: listen?,
        certificates: certificates?,
        clients: clients.ok()?,
        reload,
    })
}

/// Whose certificates clients may show, if they are asked for any.
fn clients(
    section: &mut Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Result<Option<ClientAuth>, Reported> {
    let (ca, auth) = (section.get("client_ca"), section.get("client_auth"));
    let lists = revocation(section, findings, around)?;
    let required = match &auth {
        None => true,
        Some(node) => match &*node.word(findings).ok_or(Reported)? {
            "required" => true,
            "optional" => false,
            _ => {
                let fix = "write \"required\" or \"optional\"";
                findings.refuse(&node.place, "clients cannot be asked so", fix);
                return Err(Reported);
            }
        },
    };
    let Some(ca) = ca else {
        let place = auth.map(|auth| auth.place);
        let Some(place) = place.or(lists.map(|(place, _)| place)) else {
            return Ok(None);
        };
        let rule = "it is not said whose certificates are believed";
        findings.refuse(&place, rule, "add client_ca = \"clients.pem\"");
        return Err(Reported);
    };
    let path = around.dir.join(ca.word(findings).ok_or(Reported)?);
    let mut clients = ClientAuth {
        ca: path,
        required,
        revocation: None,
    };
    if let Err(error) = clients.check() {
        findings.refuse(&ca.place, error.to_string(), transport::fix(&error));
        return Err(Reported);
    }
    let Some((place, lists)) = lists else {
        return Ok(Some(clients));
    };
    clients.revocation = Some(lists);
    if let Err(error) = clients.check() {
        findings.refuse(&place, error.to_string(), transport::fix(&error));
        return Err(Reported);
    }
    Ok(Some(clients))
}

/// Which of them were taken back.
fn revocation(
    section: &mut Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Result<Option<(Place, Revocation)>, Reported> {
    let (lists, age) = (section.get("client_crl"), section.get("client_crl_expired"));
    let expired = match &age {
        None => false,
        Some(node) => match &*node.word(findings).ok_or(Reported)? {
            "refuse" => false,
            "accept" => true,
            _ => {
                let fix = "write \"refuse\" or \"accept\"";
                findings.refuse(&node.place, "an old list cannot be taken so", fix);
                return Err(Reported);
            }
        },
    };
    match (lists, age) {
        (None, None) => Ok(None),
        (None, Some(age)) => {
            let fix = "add client_crl = \"revoked.pem\"";
            findings.refuse(&age.place, "there is no list that could expire", fix);
            Err(Reported)
        }
        (Some(node), _) => {
            let lists = around.dir.join(node.word(findings).ok_or(Reported)?);
            Ok(Some((node.place, Revocation { lists, expired })))
        }
    }
}

fn certificate(
    node: &Node<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Option<CertificateFiles> {
    let mut section = node.section(findings)?;
    let mut path = |key, fix: &str| {
        let node = section.need(findings, key, fix)?;
        Some(around.dir.join(node.word(findings)?))
    };
    let cert = path(
        "cert",
        "name the file with the certificate and those above it",
    );
    let key = path("key", "name the file with the private key");
    section.finish(findings);
    let files = CertificateFiles {
        cert: cert?,
        key: key?,
    };
    if let Err(error) = files.check() {
        findings.lack(&node.place, error.to_string(), transport::fix(&error));
        return None;
    }
    Some(files)
}
