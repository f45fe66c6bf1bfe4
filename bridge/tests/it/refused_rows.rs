//! Rows that the target refuses for reasons of its own: triggers that raise, indexes and packets that
//! are too small. They are parked with the reason, and all others go on; what is neither about rows
//! nor passes stops the link, and says at which row.

use std::time::Duration;

use outgrow_bridge::Link;
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::eventually;

use crate::mapping::reasons;
use crate::mysql::EXTRACTED_MY;
use crate::passing_errors::{LET_GO_PG, following, in_postgres, whole};
use crate::postgres::{Db, EXTRACTED_PG, EXTRACTED_SQLITE};
use crate::shop::{WAIT, copied};

async fn parked(link: &Link, count: u64) {
    eventually("the parked rows", WAIT, || async {
        assert!(link.failures().borrow().is_none(), "{:?}", link.failures());
        (link.evidence()?.parked == count).then_some(())
    })
    .await;
}

/// One row is refused so, others in the same transaction are not; it goes when nobody refuses it.
async fn one_is_refused(extracted: Db, refuse: &str, part: &str, let_go: &str) {
    let (pair, link) = following(extracted).await;
    pair.extracted.execute(refuse).await;
    pair.legacy
        .execute("UPDATE item SET note = 'changed' WHERE id BETWEEN 5 AND 9")
        .await;
    parked(&link, 1).await;
    let said = reasons(&link).await;
    assert!(said.contains(part), "{said}");
    let there = "SELECT count(*) FROM article WHERE note = 'changed'";
    assert_eq!(pair.extracted.number(there).await, 4);
    pair.extracted.execute(let_go).await;
    parked(&link, 0).await;
    whole(&pair, &link).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_trigger_of_postgres_raises_parks_its_row() {
    let refuse = in_postgres("IF NEW.id = 7 THEN RAISE EXCEPTION ''seven is out''; END IF");
    let extracted = Db::pg(EXTRACTED_PG).await;
    one_is_refused(extracted, &refuse, "seven is out", LET_GO_PG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_trigger_of_mariadb_signals_parks_its_row() {
    let refuse = "CREATE TRIGGER refuse BEFORE UPDATE ON article FOR EACH ROW BEGIN \
                  IF NEW.id = 7 THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'seven is out'; END IF; END";
    let extracted = Db::my(EXTRACTED_MY).await;
    one_is_refused(extracted, refuse, "seven is out", "DROP TRIGGER refuse").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_trigger_of_sqlite_raises_parks_its_row() {
    let refuse = "CREATE TRIGGER refuse BEFORE UPDATE ON article WHEN NEW.id = 7 \
                  BEGIN SELECT raise(abort, 'seven is out'); END";
    let extracted = Db::lite(EXTRACTED_SQLITE).await;
    one_is_refused(extracted, refuse, "seven is out", "DROP TRIGGER refuse").await;
}

/// A text that an index cannot hold, which no constraint says.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_index_of_postgres_does_not_take_is_parked() {
    let (pair, link) = following(Db::pg(EXTRACTED_PG).await).await;
    pair.extracted
        .execute("CREATE INDEX notes ON article (note)")
        .await;
    // Random, so that it cannot be packed.
    let long = "UPDATE item SET note = hex(randomblob(9000)) WHERE id = 7";
    pair.legacy
        .execute(&format!("{long}; UPDATE item SET note = 'b' WHERE id = 8"))
        .await;
    parked(&link, 1).await;
    let said = reasons(&link).await;
    assert!(said.contains("index row"), "{said}");
    pair.extracted.execute("DROP INDEX notes").await;
    parked(&link, 0).await;
    whole(&pair, &link).await;
}

/// The server would end the connection, again and again.
#[tokio::test(flavor = "multi_thread")]
async fn what_no_packet_of_mariadb_takes_is_parked() {
    let extracted = Db::my(EXTRACTED_MY).await;
    let Db::My(mut server) = extracted else {
        unreachable!("it is MariaDB");
    };
    server
        .execute("ALTER TABLE article MODIFY note longtext")
        .await;
    server.restart(&["--max-allowed-packet=1M"]).await;
    let (mut pair, link) = following(Db::My(server)).await;
    // Each goes through, and together they do not.
    let many = "UPDATE item SET note = hex(zeroblob(100000)) WHERE id > 20";
    pair.legacy.execute(many).await;
    pair.legacy
        .execute("UPDATE item SET note = hex(zeroblob(1000000)) WHERE id = 7; UPDATE item SET note = 'b' WHERE id = 8")
        .await;
    parked(&link, 1).await;
    let said = reasons(&link).await;
    assert!(said.contains("raise `max_allowed_packet`"), "{said}");
    assert!(said.len() < 30_000, "{} bytes", said.len());
    link.shutdown().await;
    if let Db::My(server) = &mut pair.extracted {
        server.restart(&["--max-allowed-packet=16M"]).await;
    }
    let link = Link::open(pair.spec()).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    copied(&link).await;
    parked(&link, 0).await;
    whole(&pair, &link).await;
}

/// Nobody knows what it means, so nothing goes on without a person, who is told where it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_strange_refusal_names_its_row() {
    let (pair, link) = following(Db::pg(EXTRACTED_PG).await).await;
    let strange =
        "IF NEW.id = 7 THEN RAISE EXCEPTION ''strange'' USING ERRCODE = ''XX999''; END IF";
    pair.extracted.execute(&in_postgres(strange)).await;
    pair.legacy
        .execute("UPDATE item SET note = 'changed' WHERE id BETWEEN 5 AND 9")
        .await;
    let mut failures = link.failures();
    let failed = tokio::time::timeout(
        WAIT + Duration::from_secs(5),
        failures.wait_for(Option::is_some),
    );
    let said = failed.await.unwrap().unwrap().clone().unwrap_or_default();
    assert!(said.contains("key 7") && said.contains("strange"), "{said}");
    pair.extracted.execute(LET_GO_PG).await;
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    whole(&pair, &link).await;
}
