//! What events with the row from before need of a database: a check says it with the way out, and
//! where it is not there, events say that.

use std::sync::Arc;

use outgrow_bridge::Link;
use outgrow_rollout::Side;
use serde_json::{Value, json};

use crate::events::Broker;
use crate::events_before::{telling, with_before};
use crate::mapping;
use crate::mapping_also::{ACCOUNT, USERS, accounts};
use crate::mysql::{EXTRACTED_MY, LEGACY_MY};
use crate::postgres::{Db, EXTRACTED_SQLITE, LEGACY_PG, Pair, items};
use crate::postgres_replication::server;
use crate::shop::Shop;
use crate::turning::cut_over;

async fn problems(link: &Link) -> String {
    let found = link.preflight().await.unwrap().problems;
    let all: Vec<String> = found.iter().map(ToString::to_string).collect();
    all.join("\n")
}

/// Why the log has no row from before, without a list of columns and with one.
const REASONS: [&str; 2] = ["replica identity is not FULL", "key alone"];

/// What a check says is to be done, where the publication lists columns and where it does not.
fn way(said: &str, lists: bool) -> String {
    let (begin, end) = if lists {
        ("(BEGIN; ", ", all of it at once")
    } else {
        ("(", ", or remove")
    };
    let (_, way) = said.split_once(begin).unwrap();
    let (way, _) = way.split_once(end).unwrap();
    format!("{}{way}", &begin[1..])
}

/// What a check says is to be done can be done beside a link that runs, and helps.
#[tokio::test(flavor = "multi_thread")]
async fn postgres_says_what_it_needs_and_gets_it() {
    let (legacy, extracted) = (Db::pg(LEGACY_PG).await, Db::lite(EXTRACTED_SQLITE).await);
    let pair = Pair::replicated(legacy, extracted);
    pair.legacy.execute(&items(1, 3)).await;
    let broker = Arc::new(Broker::default());
    let link = Link::open_with(pair.spec(), with_before(&broker))
        .await
        .unwrap();
    let said = problems(&link).await;
    assert!(
        said.contains("ALTER TABLE item REPLICA IDENTITY FULL, or remove `before`"),
        "{said}"
    );
    link.shutdown().await;
    // It runs without `before`, and so with a publication of keys.
    let link = telling(pair.spec(), Side::Legacy, broker.events(100_000)).await;
    pair.legacy
        .execute("UPDATE item SET note = 'bare' WHERE id = 1")
        .await;
    let all = broker.has(1).await;
    assert!(all[0]["data"].get("before_error").is_none());
    link.shutdown().await;
    // What was noted before it was asked for is told as such; so is what the log does not have.
    pair.legacy
        .execute("UPDATE item SET note = 'without' WHERE id = 1")
        .await;
    let link = telling(pair.spec(), Side::Legacy, with_before(&broker)).await;
    let all = broker.has(2).await;
    let data = &all[1]["data"];
    let why = data["before_error"].as_str().unwrap();
    // Before 15 a publication tells of no columns in particular.
    let lists = server(&pair.legacy).version().await >= 15;
    let reason = REASONS[usize::from(lists)];
    assert!(data["before"].is_null() && why.contains(reason), "{data}");
    assert_eq!(data["after"]["note"], "without");
    let said = problems(&link).await;
    pair.legacy.execute(&way(&said, lists)).await;
    assert_eq!(problems(&link).await, "");
    pair.legacy
        .execute("UPDATE item SET note = 'whole' WHERE id = 1")
        .await;
    let all = broker.has(3).await;
    let data = &all[2]["data"];
    assert_eq!(
        (&data["before"]["note"], &data["after"]["note"]),
        (&json!("without"), &json!("whole"))
    );
    // Taken away again, that is said, too.
    pair.legacy
        .execute("ALTER TABLE item REPLICA IDENTITY DEFAULT")
        .await;
    pair.legacy
        .execute("UPDATE item SET note = 'less' WHERE id = 1")
        .await;
    let all = broker.has(4).await;
    let data = &all[3]["data"];
    let why = data["before_error"].as_str().unwrap();
    assert!(
        data["before"].is_null() && why.contains("replica identity is not FULL"),
        "{data}"
    );
    assert_eq!(data["after"]["note"], "less");
    pair.legacy.execute("TRUNCATE item").await;
    let all = broker.has(7).await;
    for event in &all[4..] {
        assert_eq!(
            (&event["data"]["op"], &event["data"]["before"]),
            (&json!("d"), &Value::Null)
        );
        assert!(event["data"]["before_error"].is_string(), "{event}");
    }
    link.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_says_what_it_needs() {
    let (legacy, extracted) = (
        Db::logged(LEGACY_MY).await,
        Db::lite(EXTRACTED_SQLITE).await,
    );
    legacy
        .execute("SET GLOBAL binlog_row_image = 'MINIMAL'")
        .await;
    let pair = Pair::replicated(legacy, extracted);
    let broker = Arc::new(Broker::default());
    let link = Link::open_with(pair.spec(), with_before(&broker))
        .await
        .unwrap();
    let said = problems(&link).await;
    assert!(
        said.contains("SET GLOBAL binlog_row_image = 'FULL'"),
        "{said}"
    );
    pair.legacy
        .execute("SET GLOBAL binlog_row_image = 'FULL'")
        .await;
    assert_eq!(problems(&link).await, "");
    pair.legacy
        .execute("ALTER TABLE item MODIFY note text CHARACTER SET cp932")
        .await;
    let said = problems(&link).await;
    assert!(
        said.contains("`note`, of charset `cp932` is not read from the log"),
        "{said}"
    );
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn triggers_that_note_keys_are_refused_with_the_way_out() {
    let (legacy, extracted) = (Db::pg(LEGACY_PG).await, Db::my(EXTRACTED_MY).await);
    let pair = Pair::of(legacy, extracted);
    let broker = Arc::new(Broker::default());
    let link = Link::open_with(pair.spec(), with_before(&broker))
        .await
        .unwrap();
    let said = problems(&link).await;
    for side in ["legacy", "extracted"] {
        assert!(
            said.contains(&format!(
                "`{side} database`: events cannot show rows from before"
            )),
            "{said}"
        );
    }
    assert!(said.contains("write capture = \"replication\""), "{said}");
    link.shutdown().await;
}

/// An old stream gets room for rows, and goes on without it; a table that its own trigger writes
/// again tells no rows from before.
#[tokio::test(flavor = "multi_thread")]
async fn sqlite_begins_and_ends_to_note_rows_as_it_is_asked() {
    let (shop, broker) = (Shop::with(5).await, Arc::new(Broker::default()));
    let link = telling(shop.catalog_spec(), Side::Legacy, broker.events(100_000)).await;
    link.shutdown().await;
    shop.legacy
        .execute("update categories set name = 'A' where id = 1")
        .await;
    let link = telling(shop.catalog_spec(), Side::Legacy, with_before(&broker)).await;
    shop.legacy
        .execute("update categories set name = 'B' where id = 1")
        .await;
    let all = broker.has(2).await;
    assert!(
        all[0]["data"]["before_error"]
            .as_str()
            .unwrap()
            .contains("key alone")
    );
    assert_eq!(all[1]["data"]["before"]["label"], "A");
    link.shutdown().await;
    let touch = "create trigger touch after update of name on categories begin \
                 update categories set position = position + 1 where id = new.id; end";
    shop.legacy.execute(touch).await;
    let link = telling(shop.catalog_spec(), Side::Legacy, with_before(&broker)).await;
    let said = problems(&link).await;
    assert!(
        said.contains("trigger `touch` may write table `categories` within a change of it"),
        "{said}"
    );
    shop.legacy
        .execute("update categories set name = 'C' where id = 1")
        .await;
    let all = broker.has(4).await;
    for event in &all[2..4] {
        let data = &event["data"];
        assert!(
            data["before"].is_null() && data["before_error"].as_str().unwrap().contains("touch")
        );
        assert_eq!(data["after"]["label"], "C", "the newest row");
    }
    link.shutdown().await;
    let noting =
        "select count(*) from sqlite_master where type = 'trigger' and sql like '%became%'";
    assert!(shop.legacy.number(noting).await > 0);
    let link = telling(shop.catalog_spec(), Side::Legacy, broker.events(100_000)).await;
    assert_eq!(shop.legacy.number(noting).await, 0);
    shop.legacy.execute("drop trigger touch").await;
    shop.legacy
        .execute("update categories set name = 'D' where id = 2")
        .await;
    let all = broker.has(5).await;
    assert_eq!(all[4]["data"]["after"]["label"], "D");
    assert!(all[4]["data"].get("before_error").is_none());
    link.close().await.unwrap();
    let left = "select count(*) from sqlite_master where name like '%outgrow%'";
    assert_eq!(shop.legacy.number(left).await, 0);
}

/// Each partition tells its rows by itself.
#[tokio::test(flavor = "multi_thread")]
async fn every_partition_of_postgres_is_asked() {
    let table = LEGACY_PG.replace("PRIMARY KEY", "").replace("UNIQUE", "");
    let legacy = Db::pg(&format!(
        "{table} PARTITION BY RANGE (id); ALTER TABLE item ADD PRIMARY KEY (id); \
         CREATE TABLE low PARTITION OF item FOR VALUES FROM (0) TO (10); \
         CREATE TABLE \"High\" PARTITION OF item FOR VALUES FROM (10) TO (1000); \
         ALTER TABLE item REPLICA IDENTITY FULL"
    ))
    .await;
    let pair = Pair::replicated(legacy, Db::lite(EXTRACTED_SQLITE).await);
    pair.legacy.execute(&items(1, 20)).await;
    let broker = Arc::new(Broker::default());
    let link = telling(pair.spec(), Side::Legacy, with_before(&broker)).await;
    let said = problems(&link).await;
    let wanted =
        "(ALTER TABLE low REPLICA IDENTITY FULL; ALTER TABLE \"High\" REPLICA IDENTITY FULL";
    let (_, way) = said.split_once(wanted).unwrap();
    assert!(way.starts_with(", or remove"), "{said}");
    pair.legacy.execute(&wanted[1..]).await;
    assert_eq!(problems(&link).await, "");
    pair.legacy
        .execute("UPDATE item SET id = 999, note = 'moved' WHERE id = 4")
        .await;
    let all = broker.has(2).await;
    let told: Vec<String> = all.iter().map(|e| e["subject"].to_string()).collect();
    assert_eq!(told, ["\"article/4\"", "\"article/999\""]);
    assert_eq!(all[0]["data"]["before"]["price_cents"], 2804);
    assert_eq!(all[1]["data"]["after"]["price_cents"], 2804);
    link.close().await.unwrap();
}

/// A change is of one table, and the row of several.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_several_tables_has_none_from_before() {
    let (legacy, extracted) = (Db::lite(USERS).await, Db::lite(ACCOUNT).await);
    legacy
        .execute(
            "INSERT INTO users VALUES (1, 'a@x'); INSERT INTO settings VALUES (1, 'dark'); \
             INSERT INTO profiles VALUES (1, 'bio', NULL)",
        )
        .await;
    let broker = Arc::new(Broker::default());
    let spec = mapping::spec(&legacy, &extracted, accounts());
    let link = telling(spec, Side::Legacy, with_before(&broker)).await;
    legacy.execute("UPDATE profiles SET bio = 'new'").await;
    for event in broker.has(2).await {
        let data = &event["data"];
        let why = data["before_error"].as_str().unwrap();
        assert!(
            data["before"].is_null() && why.contains("made of several tables"),
            "{data}"
        );
        assert!(data["after"].is_object(), "{data}");
    }
    // On the other side each table has its rows to itself.
    cut_over(&link, Side::Extracted).await;
    extracted.execute("UPDATE account SET bio = 'newer'").await;
    let all = broker.has(3).await;
    let data = &all[2]["data"];
    assert_eq!(
        (&data["before"]["bio"], &data["after"]["bio"]),
        (&json!("new"), &json!("newer"))
    );
    link.close().await.unwrap();
}
