//! What MariaDB's user may not do is told before anything is begun.

use outgrow_bridge::Link;
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::Mariadb;

use crate::mysql::{EXTRACTED_MY, LEGACY_MY};
use crate::postgres::{Db, Pair};
use crate::shop::copied;

/// What a preflight says as this user of the source.
async fn said(pair: &Pair, server: &Mariadb, user: &str) -> (Link, String) {
    let mut spec = pair.spec();
    spec.legacy = server.url_by(user, "127.0.0.1", "").parse().unwrap();
    let link = Link::open(spec).await.unwrap();
    let found = link.preflight().await.unwrap();
    let problems = found.problems.iter().map(ToString::to_string);
    let problems = problems.collect::<Vec<_>>().join("; ");
    (link, problems)
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_are_missing_are_named_with_their_grant() {
    let server = Mariadb::with(LEGACY_MY).await;
    let pair = Pair::of(Db::lite("").await, Db::my(EXTRACTED_MY).await);
    server
        .execute(
            "CREATE USER reader@'%'; GRANT SELECT ON shop.* TO reader@'%'; \
             CREATE USER writer@'%'; GRANT CREATE, DROP, SELECT, INSERT, UPDATE, DELETE ON `sho_`.* TO writer@'%'; \
             CREATE USER other@'%'; GRANT ALL ON other.* TO other@'%'; GRANT SELECT, LOCK TABLES ON shop.* TO other@'%'; \
             CREATE USER every@'%'; GRANT ALL ON *.* TO every@'%'; \
             CREATE ROLE clerk; GRANT ALL ON shop.* TO clerk; CREATE USER played@'%'; GRANT clerk TO played@'%'; \
             SET DEFAULT ROLE clerk FOR played@'%'; \
             CREATE ROLE below; GRANT SELECT, INSERT, UPDATE, DELETE ON shop.* TO below; CREATE ROLE above; GRANT below TO above; \
             GRANT CREATE, DROP ON shop.* TO above; CREATE USER nested@'%'; GRANT above TO nested@'%'; \
             SET DEFAULT ROLE above FOR nested@'%'; CREATE USER idle@'%'; GRANT clerk TO idle@'%'; GRANT USAGE ON shop.* TO idle@'%';",
        )
        .await;
    for user in ["reader", "other"] {
        let (link, problems) = said(&pair, &server, user).await;
        let way = format!(
            "GRANT CREATE, DROP, INSERT, UPDATE, DELETE, TRIGGER ON `shop`.* TO '{user}'@'%'"
        );
        assert!(problems.contains(&way), "{problems}");
        link.shutdown().await;
    }
    let (link, problems) = said(&pair, &server, "nested").await;
    assert_eq!(
        problems
            .matches("GRANT TRIGGER ON `shop`.* TO 'nested'@'%'")
            .count(),
        1,
        "{problems}"
    );
    link.shutdown().await;
    let (link, problems) = said(&pair, &server, "writer").await;
    let way = "GRANT TRIGGER ON `shop`.* TO 'writer'@'%'";
    assert!(problems.contains(way), "{problems}");
    link.shutdown().await;
    server
        .execute("GRANT TRIGGER ON shop.item TO writer@'%'; GRANT TRIGGER ON shop.item TO below")
        .await;
    for user in ["writer", "every", "played", "nested"] {
        let (link, problems) = said(&pair, &server, user).await;
        assert_eq!(problems, "", "{user}");
        link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
        copied(&link).await;
        link.close().await.unwrap();
        link.shutdown().await;
    }
}

/// With the binary log on, as it is in MySQL 8 by itself, the right to make triggers is not enough.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_make_no_triggers_beside_the_log_is_told_so() {
    let server = Mariadb::logged(LEGACY_MY).await;
    let pair = Pair::of(Db::lite("").await, Db::my(EXTRACTED_MY).await);
    server
        .execute(
            "SET GLOBAL log_bin_trust_function_creators = 0; CREATE USER app@'%'; GRANT ALL ON shop.* TO app@'%'; CREATE USER boss@'%'; \
             GRANT ALL ON shop.* TO boss@'%'; GRANT SUPER ON *.* TO boss@'%'",
        )
        .await;
    let (link, problems) = said(&pair, &server, "app").await;
    assert!(
        problems.contains("user `app@%` may make no triggers while the binary log is on"),
        "{problems}"
    );
    let way = "SET GLOBAL log_bin_trust_function_creators = 1";
    assert!(problems.contains(way), "{problems}");
    link.shutdown().await;
    let works = async |user| {
        let (link, problems) = said(&pair, &server, user).await;
        assert_eq!(problems, "", "{user}");
        link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
        copied(&link).await;
        // Once they are there, the setting may be as it was.
        let back = "SET GLOBAL log_bin_trust_function_creators = 0";
        server.execute(back).await;
        let found = link.preflight().await.unwrap();
        assert!(found.ok(), "{:?}", found.problems);
        // MariaDB asks for it when they are removed, too.
        server.execute(way).await;
        link.close().await.unwrap();
        link.shutdown().await;
        server.execute(back).await;
    };
    works("boss").await;
    server.execute(way).await;
    works("app").await;
}
