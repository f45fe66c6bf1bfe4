//! What the service counts, as plain text that Prometheus reads.
//!
//! Owns the counters and their names. Refuses labels without bound: routes are templates, statuses
//! are classes; never a path, a user or a key.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;

use crate::answer::Refused;
use crate::defects::Defect;
use crate::service::Service;

/// Requests of one route, method and class of status.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Series {
    method: &'static str,
    route: String,
    /// 2 for 2xx and so on.
    class: u16,
}

#[derive(Debug, Default, Clone, Copy)]
struct Total {
    requests: u64,
    time: Duration,
}

/// The counters of one service, from 0 at its start.
#[derive(Debug, Default)]
pub struct Metrics {
    totals: Mutex<BTreeMap<Series, Total>>,
    fenced: AtomicU64,
    busy: AtomicU64,
    replayed: AtomicU64,
}

impl Metrics {
    /// Counts a write answered from its kept answer.
    pub fn count_replay(&self) {
        self.replayed.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self, series: Series, took: Duration, refused: Option<Refused>) {
        match refused {
            Some(Refused::Fenced) => self.fenced.fetch_add(1, Ordering::Relaxed),
            Some(Refused::Busy) => self.busy.fetch_add(1, Ordering::Relaxed),
            None => 0,
        };
        // A poisoned lock guards nothing but numbers, which are as good as before.
        let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        let total = totals.entry(series).or_default();
        total.requests += 1;
        total.time += took;
    }

    /// All counters as text.
    #[must_use]
    pub fn render(&self, service: &str, build: &str, defect: Option<Defect>) -> String {
        let totals = self
            .totals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut text = String::with_capacity(2048);
        let mut line = |line: std::fmt::Arguments<'_>| {
            // Writing to a String cannot fail.
            let _ = text.write_fmt(line);
            text.push('\n');
        };
        line(format_args!("# TYPE extracted_build_info gauge"));
        line(format_args!(
            "extracted_build_info{{service=\"{service}\",build=\"{build}\"}} 1"
        ));
        line(format_args!("# TYPE extracted_defect_active gauge"));
        for each in Defect::ALL {
            let active = u8::from(defect == Some(each));
            line(format_args!(
                "extracted_defect_active{{defect=\"{}\"}} {active}",
                each.name()
            ));
        }
        line(format_args!("# TYPE extracted_requests_total counter"));
        for (
            Series {
                method,
                route,
                class,
            },
            total,
        ) in &totals
        {
            line(format_args!(
                "extracted_requests_total{{method=\"{method}\",route=\"{route}\",class=\"{class}xx\"}} {}",
                total.requests
            ));
        }
        line(format_args!(
            "# TYPE extracted_request_seconds_total counter"
        ));
        for (
            Series {
                method,
                route,
                class,
            },
            total,
        ) in &totals
        {
            line(format_args!(
                "extracted_request_seconds_total{{method=\"{method}\",route=\"{route}\",class=\"{class}xx\"}} {:.6}",
                total.time.as_secs_f64()
            ));
        }
        line(format_args!("# TYPE extracted_refused_total counter"));
        for (reason, count) in [("fenced", &self.fenced), ("busy", &self.busy)] {
            let count = count.load(Ordering::Relaxed);
            line(format_args!(
                "extracted_refused_total{{reason=\"{reason}\"}} {count}"
            ));
        }
        line(format_args!(
            "# TYPE extracted_idempotent_replays_total counter"
        ));
        let replayed = self.replayed.load(Ordering::Relaxed);
        line(format_args!(
            "extracted_idempotent_replays_total {replayed}"
        ));
        text
    }
}

/// The layer that counts every request.
pub async fn count_requests(State(service): State<Service>, call: Request, next: Next) -> Response {
    let method = method_label(call.method());
    let route = call
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "other".to_owned(), |path| path.as_str().to_owned());
    let started = tokio::time::Instant::now();
    let response = next.run(call).await;
    let series = Series {
        method,
        route,
        class: response.status().as_u16() / 100,
    };
    let refused = response.extensions().get::<Refused>().copied();
    service.metrics().count(series, started.elapsed(), refused);
    response
}

/// A client may invent methods; the label may not grow with them.
fn method_label(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "PATCH" => "PATCH",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}
