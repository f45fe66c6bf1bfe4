//! Keys of every kind as the row log has them.

use outgrow_bridge::{Capture, Cell, ColumnSpec, DatabaseUrl, Link, LinkSpec, Source, TableSpec};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::{Mariadb, eventually};

use crate::shop::{WAIT, copied, quick};

/// A table for each kind of key; each row is changed, moved and deleted, told by its key alone.
const KEYS: [(&str, &str, [&str; 3]); 19] = [
    ("k_tiny", "tinyint", ["-128", "7", "127"]),
    ("k_unsigned", "int unsigned", ["0", "7", "4294967295"]),
    ("k_medium", "mediumint", ["-8388608", "7", "8388607"]),
    (
        "k_big",
        "bigint",
        ["-9223372036854775808", "7", "9223372036854775807"],
    ),
    (
        "k_ubig",
        "bigint unsigned",
        ["0", "7", "18446744073709551615"],
    ),
    ("k_year", "year", ["1901", "2026", "2155"]),
    (
        "k_decimal",
        "decimal(30,10)",
        ["-12345678901234567890.0123456789", "0", "0.5"],
    ),
    (
        "k_varchar",
        "varchar(40)",
        ["''", "'it''s \u{e9} \u{1F600}'", "'Z'"],
    ),
    (
        "k_latin",
        "varchar(40) CHARACTER SET latin1",
        ["'\u{e9}t\u{e9}'", "'a'", "'\u{df}'"],
    ),
    (
        "k_greek",
        "char(20) CHARACTER SET greek",
        ["'\u{3b1}\u{3b2}'", "'a'", "'x  '"],
    ),
    (
        "k_wide",
        "varchar(300) CHARACTER SET utf16",
        ["'\u{e9}'", "repeat('w', 290)", "'\u{1F600}'"],
    ),
    (
        "k_enum",
        "enum('a','b''c','\u{e9}') CHARACTER SET latin1",
        ["'a'", "'b''c'", "'\u{e9}'"],
    ),
    (
        "k_binary",
        "binary(8)",
        ["x'00'", "x'0102030405060700'", "x'ff'"],
    ),
    ("k_varbinary", "varbinary(20)", ["''", "x'00ff00'", "x'41'"]),
    (
        "k_datetime",
        "datetime(6)",
        [
            "'1000-01-01'",
            "'2024-02-29 23:59:59.1'",
            "'9999-12-31 23:59:59.999999'",
        ],
    ),
    (
        "k_stamp",
        "timestamp(3) NOT NULL DEFAULT '2001-01-01'",
        [
            "'1970-01-02 00:00:01'",
            "'2024-02-29 12:00:00.120'",
            "'2037-01-01'",
        ],
    ),
    (
        "k_date",
        "date",
        ["'1000-01-01'", "'2024-02-29'", "'9999-12-31'"],
    ),
    (
        "k_time",
        "time(3)",
        ["'-838:59:59'", "'-00:00:00.5'", "'23:59:59.999'"],
    ),
    ("k_set", "set('x','y','z')", ["''", "'x,z'", "'y'"]),
];

fn keyed(name: &str) -> TableSpec {
    let columns = ["a", "k", "v"].map(|column| ColumnSpec {
        extracted: column.to_owned(),
        source: Source::Rename(column.to_owned()),
    });
    TableSpec {
        legacy: name.to_owned(),
        extracted: name.to_owned(),
        key: vec!["k".to_owned()],
        columns: columns.into(),
        defaults: "jbunefdtlcywmi"
            .chars()
            .map(|column| (column.to_string(), Cell::Null))
            .collect(),
        ..TableSpec::default()
    }
}

async fn values(db: &Mariadb, table: &str) -> Vec<String> {
    let text = format!("SELECT concat_ws(',', hex(k), a, v) FROM {table} ORDER BY 1");
    sqlx::query_scalar(sqlx::AssertSqlSafe(text))
        .fetch_all(db.pool())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_every_kind_are_read() {
    let uuid = (
        "k_uuid",
        "uuid",
        [
            "'a0eebc99-9c0b-1ef8-bb6d-6bb9bd380a00'",
            "'00000000-0000-0000-0000-000000000000'",
            "'01890a5d-ac96-774b-bcce-b302099a8057'",
        ],
    );
    let kinds: Vec<_> = KEYS.into_iter().chain([uuid]).collect();
    // Columns of every other kind stand before the key: they are passed over.
    let before = "j json, b bit(11), u uuid, n inet6, e double, f float, d decimal(9,2), t tinytext, \
                  l longblob, c varchar(500) COMPRESSED, y enum('p','q') DEFAULT 'q', \
                  w time(6) DEFAULT '01:02:03', m timestamp(2) DEFAULT now(2), i int unsigned DEFAULT 4294967295";
    let make = kinds.iter().map(|(name, kind, _)| {
        format!("CREATE TABLE {name} ({before}, a int, k {kind}, v int, PRIMARY KEY (k));")
    });
    let make: String = make.collect();
    let (legacy, extracted) = (Mariadb::logged(&make).await, Mariadb::logged(&make).await);
    let capturing = |db: &Mariadb| {
        let url: DatabaseUrl = db.url().parse().unwrap();
        url.capturing(Capture::Replication).unwrap()
    };
    let link = Link::open(LinkSpec {
        slice: "things".parse().unwrap(),
        legacy: capturing(&legacy),
        extracted: capturing(&extracted),
        tables: kinds.iter().map(|(name, _, _)| keyed(name)).collect(),
        writes: outgrow_bridge::Writes::One,
        limits: quick(),
    })
    .await
    .unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    for (name, _, [one, two, three]) in &kinds {
        legacy
            .execute(&format!(
                "INSERT INTO {name} (a, k, v, c) VALUES (1, {one}, 1, 'c'), (2, {two}, 2, NULL); \
                 UPDATE {name} SET v = 5 WHERE a = 1; UPDATE {name} SET k = {three} WHERE a = 2"
            ))
            .await;
    }
    for (name, _, _) in &kinds {
        eventually(&format!("the rows of {name}"), WAIT, || async {
            let rows = values(&legacy, name).await;
            (rows == values(&extracted, name).await && rows.len() == 2).then_some(())
        })
        .await;
        legacy
            .execute(&format!("DELETE FROM {name} WHERE a = 2"))
            .await;
    }
    for (name, _, _) in &kinds {
        eventually(&format!("the deletes of {name}"), WAIT, || async {
            (values(&extracted, name).await.len() == 1).then_some(())
        })
        .await;
    }
    assert_eq!(link.evidence().unwrap().parked, 0);
    assert_eq!(link.verify().await.unwrap().different, 0);
    link.shutdown().await;
}
