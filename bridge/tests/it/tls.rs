//! Databases over TLS: servers that take nobody without a certificate, and every way in which a
//! certificate may be wrong.

use std::path::Path;

use outgrow_bridge::{Capture, DatabaseUrl, Link, LinkSpec};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::certificates::Signed;
use outgrow_testkit::{Authority, Mariadb, Postgres};

use crate::mysql::{EXTRACTED_MY, LEGACY_MY};
use crate::postgres::{Db, EXTRACTED_SQLITE, LEGACY_PG, Pair, items};
use crate::shop::copied;
use crate::turning::cut_over;

/// The options of a PostgreSQL URL.
fn postgres(ca: &Authority, client: Option<&Signed>) -> String {
    let ca = format!("sslmode=verify-full&sslrootcert={}", ca.file().display());
    match client {
        None => ca,
        Some(Signed { certificate, key }) => {
            let (certificate, key) = (certificate.display(), key.display());
            format!("{ca}&sslcert={certificate}&sslkey={key}")
        }
    }
}

/// The options of a MySQL URL.
fn mysql(ca: &Authority, client: Option<&Signed>) -> String {
    postgres(ca, client)
        .replace("verify-full", "VERIFY_IDENTITY")
        .replace("sslmode", "ssl-mode")
        .replace("sslrootcert", "ssl-ca")
        .replace("sslcert", "ssl-cert")
        .replace("sslkey", "ssl-key")
}

async fn pair(ca: &Authority) -> (Pair, Box<dyn Fn(&str) -> [String; 2]>) {
    let names = ["127.0.0.1", "db.internal"];
    let legacy = Postgres::strict(ca, ca.server(&names)).await;
    legacy.execute(LEGACY_PG).await;
    let extracted = Mariadb::strict(ca, ca.server(&names)).await;
    extracted.execute(EXTRACTED_MY).await;
    let client = ca.client("outgrow");
    let options = (postgres(ca, Some(&client)), mysql(ca, Some(&client)));
    let by = (
        legacy.url_by("HOST", &options.0),
        extracted.url_by("strict", "HOST", &options.1),
    );
    let urls = move |host: &str| [by.0.replace("HOST", host), by.1.replace("HOST", host)];
    let (legacy, extracted) = (Db::Pg(Box::new(legacy)), Db::My(Box::new(extracted)));
    (Pair::of(legacy, extracted), Box::new(urls))
}

fn over(pair: &Pair, urls: &[String; 2]) -> LinkSpec {
    let [legacy, extracted] = urls;
    LinkSpec {
        legacy: legacy.parse().unwrap(),
        extracted: extracted.parse().unwrap(),
        ..pair.spec()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_copies_follows_and_turns_over_tls() {
    let ca = Authority::new("private");
    let (pair, urls) = pair(&ca).await;
    pair.legacy.execute(&items(1, 300)).await;
    let link = Link::open(over(&pair, &urls("127.0.0.1"))).await.unwrap();
    let found = link.preflight().await.unwrap();
    assert!(found.ok(), "{:?}", found.problems);
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    let text = "UPDATE item SET note = 'over tls' WHERE id < 40";
    pair.legacy.execute(text).await;
    pair.equal().await;
    let plain = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                 WHERE application_name = 'outgrow' AND NOT ssl";
    assert_eq!(pair.legacy.number(plain).await, 0);
    let tls = plain.replace("NOT ssl", "ssl");
    assert!(pair.legacy.number(&tls).await > 0);
    cut_over(&link, Side::Extracted).await;
    let text = "UPDATE article SET note = 'and back' WHERE id > 200";
    pair.extracted.execute(text).await;
    pair.equal().await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    link.close().await.unwrap();
}

/// What the preflight says of a URL for the legacy side.
async fn said(url: DatabaseUrl) -> String {
    let (legacy, extracted) = (Db::lite("").await, Db::lite(EXTRACTED_SQLITE).await);
    let pair = Pair::of(legacy, extracted);
    let spec = LinkSpec {
        legacy: url,
        ..pair.spec()
    };
    let link = Link::open(spec).await.unwrap();
    let found = link.preflight().await.unwrap();
    let started = link.ensure(DataPhase::Copying, Side::Legacy).await;
    assert!(started.is_err(), "it must not start either");
    link.shutdown().await;
    let problem = found.problems.first().expect("there is a problem");
    problem.to_string()
}

async fn refused(url: String, parts: &[&str]) {
    let said = said(url.parse().unwrap()).await;
    for part in parts {
        assert!(
            said.contains(part),
            "{url}\nmust say `{part}`, says: {said}"
        );
    }
}

/// Follows a log by each of these URLs of the legacy side, and looks at it while it does.
pub(crate) async fn follow_by(pair: &Pair, urls: &[String], look: impl AsyncFn()) {
    for (round, url) in (1..).zip(urls) {
        let url: DatabaseUrl = url.parse().unwrap();
        let spec = LinkSpec {
            legacy: url.capturing(Capture::Replication).unwrap(),
            ..pair.spec()
        };
        let link = Link::open(spec).await.unwrap();
        let found = link.preflight().await.unwrap();
        assert!(found.ok(), "{:?}", found.problems);
        link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
        copied(&link).await;
        // Other rows each time, or being equal would say nothing.
        pair.legacy.execute("DELETE FROM item").await;
        pair.legacy.execute(&items(1, 10 * round)).await;
        pair.equal().await;
        look().await;
        link.shutdown().await;
    }
}

/// The user must come with a certificate, also for the log.
#[tokio::test(flavor = "multi_thread")]
async fn mariadb_sends_its_log_over_tls() {
    let ca = Authority::new("private");
    let legacy = Mariadb::strict(&ca, ca.server(&["127.0.0.1"])).await;
    legacy.execute(LEGACY_MY).await;
    let full = mysql(&ca, Some(&ca.client("outgrow")));
    assert!(full.contains("VERIFY_IDENTITY"), "{full}");
    let identity = |options: &str| options.find("ssl-cert").map(|at| options[at..].to_owned());
    let identity = identity(&full).unwrap();
    let by = |host: &str, options: &str| legacy.url_by("strict", host, options);
    let urls = [
        by("127.0.0.1", &full),
        by("localhost", &format!("ssl-mode=REQUIRED&{identity}")),
        by("localhost", &identity),
    ];
    let extracted = Db::lite(EXTRACTED_SQLITE).await;
    let pair = Pair::replicated(Db::My(Box::new(legacy)), extracted);
    follow_by(&pair, &urls, async || {}).await;
}

/// The user must come with a certificate, also for the log.
#[tokio::test(flavor = "multi_thread")]
async fn postgres_sends_its_log_over_tls() {
    let ca = Authority::new("private");
    let legacy = Postgres::strict(&ca, ca.server(&["127.0.0.1"])).await;
    legacy.execute(LEGACY_PG).await;
    let full = postgres(&ca, Some(&ca.client("outgrow")));
    let identity = full[full.find("sslcert").unwrap()..].to_owned();
    let verify_ca = full.replace("verify-full", "verify-ca");
    let urls = [
        legacy.url_by("127.0.0.1", &full),
        legacy.url_by("localhost", &verify_ca),
        legacy.url_by("localhost", &format!("sslmode=require&{identity}")),
        legacy.url_by("localhost", &identity),
    ];
    let extracted = Db::lite(EXTRACTED_SQLITE).await;
    let pair = Pair::replicated(Db::Pg(Box::new(legacy)), extracted);
    let secured = "SELECT count(*) FROM pg_stat_replication JOIN pg_stat_ssl USING (pid) WHERE ssl";
    let look = async || assert_eq!(pair.legacy.number(secured).await, 1);
    follow_by(&pair, &urls, look).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_says_why_a_certificate_is_refused() {
    let (ca, other) = (Authority::new("private"), Authority::new("another"));
    let server = Postgres::strict(&ca, ca.server(&["127.0.0.1", "db.internal"])).await;
    let client = ca.client("outgrow");
    let by = |host, options: &str| server.url_by(host, options);
    let good = postgres(&ca, Some(&client));
    refused(
        by("127.0.0.1", &postgres(&other, Some(&client))),
        &[
            "not signed by a CA that is trusted here",
            "sslrootcert=FILE",
        ],
    )
    .await;
    refused(
        by("localhost", &good),
        &[
            "is for 127.0.0.1, db.internal, not for localhost",
            "a name that is in the certificate",
        ],
    )
    .await;
    refused(
        by("127.0.0.1", &postgres(&ca, None)),
        &["requires a valid client certificate", "`sslcert=FILE`"],
    )
    .await;
    // Of the right authority, but in another's name.
    let stranger = ca.client("stranger");
    refused(
        by("127.0.0.1", &postgres(&ca, Some(&stranger))),
        &["outgrow"],
    )
    .await;
    let foreign = other.client("outgrow");
    refused(
        by("127.0.0.1", &postgres(&ca, Some(&foreign))),
        &[
            "the server refused the TLS handshake",
            "client certificate that it trusts",
        ],
    )
    .await;
    refused(
        by("127.0.0.1", "sslmode=disable"),
        &["no pg_hba.conf entry", "leave `sslmode=disable` out"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_says_why_a_certificate_is_refused() {
    let (ca, other) = (Authority::new("private"), Authority::new("another"));
    let server = Mariadb::strict(&ca, ca.server(&["127.0.0.1"])).await;
    let client = ca.client("outgrow");
    let by = |host, options: &str| server.url_by("strict", host, options);
    refused(
        by("127.0.0.1", &mysql(&other, Some(&client))),
        &["not signed by a CA that is trusted here", "ssl-ca=FILE"],
    )
    .await;
    let verified = mysql(&ca, Some(&client));
    refused(
        by("localhost", &verified),
        &["is for 127.0.0.1, not for localhost"],
    )
    .await;
    refused(
        by("127.0.0.1", &mysql(&ca, None)),
        &["Access denied", "with a client certificate"],
    )
    .await;
    refused(
        by("127.0.0.1", "ssl-mode=DISABLED"),
        &["Access denied", "come by TLS"],
    )
    .await;
    // The name does not matter to VERIFY_CA.
    let lax = verified.replace("VERIFY_IDENTITY", "VERIFY_CA");
    let said = said(by("localhost", &lax).parse().unwrap()).await;
    assert!(said.contains("no such table"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_without_tls_are_taken_only_where_it_is_not_asked_for() {
    let (pg, my) = (Postgres::start().await, Mariadb::plain().await);
    for url in [
        pg.url_by("127.0.0.1", "sslmode=require"),
        my.url_by("outgrow", "127.0.0.1", "ssl-mode=REQUIRED"),
    ] {
        refused(
            url,
            &["server does not support TLS", "turn TLS on at the server"],
        )
        .await;
    }
    for url in [pg.url(), my.url()] {
        let said = said(url.parse().unwrap()).await;
        assert!(said.contains("no such table"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_is_named() {
    let (ca, dir) = (Authority::new("private"), tempfile::tempdir().unwrap());
    let write = |name: &str, text: &[u8]| std::fs::write(dir.path().join(name), text).unwrap();
    let (a, b) = (ca.client("a"), ca.client("b"));
    write("empty.pem", b"");
    write(
        "broken.pem",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    write("a.pem", &std::fs::read(a.certificate).unwrap());
    write("b.key", &std::fs::read(b.key).unwrap());
    let based = |options: &str| {
        let url: DatabaseUrl = format!("postgres://u@127.0.0.1:1/d?{options}")
            .parse()
            .unwrap();
        url.based_on(dir.path())
    };
    let at = |name: &str| Path::new(dir.path()).join(name).display().to_string();
    for (options, parts) in [
        (
            "sslrootcert=none.pem",
            ["the CA file", &at("none.pem"), "No such file"],
        ),
        (
            "sslrootcert=empty.pem",
            ["the CA file", &at("empty.pem"), "holds no certificate"],
        ),
        (
            "sslrootcert=broken.pem",
            ["the CA file", &at("broken.pem"), "is broken"],
        ),
        (
            "sslcert=a.pem&sslkey=none.key",
            ["the client key", &at("none.key"), "No such file"],
        ),
        (
            "sslcert=a.pem&sslkey=a.pem",
            ["the client key", &at("a.pem"), "holds no key"],
        ),
        (
            "sslcert=a.pem&sslkey=b.key",
            ["the client key", &at("b.key"), "does not fit"],
        ),
    ] {
        let said = said(based(options)).await;
        for part in parts {
            assert!(said.contains(part), "{options}: {said}");
        }
    }
}
