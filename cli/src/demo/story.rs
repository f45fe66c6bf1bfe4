//! The migration of one slice, from the first copied row to its retirement, with everything
//! going wrong on the way that can go wrong.

use std::time::Duration;

use anyhow::{Context, bail};
use outgrow_rollout::{FieldDifference, GateResult};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::databases::{Database, Facts};
use super::layout::Layout;
use super::ledger::Ledger;
use super::oracle::Verdict;
use super::processes::Fleet;
use super::proof::Sides;
use super::screen::Screen;
use super::steps::{self, Hands};
use super::summary::{Summary, count};

/// What differs between the slices.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Act {
    pub(crate) slice: &'static str,
    /// The defect in the first build, and the field that shows it.
    pub(crate) defect: &'static str,
    pub(crate) field: &'static str,
    pub(crate) report: &'static str,
    pub(crate) facts: Facts,
}

pub(crate) const ACTS: [Act; 2] = [
    Act {
        slice: "catalog",
        defect: "price-rounding",
        field: "price",
        report: "report.html",
        facts: super::databases::CATALOG,
    },
    Act {
        slice: "reviews",
        defect: "missing-null",
        field: "reply",
        report: "report-reviews.html",
        facts: super::databases::REVIEWS,
    },
];

/// The step at which the fault appears: the second, so that the first has already gone well.
const FAULT_AT: &str = "canary-25";
/// The hidden job runs so often that a person would not see it in a log.
const CRON_EVERY: Duration = Duration::from_millis(300);

/// Everything that one slice's migration needs.
#[derive(Debug)]
pub(crate) struct Story<'a> {
    pub(crate) act: Act,
    pub(crate) hands: Hands<'a>,
    pub(crate) fleet: &'a mut Fleet,
    pub(crate) ledger: &'a Ledger,
    pub(crate) layout: &'a Layout,
    pub(crate) sides: &'a Sides,
    pub(crate) summary: &'a mut Summary,
    /// What did not hold on both sides before the retirement.
    pub(crate) verdict: &'a mut Verdict,
}

impl Story<'_> {
    /// Plays it all.
    ///
    /// # Errors
    /// At the first thing that does not happen as it must.
    pub(crate) async fn play(mut self) -> anyhow::Result<()> {
        self.copy().await?;
        self.find_the_defect().await?;
        self.mend().await?;
        self.survive_a_fault().await?;
        self.take_over("cut over the writes while the shoppers go on")
            .await?;
        self.roll_back().await?;
        self.take_over("and again, for good").await?;
        self.name_the_bypass().await?;
        self.retire().await
    }

    fn screen(&self) -> &Screen {
        self.hands.screen
    }

    fn build(&self, number: u32) -> String {
        format!("{}-{number}", self.act.slice)
    }

    async fn copy(&mut self) -> anyhow::Result<()> {
        self.screen().chapter(&format!(
            "{}: copy the rows, and follow every change",
            self.act.slice
        ));
        self.hands.advance_to("sync", "copy the tables").await?;
        let screen = self.screen();
        let sync = self
            .hands
            .until("the copy", |evidence| {
                let sync = evidence.sync.clone()?;
                let (done, total) = (count(sync.copied_rows), count(sync.total_rows));
                screen.progress(&format!("copied {done} of {total} rows"));
                (sync.copied && sync.lag_ms.is_some()).then_some(sync)
            })
            .await?;
        let lag = sync.lag_ms.unwrap_or_default();
        screen.figure("rows copied", &count(sync.copied_rows), "");
        screen.figure("lag", &format!("{lag} ms"), "limit 1 s");
        Ok(())
    }

    async fn find_the_defect(&mut self) -> anyhow::Result<()> {
        let Act {
            slice,
            defect,
            field,
            report,
            ..
        } = self.act;
        self.screen().chapter(&format!(
            "{slice}: compare every answer, and find the planted defect"
        ));
        self.screen().say(&format!(
            "{} runs with `--defect {defect}`; the shoppers do not see it",
            self.build(1)
        ));
        self.hands.advance_to("shadow", "mirror the reads").await?;
        let hands = self.hands;
        let (refusal, found) = hands
            .be_refused(defect, |_| async move {
                let shadow = hands.evidence().await?.shadow;
                let top = shadow.map(|shadow| shadow.top).unwrap_or_default();
                Ok(top.into_iter().find(|difference| shows(difference, field)))
            })
            .await?;
        let html = self
            .hands
            .admin
            .text(&format!("/v1/shadow/{slice}/report?format=html"))
            .await?;
        std::fs::write(self.layout.dir.join(report), html)?;
        self.summary.shadow.found += 1;
        let screen = self.screen();
        for gate in refusal
            .gates
            .iter()
            .filter(|gate| !gate.ok && !gate.missing)
        {
            tell_blocked(screen, gate);
        }
        screen.figure("the field", &steps::in_words(&found), "");
        if let Some(example) = &found.example {
            self.hands
                .admin
                .get(&format!("/v1/shadow/pairs/{example}"))
                .await?;
            screen.figure("an example", &format!("outgrow shadow show {example}"), "");
        }
        screen.good(&format!(
            "the gate refuses {}; the report is in {report}",
            self.build(1)
        ));
        Ok(())
    }

    async fn mend(&mut self) -> anyhow::Result<()> {
        let slice = self.act.slice;
        self.screen().chapter(&format!(
            "{slice}: deploy the mended build; the old evidence expires"
        ));
        let before = self
            .hands
            .evidence()
            .await?
            .shadow
            .map_or(0, |shadow| shadow.compared());
        let build = self.build(2);
        self.deploy(2).await?;
        let after = self
            .hands
            .until("evidence on the new build", |evidence| {
                let shadow = evidence.shadow.as_ref()?;
                (shadow.builds.extracted.to_string() == build).then(|| shadow.compared())
            })
            .await?;
        self.screen().good(&format!(
            "{} pairs of {} count no more; {} of {build} so far",
            count(before),
            self.build(1),
            count(after)
        ));
        Ok(())
    }

    async fn survive_a_fault(&mut self) -> anyhow::Result<()> {
        let slice = self.act.slice;
        self.screen()
            .chapter(&format!("{slice}: a canary, a fault, and the guard"));
        self.hands.advance_to(FAULT_AT, "canary").await?;
        self.screen().say(&format!(
            "now {} begins to answer 500 to three reads of ten",
            self.build(2)
        ));
        self.summary.guard.injected += 1;
        self.fleet.break_service(slice, "errors").await?;
        let seconds = self.hands.until_taken_back().await?.as_secs_f64();
        self.summary.guard.aborted += 1;
        self.summary.guard.seconds = self.summary.guard.seconds.max(seconds);
        self.screen().figure(
            "taken back after",
            &format!("{seconds:.2} s"),
            "by the guard alone",
        );
        self.screen().good(&format!(
            "all reads are on the legacy side again: {}",
            self.hands.stage().await?
        ));
        self.deploy(3).await?;
        self.screen()
            .say(&format!("{} is deployed without the fault", self.build(3)));
        Ok(())
    }

    /// Up the canary to the whole traffic, and over with the writes.
    async fn take_over(&mut self, title: &str) -> anyhow::Result<()> {
        let slice = self.act.slice;
        self.screen().chapter(&format!("{slice}: {title}"));
        let taken = self.hands.advance_to("cutover", "move the writes").await?;
        let Some(cutover) = steps::cutover(&taken.detail) else {
            bail!("the cutover of {slice} has no report: {}", taken.detail);
        };
        let screen = self.screen();
        screen.figure(
            "writes paused for",
            &format!("{} ms", cutover.pause_ms),
            "limit 2,000 ms",
        );
        screen.figure(
            "writes that waited",
            &count(cutover.held),
            "none failed, or the run does",
        );
        self.summary.cutovers.push(cutover);
        Ok(())
    }

    async fn roll_back(&mut self) -> anyhow::Result<()> {
        let slice = self.act.slice;
        self.screen().chapter(&format!(
            "{slice}: take it all back while the shoppers go on"
        ));
        let answer = self.hands.roll_back("practise the way back").await?;
        let screen = self.screen();
        if let Some(ms) = answer["reads_back_ms"].as_u64() {
            screen.figure("reads back after", &format!("{ms} ms"), "");
        }
        let Some(cutover) = steps::cutover(&answer) else {
            bail!("the rollback of {slice} did not bring the writer back: {answer}");
        };
        screen.figure(
            "writes paused for",
            &format!("{} ms", cutover.pause_ms),
            "limit 2,000 ms",
        );
        screen.figure("writes that waited", &count(cutover.held), "");
        self.summary.cutovers.push(cutover);
        Ok(())
    }

    async fn name_the_bypass(&mut self) -> anyhow::Result<()> {
        let slice = self.act.slice;
        self.screen().chapter(&format!(
            "{slice}: a hidden cron job still writes to the old tables"
        ));
        self.summary.bypass.planted += 1;
        let cron = Cron::start(self.sides.legacy().clone(), self.act.facts.cron);
        let named = self
            .hands
            .be_refused("the hidden writer", |refusal| async move {
                let gate = refusal
                    .gates
                    .into_iter()
                    .find(|gate| !gate.ok && !gate.missing && names_a_writer(&gate.name));
                Ok(gate)
            })
            .await;
        let (done, refused) = cron.stop().await?;
        let (_, gate) = named?;
        self.summary.bypass.named += 1;
        let screen = self.screen();
        tell_blocked(screen, &gate);
        screen.figure(
            "its writes",
            &format!("{done} done, {refused} refused by the fence"),
            "",
        );
        if done > 0 {
            // Its rows are on the old side only; the writer's rows are the true ones.
            self.hands.sync("verify", &json!({})).await?;
            self.hands.sync("repair", &json!({"apply": true})).await?;
            screen.say("what it wrote is repaired from the side that takes the writes");
        }
        screen.good("the job is named and stopped");
        Ok(())
    }

    async fn retire(&mut self) -> anyhow::Result<()> {
        let slice = self.act.slice;
        self.screen().chapter(&format!(
            "{slice}: check everything once more, and retire it"
        ));
        let verdict = self.sides.prove_both(self.ledger).await?;
        let rows = self.sides.compare().await?;
        let screen = self.screen();
        screen.figure(
            "rows",
            &format!(
                "{} legacy, {} extracted",
                count(rows.legacy),
                count(rows.extracted)
            ),
            "",
        );
        screen.figure("different", &count(rows.different), "limit 0");
        let (missing, duplicated) = (verdict.missing.len(), verdict.duplicated.len());
        screen.figure(
            "writes",
            &format!("{missing} missing, {duplicated} doubled"),
            "limit 0, on both sides",
        );
        self.summary.rows.insert(slice.to_owned(), rows);
        self.verdict.merge(verdict);
        self.hands.advance_to("retire", "quiet and proven").await?;
        self.fleet.check()
    }

    async fn deploy(&mut self, number: u32) -> anyhow::Result<()> {
        let build = self.build(number);
        let deployed = self.fleet.deploy(self.act.slice, &build, None).await;
        deployed.with_context(|| format!("cannot deploy {build}"))
    }
}

fn tell_blocked(screen: &Screen, gate: &GateResult) {
    screen.bad(&format!(
        "blocked: {} {} (limit {})",
        gate.name, gate.value, gate.limit
    ));
    if !gate.hint.is_empty() {
        screen.say(&format!("hint: {}", gate.hint));
    }
}

/// Whether this is the difference that the planted defect makes.
fn shows(difference: &FieldDifference, field: &str) -> bool {
    difference
        .path
        .rsplit('.')
        .next()
        .is_some_and(|last| last.contains(field))
}

/// Whether a gate speaks of writes that came past the proxy.
fn names_a_writer(gate: &str) -> bool {
    gate.contains("foreign")
}

/// A job that nobody remembers, writing past the proxy until it is stopped.
#[derive(Debug)]
struct Cron {
    job: JoinHandle<(u64, u64)>,
    stop: CancellationToken,
}

impl Cron {
    fn start(database: Database, statement: &'static str) -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let job = tokio::spawn(async move {
            let (mut done, mut refused) = (0, 0);
            while !stopped.is_cancelled() {
                match database.write_past_everybody(statement).await {
                    Ok(()) => done += 1,
                    Err(_) => refused += 1,
                }
                tokio::select! {
                    () = stopped.cancelled() => {}
                    () = tokio::time::sleep(CRON_EVERY) => {}
                }
            }
            (done, refused)
        });
        Self { job, stop }
    }

    /// How many of its writes were done, and how many were refused.
    async fn stop(mut self) -> anyhow::Result<(u64, u64)> {
        self.stop.cancel();
        (&mut self.job).await.context("the cron job broke")
    }
}

impl Drop for Cron {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defects_field_is_recognised_by_its_last_part() {
        let at = |path: &str| FieldDifference {
            route: "GET /api/products".into(),
            path: path.into(),
            kind: "value".into(),
            count: 1,
            example: None,
            legacy: "1".into(),
            extracted: "2".into(),
        };
        assert!(shows(&at("$.products[*].price"), "price"));
        assert!(shows(&at("$.reviews[*].reply"), "reply"));
        assert!(!shows(&at("$.prices.id"), "price"));
    }
}
