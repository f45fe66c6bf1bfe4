//! How fast answers are compared, on one core: see `scripts/bench shadow`, which runs this beside
//! peers on the same bodies.
//!
//! `speed write FOLDER` writes the bodies, `speed run FOLDER` measures each, in CPU time.

#![allow(clippy::print_stdout)] // It prints its results.

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
        ["run", folder] => run(Path::new(folder), None),
        ["run", folder, case] => run(Path::new(folder), Some(case)),
        _ => Err("usage: speed write FOLDER | speed run FOLDER [CASE]".into()),
    }
}

/// How one side's page differs from that of the other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Page {
    Plain,
    /// Name and price of one product.
    Changed,
    /// One field of each product, not the same one of all.
    Scattered,
    /// The same field of each product.
    Stamped,
    /// The members of each product in another order.
    Reordered,
    /// One more product in front.
    Inserted,
    /// With lines and spaces, and one other price.
    Pretty,
}

/// The members of a product, by name and as JSON.
fn product(n: usize, middle: bool, page: Page) -> Vec<(&'static str, String)> {
    let changed = middle && matches!(page, Page::Changed | Page::Pretty);
    let other = |field: usize| page == Page::Scattered && n % 5 == field;
    let stock = n % 40 + if other(0) { 100 } else { 0 };
    let price = 1_995 + u32::from(changed) + if other(1) { 50 } else { 0 };
    let name = match page == Page::Changed && changed || other(2) {
        true => "Lamp, brass (new)",
        false => "Lamp, brass",
    };
    let tag = if other(3) { "office" } else { "home" };
    let height = n % 50 + if other(4) { 7 } else { 0 };
    let second = if page == Page::Stamped { 17 } else { 0 };
    let mut members = vec![
        ("id", format!("{}", 1_000 + n)),
        ("sku", format!("\"SKU-{:06}\"", n * 7)),
        ("name", format!("\"{name}\"")),
        ("price", format!("{}.{:02}", price / 100, price % 100)),
        ("stock", format!("{stock}")),
        ("active", "true".to_owned()),
        ("note", "null".to_owned()),
        ("tags", format!("[\"light\",\"brass\",\"{tag}\"]")),
        (
            "dimensions",
            format!("{{\"w\":{},\"h\":{height}.5}}", n % 90),
        ),
        (
            "seen",
            format!("\"2026-11-21T09:{:02}:{second:02}Z\"", n % 60),
        ),
    ];
    if page == Page::Reordered {
        members.rotate_left(n % 9 + 1);
    }
    members
}

/// A page of a shop's products, as its two sides would write it.
fn page(products: usize, page: Page) -> String {
    let first = if page == Page::Inserted { 0 } else { 1 };
    let all = (first..=products).map(|n| {
        let members = product(n, n == products / 2, page);
        let members: Vec<String> = members
            .iter()
            .map(|(name, value)| format!("\"{name}\":{value}"))
            .collect();
        format!("{{{}}}", members.join(","))
    });
    let all: Vec<String> = all.collect();
    let text = format!(
        "{{\"page\":1,\"total\":4096,\"products\":[{}]}}",
        all.join(",")
    );
    match page {
        Page::Pretty => pretty(&text),
        _ => text,
    }
}

/// The same JSON with lines and spaces.
fn pretty(text: &str) -> String {
    let (mut out, mut level, mut quoted) = (String::new(), 0, false);
    for c in text.chars() {
        quoted ^= c == '"';
        let closes = matches!(c, '}' | ']') && !quoted;
        if closes {
            level -= 1;
            out.push('\n');
            out.push_str(&"  ".repeat(level));
        }
        out.push(c);
        if !quoted && matches!(c, '{' | '[' | ',') {
            level += usize::from(c != ',');
            out.push('\n');
            out.push_str(&"  ".repeat(level));
        } else if !quoted && c == ':' {
            out.push(' ');
        }
    }
    out
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
fn cases() -> Vec<(&'static str, String, String)> {
    let ten = 52; // products make 10 KB
    let against = |name, other| (name, page(ten, Page::Plain), page(ten, other));
    let long = || page(4_700, Page::Plain);
    vec![
        against("equal-10k", Page::Plain),
        ("equal-1m", long(), long()),
        against("differing-10k", Page::Changed),
        against("scattered-10k", Page::Scattered),
        against("stamped-10k", Page::Stamped),
        against("reordered-10k", Page::Reordered),
        against("inserted-10k", Page::Inserted),
        against("pretty-10k", Page::Pretty),
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

fn run(folder: &Path, only: Option<&str>) -> Result<(), Failure> {
    let comparer = Comparer::new(&[], &[], None, &[], 16 << 20)?;
    let wanted = |name: &str| only.is_none_or(|only| only == name);
    for (name, ..) in cases().into_iter().filter(|case| wanted(case.0)) {
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
