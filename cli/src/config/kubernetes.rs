//! `discovery = { kubernetes = "SERVICE" }`: where the API server is, and who asks it.

use std::path::{Path, PathBuf};

use outgrow_proxy::{Address, EndpointPort, Kubernetes, Source, Transport, UpstreamTls};

use super::problem::Findings;
use super::section::{Node, Section};
use super::sources::{name, registry_tls};
use super::{Surroundings, scalar, transport};

/// What each pod is given of its account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

pub(super) fn read(
    node: &Node<'_>,
    section: &mut Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Option<Source> {
    let service = name(node, findings);
    let server = match section.get("server") {
        Some(node) => {
            let server = server(&node, findings);
            let safe = server.as_ref().and_then(|(_, safe)| *safe);
            let tls = registry_tls(section, findings, around, safe);
            server.map(|(server, _)| (server, tls))
        }
        None => in_cluster(node, section, findings, around),
    };
    let namespace = match section.get("namespace") {
        Some(node) => name(&node, findings),
        None => own_namespace(section, findings),
    };
    let port = match section.get("port") {
        None => Some(EndpointPort::Only),
        Some(node) if node.is_text() => name(&node, findings).map(EndpointPort::Name),
        Some(node) => {
            let number = node.integer(findings, 1..=u64::from(u16::MAX));
            let number = number.and_then(|number| u16::try_from(number).ok());
            number.map(EndpointPort::Number)
        }
    };
    let account = Path::new(ACCOUNT).join("token");
    let token_file = match section.get("token_file") {
        Some(node) => Some(around.dir.join(node.word(findings)?)),
        None => account.exists().then_some(account),
    };
    let (server, tls) = server?;
    Some(Source::Kubernetes(Kubernetes {
        server,
        tls,
        namespace: namespace?,
        service: service?,
        port: port?,
        token_file,
    }))
}

fn server(node: &Node<'_>, findings: &mut Findings<'_>) -> Option<(Address, Option<bool>)> {
    let text = node.word(findings)?;
    let fix = "write \"https://HOST:PORT\", the address of the API server";
    match scalar::upstream(&text) {
        Ok((Source::At(address), safe)) => Some((address, safe)),
        Ok(_) => {
            findings.refuse(&node.place, "it is no address", fix);
            None
        }
        Err(rule) => {
            findings.refuse(&node.place, rule, fix);
            None
        }
    }
}

/// As each pod is told.
fn in_cluster(
    node: &Node<'_>,
    section: &mut Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Option<(Address, Option<UpstreamTls>)> {
    let told = |name| (around.env)(name);
    let (host, port) = (
        told("KUBERNETES_SERVICE_HOST"),
        told("KUBERNETES_SERVICE_PORT"),
    );
    let (Some(host), Some(port)) = (host, port) else {
        let rule = "where the API server is cannot be told: this is no pod";
        findings.refuse(&node.place, rule, "add server = \"https://HOST:PORT\"");
        return None;
    };
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host
    };
    let address = format!("{host}:{port}").parse();
    let address = address.map_err(|_| {
        let rule = "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are no address";
        findings.refuse(&node.place, rule, "add server = \"https://HOST:PORT\"");
    });
    let given = section.get("ca");
    let given = given.and_then(|node| transport::path(&node, findings, around));
    let ca: PathBuf = given.unwrap_or_else(|| Path::new(ACCOUNT).join("ca.crt"));
    let tls = UpstreamTls {
        ca: Some(ca),
        ..UpstreamTls::default()
    };
    let checked = Transport {
        tls: Some(tls.clone()),
        ..Transport::default()
    };
    if let Err(error) = checked.check() {
        findings.lack(&node.place, error.to_string(), transport::fix(&error));
    }
    Some((address.ok()?, Some(tls)))
}

fn own_namespace(section: &Section<'_>, findings: &mut Findings<'_>) -> Option<String> {
    let text = std::fs::read_to_string(Path::new(ACCOUNT).join("namespace"));
    if text.is_err() {
        let rule = "`namespace` is missing";
        findings.lack(&section.place, rule, "add namespace = \"NAME\"");
    }
    Some(text.ok()?.trim().to_owned())
}
