//! A report as a page, Markdown, JSON or plain text. Every value is escaped: bodies are hostile.

mod chart;
mod ledger;

use std::fmt::Write;
use std::str::FromStr;

use minijinja::{AutoEscape, Environment, UndefinedBehavior, context};

use crate::clusters::ClusterRow;
use crate::error::Error;
use crate::report::Report;

/// How a report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Html,
    Markdown,
    Json,
    Table,
    /// For CI: a test case for each route and status class.
    Junit,
}

impl FromStr for Format {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "html" => Ok(Self::Html),
            "md" => Ok(Self::Markdown),
            "json" => Ok(Self::Json),
            "table" => Ok(Self::Table),
            "junit" => Ok(Self::Junit),
            other => Err(Error::Format(other.to_owned())),
        }
    }
}

/// Writes a report.
///
/// # Errors
/// [`Error::Render`] or [`Error::Json`], for a report that cannot be written.
pub fn render(report: &Report, format: Format) -> Result<String, Error> {
    match format {
        Format::Html => html(report),
        Format::Markdown => Ok(markdown(report)),
        Format::Json => serde_json::to_string_pretty(report).map_err(Error::Json),
        Format::Table => Ok(table(report)),
        Format::Junit => Ok(junit(report)),
    }
}

/// A time of microseconds, as people say it.
fn millis(us: i64) -> String {
    format!("{:.2} ms", us as f64 / 1_000.0)
}

fn html(report: &Report) -> Result<String, Error> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_filter("ms", millis);
    environment
        .render_str(
            include_str!("../templates/report.html"),
            context! {
                r => minijinja::value::Serde(report),
                charts => minijinja::value::Serde(chart::charts(&report.history)),
                sums => ledger::sums(&report.evidence),
            },
        )
        .map_err(Error::Render)
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
        .replace(['\n', '\r'], " ")
        .replace('<', "&lt;")
}

fn markdown(report: &Report) -> String {
    let seen = &report.evidence;
    let mut out = format!(
        "# Shadow report: {}\n\n{}.\n\n",
        report.slice, report.verdict
    );
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "Builds: legacy `{}`, extracted `{}`.\n",
        seen.builds.legacy, seen.builds.extracted
    );
    if let Some(latency) = report.latency {
        let _ = writeln!(
            out,
            "Time to an answer, extracted less legacy: {} in the median, {} to {} with 95% confidence ({} requests).\n",
            millis(latency.median_us),
            millis(latency.low_us),
            millis(latency.high_us),
            latency.pairs
        );
    }
    out.push_str("| route | compared | against | rate at most, 95% | clean pairs needed |\n|---|---:|---:|---:|---:|\n");
    for row in &report.routes {
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} |",
            cell(&row.route),
            row.compared,
            row.against,
            row.bound
                .map_or_else(String::new, |bound| format!("{:.3}%", bound * 100.0)),
            row.needed
        );
    }
    for cluster in &report.clusters {
        markdown_cluster(&mut out, cluster);
    }
    if !report.differences.is_empty() {
        out.push_str("\n| difference | kind | count | legacy | extracted | example |\n|---|---|---:|---|---|---|\n");
    }
    for d in &report.differences {
        let (at, example) = (
            format!("{} {}", d.route, d.path),
            d.example.as_deref().unwrap_or(""),
        );
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {example} |",
            cell(&at),
            d.kind,
            d.count,
            cell(&d.legacy),
            cell(&d.extracted)
        );
    }
    for warning in &report.warnings {
        let _ = writeln!(out, "\nWarning: {}.", cell(warning));
    }
    out.push_str(&ledger::markdown(report));
    out
}

fn markdown_cluster(out: &mut String, cluster: &ClusterRow) {
    let about = if cluster.exact { "" } else { "about " };
    let _ = writeln!(
        out,
        "\n## {}: {about}{} requests, {}\n\n{}.\n",
        cluster.id,
        cluster.count,
        cell(&cluster.route),
        cell(&cluster.cause)
    );
    for field in &cluster.fields {
        let path = cell(&field.path);
        let _ = writeln!(out, "- {} {path}: {about}{}", field.kind, field.count);
    }
    // A fence that no line of the block can close.
    let lines = cluster
        .diff
        .lines()
        .chain(cluster.curl.iter().map(|line| &**line));
    let ticks = lines.map(|line| line.chars().filter(|c| *c == '`').count());
    let fence = "`".repeat(ticks.max().unwrap_or(0).max(2) + 1);
    if !cluster.diff.is_empty() {
        let _ = writeln!(out, "\n{fence}diff\n{}{fence}", cluster.diff);
    }
    if !cluster.curl.is_empty() {
        let _ = writeln!(out, "\n{fence}sh\n{}\n{fence}", cluster.curl.join("\n"));
    }
}

fn table(report: &Report) -> String {
    let mut out = format!("{}: {}\n", report.slice, report.verdict);
    for warning in &report.warnings {
        let _ = writeln!(out, "  warning: {warning}");
    }
    for cluster in &report.clusters {
        let fields: Vec<String> = cluster
            .fields
            .iter()
            .map(|field| format!("{} {}", field.kind, field.path))
            .collect();
        let _ = writeln!(
            out,
            "  {:>6}  {} {}: {}: {}",
            cluster.count,
            cluster.id,
            cluster.route,
            fields.join(", "),
            cluster.cause
        );
    }
    for d in &report.differences {
        let _ = writeln!(
            out,
            "  {:>6}  {} {} {}: {} -> {}",
            d.count, d.route, d.path, d.kind, d.legacy, d.extracted
        );
    }
    out.push_str(&ledger::text(report, "  "));
    out
}

/// Text of XML; what no XML may contain is left out.
fn xml(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {}
            c => out.push(c),
        }
    }
    out
}

fn junit(report: &Report) -> String {
    let failed = report.routes.iter().filter(|row| row.against > 0).count();
    let name = xml(&report.slice);
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <testsuite name=\"shadow {name}\" tests=\"{}\" failures=\"{failed}\">\n",
        report.routes.len()
    );
    for row in &report.routes {
        let _ = write!(
            out,
            "  <testcase classname=\"{name}\" name=\"{}\"",
            xml(&row.route)
        );
        if row.against == 0 {
            out.push_str("/>\n");
            continue;
        }
        let _ = write!(
            out,
            ">\n    <failure message=\"{} of {} compared answers differ\">",
            row.against, row.compared
        );
        // The class is the last word of the row's name.
        let route = row.route.rsplit_once(' ').map_or("", |(route, _)| route);
        for cluster in report.clusters.iter().filter(|c| c.route == route) {
            let line = format!("{}: {} ({})\n", cluster.id, cluster.cause, cluster.count);
            out.push_str(&xml(&line));
        }
        for d in report.differences.iter().filter(|d| d.route == route) {
            let line = format!(
                "{} {} ({} times): {} -> {}\n",
                d.kind, d.path, d.count, d.legacy, d.extracted
            );
            out.push_str(&xml(&line));
        }
        out.push_str("</failure>\n  </testcase>\n");
    }
    let text = format!("{}\n{}", report.verdict, ledger::text(report, ""));
    let _ = writeln!(out, "  <system-out>{}</system-out>", xml(text.trim_end()));
    out.push_str("</testsuite>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::Difference;
    use crate::path::{Place, Step};
    use crate::record::{Of, Outcome, Pair, Record};
    use crate::rules::{Rules, today};
    use crate::seen::Shown;

    fn of(route: &str) -> Of<'_> {
        Of {
            route,
            class: "2xx",
            endpoint: route,
        }
    }

    /// Half an hour with one bad minute, and a deployment.
    fn course(record: &mut Record) {
        use outgrow_rollout::Side;
        for minute in 0..30_u32 {
            let now = 1_700_000_000 + i64::from(minute) * 60;
            for n in 0..100 {
                record.history.compared(now, minute == 12 && n < 20);
            }
            for (side, base) in [(Side::Legacy, 8_000), (Side::Extracted, 5_000)] {
                let micros = base + u64::from(minute) * 40;
                record.history.answered(now, side, micros);
            }
        }
        record.history.mark(1_700_000_600);
    }

    fn hostile() -> Report {
        let id = outgrow_rollout::SliceId::new("shop").unwrap();
        let mut record = Record::of(&id);
        (record.eligible, record.waiting) = (1, 1);
        let difference = Difference {
            place: Place::Body(vec![Step::Name("a<b>".to_owned())]),
            kind: "value",
            legacy: "<script>alert(1)</script>".to_owned(),
            extracted: "x|y\nz".to_owned(),
        };
        let pair = Pair {
            id: String::new(),
            at: 1_700_000_000,
            route: "GET /x".to_owned(),
            request: "GET /x?<i>".to_owned(),
            primary: "legacy".to_owned(),
            book: crate::renaming::Book::Sides,
            legacy_status: Some(200),
            extracted_status: None,
            legacy_body: "</pre><script>".to_owned(),
            differences: vec![Shown::of(&difference)],
            curl: vec!["curl '<u>'".to_owned()],
            ..*crate::record::tests::pair()
        };
        record.settle(
            of("GET /x"),
            Outcome::Mismatched(vec![difference], Box::new(pair)),
            0,
            3,
            Vec::new,
        );
        let rank = Difference {
            place: Place::Body(vec![Step::Name("rank".to_owned())]),
            kind: "value",
            legacy: "1".to_owned(),
            extracted: "2".to_owned(),
        };
        for n in 0..100 {
            let own = (n % 10 == 0).then(|| rank.clone());
            let theirs = (n % 3 == 1).then(|| rank.clone());
            record.noise("GET /x", own.as_slice(), theirs.as_slice());
        }
        (record.eligible, record.waiting) = (5_251, 5_005);
        let came = [("busy", 40), ("rate", 200), ("<old>", 1)];
        record.shed = came.map(|(why, n)| (why.to_owned(), n)).into();
        record.ineligible.insert("method".to_owned(), 5);
        for reason in ["lag", "racing", "lag", "cut-off", "lag"] {
            let outcome = Outcome::NotComparable(reason);
            record.settle(of("GET /x"), outcome, 0, 3, Vec::new);
        }
        for _ in 0..5_000 {
            let outcome = Outcome::Matched {
                aligned: false,
                excused: false,
                witness: None,
            };
            record.settle(of("GET /items/{id}"), outcome, 0, 3, Vec::new);
        }
        let rule = crate::settings::Rule {
            path: "$..price".to_owned(),
            reason: "floats <b>".to_owned(),
            until: Some("2999-01-01".to_owned()),
            owner: Some("ada".to_owned()),
            accept: crate::settings::Accept::Tolerance("0.01".to_owned()),
        };
        course(&mut record);
        let rules = Rules::new(&[rule], &[]).unwrap();
        Report::new(&id, &record, &rules, 0.001, today())
    }

    #[test]
    fn hostile_text_stays_text() {
        let page = render(&hostile(), Format::Html).unwrap();
        for bad in [
            "<script>alert",
            "<img>",
            "<old>",
            "<i>",
            "<u>",
            "<b>",
            "</pre><s",
        ] {
            assert!(!page.contains(bad), "{bad}");
        }
        assert!(page.contains("&lt;script&gt;"));
        let text = render(&hostile(), Format::Markdown).unwrap();
        // Inside of a fence text is text.
        let outside: String = text.split("```").step_by(2).collect();
        assert!(outside.contains("x\\|y z") && !outside.contains("<script>"));
        let junit = render(&hostile(), Format::Junit).unwrap();
        assert!(junit.contains("failures=\"1\"") && junit.contains("&lt;script&gt;"));
        assert!(!junit.contains("<script>"));
    }

    #[test]
    fn reports_look_as_they_did() {
        let report = hostile();
        for (format, name) in [
            (Format::Markdown, "md"),
            (Format::Junit, "junit"),
            (Format::Html, "html"),
            (Format::Table, "table"),
        ] {
            insta::assert_snapshot!(format!("report_{name}"), render(&report, format).unwrap());
        }
    }

    #[test]
    fn every_format_names_the_field_and_the_reasons() {
        for format in ["html", "md", "json", "table", "junit"] {
            let text = render(&hostile(), format.parse().unwrap()).unwrap();
            assert!(text.contains("1 of 5001 compared"), "{format}");
            for reason in ["busy", "method", "racing"] {
                assert!(text.contains(reason), "{format} {reason}");
            }
        }
        assert!("pdf".parse::<Format>().is_err());
    }
}
