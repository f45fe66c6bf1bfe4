//! What leaves the process: data on stdout as tables or JSON, notes and errors on stderr.
//!
//! Tables are readable without colour. A reader that goes away (`| head`) is no error.

use std::io::{self, IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use comfy_table::{Table, presets};
use outgrow_rollout::GateResult;
use serde_json::Value;

use crate::client::ApiError;
use crate::config::ConfigErrors;

/// Tables are for people, JSON is the whole answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

/// When to use colour. Variants of these enums have no doc comments, because each would stretch
/// every `--help` by a paragraph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}

impl Color {
    /// Decides for the whole process.
    pub(crate) fn apply(self) {
        match self {
            Self::Auto => anstream::ColorChoice::Auto,
            Self::Always => anstream::ColorChoice::AlwaysAnsi,
            Self::Never => anstream::ColorChoice::Never,
        }
        .write_global();
    }
}

/// Where a command's words go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) format: Format,
    pub(crate) quiet: bool,
}

impl Output {
    /// Prints an answer: as it is for programs, by `table` for people.
    ///
    /// # Errors
    /// Fails when stdout cannot be written.
    pub(crate) fn answer(&self, answer: &Value, table: impl FnOnce() -> String) -> io::Result<()> {
        match self.format {
            Format::Json => self.text(&format!("{answer:#}")),
            Format::Table => self.text(&table()),
        }
    }

    /// Prints a document or a table.
    ///
    /// # Errors
    /// Fails when stdout cannot be written.
    #[allow(clippy::unused_self)] // Every word of a command goes through here.
    pub(crate) fn text(&self, text: &str) -> io::Result<()> {
        let mut out = anstream::stdout().lock();
        out.write_all(text.as_bytes())?;
        if !text.ends_with('\n') {
            out.write_all(b"\n")?;
        }
        out.flush()
    }

    /// One line about what happens, for people only.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            // Whoever closes stderr does not want to know.
            let _ = writeln!(anstream::stderr(), "{text}");
        }
    }

    /// Whether a person watches stdout.
    pub(crate) fn watched(&self) -> bool {
        self.format == Format::Table && io::stdout().is_terminal()
    }
}

/// A table without rules, columns two blanks apart, as `docker ps` has it.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.to_vec());
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines: Vec<String> = table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    lines.join("\n") + "\n"
}

/// Names and values below one another.
pub(crate) fn sheet(rows: &[(&str, String)]) -> String {
    let wide = rows
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or(0);
    let mut out = String::new();
    for (name, value) in rows {
        let gap = wide - name.chars().count() + 2;
        out.push_str(&format!("{name}{}{value}\n", " ".repeat(gap)));
    }
    out
}

/// Any JSON for people: lists of objects as tables, objects as sheets.
pub(crate) fn generic(value: &Value) -> String {
    match value {
        Value::Array(items) if items.is_empty() => "none\n".to_owned(),
        Value::Array(items) if items.iter().all(Value::is_object) => objects(items),
        Value::Array(items) => items.iter().map(|item| scalar(item) + "\n").collect(),
        Value::Object(fields) => {
            let mut plain = Vec::new();
            let mut nested = String::new();
            for (name, field) in fields {
                match field {
                    Value::Array(items) if items.iter().any(Value::is_object) => {
                        nested.push_str(&format!("\n{name}:\n{}", indent(&objects(items))));
                    }
                    Value::Object(inner) if !inner.is_empty() => {
                        nested.push_str(&format!("\n{name}:\n{}", indent(&generic(field))));
                    }
                    other => plain.push((name.as_str(), scalar(other))),
                }
            }
            let out = sheet(&plain) + &nested;
            out.trim_start_matches('\n').to_owned()
        }
        other => scalar(other) + "\n",
    }
}

fn objects(items: &[Value]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for item in items.iter().filter_map(Value::as_object) {
        for name in item.keys() {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
    }
    let rows = items
        .iter()
        .map(|item| {
            let cell = |name: &&str| item.get(*name).map(scalar).unwrap_or_default();
            names.iter().map(cell).collect()
        })
        .collect();
    let header: Vec<String> = names.iter().map(|name| name.to_uppercase()).collect();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    table(&header, rows)
}

fn scalar(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "none".to_owned(),
        Value::Array(items) if items.iter().all(|i| !i.is_object() && !i.is_array()) => {
            let texts: Vec<String> = items.iter().map(scalar).collect();
            texts.join(", ")
        }
        other => other.to_string(),
    }
}

pub(crate) fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

const ERROR: Style = AnsiColor::Red.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default().bold();

/// An error as stderr shows it: what failed, why, and what to do.
pub(crate) fn error_text(error: &anyhow::Error) -> String {
    let mut out = format!("{ERROR}error:{ERROR:#} ");
    if let Some(refusal) = error.downcast_ref::<ApiError>() {
        refusal_text(refusal, &mut out);
        return out;
    }
    if let Some(problems) = error.downcast_ref::<ConfigErrors>() {
        out.push_str(&format!("{problems}\n"));
        return out;
    }
    let mut seen = error.to_string();
    out.push_str(&format!("{seen}\n"));
    for cause in error.chain().skip(1) {
        let text = cause.to_string();
        // Some libraries repeat their source; once is enough.
        if !seen.contains(&text) {
            out.push_str(&indent(&format!("cause: {text}")));
        }
        seen.push_str(&text);
    }
    out
}

fn refusal_text(refusal: &ApiError, out: &mut String) {
    let gates = refusal.gates();
    // The one-line text names the blocking gates after the colon; below each has its own line.
    let headline = match refusal.message.split_once(" is blocked by ") {
        Some((head, _)) if !gates.is_empty() => format!("{head} is blocked"),
        _ => match refusal.message.split_once(" lacks evidence: ") {
            Some((head, _)) if !gates.is_empty() => format!("{head} lacks evidence"),
            _ => refusal.message.clone(),
        },
    };
    out.push_str(&format!("{headline}\n"));
    for gate in gates.iter().filter(|gate| !gate.ok) {
        let word = if gate.missing { "missing" } else { "blocked" };
        let GateResult {
            name, value, limit, ..
        } = gate;
        out.push_str(&format!("  {word}: {name} {value} (limit {limit})\n"));
    }
    let mut hints: Vec<&str> = vec![refusal.hint.as_str()];
    hints.extend(
        gates
            .iter()
            .filter(|g| !g.ok)
            .map(|gate| gate.hint.as_str()),
    );
    let mut said: Vec<&str> = Vec::new();
    for hint in hints {
        if !hint.is_empty() && !said.contains(&hint) {
            out.push_str(&format!("{HINT}hint:{HINT:#} {hint}\n"));
            said.push(hint);
        }
    }
}

/// Whether an error is only that the reader of stdout went away.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}
