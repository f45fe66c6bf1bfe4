//! Disks that are really full: of a target, of a source, of either engine. The link waits and says so,
//! no row is blamed for it, and when there is room again it goes on with all that came meanwhile.
//!
//! `scripts/test` runs these where the machine lets it mount a disk.

use std::process::Stdio;

use outgrow_bridge::Link;
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::{Disk, Mariadb, Postgres, TempDatabase, eventually};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::crash::{TELLS, process_between};
use crate::mysql::{EXTRACTED_MY, LEGACY_MY};
use crate::passing_errors::whole;
use crate::postgres::{Db, EXTRACTED_PG, EXTRACTED_SQLITE, LEGACY_PG, LEGACY_SQLITE, Pair, items};
use crate::postgres_streamed as streamed;
use crate::shop::{WAIT, copied};

/// A server's files as installed, and some megabytes.
const POSTGRES: u32 = 72;
const MARIADB: u32 = 190;

async fn postgres(tables: &str) -> Db {
    let server = Postgres::on_disk(POSTGRES).await;
    server.execute(tables).await;
    Db::Pg(Box::new(server))
}

async fn mariadb(tables: &str) -> Db {
    let server = Mariadb::on_disk(MARIADB).await;
    server.execute(tables).await;
    Db::My(Box::new(server))
}

async fn sqlite(disk: &Disk, tables: &str) -> Db {
    let database = TempDatabase::on_disk(disk).await;
    database.execute(tables).await;
    Db::Lite(database)
}

fn disk_of<'a>(db: &'a Db, own: Option<&'a Disk>) -> &'a Disk {
    match db {
        Db::Lite(_) => own.unwrap(),
        Db::Pg(server) => server.disk(),
        Db::My(server) => server.disk(),
    }
}

/// A server that could not write its log has ended, and one of MariaDB that has no room to take back what
/// it had begun is about to: whoever made room starts it again.
async fn started(db: &mut Db) {
    match db {
        Db::Pg(server) => {
            if !server.runs() {
                server.crash().await;
            }
        }
        Db::My(server) => server.crash().await,
        Db::Lite(_) => {}
    }
}

async fn says_that_it_waits(link: &Link) {
    let waits = async || (!link.describe()["waiting_for"].is_null()).then_some(());
    let said = eventually("the link to say what it waits for", 2 * WAIT, waits);
    let said = tokio::time::timeout(WAIT, said).await;
    assert!(said.is_ok(), "it does not wait: {}", link.describe());
}

/// Rows that need room: much more than a full disk's last pages have.
fn large(round: usize) -> String {
    larger(round, 2)
}

/// So many thousand times, of two bytes.
fn larger(round: usize, thousands: usize) -> String {
    let note = format!("{round} ").repeat(thousands * 1_000);
    format!("UPDATE item SET note = '{note}', code = concat_ws('', 'r{round}-', id)")
}

async fn a_full_target(mut pair: Pair, disk: Option<Disk>) {
    pair.legacy.execute(&items(1, 300)).await;
    pair.legacy.execute(&large(9)).await;
    // While it is copied.
    disk_of(&pair.extracted, disk.as_ref()).fill();
    let link = Link::open(pair.spec()).await.unwrap();
    let begun = link.ensure(DataPhase::Following, Side::Legacy).await;
    if begun.is_ok() {
        says_that_it_waits(&link).await;
    }
    disk_of(&pair.extracted, disk.as_ref()).clear();
    started(&mut pair.extracted).await;
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    copied(&link).await;
    pair.equal().await;
    // While changes are followed.
    for round in 0..2 {
        disk_of(&pair.extracted, disk.as_ref()).fill();
        // InnoDB takes room by the megabyte, and again what an earlier round has left: each needs more.
        match pair.extracted {
            Db::My(_) => pair.legacy.execute(&larger(round, 10 << round)).await,
            Db::Pg(_) | Db::Lite(_) => pair.legacy.execute(&large(round)).await,
        }
        says_that_it_waits(&link).await;
        let text = format!("DELETE FROM item WHERE id = {round} + 1");
        pair.legacy.execute(&text).await;
        assert!(link.failures().borrow().is_none(), "{}", link.describe());
        disk_of(&pair.extracted, disk.as_ref()).clear();
        started(&mut pair.extracted).await;
        pair.equal().await;
    }
    whole(&pair, &link).await;
}

async fn a_full_source(mut pair: Pair, disk: Option<Disk>) {
    // What the bridge writes there may have room in pages that the application has no use for.
    let waits = !matches!(pair.legacy, Db::My(_));
    pair.legacy.execute(&items(1, 300)).await;
    let link = Link::open(pair.spec()).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    copied(&link).await;
    for round in 0..2 {
        disk_of(&pair.legacy, disk.as_ref()).fill();
        // Whoever writes takes what is left of pages and logs, until nobody can.
        while pair.legacy.attempt(&large(round)).await {}
        if waits {
            says_that_it_waits(&link).await;
        }
        assert!(link.failures().borrow().is_none(), "{}", link.describe());
        disk_of(&pair.legacy, disk.as_ref()).clear();
        started(&mut pair.legacy).await;
        eventually("the application to write again", 2 * WAIT, || async {
            let text = format!("UPDATE item SET note = 'again {round}'");
            pair.legacy.attempt(&text).await.then_some(())
        })
        .await;
        pair.equal().await;
    }
    whole(&pair, &link).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a disk of its own: run by scripts/test"]
async fn a_full_postgres_target_is_waited_for() {
    let (legacy, extracted) = (Db::lite(LEGACY_SQLITE).await, postgres(EXTRACTED_PG).await);
    a_full_target(Pair::of(legacy, extracted), None).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a disk of its own: run by scripts/test"]
async fn a_full_mariadb_target_is_waited_for() {
    let (legacy, extracted) = (Db::pg(LEGACY_PG).await, mariadb(EXTRACTED_MY).await);
    a_full_target(Pair::of(legacy, extracted), None).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a disk of its own: run by scripts/test"]
async fn a_full_sqlite_target_is_waited_for() {
    let test = "full_disk::a_full_sqlite_target_is_waited_for";
    let Some(disk) = Disk::beside_it(4, test) else {
        return;
    };
    let extracted = sqlite(&disk, EXTRACTED_SQLITE).await;
    let pair = Pair::of(Db::pg(LEGACY_PG).await, extracted);
    a_full_target(pair, Some(disk)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a disk of its own: run by scripts/test"]
async fn a_full_postgres_source_is_waited_for() {
    let (legacy, extracted) = (postgres(LEGACY_PG).await, Db::lite(EXTRACTED_SQLITE).await);
    a_full_source(Pair::replicated(legacy, extracted), None).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a disk of its own: run by scripts/test"]
async fn a_full_mariadb_source_is_waited_for() {
    let (legacy, extracted) = (mariadb(LEGACY_MY).await, Db::pg(EXTRACTED_PG).await);
    a_full_source(Pair::of(legacy, extracted), None).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a disk of its own: run by scripts/test"]
async fn a_full_sqlite_source_is_waited_for() {
    let test = "full_disk::a_full_sqlite_source_is_waited_for";
    let Some(disk) = Disk::beside_it(4, test) else {
        return;
    };
    let legacy = sqlite(&disk, LEGACY_SQLITE).await;
    let pair = Pair::of(legacy, Db::pg(EXTRACTED_PG).await);
    a_full_source(pair, Some(disk)).await;
}

/// Transactions that are told while they run wait in files: where there is no more room for these, the
/// link says so, and what runs comes once it is committed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a disk of its own: run by scripts/test"]
async fn what_runs_finds_no_room_for_its_file() {
    let test = "full_disk::what_runs_finds_no_room_for_its_file";
    let Some(disk) = Disk::beside_it(2, test) else {
        return;
    };
    let pair = streamed::pair().await;
    let (legacy, extracted) = (pair.legacy.url(), pair.extracted.url());
    let mut process = process_between(&legacy, &extracted, pair.child(), "never", 1)
        .env("TMPDIR", disk.path())
        .env(TELLS, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    pair.equal().await;
    let mut large = streamed::begun(&pair.legacy).await;
    streamed::run(&mut large, &[&streamed::rows(1_000, 4_000)]).await;
    streamed::told_early(&pair.legacy, 0).await;
    disk.fill();
    streamed::run(&mut large, &[&streamed::rows(10_000, 14_000)]).await;
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let said = loop {
        let line = tokio::time::timeout(2 * WAIT, lines.next_line()).await;
        let line = line.expect("it says what is wrong").unwrap().unwrap();
        if let Some((_, said)) = line.split_once(TELLS) {
            break said.to_owned();
        }
    };
    let file = "a running transaction cannot wait in a file";
    assert!(
        said.contains(file) && said.contains("No space left"),
        "{said}"
    );
    // What is committed does not wait for room, nor for what runs.
    pair.legacy.execute(&items(70, 80)).await;
    pair.equal().await;
    large.commit().await.unwrap();
    pair.equal().await;
    disk.clear();
    pair.legacy.execute(&streamed::rows(20_000, 24_000)).await;
    pair.equal().await;
    process.kill().await.unwrap();
    let link = streamed::followed(&pair).await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    link.shutdown().await;
}
