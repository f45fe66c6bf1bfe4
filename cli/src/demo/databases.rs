//! Reads the shop's databases directly, behind everybody's back.
//!
//! Owns the demo's own statement of what "the same row" means on both sides, as SQL, and the
//! hidden cron job that writes past the proxy. Nothing else of the demo writes to a database.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, Row};

use super::errands::REVIEW_BEGINS;
use super::ledger::Kind;
use super::oracle::{Found, Rows};

/// A reader or the cron job waits for the shop's writers like any other process.
const BUSY: Duration = Duration::from_secs(10);

/// One table pair, read by both of these queries into the same form.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair {
    pub(crate) legacy: &'static str,
    pub(crate) extracted: &'static str,
}

/// Where a kind of write is found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trace {
    pub(crate) kind: Kind,
    /// Gives token and number, for a prefix.
    pub(crate) legacy: &'static str,
    pub(crate) extracted: &'static str,
}

/// What the oracle must know of a slice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    pub(crate) pairs: &'static [Pair],
    pub(crate) traces: &'static [Trace],
    /// A sum that votes raise, on each side.
    pub(crate) votes: Option<Pair>,
    /// What the hidden cron job runs in the monolith's database.
    pub(crate) cron: &'static str,
}

pub(crate) const CATALOG: Facts = Facts {
    pairs: &[
        Pair {
            legacy: "SELECT id, json_array(name, parent_id, position) FROM categories",
            extracted: "SELECT id, json_array(label, parent_id, sort_order) FROM category",
        },
        Pair {
            legacy: "SELECT id, json_array(sku, name, description, category_id,
                CASE status WHEN 'A' THEN 'active' WHEN 'D' THEN 'discontinued'
                    WHEN 'S' THEN 'seasonal' END,
                CASE featured WHEN 'Y' THEN 1 ELSE 0 END, tags, weight_g,
                strftime('%Y-%m-%dT%H:%M:%SZ', created_at, '-1 hour'),
                strftime('%Y-%m-%dT%H:%M:%SZ', updated_at, '-1 hour'),
                CAST(replace(price, '.', '') AS INTEGER), currency) FROM products",
            extracted: "SELECT p.id, json_array(p.sku, p.title, p.description, p.category_id,
                p.state, p.is_featured, p.labels, p.weight_g, p.created_at, p.updated_at,
                m.amount_cents, m.currency)
                FROM product p LEFT JOIN product_price m ON m.product_id = p.id",
        },
        Pair {
            legacy:
                "SELECT id, json_array(product_id, CAST(replace(old_price, '.', '') AS INTEGER),
                CAST(replace(new_price, '.', '') AS INTEGER), changed_by, ref,
                strftime('%Y-%m-%dT%H:%M:%SZ', changed_at, '-1 hour')) FROM price_changes",
            extracted: "SELECT id, json_array(product_id, old_cents, new_cents, staff_id, ref,
                changed_at) FROM price_change",
        },
    ],
    traces: &[Trace {
        kind: Kind::Price,
        legacy: "SELECT ref, count(*) FROM price_changes WHERE ref LIKE ? || '%' GROUP BY ref",
        extracted: "SELECT ref, count(*) FROM price_change WHERE ref LIKE ? || '%' GROUP BY ref",
    }],
    votes: None,
    cron: "UPDATE products SET weight_g = coalesce(weight_g, 0) + 1 WHERE id = 4242",
};

pub(crate) const REVIEWS: Facts = Facts {
    pairs: &[Pair {
        legacy: "SELECT id, json_array(product_id, user_id, author, rating,
            CASE status WHEN 'P' THEN 'pending' WHEN 'A' THEN 'approved'
                WHEN 'R' THEN 'rejected' END,
            helpful, strftime('%Y-%m-%dT%H:%M:%SZ', created_at, '-1 hour'), title, body, reply)
            FROM reviews",
        extracted: "SELECT r.id, json_array(r.product_id, r.author_id, r.author_name, r.stars,
            r.state, r.helpful_count, r.posted_at, t.headline, t.content, t.staff_reply)
            FROM review r LEFT JOIN review_text t ON t.review_id = r.id",
    }],
    traces: &[Trace {
        kind: Kind::Review,
        legacy: "SELECT title, count(*) FROM reviews
            WHERE title LIKE ?1 || '%' AND body = ?2 || title GROUP BY title",
        extracted:
            "SELECT t.headline, count(*) FROM review_text t JOIN review r ON r.id = t.review_id
            WHERE t.headline LIKE ?1 || '%' AND t.content = ?2 || t.headline GROUP BY t.headline",
    }],
    votes: Some(Pair {
        legacy: "SELECT coalesce(sum(helpful), 0) FROM reviews",
        extracted: "SELECT coalesce(sum(helpful_count), 0) FROM review",
    }),
    cron: "UPDATE reviews SET helpful = helpful + 1 WHERE id = 4242",
};

/// Orders stay where they are, in the monolith.
pub(crate) const ORDERS: &str =
    "SELECT ref, count(*) FROM orders WHERE ref LIKE ? || '%' GROUP BY ref";

/// A database file of the shop.
#[derive(Debug, Clone)]
pub(crate) struct Database(SqlitePool);

impl Database {
    /// # Errors
    /// When the file is not there or is no database.
    pub(crate) async fn open(path: &Path) -> anyhow::Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(BUSY);
        let pool = SqlitePoolOptions::new()
            .max_connections(2)
            .connect_with(options)
            .await;
        Ok(Self(pool.with_context(|| {
            format!("cannot open {}", path.display())
        })?))
    }

    /// Tokens that begin with `prefix`, and how often each is there.
    ///
    /// # Errors
    /// When the query fails.
    pub(crate) async fn tokens(&self, query: &'static str, prefix: &str) -> anyhow::Result<Found> {
        let mut query = sqlx::query_as::<_, (String, i64)>(query).bind(prefix);
        // Only the reviews have a second part to look for.
        query = query.bind(REVIEW_BEGINS);
        let rows = query.fetch_all(&self.0).await?;
        Ok(rows
            .into_iter()
            .map(|(token, n)| (token, u64::try_from(n).unwrap_or(0)))
            .collect())
    }

    /// Whole rows in the form that both sides share.
    ///
    /// # Errors
    /// When the query fails.
    pub(crate) async fn rows(&self, query: &'static str) -> anyhow::Result<Rows> {
        let rows = sqlx::query_as::<_, (i64, String)>(query)
            .fetch_all(&self.0)
            .await?;
        Ok(rows.into_iter().collect())
    }

    /// One of those rows, as it is now.
    ///
    /// # Errors
    /// When the query fails.
    pub(crate) async fn row(
        &self,
        query: &'static str,
        key: i64,
    ) -> anyhow::Result<Option<String>> {
        // The queries end with their FROM clause, and `1` is their first column.
        let one = format!("WITH whole(k, v) AS ({query}) SELECT v FROM whole WHERE k = ?");
        let row = sqlx::query(AssertSqlSafe(one))
            .bind(key)
            .fetch_optional(&self.0)
            .await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?)
    }

    /// The one number that a query gives.
    ///
    /// # Errors
    /// When the query fails.
    pub(crate) async fn number(&self, query: &'static str) -> anyhow::Result<i64> {
        Ok(sqlx::query_scalar(query).fetch_one(&self.0).await?)
    }

    /// What a hidden cron job does: writes without asking anybody.
    ///
    /// # Errors
    /// When the database refuses, e.g. because the table is fenced.
    pub(crate) async fn write_past_everybody(&self, statement: &'static str) -> anyhow::Result<()> {
        sqlx::query(statement).execute(&self.0).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use outgrow_testkit::TempDatabase;

    use super::*;

    const LEGACY: &str = "CREATE TABLE reviews(id INTEGER PRIMARY KEY, product_id, user_id, author,
            rating, title, body, status, helpful INTEGER, reply, created_at);
        INSERT INTO reviews VALUES (1, 5, 6, 'Ann', 4, 'demo1-r1',
            'As described, arrived on Tuesday. demo1-r1', 'A', 3, NULL, '2025-01-01 00:30:00'),
            (2, 5, 6, 'Ann', 4, 'demo1-r2', 'something else', 'P', 0, NULL, '2025-01-01 12:00:00')";
    const EXTRACTED: &str = "CREATE TABLE review(id INTEGER PRIMARY KEY, product_id, author_id,
            author_name, stars, state, helpful_count INTEGER, posted_at);
        CREATE TABLE review_text(review_id INTEGER PRIMARY KEY, headline, content, staff_reply);
        INSERT INTO review VALUES (1, 5, 6, 'Ann', 4, 'approved', 3, '2024-12-31T23:30:00Z');
        INSERT INTO review_text VALUES (1, 'demo1-r1',
            'As described, arrived on Tuesday. demo1-r1', NULL)";

    #[tokio::test]
    async fn both_sides_are_read_into_one_form() {
        let (legacy, extracted) = (
            TempDatabase::with(LEGACY).await,
            TempDatabase::with(EXTRACTED).await,
        );
        let legacy = Database::open(legacy.path()).await.unwrap();
        let extracted = Database::open(extracted.path()).await.unwrap();
        let pair = REVIEWS.pairs[0];
        let ours = legacy.rows(pair.legacy).await.unwrap();
        let theirs = extracted.rows(pair.extracted).await.unwrap();
        assert_eq!(ours.get(&1), theirs.get(&1));
        assert_eq!((ours.len(), theirs.len()), (2, 1));
        assert_eq!(
            legacy.row(pair.legacy, 1).await.unwrap().as_ref(),
            ours.get(&1)
        );
        assert_eq!(extracted.row(pair.extracted, 2).await.unwrap(), None);
        assert_eq!(
            legacy.number(REVIEWS.votes.unwrap().legacy).await.unwrap(),
            3
        );
    }

    #[tokio::test]
    async fn a_review_counts_only_with_its_body() {
        let legacy = TempDatabase::with(LEGACY).await;
        let database = Database::open(legacy.path()).await.unwrap();
        let found = database
            .tokens(REVIEWS.traces[0].legacy, "demo1-")
            .await
            .unwrap();
        assert_eq!(found, Found::from([("demo1-r1".to_owned(), 1)]));
    }

    #[tokio::test]
    async fn the_cron_job_hears_of_the_fence() {
        let legacy = TempDatabase::with(LEGACY).await;
        legacy
            .execute("INSERT INTO reviews(id, helpful) VALUES (4242, 0)")
            .await;
        let database = Database::open(legacy.path()).await.unwrap();
        database.write_past_everybody(REVIEWS.cron).await.unwrap();
        assert_eq!(
            legacy
                .number("SELECT helpful FROM reviews WHERE id = 4242")
                .await,
            1
        );
        legacy
            .execute("CREATE TRIGGER fence BEFORE UPDATE ON reviews BEGIN SELECT RAISE(ABORT, 'fenced'); END")
            .await;
        let refused = database
            .write_past_everybody(REVIEWS.cron)
            .await
            .unwrap_err();
        assert!(refused.to_string().contains("fenced"));
    }
}
