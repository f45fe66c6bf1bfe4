//! Dates of MariaDB that are none, by each choice, found by triggers and in the log.

use outgrow_bridge::{Capture, Link, LinkSpec, TableSpec, ZeroDates};
use outgrow_rollout::{DataPhase, Side};

use crate::mapping::{entry, parked, reasons, same, says, spec, verified};
use crate::postgres::Db;
use crate::shop::copied;
use crate::turning::cut_over;

const LEGACY: &str = "CREATE TABLE visit (id integer PRIMARY KEY, day date NOT NULL, at datetime(3) NOT NULL, \
    seen timestamp NULL, note text)";
const EXTRACTED: &str = "CREATE TABLE stay (id integer PRIMARY KEY, day date, at timestamp, seen timestamptz, note text)";
const ROWS: &str = "INSERT INTO visit VALUES (1, '2026-02-03', '2026-02-03 04:05:06.5', '2026-02-03 04:05:06', 'a'), \
    (2, '0000-00-00', '0000-00-00 00:00:00', '0000-00-00 00:00:00', 'b'), (3, '2026-03-00', '2026-03-01 00:00:00', NULL, 'c')";

fn visits(zero_dates: ZeroDates) -> Vec<TableSpec> {
    let names = ["id", "day", "at", "seen", "note"];
    let columns = names.map(|name| (name, same(name))).to_vec();
    vec![TableSpec {
        zero_dates,
        ..entry("visit", "stay", columns)
    }]
}

async fn linked(spec: LinkSpec) -> Link {
    let link = Link::open(spec).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    link
}

async fn become_null(legacy: Db, capture: Capture) {
    let extracted = Db::pg(EXTRACTED).await;
    legacy.execute(ROWS).await;
    let mut spec = spec(&legacy, &extracted, visits(ZeroDates::Null));
    spec.legacy = spec.legacy.capturing(capture).unwrap();
    let link = linked(spec).await;
    let nulls = "SELECT count(*) FROM stay WHERE day IS NULL AND at IS NULL AND seen IS NULL";
    says(&extracted, nulls, 1).await;
    // A date that lacks its day only is a mistake of somebody's.
    parked(&link, 1).await;
    assert!(
        reasons(&link)
            .await
            .contains("day: '2026-03-00' is no date")
    );
    legacy
        .execute(
            "UPDATE visit SET day = '2026-03-04' WHERE id = 3; UPDATE visit SET day = '0000-00-00' WHERE id = 1; \
             INSERT INTO visit VALUES (4, '0000-00-00', '0000-00-00', '0000-00-00', 'd')",
        )
        .await;
    parked(&link, 0).await;
    says(&extracted, nulls, 2).await;
    says(
        &extracted,
        "SELECT count(*) FROM stay WHERE id = 1 AND day IS NULL AND at = '2026-02-03 04:05:06.5'",
        1,
    )
    .await;
    verified(&link).await;
    assert_eq!(link.verify().await.unwrap().ways["stay"].by, "checksums");

    cut_over(&link, Side::Extracted).await;
    extracted
        .execute("UPDATE stay SET note = 'back' WHERE id = 2; INSERT INTO stay (id, note) VALUES (9, 'new')")
        .await;
    // What must not be NULL is zero again; what may be is NULL.
    let zero =
        "SELECT count(*) FROM visit WHERE id IN (2, 9) AND day = 0 AND at = 0 AND seen IS NULL";
    says(&legacy, zero, 2).await;
    let kept = "SELECT count(*) FROM visit WHERE id = 4 AND seen = 0 AND seen IS NOT NULL";
    says(&legacy, kept, 1).await;
    verified(&link).await;
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zero_dates_become_null() {
    become_null(Db::my(LEGACY).await, Capture::Triggers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zero_dates_of_the_log_become_null() {
    become_null(Db::logged(LEGACY).await, Capture::Replication).await;
}

/// Two databases that both have such dates exchange them, and back.
#[tokio::test(flavor = "multi_thread")]
async fn zero_dates_are_kept() {
    let legacy = Db::my(LEGACY).await;
    let extracted = Db::my(&LEGACY.replace("visit", "stay")).await;
    legacy.execute(ROWS).await;
    let link = linked(spec(&legacy, &extracted, visits(ZeroDates::Keep))).await;
    let zero = "SELECT count(*) FROM stay WHERE id = 2 AND day = 0 AND at = 0 AND seen = 0";
    says(&extracted, zero, 1).await;
    says(
        &extracted,
        "SELECT count(*) FROM stay WHERE day = '2026-03-00'",
        1,
    )
    .await;
    verified(&link).await;
    cut_over(&link, Side::Extracted).await;
    extracted
        .execute("UPDATE stay SET note = 'back' WHERE id = 2")
        .await;
    says(
        &legacy,
        "SELECT count(*) FROM visit WHERE note = 'back' AND day = 0 AND at = 0 AND seen = 0",
        1,
    )
    .await;
    verified(&link).await;
    link.shutdown().await;
}

/// Where the other side has no such dates they are parked, by choice or not.
#[tokio::test(flavor = "multi_thread")]
async fn zero_dates_are_parked() {
    for (choice, why) in [
        (ZeroDates::Keep, "0000-00-00"),
        (ZeroDates::Refuse, "day: '0000-00-00' is no date"),
    ] {
        let (legacy, extracted) = (Db::my(LEGACY).await, Db::pg(EXTRACTED).await);
        legacy.execute(ROWS).await;
        let link = linked(spec(&legacy, &extracted, visits(choice))).await;
        parked(&link, 2).await;
        let reasons = reasons(&link).await;
        assert!(reasons.contains(why), "{choice:?}: {reasons}");
        assert_eq!(link.verify().await.unwrap().different, 2);
        legacy
            .execute(
                "UPDATE visit SET day = '2026-01-01', at = '2026-01-01', seen = NULL WHERE id > 1",
            )
            .await;
        parked(&link, 0).await;
        verified(&link).await;
        link.shutdown().await;
    }
}
