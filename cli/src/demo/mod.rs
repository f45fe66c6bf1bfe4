//! `outgrow demo`: the bundled shop migrated before your eyes.
//!
//! Owns the processes, the shoppers, the story and the judgement. Everything that moves the
//! slices goes through the admin API, as an operator would; the judgement reads the databases
//! itself and shares no code with what it judges.

mod admin;
mod databases;
mod dice;
mod errands;
mod http;
mod keepsakes;
mod layout;
mod ledger;
mod oracle;
mod processes;
mod proof;
mod screen;
mod shoppers;
mod steps;
mod story;
mod summary;
mod watch;

use std::io::Read;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use outgrow_rollout::Live;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::commands::demo::DemoArgs;
use admin::Admin;
use keepsakes::{export_runbooks, keep};
use layout::Layout;
use ledger::Ledger;
use oracle::Verdict;
use processes::Fleet;
use proof::Sides;
use screen::Screen;
use shoppers::Crowd;
use steps::Hands;
use story::{ACTS, Act, Story};
use summary::{Requests, Summary, Writes, count};
use watch::Watch;

/// How many broken promises are named in the summary; all are counted.
const PROMISES_NAMED: usize = 20;

/// Plays the demo and judges it.
///
/// # Errors
/// When it cannot be set up. What breaks during the run is said, written into the summary, and
/// shows in the exit code.
pub(crate) async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let screen = Screen::new();
    let layout = Layout::create(args.dir.as_deref(), &secret()?)?;
    let mut fleet = Fleet::new(layout.clone())?;
    let acts: &[Act] = if args.short { &ACTS[..1] } else { &ACTS };
    let slices: Vec<&str> = acts.iter().map(|act| act.slice).collect();
    screen.plain(&format!(
        "outgrow demo: {} moved out of a shop under {} requests/s, seed {}\neverything is in {}",
        slices.join(" and "),
        args.rate,
        args.seed,
        layout.dir.display()
    ));
    let stage = Stage {
        args: &args,
        acts,
        screen: &screen,
        layout: &layout,
    };
    let mut summary = Summary {
        seed: args.seed,
        ..Summary::default()
    };
    let played = tokio::select! {
        played = stage.play(&mut fleet, &mut summary) => Some(played),
        interrupted = interrupted() => { interrupted?; None }
    };
    let Some(played) = played else {
        screen.bad("interrupted; stopping everything");
        fleet.stop().await;
        screen.plain(&format!(
            "databases and logs are in {}",
            layout.dir.display()
        ));
        return Ok(ExitCode::FAILURE);
    };
    if let Err(error) = played {
        summary.broken.push(format!("{error:#}"));
    }
    let unmet = summary.judge(&slices);
    summary.broken.extend(unmet);
    summary.write(&layout.dir.join("summary.json"))?;
    conclude(&screen, &layout, &summary);
    if args.keep {
        keep(&args, &screen, &layout).await?;
    }
    fleet.stop().await;
    Ok(if summary.broken.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What every scene of the demo needs.
#[derive(Debug, Clone, Copy)]
struct Stage<'a> {
    args: &'a DemoArgs,
    /// The slices that are migrated.
    acts: &'a [Act],
    screen: &'a Screen,
    layout: &'a Layout,
}

impl Stage<'_> {
    /// From the empty directory to the last figure. What is known goes into the summary as it
    /// comes, so that a run that breaks still tells how far it came.
    async fn play(&self, fleet: &mut Fleet, summary: &mut Summary) -> anyhow::Result<()> {
        let begun = Instant::now();
        self.start(fleet).await?;
        let token = std::fs::read_to_string(self.layout.token());
        let token = token.context("outgrow wrote no admin token")?;
        let admin = Admin::new(self.layout.control, &token)?;
        let watch = Watch::start(Admin::new(self.layout.control, &token)?);
        let ledger = Arc::new(Ledger::new(self.args.seed));
        let mut sides = Vec::new();
        // All slices: what is not migrated must be as whole as what is.
        for act in &ACTS {
            sides.push(Sides::open(self.layout, act.slice, act.facts).await?);
        }
        let Self { args, layout, .. } = self;
        let shopping = Instant::now();
        let crowd = Crowd::open(layout.proxy, args.rate, args.seed, &ledger).await?;

        let mut verdict = Verdict::default();
        let told = self
            .tell(
                fleet,
                &admin,
                &watch,
                &ledger,
                &sides,
                summary,
                &mut verdict,
            )
            .await;

        self.screen
            .chapter("the shoppers leave, and every promise is looked up");
        let shopped = shopping.elapsed();
        crowd.leave().await?;
        summary.shadow.totals = watch.shadow();
        summary.requests = requests(&ledger, shopped);
        let settled = self.settle(&admin, &ledger, &sides, summary, verdict).await;
        summary.seconds = begun.elapsed().as_secs_f64();
        // The first thing that broke is the one to tell.
        told.and(settled)
    }

    #[allow(clippy::too_many_arguments)] // Each is one of the demo's actors.
    async fn tell(
        &self,
        fleet: &mut Fleet,
        admin: &Admin,
        watch: &Watch,
        ledger: &Ledger,
        sides: &[Sides],
        summary: &mut Summary,
        verdict: &mut Verdict,
    ) -> anyhow::Result<()> {
        summary.shadow.seeded_defects = self.acts.len() as u64;
        for (act, sides) in self.acts.iter().zip(sides) {
            let hands = Hands {
                slice: act.slice,
                admin,
                screen: self.screen,
                watch,
            };
            let story = Story {
                act: *act,
                hands,
                fleet,
                ledger,
                layout: self.layout,
                sides,
                summary,
                verdict,
            };
            // A story is long, and so is its future.
            Box::pin(story.play()).await?;
        }
        Ok(())
    }

    /// Looks every promise up, after the last shopper has left.
    async fn settle(
        &self,
        admin: &Admin,
        ledger: &Ledger,
        sides: &[Sides],
        summary: &mut Summary,
        mut verdict: Verdict,
    ) -> anyhow::Result<()> {
        for (act, sides) in ACTS.iter().zip(sides) {
            let status = admin.get(&format!("/v1/slices/{}", act.slice)).await?;
            let live: Live = serde_json::from_value(status["effective"].clone())?;
            verdict.merge(sides.prove_writer(ledger, live.writer).await?);
            let stage = status["stage"].as_str().unwrap_or("unknown");
            summary
                .slices
                .insert(act.slice.to_owned(), stage.to_owned());
        }
        verdict.merge(proof::prove_orders(self.layout, ledger).await?);
        summary.writes = Writes {
            acknowledged: ledger.counts().acknowledged,
            missing: verdict.missing.len() as u64,
            duplicated: verdict.duplicated.len() as u64,
        };
        let named = verdict
            .missing
            .iter()
            .chain(&verdict.duplicated)
            .take(PROMISES_NAMED);
        summary.broken_promises = named.cloned().collect();
        let journal = admin.get("/v1/journal/verify").await?;
        let good = journal["ok"].as_bool() == Some(true);
        summary.journal = if good { "verified" } else { "broken" }.to_owned();
        export_runbooks(self.acts, self.layout).await
    }

    async fn start(&self, fleet: &mut Fleet) -> anyhow::Result<()> {
        let Self {
            args,
            acts,
            screen,
            layout,
        } = self;
        screen.chapter("a shop, and Outgrow in front of it");
        screen.progress("the monolith creates its database");
        fleet.start_monolith(args.seed).await?;
        screen.figure("monolith", &layout.monolith.to_string(), "");
        // Both services are in the config, so both are there, also when only one is migrated.
        for act in &ACTS {
            let planted = acts.iter().any(|played| played.slice == act.slice);
            let defect = planted.then_some(act.defect);
            fleet
                .deploy(act.slice, &format!("{}-1", act.slice), defect)
                .await?;
        }
        screen.figure(
            "services",
            &format!("{}, {}", layout.catalog, layout.reviews),
            "",
        );
        fleet.start_outgrow().await?;
        screen.figure(
            "outgrow",
            &layout.proxy.to_string(),
            &format!("admin API {}", layout.control),
        );
        screen.say(&format!(
            "{} requests/s from now until the end, a fifth of them writes",
            args.rate
        ));
        Ok(())
    }
}

fn requests(ledger: &Ledger, shopped: Duration) -> Requests {
    let counts = ledger.counts();
    Requests {
        total: counts.requests,
        failed: counts.failed,
        writes: counts.writes,
        per_second: counts.requests as f64 / shopped.as_secs_f64().max(0.001),
        latency: ledger.latencies(),
        failures: ledger.failures(),
    }
}

fn conclude(screen: &Screen, layout: &Layout, summary: &Summary) {
    screen.chapter("the evidence");
    for [what, figure, limit] in summary.table() {
        screen.figure(&what, &figure, &limit);
    }
    screen.plain("");
    for failure in summary.requests.failures.iter().take(5) {
        screen.bad(failure);
    }
    for broken in &summary.broken {
        screen.bad(broken);
    }
    if summary.broken.is_empty() {
        screen.good(&format!(
            "{} requests, none failed; {} writes, none lost; {:.0} s",
            count(summary.requests.total),
            count(summary.writes.acknowledged),
            summary.seconds
        ));
    }
    screen.plain(&format!(
        "report.html, runbook.md and summary.json are in {}",
        layout.dir.display()
    ));
}

/// Waits for Ctrl-C or a polite kill.
async fn interrupted() -> anyhow::Result<()> {
    let mut terminated = signal(SignalKind::terminate()).context("cannot listen for signals")?;
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed.context("cannot listen for Ctrl-C"),
        _ = terminated.recv() => Ok(()),
    }
}

/// 32 random bytes as hex, fresh for every demo: it signs identities.
fn secret() -> anyhow::Result<String> {
    let mut bytes = [0u8; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .context("cannot read random bytes")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
