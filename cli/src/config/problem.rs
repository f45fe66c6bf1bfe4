//! What is wrong with a config file, and where. Owns the words; refuses to stop at the first.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One thing that is wrong, or probably not meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// From 1; 0 when the problem has no place in the file.
    pub(crate) line: usize,
    /// In characters, from 1.
    pub(crate) column: usize,
    /// `slices.catalog.routes[2]`.
    pub(crate) key: String,
    /// What is written there, if that helps.
    pub(crate) value: Option<String>,
    /// The rule that it breaks.
    pub(crate) rule: String,
    pub(crate) fix: String,
}

/// Everything that is wrong with one file.
#[derive(Debug)]
pub(crate) struct ConfigErrors {
    pub(crate) file: PathBuf,
    pub(crate) problems: Vec<Problem>,
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        let plural = if count == 1 { "problem" } else { "problems" };
        write!(f, "{} has {count} {plural}", self.file.display())?;
        for problem in &self.problems {
            write!(f, "\n{}", problem.at(&self.file))?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    /// `LINE:COLUMN: KEY = VALUE: RULE`, and the fix on a line of its own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "{}:{}: ", self.line, self.column)?;
        }
        f.write_str(&self.key)?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        if !self.key.is_empty() {
            f.write_str(": ")?;
        }
        f.write_str(&self.rule)?;
        if !self.fix.is_empty() {
            write!(f, "\n    fix: {}", self.fix)?;
        }
        Ok(())
    }
}

impl Problem {
    /// The problem with its file before it.
    pub(crate) fn at<'a>(&'a self, file: &'a Path) -> impl fmt::Display + 'a {
        fmt::from_fn(move |f| write!(f, "  {}:{self}", file.display()))
    }
}

/// A quoted value without what stands between `://` and `@`: a password must not reach a log.
fn without_login(value: &str) -> String {
    let Some((scheme, rest)) = value.split_once("://") else {
        return value.to_owned();
    };
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://..@{host}"),
        None => value.to_owned(),
    }
}

/// Collects problems while a file is read.
#[derive(Debug)]
pub(crate) struct Findings<'t> {
    text: &'t str,
    errors: Vec<(usize, Problem)>,
    warnings: Vec<(usize, Problem)>,
}

/// A place in the file with the path of its key.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) key: String,
    pub(crate) span: Range<usize>,
}

impl<'t> Findings<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        Self {
            text,
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// A value that breaks a rule; the value is quoted from the file.
    pub(crate) fn refuse(
        &mut self,
        place: &Place,
        rule: impl Into<String>,
        fix: impl Into<String>,
    ) {
        let value = self.quote(&place.span);
        let problem = self.problem(place, value, rule.into(), fix.into());
        self.errors.push((place.span.start, problem));
    }

    /// Something that is not there, or about a whole table: there is no value to quote.
    pub(crate) fn lack(&mut self, place: &Place, rule: impl Into<String>, fix: impl Into<String>) {
        let problem = self.problem(place, None, rule.into(), fix.into());
        self.errors.push((place.span.start, problem));
    }

    pub(crate) fn warn(&mut self, place: &Place, rule: impl Into<String>, fix: impl Into<String>) {
        let problem = self.problem(place, None, rule.into(), fix.into());
        self.warnings.push((place.span.start, problem));
    }

    pub(crate) fn clean(&self) -> bool {
        self.errors.is_empty()
    }

    /// Errors and warnings, each in the order of the file.
    pub(crate) fn finish(mut self) -> (Vec<Problem>, Vec<Problem>) {
        let in_order = |found: &mut Vec<(usize, Problem)>| {
            found.sort_by_key(|(at, _)| *at);
            found.drain(..).map(|(_, problem)| problem).collect()
        };
        (in_order(&mut self.errors), in_order(&mut self.warnings))
    }

    /// `LINE:COLUMN` of a place, to point from one problem to another.
    pub(crate) fn position(&self, at: usize) -> (usize, usize) {
        let mut end = at.min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &self.text[..end];
        let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        (line, column)
    }

    fn problem(&self, place: &Place, value: Option<String>, rule: String, fix: String) -> Problem {
        let (line, column) = self.position(place.span.start);
        Problem {
            line,
            column,
            key: place.key.clone(),
            value,
            rule,
            fix,
        }
    }

    /// One line of what is written, short enough to read in a message.
    fn quote(&self, span: &Range<usize>) -> Option<String> {
        const CHARS_MAX: usize = 60;
        let text = self.text.get(span.clone())?.trim();
        if text.is_empty() || text.contains('\n') {
            return None;
        }
        // Before it is cut: the end of a login must be seen.
        let text = without_login(text);
        if text.chars().count() <= CHARS_MAX {
            return Some(text);
        }
        let start: String = text.chars().take(CHARS_MAX).collect();
        Some(format!("{start}..."))
    }
}

/// `; did you mean X?`-style help: the nearest of the names, if near enough to be a slip.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Jaro-Winkler at 0.8 accepts a swapped or missing letter and refuses another word.
    const NEAR: f64 = 0.8;
    known
        .into_iter()
        .map(|other| (strsim::jaro_winkler(name, other), other))
        .filter(|(score, _)| *score >= NEAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, other)| other)
}
