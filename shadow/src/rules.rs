//! What may differ, why and until when; and how arrays are paired.

use time::{Date, OffsetDateTime, macros::format_description};

use crate::error::Error;
use crate::path::{Pattern, Place};
use crate::settings::{ArrayBy, ArrayRule, IgnoreRule};

/// The rules of a slice.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub(crate) ignore: Vec<Ignore>,
    arrays: Vec<(Pattern, ArrayBy)>,
}

/// An ignore rule at work.
#[derive(Debug)]
pub(crate) struct Ignore {
    pub(crate) rule: IgnoreRule,
    pattern: Pattern,
    until: Option<Date>,
    /// Added while it ran, not by the config.
    added: bool,
    /// Differences that it has hidden.
    pub(crate) hits: u64,
}

impl Ignore {
    pub(crate) fn new(rule: &IgnoreRule) -> Result<Self, Error> {
        if rule.reason.trim().is_empty() {
            return Err(Error::NoReason(rule.path.clone()));
        }
        let date = |text: &String| {
            let format = format_description!("[year]-[month]-[day]");
            Date::parse(text, &format).map_err(|_| Error::Date(text.clone()))
        };
        Ok(Self {
            pattern: Pattern::parse(&rule.path)?,
            until: rule.until.as_ref().map(date).transpose()?,
            rule: rule.clone(),
            added: false,
            hits: 0,
        })
    }

    /// A rule that was added while it ran.
    pub(crate) fn added(rule: &IgnoreRule) -> Result<Self, Error> {
        Ok(Self {
            added: true,
            ..Self::new(rule)?
        })
    }

    pub(crate) fn expired(&self, today: Date) -> bool {
        self.until.is_some_and(|until| today >= until)
    }
}

impl Rules {
    pub(crate) fn new(ignore: &[IgnoreRule], arrays: &[ArrayRule]) -> Result<Self, Error> {
        let array = |rule: &ArrayRule| Ok((Pattern::parse(&rule.path)?, rule.by.clone()));
        Ok(Self {
            ignore: ignore
                .iter()
                .map(Ignore::new)
                .collect::<Result<_, Error>>()?,
            arrays: arrays.iter().map(array).collect::<Result<_, Error>>()?,
        })
    }

    /// The rules that the config does not have.
    pub(crate) fn added(&self) -> Vec<IgnoreRule> {
        let added = self.ignore.iter().filter(|ignore| ignore.added);
        added.map(|ignore| ignore.rule.clone()).collect()
    }

    /// How the array at this place is paired: the rule must name the array itself.
    pub(crate) fn array(&self, place: &Place) -> Option<&ArrayBy> {
        let depth = |place: &Place| match place {
            Place::Body(steps) => steps.len(),
            _ => 0,
        };
        self.arrays
            .iter()
            .find(|(pattern, _)| match pattern {
                Pattern::Body(steps) => {
                    let deep = steps.contains(&crate::path::Step::Deep);
                    (deep && ends_alike(steps, place) || steps.len() == depth(place))
                        && pattern.fits(place)
                }
                _ => false,
            })
            .map(|(_, by)| by)
    }

    /// Whether a difference at this place is ignored today; counts it.
    pub(crate) fn ignores(&mut self, place: &Place, today: Date) -> bool {
        let hit = self
            .ignore
            .iter_mut()
            .find(|ignore| !ignore.expired(today) && ignore.pattern.fits(place));
        if let Some(ignore) = hit {
            ignore.hits += 1;
            return true;
        }
        false
    }
}

/// Below `..name` only the array of that name is meant, not the arrays inside it.
fn ends_alike(pattern: &[crate::path::Step], place: &Place) -> bool {
    matches!(place, Place::Body(steps) if steps.last() == pattern.last())
}

pub(crate) fn today() -> Date {
    OffsetDateTime::now_utc().date()
}

#[cfg(test)]
mod tests {
    use time::macros::date;

    use super::*;
    use crate::path::Step;

    fn rule(path: &str, reason: &str, until: Option<&str>) -> IgnoreRule {
        IgnoreRule {
            path: path.to_owned(),
            reason: reason.to_owned(),
            until: until.map(str::to_owned),
        }
    }

    #[test]
    fn a_rule_ends_on_its_day_and_counts_what_it_hides() {
        let mut rules = Rules::new(&[rule("$.at", "clock", Some("2026-12-01"))], &[]).unwrap();
        let place = Place::Body(vec![Step::Name("at".to_owned())]);
        assert!(rules.ignores(&place, date!(2026 - 11 - 30)));
        assert!(!rules.ignores(&place, date!(2026 - 12 - 01)));
        assert!(!rules.ignores(&Place::Status, date!(2026 - 11 - 30)));
        assert_eq!(rules.ignore[0].hits, 1);
    }

    #[test]
    fn a_rule_without_reason_or_with_a_bad_date_is_refused() {
        assert!(Rules::new(&[rule("$.a", " ", None)], &[]).is_err());
        assert!(Rules::new(&[rule("$.a", "clock", Some("soon"))], &[]).is_err());
    }
}
