//! A candidate that writes in a read, on one of two routes: that one is mirrored no more, and the
//! other one goes on.

#![allow(clippy::unwrap_used)] // Set-up that fails is a failed test.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use outgrow_testkit::process::free_address;
use outgrow_testkit::{Upstream, client, database, eventually};
use serde_json::Value;

use crate::harness::{Ended, run_in};
use crate::starting::serve;

const WAIT: Duration = Duration::from_secs(30);
const SEARCH: &str = "GET /api/search";
const LIST: &str = "GET /api/products";

fn config(at: [SocketAddr; 2], sides: [&Upstream; 2]) -> String {
    let url = |side: &Upstream| side.url("").trim_end_matches('/').to_owned();
    format!(
        "[proxy]\nlisten = [\"{}\"]\nworkers = 1\n[legacy]\nurls = [\"{}\"]\n\
         database = \"sqlite:legacy.db\"\n[control]\nlisten = \"{}\"\n\
         token_file = \"admin.token\"\n\
         [services.catalog]\nurls = [\"{}\"]\ndatabase = \"sqlite:catalog.db\"\n\
         [slices.catalog]\nservice = \"catalog\"\nroutes = [\"{LIST}\", \"{SEARCH}\"]\n\
         [[slices.catalog.tables]]\nlegacy = \"products\"\nextracted = \"product\"\n\
         key = [\"id\"]\ncolumns = {{ id = \"id\", name = \"title\" }}\n",
        at[0],
        url(sides[0]),
        at[1],
        url(sides[1])
    )
}

fn answer() -> Response<Bytes> {
    let answer = Response::builder().header("content-type", "application/json");
    answer.body(Bytes::from_static(b"{\"ok\":true}")).unwrap()
}

/// Notes who searches, in the catalog's own table.
async fn candidate(dir: &Path) -> Upstream {
    let pool = database::open(&dir.join("catalog.db")).await;
    Upstream::start(move |request: Request<Bytes>| {
        let pool = pool.clone();
        async move {
            if request.uri().path() == "/api/search" {
                let text = "UPDATE product SET name = name || '.' WHERE id = 1";
                // The fence refuses it; that it was tried is what counts.
                let _refused = sqlx::query(text).execute(&pool).await;
            }
            answer()
        }
    })
    .await
}

struct Shop {
    dir: tempfile::TempDir,
    /// The proxy, and the admin API.
    at: [SocketAddr; 2],
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

    async fn get(&self, path: &str) {
        let answer = client::get(&format!("http://{}{path}", self.at[0])).await;
        assert_eq!(answer.status, 200);
    }

    async fn json(&self, args: &[&str]) -> Value {
        let text = self.done(&[args, &["-o", "json"]].concat()).await;
        serde_json::from_str(&text).unwrap()
    }

    /// Of the shadow, a figure.
    async fn figure(&self, name: &str) -> u64 {
        let seen = self.json(&["shadow", "status"]).await;
        seen["catalog"][name].as_u64().unwrap_or(0)
    }

    /// By route, why.
    async fn stopped(&self) -> Value {
        let seen = self.json(&["shadow", "status"]).await;
        seen["catalog"]["unmirrored_routes"].clone()
    }

    /// One more request of this path is counted so.
    async fn counts(&self, path: &str, figure: &str) {
        let before = self.figure(figure).await;
        self.get(path).await;
        eventually("it to be counted", WAIT, || async {
            (self.figure(figure).await > before).then_some(())
        })
        .await;
    }

    async fn trips(&self) -> Value {
        // Once: the first copy of a stage is as good as another.
        self.get("/api/search").await;
        eventually("the tripwire", WAIT, || async {
            let stopped = self.stopped().await;
            stopped.get(SEARCH).is_some().then_some(stopped)
        })
        .await
    }

    /// Everybody who looks is told, and nobody goes on meanwhile.
    async fn is_told(&self) {
        for args in [
            &["status"][..],
            &["shadow", "status"],
            &["shadow", "report", "catalog"],
            &["runbook", "export", "catalog"],
            &["journal", "--slice", "catalog"],
        ] {
            let told = self.done(args).await;
            let named = told.contains("tripwire: extracted `product`") && told.contains(SEARCH);
            assert!(named, "{args:?}: {told}");
        }
        let url = format!("http://{}/metrics", self.at[1]);
        let token = std::fs::read_to_string(self.dir.path().join("admin.token")).unwrap();
        let bearer = format!("Bearer {}", token.trim());
        let fields = [("authorization", bearer.as_str())];
        let request = client::request(Method::GET, &url, &fields, Bytes::new());
        let metrics = client::send(request).await.text();
        let figure = "outgrow_slice_unmirrored_routes{slice=\"catalog\"} 1";
        assert!(metrics.contains(figure), "{metrics}");
        let forward = ["route", "flip", "catalog", "canary=5"];
        let forced = [&forward[..], &["--force", "--reason", "test"]].concat();
        let refused = self.run(&forced).await;
        assert_ne!(refused.code, 0);
        let text = refused.stderr;
        assert!(text.contains("shadow resume"), "{text}");
    }
}

async fn following(dir: tempfile::TempDir, at: [SocketAddr; 2]) -> Shop {
    let shop = Shop { dir, at };
    shop.done(&["sync", "start", "catalog"]).await;
    eventually("the link", WAIT, || async {
        let status = shop.json(&["status", "catalog"]).await;
        (status["state"]["data"]["phase"] == "following").then_some(())
    })
    .await;
    let flip = ["route", "flip", "catalog", "shadow"];
    let forced = [&flip[..], &["--force", "--reason", "test"]].concat();
    shop.done(&forced).await;
    shop
}

#[tokio::test]
async fn the_route_whose_copies_write_is_stopped_and_the_other_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    for (name, sql) in [
        (
            "legacy.db",
            "CREATE TABLE products (id INTEGER PRIMARY KEY, title TEXT NOT NULL)",
        ),
        (
            "catalog.db",
            "CREATE TABLE product (id INTEGER PRIMARY KEY, name TEXT NOT NULL)",
        ),
        (
            "legacy.db",
            "INSERT INTO products VALUES (1, 'lamp'), (2, 'desk')",
        ),
    ] {
        let pool = database::open(&dir.path().join(name)).await;
        sqlx::query(sql).execute(&pool).await.unwrap();
        pool.close().await;
    }
    let legacy = Upstream::start(|_| async { answer() }).await;
    let service = candidate(dir.path()).await;
    let at = [free_address(), free_address()];
    let text = config(at, [&legacy, &service]);
    std::fs::write(dir.path().join("outgrow.toml"), text).unwrap();
    let mut process = serve(dir.path()).await;
    let shop = following(dir, at).await;
    let stopped = shop.trips().await;
    assert_eq!(stopped.as_object().unwrap().len(), 1, "{stopped}");
    shop.counts("/api/products", "matched").await;
    shop.counts("/api/search", "ineligible").await;
    shop.is_told().await;
    // All of that is so after a restart.
    assert!(process.stop().await.success());
    let mut process = serve(shop.dir.path()).await;
    shop.counts("/api/products", "matched").await;
    shop.counts("/api/search", "ineligible").await;
    assert_eq!(shop.stopped().await, stopped);
    let resume = ["shadow", "resume", "catalog", "--route"];
    let wrong = shop.run(&[&resume[..], &[LIST]].concat()).await;
    assert!(wrong.code != 0 && wrong.stderr.contains(SEARCH));
    shop.done(&[&resume[..], &[SEARCH]].concat()).await;
    assert!(shop.stopped().await.is_null());
    shop.counts("/api/products", "matched").await;
    // It writes still.
    shop.trips().await;
    assert!(process.stop().await.success());
}
