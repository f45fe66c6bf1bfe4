//! `outgrow top`: what the proxy does right now, route by route and upstream by upstream.
//!
//! Two readings of counters, one after the other; everything shown is their difference.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use outgrow_rollout::{RouteTimes, ServiceFigures, Side, SideTimes, UpstreamState};
use serde::Deserialize;

use super::Context;
use super::status::every;
use crate::answers::typed;
use crate::client::{ApiError, Client};
use crate::figures::{count, micros, share};
use crate::output::{Format, table};

const EXAMPLES: &str = "\
Examples:
  outgrow top
  outgrow top --every 5s --rows 10
  outgrow top --once
  outgrow top -o json    one reading of the counters";

/// Show requests by route and upstream as they come, until Ctrl-C
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TopArgs {
    /// Show one table and end
    #[arg(long)]
    once: bool,
    /// Time between two readings
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = every)]
    every: Duration,
    /// Routes that are shown at the most, the busiest first
    #[arg(long, value_name = "COUNT", default_value = "30")]
    rows: usize,
}

/// One reading.
#[derive(Debug, Clone, Default, Deserialize)]
struct Reading {
    routes: Vec<RouteTimes>,
    services: Vec<ServiceFigures>,
}

pub(crate) async fn run(context: &Context, args: TopArgs) -> anyhow::Result<ExitCode> {
    let client = context.client()?;
    if context.out.format == Format::Json {
        let answer = client.get("/v1/figures").await?;
        context.out.answer(&answer, String::new)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut before: Option<(Instant, Reading)> = None;
    loop {
        let at = Instant::now();
        match read(&client).await {
            Ok(now) => {
                if let Some((began, before)) = &before {
                    show(context, &args, before, &now, at.duration_since(*began))?;
                    if args.once {
                        return Ok(ExitCode::SUCCESS);
                    }
                }
                before = Some((at, now));
            }
            // A server that is being restarted must not end the watch; its counters begin anew.
            Err(error) if !args.once && error.downcast_ref::<ApiError>().is_some() => {
                context.out.note(&format!("error: {error:#}"));
                before = None;
            }
            Err(error) => return Err(error),
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

async fn read(client: &Client) -> anyhow::Result<Reading> {
    Ok(typed(&client.get("/v1/figures").await?)?)
}

fn show(
    context: &Context,
    args: &TopArgs,
    before: &Reading,
    now: &Reading,
    took: Duration,
) -> anyhow::Result<()> {
    /// Clears the screen and goes to its upper left corner.
    const CLEAR: &str = "\x1b[2J\x1b[H";

    let mut text = String::new();
    if !args.once && context.out.watched() {
        text.push_str(CLEAR);
    }
    text.push_str(&routes(before, now, took, args.rows));
    text.push('\n');
    text.push_str(&upstreams(before, now, took));
    context.out.text(&text)?;
    Ok(())
}

/// What has come between two readings; a counter that went back began anew.
fn since(before: u64, now: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

fn times_since(before: Option<&SideTimes>, now: &SideTimes) -> SideTimes {
    let Some(before) = before else {
        return now.clone();
    };
    let old = |bound: u64| {
        let mut all = before.within_us.iter();
        all.find(|(b, _)| *b == bound).map_or(0, |(_, n)| *n)
    };
    SideTimes {
        errors: since(before.errors, now.errors),
        sum_us: since(before.sum_us, now.sum_us),
        within_us: now
            .within_us
            .iter()
            .map(|(bound, n)| (*bound, since(old(*bound), *n)))
            .collect(),
        above: since(before.above, now.above),
    }
}

/// Below which so large a share of the times lies, in microseconds, as Prometheus has it: even
/// within a bucket. `None` of nothing.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn quantile(times: &SideTimes, share: f64) -> Option<f64> {
    let total = times.requests();
    let rank = total as f64 * share;
    let (mut seen, mut from) = (0.0, 0.0);
    for (bound, n) in &times.within_us {
        let (bound, n) = (*bound as f64, *n as f64);
        if n > 0.0 && seen + n >= rank {
            return Some(from + (bound - from) * ((rank - seen) / n));
        }
        seen += n;
        from = bound;
    }
    (total > 0).then_some(from)
}

fn shown_us(us: Option<f64>) -> String {
    us.map_or_else(|| "-".to_owned(), micros)
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn rate(n: u64, took: Duration) -> String {
    let rate = n as f64 / took.as_secs_f64().max(0.001);
    match rate {
        r if r > 0.0 && r < 10.0 => format!("{r:.1}"),
        r => format!("{r:.0}"),
    }
}

/// One line of the table of routes: what both sides did.
#[derive(Debug, Default)]
struct Row {
    slice: String,
    route: String,
    legacy: SideTimes,
    extracted: SideTimes,
}

impl Row {
    fn requests(&self) -> u64 {
        self.legacy.requests() + self.extracted.requests()
    }
}

fn rows(before: &Reading, now: &Reading) -> Vec<Row> {
    let mut rows: BTreeMap<(String, String), Row> = BTreeMap::new();
    for of in &now.routes {
        let same = |old: &&RouteTimes| {
            (&old.slice, &old.route, old.side) == (&of.slice, &of.route, of.side)
        };
        let old = before.routes.iter().find(same).map(|old| &old.times);
        let times = times_since(old, &of.times);
        let slice = of
            .slice
            .as_ref()
            .map_or("-".to_owned(), ToString::to_string);
        let row = rows.entry((slice.clone(), of.route.clone())).or_default();
        row.slice = slice;
        row.route.clone_from(&of.route);
        match of.side {
            Side::Legacy => row.legacy = times,
            Side::Extracted => row.extracted = times,
        }
    }
    let mut rows: Vec<Row> = rows.into_values().collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.requests()));
    rows
}

fn routes(before: &Reading, now: &Reading, took: Duration, most: usize) -> String {
    let cells = |row: &Row| {
        let errors = row.legacy.errors + row.extracted.errors;
        let both = |times: &SideTimes| {
            let (half, tail) = (quantile(times, 0.5), quantile(times, 0.99));
            match half {
                None => "-".to_owned(),
                Some(_) => format!("{} / {}", shown_us(half), shown_us(tail)),
            }
        };
        vec![
            row.slice.clone(),
            row.route.clone(),
            rate(row.requests(), took),
            share(errors, row.requests()),
            share(row.extracted.requests(), row.requests()),
            both(&row.legacy),
            both(&row.extracted),
        ]
    };
    let rows = rows(before, now);
    let header = [
        "SLICE",
        "ROUTE",
        "REQ/S",
        "ERRORS",
        "EXTRACTED",
        "LEGACY P50 / P99",
        "EXTRACTED P50 / P99",
    ];
    let mut text = table(&header, rows.iter().take(most).map(cells).collect());
    if rows.is_empty() {
        text.push_str("no request has come yet\n");
    }
    if rows.len() > most {
        text.push_str(&format!("and {} routes more\n", rows.len() - most));
    }
    text
}

fn upstreams(before: &Reading, now: &Reading, took: Duration) -> String {
    let mut rows = Vec::new();
    for service in &now.services {
        let old = before
            .services
            .iter()
            .find(|s| (&s.service, &s.build) == (&service.service, &service.build));
        let name = match &service.build {
            Some(build) => format!("{}/{build}", service.service),
            None => service.service.clone(),
        };
        for upstream in &service.upstreams {
            let old = old.and_then(|old| {
                let mut all = old.upstreams.iter();
                all.find(|u| u.upstream == upstream.upstream)
            });
            let old = old.cloned().unwrap_or_default();
            let requests = since(old.requests, upstream.requests);
            let state = match upstream.state {
                UpstreamState::Well => "well",
                UpstreamState::Unhealthy => "unhealthy",
                UpstreamState::Ejected => "ejected",
            };
            rows.push(vec![
                name.clone(),
                upstream.upstream.clone(),
                state.to_owned(),
                rate(requests, took),
                share(since(old.failures, upstream.failures), requests),
                count(upstream.in_flight),
                count(upstream.waiting),
                count(upstream.idle),
                rate(since(old.connected, upstream.connected), took),
            ]);
        }
    }
    let header = [
        "SERVICE",
        "UPSTREAM",
        "STATE",
        "REQ/S",
        "FAILED",
        "IN FLIGHT",
        "WAITING",
        "IDLE",
        "CONN/S",
    ];
    table(&header, rows)
}

#[cfg(test)]
mod tests {
    use outgrow_rollout::{SliceId, UpstreamFigures};

    use super::*;

    fn times(errors: u64, within: &[(u64, u64)]) -> SideTimes {
        SideTimes {
            errors,
            within_us: within.to_vec(),
            ..SideTimes::default()
        }
    }

    fn reading(legacy: SideTimes, extracted: SideTimes, requests: u64) -> Reading {
        let of = |side, times| RouteTimes {
            slice: Some(SliceId::new("catalog").unwrap()),
            route: "GET /api/products".to_owned(),
            side,
            times,
            classes: Vec::new(),
        };
        let upstream = UpstreamFigures {
            upstream: "10.0.0.1:80".to_owned(),
            requests,
            failures: requests / 10,
            in_flight: 3,
            connected: 4,
            ..UpstreamFigures::default()
        };
        Reading {
            routes: vec![of(Side::Legacy, legacy), of(Side::Extracted, extracted)],
            services: vec![ServiceFigures {
                service: "catalog".to_owned(),
                upstreams: vec![upstream],
                ..ServiceFigures::default()
            }],
        }
    }

    #[test]
    fn what_is_shown_is_the_difference_of_two_readings() {
        let before = reading(
            times(5, &[(1_024, 100), (2_048, 0)]),
            times(0, &[(1_024, 7), (2_048, 0)]),
            100,
        );
        let now = reading(
            times(7, &[(1_024, 290), (2_048, 0)]),
            times(0, &[(1_024, 7), (2_048, 10)]),
            300,
        );
        let took = Duration::from_secs(2);
        let lines = |text: &str| -> Vec<Vec<String>> {
            let words = |line: &str| {
                line.split("  ")
                    .map(str::trim)
                    .filter(|w| !w.is_empty())
                    .map(str::to_owned)
                    .collect()
            };
            text.lines().map(words).collect()
        };
        let shown = lines(&routes(&before, &now, took, 10));
        let expected = [
            "catalog",
            "GET /api/products",
            "100",
            "1%",
            "5%",
            "0.5 ms / 1.0 ms",
            "1.5 ms / 2.0 ms",
        ];
        assert_eq!(shown[1], expected);
        let shown = lines(&upstreams(&before, &now, took));
        let expected = [
            "catalog",
            "10.0.0.1:80",
            "well",
            "100",
            "10%",
            "3",
            "0",
            "0",
            "0",
        ];
        assert_eq!(shown[1], expected);
    }

    #[test]
    fn counters_that_began_anew_count_from_nothing() {
        let before = reading(times(9, &[(1_024, 900)]), times(0, &[]), 900);
        let now = reading(times(1, &[(1_024, 20)]), times(0, &[]), 20);
        let rows = rows(&before, &now);
        assert_eq!((rows[0].requests(), rows[0].legacy.errors), (20, 1));
    }

    #[test]
    fn nothing_is_shown_as_nothing() {
        let (none, took) = (Reading::default(), Duration::from_secs(1));
        assert!(routes(&none, &none, took, 10).contains("no request"));
        assert_eq!(quantile(&times(0, &[]), 0.5), None);
        assert_eq!(shown_us(None), "-");
        assert_eq!(shown_us(Some(2_500_000.0)), "2.5 s");
        assert_eq!(rate(3, Duration::from_secs(2)), "1.5");
    }
}
