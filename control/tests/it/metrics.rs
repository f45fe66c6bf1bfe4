//! `/metrics`, and the files that speak of it: the page, the alerts, the dashboard.

use std::collections::BTreeSet;
use std::time::Duration;

use http::Method;
use outgrow_testkit::eventually;

use crate::api::{Served, TOKEN};
use crate::builds::with;

/// What a scrape of slices with everything tells.
async fn scraped() -> String {
    let served = Served::of(with(&[("blue", 2), ("green", 2)])).await;
    served
        .home
        .walk(&served.controller, "catalog", "shadow")
        .await;
    served.home.world.serve(40);
    let text = eventually("a verified link", Duration::from_secs(10), || async {
        let answer = served.send(Method::GET, "/metrics", TOKEN, "").await;
        assert_eq!(answer.status, 200);
        let kind = answer.header("content-type").unwrap().to_owned();
        assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
        let text = answer.text();
        text.contains("verified_age").then_some(text)
    })
    .await;
    served.stop().await;
    text
}

/// Names with the ends that the kinds of metric give them.
fn told(text: &str) -> BTreeSet<String> {
    let names = text.lines().filter(|line| line.starts_with("outgrow_"));
    names
        .filter_map(|line| line.split(['{', ' ']).next())
        .map(str::to_owned)
        .collect()
}

/// Names of ours in any text.
fn named(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("outgrow_"))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn a_scrape_tells_of_slices_requests_links_and_shadow() {
    let text = scraped().await;
    assert!(text.ends_with("# EOF\n"), "{text}");
    for line in [
        "outgrow_leads 1.0",
        "outgrow_slice_writer{slice=\"catalog\",side=\"legacy\"} 1.0",
        "outgrow_slice_writer{slice=\"catalog\",side=\"extracted\"} 0.0",
        "outgrow_request_duration_seconds_count{slice=\"catalog\",side=\"legacy\"} 50",
        "outgrow_request_duration_seconds_bucket{le=\"0.000512\",slice=\"catalog\",side=\"legacy\"} 0",
        "outgrow_request_duration_seconds_bucket{le=\"+Inf\",slice=\"catalog\",side=\"legacy\"} 50",
        "outgrow_request_duration_seconds_sum{slice=\"catalog\",side=\"legacy\"} 0.05",
        "outgrow_route_errors_total{slice=\"catalog\",route=\"GET /api/products/{id}\",side=\"legacy\"} 2",
        "outgrow_route_errors_total{route=\"other\",side=\"legacy\"} 3",
        "outgrow_route_requests_total{slice=\"catalog\",route=\"GET /api/products/{id}\",side=\"legacy\",class=\"5xx\"} 2",
        "outgrow_route_requests_total{route=\"other\",side=\"legacy\",class=\"2xx\"} 3",
        "outgrow_route_duration_seconds_count{route=\"other\",side=\"legacy\"} 6",
        "outgrow_build_weight_ratio{service=\"catalog\",build=\"blue\"} 1.0",
        "outgrow_build_taken_back{service=\"catalog\",build=\"green\"} 0.0",
        "outgrow_build_requests_total{slice=\"catalog\",service=\"catalog\",build=\"green\",class=\"2xx\"} 40",
        "outgrow_build_errors_total{slice=\"catalog\",service=\"catalog\",build=\"green\"} 3",
        "outgrow_build_duration_seconds_count{slice=\"catalog\",service=\"catalog\",build=\"green\"} 40",
        "outgrow_upstream_state{service=\"catalog\",upstream=\"10.0.0.1:80\",state=\"ejected\"} 1.0",
        "outgrow_upstream_requests_total{service=\"catalog\",upstream=\"10.0.0.1:80\"} 50",
        "outgrow_upstream_in_flight{service=\"catalog\",upstream=\"10.0.0.1:80\"} 3.0",
        "outgrow_pool_connections_total{service=\"catalog\",upstream=\"10.0.0.1:80\"} 4",
        "outgrow_pool_reused_total{service=\"catalog\",upstream=\"10.0.0.1:80\"} 46",
        "outgrow_breaker_state{service=\"catalog\",state=\"open\"} 1.0",
        "outgrow_breaker_opened_total{service=\"catalog\"} 2",
        "outgrow_retries_total{service=\"catalog\",outcome=\"refused\"} 9",
        "outgrow_discovery_failing{service=\"catalog\",source=\"consul:catalog\"} 1.0",
        "outgrow_hold_waited_seconds_total{slice=\"catalog\"} 0.25",
        "outgrow_refusals_total{code=\"malformed\"} 4",
        "outgrow_refusals_total{code=\"held\"} 0",
        "outgrow_auth_questions_total{kind=\"service\",name=\"gate\",outcome=\"failed\"} 1",
        "outgrow_auth_question_duration_seconds_count{kind=\"introspection\",name=\"sessions\"} 8",
        "outgrow_auth_tokens_total{name=\"sessions\",source=\"kept\"} 90",
        "outgrow_auth_kept_answers{name=\"sessions\"} 5.0",
        "outgrow_auth_kept_bytes{name=\"sessions\"} 6000.0",
        "outgrow_client_connections 12.0",
        "outgrow_client_connections_max 15000.0",
        "outgrow_client_door_shut_total 3",
        "outgrow_access_log_dropped_total{cause=\"queue\"} 7",
        "outgrow_spans_exported_total 90",
        "outgrow_spans_dropped_total{cause=\"failed\"} 4",
        "outgrow_link_state{slice=\"catalog\",state=\"following\"} 1.0",
        "outgrow_link_lag_seconds{slice=\"catalog\",way=\"forward\"} 0.005",
        "outgrow_link_log_kept_bytes{slice=\"catalog\",side=\"legacy\"} 5.0",
        "outgrow_link_log_limit_bytes{slice=\"catalog\",side=\"legacy\"} 10.0",
        "outgrow_link_noted_bytes{slice=\"catalog\",side=\"legacy\"} 3.0",
        "outgrow_link_noted_bytes{slice=\"catalog\",side=\"extracted\"} 0.0",
        "outgrow_link_noted_limit_bytes{slice=\"catalog\",side=\"extracted\"} 6.0",
        "outgrow_link_applied_rows_total{slice=\"catalog\"} 7",
        "outgrow_shadow_requests_total{slice=\"catalog\",outcome=\"matched\"} 10000",
    ] {
        assert!(text.lines().any(|l| l == line), "no `{line}` in\n{text}");
    }
    // A slice without tables has no link.
    assert!(
        !text.contains("outgrow_link_state{slice=\"quotes\""),
        "{text}"
    );
}

#[tokio::test]
async fn page_alerts_and_dashboard_know_the_names_that_are_told() {
    let told = told(&scraped().await);
    let page = named(include_str!("../../../docs/metrics.md"));
    for name in &told {
        let whole = ["_bucket", "_count", "_sum"]
            .iter()
            .find_map(|end| name.strip_suffix(end).filter(|n| n.ends_with("_seconds")))
            .unwrap_or(name);
        assert!(page.contains(whole), "docs/metrics.md lacks {whole}");
    }
    let known = |name: &String| told.contains(name) || told.contains(&format!("{name}_count"));
    for (file, text) in [
        ("docs/metrics.md", include_str!("../../../docs/metrics.md")),
        (
            "alerts.yml",
            include_str!("../../../docs/metrics/alerts.yml"),
        ),
        (
            "dashboard.json",
            include_str!("../../../docs/metrics/dashboard.json"),
        ),
    ] {
        let unknown: Vec<String> = named(text).into_iter().filter(|n| !known(n)).collect();
        assert!(unknown.is_empty(), "{file} names {unknown:?}");
    }
    let board = include_str!("../../../docs/metrics/dashboard.json");
    let board: serde_json::Value = serde_json::from_str(board).unwrap();
    let shown = board["panels"].as_array().unwrap().len();
    assert!(shown > 10, "{shown}");
}
