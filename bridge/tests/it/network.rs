//! The network between the bridge and its databases: cut in every phase, and gone without a word.

use std::time::Duration;

use outgrow_bridge::{Capture, DatabaseUrl, Error, Link, LinkSpec, Policy, Which};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::{Mariadb, Postgres, Relay, eventually};

use crate::mysql::EXTRACTED_MY;
use crate::postgres::{Db, LEGACY_PG, Pair, items};
use crate::shop::{WAIT, copied};

/// PostgreSQL and MariaDB, each behind a relay.
struct Far {
    pair: Pair,
    legacy: Relay,
    extracted: Relay,
    spec: LinkSpec,
}

async fn far(capture: Capture) -> Far {
    let (legacy, extracted) = (
        Postgres::with(LEGACY_PG).await,
        Mariadb::with(EXTRACTED_MY).await,
    );
    let relays = (
        Relay::to(legacy.address()).await,
        Relay::to(extracted.address()).await,
    );
    let urls: (DatabaseUrl, DatabaseUrl) = (
        legacy.url_through(&relays.0).parse().unwrap(),
        extracted.url_through(&relays.1).parse().unwrap(),
    );
    let pair = Pair::of(Db::Pg(Box::new(legacy)), Db::My(Box::new(extracted)));
    pair.legacy.execute(&items(1, 400)).await;
    let mut spec = LinkSpec {
        legacy: urls.0.capturing(capture).unwrap(),
        extracted: urls.1,
        ..pair.spec()
    };
    spec.limits.chunk_rows = 40;
    spec.limits.busy = Duration::from_millis(500);
    let (legacy, extracted) = relays;
    Far {
        pair,
        legacy,
        extracted,
        spec,
    }
}

impl Far {
    /// Cuts one side off until the link says that it waits, writes meanwhile, and mends it.
    async fn cut(&self, link: &Link, relay: &Relay, (side, text): (&Db, &str)) {
        relay.cut();
        eventually("the link to say what it waits for", WAIT, || async {
            (!link.describe()["waiting_for"].is_null()).then_some(())
        })
        .await;
        side.execute(text).await;
        relay.mend();
    }
}

async fn cut_in_every_phase(capture: Capture) {
    let far = far(capture).await;
    let (old, new) = (&far.pair.legacy, &far.pair.extracted);
    let link = Link::open(far.spec.clone()).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    // While rows are copied.
    let text = "UPDATE item SET note = 'copying' WHERE id % 3 = 0";
    far.cut(&link, &far.extracted, (old, text)).await;
    let text = "DELETE FROM item WHERE id % 11 = 0";
    far.cut(&link, &far.legacy, (old, text)).await;
    copied(&link).await;
    far.pair.equal().await;
    // While changes are followed.
    let text = "UPDATE item SET note = 'following' WHERE id % 4 = 0";
    far.cut(&link, &far.legacy, (old, text)).await;
    far.pair.equal().await;
    let text = "UPDATE item SET price = price + 1";
    far.cut(&link, &far.extracted, (old, text)).await;
    far.pair.equal().await;
    // In the middle of a cutover: it fails, and can be finished.
    let place = link.fence(Side::Legacy).await.unwrap();
    link.drain(place, WAIT).await.unwrap();
    for relay in [&far.legacy, &far.extracted] {
        relay.cut();
        assert!(link.turn(Side::Extracted).await.is_err());
        relay.mend();
    }
    eventually("the turn to be made", WAIT, || async {
        link.turn(Side::Extracted).await.ok()
    })
    .await;
    let text = "UPDATE article SET note = 'reversed' WHERE id % 5 = 0";
    far.cut(&link, &far.legacy, (new, text)).await;
    far.pair.equal().await;
    let text = "DELETE FROM article WHERE id % 13 = 0";
    far.cut(&link, &far.extracted, (new, text)).await;
    far.pair.equal().await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    let seen = link.evidence().unwrap();
    assert_eq!((seen.parked, seen.foreign_writes), (0, 0));
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_is_cut_in_every_phase_loses_nothing() {
    cut_in_every_phase(Capture::Triggers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_does_one_to_a_log_that_is_read() {
    cut_in_every_phase(Capture::Replication).await;
}

/// The other host has lost its power: nothing comes, and nothing says that nothing will.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_vanishes_without_a_word_is_given_up_and_asked_again() {
    let mut far = far(Capture::Replication).await;
    far.spec.limits.stall = Duration::from_secs(4);
    let link = Link::open(far.spec.clone()).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    copied(&link).await;
    for (round, relay) in [&far.extracted, &far.legacy].into_iter().enumerate() {
        relay.lose();
        let text = format!("UPDATE item SET note = 'round {round}' WHERE id < 99");
        far.pair.legacy.execute(&text).await;
        far.pair.equal().await;
    }
    assert_eq!(link.verify().await.unwrap().different, 0);
    link.shutdown().await;
}

/// A full disk is waited out; no row is blamed for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_parks_nothing() {
    let far = far(Capture::Triggers).await;
    let server = Postgres::with(crate::postgres::EXTRACTED_PG).await;
    server
        .execute(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN RAISE EXCEPTION ''could not extend file'' USING ERRCODE = ''disk_full''; END'; \
             CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON article \
             FOR EACH ROW EXECUTE FUNCTION full_disk(); \
             ALTER TABLE article ENABLE ALWAYS TRIGGER full_disk",
        )
        .await;
    let pair = Pair::of(far.pair.legacy, Db::Pg(Box::new(server)));
    let link = Link::open(pair.spec()).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    eventually("the link to say what it waits for", WAIT, || async {
        let waits = link.describe()["waiting_for"].to_string();
        waits.contains("could not extend file").then_some(())
    })
    .await;
    pair.legacy
        .execute("UPDATE item SET note = 'meanwhile' WHERE id < 99")
        .await;
    pair.extracted
        .execute("DROP TRIGGER full_disk ON article")
        .await;
    copied(&link).await;
    pair.equal().await;
    assert_eq!(link.evidence().unwrap().parked, 0);
    link.shutdown().await;
}

/// Has something done once with each side cut off, which must fail or be done, and then until it is
/// done with both there.
async fn cut_at<T>(far: &Far, step: &str, act: impl AsyncFn() -> Result<T, Error>) -> T {
    for relay in [&far.legacy, &far.extracted] {
        relay.cut();
        let during = tokio::time::timeout(WAIT, act()).await;
        assert!(
            during.is_ok(),
            "{step} does not end while a side is cut off"
        );
        relay.mend();
    }
    eventually(step, WAIT, || async { act().await.ok() }).await
}

/// How many rows differ. A connection that was cut is found to be so by whoever uses it next.
async fn different(link: &Link) -> u64 {
    eventually("a verification", WAIT, || async {
        Some(link.verify().await.ok()?.different)
    })
    .await
}

/// Once the network is back, what is asked first is answered: a connection that died meanwhile, unnoticed,
/// is nobody's failure.
async fn asked_first_after_a_cut(capture: Capture) {
    let far = far(capture).await;
    let link = Link::open(far.spec.clone()).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    copied(&link).await;
    for round in 0..6 {
        // Several connections lie ready then.
        let (one, other) = (Box::pin(link.verify()), Box::pin(link.verify()));
        let (one, other) = tokio::join!(one, other);
        assert_eq!((one.unwrap().different, other.unwrap().different), (0, 0));
        let relay = [&far.legacy, &far.extracted][round % 2];
        let text = format!("UPDATE item SET note = 'round {round}' WHERE id < 20");
        far.cut(&link, relay, (&far.pair.legacy, &text)).await;
        let report = Box::pin(link.verify()).await;
        assert_eq!(report.unwrap().different, 0, "in round {round}");
    }
    far.pair.equal().await;
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_right_after_a_cut_is_answered() {
    asked_first_after_a_cut(Capture::Triggers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_right_after_a_cut_of_a_log_is_answered() {
    asked_first_after_a_cut(Capture::Replication).await;
}

/// What is asked for from outside, while a side is cut off: it ends, says so, and can be asked for again.
#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_is_cut_at_every_step_is_no_harm() {
    let far = far(Capture::Triggers).await;
    let (old, new) = (&far.pair.legacy, &far.pair.extracted);
    let link = Link::open(far.spec.clone()).await.unwrap();
    cut_at(&far, "the start", async || {
        link.ensure(DataPhase::Copying, Side::Legacy).await
    })
    .await;
    copied(&link).await;
    far.pair.equal().await;
    let report = cut_at(&far, "a verification", async || link.verify().await).await;
    assert_eq!(report.different, 0);
    // Rows that only a repair brings back.
    link.pause().await.unwrap();
    eventually("the fence to be taken off", WAIT, || async {
        link.unfence(Side::Extracted).await.ok()
    })
    .await;
    new.execute("DELETE FROM article WHERE id IN (5, 6)").await;
    cut_at(&far, "the link to go on", async || {
        link.ensure(DataPhase::Following, Side::Legacy).await
    })
    .await;
    assert_eq!(different(&link).await, 2);
    cut_at(&far, "the repair", async || link.repair(false).await).await;
    far.pair.equal().await;
    old.execute("UPDATE item SET note = 'before the fence' WHERE id < 50")
        .await;
    let place = cut_at(&far, "the fence", async || link.fence(Side::Legacy).await).await;
    cut_at(&far, "the drain", async || {
        link.drain(place, Duration::from_millis(200)).await
    })
    .await;
    cut_at(&far, "the turn", async || link.turn(Side::Extracted).await).await;
    cut_at(&far, "the way back", async || {
        link.ensure(DataPhase::Reversed, Side::Extracted).await
    })
    .await;
    new.execute("UPDATE article SET note = 'reversed' WHERE id < 50")
        .await;
    far.pair.equal().await;
    assert_eq!(different(&link).await, 0);
    cut_at(&far, "the close", async || link.close().await).await;
    // Nothing of ours is left.
    old.execute("UPDATE item SET note = 'free'").await;
    new.execute("UPDATE article SET note = 'free'").await;
    let left = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'outgrow%'";
    assert_eq!(old.number(left).await, 0);
    let left =
        "SELECT count(*) FROM information_schema.triggers WHERE trigger_name LIKE '%outgrow%'";
    assert_eq!(new.number(left).await, 0);
    link.shutdown().await;
}

/// Conflicts that are settled while a side is cut off.
#[tokio::test(flavor = "multi_thread")]
async fn conflicts_are_settled_though_the_network_is_cut() {
    let far = far(Capture::Triggers).await;
    let mut spec = far.spec.clone();
    spec.writes = crate::both::both(Policy::Manual);
    let link = Link::open(spec).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    link.pause().await.unwrap();
    far.pair
        .legacy
        .execute("UPDATE item SET note = 'old' WHERE id <= 3")
        .await;
    far.pair
        .extracted
        .execute("UPDATE article SET note = 'new' WHERE id <= 3")
        .await;
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    let open = async || {
        let found = serde_json::to_value(link.conflicts().await.ok()?).unwrap();
        let found = found["conflicts"].as_array().unwrap();
        Some(found.iter().filter(|c| c["state"] == "open").count())
    };
    eventually("the conflicts", WAIT, || async {
        (open().await? == 3).then_some(())
    })
    .await;
    cut_at(&far, "the settling", async || {
        link.settle(&Which::All, Side::Extracted, false).await
    })
    .await;
    far.pair.equal().await;
    assert_eq!(open().await, Some(0));
    let taken = "SELECT count(*) FROM item WHERE note = 'new'";
    assert_eq!(far.pair.legacy.number(taken).await, 3);
    link.shutdown().await;
}
