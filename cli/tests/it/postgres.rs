//! The commands with a PostgreSQL database as the legacy side.

#![allow(clippy::unwrap_used)] // Set-up that fails is a failed test.

use std::time::Duration;

use outgrow_testkit::process::free_address;
use outgrow_testkit::{Postgres, database, eventually};

use crate::harness::run_in;
use crate::starting::serve;

#[tokio::test]
async fn tables_of_a_postgres_monolith_are_synced_by_the_commands() {
    let server = Postgres::with(
        "CREATE TABLE products (id bigserial PRIMARY KEY, name text NOT NULL); \
         INSERT INTO products (name) SELECT 'product ' || n FROM generate_series(1, 1000) AS n; \
         CREATE ROLE bridge LOGIN PASSWORD 'very-secret'; GRANT outgrow TO bridge; \
         GRANT CREATE ON DATABASE postgres TO bridge",
    )
    .await;
    let dir = tempfile::tempdir().unwrap();
    let extracted = database::open(&dir.path().join("catalog.db")).await;
    let create = "CREATE TABLE product (id INTEGER PRIMARY KEY, title TEXT NOT NULL)";
    sqlx::query(create).execute(&extracted).await.unwrap();
    let config = config(&server.url_for("bridge:very-secret"));
    std::fs::write(dir.path().join("outgrow.toml"), config).unwrap();

    let checked = run_in(dir.path(), &["check"]).await;
    let line = checked
        .stdout
        .lines()
        .find(|line| line.contains("tables of"));
    assert!(
        line.is_some_and(|line| line.starts_with("ok")),
        "{checked:?}"
    );

    let mut outgrow = serve(dir.path()).await;
    let started = run_in(dir.path(), &["sync", "start", "catalog"]).await;
    assert_eq!(started.code, 0, "{started:?}");
    let followed = |wanted: i64| {
        let extracted = extracted.clone();
        async move {
            let text = "SELECT count(*) FROM product";
            let rows: (i64,) = sqlx::query_as(text).fetch_one(&extracted).await.ok()?;
            (rows.0 == wanted).then_some(())
        }
    };
    eventually("the rows", Duration::from_secs(20), || followed(1_000)).await;
    server.execute("DELETE FROM products WHERE id > 900").await;
    eventually("the deletes", Duration::from_secs(20), || followed(900)).await;
    let verified = run_in(dir.path(), &["sync", "verify", "catalog"]).await;
    assert_eq!(verified.code, 0, "{verified:?}");
    let closed = run_in(dir.path(), &["sync", "close", "catalog"]).await;
    assert_eq!(closed.code, 0, "{closed:?}");
    let left = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                WHERE n.nspname = '_outgrow'";
    assert_eq!(server.number(left).await, 0);

    let log = outgrow.log();
    assert!(outgrow.stop().await.success());
    for text in [log, format!("{checked:?} {started:?} {verified:?}")] {
        assert!(!text.contains("very-secret"), "{text}");
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_there_is_named_by_check() {
    let dir = tempfile::tempdir().unwrap();
    database::open(&dir.path().join("catalog.db")).await;
    let url = "postgres://bridge@127.0.0.1:9/shop?sslrootcert=certs/ca.pem";
    std::fs::write(dir.path().join("outgrow.toml"), config(url)).unwrap();
    let file = dir.path().join("outgrow.toml").display().to_string();
    // From another folder: the path is the config file's business.
    let elsewhere = tempfile::tempdir().unwrap();
    let checked = run_in(elsewhere.path(), &["check", "-c", &file, "-o", "json"]).await;
    let wanted = dir.path().join("certs/ca.pem").display().to_string();
    assert!(
        checked
            .stdout
            .contains(&format!("the CA file {wanted} cannot be read")),
        "{checked:?}"
    );
    let loose = config(&url.replace("sslrootcert", "sslmode=require&sslrootcert"));
    std::fs::write(dir.path().join("outgrow.toml"), loose).unwrap();
    let checked = run_in(elsewhere.path(), &["check", "-c", &file]).await;
    assert_eq!(checked.code, 1);
    assert!(
        checked
            .stderr
            .contains("would not look at the `sslrootcert`"),
        "{checked:?}"
    );
}

fn config(url: &str) -> String {
    let (proxy, control) = (free_address(), free_address());
    format!(
        r#"
[proxy]
listen = ["{proxy}"]
[legacy]
urls = ["http://127.0.0.1:9"]
database = "{url}"
[control]
listen = "{control}"
[services.catalog]
urls = ["http://127.0.0.1:9"]
database = "sqlite:catalog.db"
[slices.catalog]
service = "catalog"
routes = ["GET /api/products"]
[[slices.catalog.tables]]
legacy = "products"
extracted = "product"
key = ["id"]
columns = {{ id = "id", title = "name" }}
"#
    )
}
