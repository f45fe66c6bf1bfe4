//! Rules on Rust sources.

use crate::repository::{File, Repository};
use crate::rust::{code, has_word, tests_of, without_tests};

/// Without its tests, no file is longer: such a file has two subjects.
const LINES_MAX: usize = 700;

/// The crates of the toolkit that are libraries.
const LIBRARIES: [&str; 5] = ["rollout", "shadow", "proxy", "bridge", "control"];

/// What a pure crate does not say: clocks, the world, waiting.
const IMPURE: [&str; 12] = [
    "std::time::Instant",
    "std::time::SystemTime",
    "Instant::now",
    "SystemTime",
    "std::env",
    "std::fs",
    "std::net",
    "std::thread",
    "tokio",
    "async",
    "await",
    "rand",
];

/// Where the proxy reads the clock that people set: what it tells others, and what others told it. Its
/// windows, deadlines and ages go by one that nobody sets.
const WALL: [&str; 11] = [
    "proxy/src/access.rs",
    "proxy/src/auth.rs",
    "proxy/src/forward/call.rs",
    "proxy/src/handle.rs",
    "proxy/src/identity.rs",
    "proxy/src/inbound/down.rs",
    "proxy/src/moment.rs",
    "proxy/src/spans/collector.rs",
    "proxy/src/spans/write.rs",
    "proxy/src/tls/revoked.rs",
    "proxy/src/underway.rs",
];

pub(crate) fn time_passes_by_a_steady_clock(repository: &Repository) -> Vec<String> {
    let elsewhere = |f: &&File| f.path.starts_with("proxy/src/") && !WALL.contains(&&*f.path);
    product_words(
        repository.rust().filter(elsewhere),
        &["SystemTime::now"],
        "the wall's clock is set by people; take `Instant`, or `Moment` where both are needed",
    )
}

pub(crate) fn rollout_is_pure(repository: &Repository) -> Vec<String> {
    let files = repository
        .rust()
        .filter(|f| f.path.starts_with("rollout/src/"));
    product_words(
        files,
        &IMPURE,
        "rollout is pure: time, evidence and chance are arguments",
    )
}

pub(crate) fn only_the_cli_speaks(repository: &Repository) -> Vec<String> {
    let speaks = [
        "println!",
        "print!",
        "eprintln!",
        "eprint!",
        "process::exit",
        "process::abort",
    ];
    let reads = ["std::env", "env::var"];
    let library = |f: &&File| LIBRARIES.contains(&f.crate_name()) && f.path.contains("/src/");
    // The examples print from where they start, and nowhere else.
    let example = |f: &&File| {
        let name = f.crate_name();
        (name == "legacy-monolith" || name.starts_with("extracted/"))
            && f.path.contains("/src/")
            && !f.path.ends_with("/main.rs")
    };
    let why = "only the binary prints, exits and reads the environment";
    let mut complaints = product_words(repository.rust().filter(library), &speaks, why);
    complaints.extend(product_words(
        repository.rust().filter(library),
        &reads,
        why,
    ));
    complaints.extend(product_words(
        repository.rust().filter(example),
        &speaks,
        why,
    ));
    complaints
}

pub(crate) fn small_files(repository: &Repository) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in repository.rust() {
        let lines = without_tests(&file.text).lines().count();
        if lines > LINES_MAX {
            complaints.push(format!(
                "{}: {lines} lines without tests; the most is {LINES_MAX}",
                file.path
            ));
        }
    }
    complaints
}

pub(crate) fn modules_open_with_docs(repository: &Repository) -> Vec<String> {
    let silent = repository
        .rust()
        .filter(|f| !f.text.trim_start().starts_with("//!"));
    silent
        .map(|f| {
            format!(
                "{}: open it with `//!`: what it owns, what it refuses",
                f.path
            )
        })
        .collect()
}

pub(crate) fn nothing_undone(repository: &Repository) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in repository.rust() {
        for (number, line) in code(&file.text).lines().enumerate() {
            if has_word(line, "todo!") || has_word(line, "unimplemented!") {
                complaints.push(at(file, number, "nothing is left undone"));
            }
        }
        for (number, line) in file.text.lines().enumerate() {
            if let Some((_, comment)) = line.split_once("//")
                && [
                    concat!("TO", "DO"),
                    concat!("FIX", "ME"),
                    concat!("XX", "X"),
                ]
                .iter()
                .any(|word| has_word(comment, word))
            {
                complaints.push(at(
                    file,
                    number,
                    "do it, or write what is missing into the README",
                ));
            }
        }
    }
    complaints
}

/// A test waits for a value. A scripted peer may be slow, and a paused clock may be moved: such
/// a line says so with `// tidy: sleep, because ...` on it or on the line above.
pub(crate) fn tests_do_not_sleep(repository: &Repository) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in repository.rust() {
        let tests = if file.is_test() {
            file.text.as_str()
        } else {
            tests_of(&file.text)
        };
        let first = file.text[..file.text.len() - tests.len()].lines().count();
        let lines: Vec<&str> = tests.lines().collect();
        for (number, line) in code(tests).lines().enumerate() {
            let excused = [Some(number), number.checked_sub(1)]
                .into_iter()
                .flatten()
                .filter_map(|n| lines.get(n))
                .any(|l| l.contains("tidy: sleep, because"));
            let sleeps = has_word(line, "sleep(") || has_word(line, "sleep_until(");
            if sleeps && !excused && !tests.contains("start_paused") {
                complaints.push(at(file, first + number, "wait for a value, not for a time"));
            }
        }
    }
    complaints
}

pub(crate) fn queues_are_bounded(repository: &Repository) -> Vec<String> {
    let files = repository.rust().filter(|f| f.path.contains("/src/"));
    let words = ["unbounded_channel", "UnboundedSender", "unbounded"];
    product_words(files, &words, "every queue has a bound, with its reason")
}

fn product_words<'a>(
    files: impl Iterator<Item = &'a File>,
    words: &[&str],
    why: &str,
) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files.filter(|f| !f.is_test()) {
        for (number, line) in code(without_tests(&file.text)).lines().enumerate() {
            for word in words {
                if has_word(line, word) {
                    complaints.push(at(file, number, &format!("`{word}`: {why}")));
                }
            }
        }
    }
    complaints
}

fn at(file: &File, line: usize, what: &str) -> String {
    format!("{}:{}: {what}", file.path, line + 1)
}
