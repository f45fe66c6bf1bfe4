//! Builds of a service on a real process: switched under load, tried, drained, kept, taken back.

#![allow(clippy::unwrap_used)] // Set-up that fails is a failed test.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use outgrow_testkit::process::{Process, free_address};
use outgrow_testkit::{Upstream, client, eventually};
use tempfile::TempDir;
use tokio::sync::Semaphore;

use crate::harness::{Ended, run_in};
use crate::starting::serve;
use crate::tracing::scraped;

const WAIT: Duration = Duration::from_secs(20);

struct Shop {
    dir: TempDir,
    at: SocketAddr,
    control: SocketAddr,
    legacy: Upstream,
    process: Process,
}

impl Shop {
    /// All reads of the catalog on the extracted side, which has these builds.
    async fn new(builds: &[(&str, &Upstream)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (at, control) = (free_address(), free_address());
        let legacy = Upstream::always(200, "legacy").await;
        write(&dir, (at, control), &legacy, builds);
        let process = serve(dir.path()).await;
        let shop = Self {
            dir,
            at,
            control,
            legacy,
            process,
        };
        for to in ["shadow", "canary=100"] {
            let flip = [
                "route", "flip", "catalog", to, "--force", "--reason", "test",
            ];
            shop.done(&flip).await;
        }
        shop
    }

    fn write(&self, builds: &[(&str, &Upstream)]) {
        write(&self.dir, (self.at, self.control), &self.legacy, builds);
    }

    async fn run(&self, args: &[&str]) -> Ended {
        run_in(self.dir.path(), args).await
    }

    async fn done(&self, args: &[&str]) -> String {
        let ended = self.run(args).await;
        assert_eq!(ended.code, 0, "{args:?}: {}", ended.stderr);
        ended.stdout
    }

    async fn refused(&self, args: &[&str]) -> String {
        let ended = self.run(args).await;
        assert_eq!(ended.code, 1, "{args:?}: {}", ended.stdout);
        ended.stderr
    }

    async fn ask(&self) -> String {
        let url = format!("http://{}/api/products", self.at);
        client::get(&url).await.text()
    }

    async fn restart(&mut self) {
        assert!(self.process.stop().await.success());
        self.process = serve(self.dir.path()).await;
    }
}

fn write(
    dir: &TempDir,
    (at, control): (SocketAddr, SocketAddr),
    legacy: &Upstream,
    builds: &[(&str, &Upstream)],
) {
    let url = |upstream: &Upstream| format!("http://{}", upstream.addr());
    let mut text = format!(
        "[proxy]\nlisten = [\"{at}\"]\nworkers = 2\n[legacy]\nurls = [\"{}\"]\n[control]\n\
         listen = \"{control}\"\n[slices.catalog]\nservice = \"catalog\"\n\
         routes = [\"GET /api/products\"]\nfallback = false\n",
        url(legacy)
    );
    for (build, upstream) in builds {
        text.push_str(&format!(
            "[services.catalog.builds.{build}]\nurls = [\"{}\"]\n",
            url(upstream)
        ));
    }
    std::fs::write(dir.path().join("outgrow.toml"), text).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn builds_are_switched_under_load_kept_and_taken_back() {
    let blue = Upstream::always(200, "blue").await;
    let green = Upstream::always(200, "green").await;
    let builds = [("blue", &blue), ("green", &green)];
    let mut shop = Shop::new(&builds).await;
    let (stop, count) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let url = format!("http://{}/api/products", shop.at);
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (stop, count, url) = (stop.clone(), count.clone(), url.clone());
            tokio::spawn(async move {
                while !stop.load(SeqCst) {
                    let answer = client::get(&url).await;
                    assert_eq!(answer.status, 200);
                    assert_ne!(answer.text(), "legacy");
                    count.fetch_add(1, SeqCst);
                }
            })
        })
        .collect();
    assert_eq!(shop.ask().await, "blue");
    let told = shop
        .done(&[
            "build", "weight", "catalog", "green", "50", "--reason", "r7",
        ])
        .await;
    assert!(told.contains("50%"), "{told}");
    // Clients are dealt out one by one.
    for _ in 0..200 {
        assert_eq!(ask_as_another(&url).await.status, 200);
    }
    assert!(!blue.seen().is_empty() && !green.seen().is_empty());
    let status = shop.done(&["status"]).await;
    let said = "catalog: build blue is active, 50% of the clients try green";
    assert!(status.contains(said), "{status}");
    for to in ["green", "blue", "green"] {
        shop.done(&["build", "switch", "catalog", to]).await;
        assert_eq!(shop.ask().await, to);
        // Over a reload, too.
        shop.done(&["reload"]).await;
        assert_eq!(shop.ask().await, to);
    }
    stop.store(true, SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    assert!(count.load(SeqCst) > 20);
    shop.done(&["build", "drain", "catalog", "blue"]).await;
    shop.restart().await;
    assert_eq!(shop.ask().await, "green");
    let told = shop
        .done(&["build", "back", "catalog", "--reason", "wrong prices"])
        .await;
    assert!(told.contains("active"), "{told}");
    assert_eq!(shop.ask().await, "blue");
    let journal = shop.done(&["route", "history", "catalog"]).await;
    for word in ["build-weight", "build-switch", "build-back", "wrong prices"] {
        assert!(journal.contains(word), "{word}: {journal}");
    }
    shop.done(&["journal", "verify"]).await;
    assert!(shop.process.stop().await.success());
}

/// The figures of a build since the last change, as `build list` tells them.
async fn lately(shop: &Shop, build: &str) -> serde_json::Value {
    let told = shop.done(&["build", "list", "catalog", "-o", "json"]).await;
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let builds = told["builds"].as_array().unwrap();
    let of = builds.iter().find(|of| of["build"] == build).unwrap();
    of["lately"].clone()
}

#[tokio::test]
async fn each_build_has_figures_of_its_own_since_the_last_change() {
    let blue = Upstream::always(200, "blue").await;
    let green = Upstream::start(|request| async move {
        let code = match request.uri().query() {
            Some("gone") => 404,
            Some("ill") => 500,
            _ => 200,
        };
        let mut answer = http::Response::new(bytes::Bytes::from("green"));
        *answer.status_mut() = http::StatusCode::from_u16(code).unwrap();
        answer
    })
    .await;
    let builds = [("blue", &blue), ("green", &green)];
    let mut shop = Shop::new(&builds).await;
    let url = |query: &str| format!("http://{}/api/products{query}", shop.at);
    for _ in 0..4 {
        assert_eq!(shop.ask().await, "blue");
    }
    let blue_ = lately(&shop, "blue").await;
    assert_eq!(
        (&blue_["requests"], &blue_["errors"]),
        (&4.into(), &0.into())
    );
    assert!(
        blue_["p50_us"].as_u64() <= blue_["p99_us"].as_u64(),
        "{blue_}"
    );
    shop.done(&["build", "switch", "catalog", "green"]).await;
    for query in ["", "?gone", "?gone", "?ill"] {
        client::get(&url(query)).await;
    }
    let (blue_, green_) = (lately(&shop, "blue").await, lately(&shop, "green").await);
    assert_eq!(
        (&blue_["requests"], &blue_["p99_us"]),
        (&0.into(), &().into())
    );
    assert_eq!(
        (&green_["requests"], &green_["errors"]),
        (&4.into(), &1.into())
    );
    let list = shop.done(&["build", "list"]).await;
    assert!(list.contains("25%") && list.contains("P99"), "{list}");
    assert!(list.contains("catalog: requests of the last"), "{list}");
    // Since the process began, whatever was changed.
    let scrape = metrics(&shop).await;
    says_classes(&scrape);
    let of = |build| format!("slice=\"catalog\",service=\"catalog\",build=\"{build}\"");
    for line in [
        format!(
            "outgrow_build_requests_total{{{},class=\"2xx\"}} 4",
            of("blue")
        ),
        format!(
            "outgrow_build_requests_total{{{},class=\"4xx\"}} 2",
            of("green")
        ),
        format!(
            "outgrow_build_requests_total{{{},class=\"5xx\"}} 1",
            of("green")
        ),
        format!("outgrow_build_errors_total{{{}}} 1", of("green")),
        format!("outgrow_build_duration_seconds_count{{{}}} 4", of("green")),
        "outgrow_build_weight_ratio{service=\"catalog\",build=\"green\"} 1.0".to_owned(),
        "outgrow_request_errors_total{slice=\"catalog\",side=\"extracted\"} 1".to_owned(),
    ] {
        assert!(
            scrape.lines().any(|l| l == line),
            "no `{line}` in\n{scrape}"
        );
    }
    assert!(shop.process.stop().await.success());
}

/// How the only route was answered by the extracted side, by class of the status.
fn says_classes(scrape: &str) {
    let of = "outgrow_route_requests_total{slice=\"catalog\",route=\"GET /api/products\",\
              side=\"extracted\",class=\"";
    let told = scrape.lines().filter_map(|line| line.strip_prefix(of));
    let told: Vec<_> = told.filter_map(|rest| rest.split_once("\"} ")).collect();
    assert_eq!(told, [("2xx", "5"), ("4xx", "2"), ("5xx", "1")]);
}

async fn metrics(shop: &Shop) -> String {
    let token = std::fs::read_to_string(shop.dir.path().join("admin.token")).unwrap();
    let bearer = format!("Bearer {}", token.trim());
    let url = format!("http://{}/metrics", shop.control);
    let fields = [("authorization", bearer.as_str())];
    let request = client::request(http::Method::GET, &url, &fields, bytes::Bytes::new());
    client::send(request).await.text()
}

#[tokio::test]
async fn a_drain_says_what_is_left_and_the_shadow_asks_who_is_active() {
    let may = Arc::new(Semaphore::new(0));
    let slow = may.clone();
    let blue = Upstream::start(move |_| {
        let slow = slow.clone();
        async move {
            slow.acquire().await.unwrap().forget();
            http::Response::new(bytes::Bytes::from("blue"))
        }
    })
    .await;
    let green = Upstream::always(200, "green").await;
    let builds = [("blue", &blue), ("green", &green)];
    let shop = Shop::new(&builds).await;
    let url = format!("http://{}/api/products", shop.at);
    let asking = tokio::spawn(async move { client::get(&url).await.text() });
    eventually("it is asked", WAIT, || async {
        (blue.seen().len() == 1).then_some(())
    })
    .await;
    let refused = shop.refused(&["build", "drain", "catalog", "blue"]).await;
    assert!(
        refused.contains("`build switch` to another one"),
        "{refused}"
    );
    shop.done(&["build", "switch", "catalog", "green"]).await;
    let drain = ["build", "drain", "catalog", "blue", "--timeout"];
    let late = shop.run(&[&drain[..], &["300ms"]].concat()).await;
    assert_eq!(late.code, 6, "{}", late.stderr);
    assert!(
        late.stderr.contains("1 requests are under way"),
        "{}",
        late.stderr
    );
    may.add_permits(1);
    let drained = shop.done(&[&drain[..], &["20s"]].concat()).await;
    assert!(
        drained.contains("nothing is under way at build blue"),
        "{drained}"
    );
    assert_eq!(asking.await.unwrap(), "blue");
    // Copies go to the active build.
    let before = blue.seen().len();
    shop.done(&["route", "flip", "catalog", "shadow"]).await;
    let asked = green.seen().len();
    assert_eq!(shop.ask().await, "legacy");
    eventually("a copy", WAIT, || async {
        (green.seen().len() > asked).then_some(())
    })
    .await;
    assert_eq!(blue.seen().len(), before);
    let mut shop = shop;
    assert!(shop.process.stop().await.success());
}

#[tokio::test]
async fn what_cannot_be_is_refused() {
    let blue = Upstream::always(200, "blue").await;
    let green = Upstream::always(200, "green").await;
    let builds = [("blue", &blue), ("green", &green)];
    let mut shop = Shop::new(&builds).await;
    let refused = shop.refused(&["build", "switch", "catalog", "red"]).await;
    assert!(refused.contains("blue, green"), "{refused}");
    let refused = shop.refused(&["build", "list", "search"]).await;
    assert!(
        refused.contains("those with builds are: catalog"),
        "{refused}"
    );
    let refused = shop.refused(&["build", "back", "catalog"]).await;
    assert!(refused.contains("nothing to take back"), "{refused}");
    shop.done(&["build", "switch", "catalog", "green"]).await;
    // A config without the build that answers changes nothing, and starts nothing.
    shop.write(&builds[..1]);
    let refused = shop.refused(&["reload"]).await;
    assert!(
        refused.contains("requests go to build `green`"),
        "{refused}"
    );
    assert_eq!(shop.ask().await, "green");
    assert!(shop.process.stop().await.success());
    let start = run_in(shop.dir.path(), &["serve"]).await;
    assert_eq!(start.code, 1);
    assert!(
        start.stderr.contains("requests go to build `green`"),
        "{}",
        start.stderr
    );
    shop.write(&builds[1..]);
    shop.process = serve(shop.dir.path()).await;
    assert_eq!(shop.ask().await, "green");
    assert!(shop.process.stop().await.success());
}

/// Answers, and fails every so many times.
async fn ill(name: &'static str, every: usize) -> Upstream {
    let asked = Arc::new(AtomicUsize::new(0));
    Upstream::start(move |_| {
        let failed = asked.fetch_add(1, SeqCst) % every == every - 1;
        async move {
            let mut answer = http::Response::new(bytes::Bytes::from(name));
            if failed {
                *answer.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
            }
            answer
        }
    })
    .await
}

/// Asks as a client that nobody has seen before: one without a cookie is its address, and stays.
async fn ask_as_another(url: &str) -> client::Answer {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let cookie = format!("outgrow_cohort={:032x}", NEXT.fetch_add(1, SeqCst));
    let fields = [("cookie", &*cookie)];
    let request = client::request(http::Method::GET, url, &fields, bytes::Bytes::new());
    client::send(request).await
}

/// Asks until the guard has acted; how many have failed.
async fn until_taken_back(shop: &Shop) -> usize {
    let url = format!("http://{}/api/products", shop.at);
    let failed = AtomicUsize::new(0);
    eventually("the guard to act", WAIT, || async {
        for _ in 0..5 {
            if ask_as_another(&url).await.status != 200 {
                failed.fetch_add(1, SeqCst);
            }
        }
        let told = shop.done(&["build", "list", "catalog", "-o", "json"]).await;
        let told: serde_json::Value = serde_json::from_str(&told).unwrap();
        (told["taken_back"]["build"] == "green").then_some(())
    })
    .await;
    failed.into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guard_takes_a_bad_build_back_and_a_good_one_stays() {
    let (blue, green) = (ill("blue", 25).await, ill("green", 2).await);
    let builds = [("blue", &blue), ("green", &green)];
    let mut shop = Shop::new(&builds).await;
    let weigh = ["build", "weight", "catalog", "green", "50"];
    for begin in [&weigh[..], &["build", "switch", "catalog", "green"]] {
        shop.done(begin).await;
        let failed = until_taken_back(&shop).await;
        // Of the five at a time that this test asks.
        assert!(failed < 120, "{failed} have failed");
        let (all, asked) = (blue.seen().len(), green.seen().len());
        for _ in 0..10 {
            shop.ask().await;
        }
        assert_eq!((blue.seen().len(), green.seen().len()), (all + 10, asked));
        let list = shop.done(&["build", "list"]).await;
        assert!(list.contains("the guard took build green back: "), "{list}");
        let status = shop.done(&["status"]).await;
        assert!(status.contains("build blue is active"), "{status}");
        assert!(
            status.contains("the guard took build green back: "),
            "{status}"
        );
    }
    let journal = shop.done(&["route", "history", "catalog"]).await;
    assert_eq!(journal.matches("build-abort").count(), 2, "{journal}");
    assert!(!journal.contains(" abort "), "the reads stay: {journal}");
    let scrape = metrics(&shop).await;
    let line = "outgrow_build_taken_back{service=\"catalog\",build=\"green\"} 1.0";
    assert!(scrape.lines().any(|l| l == line), "{scrape}");
    // What one process has taken back, the next one knows.
    shop.restart().await;
    let list = shop.done(&["build", "list"]).await;
    assert!(list.contains("the guard took build green back: "), "{list}");
    assert!(shop.process.stop().await.success());
    // One that fails as often as the other stays.
    let green = ill("green", 25).await;
    shop.write(&[("blue", &blue), ("green", &green)]);
    shop.process = serve(shop.dir.path()).await;
    shop.done(&weigh).await;
    let url = format!("http://{}/api/products", shop.at);
    for _ in 0..1_000 {
        ask_as_another(&url).await;
    }
    let list = shop.done(&["build", "list"]).await;
    assert!(
        list.contains("50%") && !list.contains("took build"),
        "{list}"
    );
    assert!(green.seen().len() > 300, "{}", green.seen().len());
    assert!(shop.process.stop().await.success());
}

/// What a client that is known by this session is answered on this path.
async fn says(at: SocketAddr, path: &str, session: &str) -> String {
    let url = format!("http://{at}{path}");
    let cookie = format!("theme=dark; sid={session}");
    let fields = [("cookie", cookie.as_str())];
    let request = client::request(http::Method::GET, &url, &fields, bytes::Bytes::new());
    client::send(request).await.text()
}

fn of_legacy(at: [SocketAddr; 2], catalog: &Upstream, builds: &[(&str, &Upstream)]) -> String {
    let [at, control] = at;
    let mut text = format!(
        "[proxy]\nlisten = [\"{at}\"]\nworkers = 2\n[control]\nlisten = \"{control}\"\n\
         [legacy]\ncohort = [\"cookie:sid\"]\nguard = {{ alpha = 0.01 }}\n\
         [services.catalog]\nurls = [\"http://{}\"]\n[slices.catalog]\nservice = \"catalog\"\n\
         cohort = [\"header:x-visitor\"]\nroutes = [\"GET /api/products\"]\n",
        catalog.addr()
    );
    for (build, upstream) in builds {
        let at = upstream.addr();
        text.push_str(&format!(
            "[legacy.builds.{build}]\nurls = [\"http://{at}\"]\n"
        ));
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_legacy_side_has_builds_too_and_a_client_is_at_one_on_every_route() {
    let catalog = Upstream::always(200, "catalog").await;
    let (blue, green) = (
        Upstream::always(200, "blue").await,
        Upstream::always(200, "green").await,
    );
    let dir = tempfile::tempdir().unwrap();
    let at = [free_address(), free_address()];
    let text = of_legacy(at, &catalog, &[("blue", &blue), ("green", &green)]);
    std::fs::write(dir.path().join("outgrow.toml"), text).unwrap();
    let mut process = serve(dir.path()).await;
    let done = async |args: &[&str]| {
        let ended = run_in(dir.path(), args).await;
        assert_eq!(ended.code, 0, "{args:?}: {}", ended.stderr);
        ended.stdout
    };
    // Who is at green: by session alone, over routes of a slice and of none.
    let at_green = async || {
        let mut found = Vec::new();
        for client in 0..100 {
            let session = format!("s{client}");
            let told = says(at[0], "/account", &session).await;
            assert_eq!(says(at[0], "/api/products", &session).await, told);
            assert!(["blue", "green"].contains(&told.as_str()), "{told}");
            if told == "green" {
                found.push(client);
            }
        }
        found
    };
    assert_eq!(at_green().await.len(), 0);
    done(&["build", "weight", "legacy", "green", "30"]).await;
    let few = at_green().await;
    assert!((10..55).contains(&few.len()), "{few:?}");
    assert_eq!(at_green().await, few);
    done(&["build", "weight", "legacy", "green", "70"]).await;
    let more = at_green().await;
    assert!(
        few.iter().all(|client| more.contains(client)),
        "nobody goes back"
    );
    assert!((45..90).contains(&more.len()), "{more:?}");
    // Who brings nothing goes by the address, and stays.
    let url = format!("http://{}/account", at[0]);
    let first = client::get(&url).await.text();
    for _ in 0..20 {
        assert_eq!(client::get(&url).await.text(), first);
    }
    let explain = ["route", "explain", "GET", "/account", "-H"];
    let sid = format!("cookie: sid=s{}", few[0]);
    let told = done(&[&explain[..], &[&sid, "-o", "json"]].concat()).await;
    assert!(told.contains("green"), "{told}");
    done(&["build", "switch", "legacy", "green"]).await;
    assert_eq!(at_green().await.len(), 100);
    done(&["build", "drain", "legacy", "blue"]).await;
    let list = done(&["build", "list", "legacy"]).await;
    assert!(list.contains("blue") && list.contains("100%"), "{list}");
    // It is remembered over a restart.
    assert!(process.stop().await.success());
    process = serve(dir.path()).await;
    assert_eq!(says(at[0], "/account", "s1").await, "green");
    done(&["build", "back", "legacy"]).await;
    assert_eq!(says(at[0], "/account", "s1").await, "blue");
    let journal = done(&["route", "history", "catalog"]).await;
    for word in ["build-weight", "build-switch", "build-back"] {
        assert!(journal.contains(word), "{word}: {journal}");
    }
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guard_takes_a_bad_build_of_the_legacy_side_back() {
    let catalog = Upstream::always(200, "catalog").await;
    let (blue, green) = (ill("blue", 50).await, ill("green", 2).await);
    let dir = tempfile::tempdir().unwrap();
    let at = [free_address(), free_address()];
    let text = of_legacy(at, &catalog, &[("blue", &blue), ("green", &green)]);
    std::fs::write(dir.path().join("outgrow.toml"), text).unwrap();
    let mut process = serve(dir.path()).await;
    let weigh = ["build", "weight", "legacy", "green", "50"];
    assert_eq!(run_in(dir.path(), &weigh).await.code, 0);
    let client = AtomicUsize::new(0);
    let list = eventually("the guard to act", WAIT, || async {
        for path in ["/account", "/api/products"] {
            let session = client.fetch_add(1, SeqCst).to_string();
            says(at[0], path, &session).await;
        }
        let list = run_in(dir.path(), &["build", "list"]).await.stdout;
        list.contains("took build green back").then_some(list)
    })
    .await;
    assert!(list.contains("legacy: "), "{list}");
    let asked = green.seen().len();
    for session in 0..50 {
        says(at[0], "/account", &session.to_string()).await;
    }
    assert_eq!(green.seen().len(), asked);
    let scrape = scraped(
        dir.path(),
        at[1],
        "outgrow_build_taken_back{service=\"legacy\",build=\"green\"}",
    );
    assert_eq!(scrape.await.as_deref(), Some("1.0"));
    let errors = scraped(
        dir.path(),
        at[1],
        "outgrow_build_errors_total{service=\"legacy\",build=\"green\"}",
    );
    assert!(errors.await.unwrap().parse::<u64>().unwrap() > 0);
    assert!(process.stop().await.success());
}

/// Answers after this time.
async fn slow(name: &'static str, after: Duration) -> Upstream {
    Upstream::start(move |_| async move {
        // tidy: sleep, because a build that is slow is what the guard is to see.
        tokio::time::sleep(after).await;
        http::Response::new(bytes::Bytes::from(name))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guard_takes_a_slow_build_back_and_says_how_slow_it_was() {
    let blue = Upstream::always(200, "blue").await;
    let green = slow("green", Duration::from_millis(150)).await;
    let builds = [("blue", &blue), ("green", &green)];
    let mut shop = Shop::new(&builds).await;
    // A tenth of the stretches that it takes by default.
    let config = shop.dir.path().join("outgrow.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let guard =
        "[slices.catalog.guard]\nalpha = 0.1\nbuild_slower = 3\nbuild_slower_by = \"30ms\"\n";
    std::fs::write(&config, format!("{text}{guard}")).unwrap();
    shop.done(&["reload"]).await;
    shop.done(&["build", "weight", "catalog", "green", "50"])
        .await;
    let url = format!("http://{}/api/products", shop.at);
    let told = eventually("the guard to act", 3 * WAIT, || async {
        let some = (0..20).map(|_| ask_as_another(&url));
        for answer in futures_util::future::join_all(some).await {
            assert_eq!(answer.status, 200);
        }
        let list = shop.done(&["build", "list"]).await;
        list.contains("took build green back").then_some(list)
    })
    .await;
    let reason = "build green answers more slowly than blue, by more than 3 times and 30ms";
    assert!(told.contains(reason), "{told}");
    let asked = green.seen().len();
    assert_eq!(shop.ask().await, "blue");
    assert_eq!(green.seen().len(), asked);
    // The guard acts first, and the journal is told.
    let journal = eventually("the journal to have it", WAIT, || async {
        let journal = shop.done(&["route", "history", "catalog"]).await;
        journal.contains("build-abort").then_some(journal)
    })
    .await;
    for word in [reason, "green: p50 ", "blue: p50 "] {
        assert!(journal.contains(word), "{word}: {journal}");
    }
    assert!(shop.process.stop().await.success());
}
