//! What one version of PostgreSQL has and another has not.

use outgrow_bridge::{Capture, Link, Preflight};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::{Postgres, eventually};

use crate::mapping::{says, spec};
use crate::postgres::{Db, Pair};
use crate::postgres_replication::{following, refusal, server};
use crate::postgres_values::same;
use crate::shop::{WAIT, copied};
use crate::turning::cut_over;

/// Before 14 the log tells no messages: what the bridge says there are rows, one for each process of the
/// server and none for those that are gone.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_in_rows_stays_small() {
    let (pair, link) = following(30).await;
    let there = "SELECT count(*) FROM pg_class WHERE relname = 'items_said'";
    let by_rows = server(&pair.legacy).version().await < 14;
    assert_eq!(pair.legacy.number(there).await, i64::from(by_rows));
    for round in 0..20 {
        let change = format!("UPDATE item SET note = 'round {round}'");
        pair.legacy.execute(&change).await;
        pair.equal().await;
        assert_eq!(link.verify().await.unwrap().different, 0);
    }
    assert_eq!(link.evidence().unwrap().foreign_writes, 0);
    link.shutdown().await;
    if !by_rows {
        return;
    }
    let said = "SELECT count(*) FROM _outgrow.items_said";
    let many = pair.legacy.number(said).await;
    assert!((1..20).contains(&many), "{many} rows");
    let gone = "INSERT INTO _outgrow.items_said VALUES (-1, 'long ago')";
    pair.legacy.execute(gone).await;
    let link = Link::open(pair.spec()).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    let left = format!("{said} WHERE pid < 0");
    assert_eq!(pair.legacy.number(&left).await, 0);
    pair.legacy.execute("UPDATE item SET note = 'again'").await;
    pair.equal().await;
    link.close().await.unwrap();
    assert_eq!(pair.legacy.number(there).await, 0, "it is removed");
}

/// Advice on the bound that the server itself has for what slots keep is heeded.
async fn bounded(pair: &Pair, link: &Link) {
    let legacy = server(&pair.legacy);
    let said = |found: Preflight| found.advice.first().map(ToString::to_string);
    let advised = said(link.preflight().await.unwrap()).unwrap();
    assert!(advised.contains("without a bound"), "{advised}");
    for (bound, part) in [
        (
            "4GB",
            Some("gives a replication slot up that keeps 4096 MB"),
        ),
        ("80GB", None),
    ] {
        let set = format!("ALTER SYSTEM SET max_slot_wal_keep_size = '{bound}'");
        legacy.execute(&set).await;
        legacy.execute("SELECT pg_reload_conf()").await;
        eventually("the setting to be seen", WAIT, || async {
            let advised = said(link.preflight().await.ok()?);
            let as_is = match part {
                None => advised.is_none(),
                Some(part) => advised?.contains(part),
            };
            as_is.then_some(())
        })
        .await;
    }
}

/// From 18 on a server may give up slots that nobody reads.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_nobody_reads_for_too_long_is_given_up_and_said_so() {
    let (pair, link) = following(10).await;
    let legacy = server(&pair.legacy);
    bounded(&pair, &link).await;
    if legacy.version().await < 18 {
        return link.shutdown().await;
    }
    let set = "ALTER SYSTEM SET idle_replication_slot_timeout = '1s'";
    legacy.execute(set).await;
    legacy.execute("SELECT pg_reload_conf()").await;
    let said = "gives a replication slot up that nobody reads for 1 s";
    eventually("the setting to be seen", WAIT, || async {
        let advice = link.preflight().await.ok()?.advice;
        let advice = advice.iter().map(ToString::to_string);
        advice.into_iter().any(|a| a.contains(said)).then_some(())
    })
    .await;
    link.shutdown().await;
    let lost = "SELECT count(*) FROM pg_replication_slots WHERE wal_status = 'lost'";
    eventually("the slot to be given up", WAIT, || async {
        legacy.execute("CHECKPOINT").await;
        (legacy.number(lost).await == 1).then_some(())
    })
    .await;
    let text = refusal(&pair).await;
    let why = "longer than `idle_replication_slot_timeout` allows";
    assert!(text.contains(why), "{text}");
}

/// From 18 on a key may forbid overlaps. No row is written by it, for `ON CONFLICT` has no such keys;
/// beside another key it is a constraint as any other.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_without_overlaps_is_no_key_to_write_by() {
    if Postgres::oldest() < 18 {
        return;
    }
    let forbidden =
        "room int4range, during tsrange, note text, %UNIQUE (room, during WITHOUT OVERLAPS)";
    let stays = |own: &str| {
        let columns = forbidden.replace('%', own);
        async move {
            let tables = format!("CREATE TABLE stay ({columns})");
            (Db::pg(&tables).await, Db::pg(&tables).await)
        }
    };
    let linked = async |(legacy, extracted): &(Db, Db), key: &[&str], columns: &[&str]| {
        let tables = vec![same("stay", key, columns)];
        Link::open(spec(legacy, extracted, tables)).await.unwrap()
    };
    let columns = ["room", "during", "note"];
    let sole = stays("").await;
    let link = linked(&sole, &columns[..2], &columns).await;
    let problems = link.preflight().await.unwrap().problems;
    let said = format!("{problems:?}");
    assert!(said.contains("unique"), "{said}");
    link.close().await.unwrap();
    let beside = stays("id int PRIMARY KEY, ").await;
    let link = linked(&beside, &["id"], &["id", "room", "during", "note"]).await;
    let found = link.preflight().await.unwrap();
    assert!(found.ok(), "{:?}", found.problems);
    let (legacy, extracted) = &beside;
    let insert = "INSERT INTO stay SELECT '[1,2)', tsrange(d, d + interval '1 day'), 'x', extract(day FROM d)";
    let insert = insert.replace("stay SELECT", "stay (room, during, note, id) SELECT");
    let days = |from: u32, to: u32| {
        format!(
            "{insert} FROM generate_series(timestamp '2026-01-{from:02}', '2026-01-{to:02}', '1 day') d"
        )
    };
    legacy.execute(&days(1, 9)).await;
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    legacy.execute(&days(10, 20)).await;
    says(extracted, "SELECT count(*) FROM stay", 20).await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    assert_eq!(link.evidence().unwrap().parked, 0);
    link.shutdown().await;
}

/// From 18 on a computed column may have no place in the row: it is read by whoever asks, and nowhere in
/// the log. Either side computes its own, and none is written.
#[tokio::test(flavor = "multi_thread")]
async fn a_virtual_column_is_each_sides_own() {
    if Postgres::oldest() < 18 {
        return;
    }
    const THING: &str = "CREATE TABLE thing (more int GENERATED ALWAYS AS (n + 1) VIRTUAL, \
        id int PRIMARY KEY, n int NOT NULL, twice int GENERATED ALWAYS AS (n * 2) STORED, note text, \
        CHECK (more > 0))";
    let columns = ["id", "n", "note"];
    for capture in [Capture::Triggers, Capture::Replication] {
        let (legacy, extracted) = (Db::pg(THING).await, Db::pg(THING).await);
        legacy
            .execute(
                "INSERT INTO thing (id, n, note) SELECT i, i, 'old' FROM generate_series(1, 50) i",
            )
            .await;
        let mut spec = spec(&legacy, &extracted, vec![same("thing", &["id"], &columns)]);
        spec.legacy = spec.legacy.capturing(capture).unwrap();
        spec.extracted = spec.extracted.capturing(capture).unwrap();
        let link = Link::open(spec).await.unwrap();
        let found = link.preflight().await.unwrap();
        assert!(found.ok(), "{:?}", found.problems);
        link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
        copied(&link).await;
        legacy
            .execute(
                "INSERT INTO thing (id, n, note) VALUES (51, 51, 'new'); \
                 UPDATE thing SET n = n + 100, note = NULL WHERE id % 7 = 0; \
                 DELETE FROM thing WHERE more = 9; UPDATE thing SET id = 60 WHERE id = 2",
            )
            .await;
        let sum =
            "SELECT coalesce(sum(id * 1000000 + n * 1000 + twice + more), 0)::int8 FROM thing";
        says(&extracted, sum, legacy.number(sum).await).await;
        let report = link.verify().await.unwrap();
        assert_eq!((report.different, report.looked_at), (0, 50), "{report:?}");
        cut_over(&link, Side::Extracted).await;
        extracted
            .execute("UPDATE thing SET n = 7, note = 'back' WHERE id = 3; INSERT INTO thing (id, n) VALUES (70, 8)")
            .await;
        let back = "SELECT count(*) FROM thing WHERE id IN (3, 70) AND more IN (8, 9) AND twice = 2 * (more - 1)";
        says(&legacy, back, 2).await;
        // What only one side has is found, by values that are not computed.
        assert_eq!(link.verify().await.unwrap().different, 0);
        assert_eq!(link.evidence().unwrap().parked, 0);
        link.shutdown().await;
    }
}

/// A computed column is no source and no target, and it is said why.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_database_computes_is_not_mapped() {
    let kinds: &[&str] = match Postgres::oldest() {
        18.. => &["STORED", "VIRTUAL"],
        _ => &["STORED"],
    };
    for kind in kinds {
        let computed = format!(
            "CREATE TABLE thing (id int PRIMARY KEY, n int, more int GENERATED ALWAYS AS (n + 1) {kind})"
        );
        let plain = "CREATE TABLE thing (id int PRIMARY KEY, n int, more int)";
        for (legacy, extracted, why) in [
            (&*computed, plain, "each side has its own"),
            (
                plain,
                &*computed,
                "the database computes it (leave it out of the mapping)",
            ),
        ] {
            let (legacy, extracted) = (Db::pg(legacy).await, Db::pg(extracted).await);
            let tables = vec![same("thing", &["id"], &["id", "n", "more"])];
            let link = Link::open(spec(&legacy, &extracted, tables)).await.unwrap();
            let problems = link.preflight().await.unwrap().problems;
            let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
            assert_eq!(all.len(), 1, "{all:?}");
            assert!(all[0].contains("`more`") && all[0].contains(why), "{all:?}");
            link.shutdown().await;
        }
    }
}

/// A table that tells whole rows in the log, and computes some: the server refuses the application's own
/// updates where the publication does not tell computed columns, which of virtual ones none can.
#[tokio::test(flavor = "multi_thread")]
async fn the_application_can_update_what_is_followed_with_whole_rows() {
    let linked = async |kind: &str| {
        let thing = format!(
            "CREATE TABLE thing (more int GENERATED ALWAYS AS (n + 1) {kind}, id int PRIMARY KEY, n int)"
        );
        let (legacy, extracted) = (Db::pg(&thing).await, Db::pg(&thing).await);
        legacy
            .execute("ALTER TABLE thing REPLICA IDENTITY FULL")
            .await;
        legacy
            .execute("INSERT INTO thing (id, n) VALUES (1, 1), (2, 2)")
            .await;
        let tables = vec![same("thing", &["id"], &["id", "n"])];
        let mut spec = spec(&legacy, &extracted, tables);
        spec.legacy = spec.legacy.capturing(Capture::Replication).unwrap();
        (Link::open(spec).await.unwrap(), legacy, extracted)
    };
    let (link, legacy, extracted) = linked("STORED").await;
    let found = link.preflight().await.unwrap();
    assert!(found.ok(), "{:?}", found.problems);
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    let change = "UPDATE thing SET n = 7 WHERE id = 1; DELETE FROM thing WHERE id = 2; \
                  INSERT INTO thing (id, n) VALUES (3, 3)";
    legacy.execute(change).await;
    says(
        &extracted,
        "SELECT sum(id * 1000 + n * 100 + more)::int8 FROM thing",
        5_012,
    )
    .await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    cut_over(&link, Side::Extracted).await;
    extracted
        .execute("UPDATE thing SET n = 8 WHERE id = 1")
        .await;
    says(
        &legacy,
        "SELECT count(*) FROM thing WHERE id = 1 AND more = 9",
        1,
    )
    .await;
    assert_eq!(link.evidence().unwrap().parked, 0);
    link.shutdown().await;
    if Postgres::oldest() < 18 {
        return;
    }
    let (link, legacy, _extracted) = linked("VIRTUAL").await;
    let problems = link.preflight().await.unwrap().problems;
    let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(all.len(), 1, "{all:?}");
    assert!(
        all[0].contains("would refuse the application's own updates"),
        "{all:?}"
    );
    let refused = link.ensure(DataPhase::Copying, Side::Legacy).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("application's own updates"), "{refused}");
    legacy.execute(change).await;
    link.shutdown().await;
}
