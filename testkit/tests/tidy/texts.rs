//! Rules on everything that people read, and on scripts.

use crate::repository::{File, Repository};

/// Written in two pieces, so that the rule does not find itself.
const MACHINE_PATHS: [&str; 4] = [
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
];

pub(crate) fn no_machine_paths(repository: &Repository) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in &repository.files {
        for (number, line) in file.text.lines().enumerate() {
            for path in MACHINE_PATHS.iter().filter(|path| stands_alone(line, path)) {
                complaints.push(format!(
                    "{}:{}: `{path}` is a path of one machine",
                    file.path,
                    number + 1
                ));
            }
        }
    }
    complaints
}

/// As the start of a path, not in the middle of a URL or of a relative path.
fn stands_alone(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '}' | '*'))
    })
}

pub(crate) fn readme_names_entry_points(repository: &Repository) -> Vec<String> {
    let text = repository.file("README.md").map_or("", |f| f.text.as_str());
    let missing = ["scripts/demo", "scripts/test"]
        .into_iter()
        .filter(|name| !text.contains(name));
    missing
        .map(|name| format!("README.md: does not name `{name}`"))
        .collect()
}

pub(crate) fn links_resolve(repository: &Repository) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in repository.files.iter().filter(|f| f.path.ends_with(".md")) {
        for target in links(&file.text) {
            let wanted = resolve(&file.path, target);
            if !repository.paths.contains(&wanted) {
                complaints.push(format!("{}: `{target}` leads nowhere", file.path));
            }
        }
    }
    complaints
}

/// The relative targets of `[text](target)`, outside of code blocks.
fn links(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for (_, rest) in line
            .match_indices("](")
            .map(|(at, _)| line.split_at(at + 2))
        {
            let target = rest.split([')', '#', ' ']).next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:") {
                found.push(target);
            }
        }
    }
    found
}

fn resolve(from: &str, target: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.trim_end_matches('/').split('/') {
        match part {
            "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

pub(crate) fn scripts_are_sound(repository: &Repository) -> Vec<String> {
    let scripts = |f: &&File| f.path.starts_with("scripts/") || f.path == ".ci/run";
    let mut complaints = Vec::new();
    for wanted in ["scripts/demo", "scripts/test", "scripts/bench", ".ci/run"] {
        if repository.file(wanted).is_none() {
            complaints.push(format!("{wanted}: is missing"));
        }
    }
    for file in repository.files.iter().filter(scripts) {
        if !file.text.starts_with("#!") {
            continue;
        }
        if !file.executable {
            complaints.push(format!("{}: is not executable", file.path));
        }
        let bash = file
            .text
            .lines()
            .next()
            .is_some_and(|l| l.ends_with("bash"));
        if bash && !file.text.contains("set -euo pipefail") {
            complaints.push(format!("{}: `set -euo pipefail` is missing", file.path));
        }
        if bash && !file.text.contains("BASH_SOURCE") {
            complaints.push(format!(
                "{}: find the repository by `BASH_SOURCE`",
                file.path
            ));
        }
    }
    complaints
}
