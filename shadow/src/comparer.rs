//! The comparison by itself, of two answers that somebody has: for replays, and to be measured.
//! No slice, no mirroring, no noise; the rules, the bodies and the redaction are those of live
//! traffic.

use time::Date;

use crate::compare::{Answer, By, compare};
use crate::diff::Difference;
use crate::error::Error;
use crate::redact::Redactor;
use crate::rules::{Rules, today};
use crate::settings::{ArrayRule, Rule};
use crate::tap::CapturedResponse;

/// Compares answers by rules.
#[derive(Debug)]
pub struct Comparer {
    rules: Rules,
    headers: Option<Vec<String>>,
    redactor: Redactor,
    body_cap: usize,
    today: Date,
}

/// One difference, fit to be shown: what must not be kept is replaced.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// With its indices: `$.items[3].price`.
    pub place: String,
    /// With `[*]` for every index, so that one cause has one name.
    pub path: String,
    /// `value`, `type`, `missing`, `extra`, `duplicate`, `order`, `budget`.
    pub kind: String,
    pub legacy: String,
    pub extracted: String,
}

impl Comparer {
    /// With the rules of a slice, and `redact`, further names whose values are not shown.
    ///
    /// # Errors
    /// [`Error`] for a rule that is none.
    pub fn new(
        rules: &[Rule],
        arrays: &[ArrayRule],
        headers: Option<Vec<String>>,
        redact: &[String],
        body_cap: usize,
    ) -> Result<Self, Error> {
        Ok(Self {
            rules: Rules::new(rules, arrays)?,
            headers,
            redactor: Redactor::new(redact)?,
            body_cap,
            today: today(),
        })
    }

    /// What no rule accepts.
    ///
    /// # Errors
    /// Why the two cannot be compared.
    pub fn differences(
        &self,
        legacy: &CapturedResponse,
        extracted: &CapturedResponse,
    ) -> Result<Vec<Finding>, &'static str> {
        if !legacy.whole || !extracted.whole {
            return Err("cut-off");
        }
        let by = By {
            headers: self.headers.as_deref(),
            rules: &self.rules,
            body_cap: self.body_cap,
            today: self.today,
        };
        let found = compare(&answer(legacy), &answer(extracted), by)?;
        Ok(found.into_iter().map(|one| self.shown(one)).collect())
    }

    fn shown(&self, found: Difference) -> Finding {
        let found = self.redactor.difference(found);
        Finding {
            place: found.place.to_string(),
            path: found.place.general(),
            kind: found.kind.to_owned(),
            legacy: found.legacy,
            extracted: found.extracted,
        }
    }
}

fn answer(captured: &CapturedResponse) -> Answer {
    Answer {
        status: captured.status,
        headers: captured.headers.clone(),
        body: captured.body.clone(),
        trailers: captured.trailers.clone(),
    }
}
