//! What MySQL 8 and newer have and MariaDB has not, with a real one (`OUTGROW_MYSQL`).

use outgrow_bridge::{Capture, DatabaseUrl, Link, LinkSpec, TableSpec};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::Mariadb;
use outgrow_testkit::mysql::HASHES;

use crate::mapping::{entry, following, parked, same, says, spec, verified};
use crate::mysql::{EXTRACTED_MY, LEGACY_MY};
use crate::mysql_binlog::stopped;
use crate::postgres::{Db, EXTRACTED_SQLITE, Pair, items, whole_way};
use crate::shop::copied;
use crate::turning::cut_over;

async fn problems(spec: LinkSpec) -> String {
    let link = Link::open(spec).await.unwrap();
    let found = link.preflight().await.unwrap();
    link.shutdown().await;
    let said: Vec<String> = found.problems.iter().map(ToString::to_string).collect();
    said.join("\n")
}

fn of(db: &Db) -> &Mariadb {
    match db {
        Db::My(server) => server,
        Db::Lite(_) | Db::Pg(_) => unreachable!("it is MySQL here"),
    }
}

/// Passwords as MySQL keeps them by itself: over TLS, which the server has by itself, and for the
/// log, too; without TLS nothing is sent, and it is said what to do.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs MySQL: scripts/test gets it, and names it in OUTGROW_MYSQL"]
async fn passwords_go_over_tls() {
    let legacy = Db::logged(LEGACY_MY).await;
    legacy.execute(&items(1, 50)).await;
    legacy
        .execute(
            "SET GLOBAL log_bin_trust_function_creators = 1; \
             CREATE USER sha@'%' IDENTIFIED WITH caching_sha2_password BY 's3cr?t'; GRANT ALL ON shop.* TO sha@'%'; \
             GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO sha@'%'",
        )
        .await;
    let pair = Pair::replicated(legacy, Db::lite(EXTRACTED_SQLITE).await);
    let by = |options: &str| -> LinkSpec {
        let url = of(&pair.legacy).url_by("sha:s3cr%3Ft", "127.0.0.1", options);
        let url: DatabaseUrl = url.parse().unwrap();
        LinkSpec {
            legacy: url.capturing(Capture::Replication).unwrap(),
            ..pair.spec()
        }
    };
    // What the server remembers of a login is forgotten, so that the password itself is asked for.
    pair.legacy.execute("FLUSH PRIVILEGES").await;
    let said = problems(by("ssl-mode=DISABLED")).await;
    for part in ["over TLS only", "leave `ssl-mode=DISABLED` out"] {
        assert!(said.contains(part), "{said}");
    }
    let link = Link::open(by("ssl-mode=REQUIRED")).await.unwrap();
    let found = link.preflight().await.unwrap();
    assert!(found.ok(), "{:?}", found.problems);
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    pair.legacy.execute("FLUSH PRIVILEGES").await;
    pair.legacy.execute("DELETE FROM item WHERE id = 5").await;
    pair.equal().await;
    let dumps = "SELECT count(*) FROM performance_schema.threads WHERE processlist_user = 'sha' \
                 AND processlist_command LIKE 'Binlog Dump%' AND connection_type = 'SSL/TLS'";
    assert_eq!(pair.legacy.number(dumps).await, 1);
    link.shutdown().await;
}

/// Groups of servers ask for that, and hosts of databases.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs MySQL: scripts/test gets it, and names it in OUTGROW_MYSQL"]
async fn servers_that_want_primary_keys_have_them() {
    let (legacy, extracted) = (Db::my(LEGACY_MY).await, Db::logged(EXTRACTED_MY).await);
    for db in [&legacy, &extracted] {
        db.execute("SET GLOBAL sql_require_primary_key = ON").await;
    }
    whole_way(Pair::of(legacy, extracted)).await;
}

fn things(columns: &[&str]) -> Vec<TableSpec> {
    let columns = columns.iter().map(|&name| (name, same(name))).collect();
    vec![entry("thing", "thing", columns)]
}

/// A column that `*` leaves out is mapped like any other; what the server computes is not written.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs MySQL: scripts/test gets it, and names it in OUTGROW_MYSQL"]
async fn hidden_computed_and_default_columns() {
    let thing = "CREATE TABLE thing (id int PRIMARY KEY, n int NOT NULL, secret varchar(20) INVISIBLE, \
                 twice int AS (n * 2) STORED, more int AS (n + 1) VIRTUAL, token varchar(36) NOT NULL DEFAULT (uuid()), \
                 doc json DEFAULT (json_object('a', 1)), INDEX ((n % 10)))";
    for (legacy, by) in [
        (Db::my(thing).await, Capture::Triggers),
        (Db::logged(thing).await, Capture::Replication),
    ] {
        let extracted = Db::my(thing).await;
        legacy
            .execute("INSERT INTO thing (id, n, secret) VALUES (1, 10, 'hidden'), (2, 20, NULL)")
            .await;
        let mapped = things(&["id", "n", "secret", "token", "doc"]);
        let mut spec = spec(&legacy, &extracted, mapped);
        spec.legacy = spec.legacy.capturing(by).unwrap();
        let link = following(spec).await;
        legacy
            .execute(
                "INSERT INTO thing (id, n, secret) VALUES (3, 30, 'later'); UPDATE thing SET n = 11 WHERE id = 1; \
                 UPDATE thing SET doc = json_set(doc, '$.b', 'é') WHERE id = 2",
            )
            .await;
        let sum =
            "SELECT CAST(sum(n * 1000000 + twice * 1000 + more) AS SIGNED) FROM thing WHERE id > 0";
        says(&extracted, sum, legacy.number(sum).await).await;
        let digest = "SELECT CAST(bit_xor(crc32(concat_ws('|', id, secret, token, doc))) AS SIGNED) FROM thing";
        says(&extracted, digest, legacy.number(digest).await).await;
        verified(&link).await;
        cut_over(&link, Side::Extracted).await;
        extracted
            .execute("UPDATE thing SET secret = 'back', n = 7 WHERE id = 3; DELETE FROM thing WHERE id = 2")
            .await;
        says(
            &legacy,
            "SELECT count(*) FROM thing WHERE secret = 'back' AND twice = 14",
            1,
        )
        .await;
        verified(&link).await;
        link.shutdown().await;
    }
}

/// Keys of the collation that MySQL 8 has by itself: `a`, `A` and `á` are one, `a` and `a ` are two.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs MySQL: scripts/test gets it, and names it in OUTGROW_MYSQL"]
async fn keys_are_alike_and_in_order_as_the_newer_collations_say() {
    let in_pg = "CREATE TABLE thing (id text PRIMARY KEY, n int NOT NULL)";
    for (collation, with_pg) in [
        ("utf8mb4_0900_ai_ci", false),
        ("utf8mb4_0900_ai_ci", true),
        ("utf8mb4_0900_as_cs", true),
        ("utf8mb4_0900_bin", false),
    ] {
        let thing = format!(
            "CREATE TABLE thing (id varchar(40) COLLATE {collation} PRIMARY KEY, n int NOT NULL)"
        );
        let extracted = match with_pg {
            true => Db::pg(in_pg).await,
            false => Db::my(&thing).await,
        };
        let legacy = Db::my(&thing).await;
        legacy
            .execute(
                "INSERT INTO thing VALUES ('a', 1), ('a ', 2), ('b', 3), ('Ö', 4), ('straße', 5), ('Z', 6), \
                 ('😀', 7), ('_', 8), ('', 9), ('ÿ', 10); \
                 INSERT INTO thing SELECT concat('n', seq, char(97 + seq % 26)), seq FROM seq_100_to_500",
            )
            .await;
        let link = following(spec(&legacy, &extracted, things(&["id", "n"]))).await;
        verified(&link).await;
        legacy
            .execute(
                "UPDATE thing SET n = n + 1000 WHERE n % 7 = 0; DELETE FROM thing WHERE n = 2; \
                 UPDATE thing SET id = 'B' WHERE id = 'b'; UPDATE thing SET id = 'Á' WHERE id = 'a'; \
                 DELETE FROM thing WHERE id = 'Z'; INSERT INTO thing VALUES ('z', 60)",
            )
            .await;
        let renamed = "SELECT count(*) FROM thing WHERE n = 60";
        says(&extracted, renamed, 1).await;
        parked(&link, 0).await;
        verified(&link).await;
        cut_over(&link, Side::Extracted).await;
        extracted
            .execute("UPDATE thing SET n = -n WHERE n < 5; DELETE FROM thing WHERE n = 5")
            .await;
        says(&legacy, "SELECT count(*) FROM thing WHERE n = 5", 0).await;
        says(&legacy, "SELECT count(*) FROM thing WHERE n < 0", 3).await;
        verified(&link).await;
        link.shutdown().await;
    }
}

/// An update that is logged as parts of a document is refused before, and stops a link that meets one.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs MySQL: scripts/test gets it, and names it in OUTGROW_MYSQL"]
async fn parts_of_documents_are_refused() {
    let thing = "CREATE TABLE thing (id int PRIMARY KEY, doc json)";
    let legacy = Db::logged(thing).await;
    let extracted = Db::lite("CREATE TABLE thing (id integer PRIMARY KEY, doc text)").await;
    legacy
        .execute("INSERT INTO thing VALUES (1, json_object('a', repeat('long', 500), 'b', 1))")
        .await;
    let mapped = || {
        let mut spec = spec(&legacy, &extracted, things(&["id", "doc"]));
        spec.legacy = spec.legacy.capturing(Capture::Replication).unwrap();
        spec
    };
    legacy
        .execute("SET GLOBAL binlog_row_value_options = PARTIAL_JSON")
        .await;
    let said = problems(mapped()).await;
    assert!(
        said.contains("SET GLOBAL binlog_row_value_options = ''"),
        "{said}"
    );
    legacy
        .execute("SET GLOBAL binlog_row_value_options = ''")
        .await;
    let link = following(mapped()).await;
    legacy
        .execute(
            "SET SESSION binlog_row_value_options = PARTIAL_JSON; \
             UPDATE thing SET doc = json_set(doc, '$.b', 2) WHERE id = 1",
        )
        .await;
    let said = stopped(&link).await;
    assert!(said.contains("binlog_row_value_options"), "{said}");
    link.shutdown().await;
}

/// Places on maps have no counterpart.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs MySQL: scripts/test gets it, and names it in OUTGROW_MYSQL"]
async fn places_on_maps_are_refused() {
    let thing = "CREATE TABLE thing (id int PRIMARY KEY, at point NOT NULL SRID 4326)";
    let extracted = Db::pg("CREATE TABLE thing (id int PRIMARY KEY, at text)").await;
    let legacy = Db::my(thing).await;
    let said = problems(spec(&legacy, &extracted, things(&["id", "at"]))).await;
    assert!(said.contains("`point` is not carried over"), "{said}");
}

/// Transactions of a name with a tag, which newer servers have, are followed; by their names no other
/// server is gone on with.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs MySQL: scripts/test gets it, and names it in OUTGROW_MYSQL"]
async fn transactions_with_tags_are_followed() {
    let thing = "CREATE TABLE thing (id int PRIMARY KEY, n int)";
    let (legacy, extracted) = (
        Db::logged(thing).await,
        Db::lite("CREATE TABLE thing (id integer PRIMARY KEY, n integer)").await,
    );
    let version = of(&legacy).text("SELECT VERSION()").await;
    let mut spec = spec(&legacy, &extracted, things(&["id", "n"]));
    spec.legacy = spec.legacy.capturing(Capture::Replication).unwrap();
    let link = following(spec).await;
    let tag = match version.starts_with("8.0") {
        true => "AUTOMATIC",
        false => "AUTOMATIC:ours",
    };
    legacy
        .execute(&format!(
            "SET gtid_next = '{tag}'; INSERT INTO thing VALUES (1, 1); UPDATE thing SET n = 2"
        ))
        .await;
    says(&extracted, "SELECT count(*) FROM thing WHERE n = 2", 1).await;
    verified(&link).await;
    link.shutdown().await;
}

/// GTIDs are off in MySQL unless somebody turns them on. They may be turned on beside a link that follows, as
/// the check advises; from then on places have them, and a fail-over could be gone on with.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs MySQL: scripts/test gets it, and names it in OUTGROW_MYSQL"]
async fn names_of_transactions_are_turned_on_beside_a_link() {
    let mut legacy = Mariadb::logged(LEGACY_MY).await;
    legacy
        .restart(&["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"])
        .await;
    legacy.execute(&items(1, 20)).await;
    let extracted = Db::lite(EXTRACTED_SQLITE).await;
    let pair = Pair::replicated(Db::My(Box::new(legacy)), extracted);
    let link = Link::open(pair.spec()).await.unwrap();
    let found = link.preflight().await.unwrap();
    assert!(found.ok(), "{:?}", found.problems);
    let advice: Vec<String> = found.advice.iter().map(ToString::to_string).collect();
    assert!(advice.concat().contains("gtid_mode is `OFF`"), "{advice:?}");
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    let named = "SELECT count(*) FROM _outgrow_items_slot WHERE gtids LIKE '%-%:%'";
    assert_eq!(pair.legacy.number(named).await, 0);
    for step in [
        "enforce_gtid_consistency = ON",
        "gtid_mode = OFF_PERMISSIVE",
        "gtid_mode = ON_PERMISSIVE",
        "gtid_mode = ON",
    ] {
        pair.legacy.execute(&format!("SET GLOBAL {step}")).await;
        let text = format!("UPDATE item SET note = '{step}' WHERE id < 9");
        pair.legacy.execute(&text).await;
        pair.equal().await;
    }
    link.shutdown().await;
    let link = Link::open(pair.spec()).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    pair.legacy.execute("UPDATE item SET note = 'named'").await;
    pair.equal().await;
    says(&pair.legacy, named, 1).await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    link.shutdown().await;
}

/// Newer servers have MD5 as a component of its own. Without it rows are compared, and it is said why.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs MySQL: scripts/test gets it, and names it in OUTGROW_MYSQL"]
async fn a_server_without_hashes_is_verified_by_rows() {
    let thing = "CREATE TABLE thing (id int PRIMARY KEY, n int)";
    let (legacy, extracted) = (Db::my(thing).await, Db::my(thing).await);
    legacy
        .execute("INSERT INTO thing VALUES (1, 1), (2, 2)")
        .await;
    let gone = sqlx::query("UNINSTALL COMPONENT 'file://component_classic_hashing'")
        .execute(of(&legacy).pool())
        .await
        .is_ok();
    let link = following(spec(&legacy, &extracted, things(&["id", "n"]))).await;
    let report = link.verify().await.unwrap();
    assert_eq!(report.different, 0);
    let way = &report.ways["thing"];
    if gone {
        assert_eq!(way.by, "rows");
        let why = way.why.as_deref().unwrap_or_default();
        assert!(why.contains(HASHES), "{why}");
        legacy.execute(HASHES).await;
    }
    let report = link.verify().await.unwrap();
    assert_eq!(report.ways["thing"].by, "checksums");
    link.shutdown().await;
}
