//! `[proxy.tls]`: where clients come in over TLS, and what they are shown.

use std::time::Duration;

use outgrow_proxy::{CertificateFiles, TlsSettings};

use super::Surroundings;
use super::problem::Findings;
use super::process::needed_addresses;
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
    let reload = section.duration(findings, "reload", RELOAD, SECOND..=DAY);
    section.finish(findings);
    Some(TlsSettings {
        listen: listen?,
        certificates: certificates?,
        reload,
    })
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
