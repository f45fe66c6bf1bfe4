//! When rows changed is told by our clock, whatever clock and whatever way a source has.

use std::time::{SystemTime, UNIX_EPOCH};

use outgrow_bridge::Link;
use outgrow_rollout::bypass::Changed;
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::eventually;

use crate::mysql::{EXTRACTED_MY, LEGACY_MY};
use crate::postgres::{Db, EXTRACTED_PG, EXTRACTED_SQLITE, LEGACY_PG, LEGACY_SQLITE, Pair, items};
use crate::shop::{WAIT, copied};

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

async fn next(link: &Link) -> Vec<Changed> {
    let mut all = Vec::new();
    eventually("the change", WAIT, || {
        all.extend(link.changed());
        std::future::ready((!all.is_empty()).then_some(()))
    })
    .await;
    all
}

async fn told(pair: Pair) {
    pair.legacy.execute(&items(1, 3)).await;
    let link = Link::open(pair.spec()).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    assert_eq!(link.changed(), [], "the copy is nobody's write");
    let before = now_ms();
    pair.legacy
        .execute("UPDATE item SET price = 7 WHERE id = 2")
        .await;
    let after = now_ms();
    let all = next(&link).await;
    assert_eq!(all.len(), 1, "{all:?}");
    let one = &all[0];
    let (from, to) = one.between;
    // Half the time that asking for its clock took may be wrong.
    assert!(
        from <= after + 50 && to >= before - 50,
        "{one:?} {before} {after}"
    );
    assert!(to - from < 1_000);
    assert_eq!(one.rows, 1);
    assert_eq!(one.row, "legacy `item` key 2 (u)");
    assert_eq!(link.changed(), [], "once");
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_triggers() {
    let lite = || Db::lite(EXTRACTED_SQLITE);
    told(Pair::of(Db::lite(LEGACY_SQLITE).await, lite().await)).await;
    told(Pair::of(Db::pg(LEGACY_PG).await, lite().await)).await;
    told(Pair::of(Db::my(LEGACY_MY).await, lite().await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_logs_and_the_short_way() {
    told(Pair::replicated(
        Db::pg(LEGACY_PG).await,
        Db::pg(EXTRACTED_PG).await,
    ))
    .await;
    told(Pair::replicated(
        Db::pg(LEGACY_PG).await,
        Db::lite(EXTRACTED_SQLITE).await,
    ))
    .await;
    told(Pair::replicated(
        Db::logged(LEGACY_MY).await,
        Db::logged(EXTRACTED_MY).await,
    ))
    .await;
}
