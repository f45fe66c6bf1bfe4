//! What stays when the story is over: the runbook pages, and a shop to play with.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use tokio::process::Command;

use super::interrupted;
use super::layout::Layout;
use super::ledger::Ledger;
use super::screen::Screen;
use super::shoppers::Crowd;
use super::story::Act;
use crate::commands::demo::DemoArgs;

/// Writes `runbook.md`: the runbook of every slice with the evidence of this run in it, as
/// `outgrow runbook export` gives it to anybody.
///
/// # Errors
/// When the command fails or the file cannot be written.
pub(crate) async fn export_runbooks(acts: &[Act], layout: &Layout) -> anyhow::Result<()> {
    let outgrow = std::env::current_exe().context("cannot find the running binary")?;
    let mut pages = String::new();
    for act in acts {
        pages.push_str(&export(&outgrow, layout, act.slice).await?);
        pages.push('\n');
    }
    std::fs::write(layout.dir.join("runbook.md"), pages)?;
    Ok(())
}

async fn export(outgrow: &Path, layout: &Layout, slice: &str) -> anyhow::Result<String> {
    let output = Command::new(outgrow)
        .args(["runbook", "export", slice, "-c"])
        .arg(layout.config())
        .current_dir(&layout.dir)
        .kill_on_drop(true)
        .output()
        .await
        .context("cannot run `outgrow runbook export`")?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("`outgrow runbook export {slice}` failed: {}", why.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Leaves everything running, with shoppers in the shop, until Ctrl-C.
///
/// # Errors
/// When the shoppers do not come back.
pub(crate) async fn keep(args: &DemoArgs, screen: &Screen, layout: &Layout) -> anyhow::Result<()> {
    // Their writes are nobody's evidence any more, so they get a book of their own.
    let ledger = Arc::new(Ledger::new(args.seed.wrapping_add(1)));
    let crowd = Crowd::open(layout.proxy, args.rate, args.seed.wrapping_add(1), &ledger).await?;
    screen.plain(&page(layout));
    interrupted().await?;
    screen.say("stopping everything");
    crowd.leave().await
}

fn page(layout: &Layout) -> String {
    let config = layout.config();
    let config = config.display();
    let mut page = format!(
        "\nEverything keeps running, with shoppers in the shop. Try, in another terminal:\n\n\
         \x20 curl -i http://{}/api/products/7\n",
        layout.proxy
    );
    for command in [
        "status",
        "route list",
        "route explain GET /api/products/7",
        "route history catalog",
        "shadow report catalog --format md",
        "sync status",
        "runbook show catalog",
        "journal verify",
    ] {
        let _ = writeln!(page, "  outgrow {command} -c {config}");
    }
    let _ = write!(
        page,
        "\nCtrl-C stops it all; databases and logs stay in {}",
        layout.dir.display()
    );
    page
}
