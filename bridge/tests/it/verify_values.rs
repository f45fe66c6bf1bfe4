//! A SQLite file beside PostgreSQL: rows go by the server's own hash of values, which the bridge makes
//! of the SQLite rows. Ours is the server's for values of every type, and where it is not, MD5 tells.

use std::fmt::Write as _;

use crate::mapping::{entry, following, same, spec};
use crate::mapping_keys::corrupt;
use crate::postgres::Db;
use crate::verify_checksums::{alike, proven};
use crate::verify_ours::chance;

/// Each column, its type in SQLite and that in PostgreSQL.
const COLUMNS: [(&str, &str, &str); 16] = [
    ("small", "integer", "smallint"),
    ("word", "integer", "integer"),
    ("whole", "integer", "bigint"),
    ("flag", "integer", "boolean"),
    ("part", "real", "float8"),
    ("single", "real", "real"),
    ("fixed", "text", "numeric(14,4)"),
    ("any_scale", "text", "numeric"),
    ("letters", "text", "text"),
    ("short", "text", "varchar(90)"),
    ("bytes_", "blob", "bytea"),
    ("named", "text", "uuid"),
    ("clock", "text", "timestamp"),
    ("moment", "text", "timestamptz"),
    ("day", "text", "date"),
    ("bits", "text", "bit(9)"),
];

fn table(of: impl Fn(&(&str, &str, &str)) -> String) -> String {
    let mut text = "CREATE TABLE vals (id bigint PRIMARY KEY".to_owned();
    for column in &COLUMNS {
        write!(text, ", {} {}", column.0, of(column)).unwrap();
    }
    text + ")"
}

fn lite() -> String {
    table(|column| column.1.to_owned())
}

fn pg() -> String {
    table(|column| column.2.to_owned())
}

/// A date and a time of day; years of up to six digits, some before our era.
fn moment(state: &mut u64, between: &str, end: &str) -> String {
    match chance(state) % 40 {
        0 => return "infinity".to_owned(),
        1 => return "-infinity".to_owned(),
        _ => {}
    }
    let mut up_to = |most: u64| chance(state) % most;
    let (year, before) = match up_to(8) {
        0 => (1 + up_to(4_700), " BC"),
        1 => (1 + up_to(294_275), ""),
        _ => (1_900 + up_to(200), ""),
    };
    let fraction = match up_to(3) {
        0 => format!(".{:06}", up_to(1_000_000)),
        _ => String::new(),
    };
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    format!(
        "{year:04}-{:02}-{:02}{between}{:02}:{:02}:{:02}{fraction}{end}{before}",
        1 + up_to(12),
        1 + up_to(28),
        up_to(24),
        up_to(60),
        up_to(60)
    )
}

/// A value of a column as SQLite's literal.
#[allow(clippy::cast_possible_truncation)] // Chance may be cut.
fn value(state: &mut u64, of: &str) -> String {
    const LETTERS: [&str; 9] = [
        "a",
        "B",
        "|",
        "^N",
        " ",
        "\n",
        "\u{e9}",
        "\u{20ac}",
        "\u{1f600}",
    ];
    let seed = chance(state);
    let whole = seed.cast_signed();
    let sign = if seed.is_multiple_of(2) { "-" } else { "" };
    match of {
        "small" => (whole as i16).to_string(),
        "word" => (whole as i32 >> (seed % 31)).to_string(),
        "whole" => (whole >> (seed % 63)).to_string(),
        "flag" => (seed % 2).to_string(),
        "part" => match seed % 9 {
            0 => "-0.0".to_owned(),
            1 => "0.0".to_owned(),
            _ => format!("{:e}", f64::from(whole as i32) / 1_000.0),
        },
        "single" => format!("{:e}", f64::from(whole as i16) / 8.0),
        "fixed" => format!("'{sign}{}.{:04}'", seed >> 36, 1 + seed % 9_999),
        "any_scale" => format!("'{sign}{}.5{}'", seed, "0".repeat((seed % 30) as usize)),
        "letters" | "short" => {
            // Two characters each, at the most.
            let letters = (0..seed % 40).map(|_| LETTERS[(chance(state) % 9) as usize]);
            format!("'{}'", letters.collect::<String>())
        }
        "bytes_" => format!("x'{}'", "0f".repeat((seed % 40) as usize)),
        "named" => {
            let (a, b) = (chance(state), chance(state) & 0xffff_ffff_ffff);
            format!(
                "'{:08x}-{:04x}-{:04x}-{:04x}-{b:012x}'",
                a >> 32,
                a >> 16 & 0xffff,
                a & 0xffff,
                seed >> 48
            )
        }
        "clock" => format!("'{}'", moment(state, " ", "")),
        "moment" => format!("'{}'", moment(state, "T", "Z")),
        "day" => format!(
            "'{}-{:02}-{:02}'",
            1_900 + seed % 200,
            1 + seed % 12,
            1 + seed % 28
        ),
        _ => format!("'{:09b}'", seed % 512),
    }
}

fn rows(rows: u32) -> String {
    let mut state = 0x9e37_79b9_7f4a_7c15;
    let mut text = String::new();
    for id in 1..=rows {
        write!(text, "{}({id}", if id > 1 { ", " } else { "" }).unwrap();
        for (name, ..) in COLUMNS {
            let null = chance(&mut state).is_multiple_of(12);
            let shown = if null {
                "NULL".to_owned()
            } else {
                value(&mut state, name)
            };
            write!(text, ", {shown}").unwrap();
        }
        text.push(')');
    }
    format!("INSERT INTO vals VALUES {text}")
}

/// A function that comes before the server's own one of the name.
async fn shadow(db: &Db, function: &str) {
    let path = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = public, pg_catalog', current_database()); END $$";
    db.execute(path).await;
    db.execute(function).await;
}

const NO_MD5: &str = "CREATE FUNCTION public.md5(text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RAISE ''no md5''; END'";
const OTHER_HASH: &str = "CREATE FUNCTION public.hashtextextended(t text, s bigint) RETURNS bigint LANGUAGE sql \
    AS 'SELECT pg_catalog.hashtextextended(t, s + 1)'";

/// To PostgreSQL and on to another SQLite file: what is equal is seen to be equal without a look at
/// the rows, and each column's differences are found.
async fn there_and_back(function: &str) {
    let first = Db::lite(&lite()).await;
    first.execute(&rows(600)).await;
    let middle = Db::pg(&pg()).await;
    // Older ones have no hash of rows: all goes by MD5.
    if let Db::Pg(server) = &middle
        && server.version().await >= 14
    {
        shadow(&middle, function).await;
    }
    let last = Db::lite(&lite()).await;
    let names = || ["id"].into_iter().chain(COLUMNS.map(|column| column.0));
    let tables = || {
        vec![entry(
            "vals",
            "vals",
            names().map(|name| (name, same(name))).collect(),
        )]
    };
    let link = following(spec(&first, &middle, tables())).await;
    proven(&link, "to PostgreSQL").await;
    for (name, ..) in COLUMNS {
        let differs = format!(
            "UPDATE vals SET {name} = (SELECT o.{name} FROM vals AS o WHERE o.{name} IS DISTINCT FROM vals.{name} LIMIT 1) WHERE id = 9"
        );
        corrupt(
            &middle,
            "CREATE TABLE kept AS SELECT * FROM vals WHERE id = 9",
        )
        .await;
        corrupt(&middle, &differs).await;
        assert_eq!(alike(&link, name).await.len(), 1, "{name}");
        let back = format!(
            "UPDATE vals SET {name} = (SELECT {name} FROM kept) WHERE id = 9; DROP TABLE kept"
        );
        corrupt(&middle, &back).await;
    }
    proven(&link, "as before").await;
    link.close().await.unwrap();
    let link = following(spec(&middle, &last, tables())).await;
    proven(&link, "from PostgreSQL").await;
    link.shutdown().await;
}

/// Were there an MD5 in it, the statement would be refused and the rows read.
#[tokio::test(flavor = "multi_thread")]
async fn values_of_every_type_have_the_hash_of_the_server() {
    there_and_back(NO_MD5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hashes_otherwise_is_asked_for_md5() {
    there_and_back(OTHER_HASH).await;
}
