//! Metrics of services, their upstreams, and of writes that are held.

use outgrow_rollout::{
    AskedFigures, CacheFigures, HoldFigures, ServiceFigures, TokenFigures, UpstreamFigures,
    UpstreamState,
};

use prometheus_client::metrics::MetricType;

use super::{Family, Figure, Labels, Sample, count, counter, gauge, now};

const UPSTREAM_STATES: [(&str, UpstreamState); 3] = [
    ("well", UpstreamState::Well),
    ("unhealthy", UpstreamState::Unhealthy),
    ("ejected", UpstreamState::Ejected),
];
const CIRCUIT_STATES: [&str; 3] = ["closed", "open", "half-open"];

fn of(service: &ServiceFigures) -> Labels {
    let mut labels = vec![("service", service.service.clone())];
    let build = service.build.iter();
    labels.extend(build.map(|build| ("build", build.to_string())));
    labels
}

fn at(service: &ServiceFigures, upstream: &UpstreamFigures) -> Labels {
    let mut labels = of(service);
    labels.push(("upstream", upstream.upstream.clone()));
    labels
}

fn with(mut labels: Labels, name: &'static str, value: &str) -> Labels {
    labels.push((name, value.to_owned()));
    labels
}

/// One sample of each upstream.
fn each(
    services: &[ServiceFigures],
    sample: impl Fn(Labels, &UpstreamFigures) -> Sample,
) -> Vec<Sample> {
    let of_service = |service: &ServiceFigures| {
        let all = service.upstreams.iter();
        all.map(|upstream| sample(at(service, upstream), upstream))
            .collect::<Vec<_>>()
    };
    services.iter().flat_map(of_service).collect()
}

pub(super) fn of_upstreams(services: &[ServiceFigures]) -> Vec<Family> {
    let states = services.iter().flat_map(|service| {
        service.upstreams.iter().flat_map(move |upstream| {
            UPSTREAM_STATES.map(|(name, state)| {
                let labels = with(at(service, upstream), "state", name);
                now(labels, upstream.state == state)
            })
        })
    });
    vec![
        gauge(
            "outgrow_upstream_state",
            "1 for how the upstream is.",
            states.collect(),
        ),
        counter(
            "outgrow_upstream_requests",
            "Requests that the upstream was asked, tries included.",
            each(services, |labels, of| count(labels, of.requests)),
        ),
        counter(
            "outgrow_upstream_failures",
            "Of these, without an answer or with a 5xx.",
            each(services, |labels, of| count(labels, of.failures)),
        ),
        gauge(
            "outgrow_upstream_in_flight",
            "Requests up to the end of their answer.",
            each(services, |labels, of| now(labels, of.in_flight)),
        ),
        gauge(
            "outgrow_upstream_waiting",
            "Requests that wait for a turn.",
            each(services, |labels, of| now(labels, of.waiting)),
        ),
        counter(
            "outgrow_upstream_ejections",
            "Times that the upstream was left alone.",
            each(services, |labels, of| count(labels, of.ejections)),
        ),
        counter(
            "outgrow_pool_connections",
            "Connections that were made.",
            each(services, |labels, of| count(labels, of.connected)),
        ),
        counter(
            "outgrow_pool_reused",
            "Requests on a connection that another one had used.",
            each(services, |labels, of| count(labels, of.reused)),
        ),
        gauge(
            "outgrow_pool_idle",
            "Connections at rest.",
            each(services, |labels, of| now(labels, of.idle)),
        ),
    ]
}

pub(super) fn of_services(services: &[ServiceFigures]) -> Vec<Family> {
    let circuits = || {
        let with_one = services.iter();
        with_one.filter_map(|service| Some((service, service.circuit.as_ref()?)))
    };
    let states = circuits().flat_map(|(service, circuit)| {
        CIRCUIT_STATES.map(|state| now(with(of(service), "state", state), circuit.state == state))
    });
    let opened = circuits().map(|(service, circuit)| count(of(service), circuit.opened));
    let retries = services.iter().flat_map(|service| {
        let outcomes = [
            ("tried", service.retries),
            ("refused", service.retries_refused),
        ];
        outcomes.map(|(outcome, n)| count(with(of(service), "outcome", outcome), n))
    });
    let sources = || {
        services.iter().flat_map(|service| {
            let all = service.sources.iter();
            all.map(move |source| (with(of(service), "source", &source.source), source))
        })
    };
    let failing = sources().map(|(labels, source)| now(labels, source.failing));
    let failures = sources().map(|(labels, source)| count(labels, source.failures));
    let ages = sources().filter_map(|(labels, source)| Some(now(labels, source.age_s?)));
    vec![
        gauge(
            "outgrow_breaker_state",
            "1 for what the service's breaker is.",
            states.collect(),
        ),
        counter(
            "outgrow_breaker_opened",
            "Times that the breaker opened.",
            opened.collect(),
        ),
        counter(
            "outgrow_retries",
            "Requests that were sent again, or not because the budget was spent.",
            retries.collect(),
        ),
        gauge(
            "outgrow_discovery_failing",
            "Whether the source did not say who the upstreams are when it was last asked.",
            failing.collect(),
        ),
        counter(
            "outgrow_discovery_failures",
            "Times that the source did not say who the upstreams are.",
            failures.collect(),
        ),
        gauge(
            "outgrow_discovery_age_seconds",
            "Time since the source last said who the upstreams are.",
            ages.collect(),
        ),
    ]
}

pub(super) fn of_cache(figures: Option<CacheFigures>) -> Vec<Family> {
    let Some(figures) = figures else {
        return Vec::new();
    };
    let slices = figures.slices.iter().flat_map(|of| {
        let labels = |outcome: &str| {
            let slice = vec![("slice", of.slice.to_string())];
            with(slice, "outcome", outcome)
        };
        let outcomes = of.outcomes.iter();
        outcomes.map(move |(outcome, requests)| count(labels(outcome), *requests))
    });
    vec![
        counter(
            "outgrow_cache_requests",
            "Reads of routes whose answers are kept, by what the store had to do with them.",
            slices.collect(),
        ),
        gauge(
            "outgrow_cache_waiting",
            "Requests that wait for the answer of another one.",
            vec![now(vec![], figures.waiting)],
        ),
        gauge(
            "outgrow_cache_entries",
            "URLs that something is kept of.",
            vec![now(vec![], figures.entries)],
        ),
        gauge(
            "outgrow_cache_bytes",
            "What is kept.",
            vec![now(vec![], figures.bytes)],
        ),
        gauge(
            "outgrow_cache_size_bytes",
            "What may be kept.",
            vec![now(vec![], figures.size)],
        ),
    ]
}

/// Of those who are asked who may ask.
pub(super) fn of_asked(asked: &[AskedFigures]) -> Vec<Family> {
    let of = |one: &AskedFigures| vec![("kind", one.kind.to_owned()), ("name", one.name.clone())];
    let questions = asked.iter().flat_map(|one| {
        let outcomes = one.outcomes.iter();
        outcomes.map(move |(outcome, n)| count(with(of(one), "outcome", outcome), *n))
    });
    let times = asked.iter().map(|one| Sample {
        labels: of(one),
        value: super::Value::Times(one.times.clone()),
    });
    let named = |one: &AskedFigures| vec![("name", one.name.clone())];
    let tokens = || {
        let all = asked.iter();
        all.filter_map(move |one| Some((named(one), one.tokens.as_ref()?)))
    };
    let sources = tokens().flat_map(|(labels, tokens)| {
        let sources = tokens.sources.iter();
        sources.map(move |(source, n)| count(with(labels.clone(), "source", source), *n))
    });
    let each = |figure: fn(&TokenFigures) -> u64| -> Vec<Sample> {
        let all = tokens();
        all.map(|(labels, tokens)| now(labels, figure(tokens)))
            .collect()
    };
    vec![
        counter(
            "outgrow_auth_questions",
            "Questions who may ask, or about tokens, by what came of them.",
            questions.collect(),
        ),
        Family {
            name: "outgrow_auth_question_duration_seconds",
            help: "Time to a whole answer, or to where there is none.",
            kind: MetricType::Histogram,
            samples: times.collect(),
        },
        counter(
            "outgrow_auth_tokens",
            "Tokens of requests, by where what is said of them came from.",
            sources.collect(),
        ),
        gauge(
            "outgrow_auth_kept_answers",
            "Tokens of which it is known what is said.",
            each(|tokens| tokens.entries),
        ),
        gauge(
            "outgrow_auth_kept_bytes",
            "What is kept of what is said of tokens.",
            each(|tokens| tokens.bytes),
        ),
        gauge(
            "outgrow_auth_kept_size_bytes",
            "What may be kept.",
            each(|tokens| tokens.size),
        ),
    ]
}

pub(super) fn of_holds(holds: &[HoldFigures]) -> Vec<Family> {
    let of = |hold: &HoldFigures| vec![("slice", hold.slice.to_string())];
    let held = holds.iter().map(|hold| now(of(hold), hold.held));
    let waiting = holds.iter().map(|hold| now(of(hold), hold.waiting));
    let waited = holds.iter().map(|hold| count(of(hold), hold.waited));
    let refused = holds.iter().map(|hold| count(of(hold), hold.refused));
    let seconds = holds.iter().map(|hold| Sample {
        labels: of(hold),
        value: super::Value::Sum(hold.waited_us.figure() / 1e6),
    });
    vec![
        gauge(
            "outgrow_hold_active",
            "Whether new writes of the slice wait.",
            held.collect(),
        ),
        gauge(
            "outgrow_hold_waiting_writes",
            "Writes that wait.",
            waiting.collect(),
        ),
        counter(
            "outgrow_hold_waited_writes",
            "Writes that have waited.",
            waited.collect(),
        ),
        counter(
            "outgrow_hold_refused_writes",
            "Writes that waited in vain, or could not wait.",
            refused.collect(),
        ),
        counter(
            "outgrow_hold_waited_seconds",
            "How long writes have waited, all together.",
            seconds.collect(),
        ),
    ]
}
