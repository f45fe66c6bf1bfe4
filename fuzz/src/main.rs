//! One program for all targets, driven by libFuzzer: `OUTGROW_FUZZ` names the target. See
//! `scripts/fuzz`.

#![no_main]
#![allow(clippy::panic, reason = "a program without a target has nothing to do")]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

type Target = fn(&[u8]);

/// Each has its seeds in `fuzz/seeds/NAME`, which a test of its crate also reads.
const TARGETS: [(&str, Target); 18] = [
    ("shadow-json", outgrow_shadow::fuzz::json),
    ("shadow-body", outgrow_shadow::fuzz::body),
    ("shadow-recording", outgrow_shadow::fuzz::recording),
    ("shadow-graphql", outgrow_shadow::fuzz::graphql),
    ("shadow-rule", outgrow_shadow::fuzz::rule),
    ("proxy-request", outgrow_proxy::fuzz::request),
    ("proxy-answer", outgrow_proxy::fuzz::answer),
    ("proxy-chunks", outgrow_proxy::fuzz::chunks),
    ("proxy-preface", outgrow_proxy::fuzz::preface),
    ("proxy-token", outgrow_proxy::fuzz::token),
    ("proxy-routes", outgrow_proxy::fuzz::routes),
    ("proxy-cookie", outgrow_proxy::fuzz::cookie),
    ("bridge-pgoutput", outgrow_bridge::fuzz::pgoutput),
    ("bridge-frames", outgrow_bridge::fuzz::frames),
    ("bridge-binlog", outgrow_bridge::fuzz::binlog),
    ("bridge-statement", outgrow_bridge::fuzz::statement),
    ("bridge-gtids", outgrow_bridge::fuzz::gtids),
    ("cli-config", outgrow::fuzz::config),
];

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let wanted = std::env::var("OUTGROW_FUZZ").unwrap_or_default();
    let found = TARGETS.iter().find(|(name, _)| *name == wanted);
    let names = TARGETS.map(|(name, _)| name).join(" ");
    found.map_or_else(
        || panic!("OUTGROW_FUZZ is one of {names}"),
        |(_, target)| *target,
    )
});

fuzz_target!(|data: &[u8]| TARGET(data));
