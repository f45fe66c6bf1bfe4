//! Rows that are written as arrays of their columns, in one call: every type of them, values that
//! have no array of their own type, rows that are there and rows that are not, and names that the
//! call uses itself.

use outgrow_bridge::{Capture, DatabaseUrl, Link, LinkSpec, TableSpec};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::{Postgres, eventually};
use sqlx::AssertSqlSafe;

use crate::postgres_values::{COLUMNS, ROWS, VALUES, same, spec};
use crate::shop::{WAIT, copied};

/// Columns as the call names what it uses, and a key of two types.
const ODD: &str = "CREATE TABLE odd (c0 uuid, given timestamptz, c1 smallint, there boolean, written real, \
    \"c?2\" text, \"Select\" numeric(9,3), PRIMARY KEY (c0, given))";
const ODD_COLUMNS: [&str; 7] = ["c0", "given", "c1", "there", "written", "c?2", "Select"];

/// Every type whose binary form is the same in all servers.
const NATIVE: &str = "CREATE TABLE native (a smallint, b bigint, id int, c numeric, d numeric(12,4), e real, \
    f double precision, g text, h varchar(20), i char(5), j bytea, k uuid, l date, n timestamp, o timestamptz, \
    p boolean, q json, r jsonb, s oid, t name, PRIMARY KEY (id, k)); \
    CREATE TABLE beside (id bigint PRIMARY KEY, n int)";
const NATIVE_COLUMNS: [&str; 20] = [
    "id", "k", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "l", "n", "o", "p", "q", "r", "s",
    "t",
];
const NATIVE_ROWS: &str = "INSERT INTO native (a, b, id, c, d, e, f, g, h, i, j, k, l, n, o, p, q, r, s, t) VALUES \
    (-32768, -9223372036854775808, 1, 123456789012345678901234567890.123456789, -99999999.9999, 0.1, 1e-300, \
     E'tab\\t \"q\" ''s'' \\u00e9 \\U0001F600', 'v', 'c', '\\x00ff10', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', \
     '2024-02-29', '2024-02-29 23:59:59.1', '2024-02-29 23:59:59.123456+05:30', true, \
     '{\"b\": 1,  \"a\": [1.10, null]}', '{\"b\": 1, \"a\": [1.10, null]}', 4294967295, 'a name'), \
    (32767, 9223372036854775807, 2, 0, 0.0001, -3.4e38, 'NaN', '', '', '', '', gen_random_uuid(), '0001-01-01', \
     '0001-01-01 00:00:00', '1970-01-01 00:00:00Z', false, '[]', '[]', 0, ''), \
    (NULL, NULL, 3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, gen_random_uuid(), NULL, NULL, NULL, NULL, \
     NULL, NULL, NULL, NULL), \
    (0, 0, 4, 1e20, 1.5, 16777217, 9007199254740993, '?', '$1', 'abcde', '\\x3f', gen_random_uuid(), '9999-12-31', \
     '9999-12-31 23:59:59.999999', '2038-01-19 03:14:07.10+00', true, 'null', '\"x\"', 7, '$1'), \
    (1, 1, 5, 0.00001000, -0.5, -0.0, -0.0, 'x', 'x', 'x', '\\x', gen_random_uuid(), '1999-12-31', \
     '1969-12-31 23:59:59.999999', '1900-01-01 00:00:00Z', false, '1', '1', 1, 'x')";

async fn all(server: &Postgres, table: &str) -> Vec<String> {
    let text = format!("SELECT every_::text FROM {table} AS every_ ORDER BY 1");
    let rows = sqlx::query_scalar(AssertSqlSafe(text)).fetch_all(server.pool());
    rows.await.unwrap()
}

async fn number(server: &Postgres, text: &str) -> i64 {
    let found = sqlx::query_scalar(AssertSqlSafe(text.to_owned())).fetch_one(server.pool());
    found.await.unwrap()
}

struct Two {
    legacy: Postgres,
    extracted: Postgres,
    link: Link,
}

impl Two {
    async fn following(tables: &str, rows: &str, of: Vec<TableSpec>) -> Self {
        let (legacy, extracted) = (Postgres::with(tables).await, Postgres::with(tables).await);
        if !rows.is_empty() {
            legacy.execute(rows).await;
        }
        let logged = |url: String| {
            let url: DatabaseUrl = url.parse().unwrap();
            url.capturing(Capture::Replication).unwrap()
        };
        let link = Link::open(LinkSpec {
            legacy: logged(legacy.url()),
            extracted: logged(extracted.url()),
            ..spec(&legacy.url(), &extracted.url(), of)
        });
        let link = link.await.unwrap();
        link.ensure(DataPhase::Following, Side::Legacy)
            .await
            .unwrap();
        copied(&link).await;
        let two = Self {
            legacy,
            extracted,
            link,
        };
        two.is_short().await;
        two
    }

    /// A heartbeat that has gone the short way leaves its place in the log.
    async fn is_short(&self) {
        let known = "SELECT coalesce(max(split_part(place, ' ', 1)::bigint), 0) \
                     FROM _outgrow.things_position WHERE stream = 'legacy'";
        let head = number(&self.legacy, "SELECT head FROM _outgrow.things_control").await;
        eventually("the short way to be open", WAIT, || async {
            (number(&self.extracted, known).await > head).then_some(())
        })
        .await;
    }

    async fn equal(&self, table: &str) {
        eventually("both tables to be equal", WAIT, || async {
            (all(&self.legacy, table).await == all(&self.extracted, table).await).then_some(())
        })
        .await;
    }

    /// Functions of ours on the extracted side that write a table, by how they take its values.
    async fn functions(&self, table: &str) -> (i64, i64) {
        let of = async |how: &str| {
            let text =
                format!("SELECT count(*) FROM pg_proc WHERE proname = 'things_{how}_{table}'");
            number(&self.extracted, &text).await
        };
        (of("move").await, of("write").await)
    }

    /// Changes that went the long way.
    async fn noted(&self) -> i64 {
        let text = "SELECT count(*) FROM _outgrow.things_changes WHERE tbl <> ''";
        number(&self.legacy, text).await
    }

    async fn end(self) {
        assert_eq!(self.link.evidence().unwrap().parked, 0);
        assert_eq!(self.link.verify().await.unwrap().different, 0);
        self.link.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_goes_as_an_array() {
    let two = Two::following(VALUES, "", vec![same("vals", &["id"], &COLUMNS)]).await;
    let noted = two.noted().await;
    two.legacy.execute(ROWS).await;
    two.equal("vals").await;
    for text in [
        "UPDATE vals SET g = 'once more', b = b / 2, o = o + interval '1 microsecond', f = '-Infinity'",
        "UPDATE vals SET id = id + 10",
        "DELETE FROM vals WHERE id = 12",
    ] {
        two.legacy.execute(text).await;
        two.equal("vals").await;
    }
    assert_eq!(two.noted().await, noted, "all of it by the short way");
    two.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_values_come_over_all_the_same() {
    let two = Two::following(VALUES, ROWS, vec![same("vals", &["id"], &COLUMNS)]).await;
    // Neither a number of microseconds nor without rounding a text of them.
    for text in [
        "UPDATE vals SET c = 'NaN', f = 'Infinity', e = '-Infinity' WHERE id = 1",
        "UPDATE vals SET n = '0001-01-01 00:00:00', o = '1890-01-01 00:00:00+00:53:28' WHERE id = 4",
        "UPDATE vals SET g = repeat('\u{fc}', 3000), j = decode(repeat('00ff', 1500), 'hex') WHERE id = 2",
    ] {
        two.legacy.execute(text).await;
        two.equal("vals").await;
    }
    two.end().await;
}

/// Values that the log has in the form of their types go into arrays as they came, and are read
/// where a row has to be looked at.
#[tokio::test(flavor = "multi_thread")]
async fn what_every_server_reads_alike_is_moved_as_it_came() {
    let tables = vec![
        same("native", &["id", "k"], &NATIVE_COLUMNS),
        same("beside", &["id"], &["id", "n"]),
    ];
    let two = Two::following(NATIVE, "INSERT INTO beside VALUES (1, 0)", tables).await;
    let equal = async || {
        two.equal("native").await;
        two.equal("beside").await;
    };
    let noted = two.noted().await;
    two.legacy.execute(NATIVE_ROWS).await;
    equal().await;
    // Before 14 the log tells text, so that values are looked at.
    let as_it_came = Postgres::oldest() >= 14;
    for (text, of_all) in [
        (
            "UPDATE native SET c = 'Infinity', d = 'NaN', e = '-Infinity', f = 'Infinity', l = 'infinity', \
             n = '-infinity', o = 'infinity' WHERE id = 1",
            false,
        ),
        (
            "UPDATE native SET l = '0044-03-15 BC', n = '0044-03-15 12:00:00 BC', o = '12026-01-01 00:00:00Z' WHERE id = 2",
            false,
        ),
        (
            "UPDATE native SET g = repeat('\u{fc}', 900), a = NULL, p = NULL WHERE id = 4",
            true,
        ),
        (
            "UPDATE native SET id = id + 10, k = gen_random_uuid() WHERE id = 3",
            true,
        ),
    ] {
        if as_it_came || of_all {
            two.legacy.execute(text).await;
            equal().await;
        }
    }
    assert_eq!(two.noted().await, noted, "all of it by the short way");
    if as_it_came {
        assert_eq!(two.functions("native").await, (1, 0));
    }
    // Of two tables at once, each row is read.
    two.legacy.execute("DELETE FROM native").await;
    let more = format!("BEGIN; {NATIVE_ROWS}; UPDATE beside SET n = n + 1; COMMIT");
    two.legacy.execute(&more).await;
    equal().await;
    let change = "BEGIN; UPDATE native SET id = id + 1, b = b / 2, c = c - 1, f = f / 3; \
                  UPDATE beside SET n = n + 1; COMMIT";
    two.legacy.execute(change).await;
    equal().await;
    assert_eq!(two.noted().await, noted, "all of it by the short way");
    two.end().await;
}

/// What is found by an update and what is not, in any mixture, and whatever the source did.
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_written_whether_they_are_there_or_not() {
    let insert = |from: u32, to: u32| {
        format!(
            "INSERT INTO odd SELECT md5(i::text)::uuid, '2026-01-01'::timestamptz + i * interval '1 hour', \
             i % 300, i % 2 = 0, i / 8.0, CASE WHEN i % 5 > 0 THEN 'c' || i END, i / 1000.0 \
             FROM generate_series({from}, {to}) AS i"
        )
    };
    let of = vec![same("odd", &["c0", "given"], &ODD_COLUMNS)];
    let two = Two::following(ODD, &insert(1, 400), of).await;
    let noted = two.noted().await;
    // Gone behind the bridge's back: an update brings them again.
    two.extracted
        .execute(
            "BEGIN; SET LOCAL session_replication_role = replica; \
             DELETE FROM odd WHERE c1 % 3 = 0; COMMIT",
        )
        .await;
    two.legacy
        .execute("UPDATE odd SET written = written + 1, there = NOT there")
        .await;
    two.equal("odd").await;
    let mut tx = two.legacy.pool().begin().await.unwrap();
    for text in [
        insert(401, 700),
        "DELETE FROM odd WHERE c1 % 7 = 0".to_owned(),
        "UPDATE odd SET \"c?2\" = 'twice' WHERE c1 % 2 = 0".to_owned(),
        "UPDATE odd SET c0 = md5(c0::text)::uuid WHERE c1 % 11 = 0".to_owned(),
        insert(701, 720),
    ] {
        sqlx::query(AssertSqlSafe(text))
            .execute(&mut *tx)
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();
    two.equal("odd").await;
    two.legacy.execute("DELETE FROM odd WHERE c1 > 5").await;
    two.equal("odd").await;
    assert_eq!(two.noted().await, noted, "all of it by the short way");
    two.end().await;
}
