//! Change events: every change once or more, in order for each key, across crashes, turns, and a
//! broker that is away. The broker here is a list; a real one is in the tests of the commands.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use outgrow_bridge::events::{Event, Events, Publishing, Sink, SinkError};
use outgrow_bridge::{FaultHook, Link};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::{Mariadb, Postgres, eventually};
use serde_json::Value;

use crate::postgres::{Db, LEGACY_PG, Pair, items};
use crate::shop::{Dice, Shop, WAIT, copied, legacy_change};
use crate::turning::cut_over;

/// A broker in memory that knows messages by their ids, as JetStream does.
#[derive(Debug, Default)]
pub(crate) struct Broker {
    taken: Mutex<Vec<Value>>,
    /// How often an event came again.
    again: Mutex<u64>,
    away: Mutex<Option<&'static str>>,
    /// Takes no event with a longer text.
    largest: Mutex<Option<usize>>,
}

impl Sink for Broker {
    fn publish<'a>(&'a self, events: &'a [Event]) -> Publishing<'a> {
        Box::pin(async move {
            if let Some(why) = *self.away.lock().unwrap() {
                return Err(SinkError::Trouble(why.to_owned()));
            }
            for (at, event) in events.iter().enumerate() {
                let largest = *self.largest.lock().unwrap();
                if largest.is_some_and(|largest| event.payload.len() > largest) {
                    let what = "too large for this broker".to_owned();
                    return Err(SinkError::TooLarge { at, what });
                }
                let told: Value = serde_json::from_slice(&event.payload).unwrap();
                assert_eq!(told["id"], event.id.as_str());
                let mut taken = self.taken.lock().unwrap();
                if taken.iter().any(|known| known["id"] == told["id"]) {
                    *self.again.lock().unwrap() += 1;
                } else {
                    taken.push(told);
                }
            }
            Ok(())
        })
    }
}

impl Broker {
    pub(crate) fn events(self: &Arc<Self>, keep: u64) -> Option<Events> {
        let sink: Arc<dyn Sink> = self.clone();
        Some(Events {
            sink,
            keep,
            before: false,
        })
    }

    pub(crate) fn all(&self) -> Vec<Value> {
        self.taken.lock().unwrap().clone()
    }

    /// Waits for this many events.
    pub(crate) async fn has(&self, count: usize) -> Vec<Value> {
        let what = format!("{count} events");
        eventually(&what, WAIT, || async {
            let all = self.all();
            (all.len() >= count).then_some(all)
        })
        .await
    }

    pub(crate) fn set_away(&self, why: Option<&'static str>) {
        *self.away.lock().unwrap() = why;
    }
}

/// What a consumer has that keeps the newest event of each row: subject and row.
fn replica(events: &[Value]) -> HashMap<String, Value> {
    let mut rows = HashMap::new();
    for event in events {
        let subject = event["subject"].as_str().unwrap().to_owned();
        match event["type"].as_str().unwrap() {
            "outgrow.row.deleted" => rows.remove(&subject),
            "outgrow.stream.gap" => None,
            _ => rows.insert(subject, event["data"]["after"].clone()),
        };
    }
    rows
}

fn kinds(events: &[Value]) -> Vec<String> {
    let one = |event: &Value| {
        let op = event["data"]["op"].as_str().unwrap();
        format!("{op} {}", event["subject"].as_str().unwrap())
    };
    events.iter().map(one).collect()
}

async fn state(link: &Link, word: &str) -> Value {
    let what = format!(
        "events to be {word}, they are {}",
        link.describe()["events"]
    );
    eventually(&what, WAIT, || async {
        let told = link.describe()["events"].clone();
        (told["state"] == word).then_some(told)
    })
    .await
}

/// A link of the shop that follows and publishes.
async fn publishing(shop: &Shop, broker: &Arc<Broker>, keep: u64) -> Link {
    let mut spec = shop.catalog_spec();
    spec.limits.trim_rows = 100_000;
    let link = Link::open_with(spec, broker.events(keep)).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    copied(&link).await;
    link
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_an_event_in_the_extracted_shape() {
    let (shop, broker) = (Shop::with(5).await, Arc::new(Broker::default()));
    let link = publishing(&shop, &broker, 100_000).await;
    shop.legacy
        .execute("insert into categories values (9, 'Nine', 5, 4)")
        .await;
    shop.legacy
        .execute("update categories set name = 'IX' where id = 9")
        .await;
    let seen = broker.has(2).await;
    shop.legacy
        .execute("delete from categories where id = 9")
        .await;
    shop.legacy
        .execute("update products set price = '7.50' where id = 2")
        .await;
    let all = broker.has(5).await;
    // The first may show the newer name already: it was overtaken.
    assert_eq!(kinds(&seen)[1], "u category/9");
    let told = &all[1];
    assert_eq!(told["specversion"], "1.0");
    assert_eq!(told["type"], "outgrow.row.updated");
    assert_eq!(told["source"], "/outgrow/slices/catalog");
    let row = serde_json::json!({"id": 9, "label": "IX", "parent_id": 5, "sort_order": 4});
    assert_eq!(told["data"]["after"], row);
    assert_eq!(told["data"]["source"]["side"], "legacy");
    assert_eq!(told["data"]["source"]["table"], "category");
    let gone = &all[2];
    assert_eq!(gone["type"], "outgrow.row.deleted");
    assert_eq!(gone["data"]["before"], serde_json::json!({"id": 9}));
    assert!(gone["data"]["after"].is_null());
    // One row of the monolith is two of the service.
    let mut parts = kinds(&all[3..]);
    parts.sort();
    assert_eq!(parts, ["u product/2", "u product_price/2"]);
    let price = all.iter().find(|e| e["subject"] == "product_price/2");
    assert_eq!(price.unwrap()["data"]["after"]["amount_cents"], 750);
    let told = state(&link, "publishing").await;
    assert!(told["published"].as_u64() >= Some(5), "{told}");
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_cannot_be_mapped_is_told_with_the_reason() {
    let (shop, broker) = (Shop::with(3).await, Arc::new(Broker::default()));
    let link = publishing(&shop, &broker, 100_000).await;
    shop.legacy
        .execute("update products set status = '?' where id = 1")
        .await;
    let all = broker.has(2).await;
    for event in &all {
        assert!(event["data"]["after"].is_null());
        let why = event["data"]["error"].as_str().unwrap();
        assert!(why.contains("products.status"), "{why}");
    }
    // A row that the broker finds too large goes without its values.
    *broker.largest.lock().unwrap() = Some(1_000);
    let long = "x".repeat(2_000);
    let text = format!("update categories set name = '{long}' where id = 2");
    shop.legacy.execute(&text).await;
    let all = broker.has(3).await;
    assert_eq!(all[2]["data"]["error"], "too large for this broker");
    assert_eq!(all[2]["subject"], "category/2");
    link.shutdown().await;
}

/// What the service's table has, by the subject of its events.
async fn prices(database: &outgrow_testkit::TempDatabase) -> HashMap<String, Value> {
    let text = "select product_id, amount_cents from product_price";
    let rows: Vec<(i64, i64)> = sqlx::query_as(text)
        .fetch_all(database.pool())
        .await
        .unwrap();
    let one = |(id, cents)| (format!("product_price/{id}"), Value::from(cents));
    rows.into_iter().map(one).collect()
}

async fn replica_is_right(shop: &Shop, broker: &Broker) {
    let seen = Mutex::new(String::new());
    let right = eventually("the consumer's prices to be right", 2 * WAIT, || async {
        let mut wanted = prices(&shop.catalog).await;
        let all = broker.all();
        let have = replica(&all).into_iter();
        let have: HashMap<String, Value> = have
            .filter(|(subject, _)| subject.starts_with("product_price/"))
            .map(|(subject, row)| (subject, row["amount_cents"].clone()))
            .collect();
        // Rows that nobody changed have no event.
        let told: Vec<&Value> = all.iter().map(|event| &event["subject"]).collect();
        wanted.retain(|subject, _| told.contains(&&Value::from(subject.as_str())));
        *seen.lock().unwrap() = format!("{have:?}\n{wanted:?}");
        (have == wanted && shop.catalog_differences().await == 0).then_some(())
    });
    let right = tokio::time::timeout(WAIT, right).await;
    assert!(right.is_ok(), "{}", seen.lock().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_delays_events_and_nothing_else() {
    let (shop, broker) = (Shop::with(50).await, Arc::new(Broker::default()));
    let link = publishing(&shop, &broker, 100_000).await;
    broker.set_away(Some("no route to the broker"));
    let mut dice = Dice(7);
    for _ in 0..60 {
        shop.legacy.execute(&legacy_change(&mut dice, 60)).await;
    }
    // The link goes on.
    shop.catalog_equal().await;
    let told = state(&link, "waiting").await;
    assert_eq!(told["waiting_for"], "no route to the broker");
    assert!(told["waiting"].as_u64() > Some(0), "{told}");
    assert!(told["lag_ms"].as_u64() > Some(0), "{told}");
    // And so does a cutover, with everything still to be told.
    cut_over(&link, Side::Extracted).await;
    shop.catalog
        .execute("update product_price set amount_cents = 4321 where product_id = 3")
        .await;
    shop.catalog_equal().await;
    assert_eq!(broker.all().len(), 0);
    // Nothing untold was trimmed meanwhile.
    broker.set_away(None);
    replica_is_right(&shop, &broker).await;
    let all = eventually("the event of the new source", WAIT, || async {
        let all = broker.all();
        let new = |event: &Value| event["data"]["source"]["side"] == "extracted";
        all.last().is_some_and(new).then_some(all)
    })
    .await;
    let sides: Vec<&str> = all
        .iter()
        .map(|event| event["data"]["source"]["side"].as_str().unwrap())
        .collect();
    assert!(
        sides.is_sorted_by(|a, b| a >= b),
        "first legacy, then extracted"
    );
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_turn_is_told_in_order_and_nothing_twice() {
    let (shop, broker) = (Shop::with(30).await, Arc::new(Broker::default()));
    let link = publishing(&shop, &broker, 100_000).await;
    let mut dice = Dice(11);
    for round in 0..6 {
        // The broker sleeps through some turns.
        broker.set_away((round % 3 == 1).then_some("asleep"));
        for _ in 0..10 {
            shop.legacy.execute(&legacy_change(&mut dice, 40)).await;
        }
        cut_over(&link, Side::Extracted).await;
        for id in 1..8 {
            let text = format!(
                "update product_price set amount_cents = {round}000 + product_id where product_id = {id}"
            );
            shop.catalog.execute(&text).await;
        }
        cut_over(&link, Side::Legacy).await;
    }
    broker.set_away(None);
    replica_is_right(&shop, &broker).await;
    let mut last: HashMap<String, i64> = HashMap::new();
    for event in broker.all() {
        let source = &event["data"]["source"];
        let (side, seq) = (source["side"].to_string(), source["seq"].as_i64().unwrap());
        let before = last.insert(side, seq).unwrap_or(0);
        assert!(seq >= before, "{event}");
    }
    // Done with what was told: one open segment is left.
    eventually("old segments to be gone", WAIT, || async {
        let text = "select count(*) from \"_outgrow_catalog_events\"";
        let left = shop.legacy.number(text).await + shop.catalog.number(text).await;
        (left == 1).then_some(())
    })
    .await;
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_dies_before_it_notes_its_place_sends_again_and_is_known() {
    let (shop, broker) = (Shop::with(10).await, Arc::new(Broker::default()));
    let link = publishing(&shop, &broker, 100_000).await;
    shop.legacy
        .execute("update categories set position = 1")
        .await;
    broker.has(4).await;
    link.shutdown().await;
    let place = "select seq from \"_outgrow_catalog_events\"";
    let before = shop.legacy.number(place).await;
    // Dies with its events sent and its place not written.
    let mut spec = shop.catalog_spec();
    let died = Arc::new(tokio::sync::Notify::new());
    let tell = died.clone();
    let sent = broker.clone();
    spec.limits.fault = Some(FaultHook::new(move |point| {
        if point == "events-published" && sent.all().len() > 6 {
            tell.notify_one();
            panic!("the test ends the publisher here");
        }
    }));
    let link = Link::open_with(spec, broker.events(100_000)).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    shop.legacy
        .execute("update categories set position = 2")
        .await;
    died.notified().await;
    link.shutdown().await;
    assert_eq!(shop.legacy.number(place).await, before);

    let link = publishing(&shop, &broker, 100_000).await;
    shop.legacy
        .execute("update categories set position = 3")
        .await;
    let all = broker.has(12).await;
    assert_eq!(all.len(), 12);
    assert!(*broker.again.lock().unwrap() >= 4, "they came again");
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_too_long_is_parked_and_goes_on_with_a_gap_that_is_told() {
    let (shop, broker) = (Shop::with(10).await, Arc::new(Broker::default()));
    let link = publishing(&shop, &broker, 50).await;
    broker.set_away(Some("gone for long"));
    for n in 0..30 {
        let text = format!("update categories set position = {n}");
        shop.legacy.execute(&text).await;
    }
    let told = state(&link, "parked").await;
    let why = told["parked"].as_str().unwrap();
    assert!(why.contains("gone for long"), "{why}");
    assert!(
        why.contains("outgrow sync events catalog --resume"),
        "{why}"
    );
    // The source's disk is free of what nobody waits for any more.
    eventually("the changes to be trimmed", WAIT, || async {
        let text = "select count(*) from \"_outgrow_catalog_changes\" where tbl <> ''";
        (shop.legacy.number(text).await == 0).then_some(())
    })
    .await;
    broker.set_away(None);
    // A restart does not forget it.
    link.shutdown().await;
    let link = publishing(&shop, &broker, 50).await;
    state(&link, "parked").await;
    assert_eq!(broker.all().len(), 0);
    assert!(link.resume_events().await.unwrap());
    assert!(
        !link.resume_events().await.unwrap(),
        "there is nothing parked"
    );
    let all = broker.has(1).await;
    assert_eq!(all[0]["type"], "outgrow.stream.gap");
    let source = &all[0]["data"]["source"];
    assert!(source["from"].as_i64() < source["seq"].as_i64(), "{source}");
    state(&link, "publishing").await;
    shop.legacy
        .execute("update categories set position = 99 where id = 1")
        .await;
    let all = broker.has(2).await;
    assert_eq!(all[1]["data"]["after"]["sort_order"], 99);
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_events_in_the_config_nothing_is_held() {
    let (shop, broker) = (Shop::with(10).await, Arc::new(Broker::default()));
    let link = publishing(&shop, &broker, 100_000).await;
    broker.set_away(Some("away"));
    shop.legacy
        .execute("update categories set position = 1")
        .await;
    state(&link, "waiting").await;
    link.shutdown().await;
    let link = shop.following().await;
    let place = "select count(*) from \"_outgrow_catalog_events\"";
    assert_eq!(shop.legacy.number(place).await, 0);
    assert!(link.describe().get("events").is_none());
    link.close().await.unwrap();
    let left = "select count(*) from sqlite_master where name like '%outgrow%'";
    assert_eq!(shop.legacy.number(left).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_tell_their_events_across_a_turn() {
    let (legacy, extracted) = (Postgres::with(LEGACY_PG).await, Mariadb::start().await);
    extracted.execute(crate::mysql::EXTRACTED_MY).await;
    let pair = Pair::of(Db::Pg(Box::new(legacy)), Db::My(Box::new(extracted)));
    let broker = Arc::new(Broker::default());
    let link = Link::open_with(pair.spec(), broker.events(100_000))
        .await
        .unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    pair.legacy.execute(&items(1, 40)).await;
    pair.legacy.execute("DELETE FROM item WHERE id = 40").await;
    let all = broker.has(41).await;
    // The first word of the row that is gone may come from before that.
    let (gone, told): (Vec<_>, Vec<_>) = kinds(&all)
        .into_iter()
        .partition(|kind| kind.ends_with(" article/40"));
    assert_eq!((gone.len(), &*gone[1]), (2, "d article/40"), "{gone:?}");
    let made = (1..=39).map(|id| format!("c article/{id}"));
    assert_eq!(BTreeSet::from_iter(told), made.collect());
    cut_over(&link, Side::Extracted).await;
    pair.extracted
        .execute("UPDATE article SET price_cents = 1234 WHERE id = 7")
        .await;
    let all = broker.has(42).await;
    let last = &all[41];
    assert_eq!(last["subject"], "article/7");
    assert_eq!(last["data"]["source"]["side"], "extracted");
    assert_eq!(last["data"]["after"]["price_cents"], 1234);
    // The row has the same shape as before the turn, but for its price.
    let before = all.iter().find(|e| e["subject"] == "article/7").unwrap();
    let (mut before, mut after) = (before.clone(), last.clone());
    for event in [&mut before, &mut after] {
        event["data"]["after"]["price_cents"] = Value::Null;
    }
    assert_eq!(before["data"]["after"], after["data"]["after"]);
    link.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_dies_half_way_is_taken_back_for_the_events_too() {
    let (shop, broker) = (Shop::with(10).await, Arc::new(Broker::default()));
    let mut spec = shop.catalog_spec();
    let half = Arc::new(AtomicBool::new(false));
    let noted = Arc::clone(&half);
    spec.limits.fault = Some(FaultHook::new(move |point| {
        let here = point == "half-turned";
        noted.fetch_or(here, Ordering::SeqCst);
        assert!(!here, "the test ends the turn here");
    }));
    let link = Link::open_with(spec, broker.events(100_000)).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    copied(&link).await;
    shop.legacy
        .execute("update categories set position = 1 where id = 1")
        .await;
    broker.has(1).await;
    let position = link.fence(Side::Legacy).await.unwrap();
    link.fence(Side::Extracted).await.unwrap();
    link.drain(position, WAIT).await.unwrap();
    assert!(link.turn(Side::Extracted).await.is_err());
    // The worker may have taken it back already.
    assert!(half.load(Ordering::SeqCst), "the first half was done");
    link.shutdown().await;

    let link = publishing(&shop, &broker, 100_000).await;
    link.unfence(Side::Legacy).await.unwrap();
    shop.legacy
        .execute("update categories set position = 2 where id = 1")
        .await;
    broker.has(2).await;
    cut_over(&link, Side::Extracted).await;
    shop.catalog
        .execute("update category set sort_order = 3 where id = 1")
        .await;
    let all = broker.has(3).await;
    let orders: Vec<&Value> = all
        .iter()
        .map(|event| &event["data"]["after"]["sort_order"])
        .collect();
    assert_eq!(orders, [1, 2, 3]);
    link.shutdown().await;
}
