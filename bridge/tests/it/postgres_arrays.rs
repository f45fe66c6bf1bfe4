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
    async fn following(tables: &str, rows: &str, of: TableSpec) -> Self {
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
            ..spec(&legacy.url(), &extracted.url(), vec![of])
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
    let two = Two::following(VALUES, "", same("vals", &["id"], &COLUMNS)).await;
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
    let two = Two::following(VALUES, ROWS, same("vals", &["id"], &COLUMNS)).await;
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
    let of = same("odd", &["c0", "given"], &ODD_COLUMNS);
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
