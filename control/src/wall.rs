//! The wall clock: what must mean the same after a restart. Time limits within one run use the
//! runtime's clock instead, which tests can pause.

use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Milliseconds since 1970. A clock before that counts as 1970.
pub(crate) fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|age| i64::try_from(age.as_millis()).ok())
        .unwrap_or(0)
}

/// The present moment as the journal writes it, in UTC.
pub(crate) fn now_text() -> String {
    let now = OffsetDateTime::now_utc();
    let whole = now.replace_millisecond(now.millisecond()).unwrap_or(now);
    whole.format(&Rfc3339).unwrap_or_default()
}

/// Time that passed since `then_ms`; zero if the clock was set back.
pub(crate) fn age_ms(then_ms: i64) -> u64 {
    u64::try_from(now_ms().saturating_sub(then_ms)).unwrap_or(0)
}
