//! The seed: same data for the same seed, all or nothing, only once.

use legacy_monolith::{Database, STAFF_ID_MAX, Scale, StartError, fill};
use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqlitePool;
use tempfile::TempDir;

async fn filled(seed: u64) -> (TempDir, SqlitePool) {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("shop.db").display());
    let database = Database::open(&url).await.unwrap();
    assert!(fill(&database, seed, &Scale::SMALL).await.unwrap());
    // A second fill, with whatever seed, finds a shop and leaves it alone.
    assert!(!fill(&database, seed + 1, &Scale::SMALL).await.unwrap());
    let pool = SqlitePool::connect(&url).await.unwrap();
    (folder, pool)
}

/// Every row of every table, as text.
async fn contents(pool: &SqlitePool) -> String {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' \
         AND name <> 'settings' ORDER BY name",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let mut text = String::new();
    for table in tables {
        let columns: String =
            sqlx::query_scalar("SELECT group_concat(name) FROM pragma_table_info(?)")
                .bind(&table)
                .fetch_one(pool)
                .await
                .unwrap();
        let sql = format!("SELECT json_group_array(json_array({columns})) FROM {table}")
            // No blob is seeded, and JSON could not hold one.
            .replace("bytes", "length(bytes)");
        let rows: String = sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_one(pool)
            .await
            .unwrap();
        text.push_str(&format!("{table}: {rows}\n"));
    }
    text
}

#[tokio::test]
async fn the_same_seed_gives_the_same_shop_and_another_another() {
    let (_a, a) = filled(7).await;
    let (_b, b) = filled(7).await;
    let (_c, c) = filled(8).await;
    let text = contents(&a).await;
    assert_eq!(text, contents(&b).await);
    assert_ne!(text, contents(&c).await);
}

#[tokio::test]
async fn the_data_is_whole_and_has_the_habits() {
    let (_folder, pool) = filled(1).await;
    let count = async |sql: &'static str| -> i64 {
        sqlx::query_scalar(sql).fetch_one(&pool).await.unwrap()
    };
    assert_eq!(
        count("SELECT count(*) FROM pragma_foreign_key_check").await,
        0
    );
    assert_eq!(
        count("SELECT count(*) FROM users").await,
        Scale::SMALL.users
    );
    assert_eq!(
        count("SELECT count(*) FROM users WHERE role = 'staff'").await,
        STAFF_ID_MAX
    );
    assert_eq!(
        count("SELECT count(*) FROM products").await,
        Scale::SMALL.products
    );
    assert_eq!(
        count("SELECT count(*) FROM orders").await,
        Scale::SMALL.orders
    );
    assert_eq!(
        count("SELECT count(*) FROM reviews").await,
        Scale::SMALL.reviews
    );
    for sql in [
        "SELECT count(*) FROM products WHERE description IS NULL",
        "SELECT count(*) FROM products WHERE weight_g IS NULL",
        "SELECT count(*) FROM products WHERE status = 'D'",
        "SELECT count(*) FROM reviews WHERE status <> 'A'",
        "SELECT count(*) FROM reviews WHERE reply IS NOT NULL",
    ] {
        assert!(count(sql).await > 0, "{sql}");
    }
    // Types are what the columns say: JSON on the way in must not turn numbers into text.
    for sql in [
        "SELECT count(*) FROM products WHERE typeof(price) <> 'text'",
        "SELECT count(*) FROM products WHERE typeof(category_id) <> 'integer'",
        "SELECT count(*) FROM reviews WHERE typeof(rating) <> 'integer'",
        "SELECT count(*) FROM products WHERE price NOT GLOB '*[0-9].[0-9][0-9]'",
        "SELECT count(*) - count(DISTINCT created_at) FROM products",
        "SELECT count(*) FROM orders o WHERE CAST(REPLACE(total, '.', '') AS INTEGER) <> \
         (SELECT sum(quantity * CAST(REPLACE(unit_price, '.', '') AS INTEGER)) \
         FROM order_items i WHERE i.order_id = o.id)",
    ] {
        assert_eq!(count(sql).await, 0, "{sql}");
    }
}

#[tokio::test]
async fn what_is_no_usable_database_is_named() {
    let open = async |url: &str| Database::open(url).await.unwrap_err();
    for url in [
        "shop.db",
        "postgres://x",
        "sqlite::memory:",
        "sqlite:",
        "sqlite:x?mode=memory",
    ] {
        let error = open(url).await;
        assert!(
            matches!(error, StartError::DatabaseUrl { .. }),
            "{url}: {error}"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let missing = format!(
        "sqlite:{}",
        folder.path().join("no/such/folder/shop.db").display()
    );
    assert!(matches!(open(&missing).await, StartError::Open { .. }));
    let text = folder.path().join("text.db");
    std::fs::write(
        &text,
        "this is no database, however long the text may be ".repeat(100),
    )
    .unwrap();
    let error = open(&format!("sqlite:{}", text.display())).await;
    assert!(matches!(error, StartError::Open { .. }), "{error}");
}
