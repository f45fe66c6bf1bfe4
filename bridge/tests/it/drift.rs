//! Tables that change while a link runs: noticed before anything is lost, said exactly, resumed.

use outgrow_bridge::Link;
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::eventually;

use crate::postgres::{Db, EXTRACTED_PG, EXTRACTED_SQLITE, LEGACY_PG, LEGACY_SQLITE, Pair, items};
use crate::shop::{WAIT, copied};

pub(crate) async fn following(pair: &Pair) -> Link {
    pair.legacy.execute(&items(1, 30)).await;
    let link = Link::open(pair.spec()).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    copied(&link).await;
    link
}

/// Alters a table, expects the link to stop and say so, takes it back, and expects it to go on.
pub(crate) async fn stops(pair: &Pair, link: &Link, (alter, back): (&str, &str), said: &[&str]) {
    let mut failures = link.failures();
    let db = |text: &str| {
        if text.contains("article") || text.contains("piece") {
            &pair.extracted
        } else {
            &pair.legacy
        }
    };
    db(alter).execute(alter).await;
    // The table may be gone.
    pair.legacy
        .attempt("UPDATE item SET status = 'D' WHERE id < 9")
        .await;
    let stopped = tokio::time::timeout(WAIT, failures.wait_for(Option::is_some)).await;
    assert!(stopped.is_ok(), "the link goes on after {alter}");
    let text = stopped.unwrap().unwrap().clone().unwrap();
    for part in said {
        assert!(text.contains(part), "{alter}: `{part}` is not in {text}");
    }
    assert!(text.contains("run `outgrow sync resume items`"), "{text}");
    db(back).execute(back).await;
    pair.legacy
        .execute("UPDATE item SET status = 'A' WHERE id < 5")
        .await;
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    pair.equal().await;
    // By its stream, too: rows may be equal because they were read again.
    let place = || link.describe()["position"].as_i64();
    let before = place();
    let moved = eventually("the stream to go on", WAIT, || async {
        (place() > before).then_some(())
    });
    assert!(
        tokio::time::timeout(WAIT, moved).await.is_ok(),
        "{:?}",
        failures.borrow()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_table_stops_the_link_with_the_exact_difference() {
    let pair = Pair::of(Db::pg(LEGACY_PG).await, Db::pg(EXTRACTED_PG).await);
    let link = following(&pair).await;
    let changes: [((&str, &str), &[&str]); 5] = [
        (
            (
                "ALTER TABLE item ADD COLUMN discount numeric(4,1)",
                "ALTER TABLE item DROP COLUMN discount",
            ),
            &[
                "legacy `item`: column `discount` (numeric with 1 decimals) is new",
                "would be lost on the way back",
                "name it in `defaults`",
            ],
        ),
        (
            (
                "ALTER TABLE item RENAME COLUMN note TO remark",
                "ALTER TABLE item RENAME COLUMN remark TO note",
            ),
            &["column `note` is gone; `remark` is in its place: was it renamed?"],
        ),
        (
            (
                "ALTER TABLE article RENAME TO piece",
                "ALTER TABLE piece RENAME TO article",
            ),
            &["extracted `article`: the table is gone, or has another name"],
        ),
        (
            (
                "ALTER TABLE article ADD COLUMN owner text NOT NULL DEFAULT 'x'; \
                 ALTER TABLE article ALTER COLUMN owner DROP DEFAULT",
                "ALTER TABLE article DROP COLUMN owner",
            ),
            &[
                "extracted `article`: column `owner` (text) is new",
                "it must not be null and nothing feeds it",
            ],
        ),
        (
            (
                "ALTER TABLE article DROP CONSTRAINT article_pkey",
                "ALTER TABLE article ADD PRIMARY KEY (id)",
            ),
            &["its unique keys were (id), (sku) and are (sku)"],
        ),
    ];
    for (way, said) in changes {
        stops(&pair, &link, way, said).await;
    }
    assert_eq!(link.verify().await.unwrap().different, 0);
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_the_mapping_bears_stops_nothing() {
    let pair = Pair::replicated(Db::pg(LEGACY_PG).await, Db::lite(EXTRACTED_SQLITE).await);
    let link = following(&pair).await;
    for text in [
        "ALTER TABLE item ALTER COLUMN note TYPE varchar(400)",
        "ALTER TABLE item ALTER COLUMN price TYPE numeric(12,2)",
        "UPDATE item SET note = 'after it', price = 1234567.89 WHERE id < 9",
    ] {
        pair.legacy.execute(text).await;
    }
    pair.extracted
        .execute("ALTER TABLE article ADD COLUMN views integer NOT NULL DEFAULT 0")
        .await;
    pair.legacy.execute("DELETE FROM item WHERE id = 20").await;
    pair.equal().await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    assert_eq!(*link.failures().borrow(), None);
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_says_the_same() {
    let pair = Pair::of(
        Db::lite(LEGACY_SQLITE).await,
        Db::lite(EXTRACTED_SQLITE).await,
    );
    let link = following(&pair).await;
    let way = (
        "ALTER TABLE item ADD COLUMN discount text",
        "ALTER TABLE item DROP COLUMN discount",
    );
    let said = ["legacy `item`: column `discount` (text) is new"];
    stops(&pair, &link, way, &said).await;
    let way = (
        "ALTER TABLE article RENAME TO piece",
        "ALTER TABLE piece RENAME TO article",
    );
    let said = ["extracted `article`: the table is gone, or has another name"];
    stops(&pair, &link, way, &said).await;
    // Nobody asked for a value of it.
    pair.extracted
        .execute("ALTER TABLE article ADD COLUMN owner text REFERENCES article")
        .await;
    pair.legacy
        .execute("UPDATE item SET note = 'after' WHERE id = 3")
        .await;
    pair.equal().await;
    link.shutdown().await;
}
