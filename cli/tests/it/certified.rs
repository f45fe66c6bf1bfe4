//! Clients with certificates, and those of them that were taken back, on the real process.

#![allow(clippy::unwrap_used)] // Set-up that fails is a failed test.

use std::path::PathBuf;

use outgrow_testkit::certificates::{Authority, Signed};
use outgrow_testkit::eventually;
use outgrow_testkit::process::free_address;
use serde_json::json;
use tokio_rustls::TlsConnector;

use crate::safe::{connector, get};
use crate::site::{IDENTITY, Regular, Site, WAIT, identity};

const FORGED: &str =
    "x-outgrow-identity: forged\r\nx-forwarded-client-cert: Subject=\"CN=root\"\r\n";
const TOLD: &str = "x-forwarded-client-cert";

struct Set {
    server: Authority,
    shown: Signed,
    clients: Authority,
    at: std::net::SocketAddr,
}

impl Set {
    fn new() -> Self {
        let server = Authority::new("ca");
        let shown = server.server(&[crate::safe::NAME]);
        Self {
            server,
            shown,
            clients: Authority::new("clients"),
            at: free_address(),
        }
    }

    /// `[proxy.tls]` with these keys, and what routes ask for.
    fn config(&self, keys: &str, require: &str) -> String {
        format!(
            "[proxy.tls]\nlisten = [\"{}\"]\ncertificates = [{{ cert = {:?}, key = {:?} }}]\nclient_ca = {:?}\n\
             client_auth = \"optional\"\nreload = \"1s\"\n{keys}\n\
             [slices.catalog.filters.auth]\ncertificate = true\nidentity = \"cn\"\n{require}",
            self.at,
            self.shown.certificate,
            self.shown.key,
            self.clients.file()
        )
    }

    fn shows(&self, own: Option<&Signed>) -> TlsConnector {
        connector(&self.server.file(), own, &["http/1.1"])
    }

    /// The status that this one gets; none where it is not let in.
    async fn status(&self, connector: &TlsConnector) -> Option<String> {
        let answer = get(connector, self.at, "/api/products", FORGED)
            .await
            .ok()?;
        answer.split(' ').nth(1).map(str::to_owned)
    }
}

fn lists(file: &PathBuf) -> String {
    format!("client_crl = {file:?}")
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_a_certificate_is_let_in_until_it_is_taken_back() {
    let set = Set::new();
    let [ann, eve, kim] = ["ann", "eve", "kim"].map(|name| set.clients.client(name));
    let own = |signed| set.shows(Some(signed));
    let (ann, eve, kim, nobody) = (own(&ann), own(&eve), own(&kim), set.shows(None));
    let others = Authority::new("clients");
    let forger = own(&others.client("ann"));
    let list = set.clients.revokes(&["kim"], 2090);
    let require = "require = { cn = [\"ann\", \"kim\"] }";
    let site = Site::open("", &set.config(&lists(&list), require)).await;
    let is = async |who: &TlsConnector, status: &str| {
        assert_eq!(set.status(who).await.as_deref(), Some(status));
    };
    is(&ann, "200").await;
    is(&eve, "403").await;
    is(&nobody, "403").await;
    for wrong in [&kim, &forger] {
        assert_eq!(set.status(wrong).await, None, "it is not let in");
    }
    // In clear text there is nobody's certificate, whatever is said.
    let said = [(IDENTITY, "forged"), (TOLD, "Subject=\"CN=ann\"")];
    assert_eq!(site.get(&said).await.status, 403);
    let answer = get(&nobody, set.at, "/elsewhere", FORGED).await.unwrap();
    assert!(answer.ends_with("legacy"), "{answer}");
    let seen = site.legacy.seen();
    assert_eq!((identity(&seen[0]), seen[0].header(TOLD)), (None, None));
    let seen = site.service.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(identity(&seen[0]).unwrap()["sub"], json!("ann"));
    let told = seen[0].header(TOLD).unwrap();
    assert!(told.ends_with(";Subject=\"CN=ann\""), "{told}");
    // Another list, which nobody need be told of, and one that cannot be used, which changes nothing.
    set.clients.revokes(&["ann"], 2090);
    eventually("the new list", WAIT, || async {
        set.status(&ann).await.is_none().then_some(())
    })
    .await;
    is(&kim, "200").await;
    std::fs::write(&list, "rubbish").unwrap();
    assert_eq!(
        site.figure("outgrow_refusals_total{code=\"malformed\"}")
            .await,
        Some(0.0)
    );
    is(&kim, "200").await;
    assert_eq!(set.status(&ann).await, None);
    site.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_whose_certificates_are_believed() {
    let set = Set::new();
    let [ann, eve] = ["ann", "eve"].map(|name| set.clients.client(name));
    let [ann, eve] = [&ann, &eve].map(|own| set.shows(Some(own)));
    let list = set.clients.revokes(&["eve"], 2090);
    let (without, with) = (set.config("", ""), set.config(&lists(&list), ""));
    let site = Site::open("", &without).await;
    let regular = Regular::over_tls(&ann, set.at, "/api/products");
    for _ in 0..2 {
        assert_eq!(set.status(&eve).await.as_deref(), Some("200"));
        regular.more().await;
        site.reload("", &with).await;
        assert_eq!(set.status(&eve).await, None);
        regular.more().await;
        site.reload("", &without).await;
    }
    // A config whose list is too old is refused, and changes nothing.
    set.clients.revokes(&["ann"], 2020);
    site.write("", &with);
    let refused = crate::harness::run_in(site.dir.path(), &["reload"]).await;
    assert_eq!(refused.code, 1, "{}", refused.stdout);
    assert!(refused.stderr.contains("has expired"), "{}", refused.stderr);
    assert_eq!(set.status(&eve).await.as_deref(), Some("200"));
    regular.end().await;
    site.close().await;
}
