//! Charts of a report, as points of SVG: how many answers matched, and how long they took, by
//! interval.

use serde::Serialize;
use time::OffsetDateTime;
use time::macros::format_description;

use crate::history::{History, Interval};

/// The plane of a chart, in units of its view box.
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 120.0;

/// One chart.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Chart {
    pub(crate) title: &'static str,
    /// At the upper and the lower end.
    pub(crate) top: String,
    pub(crate) bottom: String,
    /// The first and the last moment, UTC.
    pub(crate) from: String,
    pub(crate) until: String,
    pub(crate) lines: Vec<Line>,
    /// Where evidence began anew.
    pub(crate) marks: Vec<f64>,
}

/// One line; more than one run where intervals have no value.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Line {
    pub(crate) name: &'static str,
    /// Its style.
    pub(crate) class: &'static str,
    pub(crate) runs: Vec<String>,
}

/// The charts of a course; none where there is no course yet.
pub(crate) fn charts(history: &History) -> Vec<Chart> {
    let all = &history.intervals;
    let (Some(first), Some(last)) = (all.first(), all.last()) else {
        return Vec::new();
    };
    if all.len() < 2 {
        return Vec::new();
    }
    let (from, until) = (first.at, last.at);
    let x = |at: i64| (at - from) as f64 / (until - from).max(1) as f64 * WIDTH;
    let marks = history
        .marks
        .iter()
        .filter(|at| (from..=until).contains(at));
    let marks: Vec<f64> = marks.map(|at| rounded(x(*at))).collect();
    let chart = |title, (low, high): (f64, f64), unit: &dyn Fn(f64) -> String, of: &[Of<'_>]| {
        let y = |value: f64| HEIGHT - (value - low) / (high - low) * HEIGHT;
        let line = |(name, class, value): &Of<'_>| Line {
            name,
            class,
            runs: runs(all, &|one| Some((x(one.at), y(value(one)?)))),
        };
        Chart {
            title,
            top: unit(high),
            bottom: unit(low),
            from: moment(from),
            until: moment(until),
            lines: of.iter().map(line).collect(),
            marks: marks.clone(),
        }
    };
    let rate = |one: &Interval| {
        (one.compared > 0).then(|| 100.0 - 100.0 * one.against as f64 / one.compared as f64)
    };
    let legacy = |one: &Interval| Some(one.legacy.mean_us()? as f64 / 1_000.0);
    let extracted = |one: &Interval| Some(one.extracted.mean_us()? as f64 / 1_000.0);
    let worst = all.iter().filter_map(rate).fold(100.0, f64::min);
    // Rates near 100% are told apart; one that falls has its whole depth.
    let floor = [99.9, 99.0, 90.0, 50.0]
        .into_iter()
        .find(|low| worst >= *low);
    let slowest = all.iter().flat_map(|one| [legacy(one), extracted(one)]);
    let slowest = slowest.flatten().fold(0.001, f64::max);
    let percent = |value: f64| format!("{value}%");
    let millis = |value: f64| format!("{} ms", rounded(value));
    vec![
        chart(
            "Answers that matched",
            (floor.unwrap_or(0.0), 100.0),
            &percent,
            &[("matched", "matched", &rate)],
        ),
        chart(
            "Mean time to an answer",
            (0.0, slowest),
            &millis,
            &[
                ("legacy", "legacy", &legacy),
                ("extracted", "extracted", &extracted),
            ],
        ),
    ]
}

type Of<'a> = (
    &'static str,
    &'static str,
    &'a dyn Fn(&Interval) -> Option<f64>,
);

fn runs(all: &[Interval], point: &dyn Fn(&Interval) -> Option<(f64, f64)>) -> Vec<String> {
    let mut runs = vec![String::new()];
    for one in all {
        match (point(one), runs.last_mut()) {
            (Some((x, y)), Some(run)) => {
                let space = if run.is_empty() { "" } else { " " };
                run.push_str(&format!("{space}{},{}", rounded(x), rounded(y)));
            }
            (None, Some(run)) if !run.is_empty() => runs.push(String::new()),
            _ => {}
        }
    }
    runs.retain(|run| !run.is_empty());
    // A point alone is no line, but is to be seen.
    for run in &mut runs {
        if !run.contains(' ') {
            let again = run.clone();
            run.push_str(&format!(" {again}"));
        }
    }
    runs
}

fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn moment(at: i64) -> String {
    let form = format_description!("[year]-[month]-[day] [hour]:[minute]");
    let at = OffsetDateTime::from_unix_timestamp(at).ok();
    at.and_then(|at| at.format(&form).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use outgrow_rollout::Side;

    use super::*;

    #[test]
    fn a_course_is_drawn_with_its_gaps_and_marks() {
        let mut history = History::default();
        assert!(charts(&history).is_empty());
        let begun = 1_699_999_980;
        for minute in 0..10 {
            let now = begun + minute * 60;
            for n in 0..200 {
                history.compared(now, minute == 4 && n < 10);
            }
            if minute != 5 {
                history.answered(now, Side::Legacy, 10_000);
                history.answered(now, Side::Extracted, 20_000);
            }
        }
        history.mark(begun + 270);
        history.mark(begun - 270);
        let drawn = charts(&history);
        let [matched, times] = drawn.as_slice() else {
            panic!("{drawn:?}");
        };
        assert_eq!((&*matched.top, &*matched.bottom), ("100%", "90%"));
        assert_eq!(matched.from, "2023-11-14 22:13");
        assert!(matched.lines[0].runs[0].starts_with("0,0 66.7,0 "));
        assert!(
            matched.lines[0].runs[0].contains(" 266.7,60 "),
            "{matched:?}"
        );
        assert_eq!(matched.marks, [300.0]);
        assert_eq!(times.top, "20 ms");
        assert_eq!(times.lines[0].runs.len(), 2, "a gap");
        assert!(times.lines[0].runs[0].starts_with("0,60 "));
        assert!(times.lines[1].runs[0].starts_with("0,0 "));
    }
}
