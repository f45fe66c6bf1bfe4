//! Paths as a side knows them: a service often has others than the monolith whose routes it takes.
//!
//! What a template catches goes on byte for byte, and so does the query. A path that a server could
//! read as one outside of the template's is refused: nobody leaves a route by the way it is written.

use std::collections::HashSet;

use http::Uri;
use http::uri::PathAndQuery;
use outgrow_rollout::Side;

use crate::error::Refusal;

/// One path and what a side calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathRule {
    /// The side that is asked so; `None` for both.
    side: Option<Side>,
    from: Vec<Part>,
    to: Vec<Part>,
}

/// A segment of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Name(String),
    Rest(String),
}

impl Part {
    fn name(&self) -> Option<&str> {
        match self {
            Self::Literal(_) => None,
            Self::Name(name) | Self::Rest(name) => Some(name),
        }
    }
}

/// A request's target for each side.
#[derive(Debug, Clone)]
pub(crate) struct Targets {
    legacy: Option<Uri>,
    extracted: Option<Uri>,
    /// As the client wrote it.
    asked: Uri,
}

impl Targets {
    pub(crate) fn of(&self, side: Side) -> &Uri {
        self.changed(side).unwrap_or(&self.asked)
    }

    fn changed(&self, side: Side) -> Option<&Uri> {
        match side {
            Side::Legacy => self.legacy.as_ref(),
            Side::Extracted => self.extracted.as_ref(),
        }
    }

    /// For the shadow, which asks the other side.
    pub(crate) fn side_target(&self, side: Side) -> Option<PathAndQuery> {
        self.changed(side)?.path_and_query().cloned()
    }
}

impl PathRule {
    /// Templates as routes have them: `/a/{name}`, `/a/{*rest}`. `to` names only what `from` does.
    ///
    /// # Errors
    /// Says what is wrong with them.
    pub fn new(side: Option<Side>, from: &str, to: &str) -> Result<Self, &'static str> {
        let rule = Self {
            side,
            from: parts(from)?,
            to: parts(to)?,
        };
        let mut known = HashSet::new();
        if !rule
            .from
            .iter()
            .filter_map(Part::name)
            .all(|n| known.insert(n))
        {
            return Err("`from` has two parameters of one name");
        }
        let mut named = rule.to.iter().filter(|part| part.name().is_some());
        if !named.all(|part| rule.from.contains(part)) {
            return Err("`to` has a parameter that `from` does not have");
        }
        Ok(rule)
    }

    fn holds_for(&self, side: Side) -> bool {
        self.side.is_none_or(|own| own == side)
    }

    /// Whether it changes what this side is asked.
    pub fn changes(&self, side: Side) -> bool {
        self.holds_for(side) && self.from != self.to
    }

    /// Whether a path of a route with this template may fit. A template that no rule could have is
    /// not judged.
    pub fn may_fit(&self, template: &str) -> bool {
        let Ok(route) = parts(template) else {
            return true;
        };
        let (mut own, mut other) = (self.from.iter(), route.iter());
        loop {
            let fits = match (own.next(), other.next()) {
                (None, None) | (Some(Part::Rest(_)), Some(_)) | (Some(_), Some(Part::Rest(_))) => {
                    return true;
                }
                (None, Some(_)) | (Some(_), None) => false,
                (Some(Part::Literal(own)), Some(Part::Literal(other))) => own == other,
                // A name stands for something.
                (Some(Part::Literal(one)), Some(_)) | (Some(_), Some(Part::Literal(one))) => {
                    !one.is_empty()
                }
                (Some(Part::Name(_)), Some(Part::Name(_))) => true,
            };
            if !fits {
                return false;
            }
        }
    }

    /// What of the path stands for each part; `None` where it does not fit.
    fn caught<'a>(&self, path: &'a str) -> Option<Vec<&'a str>> {
        let mut left = Some(path.strip_prefix('/')?);
        let mut caught = Vec::with_capacity(self.from.len());
        for part in &self.from {
            let text = left?;
            if matches!(part, Part::Rest(_)) {
                caught.push(text);
                left = None;
                continue;
            }
            let (segment, next) = match text.split_once('/') {
                Some((segment, next)) => (segment, Some(next)),
                None => (text, None),
            };
            let fits = match part {
                Part::Literal(literal) => literal == segment,
                Part::Name(_) | Part::Rest(_) => !segment.is_empty(),
            };
            if !fits {
                return None;
            }
            caught.push(segment);
            left = next;
        }
        left.is_none().then_some(caught)
    }

    fn of(&self, path: &str) -> Option<String> {
        let caught = self.caught(path)?;
        let mut made = String::with_capacity(path.len() + 16);
        for part in &self.to {
            made.push('/');
            let text = match part {
                Part::Literal(literal) => Some(literal.as_str()),
                named => {
                    let at = self.from.iter().position(|part| part == named);
                    at.and_then(|at| caught.get(at).copied())
                }
            };
            made.push_str(text?);
        }
        Some(made)
    }
}

fn parts(template: &str) -> Result<Vec<Part>, &'static str> {
    let Some(path) = template.strip_prefix('/') else {
        return Err("a path starts with `/`");
    };
    let mut found = Vec::new();
    for segment in path.split('/') {
        if matches!(found.last(), Some(Part::Rest(_))) {
            return Err("nothing may stand behind `{*rest}`");
        }
        let inside = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}'));
        found.push(match inside {
            Some(name) if name.starts_with('*') => Part::Rest(name.to_owned()),
            Some(name) if !name.is_empty() && !name.contains(['{', '}']) => {
                Part::Name(name.to_owned())
            }
            Some(_) => return Err("a parameter is `{name}`"),
            None if segment.contains(['{', '}', '?', '#']) => {
                return Err("a parameter is a whole segment, `/{name}/`, and a path has no query");
            }
            None => Part::Literal(segment.to_owned()),
        });
    }
    let literal = |part: &Part| match part {
        Part::Literal(text) => text.clone(),
        Part::Name(_) | Part::Rest(_) => "x".to_owned(),
    };
    let sample = format!(
        "/{}",
        found.iter().map(literal).collect::<Vec<_>>().join("/")
    );
    if !sample.bytes().all(|b| b.is_ascii_graphic()) || sample.parse::<PathAndQuery>().is_err() {
        return Err("it has bytes that no path has; write them as %XX");
    }
    if escapes(&sample) {
        return Err("a path has no `.` or `..`, and does not begin with `//`");
    }
    Ok(found)
}

/// Whether a server could read a path as one that lies elsewhere: by a segment that is `.` or `..`,
/// written plainly or in escapes, between real or escaped slashes, with parameters behind `;`, which
/// some servers take off; or by a beginning that looks like a host.
fn escapes(path: &str) -> bool {
    let plain = plain(path);
    let starts = plain.starts_with("//");
    starts
        || plain.split('/').any(|segment| {
            let bare = segment.split(';').next().unwrap_or_default();
            bare == "." || bare == ".."
        })
}

/// With all that anybody takes for a slash or a dot as one.
fn plain(path: &str) -> String {
    let mut plain = String::with_capacity(path.len());
    let mut left = path;
    while let Some(first) = left.chars().next() {
        let escaped = left.get(..3).map(str::to_ascii_lowercase);
        let (made, length) = match escaped.as_deref() {
            Some("%2f" | "%5c") => ('/', 3),
            Some("%2e") => ('.', 3),
            Some("%3b") => (';', 3),
            _ if first == '\\' => ('/', 1),
            _ => (first, first.len_utf8()),
        };
        plain.push(made);
        left = left.get(length..).unwrap_or_default();
    }
    plain
}

/// What the sides are asked for a request's target; `None` where both are asked as the client asks.
/// The first rule of a side that fits counts.
pub(super) fn targets(rules: &[PathRule], asked: &Uri) -> Result<Option<Box<Targets>>, Refusal> {
    let path = asked.path();
    let made = |side| {
        let mut own = rules.iter().filter(|rule| rule.holds_for(side));
        own.find_map(|rule| rule.of(path))
    };
    let (legacy, extracted) = (made(Side::Legacy), made(Side::Extracted));
    if legacy.is_none() && extracted.is_none() {
        return Ok(None);
    }
    let odd = || Refusal::Malformed("a path of this route has no `.` or `..`, however written");
    if escapes(path) {
        return Err(odd());
    }
    let query = asked.path_and_query();
    let query = query.map_or("", |all| all.as_str().get(path.len()..).unwrap_or_default());
    let target = |path: String| {
        if escapes(&path) {
            return Err(odd());
        }
        format!("{path}{query}").parse::<Uri>().map_err(|_| odd())
    };
    Ok(Some(Box::new(Targets {
        legacy: legacy.map(target).transpose()?,
        extracted: extracted.map(target).transpose()?,
        asked: asked.clone(),
    })))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(from: &str, to: &str) -> PathRule {
        PathRule::new(Some(Side::Extracted), from, to).unwrap()
    }

    fn asked(rules: &[PathRule], target: &str) -> Option<String> {
        let found = targets(rules, &target.parse().unwrap()).ok()?;
        let uri: Uri = target.parse().unwrap();
        let uri = found.map_or(uri, |found| found.of(Side::Extracted).clone());
        Some(uri.to_string())
    }

    #[test]
    fn a_rule_fits_the_routes_that_have_such_paths() {
        for (from, template, fits) in [
            ("/a/{id}", "/a/{sku}", true),
            ("/a/{id}", "/a/b", true),
            ("/a/b", "/a/{id}", true),
            ("/a/b", "/a/c", false),
            ("/a/{id}", "/a", false),
            ("/a", "/a/{id}", false),
            ("/a/", "/a/{id}", false),
            ("/a/{*rest}", "/a/{id}/b", true),
            ("/a/{*rest}", "/a", false),
            ("/a/b/c", "/a/{*rest}", true),
            ("/b/{*rest}", "/a/{*rest}", false),
            ("/{*rest}", "/", true),
            ("/", "/", true),
            ("/a", "/ü", true),
        ] {
            let rule = PathRule::new(None, from, "/x").unwrap();
            assert_eq!(rule.may_fit(template), fits, "{from} {template}");
        }
    }

    /// All templates of up to three segments against all paths of up to four.
    #[test]
    fn a_rule_may_fit_where_a_path_does() {
        let longer = |all: &[String], parts: &[&str]| -> Vec<String> {
            let each = all.iter().flat_map(|begin| {
                let parts = parts.iter();
                parts.map(move |part| {
                    format!("{begin}/{}", part.replace('#', &begin.len().to_string()))
                })
            });
            each.collect()
        };
        let all = |parts: &[&str], segments: usize| {
            let (mut last, mut all) = (vec![String::new()], Vec::new());
            for _ in 0..segments {
                last = longer(&last, parts);
                all.extend_from_slice(&last);
            }
            all
        };
        let paths = all(&["a", "b", ""], 4);
        let templates = all(&["a", "{x#}", "", "{*r}"], 3);
        let rules: Vec<_> = templates
            .iter()
            .filter_map(|template| {
                let rule = PathRule::new(None, template, "/").ok()?;
                let caught: Vec<_> = paths.iter().map(|p| rule.caught(p).is_some()).collect();
                Some((template, rule, caught))
            })
            .collect();
        assert_eq!(rules.len(), 36);
        for (from, rule, of_rule) in &rules {
            for (template, _, of_route) in &rules {
                let fits = of_rule
                    .iter()
                    .zip(of_route)
                    .any(|(one, other)| *one && *other);
                assert_eq!(rule.may_fit(template), fits, "{from} {template}");
            }
        }
    }

    #[test]
    fn a_path_is_made_of_what_the_template_caught() {
        for (from, to, target, made) in [
            (
                "/shop/products/{id}",
                "/v2/items/{id}",
                "/shop/products/7",
                "/v2/items/7",
            ),
            (
                "/a/{x}/{y}",
                "/{y}/b/{x}",
                "/a/1/2?q=%2F..",
                "/2/b/1?q=%2F..",
            ),
            ("/a/{x}", "/all", "/a/1?x", "/all?x"),
            ("/shop/{*rest}", "/{*rest}", "/shop/a%20b/c?", "/a%20b/c?"),
            ("/shop/{*rest}", "/{*rest}", "/shop/", "/"),
            ("/shop/{*rest}", "/{*rest}", "/shop", "/shop"),
            ("/shop/{*rest}", "/{*rest}", "/shopping/1", "/shopping/1"),
            ("/{*rest}", "/v2/{*rest}", "/", "/v2/"),
            ("/{*rest}", "/v2/{*rest}", "/a//b/", "/v2/a//b/"),
            ("/a/{x}", "/b/{x}", "/a/", "/a/"),
            ("/a/{x}", "/b/{x}", "/a/1/", "/a/1/"),
            ("/a/{x}", "/b/{x}", "/a/AC%2FDC;v=1.2", "/b/AC%2FDC;v=1.2"),
            ("/a/{x}", "/b/{x}", "/a/...", "/b/..."),
        ] {
            assert_eq!(
                asked(&[rule(from, to)], target).as_deref(),
                Some(made),
                "{from} {target}"
            );
        }
        let both = [rule("/a/{x}", "/b/{x}"), rule("/{*rest}", "/c/{*rest}")];
        assert_eq!(asked(&both, "/a/1").as_deref(), Some("/b/1"));
        assert_eq!(asked(&both, "/d/1").as_deref(), Some("/c/d/1"));
    }

    #[test]
    fn nobody_climbs_out_of_a_route() {
        let rules = [rule("/shop/{*rest}", "/{*rest}")];
        for rest in [
            "..",
            "../admin",
            "a/../../admin",
            "%2e%2E/admin",
            "a%2f..%2fadmin",
            "..%5cadmin",
            "a/..;x=1/admin",
            "..%3bx/admin",
            "./a",
            "/evil.example/a",
            "%2fevil.example",
            "%5Cevil.example",
            "a/.",
        ] {
            assert_eq!(asked(&rules, &format!("/shop/{rest}")), None, "{rest}");
        }
        // What no rule fits is not this filter's to judge.
        assert!(asked(&rules, "/other/../x").is_some());
    }

    #[test]
    fn sides_have_their_own() {
        let rules = [
            PathRule::new(Some(Side::Legacy), "/a", "/old/a").unwrap(),
            PathRule::new(None, "/a", "/both/a").unwrap(),
        ];
        let found = targets(&rules, &"/a?b".parse().unwrap()).unwrap().unwrap();
        assert_eq!(found.of(Side::Legacy).to_string(), "/old/a?b");
        assert_eq!(found.of(Side::Extracted).to_string(), "/both/a?b");
        assert!(targets(&rules, &"/b".parse().unwrap()).unwrap().is_none());
        assert!(targets(&rules, &"*".parse().unwrap()).unwrap().is_none());
    }

    #[test]
    fn templates_that_cannot_be_are_refused() {
        for (from, to) in [
            ("a", "/"),
            ("/a", ""),
            ("/{x}/{x}", "/{x}"),
            ("/{x}", "/{y}"),
            ("/{x}", "/{*x}"),
            ("/{*x}/a", "/{*x}"),
            ("/a?b", "/"),
            ("/a b", "/"),
            ("/a", "//b"),
            ("/a", "/../b"),
            ("/a/%2e%2e", "/b"),
            ("/x{y}", "/b"),
        ] {
            assert!(PathRule::new(None, from, to).is_err(), "{from} {to}");
        }
    }

    proptest! {
        /// Whatever a rule lets through lies below `/v2/`, as any server reads it.
        #[test]
        fn what_passes_stays_where_the_rule_puts_it(
            rest in "([a-z]|\\.|/|%2[eEfF]|%5[cC]|;|%3[bB]){0,12}"
        ) {
            let rules = [rule("/shop/{*rest}", "/v2/{*rest}")];
            if let Some(made) = asked(&rules, &format!("/shop/{rest}")) {
                prop_assert_eq!(&made, &format!("/v2/{}", rest));
                let read = plain(&made);
                let mut depth = 0;
                for segment in read.split('/').skip(1) {
                    let bare = segment.split(';').next().unwrap();
                    depth += match bare { ".." => -1, "." => 0, _ => 1 };
                    prop_assert!(depth >= 1, "{}", made);
                }
            }
        }
    }
}
