//! `outgrow status`: where every slice stands, at one glance.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use outgrow_rollout::{BypassEvidence, ShadowEvidence, SyncEvidence, TakenBack};

use super::{Context, change};
use crate::answers::{
    ServiceBuilds, ServiceStatus, SliceStatus, Status, StepStatus, UpstreamStatus, typed,
};
use crate::client::{Client, escape};
use crate::config::scalar;
use crate::figures::{count, millis, share};
use crate::output::{Format, sheet, table};

/// Told of for a day.
const DAY_MS: u64 = 86_400_000;

const EXAMPLES: &str = "\
Examples:
  outgrow status
  outgrow status catalog
  outgrow status --watch --every 5s";

/// Show where every slice stands
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct StatusArgs {
    /// Show one slice with its evidence and the gates of its next step
    slice: Option<String>,
    /// Show it again and again, until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// Time between two looks
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = every)]
    every: Duration,
}

pub(super) fn every(text: &str) -> Result<Duration, String> {
    // Faster than ten times a second nobody reads, and the server has other things to do.
    const LEAST: Duration = Duration::from_millis(100);
    match scalar::duration(text)? {
        found if found >= LEAST => Ok(found),
        _ => Err(format!("must be {} or more", scalar::show(LEAST))),
    }
}

pub(crate) async fn run(context: &Context, args: StatusArgs) -> anyhow::Result<ExitCode> {
    let client = context.client()?;
    if !args.watch {
        look(context, &client, args.slice.as_deref(), false).await?;
        return Ok(ExitCode::SUCCESS);
    }
    loop {
        // A server that is being restarted must not end the watch.
        match look(context, &client, args.slice.as_deref(), true).await {
            Err(error) if error.downcast_ref::<crate::client::ApiError>().is_some() => {
                context.out.note(&format!("error: {error:#}"));
            }
            looked => looked?,
        }
        tokio::select! {
            () = tokio::time::sleep(args.every) => {}
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}

async fn look(
    context: &Context,
    client: &Client,
    slice: Option<&str>,
    again: bool,
) -> anyhow::Result<()> {
    /// Clears the screen and goes to its upper left corner.
    const CLEAR: &str = "\x1b[2J\x1b[H";

    let path = match slice {
        Some(slice) => format!("/v1/slices/{}", escape(slice)),
        None => "/v1/status".to_owned(),
    };
    let answer = client.get(&path).await?;
    let mut shown = String::new();
    if context.out.format == Format::Table {
        if again && context.out.watched() {
            shown.push_str(CLEAR);
        }
        shown.push_str(&match slice {
            Some(_) => one(&typed::<SliceStatus>(&answer)?),
            None => all(&typed::<Status>(&answer)?),
        });
    }
    context.out.answer(&answer, || shown)?;
    Ok(())
}

/// All slices as a table, with what needs attention below.
pub(super) fn all(status: &Status) -> String {
    let ill: Vec<String> = status.proxy.services.iter().flat_map(ill).collect();
    if status.slices.is_empty() {
        let nothing = "no slices: everything passes through to legacy\n";
        return format!("{nothing}{}{}", builds(status), ill.join(""));
    }
    let rows = status.slices.iter().map(row).collect();
    let header = [
        "SLICE", "STAGE", "READS", "WRITER", "DATA", "LAG", "COMPARED", "AGAINST", "NEXT", "REV",
    ];
    let mut out = table(&header, rows);
    out.push_str(&builds(status));
    let mut alarms: Vec<String> = status.slices.iter().flat_map(alarms).collect();
    alarms.extend(ill);
    if !alarms.is_empty() {
        out.push('\n');
        out.push_str(&alarms.join(""));
    }
    out
}

/// Which builds answer, where services have several.
fn builds(status: &Status) -> String {
    let line = |of: &ServiceBuilds| {
        let (service, state) = (&of.service, &of.state);
        let trial = state.trial.as_ref().map_or(String::new(), |trial| {
            format!(", {} of the clients try {}", trial.weight, trial.build)
        });
        let taken = state.taken_back.as_ref().map_or(String::new(), |taken| {
            let TakenBack { build, reason } = taken;
            format!("{service}: the guard took build {build} back: {reason}\n")
        });
        format!(
            "{service}: build {} is active{trial}\n{taken}",
            state.active
        )
    };
    status.proxy.builds.iter().map(line).collect()
}

/// A service that is spared, and its upstreams that do not get their share.
fn ill(service: &ServiceStatus) -> Vec<String> {
    let name = match &service.build {
        Some(build) => format!("{}/{build}", service.service),
        None => service.service.clone(),
    };
    let say = |upstream: &UpstreamStatus| {
        let why = match &upstream.last_check {
            Some(why) => format!(" ({why})"),
            None => String::new(),
        };
        format!(
            "{name}: upstream {} is {}{why}: {} of {} requests failed\n",
            upstream.to,
            upstream.state,
            count(upstream.failures),
            count(upstream.requests)
        )
    };
    let ill = service.upstreams.iter().filter(|u| u.state != "well");
    let circuit = service.circuit.iter().filter(|c| c.state != "closed");
    let spared = circuit.map(|circuit| {
        let left = millis(circuit.asked_again_in_ms);
        format!(
            "{name}: the circuit is {}: asked again in {left}\n",
            circuit.state
        )
    });
    spared.chain(ill.map(say)).collect()
}

fn row(status: &SliceStatus) -> Vec<String> {
    let evidence = &status.evidence;
    let data = match &status.state.data {
        None => "no tables".to_owned(),
        Some(link) if link.failed.is_some() => format!("{} (failed)", link.phase),
        Some(link) if link.paused.is_some() => format!("{} (paused)", link.phase),
        Some(link) => link.phase.to_string(),
    };
    vec![
        status.slice.clone(),
        status.stage.clone(),
        format!("{} extracted", status.effective.weight),
        status.state.writer.to_string(),
        data,
        evidence.sync.as_ref().map_or("-".to_owned(), lag),
        evidence
            .shadow
            .as_ref()
            .map_or("-".to_owned(), |shadow| count(shadow.compared())),
        evidence
            .shadow
            .as_ref()
            .map_or("-".to_owned(), |s| share(s.against(), s.compared())),
        status.next.as_ref().map_or("-".to_owned(), next),
        status.state.revision.to_string(),
    ]
}

fn lag(sync: &SyncEvidence) -> String {
    if !sync.copied && sync.total_rows > 0 {
        return format!("copied {}", share(sync.copied_rows, sync.total_rows));
    }
    sync.lag_ms.map_or("-".to_owned(), millis)
}

/// The next step with how far it is.
fn next(step: &StepStatus) -> String {
    let (mut blocked, mut missing) = (0, 0);
    for gate in step.open() {
        if gate.missing {
            missing += 1;
        } else {
            blocked += 1;
        }
    }
    match (blocked, missing) {
        (0, 0) => format!("{} (ready)", step.id),
        (0, n) => format!("{} (waits for {n})", step.id),
        (n, _) => format!("{} (blocked by {n})", step.id),
    }
}

/// What a person should know first.
fn alarms(status: &SliceStatus) -> Vec<String> {
    let mut found = Vec::new();
    let mut say = |text: String| found.push(format!("{}: {text}\n", status.slice));
    if status.effective.weight < status.state.traffic.weight() {
        say(format!(
            "the proxies have taken the reads back to {} by themselves",
            status.effective.weight
        ));
    }
    if !status.published {
        say("the state is in force but not stored yet".to_owned());
    }
    if let Some(reason) = &status.state.frozen {
        say(format!("frozen: {reason}"));
    }
    if let Some(reason) = &status.state.maintenance {
        say(format!("nobody is served: {reason}"));
    }
    if let Some(reason) = &status.state.unmirrored {
        say(format!("nothing is mirrored: {reason}"));
    }
    for (route, reason) in &status.state.unmirrored_routes {
        say(format!("`{route}` is not mirrored: {reason}"));
    }
    let shadow = status.evidence.shadow.iter();
    for (route, reason) in shadow.flat_map(|shadow| &shadow.stopped) {
        say(format!(
            "writes of `{route}` are mirrored no more: {reason}"
        ));
    }
    if let Some(link) = &status.state.data {
        if let Some(reason) = &link.failed {
            say(format!("its link has failed: {reason}"));
        }
        if let Some(reason) = &link.paused {
            say(format!("its link is paused: {reason}"));
        }
    }
    if let Some(trouble) = &status.trouble {
        say(format!("trouble: {trouble}"));
    }
    let held = status.evidence.sync.iter().flat_map(|sync| {
        let conflicts = "were changed on both sides and are held";
        [(sync.parked, "are parked"), (sync.conflicts, conflicts)]
    });
    for (rows, what) in held.filter(|(rows, _)| *rows > 0) {
        say(format!(
            "{rows} rows {what}; see `outgrow sync conflicts {}`",
            status.slice
        ));
    }
    if let Some(bypass) = &status.evidence.bypass
        && let Some(last) = &bypass.last
        && bypass.last_age_ms.is_some_and(|age| age < DAY_MS)
    {
        say(format!(
            "something writes its tables past the proxy: {} ({})",
            last.row,
            last.suspects()
        ));
    }
    if let Some(busy) = &status.busy {
        say(format!("busy with {busy}"));
    }
    found
}

/// One slice with its evidence.
fn one(status: &SliceStatus) -> String {
    let mut rows = vec![
        ("slice", status.slice.clone()),
        ("stage", status.stage.clone()),
        ("reads", format!("{} extracted", status.effective.weight)),
        ("writer", status.state.writer.to_string()),
        ("revision", status.state.revision.to_string()),
        ("in stage for", millis(status.evidence.in_stage_ms)),
    ];
    if let Some(link) = &status.state.data {
        rows.push(("data", link.phase.to_string()));
    }
    if let Some(cutover) = &status.cutover {
        rows.push(("cutover", cutover.to_string()));
    }
    if let Some(proxy) = &status.evidence.proxy {
        for (name, side) in [("legacy", &proxy.legacy), ("extracted", &proxy.extracted)] {
            rows.push((
                name,
                format!(
                    "{} requests, {} errors, p99 {}",
                    count(side.requests),
                    count(side.errors),
                    side.p99_us.map_or("-".to_owned(), |us| millis(us / 1_000))
                ),
            ));
        }
    }
    if let Some(sync) = &status.evidence.sync {
        rows.push(("sync", sync_line(sync)));
    }
    if let Some(bypass) = &status.evidence.bypass {
        rows.push(("past the proxy", bypass_line(bypass)));
    }
    if let Some(shadow) = &status.evidence.shadow {
        rows.push(("shadow", shadow_line(shadow)));
        let builds = &shadow.builds;
        rows.push((
            "builds",
            format!("{} against {}", builds.legacy, builds.extracted),
        ));
    }
    let mut out = sheet(&rows);
    for alarm in alarms(status) {
        out.push_str(&alarm);
    }
    if let Some(step) = &status.next {
        out.push_str(&format!("\nnext step: {} ({})\n", step.id, step.title));
        if !step.gates.is_empty() {
            out.push_str(&change::gates(&step.gates));
        }
    }
    out
}

fn bypass_line(bypass: &BypassEvidence) -> String {
    let all = format!(
        "{} of {} changes in {}",
        count(bypass.rows),
        count(bypass.judged),
        millis(bypass.watched_ms)
    );
    match (&bypass.last, bypass.last_age_ms) {
        (Some(last), Some(age)) => format!("{all}; the last {}, {} ago", last.row, millis(age)),
        _ => all,
    }
}

pub(super) fn sync_line(sync: &SyncEvidence) -> String {
    format!(
        "rows flow from {}, {} of {} copied, lag {}, {} waiting, {} parked, {} foreign writes",
        sync.source,
        count(sync.copied_rows),
        count(sync.total_rows),
        sync.lag_ms.map_or("unknown".to_owned(), millis),
        count(sync.backlog),
        count(sync.parked),
        count(sync.foreign_writes)
    )
}

pub(super) fn shadow_line(shadow: &ShadowEvidence) -> String {
    format!(
        "{} compared, {} against ({}), {} not comparable, {} shed",
        count(shadow.compared()),
        count(shadow.against()),
        share(shadow.against(), shadow.compared()),
        count(shadow.not_comparable),
        count(shadow.shed)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_that_are_not_well_are_named() {
        let upstream = |state: &str, last_check: Option<&str>| {
            serde_json::json!({
                "to": "10.0.0.1:80", "state": state, "requests": 1_200, "failures": 7,
                "last_check": last_check,
            })
        };
        let answer = serde_json::json!({
            "version": "1", "slices": [], "proxy": { "services": [{
                "service": "shop",
                "circuit": { "state": "open", "asked_again_in_ms": 4_000 },
                "upstreams": [
                    upstream("well", None),
                    upstream("ejected", None),
                    upstream("unhealthy", Some("it answers 503")),
                ],
            }]},
        });
        let shown = all(&typed::<Status>(&answer).unwrap());
        assert_eq!(
            shown,
            "no slices: everything passes through to legacy\n\
             shop: the circuit is open: asked again in 4 s\n\
             shop: upstream 10.0.0.1:80 is ejected: 7 of 1,200 requests failed\n\
             shop: upstream 10.0.0.1:80 is unhealthy (it answers 503): 7 of 1,200 requests failed\n"
        );
    }
}
