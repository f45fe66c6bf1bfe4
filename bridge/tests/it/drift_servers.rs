//! Tables that change while a link runs, on MariaDB by its log and by triggers, and on PostgreSQL by
//! its log: noticed before anything is lost, said exactly, resumed.

use std::num::NonZeroU32;

use outgrow_bridge::Link;
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::eventually;

use crate::drift::{following, stops};
use crate::mysql::{EXTRACTED_MY, LEGACY_MY};
use crate::postgres::{Db, EXTRACTED_PG, LEGACY_PG, Pair, items};
use crate::shop::WAIT;

type Case = ((&'static str, &'static str), &'static [&'static str]);

/// What happens to the tables of either side, what takes it back, and what is said of it.
const OF_MARIADB: [Case; 7] = [
    (
        (
            "ALTER TABLE item ADD COLUMN discount decimal(4,1)",
            "ALTER TABLE item DROP COLUMN discount",
        ),
        &[
            "legacy `item`: column `discount` (decimal with 1 decimals) is new",
            "would be lost on the way back",
        ],
    ),
    (
        (
            "ALTER TABLE item DROP COLUMN note",
            "ALTER TABLE item ADD COLUMN note text AFTER status",
        ),
        &["legacy `item`: column `note` is gone"],
    ),
    (
        (
            "ALTER TABLE item MODIFY id bigint, DROP PRIMARY KEY, ADD KEY (id)",
            "ALTER TABLE item MODIFY id bigint AUTO_INCREMENT PRIMARY KEY",
        ),
        &["legacy `item`: its unique keys were (code), (id) and are (code)"],
    ),
    (
        (
            "ALTER TABLE article DROP COLUMN weight, ADD COLUMN weight date",
            "ALTER TABLE article DROP COLUMN weight, ADD COLUMN weight double",
        ),
        &["extracted `article`: column `weight` was double and is date"],
    ),
    (
        (
            "ALTER TABLE article DROP COLUMN note",
            "ALTER TABLE article ADD COLUMN note text",
        ),
        &["extracted `article`: column `note` is gone"],
    ),
    (
        (
            "ALTER TABLE article ADD COLUMN owner varchar(9) NOT NULL",
            "ALTER TABLE article DROP COLUMN owner",
        ),
        &[
            "extracted `article`: column `owner` (varchar) is new",
            "it must not be null and nothing feeds it",
        ],
    ),
    (
        (
            "ALTER TABLE article MODIFY id bigint, DROP PRIMARY KEY, ADD KEY (id)",
            "ALTER TABLE article MODIFY id bigint AUTO_INCREMENT PRIMARY KEY",
        ),
        &["extracted `article`: its unique keys were (id), (sku) and are (sku)"],
    ),
];

/// Where triggers go with the table.
const RENAMED: [Case; 2] = [
    (
        (
            "ALTER TABLE item RENAME TO thing",
            "ALTER TABLE thing RENAME TO item",
        ),
        &["legacy `item`: the table is gone, or has another name"],
    ),
    (
        (
            "ALTER TABLE article RENAME TO piece",
            "ALTER TABLE piece RENAME TO article",
        ),
        &["extracted `article`: the table is gone, or has another name"],
    ),
];

async fn all_stop(pair: &Pair, cases: &[Case]) -> Link {
    let link: Link = following(pair).await;
    for (way, said) in cases {
        stops(pair, &link, *way, said).await;
    }
    assert_eq!(link.verify().await.unwrap().different, 0);
    link
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_table_of_mariadb_stops_the_link() {
    let pair = Pair::of(Db::my(LEGACY_MY).await, Db::my(EXTRACTED_MY).await);
    all_stop(&pair, &[&OF_MARIADB[..], &RENAMED].concat())
        .await
        .shutdown()
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_table_of_a_logged_mariadb_stops_the_link() {
    let pair = Pair::replicated(Db::logged(LEGACY_MY).await, Db::logged(EXTRACTED_MY).await);
    let link = all_stop(&pair, &OF_MARIADB).await;
    let mut failures = link.failures();
    // The log tells rows by the table's name, so what was changed under another one is not found.
    for text in [RENAMED[0].0.0, RENAMED[0].0.1] {
        pair.legacy.execute(text).await;
    }
    let stopped = tokio::time::timeout(WAIT, failures.wait_for(Option::is_some)).await;
    let text = stopped.unwrap().unwrap().clone().unwrap();
    assert!(text.contains("capture is gone from table `item`"), "{text}");
    assert!(text.contains("start the copy again"), "{text}");
    link.shutdown().await;
}

const OF_POSTGRES: [Case; 6] = [
    (
        (
            "ALTER TABLE item DROP COLUMN weight",
            "ALTER TABLE item ADD COLUMN weight double precision",
        ),
        &["legacy `item`: column `weight` is gone"],
    ),
    (
        (
            "ALTER TABLE item ALTER COLUMN weight TYPE date USING NULL",
            "ALTER TABLE item ALTER COLUMN weight TYPE double precision USING 7",
        ),
        &["legacy `item`: column `weight` was double precision and is date"],
    ),
    (
        (
            "ALTER TABLE item RENAME TO thing",
            "ALTER TABLE thing RENAME TO item",
        ),
        &["legacy `item`: the table is gone, or has another name"],
    ),
    (
        (
            "ALTER TABLE article DROP COLUMN note",
            "ALTER TABLE article ADD COLUMN note text",
        ),
        &["extracted `article`: column `note` is gone"],
    ),
    (
        (
            "ALTER TABLE article ALTER COLUMN weight TYPE date USING NULL",
            "ALTER TABLE article ALTER COLUMN weight TYPE double precision USING NULL",
        ),
        &["extracted `article`: column `weight` was double precision and is date"],
    ),
    (
        (
            "ALTER TABLE article DROP CONSTRAINT article_pkey",
            "ALTER TABLE article ADD PRIMARY KEY (id)",
        ),
        &["its unique keys were (id), (sku) and are (sku)"],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_table_of_a_logged_postgres_stops_the_link() {
    let pair = Pair::replicated(Db::pg(LEGACY_PG).await, Db::pg(EXTRACTED_PG).await);
    all_stop(&pair, &OF_POSTGRES).await.shutdown().await;
}

/// A table that changes while its rows are copied, and is mended: what was copied before is read again.
async fn amid_the_backfill(pair: Pair) {
    pair.legacy.execute(&items(1, 400)).await;
    let mut spec = pair.spec();
    (spec.limits.chunk_rows, spec.limits.copy_rows) = (20, 20);
    spec.limits.copy_rate = NonZeroU32::new(100);
    let link = Link::open(spec).await.unwrap();
    let mut failures = link.failures();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    let some = || async {
        let evidence = link.evidence()?;
        (evidence.copied_rows > 0).then_some(())
    };
    eventually("some rows to be copied", WAIT, some).await;
    pair.legacy
        .execute("ALTER TABLE item DROP COLUMN note")
        .await;
    pair.legacy
        .attempt("UPDATE item SET status = 'D' WHERE id < 9")
        .await;
    let stopped = tokio::time::timeout(WAIT, failures.wait_for(Option::is_some)).await;
    let text = stopped.unwrap().unwrap().clone().unwrap();
    assert!(
        text.contains("legacy `item`: column `note` is gone"),
        "{text}"
    );
    assert!(text.contains("run `outgrow sync resume items`"), "{text}");
    assert!(!link.copied(), "the backfill had ended before");
    link.shutdown().await;
    pair.legacy
        .execute("ALTER TABLE item ADD COLUMN note text")
        .await;
    pair.legacy
        .execute("UPDATE item SET note = 'mended' WHERE id % 9 = 0")
        .await;
    let link = Link::open(pair.spec()).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    pair.equal().await;
    eventually("all to be read again", WAIT, || async {
        link.evidence()?.copied.then_some(())
    })
    .await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    assert_eq!(link.evidence().unwrap().parked, 0);
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_postgres_changes_amid_the_backfill() {
    amid_the_backfill(Pair::replicated(
        Db::pg(LEGACY_PG).await,
        Db::pg(EXTRACTED_PG).await,
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_mariadb_changes_amid_the_backfill() {
    amid_the_backfill(Pair::of(
        Db::my(LEGACY_MY).await,
        Db::pg(EXTRACTED_PG).await,
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_a_logged_mariadb_changes_amid_the_backfill() {
    amid_the_backfill(Pair::replicated(
        Db::logged(LEGACY_MY).await,
        Db::pg(EXTRACTED_PG).await,
    ))
    .await;
}
