//! `kill -9` at named points and at random moments, then a resume: both sides end equal, and each
//! change was applied, from the place where the dead process had come to.
//!
//! The bridge runs in a child process: this test binary again, asked for the ignored test below.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use outgrow_bridge::{Capture, DatabaseUrl, FaultHook, Link, LinkSpec, VerifyOptions};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::eventually;
use tokio::process::{Child, Command};

use crate::shop::{Dice, Shop, WAIT, copied, legacy_change};

const LEGACY: &str = "OUTGROW_CRASH_LEGACY";
const CATALOG: &str = "OUTGROW_CRASH_CATALOG";
const POINT: &str = "OUTGROW_CRASH_POINT";
const AFTER: &str = "OUTGROW_CRASH_AFTER";
/// `copy`, `turn`, `verify`, or `items` for the tables of the PostgreSQL tests, followed by what to
/// do with them.
const DO: &str = "OUTGROW_CRASH_DO";

/// A child that verifies, and goes on with what another left.
pub(crate) const VERIFY: &str = "verify";

/// A child that finds the link reversed; with `turn`, it turns it back.
pub(crate) const REVERSED: &str = "reversed";

/// A child that settles all conflicts.
pub(crate) const SETTLES: &str = ", settled";

/// A child that only watches what is kept, with little room for it.
pub(crate) const PARKS: &str = ", parked";

/// A child with limits for many rows.
pub(crate) const MANY: &str = "items, many";

fn child(shop: &Shop, what: &str, point: &str, after: u32) -> Child {
    child_between(&shop.legacy.url(), &shop.catalog.url(), what, point, after)
}

/// A bridge in a process of its own that dies when it has passed a point so often.
pub(crate) fn child_between(
    legacy: &str,
    extracted: &str,
    what: &str,
    point: &str,
    after: u32,
) -> Child {
    process_between(legacy, extracted, what, point, after)
        .spawn()
        .unwrap()
}

/// The same before it is started.
pub(crate) fn process_between(
    legacy: &str,
    extracted: &str,
    what: &str,
    point: &str,
    after: u32,
) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "crash::the_child", "--ignored", "--nocapture"])
        .env(LEGACY, legacy)
        .env(CATALOG, extracted)
        .env(POINT, point)
        .env(AFTER, after.to_string())
        .env(DO, what)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Whether a child died at its point, not of anything that it ran into.
pub(crate) fn was_aborted(status: std::process::ExitStatus) -> bool {
    const ABORTED: i32 = 6;
    std::os::unix::process::ExitStatusExt::signal(&status) == Some(ABORTED)
}

fn child_spec() -> LinkSpec {
    let var = |name| std::env::var(name).unwrap();
    let (point, after): (String, u32) = (var(POINT), var(AFTER).parse().unwrap());
    let passed = AtomicU32::new(0);
    let mut limits = crate::shop::quick();
    limits.chunk_rows = 20;
    limits.copy_rows = 100;
    limits.batch_changes = 20;
    limits.verify_rows = 5;
    limits.fault = Some(FaultHook::new(move |at| {
        if at == point && passed.fetch_add(1, Ordering::Relaxed) + 1 >= after {
            std::process::abort();
        }
    }));
    let what = var(DO);
    limits.copy_round = if what.starts_with(crate::postgres_copy::ROUNDS) {
        crate::postgres_copy::LONG
    } else {
        crate::postgres_copy::SHORT
    };
    if what == crate::postgres_copy::ALONE {
        limits.copy_parallel = std::num::NonZeroU32::MIN;
    }
    if what.starts_with(MANY) {
        limits = outgrow_bridge::Limits::default();
    }
    if what.contains(PARKS) {
        crate::held::tighten(&mut limits);
    }
    let items = ["items", "both", VERIFY].iter();
    let (slice, tables) = if items.into_iter().any(|of| what.starts_with(of)) {
        ("items", crate::edited::tables(&what))
    } else if what.starts_with("wares") {
        ("wares", crate::postgres_copy::tables())
    } else if what.starts_with(crate::whole_orders::ORDERS) {
        crate::whole_orders::tighten(&mut limits);
        (crate::whole_orders::ORDERS, crate::whole_orders::tables())
    } else {
        ("catalog", crate::shop::catalog_tables())
    };
    let url = |name| {
        let url: DatabaseUrl = var(name).parse().unwrap();
        if what.ends_with("by replication") && !var(name).starts_with("sqlite:") {
            url.capturing(Capture::Replication).unwrap()
        } else {
            url
        }
    };
    LinkSpec {
        slice: slice.parse().unwrap(),
        legacy: url(LEGACY),
        extracted: url(CATALOG),
        tables,
        writes: crate::both_random::asked_of(&what),
        limits,
    }
}

/// Has the process say what it waits for, once it does.
pub(crate) const TELLS: &str = "OUTGROW_TEST_TELLS";

/// Not a test: the process that is killed.
#[tokio::test]
#[ignore = "run by the crash tests in a process of its own"]
async fn the_child() {
    let Ok(what) = std::env::var(DO) else { return };
    let link = Link::open(child_spec()).await.unwrap();
    let (phase, source) = match what.contains(REVERSED) {
        true => (DataPhase::Reversed, Side::Extracted),
        false => (DataPhase::Copying, Side::Legacy),
    };
    if what.contains(PARKS) {
        link.watch_over();
        return std::future::pending().await;
    }
    link.ensure(phase, source).await.unwrap();
    if what.contains("turn") {
        copied(&link).await;
        crate::turning::cut_over(&link, source.other()).await;
    }
    if what.contains(SETTLES) {
        let all = outgrow_bridge::Which::All;
        link.settle(&all, Side::Extracted, false).await.unwrap();
    }
    if what == VERIFY {
        copied(&link).await;
        let keep = VerifyOptions {
            keep: true,
            ..VerifyOptions::default()
        };
        let resume = VerifyOptions {
            resume: true,
            ..keep.clone()
        };
        // Nothing was interrupted before it was first noted how far one was.
        if link.verify_with(&resume).await.is_err() {
            link.verify_with(&keep).await.unwrap();
        }
    }
    if std::env::var_os(TELLS).is_some() {
        use std::io::Write as _;
        let said = eventually("what it waits for", 10 * WAIT, || async {
            link.describe()["waiting_for"].as_str().map(str::to_owned)
        });
        writeln!(std::io::stdout(), "{TELLS} {}", said.await).unwrap();
    }
    std::future::pending::<()>().await;
}

async fn resumed(shop: &Shop) {
    let link = Link::open(shop.catalog_spec()).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    copied(&link).await;
    shop.catalog_equal().await;
    eventually("no row to be parked", WAIT, || async {
        (link.evidence()?.parked == 0).then_some(())
    })
    .await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    assert_eq!(link.evidence().unwrap().foreign_writes, 0);
    let stuck = "select (select applying from \"_outgrow_catalog_control\")";
    assert_eq!(
        shop.catalog.number(stuck).await + shop.legacy.number(stuck).await,
        0
    );
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dying_at_any_point_of_a_batch_loses_nothing() {
    for (point, after) in [
        ("after-read", 1),
        ("after-rows", 2),
        ("before-commit", 3),
        ("before-commit", 12),
        ("after-commit", 4),
        ("after-commit", 15),
    ] {
        let shop = Shop::with(100).await;
        let mut dice = Dice(u64::from(after) + 1);
        let mut process = child(&shop, "copy", point, after);
        let mut died = None;
        while died.is_none() {
            shop.legacy.execute(&legacy_change(&mut dice, 110)).await;
            died = process.try_wait().unwrap();
        }
        assert!(was_aborted(died.unwrap()), "{point}");
        if (point, after) == ("after-commit", 4) {
            // Died amid the copy: its cursor is committed with the rows.
            let copied = "select sum(copied) from \"_outgrow_catalog_copy\"";
            assert!(shop.catalog.number(copied).await > 0, "{point}");
        }
        resumed(&shop).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_at_random_moments_loses_nothing() {
    let shop = Shop::with(300).await;
    let mut dice = Dice(4711);
    for _ in 0..8 {
        let mut process = child(&shop, "copy", "never", 1);
        for _ in 0..dice.roll(40) {
            shop.legacy.execute(&legacy_change(&mut dice, 320)).await;
        }
        process.kill().await.unwrap();
    }
    resumed(&shop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dying_inside_a_turn_leaves_one_source() {
    for point in ["half-turned", "turned"] {
        let shop = Shop::with(50).await;
        let mut process = child(&shop, "turn", point, 1);
        let ended = tokio::time::timeout(Duration::from_secs(30), process.wait()).await;
        assert!(was_aborted(ended.unwrap().unwrap()), "{point}");
        let link = Link::open(shop.catalog_spec()).await.unwrap();
        // Control goes on where its journal left off, and repeats the steps.
        link.ensure(DataPhase::Following, Side::Legacy)
            .await
            .unwrap();
        crate::turning::cut_over(&link, Side::Extracted).await;
        shop.catalog
            .execute("update product_price set amount_cents = 123 where product_id = 1")
            .await;
        shop.catalog_equal().await;
        assert_eq!(
            shop.legacy
                .number("select price = '1.23' from products where id = 1")
                .await,
            1
        );
        crate::turning::cut_over(&link, Side::Legacy).await;
        shop.legacy
            .execute("update products set price = '4.56' where id = 1")
            .await;
        shop.catalog_equal().await;
        link.shutdown().await;
    }
}

#[tokio::test]
async fn a_source_restored_from_a_backup_is_refused() {
    let shop = Shop::with(10).await;
    let link = shop.following().await;
    let backup: PathBuf = shop.legacy.path().with_extension("backup");
    shop.legacy
        .execute(&format!("vacuum into '{}'", backup.display()))
        .await;
    shop.legacy
        .execute("update products set tags = 'after the backup'")
        .await;
    shop.catalog_equal().await;
    link.shutdown().await;
    let mut spec = shop.catalog_spec();
    spec.legacy = format!("sqlite:{}", backup.display()).parse().unwrap();
    let restored = Link::open(spec).await.unwrap();
    let refused = restored
        .ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("restored from a backup"), "{refused}");
    restored.shutdown().await;
}
