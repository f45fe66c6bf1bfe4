//! How long an answer is good, and how old it is (RFC 9111 section 4.2).

use std::time::{Duration, SystemTime};

use http::header::{AGE, DATE, EXPIRES, LAST_MODIFIED};
use http::{HeaderMap, HeaderName, StatusCode};

use super::directives::{Directives, SECONDS_MAX};
use crate::moment::Moment;

/// Share of the time since it last changed for which an answer is taken to be good, where the
/// config wants guesses (RFC 9111 section 4.2.2).
const GUESS: u32 = 10;

/// Answers that may be guessed at (RFC 9110 section 15.1); parts are never kept.
const GUESSED: [u16; 10] = [200, 203, 204, 300, 301, 308, 404, 405, 410, 414];

const LONGEST: Duration = Duration::from_secs(SECONDS_MAX);

/// A time as fields have it, in any of the three formats.
pub(super) fn date(fields: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let text = fields.get(name)?.to_str().ok()?;
    httpdate::parse_http_date(text.trim()).ok()
}

/// When it was asked for, and when its head came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) asked: Moment,
    pub(crate) came: Moment,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Freshness {
    pub(super) said: Directives,
    lifetime: Duration,
    came: Moment,
    /// Its age then.
    initial: Duration,
}

impl Freshness {
    /// `guess`: how long at the most, where nothing is said; `None` guesses nothing.
    pub(crate) fn of(
        status: StatusCode,
        fields: &HeaderMap,
        Times { asked, came }: Times,
        guess: Option<Duration>,
    ) -> Self {
        let said = Directives::read(fields);
        let dated = date(fields, &DATE).unwrap_or(came.wall);
        let lifetime = if let Some(seconds) = said.lifetime() {
            Duration::from_secs(seconds)
        } else if fields.contains_key(EXPIRES) {
            // What is no time has passed.
            let at = date(fields, &EXPIRES);
            let left = at.and_then(|at| at.duration_since(dated).ok());
            left.unwrap_or_default()
        } else if let Some(most) = guess
            && (GUESSED.contains(&status.as_u16()) || said.public)
        {
            let changed = date(fields, &LAST_MODIFIED);
            let since = changed.and_then(|at| dated.duration_since(at).ok());
            (since.unwrap_or_default() / GUESS).min(most)
        } else {
            Duration::ZERO
        };
        // What the answer says is by the wall's clocks of two machines; how long it took and how long it
        // is kept is not (RFC 9111 section 4.2.3).
        let apparent = came.wall.duration_since(dated).unwrap_or_default();
        let delay = came.since(asked);
        Self {
            lifetime: lifetime.min(LONGEST),
            initial: apparent.max(told_age(fields) + delay).min(LONGEST),
            came,
            said,
        }
    }

    pub(crate) fn age(&self, now: Moment) -> Duration {
        self.initial + now.since(self.came)
    }

    /// Time that it is still good; `None` once it is stale.
    pub(crate) fn left(&self, now: Moment) -> Option<Duration> {
        let left = self.lifetime.checked_sub(self.age(now))?;
        (!left.is_zero() && !self.said.no_cache).then_some(left)
    }

    /// Whether it was ever good without being asked about.
    pub(crate) fn lasts(&self) -> bool {
        !self.said.no_cache && self.lifetime > self.initial
    }

    /// Whether a request may have it without the side being asked.
    pub(crate) fn serves(&self, wants: &Directives, now: Moment) -> bool {
        let Some(left) = self.left(now) else {
            return false;
        };
        let seconds = Duration::from_secs;
        let age = self.age(now);
        !wants.no_cache
            && wants.max_age.is_none_or(|most| age <= seconds(most))
            && wants.min_fresh.is_none_or(|least| left >= seconds(least))
    }

    /// Whether also those may have it whom the side knows.
    pub(crate) fn is_for_all(&self) -> bool {
        self.said.is_for_all()
    }

    /// Whether it may stand in for a side that fails (RFC 5861 section 4).
    pub(crate) fn stands_in(&self, wants: &Directives, now: Moment) -> bool {
        let Some(most) = self.said.stale_if_error.max(wants.stale_if_error) else {
            return false;
        };
        !self.said.is_strict() && wants.is_content() && self.over(now) <= Duration::from_secs(most)
    }

    /// Whether it may be given while the side is asked whether it is still good (RFC 5861 section 3).
    pub(crate) fn stays(&self, wants: &Directives, now: Moment) -> bool {
        let Some(most) = self.said.stale_while_revalidate else {
            return false;
        };
        !self.said.is_strict() && wants.is_content() && self.over(now) <= Duration::from_secs(most)
    }

    /// For how long it has not been good.
    pub(crate) fn over(&self, now: Moment) -> Duration {
        self.age(now).saturating_sub(self.lifetime)
    }

    /// Whether it was ever to be given while the side is asked.
    pub(super) fn ever_stays(&self) -> bool {
        self.said.stale_while_revalidate > Some(0) && !self.said.is_strict()
    }

    /// Whether those who ask next may have it, too.
    pub(crate) fn is_for_next(&self) -> bool {
        self.lasts() || self.ever_stays()
    }
}

/// What caches before this one say (RFC 9111 section 5.1): the first of several, and nothing by a
/// word that is no number.
fn told_age(fields: &HeaderMap) -> Duration {
    let told = fields.get(AGE).and_then(|value| value.to_str().ok());
    let told = told.and_then(|text| text.split(',').next()?.trim().parse::<u64>().ok());
    Duration::from_secs(told.unwrap_or_default().min(SECONDS_MAX))
}
