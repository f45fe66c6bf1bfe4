//! Callers that stop waiting amid a call: what the databases were asked then harms nobody else.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;

use outgrow_bridge::Link;
use outgrow_rollout::{DataPhase, Side};

use crate::mysql::{EXTRACTED_MY, LEGACY_MY};
use crate::postgres::{Db, EXTRACTED_PG, EXTRACTED_SQLITE, LEGACY_PG, LEGACY_SQLITE, Pair, items};
use crate::shop::{WAIT, copied};

/// Waits until a future was looked at so often, and drops it where it is then.
async fn given_up<T>(future: impl Future<Output = T>, looks: usize) -> Option<T> {
    let (mut future, mut left) = (pin!(future), looks);
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending if left == 0 => Poll::Ready(None),
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}

/// A verification that is given up after each so many answers: the next one is right, and the link
/// ends at once. A connection that waits for what it never asked is ended by its server after five
/// minutes, and whoever closes waits for it.
async fn verifications_are_given_up(pair: Pair) {
    pair.legacy.execute(&items(1, 30)).await;
    for looks in 0..40 {
        // Of its own each time, so that no connection knows a statement yet.
        let link = Link::open(pair.spec()).await.unwrap();
        link.ensure(DataPhase::Following, Side::Legacy)
            .await
            .unwrap();
        copied(&link).await;
        if let Some(done) = given_up(Box::pin(link.verify()), looks).await {
            assert_eq!(done.unwrap().different, 0);
        }
        let text = format!("UPDATE item SET note = 'after {looks}' WHERE id = {looks} + 1");
        pair.legacy.execute(&text).await;
        let equal = tokio::time::timeout(WAIT, pair.equal()).await;
        assert!(equal.is_ok(), "after {looks} looks: {}", link.describe());
        let report = link.verify().await.unwrap();
        assert_eq!((report.different, report.looked_at), (0, 30), "{report:?}");
        let ended = tokio::time::timeout(WAIT, link.shutdown()).await;
        assert!(ended.is_ok(), "a link does not end after {looks} looks");
    }
}

/// A fence that is given up while it reads what the log has: all of that comes again. Each row is written
/// once, so that one which is lost stays lost.
async fn no_row_is_lost_by_who_gives_up(pair: Pair) {
    pair.legacy.execute(&items(1, 20)).await;
    let link = Link::open(pair.spec()).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    copied(&link).await;
    let mut rows = 20;
    for looks in 0..60 {
        // So that nobody else reads the log.
        link.pause().await.unwrap();
        pair.legacy.execute(&items(rows + 1, rows + 700)).await;
        rows += 700;
        given_up(Box::pin(link.fence(Side::Legacy)), looks).await;
        link.unfence(Side::Legacy).await.unwrap();
        link.ensure(DataPhase::Following, Side::Legacy)
            .await
            .unwrap();
    }
    pair.equal().await;
    let report = link.verify().await.unwrap();
    let found = (report.different, report.looked_at);
    assert_eq!(found, (0, u64::from(rows)), "{report:?}");
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_row_of_the_log_of_postgres_is_lost_by_who_gives_up() {
    let (legacy, extracted) = (Db::pg(LEGACY_PG).await, Db::lite(EXTRACTED_SQLITE).await);
    no_row_is_lost_by_who_gives_up(Pair::replicated(legacy, extracted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_row_that_goes_the_short_way_is_lost_by_who_gives_up() {
    let (legacy, extracted) = (Db::pg(LEGACY_PG).await, Db::pg(EXTRACTED_PG).await);
    no_row_is_lost_by_who_gives_up(Pair::replicated(legacy, extracted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_row_of_the_log_of_mariadb_is_lost_by_who_gives_up() {
    let legacy = Db::logged(LEGACY_MY).await;
    let extracted = Db::lite(EXTRACTED_SQLITE).await;
    no_row_is_lost_by_who_gives_up(Pair::replicated(legacy, extracted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn verifications_between_mariadbs_are_given_up() {
    let (legacy, extracted) = (Db::my(LEGACY_MY).await, Db::my(EXTRACTED_MY).await);
    verifications_are_given_up(Pair::of(legacy, extracted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn verifications_between_postgres_are_given_up() {
    let (legacy, extracted) = (Db::pg(LEGACY_PG).await, Db::pg(EXTRACTED_PG).await);
    verifications_are_given_up(Pair::of(legacy, extracted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn verifications_between_sqlites_are_given_up() {
    let (legacy, extracted) = (
        Db::lite(LEGACY_SQLITE).await,
        Db::lite(EXTRACTED_SQLITE).await,
    );
    verifications_are_given_up(Pair::of(legacy, extracted)).await;
}
