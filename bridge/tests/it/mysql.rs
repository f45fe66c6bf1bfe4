//! MariaDB as either side, with each engine as the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use outgrow_bridge::{ColumnSpec, Link, LinkSpec, Source, TableSpec};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::{Mariadb, eventually};
use sqlx::{AssertSqlSafe, MySqlPool};

use crate::crash::child_between;
use crate::mysql_binlog::begun;
use crate::postgres::{
    Db, EXTRACTED_PG, EXTRACTED_SQLITE, LEGACY_PG, LEGACY_SQLITE, Pair, items, whole_way,
};
use crate::shop::{Dice, WAIT, copied, foreign_since, now_ms, quick};
use crate::turning::cut_over;

pub(crate) const LEGACY_MY: &str = "CREATE TABLE item (id bigint AUTO_INCREMENT PRIMARY KEY, code varchar(20) NOT NULL UNIQUE, \
    price decimal(10,2) NOT NULL, status char(1) NOT NULL, note text, made_at datetime NOT NULL, \
    weight double, raw varbinary(100))";
pub(crate) const EXTRACTED_MY: &str = "CREATE TABLE article (id bigint AUTO_INCREMENT PRIMARY KEY, sku varchar(40) NOT NULL UNIQUE, \
    price_cents bigint NOT NULL, state enum('active', 'gone') NOT NULL, note text, \
    made_at timestamp NOT NULL DEFAULT current_timestamp, weight double, raw blob)";

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_to_postgres_and_back() {
    let (legacy, extracted) = (Db::my(LEGACY_MY).await, Db::pg(EXTRACTED_PG).await);
    whole_way(Pair::of(legacy, extracted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_to_sqlite_and_back() {
    let (legacy, extracted) = (Db::my(LEGACY_MY).await, Db::lite(EXTRACTED_SQLITE).await);
    whole_way(Pair::of(legacy, extracted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_to_mariadb_and_back() {
    let (legacy, extracted) = (Db::my(LEGACY_MY).await, Db::my(EXTRACTED_MY).await);
    whole_way(Pair::of(legacy, extracted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_to_mariadb_and_back() {
    let (legacy, extracted) = (Db::lite(LEGACY_SQLITE).await, Db::my(EXTRACTED_MY).await);
    whole_way(Pair::of(legacy, extracted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_to_mariadb_and_back() {
    let (legacy, extracted) = (Db::pg(LEGACY_PG).await, Db::my(EXTRACTED_MY).await);
    whole_way(Pair::of(legacy, extracted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_mariadb_gave_out_and_deleted_are_not_given_out_again() {
    let pair = Pair::of(Db::my(LEGACY_MY).await, Db::pg(EXTRACTED_PG).await);
    pair.legacy.execute(&items(1, 10)).await;
    let link = Link::open(pair.spec()).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    pair.legacy.execute(&items(900, 900)).await;
    pair.legacy.execute("DELETE FROM item WHERE id = 900").await;
    cut_over(&link, Side::Extracted).await;
    let add =
        "INSERT INTO article (sku, price_cents, state, made_at) VALUES ('new', 1, 'active', now())";
    pair.extracted.execute(add).await;
    let id = "SELECT id FROM article WHERE sku = 'new'";
    assert_eq!(pair.extracted.number(id).await, 901);
    pair.equal().await;
    link.shutdown().await;
}

/// The counter is raised though the table asks much of its rows, and nothing of that stays.
async fn raised(pair: Pair) {
    pair.legacy.execute(&items(1, 10)).await;
    pair.extracted
        .execute(
            "ALTER TABLE article ADD maker int NOT NULL DEFAULT 1, ADD CHECK (price_cents <> 0), \
             ADD CHECK (length(sku) > 1)",
        )
        .await;
    let link = Link::open(pair.spec()).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    let given_out = "SELECT setval('item_id_seq', 950)";
    pair.legacy.number(given_out).await;
    let next = async || {
        // MySQL tells what it knew a day ago, unless it has just looked.
        let look = "ANALYZE NO_WRITE_TO_BINLOG TABLE article";
        pair.extracted.execute(look).await;
        let next = "SELECT CAST(auto_increment AS SIGNED) FROM information_schema.tables \
                    WHERE table_schema = DATABASE() AND table_name = 'article'";
        pair.extracted.number(next).await
    };
    assert_eq!(next().await, 11);
    cut_over(&link, Side::Extracted).await;
    assert_eq!(next().await, 951);
    let add =
        "INSERT INTO article (sku, price_cents, state, made_at) VALUES ('new', 1, 'active', now())";
    pair.extracted.execute(add).await;
    let id = "SELECT id FROM article WHERE sku = 'new'";
    assert_eq!(pair.extracted.number(id).await, 951);
    pair.equal().await;
    let seen = link.evidence().unwrap();
    assert_eq!((seen.parked, seen.foreign_writes), (0, 0));
    assert_eq!(link.verify().await.unwrap().different, 0);
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_postgres_gave_out_are_not_given_out_again_by_mariadb() {
    let (legacy, extracted) = (Db::pg(LEGACY_PG).await, Db::my(EXTRACTED_MY).await);
    raised(Pair::of(legacy, extracted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_postgres_gave_out_are_not_given_out_again_by_a_logged_mariadb() {
    let (legacy, extracted) = (Db::pg(LEGACY_PG).await, Db::logged(EXTRACTED_MY).await);
    raised(Pair::replicated(legacy, extracted)).await;
}

/// No trigger is fired by it, and the table's number tells.
#[tokio::test(flavor = "multi_thread")]
async fn a_truncate_is_carried_over() {
    let pair = pair(300).await;
    let link = begun(&pair).await;
    copied(&link).await;
    pair.equal().await;
    pair.legacy.execute("TRUNCATE TABLE item").await;
    pair.legacy.execute(&items(200, 210)).await;
    pair.equal().await;
    // Also one that nobody saw.
    link.shutdown().await;
    pair.legacy.execute("TRUNCATE item").await;
    pair.legacy.execute(&items(5, 9)).await;
    let link = begun(&pair).await;
    pair.equal().await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    // And one just before a cutover.
    pair.legacy.execute("TRUNCATE item").await;
    cut_over(&link, Side::Extracted).await;
    assert_eq!(
        pair.extracted.number("SELECT count(*) FROM article").await,
        0
    );
    let seen = link.evidence().unwrap();
    assert_eq!((seen.parked, seen.foreign_writes), (0, 0));
    // Of the passive side it is a write that nobody should have made.
    pair.extracted
        .execute("INSERT INTO article (sku, price_cents, state) VALUES ('new', 1, 'active')")
        .await;
    pair.equal().await;
    let began = now_ms();
    pair.legacy.execute("TRUNCATE item").await;
    eventually("the foreign write", WAIT, || async {
        (link.evidence()?.foreign_writes == 1).then_some(())
    })
    .await;
    foreign_since(&link, began);
    eventually("what is missing to be found", WAIT, || async {
        // A change that had no place in the stream yet is written a second time when it has.
        pair.legacy.execute("TRUNCATE item").await;
        let report = link.verify().await.ok()?;
        (report.different == 1).then_some(())
    })
    .await;
    link.shutdown().await;
}

/// Who may not see numbers is not told, and all else goes on; the verification finds it.
#[tokio::test(flavor = "multi_thread")]
async fn a_truncate_that_cannot_be_seen_is_found_by_the_verification() {
    let pair = pair(30).await;
    pair.legacy
        .execute(
            "CREATE USER few@'%'; GRANT CREATE, DROP, SELECT, INSERT, UPDATE, DELETE, TRIGGER, ALTER, INDEX \
             ON shop.* TO few@'%'",
        )
        .await;
    let mut spec = pair.spec();
    let Db::My(server) = &pair.legacy else {
        unreachable!("it is MariaDB");
    };
    spec.legacy = server.url_by("few", "127.0.0.1", "").parse().unwrap();
    let link = Link::open(spec).await.unwrap();
    let advice = link.preflight().await.unwrap().advice;
    let told = advice.iter().map(ToString::to_string).collect::<String>();
    assert!(
        told.contains("a TRUNCATE of `item` is not noticed"),
        "{told}"
    );
    assert!(
        told.contains("GRANT PROCESS ON *.* TO 'few'@'%', or"),
        "{told}"
    );
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    pair.legacy.execute("TRUNCATE item").await;
    pair.legacy.execute(&items(7, 7)).await;
    assert_eq!(link.verify().await.unwrap().different, 29);
    link.repair(false).await.unwrap();
    pair.equal().await;
    link.shutdown().await;
}

async fn pair(rows: u32) -> Pair {
    let (legacy, extracted) = (Db::my(LEGACY_MY).await, Db::my(EXTRACTED_MY).await);
    legacy.execute(&items(1, rows)).await;
    Pair::of(legacy, extracted)
}

pub(crate) fn pool(db: &Db) -> MySqlPool {
    match db {
        Db::My(server) => server.pool().clone(),
        Db::Lite(_) | Db::Pg(_) => unreachable!("these pairs have MariaDB here"),
    }
}

/// A statement on the monolith's table. Some will be refused: that is part of a history.
fn change(dice: &mut Dice) -> String {
    let id = 1 + dice.roll(160);
    let other = 1 + dice.roll(160);
    match dice.roll(8) {
        0 => format!("DELETE FROM item WHERE id = {id}"),
        1 => format!("UPDATE item SET id = {} WHERE id = {id}", 200 + other),
        2 => format!("UPDATE item SET code = 'n{other}' WHERE id = {id}"),
        3 => format!(
            "INSERT INTO item (code, price, status, made_at) \
             VALUES (left(uuid(), 18), {other}.25, 'A', '2026-01-02 03:04:05')"
        ),
        4 => format!(
            "UPDATE item SET price = price + 0.01 WHERE id BETWEEN {id} AND {}",
            id + 9
        ),
        5 => format!(
            "INSERT IGNORE INTO item (id, code, price, status, made_at) \
             VALUES ({id}, 'again{id}', 1, 'D', '2026-01-02 03:04:05')"
        ),
        _ => {
            format!("UPDATE item SET note = concat('n', {other}), weight = {other} WHERE id = {id}")
        }
    }
}

/// One writer's transactions of one to five statements; every fourth is undone.
async fn history(pool: MySqlPool, seed: u64, transactions: u32) {
    let mut dice = Dice(seed);
    for _ in 0..transactions {
        let Ok(mut tx) = pool.begin().await else {
            continue;
        };
        let mut whole = true;
        for _ in 0..=dice.roll(5) {
            let text = change(&mut dice);
            whole &= sqlx::query(AssertSqlSafe(text))
                .execute(&mut *tx)
                .await
                .is_ok();
            if !whole {
                break;
            }
            tokio::task::yield_now().await;
        }
        // An error here means that the transaction was undone, which is as good.
        let _ = if whole && dice.roll(4) > 0 {
            tx.commit().await
        } else {
            tx.rollback().await
        };
    }
}

async fn resumed(pair: &Pair) -> Link {
    let link = Link::open(pair.spec()).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    copied(&link).await;
    pair.equal().await;
    eventually("no row to be parked", WAIT, || async {
        (link.evidence()?.parked == 0).then_some(())
    })
    .await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    assert_eq!(link.evidence().unwrap().foreign_writes, 0);
    link
}

#[tokio::test(flavor = "multi_thread")]
async fn dying_at_any_point_of_a_batch_loses_nothing() {
    dying(pair(150).await).await;
}

pub(crate) async fn dying(pair: Pair) {
    let mut points = vec![
        ("after-read", 2),
        ("after-rows", 3),
        ("before-commit", 5),
        ("after-commit", 9),
    ];
    if pair.is_replicated() {
        points.extend([("log-read", 6), ("log-taken", 8)]);
    }
    for (seed, (point, after)) in (1..).zip(points) {
        let (legacy, extracted) = (pair.legacy.url(), pair.extracted.url());
        let mut process = child_between(&legacy, &extracted, pair.child(), point, after);
        let mut died = None;
        let mut round = seed * 100;
        while died.is_none() {
            history(pool(&pair.legacy), round, 3).await;
            round += 1;
            died = process.try_wait().unwrap();
        }
        assert!(crate::crash::was_aborted(died.unwrap()), "{point}");
        let link = resumed(&pair).await;
        link.close().await.unwrap();
        pair.extracted.execute("DELETE FROM article").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_histories_end_equal() {
    histories(pair(150).await).await;
}

pub(crate) async fn histories(pair: Pair) {
    let link = Link::open(pair.spec()).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    let writers: Vec<_> = (1..=4)
        .map(|seed| tokio::spawn(history(pool(&pair.legacy), seed, 120)))
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    link.shutdown().await;
    let link = resumed(&pair).await;

    let busy = Arc::new(AtomicBool::new(true));
    let more = tokio::spawn({
        let (pool, busy) = (pool(&pair.legacy), busy.clone());
        async move {
            let mut seed = 50;
            while busy.load(SeqCst) {
                history(pool.clone(), seed, 5).await;
                seed += 1;
            }
        }
    });
    cut_over(&link, Side::Extracted).await;
    busy.store(false, SeqCst);
    more.await.unwrap();
    pair.extracted
        .execute("UPDATE article SET price_cents = price_cents + 1 WHERE id % 2 = 0")
        .await;
    pair.equal().await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_refuses_others_and_waits_for_who_is_at_it() {
    fenced(pair(20).await).await;
}

pub(crate) async fn fenced(pair: Pair) {
    let link = Link::open(pair.spec()).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    copied(&link).await;
    eventually("the fence", WAIT, || async {
        let refused = sqlx::query("DELETE FROM article")
            .execute(&pool(&pair.extracted))
            .await;
        let text = refused.err()?.to_string();
        assert!(text.contains("outgrow: table article is fenced"), "{text}");
        Some(())
    })
    .await;
    // A writer that began before the fence of the other side is waited for, and carried over.
    let mut late = pool(&pair.legacy).begin().await.unwrap();
    sqlx::query("UPDATE item SET note = 'late' WHERE id = 1")
        .execute(&mut *late)
        .await
        .unwrap();
    let fencing = tokio::spawn({
        let link = link.clone();
        async move { link.fence(Side::Legacy).await }
    });
    // An old snapshot does not hide the fence from who writes later.
    let mut old = pool(&pair.legacy).begin().await.unwrap();
    sqlx::query("SELECT * FROM item")
        .fetch_all(&mut *old)
        .await
        .unwrap();
    late.commit().await.unwrap();
    let position = fencing.await.unwrap().unwrap();
    let refused = sqlx::query("UPDATE item SET note = 'hidden' WHERE id = 2")
        .execute(&mut *old)
        .await;
    // MariaDB 11.8 refuses it for its snapshot, before the trigger can say why.
    let why = refused.unwrap_err().to_string();
    let of_snapshot = "Record has changed since last read";
    assert!(why.contains("fenced") || why.contains(of_snapshot), "{why}");
    link.drain(position, WAIT).await.unwrap();
    assert_eq!(
        pair.extracted
            .number("SELECT count(*) FROM article WHERE note = 'late'")
            .await,
        1
    );
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_commits_late_loses_nothing() {
    late_commit(pair(20).await).await;
}

pub(crate) async fn late_commit(pair: Pair) {
    let link = Link::open(pair.spec()).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    let mut late = pool(&pair.legacy).begin().await.unwrap();
    sqlx::query("UPDATE item SET note = 'late' WHERE id = 1")
        .execute(&mut *late)
        .await
        .unwrap();
    for n in 2..10 {
        pair.legacy
            .execute(&format!("UPDATE item SET note = 'early' WHERE id = {n}"))
            .await;
    }
    eventually("the early ones", WAIT, || async {
        let there = "SELECT count(*) FROM article WHERE note = 'early'";
        (pair.extracted.number(there).await == 8).then_some(())
    })
    .await;
    late.commit().await.unwrap();
    pair.equal().await;
    link.shutdown().await;
}

const VALUES: &str = "CREATE TABLE vals (id int PRIMARY KEY, a tinyint, b bigint, bu bigint unsigned, c decimal(30,10), \
    e float, f double, g longtext, h varchar(20) COLLATE utf8mb4_bin, i char(5), j varbinary(20), k uuid, l date, m time(3), \
    n datetime(6), o timestamp(6) NULL, p bit(1), q json, s enum('a','b''c'), t set('x','y'), u year, v blob)";
const ROWS: &str = "INSERT INTO vals VALUES \
    (1, -128, -9223372036854775808, 18446744073709551615, -12345678901234567890.0123456789, 0.1, 1e-300, \
     'tab\t \"q\" ''s'' \u{e9} \u{1F600}', 'V', 'c', x'00ff10', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '2024-02-29', \
     '23:59:59.999', '2024-02-29 23:59:59.1', '2024-02-29 23:59:59.123456', b'1', '{\"b\": 1,  \"a\": [1.10, null]}', \
     'b''c', 'x,y', 2026, x'ff'), \
    (2, 127, 9223372036854775807, 0, 0, -3.4e38, 1.7976931348623157e308, '', '', '', '', NULL, '1000-01-01', '-838:59:59', \
     '1000-01-01 00:00:00', '1970-01-01 00:00:01', b'0', '[]', 'a', '', 1901, ''), \
    (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, \
     NULL, NULL, NULL)";
const COLUMNS: [&str; 22] = [
    "id", "a", "b", "bu", "c", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q",
    "s", "t", "u", "v",
];

async fn rows(db: &Mariadb) -> Vec<String> {
    let shown = COLUMNS.map(|column| format!("coalesce(hex(\"{column}\"), '-')"));
    let text = format!(
        "SELECT concat_ws(',', {}) FROM vals ORDER BY id",
        shown.join(", ")
    );
    let mut connection = db.pool().acquire().await.unwrap();
    sqlx::query("SET SESSION sql_mode = 'ANSI_QUOTES'")
        .execute(&mut *connection)
        .await
        .unwrap();
    sqlx::query_scalar(AssertSqlSafe(text))
        .fetch_all(&mut *connection)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_comes_over_as_it_is_and_back() {
    let (legacy, extracted) = (Mariadb::with(VALUES).await, Mariadb::with(VALUES).await);
    legacy.execute(ROWS).await;
    let columns = COLUMNS.iter().map(|&column| ColumnSpec {
        extracted: column.to_owned(),
        source: Source::Rename(column.to_owned()),
    });
    let table = TableSpec {
        legacy: "vals".to_owned(),
        extracted: "vals".to_owned(),
        key: vec!["id".to_owned()],
        columns: columns.collect(),
        defaults: Vec::new(),
        ..TableSpec::default()
    };
    let link = Link::open(LinkSpec {
        slice: "things".parse().unwrap(),
        legacy: legacy.url().parse().unwrap(),
        extracted: extracted.url().parse().unwrap(),
        tables: vec![table],
        writes: outgrow_bridge::Writes::One,
        limits: quick(),
    })
    .await
    .unwrap();
    let found = link.preflight().await.unwrap();
    assert!(found.ok(), "{:?}", found.problems);
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    let before = rows(&legacy).await;
    assert_eq!(before.len(), 3);
    assert_eq!(link.evidence().unwrap().parked, 0);
    assert_eq!(rows(&extracted).await, before);
    assert_eq!(link.verify().await.unwrap().different, 0);
    cut_over(&link, Side::Extracted).await;
    for to in ["id + 10", "id - 10"] {
        extracted
            .execute(&format!("UPDATE vals SET id = {to} ORDER BY id"))
            .await;
        eventually("the rows to move", WAIT, || async {
            (rows(&legacy).await == rows(&extracted).await).then_some(())
        })
        .await;
    }
    assert_eq!(rows(&legacy).await, before);
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_crashes_loses_nothing() {
    let (legacy, extracted) = (Db::my(LEGACY_MY).await, Db::lite(EXTRACTED_SQLITE).await);
    server_crash(Pair::of(legacy, extracted)).await;
}

pub(crate) async fn server_crash(mut pair: Pair) {
    let spec = pair.spec();
    let Db::My(legacy) = &mut pair.legacy else {
        unreachable!()
    };
    legacy.execute(&items(1, 1_500)).await;
    let link = Link::open(spec).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    for round in 0..2 {
        legacy
            .execute(&format!(
                "UPDATE item SET note = 'round {round}' WHERE id % 7 = {round}"
            ))
            .await;
        legacy.crash().await;
    }
    legacy
        .execute("UPDATE item SET note = 'after' WHERE id < 10")
        .await;
    copied(&link).await;
    pair.equal().await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_triggers_cannot_see_is_refused() {
    let legacy = Mariadb::with(
        "CREATE TABLE shelf (id int PRIMARY KEY); CREATE TABLE item (id bigint PRIMARY KEY, code varchar(20) NOT NULL, \
         price decimal(10,2) NOT NULL, status char(1) NOT NULL, note text, made_at datetime NOT NULL, weight double, \
         raw blob, shelf int, FOREIGN KEY (shelf) REFERENCES shelf(id) ON DELETE CASCADE) ENGINE = InnoDB",
    )
    .await;
    let extracted = Mariadb::with(&format!("{EXTRACTED_MY} ENGINE = MyISAM")).await;
    let mut tables = crate::postgres::tables();
    tables[0]
        .defaults
        .push(("shelf".to_owned(), outgrow_bridge::Cell::Null));
    let spec = LinkSpec {
        slice: "items".parse().unwrap(),
        legacy: legacy.url().parse().unwrap(),
        extracted: extracted.url().parse().unwrap(),
        tables,
        writes: outgrow_bridge::Writes::One,
        limits: quick(),
    };
    let link = Link::open(spec).await.unwrap();
    let found = link.preflight().await.unwrap();
    let text: Vec<String> = found.problems.iter().map(ToString::to_string).collect();
    let text = text.join("\n");
    for part in ["cascades fire no triggers", "knows no transactions"] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    link.shutdown().await;
}
