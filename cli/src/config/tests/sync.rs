//! `[slices.ID.sync]` and `[slices.ID.events]`: how a slice's rows are kept in step and told of.

use super::*;

/// The shop's config with this in `[slices.catalog.sync]`.
pub(super) fn with_sync(text: &str) -> String {
    let before = "[slices.catalog.shadow]";
    assert_eq!(SHOP.matches(before).count(), 1);
    SHOP.replace(
        before,
        &format!("[slices.catalog.sync]\n{text}\n\n{before}"),
    )
}

#[test]
fn a_log_may_be_kept_up_to_a_size() {
    let limit = |text: &str| good(&with_sync(text)).slices[0].sync.log_limit;
    assert_eq!(limit("writes = \"one\""), 64 << 30);
    assert_eq!(limit("log_limit = \"500 MiB\""), 500 << 20);
    golden("sync_log_limit", &with_sync("log_limit = 64"));
    golden("sync_log_limit_low", &with_sync("log_limit = \"3KiB\""));
}

#[test]
fn transactions_may_be_kept_whole() {
    use outgrow_bridge::Transactions;
    let said = |text: &str| good(&with_sync(text)).slices[0].sync.transactions;
    assert_eq!(said("writes = \"one\""), Transactions::Batched);
    assert_eq!(said("transactions = \"batched\""), Transactions::Batched);
    assert_eq!(said("transactions = \"whole\""), Transactions::Whole);
    golden("sync_transactions", &with_sync("transactions = \"all\""));
    golden(
        "sync_transactions_both",
        &with_sync("transactions = \"whole\"\nwrites = \"both\""),
    );
}

#[test]
fn writes_past_the_proxy_may_be_a_gate() {
    use outgrow_rollout::Watched;
    let plan = |text: &str| {
        let section = "[slices.catalog.plan]\n";
        assert_eq!(SHOP.matches(section).count(), 1);
        SHOP.replace(section, &format!("{section}bypass = \"{text}\"\n"))
    };
    let said = |text: &str| good(text).slices[0].plan.bypass;
    assert_eq!(said(SHOP), Watched::Note);
    assert_eq!(said(&plan("off")), Watched::Off);
    assert_eq!(said(&plan("gate")), Watched::Gate);
    assert_eq!(said(&with_sync("writes = \"both\"")), Watched::Off);
    golden("plan_bypass", &plan("on"));
}

#[test]
fn changes_may_be_kept_up_to_a_size() {
    let limit = |text: &str| good(&with_sync(text)).slices[0].sync.noted_limit;
    assert_eq!(limit("writes = \"one\""), 16 << 30);
    assert_eq!(limit("noted_limit = \"500 MiB\""), 500 << 20);
    let by_default = outgrow_bridge::Limits::default();
    assert_eq!(by_default.noted_bytes, 16 << 30);
    golden("sync_noted_limit", &with_sync("noted_limit = 64"));
    golden("sync_noted_limit_low", &with_sync("noted_limit = \"1MiB\""));
}

#[test]
fn rows_may_be_verified_again_and_again() {
    let verify = |text: &str| good(&with_sync(text)).slices[0].sync.verify;
    let watch = |secs, share| {
        let every = std::time::Duration::from_secs(secs);
        Some(outgrow_bridge::Watch { every, share })
    };
    assert_eq!(good(SHOP).slices[0].sync.verify, None);
    assert_eq!(verify("verify = \"off\""), None);
    assert_eq!(verify("verify = {}"), watch(3_600, 0.05));
    assert_eq!(
        verify("verify = { every = \"1m\", share = 1 }"),
        watch(60, 1.0)
    );
    golden("sync_verify_off", &with_sync("verify = \"on\""));
    golden(
        "sync_verify_mistakes",
        &with_sync("verify = { every = \"1s\", share = 0.0, rate = 5 }"),
    );
}

#[test]
fn a_backfill_is_held_to_a_rate_and_waits_for_a_lag() {
    use std::time::Duration;
    let sync = |text: &str| {
        let sync = good(&with_sync(text)).slices[0].sync.clone();
        let rate = sync.copy_rate.map(std::num::NonZeroU32::get);
        (rate, sync.copy_parallel.get(), sync.copy_lag)
    };
    let by_default = (None, 2, outgrow_bridge::Limits::default().copy_lag);
    assert_eq!(sync(""), by_default);
    assert_eq!(sync("writes = \"one\""), by_default);
    let said = "writes = \"both\"\ncopy_rate = 5_000\ncopy_lag = \"30s\"\ncopy_parallel = 4";
    assert_eq!(sync(said), (Some(5_000), 4, Duration::from_secs(30)));
    golden(
        "sync_pace",
        &with_sync("copy_rate = 0\ncopy_lag = \"10ms\"\ncopy_parallel = 9"),
    );
}

#[test]
fn a_repair_is_held_to_a_number_of_rows() {
    let most = |text: &str| good(&with_sync(text)).slices[0].sync.repair_limit;
    assert_eq!(most(""), 10_000);
    assert_eq!(most("repair_limit = 250_000"), 250_000);
    golden("sync_repair", &with_sync("repair_limit = 0"));
    golden("sync_repair_most", &with_sync("repair_limit = 2_000_000"));
}

#[test]
fn copies_wait_for_a_busy_server() {
    use outgrow_bridge::MaxRunning;
    let servers = |text: &str| {
        with_sync(text)
            .replace("sqlite:data/shop.db", "postgres://me:x@db/shop")
            .replace("sqlite:data/catalog.db", "mysql://me:x@db/catalog")
    };
    let most = |text: &str| good(&servers(text)).slices[0].sync.max_running;
    let of = |legacy, extracted| {
        let [legacy, extracted] = [legacy, extracted].map(std::num::NonZeroU32::new);
        MaxRunning { legacy, extracted }
    };
    assert_eq!(most(""), of(0, 0));
    assert_eq!(most("max_running = 25"), of(25, 25));
    assert_eq!(most("max_running = { legacy = 25 }"), of(25, 0));
    assert_eq!(
        most("max_running = { legacy = 25, extracted = 1_000 }"),
        of(25, 1_000)
    );
    golden("sync_load", &servers("max_running = 0"));
    golden(
        "sync_load_sides",
        &servers("max_running = { legacy = \"few\", both = 7 }"),
    );
    golden("sync_load_sqlite", &with_sync("max_running = 25"));
}

#[test]
fn both_sides_may_take_writes() {
    use outgrow_bridge::{Both, Policy, Writes};
    let writes = |text: &str| good(&with_sync(text)).slices[0].sync.writes.clone();
    assert_eq!(good(SHOP).slices[0].sync.writes, Writes::One);
    assert_eq!(writes("writes = \"one\""), Writes::One);
    let both = |policy, ids_apart| Writes::Both(Both { policy, ids_apart });
    assert_eq!(writes("writes = \"both\""), both(Policy::Writer, false));
    for (text, policy) in [
        ("\"writer\"", Policy::Writer),
        ("\"legacy\"", Policy::Legacy),
        ("\"extracted\"", Policy::Extracted),
        ("\"manual\"", Policy::Manual),
        ("{ newest = \"at\" }", Policy::Newest("at".to_owned())),
    ] {
        let text = format!("writes = \"both\"\nconflicts = {text}\nids = \"apart\"");
        assert_eq!(writes(&text), both(policy, true));
    }
    golden(
        "sync_mistakes",
        &with_sync("writes = \"both\"\nconflicts = \"newest\"\nids = \"any\"\nmode = 1"),
    );
    golden(
        "sync_of_one",
        &with_sync("writes = \"one\"\nconflicts = \"manual\""),
    );
    golden("sync_unknown", &with_sync("writes = \"none\""));
    golden(
        "sync_newest",
        &with_sync("writes = \"both\"\nconflicts = { oldest = \"at\" }"),
    );
    let none = "[slices.reviews.shadow]";
    golden(
        "sync_without_tables",
        &SHOP.replace(
            none,
            &format!("[slices.reviews.sync]\nwrites = \"both\"\n\n{none}"),
        ),
    );
}

/// The shop with events of its first slice.
fn with_events(keys: &str) -> String {
    format!("{SHOP}\n[slices.catalog.events]\n{keys}\n")
}

#[test]
#[cfg(not(feature = "nats"))]
fn events_need_a_build_that_has_them() {
    let told = parse(&with_events("nats = \"nats://h\"")).unwrap_err();
    assert!(told.to_string().contains("--features nats"), "{told}");
}

#[test]
#[cfg(feature = "nats")]
fn events() {
    let keys = "nats = \"nats://me:secret@h\"\nca = \"ca.pem\"";
    let config = good(&with_events(keys));
    let events = config.slice("catalog").unwrap().events.as_ref().unwrap();
    assert!(!events.before);
    let told = good(&with_events(&format!("{keys}\nbefore = true")));
    let told = told.slice("catalog").unwrap().events.as_ref().unwrap();
    assert!(told.before);
    assert_eq!(format!("{:?}", events.server), "nats://h:4222");
    assert_eq!(events.stream, "outgrow-catalog");
    assert_eq!(events.subject, "outgrow.{slice}.{table}");
    assert_eq!(
        events.ca.as_deref(),
        Some(std::path::Path::new("/srv/shop/ca.pem"))
    );
    let bad = "nats = \"http://me:secret@h\"\nstream = \"a.b\"\nsubject = \"a..{name}\"\n\
               keep = 5\nsubjekt = 1";
    golden("events", &with_events(bad));
    golden("events_without_server", &with_events("keep = 5000"));
    golden(
        "events_of_both_sides",
        &with_events("nats = \"nats://h\"\n\n[slices.catalog.sync]\nwrites = \"both\""),
    );
    let unset = parse(&with_events("nats = \"env:NOT_SET\"")).unwrap_err();
    assert!(
        unset.to_string().contains("`NOT_SET` is not set"),
        "{unset}"
    );
}

#[test]
#[cfg(feature = "nats")]
fn every_key_of_events_is_in_the_reference() {
    for key in [
        "nats",
        "stream",
        "subject",
        "keep",
        "before",
        "credentials",
        "ca",
    ] {
        assert!(REFERENCE.contains(&format!("| `{key}` |")), "{key}");
    }
}
