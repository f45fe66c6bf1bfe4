//! What holds of a host's addresses while some of its questions fail: decisions over answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use crate::sources::Family;

/// What was said to one question.
#[derive(Debug, Clone)]
pub(super) enum Said {
    These(BTreeSet<IpAddr>, Instant),
    /// There are none.
    Nobody(String),
    /// Nothing is known of it.
    Failed(String),
}

/// What was said last, by host and family.
#[derive(Debug, Default)]
pub(super) struct Held(BTreeMap<String, [BTreeSet<IpAddr>; 2]>);

/// What holds of a host.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Host {
    ips: BTreeSet<IpAddr>,
    /// Of what was said now.
    until: Option<Instant>,
    /// Whether anything was.
    answered: bool,
    /// Why there is nobody.
    nobody: Option<String>,
    /// Why nothing, or not all, was said.
    trouble: Option<String>,
}

impl From<Said> for Host {
    fn from(said: Said) -> Self {
        let mut host = Self {
            ips: BTreeSet::new(),
            until: None,
            answered: true,
            nobody: None,
            trouble: None,
        };
        match said {
            Said::These(ips, until) => (host.ips, host.until) = (ips, Some(until)),
            Said::Nobody(why) => host.nobody = Some(why),
            Said::Failed(why) => (host.trouble, host.answered) = (Some(why), false),
        }
        host
    }
}

impl Held {
    /// What holds after this answer of one family.
    pub(super) fn take(&mut self, name: &str, family: Family, said: Said) -> Host {
        let failed = matches!(said, Said::Failed(_));
        let mut host = Host::from(said);
        let [four, six] = self.0.entry(name.to_owned()).or_default();
        let last = if family == Family::Ipv6 { six } else { four };
        match failed {
            true => host.ips.clone_from(last),
            false => last.clone_from(&host.ips),
        }
        host
    }

    /// Others are named no more.
    pub(super) fn keep(&mut self, names: &[String]) {
        self.0.retain(|name, _| names.contains(name));
    }
}

impl Host {
    pub(super) fn is_nobody(&self) -> bool {
        self.ips.is_empty()
    }

    pub(super) fn ips(self) -> BTreeSet<IpAddr> {
        self.ips
    }

    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Itself, where anything of it is new.
    ///
    /// # Errors
    /// Says why nothing is.
    pub(super) fn told(self) -> Result<Self, String> {
        if self.ips.is_empty() || !self.answered {
            let why = self.trouble.or(self.nobody);
            return Err(why.unwrap_or_else(|| "it has no address".to_owned()));
        }
        Ok(self)
    }
}

/// Of two families the one that was asked because the first has nobody.
pub(super) fn of_first(first: Host, second: Host) -> Host {
    match second.is_nobody() {
        true => Host {
            trouble: first.trouble.or(second.trouble),
            nobody: first.nobody.or(second.nobody),
            ..second
        },
        false => second,
    }
}

/// Both families. One that has nobody, and be it because it has never been known, is not missed.
pub(super) fn of_both(four: Host, six: Host) -> Host {
    if six.is_nobody() && !four.is_nobody() {
        return four;
    }
    if four.is_nobody() {
        return of_first(four, six);
    }
    Host {
        until: four.until.into_iter().chain(six.until).min(),
        answered: four.answered || six.answered,
        nobody: None,
        trouble: four.trouble.or(six.trouble),
        ips: four.ips.into_iter().chain(six.ips).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn these(all: &[&str]) -> Said {
        let all = all.iter().map(|ip| ip.parse().unwrap());
        Said::These(all.collect(), Instant::now())
    }

    fn failed() -> Said {
        Said::Failed("no answer".to_owned())
    }

    fn nobody() -> Said {
        Said::Nobody("no records".to_owned())
    }

    fn auto(held: &mut Held, four: Said, six: Said) -> Host {
        let first = held.take("shop", Family::Ipv4, four);
        match first.is_nobody() {
            true => of_first(first, held.take("shop", Family::Ipv6, six)),
            false => first,
        }
    }

    fn both(held: &mut Held, four: Said, six: Said) -> Host {
        let four = held.take("shop", Family::Ipv4, four);
        of_both(four, held.take("shop", Family::Ipv6, six))
    }

    /// Who, whether all of it is new, or why nothing is.
    fn told(host: Host) -> Result<(Vec<String>, bool), String> {
        let host = host.told()?;
        let is_new = host.trouble().is_none();
        Ok((host.ips().iter().map(ToString::to_string).collect(), is_new))
    }

    fn of(all: &[&str], new: bool) -> Result<(Vec<String>, bool), String> {
        Ok((all.iter().map(ToString::to_string).collect(), new))
    }

    #[test]
    fn a_failure_is_no_absence() {
        let mut held = Held::default();
        // Until something is known of version 4, 6 is better than nobody.
        assert_eq!(
            told(auto(&mut held, failed(), these(&["::6"]))),
            of(&["::6"], true)
        );
        assert_eq!(
            told(auto(&mut held, these(&["4.4.4.4"]), nobody())),
            of(&["4.4.4.4"], true)
        );
        assert_eq!(
            told(auto(&mut held, failed(), these(&["::6"]))),
            Err("no answer".to_owned()),
            "what was said last holds"
        );
        assert_eq!(
            told(auto(&mut held, nobody(), these(&["::6"]))),
            of(&["::6"], true)
        );
        assert_eq!(
            told(auto(&mut held, nobody(), failed())),
            Err("no answer".to_owned())
        );
        assert_eq!(
            told(auto(&mut held, nobody(), nobody())),
            Err("no records".to_owned())
        );
    }

    #[test]
    fn of_both_families_the_one_that_fails_keeps_its_own() {
        let mut held = Held::default();
        assert_eq!(
            told(both(&mut held, these(&["4.4.4.4"]), failed())),
            of(&["4.4.4.4"], true),
            "nobody misses what was never there"
        );
        let two = of(&["4.4.4.4", "::6"], true);
        assert_eq!(
            told(both(&mut held, these(&["4.4.4.4"]), these(&["::6"]))),
            two
        );
        assert_eq!(
            told(both(&mut held, failed(), these(&["::7"]))),
            of(&["4.4.4.4", "::7"], false)
        );
        assert_eq!(
            told(both(&mut held, failed(), failed())),
            Err("no answer".to_owned())
        );
        assert_eq!(
            told(both(&mut held, these(&["4.4.4.4"]), nobody())),
            of(&["4.4.4.4"], true)
        );
        assert_eq!(
            told(both(&mut held, nobody(), nobody())),
            Err("no records".to_owned())
        );
    }

    #[test]
    fn hosts_that_are_named_no_more_are_forgotten() {
        let mut held = Held::default();
        held.take("a", Family::Ipv4, these(&["4.4.4.4"]));
        held.take("b", Family::Ipv4, these(&["5.5.5.5"]));
        held.keep(&["b".to_owned()]);
        assert!(held.take("a", Family::Ipv4, failed()).is_nobody());
        assert!(!held.take("b", Family::Ipv4, failed()).is_nobody());
    }
}
