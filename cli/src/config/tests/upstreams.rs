//! How requests are shared among upstreams.

use outgrow_proxy::{Balance, BreakerRule, Check, FieldNames, Health, Retries, UpstreamRules};

use super::*;

/// The shop's config with this in `[services.catalog]`.
fn with(text: &str) -> String {
    let table = "[services.catalog]";
    assert_eq!(SHOP.matches(table).count(), 1);
    SHOP.replace(table, &format!("{table}\n{text}"))
}

fn rules(text: &str) -> UpstreamRules {
    let config = good(&with(text));
    assert_eq!(config.legacy.rules, UpstreamRules::default());
    config.services["catalog"].rules.clone()
}

#[test]
fn upstreams_are_balanced_as_the_file_says() {
    assert_eq!(rules(""), UpstreamRules::default());
    for (name, balance) in Balance::ALL {
        assert_eq!(rules(&format!("balance = \"{name}\"")).balance, balance);
    }
    for (name, names) in FieldNames::ALL {
        assert_eq!(
            rules(&format!("field_names = \"{name}\"")).field_names,
            names
        );
    }
    golden("unknown_spelling", &with("field_names = \"Camel\""));
    let ring = rules("balance = \"ring-hash\"\nhash_by = \"header:X-Tenant\"");
    assert_eq!(ring.hash_by.unwrap(), "x-tenant");
    golden(
        "balance",
        &with("balance = \"random\"\nhash_by = \"tenant\""),
    );
    golden("hash_without_ring", &with("hash_by = \"header:x-tenant\""));
    let urls: Vec<String> = (1..=65).map(|n| format!("\"http://a{n}:1\"")).collect();
    let urls = format!("urls = [{}]", urls.join(", "));
    let many = SHOP.replace("urls = [\"http://127.0.0.1:9101\"]", &urls);
    golden("too_many_upstreams", &many);
}

#[test]
fn upstreams_are_left_alone_as_the_file_says() {
    let usual = UpstreamRules::default().ejection;
    assert_eq!(rules("ejection = true").ejection, usual);
    assert_eq!(rules("ejection = false").ejection, None);
    let own = rules("ejection = { failures = 2, time = \"1s\", share_max = 1.0 }").ejection;
    let own = own.unwrap();
    assert_eq!((own.failures, own.time), (2, Duration::from_secs(1)));
    assert_eq!(own.time_max, usual.unwrap().time_max);
    golden(
        "ejection",
        &with("ejection = { failures = 0, time = \"10m\", time_max = \"1m\", share_max = 50 }"),
    );
}

#[test]
fn upstreams_are_checked_as_the_file_says() {
    assert_eq!(rules("").health, None);
    let usual = rules("health = { path = \"/healthz\" }").health;
    assert_eq!(usual, Some(Health::at("/healthz")));
    let often = rules("health = { path = \"/\", every = \"1s\" }").health;
    assert_eq!(often.unwrap().timeout, Duration::from_secs(1));
    golden("health_without_path", &with("health = {}"));
    let called = rules("protocol = \"h2\"\nhealth = { grpc = \"\" }").health;
    assert_eq!(called.unwrap().check, Check::Grpc(String::new()));
    golden(
        "health_by_call",
        &with("protocol = \"h2\"\nhealth = { grpc = \"a b\", path = \"/\" }"),
    );
    golden(
        "health_by_call_in_lines",
        &with("health = { grpc = \"a.B\" }"),
    );
    golden(
        "health",
        &with(
            "health = { path = \"healthz\", every = \"1s\", timeout = \"2s\", healthy_after = 0 }",
        ),
    );
}

#[test]
fn services_are_spared_as_the_file_says() {
    assert_eq!(rules("").breaker, None);
    assert_eq!(
        rules("breaker = true").breaker,
        Some(BreakerRule::default())
    );
    let own = rules("breaker = { failures = 0, success_rate = 0.8, open = \"2m\" }").breaker;
    let own = own.unwrap();
    assert_eq!((own.failures, own.success_rate), (0, 0.8));
    assert_eq!(
        own.open_max,
        Duration::from_secs(120),
        "no less than `open`"
    );
    golden(
        "breaker",
        &with(
            "breaker = { failures = 0, success_rate = 0.0, window = \"1ms\", open_max = \"1s\" }",
        ),
    );
}

#[test]
fn requests_are_sent_again_as_the_file_says() {
    assert_eq!(rules("").retries, None);
    assert_eq!(rules("retries = true").retries, Some(Retries::default()));
    let own = rules("retries = { attempts = 2, per_try_timeout = \"1s\", statuses = [503] }");
    let own = own.retries.unwrap();
    assert_eq!((own.attempts, own.statuses.len()), (2, 1));
    assert_eq!(own.body_max, 64 * 1_024);
    let none = rules("retries = { body_max = \"0KiB\" }").retries.unwrap();
    assert_eq!(none.body_max, 0);
    assert_eq!(own.per_try_timeout, Some(Duration::from_secs(1)));
    assert_eq!(
        rules("timeout = \"7s\"").timeout,
        Some(Duration::from_secs(7))
    );
    golden(
        "retries",
        &with(
            "timeout = \"1ms\"\nretries = { attempts = 0, share = 2, statuses = [404, \"500\"], body_max = \"1GiB\" }",
        ),
    );
}

#[test]
fn upstreams_are_bounded_as_the_file_says() {
    assert_eq!(rules("").limits, None);
    let own = rules("limits = { connections = 5 }").limits.unwrap();
    assert_eq!((own.connections, own.waiting), (5, 5));
    assert_eq!(own.wait, Duration::from_secs(1));
    assert_eq!(
        rules("limits = { connections = 5, waiting = 0 }")
            .limits
            .unwrap()
            .waiting,
        0
    );
    golden("limits", &with("limits = { waiting = -1, wait = \"1\" }"));
}

#[test]
fn whom_the_proxy_believes() {
    let line = "[proxy]\n";
    assert_eq!(SHOP.matches(line).count(), 1);
    let with = |text: &str| SHOP.replace(line, &format!("{line}{text}\n"));
    let trust = good(SHOP).proxy.trust;
    assert!(trust.preface.is_empty() && trust.forwarded.is_none());
    let trust = good(&with(
        "proxy_protocol = [\"10.0.0.0/8\", \"::1\"]\ntrusted_proxies = []",
    ))
    .proxy
    .trust;
    assert_eq!(
        (trust.preface.len(), trust.forwarded),
        (2, Some(Vec::new()))
    );
    golden(
        "networks",
        &with("proxy_protocol = [\"10.0.0.1/8\", \"lb\"]\ntrusted_proxies = [\"10.0.0.0/40\", 7]"),
    );
}

/// A key that is nothing like any other is answered with all keys of its table.
#[test]
fn every_key_of_upstreams_is_in_the_reference() {
    for table in ["ejection", "health", "breaker", "retries", "limits"] {
        let errors = parse(&with(&format!("{table} = {{ QQQQ = 1 }}"))).expect_err(table);
        let unknown = errors.problems.iter().find(|p| p.key.ends_with("QQQQ"));
        let keys = unknown.unwrap().fix.split_once("the keys here are ");
        let keys = keys.unwrap_or_else(|| panic!("{table}: {errors}")).1;
        for key in keys.split(", ") {
            let line = format!("| `{table}.{key}` |");
            assert!(REFERENCE.contains(&line), "{line}");
        }
    }
}
