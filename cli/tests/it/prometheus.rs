//! Prometheus scrapes the real process: it takes all that is told, and its rules can be worked out.

#![allow(clippy::unwrap_used)] // Set-up that fails is a failed test.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use outgrow_testkit::process::{Process, free_address};
use outgrow_testkit::{Upstream, client, database, eventually};
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::run_in;
use crate::starting::serve;

const WAIT: Duration = Duration::from_secs(30);

fn config(at: [SocketAddr; 2], upstream: &Upstream) -> String {
    let url = upstream.url("");
    let url = url.trim_end_matches('/');
    format!(
        "[proxy]\nlisten = [\"{}\"]\nworkers = 1\n[proxy.cache]\n\
         [legacy]\nurls = [\"{url}\"]\ndatabase = \"sqlite:legacy.db\"\nbreaker = true\nretries = true\n\
         [control]\nlisten = \"{}\"\n\
         [services.catalog]\nurls = [\"{url}\"]\ndatabase = \"sqlite:catalog.db\"\n\
         [slices.catalog]\nservice = \"catalog\"\n\
         routes = [\"GET /api/products\", \"GET /api/a\\\"b\", \"POST /api/products\"]\n\
         filters = {{ cache = {{ }} }}\n\
         [[slices.catalog.tables]]\nlegacy = \"products\"\nextracted = \"product\"\n\
         key = [\"id\"]\ncolumns = {{ id = \"id\", name = \"title\" }}\n",
        at[0], at[1]
    )
}

/// Of Debian's, or any other on the path.
fn prometheus(dir: &TempDir, of: SocketAddr, at: SocketAddr) -> Process {
    let alerts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics/alerts.yml");
    let token = dir.path().join("admin.token");
    let text = format!(
        "global: {{ scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms }}\n\
         rule_files: ['{}']\n\
         scrape_configs:\n\
         - job_name: outgrow\n  authorization: {{ credentials_file: '{}' }}\n  \
         static_configs: [{{ targets: ['{of}'] }}]\n",
        alerts.display(),
        token.display()
    );
    let file = dir.path().join("prometheus.yml");
    std::fs::write(&file, text).unwrap();
    let words = [
        format!("--config.file={}", file.display()),
        format!("--storage.tsdb.path={}", dir.path().join("tsdb").display()),
        format!("--web.listen-address={at}"),
    ];
    Process::spawn(
        Path::new("prometheus"),
        &words,
        &dir.path().join("prometheus.log"),
    )
}

async fn asked(at: SocketAddr, what: &str) -> Value {
    let answer = client::get(&format!("http://{at}/api/v1/{what}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["data"].clone()
}

/// Names of samples.
fn told(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split(['{', ' ']).next())
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
#[ignore = "needs Prometheus, with which scripts/test runs it"]
async fn prometheus_takes_all_that_is_told_and_knows_its_rules() {
    let upstream = Upstream::always(200, "ok").await;
    let dir = tempfile::tempdir().unwrap();
    let (at, control, web) = (free_address(), free_address(), free_address());
    for (file, table) in [
        ("legacy.db", "products (id INTEGER PRIMARY KEY, title TEXT)"),
        ("catalog.db", "product (id INTEGER PRIMARY KEY, name TEXT)"),
    ] {
        let pool = database::open(&dir.path().join(file)).await;
        let made = sqlx::query(sqlx::AssertSqlSafe(format!("CREATE TABLE {table}")));
        made.execute(&pool).await.unwrap();
        pool.close().await;
    }
    let text = config([at, control], &upstream);
    std::fs::write(dir.path().join("outgrow.toml"), text).unwrap();
    let mut outgrow = serve(dir.path()).await;
    let ended = run_in(dir.path(), &["sync", "start", "catalog"]).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    for path in ["/", "/api/products", "/api/a%22b"] {
        client::get(&format!("http://{at}{path}")).await;
    }
    let mut server = prometheus(&dir, control, web);
    server.healthy(&format!("http://{web}/-/ready")).await;
    // What the same process tells us.
    let token = std::fs::read_to_string(dir.path().join("admin.token")).unwrap();
    let bearer = format!("Bearer {}", token.trim());
    let url = format!("http://{control}/metrics");
    let names = eventually("all is told", WAIT, || async {
        let fields = [("authorization", bearer.as_str())];
        let request = client::request(http::Method::GET, &url, &fields, bytes::Bytes::new());
        let names = told(&client::send(request).await.text());
        let lag = names.contains("outgrow_link_lag_seconds");
        lag.then_some(names)
    })
    .await;
    assert!(names.len() > 50, "{names:?}");
    eventually("Prometheus knows all of it", WAIT, || async {
        let targets = asked(web, "targets").await;
        let target = &targets["activeTargets"][0];
        assert_ne!(target["health"], "down", "{}", target["lastError"]);
        let known = asked(web, "label/__name__/values").await;
        let known = known.as_array().unwrap().iter();
        let known: BTreeSet<String> = known.map(|n| n.as_str().unwrap().to_owned()).collect();
        names.is_subset(&known).then_some(())
    })
    .await;
    // Of each kind, as it was told.
    let query = "query?query=outgrow_route_requests_total%7Broute%3D~%22.%2Bproducts%22%7D";
    let found = asked(web, query).await;
    assert_eq!(found["result"][0]["value"][1], "1", "{found}");
    eventually("all rules are worked out", WAIT, || async {
        let rules = asked(web, "rules").await;
        let all = rules["groups"][0]["rules"].as_array()?.clone();
        assert!(all.len() > 30, "{rules}");
        for rule in &all {
            assert_ne!(rule["health"], "err", "{rule}");
            assert_ne!(rule["state"], "firing", "{rule}");
        }
        all.iter().all(|rule| rule["health"] == "ok").then_some(())
    })
    .await;
    assert!(outgrow.stop().await.success());
    eventually("its end is seen", WAIT, || async {
        let alerts = asked(web, "alerts").await.to_string();
        alerts.contains("OutgrowDown").then_some(())
    })
    .await;
    server.stop().await;
}
