//! A row log that is not the one that was read, or does not tell all, is never followed on.

use outgrow_bridge::{Capture, DatabaseUrl, Link};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::{Mariadb, eventually, is_mysql};
use sqlx::Row as _;

use crate::mysql::{EXTRACTED_MY, LEGACY_MY, pool};
use crate::mysql_binlog::{begun, following, stopped};
use crate::postgres::{Db, Pair};
use crate::shop::{WAIT, copied};

fn server(db: &mut Db) -> &mut Mariadb {
    match db {
        Db::My(server) => server,
        Db::Lite(_) | Db::Pg(_) => unreachable!("it is MariaDB here"),
    }
}

async fn refusal(pair: &Pair) -> String {
    let link = Link::open(pair.spec()).await.unwrap();
    let refused = link.ensure(DataPhase::Following, Side::Legacy).await;
    let text = refused.err().map(|e| e.to_string()).unwrap_or_default();
    link.shutdown().await;
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_removed_is_refused() {
    let (pair, link) = following(10).await;
    link.shutdown().await;
    pair.legacy
        .execute("UPDATE item SET note = 'never seen' WHERE id = 1; FLUSH BINARY LOGS")
        .await;
    let last = "SELECT count(*) FROM information_schema.processlist WHERE command LIKE 'Binlog%'";
    eventually("nobody to read the log", WAIT, || async {
        (pair.legacy.number(last).await == 0).then_some(())
    })
    .await;
    // The server keeps what its own recovery may need for a moment more.
    eventually("the log to be removed", WAIT, || async {
        let purge = "FLUSH BINARY LOGS; PURGE BINARY LOGS BEFORE now() + INTERVAL 1 DAY";
        pair.legacy.execute(purge).await;
        let pool = pool(&pair.legacy);
        let logs = sqlx::query("SHOW BINARY LOGS").fetch_all(&pool);
        let first: String = logs.await.unwrap().first()?.try_get(0).unwrap();
        (first != "log-bin.000001").then_some(())
    })
    .await;
    let text = refusal(&pair).await;
    assert!(
        text.contains("has removed its binary log `log-bin.000001`"),
        "{text}"
    );
    assert!(text.contains("start the copy again"), "{text}");
}

/// The same names of files, and other transactions in them.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_began_anew_is_refused() {
    let (mut pair, link) = following(10).await;
    link.shutdown().await;
    server(&mut pair.legacy).forget_log().await;
    let text = refusal(&pair).await;
    assert!(
        text.contains("bytes,") && text.contains("were read"),
        "{text}"
    );
    // Longer than it was: only what is in it tells.
    for round in 0..400 {
        pair.legacy
            .execute(&format!(
                "UPDATE item SET note = 'round {round}' WHERE id < 9"
            ))
            .await;
    }
    let link = Link::open(pair.spec()).await.unwrap();
    let begun = link.ensure(DataPhase::Following, Side::Legacy).await;
    if begun.is_ok() {
        let text = stopped(&link).await;
        assert!(text.contains("its binary log does not go on"), "{text}");
    }
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_restored_from_a_backup_is_refused() {
    let (mut pair, link) = following(10).await;
    link.shutdown().await;
    server(&mut pair.legacy).backup().await;
    let link = begun(&pair).await;
    pair.legacy
        .execute("UPDATE item SET note = 'after the backup'")
        .await;
    pair.equal().await;
    link.shutdown().await;
    server(&mut pair.legacy).restore().await;
    let text = refusal(&pair).await;
    assert!(text.contains("restored from a backup"), "{text}");
}

/// What a fail-over leads to: the same rows, also ours, on a server with another name.
#[tokio::test(flavor = "multi_thread")]
async fn another_server_is_refused() {
    let (mut pair, link) = following(10).await;
    link.shutdown().await;
    if is_mysql() {
        // It has a name that no setting changes: see the tests of fail-overs.
        return;
    }
    server(&mut pair.legacy).restart(&["--server-id=8"]).await;
    let text = refusal(&pair).await;
    assert!(
        text.contains("it had server_id 7 and has server_id 8"),
        "{text}"
    );
    server(&mut pair.legacy).restart(&["--server-id=7"]).await;
    let link = begun(&pair).await;
    pair.legacy.execute("UPDATE item SET note = 'again'").await;
    pair.equal().await;
    link.shutdown().await;
}

/// What cannot be followed stops the link; it does not go on as if nothing had been.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_does_not_tell_stops_the_link() {
    for (text, expected) in [
        (
            "SET SESSION binlog_format = 'STATEMENT'; UPDATE item SET note = 'as text' WHERE id = 1",
            "changed rows of `item` is in it as text",
        ),
        (
            "XA START 'x'; UPDATE item SET note = 'two phases' WHERE id = 1; XA END 'x'; \
             XA PREPARE 'x'; XA COMMIT 'x'",
            "an XA transaction",
        ),
        (
            "SET GLOBAL binlog_row_metadata = 'MINIMAL'; UPDATE item SET note = 'x' WHERE id = 1",
            "does not name the columns of `item`",
        ),
        (
            "SET GLOBAL binlog_row_image = 'MINIMAL'; RENAME TABLE item TO old_item, old_item TO item",
            "capture is gone from table `item`",
        ),
    ] {
        let (pair, link) = following(5).await;
        pair.legacy.execute(text).await;
        let said = stopped(&link).await;
        assert!(said.contains(expected), "{expected}: {said}");
        assert!(said.contains("start the copy again"), "{said}");
        link.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_of_capture_is_not_changed_beside_a_running_link() {
    let (pair, link) = following(10).await;
    link.shutdown().await;
    let triggers = Pair::of(pair.legacy, pair.extracted);
    let text = refusal(&triggers).await;
    assert!(
        text.contains("are found by replication and the config says triggers"),
        "{text}"
    );
    // Closed by the one way, it begins again by the other.
    let link = Link::open(triggers.spec()).await.unwrap();
    link.close().await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    triggers.equal().await;
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_or_the_user_lacks_is_said_with_its_remedy() {
    let legacy = Mariadb::logged(&format!(
        "{LEGACY_MY}; CREATE USER app@'%'; GRANT ALL ON shop.* TO app@'%'; \
         SET GLOBAL binlog_format = MIXED; SET GLOBAL binlog_row_metadata = MINIMAL"
    ))
    .await;
    let url: DatabaseUrl = legacy.url_by("app", "127.0.0.1", "").parse().unwrap();
    let bare = Db::my(EXTRACTED_MY).await;
    let pair = Pair::replicated(Db::My(Box::new(legacy)), bare);
    let problems = async || {
        let mut spec = pair.spec();
        spec.legacy = url.clone().capturing(Capture::Replication).unwrap();
        let link = Link::open(spec).await.unwrap();
        let found = link.preflight().await.unwrap();
        link.shutdown().await;
        let text: Vec<String> = found.problems.iter().map(ToString::to_string).collect();
        text.join("\n")
    };
    let text = problems().await;
    for expected in [
        "binlog_format is `MIXED`",
        "binlog_row_metadata is `MINIMAL`",
        "SET GLOBAL binlog_row_metadata = 'FULL'",
        "GRANT REPLICATION CLIENT ON *.* TO 'app'@'%'",
        "`extracted database`: its binary log is off",
        "or write capture = \"triggers\"",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    pair.legacy
        .execute("GRANT REPLICATION CLIENT ON *.* TO app@'%'")
        .await;
    let text = problems().await;
    assert!(
        text.contains("GRANT REPLICATION SLAVE ON *.* TO 'app'@'%'"),
        "{text}"
    );
}
