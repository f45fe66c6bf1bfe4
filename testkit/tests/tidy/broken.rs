//! Each rule on a repository that breaks it, and beside it one that does not: a rule that
//! cannot fail is no rule.

use crate::repository::Repository;
use crate::{manifests, rust, sources, texts};

const PACKAGE: &str = "[package]\nversion.workspace = true\nedition.workspace = true\n\
    rust-version.workspace = true\nlicense.workspace = true\npublish.workspace = true\n\
    [lints]\nworkspace = true\n";

/// The rule complains once about the first text, and not about the second.
#[track_caller]
fn fires(rule: fn(&Repository) -> Vec<String>, path: &str, bad: &str, good: &str) {
    let complaints = rule(&Repository::of(&[(path, bad)]));
    assert_eq!(complaints.len(), 1, "{bad}: {complaints:?}");
    assert!(
        complaints[0].contains(path),
        "it names the file: {complaints:?}"
    );
    let complaints = rule(&Repository::of(&[(path, good)]));
    assert!(complaints.is_empty(), "{good}: {complaints:?}");
}

#[test]
fn imports() {
    let rule = manifests::imports;
    let using = |name: &str| format!("[dependencies]\n{name}.workspace = true\n");
    for (path, bad, good) in [
        ("rollout/Cargo.toml", "tokio", "serde"),
        ("proxy/Cargo.toml", "sqlx", "hyper"),
        ("proxy/Cargo.toml", "outgrow-bridge", "outgrow-shadow"),
        ("bridge/Cargo.toml", "outgrow-proxy", "outgrow-rollout"),
        ("bridge/Cargo.toml", "hyper", "sqlx"),
        ("control/Cargo.toml", "outgrow-bridge", "axum"),
        ("cli/Cargo.toml", "outgrow-testkit", "outgrow-bridge"),
    ] {
        fires(rule, path, &using(bad), &using(good));
    }
    let for_tests = "[dev-dependencies]\noutgrow-testkit.workspace = true\n";
    fires(
        rule,
        "control/Cargo.toml",
        &using("outgrow-proxy"),
        for_tests,
    );
}

#[test]
fn examples() {
    let rule = manifests::examples_stand_alone;
    let bad = "[dev-dependencies]\noutgrow-testkit.workspace = true\n";
    let good = "[dependencies]\nextracted-kit.workspace = true\n";
    fires(rule, "extracted/catalog/Cargo.toml", bad, good);
    fires(rule, "legacy-monolith/Cargo.toml", bad, good);
}

#[test]
fn built_once() {
    let tests = "rand v0.9.5 default,std\noutgrow-cli v0.1.0 nats\nproptest v1.12.0 std\n";
    let good = "rand v0.9.5 default,std (*)\noutgrow-cli v0.1.0 default\n";
    assert!(manifests::built_once(good, tests).is_empty());
    let complaints = manifests::built_once("rand v0.9.5 std\n", tests);
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    assert!(complaints[0].contains("rand v0.9.5 std"), "{complaints:?}");
}

#[test]
fn versions() {
    let rule = manifests::versions_in_root;
    let with = |line: &str| format!("{PACKAGE}[dependencies]\n{line}\n");
    let good = with("serde.workspace = true");
    fires(rule, "proxy/Cargo.toml", &with("serde = \"1\""), &good);
    fires(
        rule,
        "proxy/Cargo.toml",
        &with("serde = { version = \"1\" }"),
        &good,
    );
    let own = PACKAGE.replace(
        "version.workspace = true\nedition",
        "version = \"1.0.0\"\nedition",
    );
    fires(rule, "proxy/Cargo.toml", &own, PACKAGE);
    fires(
        rule,
        "proxy/Cargo.toml",
        &PACKAGE.replace("[lints]\nworkspace = true\n", ""),
        PACKAGE,
    );
}

#[test]
fn purity() {
    let rule = sources::rollout_is_pure;
    let good = "// tokio would be wrong here\nconst A: &str = \"async\"; struct Randomised;\n";
    for bad in [
        "use std::fs;",
        "let t = Instant::now();",
        "async fn f() {}",
        "use tokio::x;",
    ] {
        fires(rule, "rollout/src/split.rs", bad, good);
    }
    let tested = "fn f() {}\n\n#[cfg(test)]\nmod tests {\n use std::fs;\n}\n";
    fires(rule, "rollout/src/split.rs", "use std::env;\n", tested);
}

#[test]
fn a_window_by_the_clock_that_people_set_is_found() {
    let rule = sources::time_passes_by_a_steady_clock;
    let bad = "let now = SystemTime::now();\n";
    fires(
        rule,
        "proxy/src/guard.rs",
        bad,
        "let now = Instant::now();\n",
    );
    fires(
        rule,
        "proxy/src/cache.rs",
        bad,
        "let now: SystemTime = at;\n",
    );
}

#[test]
fn speaking() {
    let rule = sources::only_the_cli_speaks;
    let good = "/// let x = println!();\nlet x = \"println!\";";
    for bad in [
        "println!(x)",
        "std::process::exit(1)",
        "let x = std::env::args();",
    ] {
        fires(rule, "proxy/src/lib.rs", bad, good);
    }
    fires(
        rule,
        "extracted/kit/src/lib.rs",
        "eprintln!(x)",
        "std::env::args()",
    );
    assert!(
        rule(&Repository::of(&[(
            "extracted/catalog/src/main.rs",
            "println!(x)"
        )]))
        .is_empty()
    );
    assert!(rule(&Repository::of(&[("cli/src/main.rs", "println!(x)")])).is_empty());
}

#[test]
fn sizes() {
    let long = "fn f() {}\n".repeat(701);
    let tested = format!("fn f() {{}}\n\n#[cfg(test)]\nmod tests {{\n{long}}}\n");
    fires(sources::small_files, "proxy/src/lib.rs", &long, &tested);
}

#[test]
fn opening_docs() {
    let rule = sources::modules_open_with_docs;
    fires(
        rule,
        "proxy/src/lib.rs",
        "use a::b;\n//! late\n",
        "\n//! What it owns.\n",
    );
}

#[test]
fn undone() {
    let rule = sources::nothing_undone;
    let macros = [concat!("to", "do!()"), concat!("unimple", "mented!(\"x\")")];
    for bad in macros.into_iter().chain([concat!("// TO", "DO: later")]) {
        fires(rule, "proxy/src/lib.rs", bad, "let undone = is_todo(x);");
    }
}

#[test]
fn sleeping() {
    let rule = sources::tests_do_not_sleep;
    let bad = "async fn t() { tokio::time::sleep(x).await; }";
    fires(
        rule,
        "proxy/tests/it/drain.rs",
        bad,
        "async fn t() { eventually(x).await; }",
    );
    let excused = "// tidy: sleep, because the scripted peer is slow\ntokio::time::sleep(x).await;";
    fires(rule, "proxy/tests/it/drain.rs", bad, excused);
    let in_product = format!("{bad}\n#[cfg(test)]\nmod tests {{}}\n");
    let in_tests = format!("\n#[cfg(test)]\nmod tests {{ {bad} }}\n");
    fires(rule, "proxy/src/drain.rs", &in_tests, &in_product);
}

#[test]
fn queues() {
    let rule = sources::queues_are_bounded;
    fires(
        rule,
        "shadow/src/lib.rs",
        "mpsc::unbounded_channel()",
        "mpsc::channel(QUEUE)",
    );
}

#[test]
fn machine_paths() {
    let rule = texts::no_machine_paths;
    let bad = concat!("see /wo", "rk/shared/x");
    fires(
        rule,
        "docs/guide.md",
        bad,
        concat!("https://host/ho", "me and host/ho", "me/x"),
    );
}

#[test]
fn entry_points() {
    fires(
        texts::readme_names_entry_points,
        "README.md",
        "scripts/demo",
        "scripts/demo scripts/test",
    );
}

#[test]
fn links() {
    let rule = texts::links_resolve;
    let good =
        "[self](guide.md#part) [up](../docs/guide.md) [web](https://a.b)\n```\n[x](y)\n```\n";
    fires(rule, "docs/guide.md", "[gone](missing.md)", good);
}

#[test]
fn scripts() {
    let rule = texts::scripts_are_sound;
    let good = "#!/usr/bin/env bash\nset -euo pipefail\ncd \"${BASH_SOURCE%/*}/..\"\n";
    let of = |text: &str, executable: bool| {
        let all = ["scripts/demo", "scripts/bench", ".ci/run", "scripts/test"];
        let mut made = Repository::of(&all.map(|path| (path, good)));
        made.files.iter_mut().for_each(|f| f.executable = true);
        made.files[3].text = text.to_owned();
        made.files[3].executable = executable;
        rule(&made)
    };
    assert!(of(good, true).is_empty());
    assert_eq!(of(good, false), ["scripts/test: is not executable"]);
    assert_eq!(of(&good.replace("set -euo pipefail", ""), true).len(), 1);
    assert_eq!(of(&good.replace("BASH_SOURCE", "PWD"), true).len(), 1);
    assert_eq!(rule(&Repository::default()).len(), 4);
}

#[test]
fn code_is_what_is_left_of_a_text() {
    for (text, expected) in [
        ("a // b\nc", "a  \nc"),
        ("a /* b /* c */ d */ e", "a   e"),
        ("f(\"x // y\") // z", "f( )  "),
        ("r#\"a \" b\"# c", "  c"),
        ("'\"' + x<'a>", "  + x<'a>"),
        ("'\\'' y", "  y"),
        ("\"a\nb\" c", " \n c"),
        ("for\"x\"", "for "),
    ] {
        assert_eq!(rust::code(text), expected, "{text}");
    }
}
