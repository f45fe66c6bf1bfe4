//! What may differ, how, why and until when; and how arrays are paired.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use time::{Date, OffsetDateTime, macros::format_description};

use crate::body::LeftOut;
use crate::diff::Change;
use crate::error::Error;
use crate::matcher::Matcher;
use crate::path::{Pattern, Root, Step};
use crate::settings::{Accept, ArrayBy, ArrayRule, Rule};

/// The rules of a slice. Cloning shares the counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    pub(crate) accepted: Vec<Accepted>,
    arrays: Vec<(Pattern, ArrayBy)>,
}

/// A rule at work.
#[derive(Debug, Clone)]
pub(crate) struct Accepted {
    pub(crate) rule: Rule,
    pattern: Pattern,
    matcher: Matcher,
    until: Option<Date>,
    /// Added while it ran, not by the config.
    added: bool,
    /// Differences that it has hidden.
    hits: Arc<AtomicU64>,
}

impl Accepted {
    pub(crate) fn new(rule: &Rule) -> Result<Self, Error> {
        if rule.reason.trim().is_empty() {
            return Err(Error::NoReason(rule.path.clone()));
        }
        let date = |text: &String| {
            let format = format_description!("[year]-[month]-[day]");
            Date::parse(text, &format).map_err(|_| Error::Date(text.clone()))
        };
        let pattern = Pattern::parse(&rule.path)?;
        if matches!(pattern, Pattern::Css(_)) && rule.accept != Accept::Any {
            return Err(Error::OnlyIgnored(rule.path.clone()));
        }
        Ok(Self {
            pattern,
            matcher: Matcher::new(&rule.accept)?,
            until: rule.until.as_ref().map(date).transpose()?,
            rule: rule.clone(),
            added: false,
            hits: Arc::default(),
        })
    }

    /// A rule that was added while it ran.
    pub(crate) fn added(rule: &Rule) -> Result<Self, Error> {
        Ok(Self {
            added: true,
            ..Self::new(rule)?
        })
    }

    pub(crate) fn expired(&self, today: Date) -> bool {
        self.until.is_some_and(|until| today >= until)
    }

    pub(crate) fn hits(&self) -> u64 {
        self.hits.load(Relaxed)
    }
}

impl Rules {
    pub(crate) fn new(rules: &[Rule], arrays: &[ArrayRule]) -> Result<Self, Error> {
        let array = |rule: &ArrayRule| Ok((Pattern::parse(&rule.path)?, rule.by.clone()));
        let mut made = Self {
            accepted: rules
                .iter()
                .map(Accepted::new)
                .collect::<Result<_, Error>>()?,
            arrays: arrays.iter().map(array).collect::<Result<_, Error>>()?,
        };
        made.share_ids();
        Ok(made)
    }

    pub(crate) fn add(&mut self, rule: Accepted) {
        self.accepted.push(rule);
        self.share_ids();
    }

    /// Rules that name the same ids know the same ids.
    fn share_ids(&mut self) {
        let mut known: BTreeMap<String, Matcher> = BTreeMap::new();
        for one in &mut self.accepted {
            if let Accept::RenamedAs(name) = &one.rule.accept {
                let first = known.entry(name.clone());
                one.matcher = first.or_insert_with(|| one.matcher.clone()).clone();
            }
        }
    }

    /// A copy that counts and learns apart, for what is no real difference.
    pub(crate) fn aside(&self) -> Self {
        let mut copy = self.clone();
        for accepted in &mut copy.accepted {
            accepted.hits = Arc::default();
            accepted.matcher = accepted.matcher.aside();
        }
        copy.share_ids();
        copy
    }

    /// What each rule has hidden.
    pub(crate) fn hits(&self) -> Vec<(Rule, u64)> {
        let all = self.accepted.iter();
        all.map(|one| (one.rule.clone(), one.hits())).collect()
    }

    /// Evidence begins anew: what a rule has hidden before says nothing of it.
    pub(crate) fn forget_hits(&self) {
        let all = self.accepted.iter();
        all.for_each(|one| one.hits.store(0, Relaxed));
    }

    /// Takes the counts of before a restart back in.
    pub(crate) fn recall_hits(&self, hits: &[(Rule, u64)]) {
        for one in &self.accepted {
            let known = hits.iter().find(|(rule, _)| *rule == one.rule);
            one.hits
                .fetch_add(known.map_or(0, |(_, hits)| *hits), Relaxed);
        }
    }

    /// The rules that the config does not have.
    pub(crate) fn added(&self) -> Vec<Rule> {
        let added = self.accepted.iter().filter(|accepted| accepted.added);
        added.map(|accepted| accepted.rule.clone()).collect()
    }

    /// Elements of pages that are left out today.
    pub(crate) fn left_out(&self, today: Date) -> Vec<LeftOut<'_>> {
        let at_work = self.accepted.iter().filter(|one| !one.expired(today));
        at_work
            .filter_map(|one| match &one.pattern {
                Pattern::Css(selector) => Some((selector, &*one.hits)),
                _ => None,
            })
            .collect()
    }

    /// Whether nothing is said of arrays: then elements are paired by the usual names only.
    pub(crate) fn arrays_have_none(&self) -> bool {
        self.arrays.is_empty()
    }

    /// How the array at this place is paired: the rule must name the array itself.
    pub(crate) fn array(&self, root: &Root, at: &[Step]) -> Option<&ArrayBy> {
        self.arrays
            .iter()
            .find(|(pattern, _)| match pattern {
                Pattern::Body(steps) => {
                    // Below `..name` only the array of that name is meant, not those inside it.
                    let deep = steps.contains(&Step::Deep);
                    (deep && at.last() == steps.last() || steps.len() == at.len())
                        && pattern.covers(root, at)
                }
                _ => false,
            })
            .map(|(_, by)| by)
    }

    /// Whether a rule accepts this difference today; counts it.
    pub(crate) fn accept(
        &self,
        root: &Root,
        at: &[Step],
        change: &Change<'_>,
        today: Date,
    ) -> bool {
        self.first(today, |accepted| {
            accepted.pattern.covers(root, at) && accepted.matcher.accepts(change)
        })
    }

    /// The same for the status, which only a rule without a matcher accepts.
    pub(crate) fn accept_status(&self, today: Date) -> bool {
        self.first(today, |accepted| {
            accepted.pattern == Pattern::Status && matches!(accepted.matcher, Matcher::Any)
        })
    }

    fn first(&self, today: Date, holds: impl Fn(&Accepted) -> bool) -> bool {
        let mut at_work = self.accepted.iter().filter(|one| !one.expired(today));
        match at_work.find(|accepted| holds(accepted)) {
            Some(hit) => {
                hit.hits.fetch_add(1, Relaxed);
                true
            }
            None => false,
        }
    }
}

pub(crate) fn today() -> Date {
    OffsetDateTime::now_utc().date()
}

#[cfg(test)]
mod tests {
    use time::macros::date;

    use super::*;
    use crate::json::Json;

    fn rule(path: &str, reason: &str, until: Option<&str>) -> Rule {
        Rule {
            path: path.to_owned(),
            reason: reason.to_owned(),
            until: until.map(str::to_owned),
            owner: None,
            accept: Accept::Any,
        }
    }

    #[test]
    fn a_rule_ends_on_its_day_and_counts_what_it_hides() {
        let rules = Rules::new(&[rule("$.at", "clock", Some("2026-12-01"))], &[]).unwrap();
        let at = [Step::Name("at".to_owned())];
        let change = Change::Missing(&Json::Null);
        assert!(rules.accept(&Root::Body, &at, &change, date!(2026 - 11 - 30)));
        assert!(!rules.accept(&Root::Body, &at, &change, date!(2026 - 12 - 01)));
        assert!(!rules.accept_status(date!(2026 - 11 - 30)));
        assert_eq!(rules.accepted[0].hits(), 1);
        let before = rules.hits();
        rules.forget_hits();
        assert_eq!(rules.accepted[0].hits(), 0);
        rules.recall_hits(&before);
        assert_eq!(rules.accepted[0].hits(), 1);
    }

    #[test]
    fn a_rule_without_reason_or_with_a_bad_date_is_refused() {
        assert!(Rules::new(&[rule("$.a", " ", None)], &[]).is_err());
        assert!(Rules::new(&[rule("$.a", "clock", Some("soon"))], &[]).is_err());
        assert!(Rules::new(&[rule("css:p[", "clock", None)], &[]).is_err());
        let mut valued = rule("css:p", "clock", None);
        assert!(Rules::new(&[valued.clone()], &[]).is_ok());
        valued.accept = Accept::Type;
        assert!(Rules::new(&[valued], &[]).is_err());
    }
}
