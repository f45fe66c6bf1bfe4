//! Events with the row from before a change: each begins where the last of its key ended, whatever
//! is written, whoever dies, and whichever side is the source.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use outgrow_bridge::events::Events;
use outgrow_bridge::{FaultHook, Link, LinkSpec};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::{eventually, is_mysql};
use serde_json::{Value, json};

use crate::events::Broker;
use crate::mysql::{EXTRACTED_MY, LEGACY_MY};
use crate::postgres::{Db, EXTRACTED_PG, EXTRACTED_SQLITE, LEGACY_PG, LEGACY_SQLITE, Pair, items};
use crate::shop::{Dice, Shop, WAIT, copied, legacy_change};
use crate::turning::cut_over;

pub(crate) fn with_before(broker: &Arc<Broker>) -> Option<Events> {
    Some(Events {
        before: true,
        ..broker.events(1_000_000)?
    })
}

/// Follows and publishes.
pub(crate) async fn telling(mut spec: LinkSpec, source: Side, events: Option<Events>) -> Link {
    spec.limits.trim_rows = 100_000;
    let link = Link::open_with(spec, events).await.unwrap();
    let phase = match source {
        Side::Legacy => DataPhase::Following,
        Side::Extracted => DataPhase::Reversed,
    };
    link.ensure(phase, source).await.unwrap();
    copied(&link).await;
    link
}

/// Every event begins where the last of its subject ended. What the last of each left.
pub(crate) fn chain(events: &[Value]) -> HashMap<String, Value> {
    let mut last: HashMap<String, Value> = HashMap::new();
    for event in events {
        let (subject, data) = (event["subject"].as_str().unwrap(), &event["data"]);
        assert!(data.get("before_error").is_none(), "{event}");
        assert!(data.get("error").is_none(), "{event}");
        let (before, after) = (&data["before"], &data["after"]);
        let op = match (before.is_null(), after.is_null()) {
            (true, false) => "c",
            (false, false) => "u",
            (false, true) => "d",
            (true, true) => "of nothing",
        };
        assert_eq!(data["op"], op, "{event}");
        if let Some(known) = last.insert(subject.to_owned(), after.clone()) {
            assert_eq!(*before, known, "it begins elsewhere: {event}");
        }
    }
    last
}

/// Prices of the service's articles, as its events show them.
pub(crate) async fn articles(db: &Db) -> HashMap<String, Value> {
    let text = "SELECT id, price_cents FROM article";
    let rows: Vec<(i64, i64)> = match db {
        Db::Lite(db) => sqlx::query_as(text).fetch_all(db.pool()).await.unwrap(),
        Db::Pg(db) => sqlx::query_as(text).fetch_all(db.pool()).await.unwrap(),
        Db::My(db) => sqlx::query_as(text).fetch_all(db.pool()).await.unwrap(),
    };
    let one = |(id, cents)| (format!("article/{id}"), Value::from(cents));
    rows.into_iter().map(one).collect()
}

/// A text that is too large to stand in its row.
fn large(db: &Db) -> &'static str {
    match db {
        Db::Lite(_) => "hex(randomblob(30000))",
        // Where the sum of texts is short, and names of charsets are many.
        Db::My(_) if is_mysql() => {
            "hex(concat(random_bytes(1000), random_bytes(1000), random_bytes(1000)))"
        }
        Db::My(_) => {
            "(SELECT group_concat(md5(rand()) SEPARATOR '') FROM information_schema.collations LIMIT 1)"
        }
        Db::Pg(_) => {
            "(SELECT string_agg(md5(random()::text || g), '') FROM generate_series(1, 1500) AS g)"
        }
    }
}

/// Another key, which is free, or whose row gets replaced, or is left alone.
fn another_key(
    db: &Db,
    table: &str,
    (id, other): (u64, u64),
    (set, replaces): (&str, bool),
) -> String {
    match db {
        Db::Lite(_) if replaces => {
            format!("UPDATE OR REPLACE {table} SET id = {other} WHERE id = {id}")
        }
        Db::Lite(_) => {
            format!("UPDATE OR IGNORE {table} SET id = {other}, {set} WHERE id = {id}")
        }
        Db::My(_) => format!("UPDATE IGNORE {table} SET id = {other}, {set} WHERE id = {id}"),
        Db::Pg(_) => format!(
            "UPDATE {table} SET id = {other}, {set} WHERE id = {id} \
             AND NOT EXISTS (SELECT 1 FROM {table} AS o WHERE o.id = {other})"
        ),
    }
}

/// One random transaction of the side's application.
pub(crate) fn change(dice: &mut Dice, db: &Db, side: Side) -> String {
    let (id, other) = (dice.roll(40) + 1, dice.roll(40) + 1);
    let (n, many) = (dice.roll(100_000), dice.roll(7));
    let (table, code, price) = match side {
        Side::Legacy => ("item", "code", format!("'{}.{:02}'", n / 100, n % 100)),
        Side::Extracted => ("article", "sku", n.to_string()),
    };
    let set_price = match side {
        Side::Legacy => format!("price = {price}"),
        Side::Extracted => format!("price_cents = {price}"),
    };
    let at = match (db, side) {
        (Db::Lite(_), Side::Extracted) => "2026-03-01T12:00:07Z",
        _ => "2026-03-01 12:00:07",
    };
    let row = |id: u64| {
        let state = match side {
            Side::Legacy => "'A'",
            Side::Extracted => "'gone'",
        };
        format!("({id}, 'n{id}-{n}', {price}, {state}, 'it''s, \\\\ new', '{at}', 0.125, NULL)")
    };
    let into = match side {
        Side::Legacy => "INTO item (id, code, price, status, note, made_at, weight, raw) VALUES",
        Side::Extracted => {
            "INTO article (id, sku, price_cents, state, note, made_at, weight, raw) VALUES"
        }
    };
    let body = match dice.roll(9) {
        0 => format!("UPDATE {table} SET {set_price} WHERE id = {id}"),
        1 => format!(
            "UPDATE {table} SET {set_price} WHERE id = {id}; UPDATE {table} SET note = '{n}' WHERE id = {id}; \
             UPDATE {table} SET note = NULL WHERE id = {other}"
        ),
        2 => format!("DELETE FROM {table} WHERE id = {id}"),
        3 => match db {
            Db::Lite(_) => format!("INSERT OR REPLACE {into} {}", row(id)),
            Db::My(_) => format!("REPLACE {into} {}", row(id)),
            Db::Pg(_) => format!(
                "INSERT {into} {} ON CONFLICT (id) DO UPDATE SET note = 'taken {n}'",
                row(id)
            ),
        },
        4 => another_key(db, table, (id, other), (&set_price, many < 3)),
        5 => format!("UPDATE {table} SET {set_price}, weight = {n} / 8.0 WHERE id % 7 = {many}"),
        // Too large to stand in the row itself; others leave it as it is.
        6 => format!("UPDATE {table} SET note = {} WHERE id = {id}", large(db)),
        7 => format!(
            "DELETE FROM {table} WHERE id = {id}; INSERT {into} {}; UPDATE {table} SET {code} = 'x{id}-{n}' WHERE id = {id}; \
             DELETE FROM {table} WHERE id = {id}; INSERT {into} {}",
            row(id),
            row(id)
        ),
        _ => {
            let bytes = match db {
                Db::Pg(_) => "'\\x00ff27'",
                Db::Lite(_) | Db::My(_) => "x'00ff27'",
            };
            format!("UPDATE {table} SET raw = {bytes}, {code} = 'r{id}-{n}' WHERE id = {id}")
        }
    };
    format!("BEGIN; {body}; COMMIT")
}

/// Has the log of a server tell whole rows.
pub(crate) async fn identified(db: &Db, table: &str) {
    if let Db::Pg(_) = db {
        db.execute(&format!("ALTER TABLE {table} REPLICA IDENTITY FULL"))
            .await;
    }
}

/// Every row gets an event, so that the next of each has one to begin at.
async fn touched(db: &Db, table: &str, broker: &Broker) {
    let rows = db.number(&format!("SELECT count(*) FROM {table}")).await;
    let note = match db {
        // An update of nothing is none there.
        Db::My(_) => "'touched'",
        Db::Lite(_) | Db::Pg(_) => "note",
    };
    db.execute(&format!("UPDATE {table} SET note = {note}"))
        .await;
    broker.has(usize::try_from(rows).unwrap()).await;
}

/// Writes on both sides in turn, restarts, a publisher that dies, a broker that is away.
async fn histories(pair: Pair, seed: u64) {
    identified(&pair.legacy, "item").await;
    identified(&pair.extracted, "article").await;
    pair.legacy.execute(&items(1, 30)).await;
    let broker = Arc::new(Broker::default());
    let mut link = telling(pair.spec(), Side::Legacy, with_before(&broker)).await;
    let found = link.preflight().await.unwrap();
    assert!(found.ok(), "{:?}", found.problems);
    touched(&pair.legacy, "item", &broker).await;
    let mut dice = Dice(seed);
    let mut source = Side::Legacy;
    for round in 0..8 {
        broker.set_away((round % 3 == 1).then_some("asleep"));
        let db = match source {
            Side::Legacy => &pair.legacy,
            Side::Extracted => &pair.extracted,
        };
        for _ in 0..25 {
            db.execute(&change(&mut dice, db, source)).await;
        }
        match round % 4 {
            0 | 2 => {
                source = source.other();
                cut_over(&link, source).await;
            }
            1 => {
                link.shutdown().await;
                // Dies once with events sent and its place not written.
                let mut spec = pair.spec();
                let died = Arc::new(tokio::sync::Notify::new());
                let tell = Arc::clone(&died);
                spec.limits.fault = Some(FaultHook::new(move |point| {
                    if point == "events-published" {
                        tell.notify_one();
                    }
                    assert_ne!(
                        point, "events-published",
                        "the test ends the publisher here"
                    );
                }));
                broker.set_away(None);
                let dying = telling(spec, source, with_before(&broker)).await;
                died.notified().await;
                dying.shutdown().await;
                link = telling(pair.spec(), source, with_before(&broker)).await;
            }
            _ => {
                link.shutdown().await;
                link = telling(pair.spec(), source, with_before(&broker)).await;
            }
        }
    }
    broker.set_away(None);
    pair.equal().await;
    let prices = articles(&pair.extracted).await;
    let seen = Mutex::new(String::new());
    let right = eventually("what is told to be what is there", 3 * WAIT, || async {
        let mut told = chain(&broker.all());
        told.retain(|_, row| !row.is_null());
        let told: HashMap<String, Value> = told
            .into_iter()
            .map(|(subject, row)| (subject, row["price_cents"].clone()))
            .collect();
        *seen.lock().unwrap() = format!("{told:?}\n{prices:?}");
        (told == prices).then_some(())
    });
    let right = tokio::time::timeout(2 * WAIT, right).await;
    assert!(right.is_ok(), "{}", seen.lock().unwrap());
    link.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_and_mariadb_chain_their_events() {
    let (legacy, extracted) = (Db::pg(LEGACY_PG).await, Db::logged(EXTRACTED_MY).await);
    histories(Pair::replicated(legacy, extracted), 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_and_postgres_chain_their_events() {
    let (legacy, extracted) = (Db::logged(LEGACY_MY).await, Db::pg(EXTRACTED_PG).await);
    histories(Pair::replicated(legacy, extracted), 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_and_sqlite_chain_their_events() {
    for seed in 7..10 {
        let (legacy, extracted) = (
            Db::lite(LEGACY_SQLITE).await,
            Db::lite(EXTRACTED_SQLITE).await,
        );
        histories(Pair::of(legacy, extracted), seed).await;
    }
}

/// The monolith's own nasty statements: rows that REPLACE removes by another's unique value, keys
/// that move, statements that are ignored, one row that is two of the service.
#[tokio::test(flavor = "multi_thread")]
async fn the_shop_chains_its_events() {
    for seed in [3, 14, 159] {
        let (shop, broker) = (Shop::with(40).await, Arc::new(Broker::default()));
        let link = telling(shop.catalog_spec(), Side::Legacy, with_before(&broker)).await;
        shop.legacy.execute("update products set name = name").await;
        broker.has(80).await;
        let mut dice = Dice(seed);
        for _ in 0..300 {
            let text = legacy_change(&mut dice, 50);
            shop.legacy.execute(&text).await;
        }
        shop.catalog_equal().await;
        let text = "select id, title, sku from product";
        let rows: Vec<(i64, String, String)> = sqlx::query_as(text)
            .fetch_all(shop.catalog.pool())
            .await
            .unwrap();
        let wanted = rows.len();
        let by = |(id, title, sku): (i64, String, String)| {
            (format!("product/{id}"), json!([title, sku]))
        };
        let rows: HashMap<String, Value> = rows.into_iter().map(by).collect();
        assert_eq!(rows.len(), wanted);
        let seen = Mutex::new(String::new());
        let right = eventually("what is told to be what is there", 2 * WAIT, || async {
            let told = chain(&broker.all()).into_iter();
            let told: HashMap<String, Value> = told
                .filter(|(subject, row)| subject.starts_with("product/") && !row.is_null())
                .map(|(subject, row)| (subject, json!([row["title"], row["sku"]])))
                .collect();
            *seen.lock().unwrap() = format!("{told:?}\n{rows:?}");
            (told == rows).then_some(())
        });
        let right = tokio::time::timeout(WAIT, right).await;
        assert!(right.is_ok(), "{}", seen.lock().unwrap());
        link.shutdown().await;
    }
}

/// What a change has left was overtaken before anybody looked, and is told all the same.
async fn overtaken(pair: Pair) {
    identified(&pair.legacy, "item").await;
    pair.legacy.execute(&items(1, 3)).await;
    let broker = Arc::new(Broker::default());
    let link = telling(pair.spec(), Side::Legacy, with_before(&broker)).await;
    broker.set_away(Some("asleep"));
    for statement in [
        "UPDATE item SET price = '1.00' WHERE id = 1",
        "UPDATE item SET price = '2.00' WHERE id = 1",
        "UPDATE item SET id = 9 WHERE id = 1",
        "DELETE FROM item WHERE id = 9",
        "UPDATE item SET status = '?' WHERE id = 2",
        "UPDATE item SET status = 'D' WHERE id = 2",
    ] {
        pair.legacy.execute(statement).await;
    }
    broker.set_away(None);
    let all = broker.has(7).await;
    let cents = |row: &Value| row["price_cents"].as_i64();
    let told: Vec<_> = all
        .iter()
        .take(5)
        .map(|event| {
            let data = &event["data"];
            let subject = event["subject"].as_str().unwrap().to_owned();
            (subject, cents(&data["before"]), cents(&data["after"]))
        })
        .collect();
    let one = |subject: &str, before, after| (subject.to_owned(), before, after);
    let wanted = [
        one("article/1", Some(701), Some(100)),
        one("article/1", Some(100), Some(200)),
        one("article/1", Some(200), None),
        one("article/9", None, Some(200)),
        one("article/9", Some(200), None),
    ];
    assert_eq!(told, wanted);
    // A row that cannot be mapped says so at the end where it cannot.
    let (odd, mended) = (&all[5]["data"], &all[6]["data"]);
    assert_eq!(
        (&odd["op"], cents(&odd["before"])),
        (&json!("u"), Some(1402))
    );
    assert!(
        odd["after"].is_null() && odd["error"].as_str().unwrap().contains("status"),
        "{odd}"
    );
    assert_eq!(
        (&mended["op"], &mended["after"]["state"]),
        (&json!("u"), &json!("gone"))
    );
    let why = mended["before_error"].as_str().unwrap();
    assert!(
        mended["before"].is_null() && why.contains("status"),
        "{mended}"
    );
    assert_eq!(mended["key"], json!({"id": 2}));
    link.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_told_with_its_own_rows_by_postgres() {
    let (legacy, extracted) = (Db::pg(LEGACY_PG).await, Db::lite(EXTRACTED_SQLITE).await);
    overtaken(Pair::replicated(legacy, extracted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_told_with_its_own_rows_by_mariadb() {
    let (legacy, extracted) = (
        Db::logged(LEGACY_MY).await,
        Db::lite(EXTRACTED_SQLITE).await,
    );
    overtaken(Pair::replicated(legacy, extracted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_told_with_its_own_rows_by_sqlite() {
    let (legacy, extracted) = (
        Db::lite(LEGACY_SQLITE).await,
        Db::lite(EXTRACTED_SQLITE).await,
    );
    overtaken(Pair::of(legacy, extracted)).await;
}
