//! `outgrow serve` and `outgrow check` where something is in the way: said clearly, and nothing
//! starts half-way.

#![allow(clippy::unwrap_used)] // Set-up that fails is a failed test.

use std::path::Path;
use std::time::Duration;

use outgrow_testkit::database;
use outgrow_testkit::process::{Process, free_address};
use tempfile::TempDir;

use crate::harness::run_in;

/// A folder with a pass-through's config, its proxy and its admin API at these addresses.
fn folder(proxy: std::net::SocketAddr, control: std::net::SocketAddr, more: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "[proxy]\nlisten = [\"{proxy}\"]\n[legacy]\nurls = [\"http://127.0.0.1:9\"]\n\
         database = \"sqlite:legacy.db\"\n[control]\nlisten = \"{control}\"\n{more}"
    );
    std::fs::write(dir.path().join("outgrow.toml"), text).unwrap();
    dir
}

const SLICE: &str = r#"
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
columns = { id = "id", title = "name" }
"#;

#[tokio::test]
async fn a_taken_port_is_named_and_nothing_is_left() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = (taken.local_addr().unwrap(), taken);
    for (dir, other) in [
        (folder(taken.0, free_address(), ""), "another address"),
        (folder(free_address(), taken.0, ""), "control.listen"),
    ] {
        let ended = run_in(dir.path(), &["serve"]).await;
        assert_eq!(ended.code, 1);
        let port = taken.0.to_string();
        assert!(
            ended.stderr.contains(&format!("cannot listen on {port}")),
            "{}",
            ended.stderr
        );
        assert!(ended.stderr.contains(other), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn a_store_that_another_program_locks_is_said_so() {
    let dir = folder(free_address(), free_address(), "");
    let store = dir.path().join("outgrow-store.db");
    // A first start makes the store.
    let mut first = serve(dir.path()).await;
    assert!(first.stop().await.success());
    let pool = database::open(&store).await;
    let mut lock = pool.acquire().await.unwrap();
    sqlx::query("BEGIN EXCLUSIVE")
        .execute(&mut *lock)
        .await
        .unwrap();
    let ended = run_in(dir.path(), &["serve"]).await;
    assert_eq!(ended.code, 1);
    assert!(
        ended.stderr.contains("locked by another program"),
        "{}",
        ended.stderr
    );
}

#[tokio::test]
async fn a_second_outgrow_on_the_same_store_is_refused() {
    let dir = folder(free_address(), free_address(), "");
    let mut first = serve(dir.path()).await;
    let other = folder(free_address(), free_address(), "");
    let config = std::fs::read_to_string(other.path().join("outgrow.toml")).unwrap();
    let store = format!(
        "store = \"sqlite:{}/outgrow-store.db\"\n",
        dir.path().display()
    );
    std::fs::write(other.path().join("outgrow.toml"), config + &store).unwrap();
    let ended = run_in(other.path(), &["serve"]).await;
    assert_eq!(ended.code, 1);
    assert!(
        ended.stderr.contains("another outgrow (pid "),
        "{}",
        ended.stderr
    );
    assert!(first.stop().await.success());
}

#[tokio::test]
async fn a_store_that_is_none_is_refused_and_left_as_it_is() {
    let dir = folder(free_address(), free_address(), "");
    let store = dir.path().join("outgrow-store.db");
    std::fs::write(
        &store,
        "this is a letter, not a database, and long enough to tell",
    )
    .unwrap();
    let ended = run_in(dir.path(), &["serve"]).await;
    assert_eq!(ended.code, 1);
    assert!(
        ended.stderr.contains("outgrow-store.db"),
        "{}",
        ended.stderr
    );
    assert!(
        std::fs::read_to_string(&store)
            .unwrap()
            .starts_with("this is a letter")
    );
}

#[tokio::test]
async fn check_names_missing_databases_tables_and_columns() {
    let dir = folder(free_address(), free_address(), SLICE);
    let found = |text: &str, part: &str| {
        let line = text.lines().find(|line| line.contains(part));
        assert!(
            line.is_some_and(|line| line.starts_with("FAILED")),
            "{part}\n{text}"
        );
    };
    let ended = run_in(dir.path(), &["check"]).await;
    assert_eq!(ended.code, 1);
    found(&ended.stdout, "legacy.db");

    for file in ["legacy.db", "catalog.db"] {
        std::fs::write(dir.path().join(file), "").unwrap();
    }
    let ended = run_in(dir.path(), &["check"]).await;
    found(&ended.stdout, "`products`: there is no such table");
    found(
        &ended.stdout,
        "there is no table `product` in the extracted database",
    );
    let legacy = database::open(&dir.path().join("legacy.db")).await;
    let extracted = database::open(&dir.path().join("catalog.db")).await;
    for (pool, create) in [
        (
            &legacy,
            "CREATE TABLE products (id INTEGER PRIMARY KEY, name TEXT, price TEXT NOT NULL)",
        ),
        (
            &extracted,
            "CREATE TABLE product (id INTEGER PRIMARY KEY, title TEXT)",
        ),
    ] {
        sqlx::query(create).execute(pool).await.unwrap();
    }
    let ended = run_in(dir.path(), &["check"]).await;
    // Rows that flow back would have no price.
    found(&ended.stdout, "`price`");
}

#[tokio::test]
async fn a_database_that_is_locked_delays_and_does_not_break() {
    let dir = folder(free_address(), free_address(), SLICE);
    let legacy = database::open(&dir.path().join("legacy.db")).await;
    let extracted = database::open(&dir.path().join("catalog.db")).await;
    for (pool, create) in [
        (
            &legacy,
            "CREATE TABLE products (id INTEGER PRIMARY KEY, name TEXT)",
        ),
        (
            &legacy,
            "INSERT INTO products VALUES (1, 'one'), (2, 'two')",
        ),
        (
            &extracted,
            "CREATE TABLE product (id INTEGER PRIMARY KEY, title TEXT)",
        ),
    ] {
        sqlx::query(create).execute(pool).await.unwrap();
    }
    let mut outgrow = serve(dir.path()).await;
    let mut lock = extracted.acquire().await.unwrap();
    sqlx::query("BEGIN EXCLUSIVE")
        .execute(&mut *lock)
        .await
        .unwrap();
    let refused = run_in(dir.path(), &["sync", "start", "catalog"]).await;
    assert_eq!(refused.code, 1, "{refused:?}");
    for part in ["ordered, but", "locked", "tried again"] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    sqlx::query("ROLLBACK").execute(&mut *lock).await.unwrap();
    outgrow_testkit::eventually("the rows", Duration::from_secs(20), || async {
        let rows: (i64,) = sqlx::query_as("SELECT count(*) FROM product")
            .fetch_one(&extracted)
            .await
            .ok()?;
        (rows.0 == 2).then_some(())
    })
    .await;
    assert!(outgrow.stop().await.success());
}

/// A server that takes orders.
pub(crate) async fn serve(dir: &Path) -> Process {
    let binary = Path::new(env!("CARGO_BIN_EXE_outgrow"));
    let config = dir.join("outgrow.toml");
    let args = ["serve".as_ref(), "-c".as_ref(), config.as_os_str()];
    let process = Process::spawn(binary, &args, &dir.join("outgrow.log"));
    at_work(dir).await;
    process
}

/// Waits for a process that was begun in this folder.
pub(crate) async fn at_work(dir: &Path) {
    outgrow_testkit::eventually("the admin API", Duration::from_secs(20), || async {
        (run_in(dir, &["status"]).await.code == 0).then_some(())
    })
    .await;
}
