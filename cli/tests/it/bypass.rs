//! Who writes a slice's tables past its routes is found before a cutover refuses it: a job that uses the
//! database by itself, and a page that belongs to no slice.

#![allow(clippy::unwrap_used)] // Set-up that fails is a failed test.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use outgrow_testkit::process::free_address;
use outgrow_testkit::{Upstream, client, database, eventually};
use serde_json::Value;
use sqlx::SqlitePool;

use crate::harness::{Ended, run_in};
use crate::starting::serve;

const WAIT: Duration = Duration::from_secs(30);

fn config(at: [SocketAddr; 2], legacy: &Upstream, plan: &str) -> String {
    let url = legacy.url("");
    let url = url.trim_end_matches('/');
    format!(
        "[proxy]\nlisten = [\"{}\"]\nworkers = 1\n[legacy]\nurls = [\"{url}\"]\n\
         database = \"sqlite:legacy.db\"\n[control]\nlisten = \"{}\"\n\
         [services.catalog]\nurls = [\"{url}\"]\ndatabase = \"sqlite:catalog.db\"\n\
         [slices.catalog]\nservice = \"catalog\"\nroutes = [\"POST /api/products\"]\n\
         [[slices.catalog.tables]]\nlegacy = \"products\"\nextracted = \"product\"\n\
         key = [\"id\"]\ncolumns = {{ id = \"id\", name = \"title\" }}\n\
         [slices.catalog.plan]\n{plan}\n",
        at[0], at[1]
    )
}

async fn write(pool: &SqlitePool) {
    let text = "UPDATE products SET title = title || '.' WHERE id = 1";
    sqlx::query(text).execute(pool).await.unwrap();
}

struct Shop {
    dir: tempfile::TempDir,
    proxy: SocketAddr,
    /// As the monolith has it.
    pool: SqlitePool,
}

impl Shop {
    async fn run(&self, args: &[&str]) -> Ended {
        run_in(self.dir.path(), args).await
    }

    async fn done(&self, args: &[&str]) -> String {
        let ended = self.run(args).await;
        assert_eq!(ended.code, 0, "{args:?}: {} {}", ended.stdout, ended.stderr);
        ended.stdout
    }

    async fn json(&self, args: &[&str]) -> Value {
        let text = self.done(&[args, &["-o", "json"]].concat()).await;
        serde_json::from_str(&text).unwrap()
    }

    async fn bypass(&self) -> Value {
        self.json(&["status", "catalog"]).await["evidence"]["bypass"].clone()
    }

    async fn figure(&self, name: &str) -> u64 {
        self.bypass().await[name].as_u64().unwrap_or(0)
    }

    async fn post(&self, path: &str) {
        let url = format!("http://{}{path}", self.proxy);
        let request = client::request(Method::POST, &url, &[], Bytes::new());
        assert_eq!(client::send(request).await.status, 200);
    }

    /// A write that is seen to have come another way.
    async fn found<F: Future<Output = ()>>(&self, write: impl Fn() -> F) -> Value {
        let before = self.figure("rows").await;
        eventually("the row", WAIT, || async {
            // Times of before the first look are not judged, so once is not enough.
            write().await;
            let seen = self.bypass().await;
            (seen["rows"].as_u64() > Some(before)).then(|| seen["last"].clone())
        })
        .await
    }
}

/// Every POST writes a product.
async fn monolith(dir: &Path) -> (Upstream, SqlitePool) {
    for (name, sql) in [
        (
            "catalog.db",
            "CREATE TABLE product (id INTEGER PRIMARY KEY, name TEXT NOT NULL)",
        ),
        (
            "legacy.db",
            "CREATE TABLE products (id INTEGER PRIMARY KEY, title TEXT NOT NULL);
             INSERT INTO products VALUES (1, 'lamp')",
        ),
    ] {
        let pool = database::open(&dir.join(name)).await;
        sqlx::raw_sql(sql).execute(&pool).await.unwrap();
        pool.close().await;
    }
    let pool = database::open(&dir.join("legacy.db")).await;
    let own = pool.clone();
    let upstream = Upstream::start(move |request: Request<Bytes>| {
        let pool = own.clone();
        async move {
            if request.method() == Method::POST {
                write(&pool).await;
            }
            Response::new(Bytes::from_static(b"{}"))
        }
    });
    (upstream.await, pool)
}

#[tokio::test]
async fn rows_that_are_written_past_the_routes_of_a_slice_are_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let (legacy, pool) = monolith(dir.path()).await;
    let at = [free_address(), free_address()];
    let text = config(at, &legacy, "bypass = \"gate\"");
    std::fs::write(dir.path().join("outgrow.toml"), text).unwrap();
    let mut process = serve(dir.path()).await;
    let shop = Shop {
        dir,
        proxy: at[0],
        pool,
    };
    shop.done(&["sync", "start", "catalog"]).await;
    // A job.
    let last = shop.found(|| write(&shop.pool)).await;
    assert_eq!(last["row"], "legacy `products` key 1 (u)");
    assert_eq!(last["others"], serde_json::json!([]));
    // What goes by the slice's routes is none of those.
    let quiet = eventually("all of the job's rows", WAIT, || async {
        let before = shop.bypass().await;
        let judged = before["judged"].as_u64().unwrap();
        shop.post("/api/products").await;
        let after = eventually("it to be judged", WAIT, || async {
            let seen = shop.bypass().await;
            (seen["judged"].as_u64() > Some(judged)).then_some(seen)
        })
        .await;
        (after["rows"] == before["rows"]).then_some(after)
    })
    .await;
    let judged = quiet["judged"].as_u64().unwrap();
    for _ in 0..20 {
        shop.post("/api/products").await;
    }
    eventually("twenty more", WAIT, || async {
        (shop.figure("judged").await == judged + 20).then_some(())
    })
    .await;
    assert_eq!(shop.bypass().await["rows"], quiet["rows"]);
    // Another page.
    let last = shop.found(|| shop.post("/admin")).await;
    assert_eq!(last["others"], serde_json::json!(["no slice"]));
    told(&shop).await;
    let rows = shop.figure("rows").await;
    assert!(process.stop().await.success());
    let mut process = serve(shop.dir.path()).await;
    let kept = shop.bypass().await;
    assert!(kept["rows"].as_u64() >= Some(rows), "{kept}");
    assert!(process.stop().await.success());
}

/// Everybody who looks is told.
async fn told(shop: &Shop) {
    let row = "legacy `products` key 1 (u)";
    for args in [
        &["status"][..],
        &["status", "catalog"],
        &["journal", "--slice", "catalog"],
        &["runbook", "export", "catalog"],
    ] {
        let told = shop.done(args).await;
        let named = told.contains(row);
        assert!(named, "{args:?}: {told}");
    }
}
