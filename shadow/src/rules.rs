//! What may differ, how, why and until when; and how arrays are paired.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use outgrow_rollout::Side;
use time::{Date, OffsetDateTime, macros::format_description};

use crate::body::LeftOut;
use crate::diff::Change;
use crate::error::Error;
use crate::hidden::{Hidden, Log};
use crate::json::Json;
use crate::matcher::Matcher;
use crate::path::{Pattern, Place, Root, Step};
use crate::renaming::{Book, Renaming, Taken};
use crate::settings::{Accept, ArrayBy, ArrayRule, Rule};

/// The rules of a slice. Cloning shares the counts, and is cheap.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    pub(crate) accepted: Arc<Vec<Accepted>>,
    arrays: Arc<Vec<(Pattern, ArrayBy)>>,
    /// What they do to the pair that is compared, where somebody wants to know.
    log: Option<Arc<Log>>,
    /// Whether there is a rule about ids.
    about_ids: bool,
    /// Whose answers these are.
    book: Book,
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

    /// What it knows of ids, where it is about any.
    fn ids(&self) -> Option<&Renaming> {
        match &self.matcher {
            Matcher::Renamed(ids) => Some(ids),
            _ => None,
        }
    }

    /// Whether both are about the same ids.
    fn same_ids(&self, other: &Self) -> bool {
        match (&self.rule.accept, &other.rule.accept) {
            (Accept::RenamedAs(ours), Accept::RenamedAs(theirs)) => ours == theirs,
            (Accept::Renamed, Accept::Renamed) => self.rule.path == other.rule.path,
            _ => false,
        }
    }
}

impl Rules {
    pub(crate) fn new(rules: &[Rule], arrays: &[ArrayRule]) -> Result<Self, Error> {
        let array = |rule: &ArrayRule| Ok((Pattern::parse(&rule.path)?, rule.by.clone()));
        let mut made = Self {
            accepted: Arc::new(
                rules
                    .iter()
                    .map(Accepted::new)
                    .collect::<Result<_, Error>>()?,
            ),
            arrays: Arc::new(arrays.iter().map(array).collect::<Result<_, Error>>()?),
            log: None,
            about_ids: false,
            book: Book::Sides,
        };
        made.share_ids();
        Ok(made)
    }

    pub(crate) fn add(&mut self, rule: Accepted) {
        Arc::make_mut(&mut self.accepted).push(rule);
        self.share_ids();
    }

    /// Rules that name the same ids know the same ids.
    fn share_ids(&mut self) {
        let mut known: BTreeMap<String, Matcher> = BTreeMap::new();
        self.about_ids = self.accepted.iter().any(|one| one.ids().is_some());
        for one in Arc::make_mut(&mut self.accepted) {
            if let Accept::RenamedAs(name) = &one.rule.accept {
                let first = known.entry(name.clone());
                one.matcher = first.or_insert_with(|| one.matcher.clone()).clone();
            }
        }
    }

    /// A copy that counts and learns apart, for what is no real difference.
    pub(crate) fn aside(&self) -> Self {
        let mut copy = self.clone();
        for accepted in Arc::make_mut(&mut copy.accepted) {
            accepted.hits = Arc::default();
            accepted.matcher = accepted.matcher.knowing(Renaming::aside);
        }
        copy.share_ids();
        copy
    }

    /// The same rules for answers of these.
    pub(crate) fn of(&self, book: Book) -> Self {
        let rules = match book {
            Book::Once => self.knowing(Renaming::beside_sides),
            Book::Sides | Book::Legacy | Book::Sandbox => self.clone(),
        };
        Self { book, ..rules }
    }

    /// A copy for answers of one side, that knows no ids yet, and counts and learns apart.
    pub(crate) fn of_one_side(&self) -> Self {
        let mut copy = self.knowing(|_| Renaming::default());
        for accepted in Arc::make_mut(&mut copy.accepted) {
            accepted.hits = Arc::default();
        }
        copy.book = Book::Once;
        copy
    }

    fn knowing(&self, ids: impl Fn(&Renaming) -> Renaming) -> Self {
        let mut copy = self.clone();
        if copy.about_ids {
            for accepted in Arc::make_mut(&mut copy.accepted) {
                accepted.matcher = accepted.matcher.knowing(&ids);
            }
            copy.share_ids();
        }
        copy
    }

    /// The same rules for one pair, with a log of what they do to it. `stored`: the values are
    /// those that were kept of the pair.
    pub(crate) fn watched(&self, stored: bool) -> Self {
        Self {
            log: Some(Arc::new(Log::new(self.accepted.len(), stored))),
            ..self.clone()
        }
    }

    /// What they have hidden of the pair that they watch. To be asked once, at its end.
    pub(crate) fn hidden(&self) -> Vec<Hidden> {
        let Some(log) = &self.log else {
            return Vec::new();
        };
        for (rule, pages) in log.left_out() {
            if let Some(one) = self.accepted.get(rule) {
                one.hits.fetch_add(pages, Relaxed);
                log.hides(&Place::Body(Vec::new()), "left-out", &one.rule.path);
            }
        }
        log.hidden()
    }

    /// Whether a rule has asked for a value that is not kept.
    pub(crate) fn is_unsure(&self) -> bool {
        self.log.as_ref().is_some_and(|log| log.is_unsure())
    }

    /// Begins with the ids that these rules know, where the same ids are meant.
    pub(crate) fn know_ids_of(&mut self, others: &Self) {
        for one in Arc::make_mut(&mut self.accepted) {
            let known = others.accepted.iter().find(|other| one.same_ids(other));
            if let Some(other) = known {
                one.matcher = other.matcher.knowing(Renaming::aside);
            }
        }
        self.share_ids();
    }

    /// Whether a rule is about ids that none of these knows.
    pub(crate) fn learn_beyond(&self, others: &Self) -> bool {
        let mut about_ids = self.accepted.iter().filter(|one| one.same_ids(one));
        about_ids.any(|one| !others.accepted.iter().any(|other| one.same_ids(other)))
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
        for one in &*self.accepted {
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
        let at_work = self.accepted.iter().enumerate();
        at_work
            .filter(|(_, one)| !one.expired(today))
            .filter_map(|(at, one)| match &one.pattern {
                Pattern::Css(selector) => {
                    let own = self.log.as_ref().and_then(|log| log.pages(at));
                    Some((selector, own.unwrap_or(&one.hits)))
                }
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
        let log = self.log.as_deref();
        let mut unsure = None;
        for one in self.at_work(today) {
            if !one.pattern.covers(root, at) {
                continue;
            }
            let blind = log.filter(|log| one.matcher.looks_at_values() && log.is_blind(change));
            if blind.is_some() {
                unsure = blind;
                continue;
            }
            if one.matcher.accepts(change, self.book) {
                one.hits.fetch_add(1, Relaxed);
                if let Some(log) = log {
                    log.hides(&root.place(at.to_vec()), change.kind(), &one.rule.path);
                }
                return true;
            }
        }
        if let Some(log) = unsure {
            log.doubt();
        }
        unsure.is_some()
    }

    /// Whether there is a rule about ids.
    pub(crate) fn about_ids(&self) -> bool {
        self.about_ids
    }

    /// Whether values that are equal are to be shown to the rules, too, of such a document.
    pub(crate) fn look_at_equal(&self, root: &Root, today: Date) -> bool {
        self.about_ids
            && self
                .at_work(today)
                .any(|one| one.ids().is_some() && one.pattern.is_of(root))
    }

    /// What all rules about ids of this place have against a value that both sides have here.
    pub(crate) fn taken(
        &self,
        root: &Root,
        at: &[Step],
        value: &Json,
        today: Date,
    ) -> Option<Taken> {
        let mut found = None;
        for ids in self.ids_at(root, at, today) {
            let log = self.log.as_deref().filter(|_| self.book != Book::Once);
            if let Some(log) = log.filter(|log| log.is_blind(&Change::Value(value, value))) {
                log.doubt();
                return None;
            }
            match ids.stays(self.book, value) {
                Ok(()) => return None,
                Err(taken) => found = found.or(Some(taken)),
            }
        }
        found
    }

    /// What a value of one side is called here where elements of both sides are paired; `None`: what
    /// it is called anyway.
    pub(crate) fn called(
        &self,
        of: Side,
        (root, at): (&Root, &[Step]),
        value: &Json,
        today: Date,
    ) -> Option<Json> {
        let ids = self.ids_at(root, at, today).next()?;
        Some(ids.called(self.book, of, value))
    }

    /// What an id of this side is on the other one, where the rules of this name know it.
    pub(crate) fn renamed(&self, name: &str, book: Book, of: Side, id: &str) -> Option<String> {
        let is_so = |accept: &Accept| matches!(accept, Accept::RenamedAs(known) if known == name);
        let mut named = self.accepted.iter().filter(|one| is_so(&one.rule.accept));
        named.find_map(Accepted::ids)?.other(book, of, id)
    }

    fn ids_at<'a>(
        &'a self,
        root: &'a Root,
        at: &'a [Step],
        today: Date,
    ) -> impl Iterator<Item = &'a Renaming> {
        let here = self.at_work(today);
        here.filter_map(move |one| one.ids().filter(|_| one.pattern.covers(root, at)))
    }

    /// Whether a rule accepts another status: only one without a matcher does.
    pub(crate) fn accept_status(&self, today: Date) -> bool {
        let holds =
            |one: &&Accepted| one.pattern == Pattern::Status && matches!(one.matcher, Matcher::Any);
        let Some(hit) = self.at_work(today).find(holds) else {
            return false;
        };
        hit.hits.fetch_add(1, Relaxed);
        if let Some(log) = &self.log {
            log.hides(&Place::Status, "value", &hit.rule.path);
        }
        true
    }

    fn at_work(&self, today: Date) -> impl Iterator<Item = &Accepted> {
        self.accepted.iter().filter(move |one| !one.expired(today))
    }
}

pub(crate) fn today() -> Date {
    OffsetDateTime::now_utc().date()
}

#[cfg(test)]
mod tests {
    use time::macros::date;

    use super::*;

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
