//! The commands with a MariaDB database as the legacy side whose server is replaced by its replica.

#![allow(clippy::unwrap_used)] // Set-up that fails is a failed test.

use std::time::Duration;

use outgrow_testkit::process::free_address;
use outgrow_testkit::{Mariadb, Relay, database, eventually, is_mysql};

use crate::harness::run_in;
use crate::starting::serve;

const WAIT: Duration = Duration::from_secs(30);

async fn fail_over(follow: bool) {
    let mut old = Mariadb::logged(
        "CREATE TABLE products (id bigint AUTO_INCREMENT PRIMARY KEY, name varchar(99) NOT NULL); \
         INSERT INTO products (name) SELECT concat('product ', seq) FROM seq_1_to_200",
    )
    .await;
    let relay = Relay::to(old.address()).await;
    let dir = tempfile::tempdir().unwrap();
    let extracted = database::open(&dir.path().join("catalog.db")).await;
    let create = "CREATE TABLE product (id INTEGER PRIMARY KEY, title TEXT NOT NULL)";
    sqlx::query(create).execute(&extracted).await.unwrap();
    let config = config(&old.url_through(&relay), follow);
    std::fs::write(dir.path().join("outgrow.toml"), config).unwrap();
    let run = async |args: &[&str]| run_in(dir.path(), args).await;
    let checked = run(&["check"]).await;
    // MySQL has no such setting.
    let advice = "advice: `legacy database`: gtid_strict_mode is `OFF`";
    let advised = checked.stdout.contains(advice);
    assert_eq!(advised, !is_mysql(), "{checked:?}");

    let mut outgrow = serve(dir.path()).await;
    let started = run(&["sync", "start", "catalog"]).await;
    assert_eq!(started.code, 0, "{started:?}");
    let followed = |wanted: i64| {
        let extracted = extracted.clone();
        async move {
            let text = "SELECT count(*) FROM product";
            let rows: (i64,) = sqlx::query_as(text).fetch_one(&extracted).await.ok()?;
            (rows.0 == wanted).then_some(())
        }
    };
    eventually("the rows", WAIT, || followed(200)).await;
    let new = Mariadb::replica_of(&old).await;
    new.catch_up_with(&old).await;
    let (was, now) = (old.identity().await, new.identity().await);
    let gtids = old.own_gtids().await;
    old.kill();
    new.promote().await;
    new.execute("DELETE FROM products WHERE id > 150").await;
    relay.lead_to(new.address());
    let action = match follow {
        true => "link-another-server",
        false => {
            eventually("the link to stop", WAIT, || async {
                let status = run(&["sync", "status", "catalog"]).await;
                let told = status.stdout.contains("resume catalog --another-server");
                told.then_some(())
            })
            .await;
            let resume = ["sync", "resume", "catalog", "--another-server"];
            let resumed = run(&[&resume[..], &["--reason", "db1 has died"]].concat()).await;
            assert_eq!(resumed.code, 0, "{resumed:?}");
            "sync-another-server"
        }
    };
    eventually("the deletes", WAIT, || followed(150)).await;
    let verified = run(&["sync", "verify", "catalog"]).await;
    assert_eq!(verified.code, 0, "{verified:?}");
    let journal = run(&["journal", "-o", "json"]).await;
    for said in [action, &was, &now, &gtids] {
        assert!(journal.stdout.contains(said), "{said}: {journal:?}");
    }
    let again = run(&["sync", "resume", "catalog", "--another-server"]).await;
    assert!(
        again.stderr.contains("are the ones that were followed"),
        "{again:?}"
    );
    assert!(outgrow.stop().await.success());
}

#[tokio::test]
async fn a_replica_in_its_place_is_gone_on_with_by_a_command() {
    fail_over(false).await;
}

#[tokio::test]
async fn a_replica_in_its_place_is_gone_on_with_unasked_where_the_config_says_so() {
    fail_over(true).await;
}

fn config(url: &str, follow: bool) -> String {
    let (proxy, control) = (free_address(), free_address());
    format!(
        r#"
[proxy]
listen = ["{proxy}"]
[legacy]
urls = ["http://127.0.0.1:9"]
database = "{url}"
capture = "replication"
follow_failover = {follow}
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
