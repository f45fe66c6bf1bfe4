//! `/metrics`: what Prometheus scrapes, in its OpenMetrics text. Names and meanings are listed in
//! `docs/metrics.md`.
//!
//! Nothing is counted here: each scrape reads what the ports and the states say at that moment.
//! No label grows with traffic: slices, tables and sides are those of the config.

mod families;
mod services;

use std::fmt;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use outgrow_rollout::{ShadowEvidence, Side, SideTimes};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use super::answer::Failure;
use crate::controller::{Controller, SliceStatus};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const SIDES: [Side; 2] = [Side::Legacy, Side::Extracted];

type Labels = Vec<(&'static str, String)>;

/// A value, and what it is of.
#[derive(Debug, Clone)]
struct Sample {
    labels: Labels,
    value: Value,
}

#[derive(Debug, Clone)]
enum Value {
    Count(u64),
    /// A sum of what is no whole number.
    Sum(f64),
    Now(f64),
    Times(SideTimes),
}

/// All samples of one name.
#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    samples: Vec<Sample>,
}

/// Everything at one moment.
#[derive(Debug)]
struct Scrape {
    families: Vec<Family>,
}

/// What is told of one slice.
struct Told {
    status: SliceStatus,
    /// By side.
    times: [Option<SideTimes>; 2],
    shadow: Option<ShadowEvidence>,
}

pub(super) async fn metrics(State(controller): State<Controller>) -> Result<Response, Failure> {
    let status = controller.status();
    let ports = controller.ports();
    let told: Vec<Told> = status
        .slices
        .into_iter()
        .map(|status| Told {
            times: SIDES.map(|side| ports.data_plane.times(&status.slice, side)),
            shadow: ports.shadow.evidence(&status.slice),
            status,
        })
        .collect();
    let mut all = vec![
        one(
            "outgrow_info",
            "The version that runs.",
            version(&status.version),
        ),
        one(
            "outgrow_leads",
            "Whether this process may change states.",
            now(vec![], status.leads),
        ),
    ];
    all.extend(families::of_slices(&told));
    all.extend(families::of_requests(&told));
    all.extend(families::of_routes(&ports.data_plane.routes()));
    all.extend(families::of_builds(
        &controller.builds(),
        &ports.data_plane.build_times(),
    ));
    all.push(families::of_refusals(&ports.data_plane.refusals()));
    all.extend(families::of_clients(ports.data_plane.clients()));
    let figures = ports.data_plane.services();
    all.extend(services::of_upstreams(&figures));
    all.extend(services::of_services(&figures));
    all.extend(services::of_holds(&ports.data_plane.holds()));
    all.extend(families::of_access_log(ports.data_plane.lines_lost()));
    all.extend(families::of_spans(ports.data_plane.spans()));
    all.extend(services::of_cache(ports.data_plane.cache()));
    all.extend(services::of_asked(&ports.data_plane.asked()));
    all.extend(families::of_links(&told));
    all.extend(families::of_shadow(&told));
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape { families: all }));
    let mut body = String::new();
    text::encode(&mut body, &registry).map_err(|_| Failure::not_written())?;
    Ok(([(CONTENT_TYPE, OPEN_METRICS)], body).into_response())
}

fn version(version: &str) -> Sample {
    now(vec![("version", version.to_owned())], true)
}

fn one(name: &'static str, help: &'static str, sample: Sample) -> Family {
    gauge(name, help, vec![sample])
}

fn gauge(name: &'static str, help: &'static str, samples: Vec<Sample>) -> Family {
    Family {
        name,
        help,
        kind: MetricType::Gauge,
        samples,
    }
}

/// Its name is told with `_total` at the end.
fn counter(name: &'static str, help: &'static str, samples: Vec<Sample>) -> Family {
    Family {
        name,
        help,
        kind: MetricType::Counter,
        samples,
    }
}

trait Figure {
    fn figure(self) -> f64;
}

impl Figure for bool {
    fn figure(self) -> f64 {
        f64::from(u8::from(self))
    }
}

impl Figure for f64 {
    fn figure(self) -> f64 {
        self
    }
}

impl Figure for u64 {
    #[allow(clippy::cast_precision_loss)] // What Prometheus keeps is a float.
    fn figure(self) -> f64 {
        self as f64
    }
}

fn now(labels: Labels, value: impl Figure) -> Sample {
    Sample {
        labels,
        value: Value::Now(value.figure()),
    }
}

fn count(labels: Labels, value: u64) -> Sample {
    Sample {
        labels,
        value: Value::Count(value),
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for family in self.families.iter().filter(|f| !f.samples.is_empty()) {
            let mut metric =
                encoder.encode_descriptor(family.name, family.help, None, family.kind)?;
            for sample in &family.samples {
                if sample.labels.is_empty() {
                    encode(sample, &mut metric)?;
                } else {
                    encode(sample, &mut metric.encode_family(&sample.labels)?)?;
                }
            }
        }
        Ok(())
    }
}

fn encode(sample: &Sample, metric: &mut MetricEncoder<'_>) -> Result<(), fmt::Error> {
    match &sample.value {
        Value::Count(value) => metric.encode_counter(value, None::<&Exemplar<Labels, f64>>),
        Value::Sum(value) => metric.encode_counter(value, None::<&Exemplar<Labels, f64>>),
        Value::Now(value) => metric.encode_gauge(value),
        Value::Times(times) => {
            let mut buckets: Vec<(f64, u64)> = times
                .within_us
                .iter()
                .map(|(bound, count)| (bound.figure() / 1e6, *count))
                .collect();
            buckets.push((f64::INFINITY, times.above));
            metric.encode_histogram::<Labels>(
                times.sum_us.figure() / 1e6,
                times.requests(),
                &buckets,
                None,
            )
        }
    }
}
