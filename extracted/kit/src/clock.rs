//! Time as stored (UTC) and as spoken (the shop's local time).
//!
//! Owns both texts: the database holds `YYYY-MM-DDTHH:MM:SSZ`, the answers show
//! `YYYY-MM-DD HH:MM:SS` at UTC+01:00 all year, because the clients of the old shop expect it.
//! Refuses fractions of seconds: neither side has ever shown them.

use time::format_description::BorrowedFormatItem;
use time::macros::{format_description, offset};
use time::{OffsetDateTime, PrimitiveDateTime, UtcOffset};

/// The shop's clock, without summer time.
const SHOP_OFFSET: UtcOffset = offset!(+1);

const UTC_TEXT: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
const LOCAL_TEXT: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");

/// A point in time, to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(OffsetDateTime);

impl Instant {
    /// Now, by this machine's clock.
    #[must_use]
    pub fn now() -> Instant {
        let now = OffsetDateTime::now_utc();
        Instant(now.replace_nanosecond(0).unwrap_or(now))
    }

    /// From Unix seconds; `None` outside the years that the texts can hold.
    #[must_use]
    pub fn from_unix(seconds: i64) -> Option<Instant> {
        OffsetDateTime::from_unix_timestamp(seconds)
            .ok()
            .map(Instant)
            .filter(|at| {
                // One day at either end is left for the shift to local time.
                (0..=9998).contains(&at.0.year())
            })
    }

    /// From the text in the database; `None` when it is not `YYYY-MM-DDTHH:MM:SSZ`.
    #[must_use]
    pub fn parse_utc(text: &str) -> Option<Instant> {
        let at = PrimitiveDateTime::parse(text, UTC_TEXT).ok()?.assume_utc();
        Instant::from_unix(at.unix_timestamp())
    }

    /// Unix seconds.
    #[must_use]
    pub fn unix(self) -> i64 {
        self.0.unix_timestamp()
    }

    /// The text for the database.
    #[must_use]
    pub fn utc(self) -> String {
        self.0
            .format(UTC_TEXT)
            .expect("every year within bounds can be written")
    }

    /// The text for a client, at the shop's clock.
    #[must_use]
    pub fn local(self) -> String {
        self.0
            .to_offset(SHOP_OFFSET)
            .format(LOCAL_TEXT)
            .expect("every year within bounds can be written")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn local_time_is_one_hour_ahead_all_year() {
        for (utc, local) in [
            ("2025-01-31T23:30:00Z", "2025-02-01 00:30:00"),
            ("2025-07-01T12:00:00Z", "2025-07-01 13:00:00"),
            ("2024-12-31T23:59:59Z", "2025-01-01 00:59:59"),
        ] {
            let at = Instant::parse_utc(utc).unwrap();
            assert_eq!((at.utc().as_str(), at.local().as_str()), (utc, local));
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "2025-01-31 23:30:00",
            "2025-02-30T00:00:00Z",
            "2025-01-31T23:30:00.5Z",
        ] {
            assert_eq!(Instant::parse_utc(text), None, "{text}");
        }
        assert_eq!(Instant::from_unix(i64::MAX), None);
    }

    proptest! {
        #[test]
        fn seconds_survive_the_round_trip(seconds in -62_000_000_000i64..250_000_000_000) {
            let at = Instant::from_unix(seconds).unwrap();
            prop_assert_eq!(Instant::parse_utc(&at.utc()), Some(at));
            let local = PrimitiveDateTime::parse(&at.local(), LOCAL_TEXT).unwrap();
            prop_assert_eq!(local.assume_offset(SHOP_OFFSET).unix_timestamp(), seconds);
        }
    }
}
