//! How fast answers are compared, on one core: see `scripts/bench shadow`, which runs this beside
//! peers on the same bodies.
//!
//! `speed write FOLDER` writes the bodies, `speed run FOLDER` measures each, in CPU time.

#![allow(clippy::print_stdout)] // It prints its results.

use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header::CONTENT_TYPE};
use outgrow_shadow::{CapturedResponse, Comparer};

/// CPU time of each measurement at the least.
const LEAST: Duration = Duration::from_secs(1);

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["write", folder] => write(Path::new(folder)),
        ["run", folder] => run(Path::new(folder)),
        _ => Err("usage: speed write FOLDER | speed run FOLDER".into()),
    }
}

/// A page of a shop's products, as its two sides would write it.
fn page(products: usize, changed: bool) -> String {
    let mut text = String::from("{\"page\":1,\"total\":4096,\"products\":[");
    for n in 0..products {
        if n > 0 {
            text.push(',');
        }
        let (name, price) = match (changed, n == products / 2) {
            (true, true) => ("Lamp, brass (new)", 1_996),
            _ => ("Lamp, brass", 1_995),
        };
        // A write into a `String` does not fail.
        let _ = write!(
            text,
            "{{\"id\":{},\"sku\":\"SKU-{:06}\",\"name\":\"{name}\",\"price\":{}.{:02},\"stock\":{},\
             \"active\":true,\"note\":null,\"tags\":[\"light\",\"brass\",\"home\"],\
             \"dimensions\":{{\"w\":{},\"h\":{}.5}},\"seen\":\"2026-11-21T09:{:02}:00Z\"}}",
            1_000 + n,
            n * 7,
            price / 100,
            price % 100,
            n % 40,
            n % 90,
            n % 50,
            n % 60
        );
    }
    text.push_str("]}");
    text
}

/// 1,000 objects without a name that pairs them; the other side has one more, and one changed.
fn rows(other: bool) -> String {
    let row = |n: usize, text: &str| {
        format!(
            "{{\"position\":{n},\"label\":\"{text}\",\"kind\":\"k{}\",\"weight\":{}.25}}",
            n % 7,
            n % 31
        )
    };
    let mut all: Vec<String> = (0..1_000).map(|n| row(n, "row")).collect();
    if other {
        all[500] = row(500, "changed");
        all.insert(100, row(5_000, "new"));
    }
    format!("[{}]", all.join(","))
}

/// Name, and both bodies.
fn cases() -> [(&'static str, String, String); 4] {
    let ten = 46; // products make some 10 KB
    [
        ("equal-10k", page(ten, false), page(ten, false)),
        ("equal-1m", page(4_700, false), page(4_700, false)),
        ("differing-10k", page(ten, false), page(ten, true)),
        ("array-1000", rows(false), rows(true)),
    ]
}

fn write(folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder)?;
    for (name, a, b) in cases() {
        fs::write(folder.join(format!("{name}.a.json")), a)?;
        fs::write(folder.join(format!("{name}.b.json")), b)?;
    }
    Ok(())
}

/// CPU time of this thread (`proc_pid_schedstat`): a busy machine does not count.
fn cpu() -> Result<Duration, Failure> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    let ns = text.split(' ').next().ok_or("no time in schedstat")?;
    Ok(Duration::from_nanos(ns.parse()?))
}

/// Seconds of CPU for one call.
fn measure(mut call: impl FnMut()) -> Result<f64, Failure> {
    call();
    let (begun, wall) = (cpu()?, Instant::now());
    let mut calls = 0u32;
    let spent = loop {
        for _ in 0..10 {
            call();
        }
        calls += 10;
        let spent = cpu()?.saturating_sub(begun);
        if spent >= LEAST || wall.elapsed() >= LEAST * 20 {
            break spent;
        }
    };
    Ok(spent.as_secs_f64() / f64::from(calls))
}

fn answer(body: String) -> CapturedResponse {
    CapturedResponse {
        status: StatusCode::OK,
        headers: HeaderMap::from_iter([(
            CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        )]),
        body: Bytes::from(body),
        whole: true,
        trailers: HeaderMap::new(),
    }
}

fn run(folder: &Path) -> Result<(), Failure> {
    let comparer = Comparer::new(&[], &[], None, &[], 16 << 20)?;
    for (name, ..) in cases() {
        let read = |side: &str| fs::read_to_string(folder.join(format!("{name}.{side}.json")));
        let (a, b) = (answer(read("a")?), answer(read("b")?));
        let entries = comparer.differences(&a, &b)?.len();
        let seconds = measure(|| {
            let _ = black_box(comparer.differences(black_box(&a), black_box(&b)));
        })?;
        say(name, "outgrow", a.body.len(), seconds, entries);
        let seconds = measure(|| {
            let read = |side: &CapturedResponse| {
                serde_json::from_slice::<serde_json::Value>(&side.body).ok()
            };
            let _ = black_box(read(black_box(&a)) == read(black_box(&b)));
        })?;
        // It knows whether they differ, not where.
        say(
            name,
            "serde_json ==",
            a.body.len(),
            seconds,
            usize::from(a.body != b.body),
        );
    }
    Ok(())
}

fn say(case: &str, engine: &str, bytes: usize, seconds: f64, entries: usize) {
    println!(
        "{{\"case\": \"{case}\", \"engine\": \"{engine}\", \"bytes\": {bytes}, \"us_per_pair\": {:.3}, \"entries\": {entries}}}",
        seconds * 1e6
    );
}
