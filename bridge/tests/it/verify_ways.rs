//! How a verification goes: by which way, of which share, and on from where another was broken
//! off.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use outgrow_bridge::{Cell, ColumnSpec, FaultHook, Link, Source, TableSpec, VerifyOptions, Watch};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::{Postgres, eventually};

use crate::postgres_values::{same, spec};
use crate::shop::{Shop, WAIT, copied};

const NAMES: &str = "CREATE TABLE people (id int PRIMARY KEY, first text, last text, full_name text, price text, \
    flag smallint, score double precision)";
const PARTS: &str = "CREATE TABLE people (id int PRIMARY KEY, whole text, one text, two text, cents bigint, \
    flag text, origin text)";

fn people() -> TableSpec {
    let part = |part| Source::Part {
        of: "full_name".to_owned(),
        part,
        at: " ".to_owned(),
        empty_is_null: false,
    };
    let columns = [
        ("id", Source::Rename("id".to_owned())),
        (
            "whole",
            Source::joined(vec!["first".to_owned(), "last".to_owned()], "-", true),
        ),
        ("one", part(1)),
        ("two", part(2)),
        (
            "cents",
            Source::Cents {
                from: "price".to_owned(),
                scale: 2,
            },
        ),
        (
            "flag",
            Source::Map {
                from: "flag".to_owned(),
                pairs: vec![(Cell::Int(0), "no".into()), (Cell::Int(1), "yes".into())],
            },
        ),
        ("origin", Source::Const("old".into())),
    ];
    TableSpec {
        legacy: "people".to_owned(),
        extracted: "people".to_owned(),
        key: vec!["id".to_owned()],
        columns: columns
            .into_iter()
            .map(|(extracted, source)| ColumnSpec {
                extracted: extracted.to_owned(),
                source,
            })
            .collect(),
        defaults: vec![("score".to_owned(), Cell::Null)],
        ..TableSpec::default()
    }
}

/// Values that the mapping takes, and such as it does not.
const PEOPLE: &str = "INSERT INTO people VALUES (1, 'Ann', 'Lee', 'Ann Lee', '12.90', 1, 0.5), \
    (2, NULL, 'Lee', ' Lee', '-0.5', 0, NULL), (3, NULL, NULL, NULL, NULL, NULL, NULL), \
    (4, 'A', NULL, 'a ', '7', 1, 1), (5, 'A-B', 'C', 'x y', '1', 1, 1), (6, 'A', '', 'x y', '1', 1, 1), \
    (7, 'A', 'B', 'x y z', '1', 1, 1), (8, 'A', 'B', 'x y', '1.005', 1, 1), (9, 'A', 'B', 'x y', '1e3', 1, 1), \
    (10, 'A', 'B', 'x y', '1', 2, 1), (11, 'A', 'B', 'x y', '99999999999999999999', 1, 1), \
    (12, 'A', 'B', 'x y', E'1.00\\n', 1, 1), (13, 'A', 'B', 'xy', '1', 1, 1)";

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_mapped_is_never_proven_equal() {
    let (legacy, extracted) = (Postgres::with(NAMES).await, Postgres::with(PARTS).await);
    legacy.execute(PEOPLE).await;
    let spec = spec(&legacy.url(), &extracted.url(), vec![people()]);
    let link = Link::open(spec).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    // Whatever a row that cannot be mapped might be taken for.
    let rest = "INSERT INTO people SELECT i, 'A-B', 'x', 'y', 100, 'yes', 'old' FROM generate_series(5, 13) AS i";
    let text = format!(
        "SET session_replication_role = replica; {rest}; SET session_replication_role = DEFAULT"
    );
    extracted.execute(&text).await;
    let report = link.verify().await.unwrap();
    let way = &report.ways["people"];
    assert_eq!((way.by.as_str(), &way.why), ("checksums", &None));
    let keys: Vec<&str> = report.differences.iter().map(|d| d.key.as_str()).collect();
    assert_eq!(keys.len(), 9, "{:?}", report.differences);
    assert!(report.differences.iter().all(|d| d.kind == "unmappable"));
    // The four others are in step, and were proven so together with nothing else.
    legacy.execute("DELETE FROM people WHERE id > 4").await;
    eventually("the rows to be gone", WAIT, || async {
        (extracted.number("SELECT count(*) FROM people").await == 4).then_some(())
    })
    .await;
    let report = link.verify().await.unwrap();
    assert_eq!((report.different, report.read_rows), (0, 0));
    assert_eq!(report.looked_at, 4);
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_checksums_says_why() {
    let shop = Shop::with(20).await;
    let link = shop.following().await;
    let report = link.verify().await.unwrap();
    let way = &report.ways["product"];
    assert_eq!(way.by, "rows");
    assert_eq!(
        way.why.as_deref(),
        Some("product.is_featured: an expression makes it")
    );
    assert_eq!(report.ways["category"].by, "joins");
    assert!(report.read_rows > 0 && report.read_rows < report.looked_at);
    link.shutdown().await;
}

async fn many(rows: u32) -> (Postgres, Postgres, outgrow_bridge::LinkSpec) {
    let table = "CREATE TABLE t (id int PRIMARY KEY, word text)";
    let (legacy, extracted) = (Postgres::with(table).await, Postgres::with(table).await);
    let fill = format!("INSERT INTO t SELECT i, 'w' || i FROM generate_series(1, {rows}) AS i");
    legacy.execute(&fill).await;
    let tables = vec![same("t", &["id"], &["id", "word"])];
    let mut spec = spec(&legacy.url(), &extracted.url(), tables);
    spec.limits.verify_rows = 10;
    (legacy, extracted, spec)
}

async fn broken(extracted: &Postgres, ids: &str) {
    let text = format!(
        "SET session_replication_role = replica; UPDATE t SET word = 'rot' WHERE id IN ({ids}); \
         SET session_replication_role = DEFAULT"
    );
    extracted.execute(&text).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_is_a_share_and_no_proof() {
    let (_legacy, extracted, spec) = many(2_000).await;
    let link = Link::open(spec).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    let sample = VerifyOptions {
        share: Some(0.1),
        ..VerifyOptions::default()
    };
    let report = link.verify_with(&sample).await.unwrap();
    assert_eq!(
        (report.looked_at + report.left_out, report.different),
        (2_000, 0)
    );
    assert!(
        (190..=220).contains(&report.looked_at),
        "{}",
        report.looked_at
    );
    // A gate that asks for a verification still has none.
    assert_eq!(link.evidence().unwrap().verified, None);
    assert_eq!(
        link.describe()["verify"]["last"]["looked_at"],
        report.looked_at
    );
    // Where all is rotten, a sample sees it, and a gate with it, and repair has keys to mend.
    link.verify().await.unwrap();
    broken(&extracted, "SELECT generate_series(1, 2000)").await;
    let report = link.verify_with(&sample).await.unwrap();
    assert_eq!(report.different, report.looked_at);
    let verified = link.evidence().unwrap().verified.unwrap();
    assert_eq!(verified["t"].different, report.different);
    assert_eq!(verified["t"].legacy, 2_000, "the counts of the whole");
    let done = link.repair(false).await.unwrap();
    assert_eq!((done.repaired, done.remaining), (report.different, 0));
    // And a clean sample does not make the rest good.
    assert_eq!(link.evidence().unwrap().verified, None);
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_goes_on_where_it_was_broken_off() {
    let (_legacy, extracted, mut spec) = many(2_000).await;
    let passed = Arc::new(AtomicU32::new(0));
    let (kept, seen) = (Arc::new(tokio::sync::Notify::new()), passed.clone());
    let signal = kept.clone();
    spec.limits.fault = Some(FaultHook::new(move |point| {
        if point == "verify-kept" && seen.fetch_add(1, SeqCst) == 4 {
            signal.notify_one();
        }
    }));
    let link = Link::open(spec.clone()).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    broken(&extracted, "5, 1999").await;
    let keep = VerifyOptions {
        keep: true,
        ..VerifyOptions::default()
    };
    let resume = VerifyOptions {
        resume: true,
        ..keep.clone()
    };
    let refused = link.verify_with(&resume).await.unwrap_err().to_string();
    assert!(refused.contains("none was interrupted"), "{refused}");
    tokio::select! {
        _ = link.verify_with(&keep) => panic!("it was to be broken off"),
        () = kept.notified() => {}
    }
    assert_eq!(
        link.describe()["verify"]["running"],
        serde_json::Value::Null
    );
    link.shutdown().await;
    let link = Link::open(spec).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    let before = passed.swap(0, SeqCst);
    let report = link.verify_with(&resume).await.unwrap();
    let resumed = report.resumed.unwrap();
    assert!(
        resumed >= 8 * 10 * u64::from(before - 1) && resumed < 2_000,
        "{resumed}"
    );
    assert_eq!(report.looked_at, 2_000);
    let rows = report.tables["t"];
    assert_eq!(
        (rows.legacy, rows.extracted, rows.different),
        (2_000, 2_000, 2)
    );
    let keys: Vec<&str> = report.differences.iter().map(|d| d.key.as_str()).collect();
    assert_eq!(keys, ["5", "1999"], "one of before, one of after");
    assert!(link.verify_with(&resume).await.is_err(), "it was done");
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_move_are_no_differences() {
    let (legacy, extracted, mut spec) = many(3_000).await;
    spec.limits.verify_rows = 500;
    let link = Link::open(spec).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    broken(&extracted, "17, 1700, 2999").await;
    let stop = Arc::new(AtomicU32::new(0));
    let (pool, stopped) = (legacy.pool().clone(), stop.clone());
    // Everywhere but at these three: updates, deletes and inserts, at the end most of all.
    let writer = tokio::spawn(async move {
        let mut turn = 0i64;
        while stopped.load(SeqCst) == 0 {
            turn += 1;
            let id = 1 + (turn * 7_919) % 2_990;
            let text = match turn % 4 {
                0 => format!("DELETE FROM t WHERE id = {id} AND id NOT IN (17, 1700, 2999)"),
                1 => format!("INSERT INTO t VALUES ({}, 'new')", 10_000 + turn),
                _ => format!(
                    "UPDATE t SET word = 'x{turn}' WHERE id IN ({id}, {}) AND id NOT IN (17, 1700, 2999)",
                    10_000 + turn - 1
                ),
            };
            let run = sqlx::query(sqlx::AssertSqlSafe(text));
            run.execute(&pool).await.unwrap();
        }
        turn
    });
    for _ in 0..8 {
        let report = link.verify().await.unwrap();
        let keys: Vec<&str> = report.differences.iter().map(|d| d.key.as_str()).collect();
        assert_eq!(keys.len(), 3, "{:?}", report.differences);
        assert!(
            ["17", "1700", "2999"].iter().all(|key| keys.contains(key)),
            "{keys:?}"
        );
        assert_eq!(report.unsettled, 0);
        assert_eq!(report.ways["t"].by, "checksums");
    }
    stop.store(1, SeqCst);
    assert!(writer.await.unwrap() > 8);
    let done = link.repair(false).await.unwrap();
    assert_eq!((done.found, done.remaining), (3, 0));
    link.shutdown().await;
}

/// Without anybody's asking: what is found stands in the evidence that gates are decided by.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_is_watched_by_itself() {
    let (_legacy, extracted, mut spec) = many(60).await;
    spec.limits.verify_rows = 20;
    for share in [0.3, 1.0] {
        spec.limits.watch = Some(Watch {
            every: std::time::Duration::from_millis(20),
            share,
        });
        let link = Link::open(spec.clone()).await.unwrap();
        link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
        copied(&link).await;
        eventually("a verification", WAIT, || async {
            (link.describe()["verify"]["last"]["different"] == 0).then_some(())
        })
        .await;
        let whole = share >= 1.0;
        assert_eq!(
            link.evidence().unwrap().verified.is_some(),
            whole,
            "{share}"
        );
        broken(&extracted, "SELECT generate_series(1, 60)").await;
        // A look that has begun before sees some of it; the next one all, if it looks everywhere.
        let enough = if whole { 60 } else { 1 };
        let found = eventually("the rot to be seen", WAIT, || async {
            let verified = link.evidence()?.verified?;
            (verified["t"].different >= enough).then_some(verified["t"].different)
        })
        .await;
        assert_eq!(found == 60, whole, "{share}: {found}");
        // While it is paused nothing is looked at; then repair has the keys.
        link.pause().await.unwrap();
        assert!(link.repair(true).await.unwrap().found > 0);
        link.shutdown().await;
        let heal = "SET session_replication_role = replica; UPDATE t SET word = 'w' || id; \
                    SET session_replication_role = DEFAULT";
        extracted.execute(heal).await;
    }
}

/// The bytes of one encoding are other letters in another, which a hash cannot see.
#[tokio::test(flavor = "multi_thread")]
async fn databases_of_two_encodings_are_compared_by_rows() {
    let table = "CREATE TABLE t (id int PRIMARY KEY, word text)";
    let server = Postgres::with(table).await;
    server
        .execute("CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
        .await;
    let url = server.url();
    let (front, _) = url.rsplit_once('/').unwrap();
    let latin = format!("{front}/latin");
    let pool = sqlx::PgPool::connect(&latin).await.unwrap();
    for text in [table, "INSERT INTO t VALUES (1, '\u{c3}\u{a9}'), (2, 'x')"] {
        sqlx::query(text).execute(&pool).await.unwrap();
    }
    let spec = spec(&latin, &url, vec![same("t", &["id"], &["id", "word"])]);
    let link = Link::open(spec).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    server
        .execute("SET session_replication_role = replica; UPDATE t SET word = '\u{e9}' WHERE id = 1; SET session_replication_role = DEFAULT")
        .await;
    let report = link.verify().await.unwrap();
    assert_eq!(report.different, 1);
    let why = report.ways["t"].why.as_deref();
    assert_eq!(why, Some("the databases have different encodings"));
    link.shutdown().await;
}
