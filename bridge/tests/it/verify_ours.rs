//! Links of which one side is SQLite: its rows are hashed by the bridge as the other engine hashes
//! its own. Whatever reading the rows finds is found, whatever the mapping, and what is equal needs no
//! row to be read.

use outgrow_bridge::{Ambiguous, Cell, LinkSpec, Source, TableSpec};
use outgrow_rollout::Side;

use crate::mapping::{entry, following, same, spec};
use crate::mapping_keys::corrupt;
use crate::postgres::Db;
use crate::turning::cut_over;
use crate::verify_checksums::{alike, proven};

#[derive(Clone, Copy, PartialEq, Debug)]
enum Engine {
    Lite,
    Pg,
    My,
}
use Engine::{Lite, My, Pg};

async fn with(engine: Engine, tables: &str) -> Db {
    match engine {
        Lite => Db::lite(tables).await,
        Pg => Db::pg(tables).await,
        My => Db::my(tables).await,
    }
}

/// A table of these columns, each of one kind.
fn table(engine: Engine, name: &str, columns: &str) -> String {
    let kind = |kind: &str| match (engine, kind) {
        (Lite, "whole") => "integer",
        (Lite, "float") => "real",
        (Lite, "bytes") => "blob",
        (Lite, _) | (Pg, "text") => "text",
        (_, "whole") => "bigint",
        (Pg, "float") => "float8",
        (Pg, "bytes") => "bytea",
        (Pg, "money") => "numeric(10,2)",
        (Pg, "number") => "numeric(14,4)",
        (Pg, "local") => "timestamp",
        (Pg, "instant") => "timestamptz",
        (My, "float") => "double",
        (My, "bytes") => "longblob",
        (My, "money") => "decimal(10,2)",
        (My, "number") => "decimal(14,4)",
        (My, "local") => "datetime(6)",
        (My, "instant") => "timestamp(6) NULL",
        (My, _) => "longtext CHARACTER SET utf8mb4",
        (Pg, other) => unreachable!("{other}"),
    };
    let columns = columns.split(", ").map(|column| {
        let (name, of) = column.split_once(' ').unwrap();
        format!(", {name} {}", kind(of))
    });
    let id = kind("whole");
    let columns: String = columns.collect();
    format!("CREATE TABLE {name} (id {id} PRIMARY KEY{columns})")
}

const LEGACY: &str = "whole whole, word text, part float, bytes_ bytes, price money, state text, made local, \
    zoned local, first text, last text, names text, flag text, moment instant, number number, kind text";
const EXTRACTED: &str = "whole whole, word text, part float, bytes_ bytes, cents whole, state text, made instant, \
    zoned instant, name text, one text, two text, flag whole, moment instant, number number, fixed text";
const COLUMNS: [&str; 15] = [
    "whole", "word", "part", "bytes_", "cents", "state", "made", "zoned", "name", "one", "two",
    "flag", "moment", "number", "fixed",
];

fn rows(engine: Engine) -> String {
    let bytes = |hex: &str| match engine {
        Pg => format!("'\\x{hex}'"),
        Lite | My => format!("x'{hex}'"),
    };
    let instant = |text: &str| match engine {
        Lite | Pg => format!("'{}Z'", text.replace(' ', "T")),
        My => format!("'{text}'"),
    };
    let zone = if engine == My {
        "SET time_zone = '+00:00'; "
    } else {
        ""
    };
    format!(
        "{zone}INSERT INTO vals VALUES (1, 5, 'a|b^c \u{e9} \u{1f600} \"q\"', 0.1, {}, '12.90', 'A', '2026-03-29 02:30:00', \
         '2026-01-01 12:00:00', 'Ann', 'Lee', 'Ann Lee', 'Y', {}, '1.5000', 'even'), \
         (2, -9223372036854775808, '', -0.5, {}, '-0.05', 'B', '2024-02-29 00:30:00', '2026-07-01 12:00:00', 'B', 'C', 'x y', 'N', {}, \
         '-99999999.9999', 'odd'), \
         (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'odd'), \
         (4, 9223372036854775807, '^N', 1e300, {}, '0.00', 'A', '1999-12-31 23:59:59', '2026-10-25 01:59:59', 'D', NULL, ' ', 'Y', {}, \
         '0.0001', 'even')",
        bytes("00ff10"),
        instant("2024-02-29 23:59:59.123456"),
        bytes(""),
        instant("1970-01-02 00:00:00"),
        bytes("3f"),
        instant("2038-01-18 03:14:07.1"),
    )
}

fn mapped() -> Vec<TableSpec> {
    let part = |part| Source::Part {
        of: "names".to_owned(),
        part,
        at: " ".to_owned(),
        empty_is_null: false,
    };
    let mut columns: Vec<(&str, Source)> =
        ["id", "whole", "word", "part", "bytes_", "moment", "number"]
            .map(|name| (name, same(name)))
            .into();
    let from = |name: &str| name.to_owned();
    columns.extend([
        (
            "cents",
            Source::Cents {
                from: from("price"),
                scale: 2,
            },
        ),
        (
            "state",
            Source::Map {
                from: from("state"),
                pairs: vec![
                    ("A".into(), "active".into()),
                    ("B".into(), "it's|off".into()),
                ],
            },
        ),
        (
            "made",
            Source::LocalTime {
                from: from("made"),
                offset: 3_600,
            },
        ),
        (
            "zoned",
            Source::ZonedTime {
                from: from("zoned"),
                zone: "Europe/Berlin".parse().unwrap(),
                ambiguous: Ambiguous::Earlier,
            },
        ),
        (
            "name",
            Source::joined(vec![from("first"), from("last")], "--", true),
        ),
        ("one", part(1)),
        ("two", part(2)),
        (
            "flag",
            Source::Expr {
                from: from("flag"),
                forward: "value == 'Y' ? 1 : 0".to_owned(),
                reverse: "value == 1 ? 'Y' : 'N'".to_owned(),
            },
        ),
        ("fixed", Source::Const("yes".into())),
    ]);
    vec![TableSpec {
        defaults: vec![("kind".to_owned(), Cell::from("even"))],
        ..entry("vals", "vals", columns)
    }]
}

const WAYS: [(Engine, Engine); 4] = [(Lite, Pg), (Lite, My), (Pg, Lite), (My, Lite)];

/// What stands in a column of this engine in place of what should.
fn nasty(engine: Engine) -> &'static [&'static str] {
    match engine {
        Lite => &[
            "0",
            "5",
            "5.0",
            "'5'",
            "x'35'",
            "''",
            "x''",
            "'A'",
            "0.0",
            "-0.0",
            "x'00ff10'",
            "'a' || char(0)",
            "9223372036854775807.0",
            "CAST(x'ff' AS text)",
            "'active'",
            "'2026-03-29T01:30:00.0Z'",
        ],
        Pg | My => &[],
    }
}

async fn whatever_the_mapping_makes((from, into): (Engine, Engine)) {
    let way = format!("{from:?} to {into:?}");
    let legacy = with(from, &table(from, "vals", LEGACY)).await;
    let extracted = with(into, &table(into, "vals", EXTRACTED)).await;
    legacy.execute(&rows(from)).await;
    let link = following(spec(&legacy, &extracted, mapped())).await;
    proven(&link, &way).await;
    corrupt(&extracted, "CREATE TABLE kept AS SELECT * FROM vals").await;
    for column in COLUMNS {
        let kept = |row: u32| format!("(SELECT o.{column} FROM kept AS o WHERE o.id = {row})");
        let mut values: Vec<(u32, String)> = [(1, 2), (2, 1), (1, 3), (3, 2), (4, 1)]
            .map(|(row, other)| (row, kept(other)))
            .into();
        values.extend(nasty(into).iter().map(|value| (1, (*value).to_owned())));
        let mut differed = 0;
        for (row, value) in values {
            let what = format!("{way}: {column} of {row} is {value}");
            let set = |value: &str| format!("UPDATE vals SET {column} = {value} WHERE id = {row}");
            corrupt(&extracted, &set(&value)).await;
            differed += alike(&link, &what).await.len();
            corrupt(&extracted, &set(&kept(row))).await;
        }
        let least = if column == "fixed" { 0 } else { 3 };
        assert!(
            differed >= least,
            "{way}: {column}: {differed} changes were seen"
        );
    }
    proven(&link, &way).await;
    corrupt(&extracted, "DELETE FROM vals WHERE id = 2").await;
    corrupt(&legacy, "DELETE FROM vals WHERE id = 4").await;
    assert_eq!(alike(&link, &way).await.len(), 2, "{way}");
    assert_eq!(link.repair(false).await.unwrap().remaining, 0);
    proven(&link, &way).await;
    cut_over(&link, Side::Extracted).await;
    // It has no place on the legacy side.
    extracted
        .execute("UPDATE vals SET fixed = 'no' WHERE id = 1")
        .await;
    proven(&link, &way).await;
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_mapping_makes_of_sqlite_for_postgres() {
    whatever_the_mapping_makes((Lite, Pg)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_mapping_makes_of_sqlite_for_mariadb() {
    whatever_the_mapping_makes((Lite, My)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_mapping_makes_of_postgres_for_sqlite() {
    whatever_the_mapping_makes((Pg, Lite)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_mapping_makes_of_mariadb_for_sqlite() {
    whatever_the_mapping_makes((My, Lite)).await;
}

/// Rows of a table that goes to two, each of which takes some.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_dealt_out() {
    for (from, into) in WAYS {
        let way = format!("{from:?} to {into:?}");
        let columns = "word text, kind text";
        let legacy = with(from, &table(from, "vals", columns)).await;
        let both = format!(
            "{}; {}",
            table(into, "even", "word text"),
            table(into, "odd", "word text")
        );
        let extracted = with(into, &both).await;
        let values: Vec<String> = (1..60)
            .map(|id| format!("({id}, 'w{id}', '{}')", ["even", "odd", "none"][id % 3]))
            .collect();
        legacy
            .execute(&format!("INSERT INTO vals VALUES {}", values.join(", ")))
            .await;
        let part = |kind: &str| TableSpec {
            rows: Some(outgrow_bridge::RowFilter {
                column: "kind".to_owned(),
                values: vec![kind.into()],
                not: false,
            }),
            ..entry(
                "vals",
                kind,
                vec![("id", same("id")), ("word", same("word"))],
            )
        };
        let mut spec: LinkSpec = spec(&legacy, &extracted, vec![part("even"), part("odd")]);
        spec.limits.verify_rows = 7;
        let link = following(spec).await;
        proven(&link, &way).await;
        corrupt(&extracted, "UPDATE odd SET word = 'rot' WHERE id = 31").await;
        assert_eq!(alike(&link, &way).await.len(), 1, "{way}");
        link.shutdown().await;
    }
}

/// Numbers that come one after another, and look like chance.
pub(crate) fn chance(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Values of every kind, as literals of SQLite.
fn random(rows: u32) -> String {
    const LETTERS: [char; 14] = [
        'a',
        '|',
        '^',
        'N',
        'p',
        '\'',
        '"',
        '\\',
        ' ',
        '\n',
        '\u{7f}',
        '\u{e9}',
        '\u{1f600}',
        '%',
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15;
    let one = |id| {
        let whole = chance(&mut state).cast_signed() >> (chance(&mut state) % 64);
        let float = loop {
            let bits = f64::from_bits(chance(&mut state));
            let found = match chance(&mut state) % 3 {
                0 => bits,
                1 => f64::from(chance(&mut state) as u32) / 1_000.0,
                _ => bits.rem_euclid(1e18).trunc(),
            };
            // MariaDB's doubles are normal ones.
            if found.is_normal() {
                break found;
            }
        };
        let letter = |state: &mut u64| LETTERS[(chance(state) % 14) as usize];
        let length = chance(&mut state) % 12;
        let text: String = (0..length).map(|_| letter(&mut state)).collect();
        let bytes = chance(&mut state).to_be_bytes();
        let hex: String = bytes[..(length % 9) as usize]
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        format!(
            "({id}, {whole}, {float:e}, '{}', x'{hex}')",
            text.replace('\'', "''")
        )
    };
    (1..=rows).map(one).collect::<Vec<_>>().join(", ")
}

/// What is equal is seen to be equal without a look at the rows: both make the same text of it.
#[tokio::test(flavor = "multi_thread")]
async fn values_by_chance_have_the_same_sums() {
    let columns = "whole whole, part float, word text, bytes_ bytes";
    let names = ["id", "whole", "part", "word", "bytes_"];
    for engine in [Pg, My] {
        let first = Db::lite(&table(Lite, "vals", columns)).await;
        first
            .execute(&format!("INSERT INTO vals VALUES {}", random(700)))
            .await;
        let middle = with(engine, &table(engine, "vals", columns)).await;
        let last = Db::lite(&table(Lite, "vals", columns)).await;
        let tables = || {
            vec![entry(
                "vals",
                "vals",
                names.map(|name| (name, same(name))).into(),
            )]
        };
        let link = following(spec(&first, &middle, tables())).await;
        proven(&link, &format!("to {engine:?}")).await;
        link.close().await.unwrap();
        let link = following(spec(&middle, &last, tables())).await;
        proven(&link, &format!("from {engine:?}")).await;
        link.shutdown().await;
    }
}

/// Values that do not fit together into what is read at once.
#[tokio::test(flavor = "multi_thread")]
async fn large_values_are_hashed_one_after_another() {
    let columns = "word text, bytes_ bytes";
    let legacy = Db::lite(&table(Lite, "vals", columns)).await;
    let many = "INSERT INTO vals SELECT value, CASE value WHEN 2 THEN hex(zeroblob(5000000)) || '|^' END, zeroblob(value * 3000000) \
        FROM (SELECT 1 AS value UNION SELECT 2 UNION SELECT 3 UNION SELECT 4)";
    legacy.execute(many).await;
    let extracted = with(Pg, &table(Pg, "vals", columns)).await;
    let names = ["id", "word", "bytes_"];
    let tables = vec![entry(
        "vals",
        "vals",
        names.map(|name| (name, same(name))).into(),
    )];
    let link = following(spec(&legacy, &extracted, tables)).await;
    proven(&link, "large").await;
    corrupt(
        &extracted,
        "UPDATE vals SET bytes_ = set_byte(bytes_, 8999999, 1) WHERE id = 3",
    )
    .await;
    assert_eq!(alike(&link, "large").await.len(), 1);
    link.shutdown().await;
}
