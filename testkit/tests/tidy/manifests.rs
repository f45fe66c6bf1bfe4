//! Who may import whom, and where versions stand.

use std::collections::BTreeSet;

use toml::{Table, Value};

use crate::repository::{File, Repository};

/// The table of the design: a crate and the crates of ours that it may import. The binary may
/// import all.
const MAY_IMPORT: [(&str, &[&str]); 6] = [
    ("rollout", &[]),
    ("shadow", &["outgrow-rollout"]),
    ("proxy", &["outgrow-rollout", "outgrow-shadow"]),
    ("bridge", &["outgrow-rollout"]),
    ("control", &["outgrow-rollout"]),
    ("testkit", &[]),
];

/// What a crate must not import although it is not ours.
const MUST_NOT_IMPORT: [(&str, &[&str]); 3] = [
    ("proxy", &["sqlx", "rusqlite"]),
    ("bridge", &["hyper", "hyper-util", "axum", "tower"]),
    ("shadow", &["sqlx", "rusqlite"]),
];

/// All that the crate which decides may use.
const ROLLOUT_USES: [&str; 3] = ["serde", "thiserror", "xxhash-rust"];

pub(crate) fn imports(repository: &Repository) -> Vec<String> {
    let mut complaints = Vec::new();
    for (folder, manifest) in repository.manifests() {
        let used = dependencies(manifest, "dependencies");
        let mut refuse = |name: &str, why: &str| {
            complaints.push(format!("{}: imports `{name}`: {why}", manifest.path));
        };
        for name in &used {
            if name == "outgrow-testkit" {
                refuse(name, "it is a dev-dependency only");
            }
            if folder == "rollout" && !ROLLOUT_USES.contains(&name.as_str()) {
                refuse(
                    name,
                    "rollout decides, and needs only serde, thiserror and xxhash-rust",
                );
            }
            let allowed = MAY_IMPORT
                .iter()
                .find(|(crate_name, _)| *crate_name == folder);
            if let Some((_, allowed)) = allowed
                && name.starts_with("outgrow-")
                && !allowed.contains(&name.as_str())
            {
                refuse(name, "the table in ARCHITECTURE.md does not allow it");
            }
            let banned = MUST_NOT_IMPORT
                .iter()
                .find(|(crate_name, _)| *crate_name == folder);
            if banned.is_some_and(|(_, banned)| banned.contains(&name.as_str())) {
                refuse(name, "the crate must not know of it");
            }
        }
    }
    complaints
}

pub(crate) fn examples_stand_alone(repository: &Repository) -> Vec<String> {
    let mut complaints = Vec::new();
    for (folder, manifest) in repository.manifests() {
        if folder != "legacy-monolith" && !folder.starts_with("extracted/") {
            continue;
        }
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for name in dependencies(manifest, section) {
                if name.starts_with("outgrow") {
                    complaints.push(format!("{}: an example imports `{name}`", manifest.path));
                }
            }
        }
    }
    complaints
}

pub(crate) fn versions_in_root(repository: &Repository) -> Vec<String> {
    let mut complaints = Vec::new();
    for (_, manifest) in repository.manifests() {
        let table = parse(manifest);
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let entries = table.get(section).and_then(Value::as_table);
            for (name, value) in entries.into_iter().flatten() {
                if value.get("workspace").and_then(Value::as_bool) != Some(true) {
                    complaints.push(format!(
                        "{}: write `{name}.workspace = true`; its version belongs into the root",
                        manifest.path
                    ));
                }
            }
        }
        for key in ["version", "edition", "rust-version", "license", "publish"] {
            let inherited = table
                .get("package")
                .and_then(|p| p.get(key)?.get("workspace")?.as_bool())
                .unwrap_or(false);
            if !inherited {
                complaints.push(format!("{}: write `{key}.workspace = true`", manifest.path));
            }
        }
        if table
            .get("lints")
            .and_then(|l| l.get("workspace")?.as_bool())
            != Some(true)
        {
            complaints.push(format!(
                "{}: `[lints] workspace = true` is missing",
                manifest.path
            ));
        }
    }
    complaints
}

/// Packages of what `cargo build` makes by default, that the build for all tests would make once more, for
/// it wants other features of them; each list is of lines of `cargo tree`.
pub(crate) fn built_once(default: &str, tests: &str) -> Vec<String> {
    let packages = |list: &str| -> BTreeSet<String> {
        let lines = list.lines().map(|line| line.trim_end_matches(" (*)"));
        // The binary itself has more features in the tests.
        let others = lines.filter(|line| !line.starts_with("outgrow-cli "));
        others.map(str::to_owned).collect()
    };
    let again = packages(default);
    again
        .difference(&packages(tests))
        .map(|line| {
            format!(
                "`{line}` has more features in the tests: name them at the end of the root manifest"
            )
        })
        .collect()
}

fn dependencies(manifest: &File, section: &str) -> Vec<String> {
    let table = parse(manifest);
    let names = table.get(section).and_then(Value::as_table);
    names.into_iter().flat_map(Table::keys).cloned().collect()
}

fn parse(manifest: &File) -> Table {
    manifest
        .text
        .parse()
        .unwrap_or_else(|e| panic!("{}: {e}", manifest.path))
}
