//! What is fed with texts that nobody has thought of, by `scripts/fuzz` and by the tests below: no text of a config
//! may panic, each refusal says where, and a config says the same however its text is written.

#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::panic,
    reason = "a promise that is broken is to be loud"
)]

use std::path::Path;

use toml::de::{DeTable, DeValue};

use crate::config::{Config, ConfigErrors, Surroundings};

fn read(text: &str) -> Result<Config, ConfigErrors> {
    // Each variable is there, so that what comes behind a secret is looked at as well; no file is.
    let env = |_: &str| Some("0123456789abcdef0123456789abcdef".to_owned());
    let around = Surroundings {
        dir: Path::new("/nowhere/at/all"),
        env: &env,
        today: time::macros::date!(2026 - 06 - 01),
    };
    Config::parse(text, Path::new("outgrow.toml"), around)
}

/// The text of a config file.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match read(text) {
        Ok(config) => same(text, config),
        Err(errors) => told(text, &errors),
    }
}

/// Whoever reads it finds the place.
fn told(text: &str, errors: &ConfigErrors) {
    assert!(!errors.problems.is_empty(), "refused, and nothing is wrong");
    let lines: Vec<&str> = text.split('\n').collect();
    for problem in &errors.problems {
        assert!(!problem.rule.is_empty(), "{errors}");
        let line = problem.line.checked_sub(1).and_then(|at| lines.get(at));
        let line = line.expect("a line of the text");
        let columns = 1..=line.chars().count() + 1;
        assert!(columns.contains(&problem.column), "{errors}");
        let quoted = problem.value.as_deref().unwrap_or_default();
        assert!(!quoted.contains('\n'), "{errors}");
    }
    // All of it can be written down.
    let _ = errors.to_string();
}

/// What it says does not hang on how it is written: without comments, all in lines of their own, with other quotes.
fn same(text: &str, config: Config) {
    let table = DeTable::parse(text).expect("what was read is TOML");
    let mut printed = String::new();
    for (key, value) in in_order(table.get_ref()) {
        printed.push_str(&format!("{key} = "));
        print(&mut printed, value);
        printed.push('\n');
    }
    let again = read(&printed);
    let again = again.unwrap_or_else(|errors| panic!("refused when printed: {errors}\n{printed}"));
    assert_eq!(told_of(again), told_of(config), "{printed}");
}

/// What is in a table, in the order of the file, which is that of columns, filters and slices.
fn in_order<'a>(table: &'a DeTable<'a>) -> Vec<(toml::Value, &'a DeValue<'a>)> {
    let mut all: Vec<_> = table.iter().collect();
    all.sort_by_key(|(key, _)| key.span().start);
    let key = |text: &str| toml::Value::from(text);
    all.into_iter()
        .map(|(name, value)| (key(name.get_ref()), value.get_ref()))
        .collect()
}

fn print(out: &mut String, value: &DeValue<'_>) {
    match value {
        DeValue::String(text) => out.push_str(&toml::Value::from(text.as_ref()).to_string()),
        DeValue::Integer(number) => {
            let base = match number.radix() {
                2 => "0b",
                8 => "0o",
                16 => "0x",
                _ => "",
            };
            out.push_str(&format!("{base}{}", number.as_str()));
        }
        DeValue::Float(number) => out.push_str(number.as_str()),
        DeValue::Boolean(flag) => out.push_str(&flag.to_string()),
        DeValue::Datetime(date) => out.push_str(&date.to_string()),
        DeValue::Array(all) => {
            out.push('[');
            for one in all.iter() {
                print(out, one.get_ref());
                out.push(',');
            }
            out.push(']');
        }
        DeValue::Table(table) => {
            out.push('{');
            for (at, (key, value)) in in_order(table).into_iter().enumerate() {
                let comma = if at > 0 { "," } else { "" };
                out.push_str(&format!("{comma}{key}="));
                print(out, value);
            }
            out.push('}');
        }
    }
}

/// All that it says. Where something is said differs.
fn told_of(mut config: Config) -> String {
    let mut warnings: Vec<String> = config
        .warnings
        .drain(..)
        .map(|problem| format!("{}: {}", problem.key, problem.rule))
        .collect();
    warnings.sort();
    format!("{config:?} {warnings:?}")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Without each line, and with it twice; what is further away `scripts/fuzz` looks for.
    #[test]
    fn texts_near_the_seeds() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/cli-config");
        let (mut good, mut bad) = (0, 0);
        for file in std::fs::read_dir(folder).expect("seeds") {
            let seed = std::fs::read_to_string(file.expect("a seed").path()).expect("text");
            let lines: Vec<&str> = seed.lines().collect();
            config(seed.as_bytes());
            for at in 0..lines.len() {
                // Twice is mostly no TOML, and one of each kind will do.
                let rest = if at % 4 == 0 { at - at.min(1) } else { at + 1 };
                let text = [&lines[..at], &lines[rest..]].concat().join("\n");
                config(text.as_bytes());
                match read(&text) {
                    Ok(_) => good += 1,
                    Err(_) => bad += 1,
                }
            }
        }
        assert!(good > 50 && bad > 50, "{good} {bad}");
    }

    /// The example of the reference is a seed; of the others one is bad.
    #[test]
    fn the_seeds_are_what_they_are_for() {
        let reference = include_str!("../../docs/config.md");
        let example = include_str!("../../fuzz/seeds/cli-config/whole");
        assert!(reference.contains(example));
        for text in [
            example,
            include_str!("../../fuzz/seeds/cli-config/shop"),
            include_str!("../../fuzz/seeds/cli-config/services"),
        ] {
            read(text).unwrap_or_else(|errors| panic!("{errors}"));
        }
        read(include_str!("../../fuzz/seeds/cli-config/odd")).expect_err("a bad one");
    }
}
