//! Clock times of a named zone and the instants that they stand for. Pure: the rules of all zones are
//! compiled in, so that two machines have the same.
//!
//! Twice a year a zone's clock tells no instant: an hour that it leaves out, and one that it shows
//! twice. Only what comes back the same has a counterpart here; all else is refused with the reason.

use std::fmt;
use std::str::FromStr;

use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp};
use time::PrimitiveDateTime;

use crate::transform::{Unmappable, no_time, parse_time, print_time};
use crate::value::Cell;

/// A time zone that has a name, e.g. `Europe/Berlin`.
#[derive(Clone, PartialEq, Eq)]
pub struct Zone(TimeZone);

/// What a time stands for that a zone's clock shows twice, when it is put back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ambiguous {
    /// Nobody knows: its row is parked.
    #[default]
    Park,
    /// The first of the two.
    Earlier,
    /// The second of the two.
    Later,
}

impl Ambiguous {
    fn word(self) -> &'static str {
        match self {
            Self::Park => "park",
            Self::Earlier => "earlier",
            Self::Later => "later",
        }
    }
}

impl FromStr for Zone {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        // A zone that says of itself that it is not known is no clock.
        let found = TimeZoneDatabase::bundled()
            .get(name)
            .ok()
            .filter(|zone| !zone.is_unknown());
        found
            .map(Self)
            .ok_or_else(|| format!("`{name}` is no time zone"))
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.iana_name().unwrap_or("UTC"))
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A legacy column's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wall {
    pub(crate) zone: Zone,
    pub(crate) ambiguous: Ambiguous,
}

impl Wall {
    /// `2026-06-01 12:00:00` -> `2026-06-01T10:00:00Z`.
    ///
    /// # Errors
    /// When no instant, or none for sure, has this time.
    pub(crate) fn to_utc(&self, value: &Cell) -> Result<Cell, Unmappable> {
        let (at, rest) = read(value, ' ', "")?;
        let there = self.instant(at).map_err(|why| {
            let shown = print_time(at, ' ', &rest, "");
            Unmappable(format!("'{shown}' {why}"))
        })?;
        Ok(Cell::Text(print_time(there, 'T', &rest, "Z")))
    }

    /// `2026-06-01T10:00:00Z` -> `2026-06-01 12:00:00`.
    ///
    /// # Errors
    /// When the time would not come back as this instant.
    pub(crate) fn to_local(&self, value: &Cell) -> Result<Cell, Unmappable> {
        let (at, rest) = read(value, 'T', "Z")?;
        let zone = &self.zone;
        let shown = print_time(at, 'T', &rest, "Z");
        let beyond = || Unmappable(format!("'{shown}' is beyond the clocks of {zone}"));
        let instant = Offset::UTC
            .to_timestamp(civil(at).ok_or_else(beyond)?)
            .map_err(|_| beyond())?;
        let there = moved(at, self.zone.0.to_offset(instant)).ok_or_else(beyond)?;
        let local = || print_time(there, ' ', &rest, "");
        match self.instant(there) {
            Ok(back) if back == at => Ok(Cell::Text(local())),
            Ok(back) => Err(Unmappable(format!(
                "'{shown}' is '{}' in {zone}, which would come back as '{}' (`ambiguous = \"{}\"`)",
                local(),
                print_time(back, 'T', &rest, "Z"),
                self.ambiguous.word(),
            ))),
            Err(why) => Err(Unmappable(format!(
                "'{shown}' is '{}', which {why}",
                local()
            ))),
        }
    }

    /// In UTC, or why not.
    fn instant(&self, at: PrimitiveDateTime) -> Result<PrimitiveDateTime, String> {
        let zone = &self.zone;
        let beyond = || format!("is beyond the clocks of {zone}");
        let local = civil(at).ok_or_else(beyond)?;
        let offset = match (
            zone.0.to_ambiguous_timestamp(local).offset(),
            self.ambiguous,
        ) {
            (AmbiguousOffset::Unambiguous { offset }, _) => offset,
            (AmbiguousOffset::Gap { .. }, _) => {
                return Err(format!("was never shown by the clocks of {zone}"));
            }
            (AmbiguousOffset::Fold { before, .. }, Ambiguous::Earlier) => before,
            (AmbiguousOffset::Fold { after, .. }, Ambiguous::Later) => after,
            (AmbiguousOffset::Fold { .. }, Ambiguous::Park) => {
                return Err(format!(
                    "was shown twice by the clocks of {zone}: `ambiguous` may say which is meant"
                ));
            }
        };
        moved(at, -offset).ok_or_else(beyond)
    }

    /// What is to be known of it before a copy, from this moment on; `None` where the clock is never
    /// put back any more.
    pub(crate) fn advice(&self, now_ms: i64) -> Option<(String, String)> {
        let now = Timestamp::from_millisecond(now_ms).ok()?;
        let zone = &self.zone;
        let mut before = zone.0.to_offset(now);
        // Zones that still change do so within some years.
        let fold = zone.0.following(now).take(16).find_map(|next| {
            let was = std::mem::replace(&mut before, next.offset());
            (next.offset() < was).then(|| next.offset().to_datetime(next.timestamp()))
        })?;
        let (what, fix) = match self.ambiguous {
            Ambiguous::Park => (
                "rows with such a time are parked, either way",
                "write `ambiguous = \"earlier\"` or `\"later\"` if one of them is meant",
            ),
            Ambiguous::Earlier => (
                "the earlier of the two instants is meant, and rows with the later one are parked on the \
                 way back",
                "leave it so, or have the legacy column keep UTC",
            ),
            Ambiguous::Later => (
                "the later of the two instants is meant, and rows with the earlier one are parked on the \
                 way back",
                "leave it so, or have the legacy column keep UTC",
            ),
        };
        let fold = print_time(primitive(fold)?, ' ', "", "");
        let what = format!("the clocks of {zone} show times twice, next from '{fold}' on: {what}");
        Some((what, fix.to_owned()))
    }
}

fn read(value: &Cell, middle: char, end: &str) -> Result<(PrimitiveDateTime, String), Unmappable> {
    let found = match value {
        Cell::Text(text) => parse_time(text, middle, end),
        _ => None,
    };
    found.ok_or_else(|| no_time(value, middle, end))
}

fn civil(at: PrimitiveDateTime) -> Option<DateTime> {
    let small = |n: u8| i8::try_from(n).ok();
    DateTime::new(
        i16::try_from(at.year()).ok()?,
        small(u8::from(at.month()))?,
        small(at.day())?,
        small(at.hour())?,
        small(at.minute())?,
        small(at.second())?,
        0,
    )
    .ok()
}

fn primitive(at: DateTime) -> Option<PrimitiveDateTime> {
    let small = |n: i8| u8::try_from(n).ok();
    let month = time::Month::try_from(small(at.month())?).ok()?;
    let date =
        time::Date::from_calendar_date(i32::from(at.year()), month, small(at.day())?).ok()?;
    let clock =
        time::Time::from_hms(small(at.hour())?, small(at.minute())?, small(at.second())?).ok()?;
    Some(PrimitiveDateTime::new(date, clock))
}

/// `None` beyond the years of four digits.
fn moved(at: PrimitiveDateTime, by: Offset) -> Option<PrimitiveDateTime> {
    let by = time::Duration::seconds(SignedDuration::from(by).as_secs());
    at.checked_add(by)
        .filter(|at| (0..=9999).contains(&at.year()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wall(zone: &str, ambiguous: Ambiguous) -> Wall {
        let zone = zone.parse().unwrap();
        Wall { zone, ambiguous }
    }

    #[test]
    fn summer_and_winter() {
        let berlin = wall("Europe/Berlin", Ambiguous::Park);
        for (local, utc) in [
            ("2026-06-01 12:00:00", "2026-06-01T10:00:00Z"),
            ("2026-01-01 00:30:00.123456", "2025-12-31T23:30:00.123456Z"),
            ("2026-03-29 01:59:59.9", "2026-03-29T00:59:59.9Z"),
            ("2026-03-29 03:00:00", "2026-03-29T01:00:00Z"),
            ("2026-10-25 01:59:59", "2026-10-24T23:59:59Z"),
            ("2026-10-25 03:00:00", "2026-10-25T02:00:00Z"),
            // By the sun, before there were zones.
            ("1880-01-01 00:00:00", "1879-12-31T23:06:32Z"),
            ("2500-07-01 12:00:00", "2500-07-01T10:00:00Z"),
        ] {
            assert_eq!(berlin.to_utc(&local.into()), Ok(utc.into()), "{local}");
            assert_eq!(berlin.to_local(&utc.into()), Ok(local.into()), "{utc}");
        }
    }

    #[test]
    fn an_hour_that_is_shown_twice() {
        let first = "2026-10-25T00:30:00Z";
        let second = "2026-10-25T01:30:00Z";
        let local = Cell::from("2026-10-25 02:30:00");
        for (ambiguous, meant) in [
            (Ambiguous::Park, None),
            (Ambiguous::Earlier, Some(first)),
            (Ambiguous::Later, Some(second)),
        ] {
            let berlin = wall("Europe/Berlin", ambiguous);
            assert_eq!(berlin.to_utc(&local).ok(), meant.map(Cell::from));
            for instant in [first, second] {
                let back = berlin.to_local(&instant.into()).ok();
                let same = meant == Some(instant);
                assert_eq!(back, same.then(|| local.clone()), "{instant} {ambiguous:?}");
            }
        }
    }

    #[test]
    fn reasons_name_the_zone_and_the_way_out() {
        let berlin = |ambiguous| wall("Europe/Berlin", ambiguous);
        let why = |made: Result<Cell, Unmappable>| made.unwrap_err().to_string();
        assert_eq!(
            why(berlin(Ambiguous::Later).to_utc(&"2026-03-29 02:30:00".into())),
            "'2026-03-29 02:30:00' was never shown by the clocks of Europe/Berlin"
        );
        assert_eq!(
            why(berlin(Ambiguous::Park).to_utc(&"2026-10-25 02:30:00".into())),
            "'2026-10-25 02:30:00' was shown twice by the clocks of Europe/Berlin: `ambiguous` may \
             say which is meant"
        );
        assert_eq!(
            why(berlin(Ambiguous::Earlier).to_local(&"2026-10-25T01:30:00.5Z".into())),
            "'2026-10-25T01:30:00.5Z' is '2026-10-25 02:30:00.5' in Europe/Berlin, which would come \
             back as '2026-10-25T00:30:00.5Z' (`ambiguous = \"earlier\"`)"
        );
        for bad in ["2026-10-25T02:30:00", "now", "", "9999-12-31 23:59:60"] {
            assert!(berlin(Ambiguous::Park).to_utc(&bad.into()).is_err());
        }
        assert!(berlin(Ambiguous::Park).to_utc(&Cell::Int(1)).is_err());
    }

    #[test]
    fn what_is_known_before_a_copy() {
        let now = 1_790_000_000_000; // September 2026.
        let (what, _) = wall("Europe/Berlin", Ambiguous::Park).advice(now).unwrap();
        assert!(
            what.contains("next from '2026-10-25 02:00:00' on"),
            "{what}"
        );
        assert_eq!(wall("Asia/Tokyo", Ambiguous::Park).advice(now), None);
        assert_eq!(wall("UTC", Ambiguous::Park).advice(now), None);
    }

    #[test]
    fn names_of_no_zone_are_refused() {
        for name in [
            "Europe/Bern1",
            "",
            "Etc/Unknown",
            "+01:00",
            "../../etc/passwd",
        ] {
            assert!(name.parse::<Zone>().is_err(), "{name}");
        }
        assert_eq!(
            "Europe/Berlin".parse::<Zone>().unwrap().to_string(),
            "Europe/Berlin"
        );
    }

    const ZONES: [&str; 8] = [
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "Asia/Kathmandu",
        "Africa/Casablanca",
        "Pacific/Apia",
        "America/St_Johns",
        "Europe/Dublin",
    ];

    proptest! {
        /// To UTC and back is the same wherever there is one instant, and whatever is carried over
        /// comes back as it was, in either direction.
        #[test]
        fn what_is_carried_over_comes_back(
            zone in 0..ZONES.len(), policy in 0..3usize, seconds in -5_000_000_000i64..10_000_000_000,
        ) {
            let ambiguous = [Ambiguous::Park, Ambiguous::Earlier, Ambiguous::Later][policy];
            let wall = wall(ZONES[zone], ambiguous);
            let at = time::OffsetDateTime::from_unix_timestamp(seconds).unwrap();
            let at = PrimitiveDateTime::new(at.date(), at.time());
            let local: Cell = print_time(at, ' ', ".5", "").into();
            let kind = wall.zone.0.to_ambiguous_timestamp(civil(at).unwrap()).offset();
            match wall.to_utc(&local) {
                Ok(there) => prop_assert_eq!(wall.to_local(&there), Ok(local)),
                Err(_) => {
                    let one = matches!(kind, AmbiguousOffset::Unambiguous { .. });
                    prop_assert!(!one, "it is shown once");
                }
            }
            let instant: Cell = print_time(at, 'T', ".5", "Z").into();
            match wall.to_local(&instant) {
                Ok(there) => prop_assert_eq!(wall.to_utc(&there), Ok(instant)),
                Err(_) => {
                    let there = wall.zone.0.to_offset(Timestamp::from_second(seconds).unwrap());
                    let local = civil(moved(at, there).unwrap()).unwrap();
                    let kind = wall.zone.0.to_ambiguous_timestamp(local).offset();
                    let fold = matches!(kind, AmbiguousOffset::Fold { .. });
                    prop_assert!(fold, "only what is shown twice has no way back");
                }
            }
        }

        /// Around the hours in question, where a random moment seldom is.
        #[test]
        fn around_a_change_too(
            zone in 0..ZONES.len(), policy in 0..3usize, year in 1950i32..2060, after in -8_000i64..8_000, which in 0..4usize,
        ) {
            let ambiguous = [Ambiguous::Park, Ambiguous::Earlier, Ambiguous::Later][policy];
            let wall = wall(ZONES[zone], ambiguous);
            let start = Timestamp::from_second(i64::from(year - 1970) * 31_556_952).unwrap();
            let change = wall.zone.0.following(start).nth(which);
            prop_assume!(change.is_some());
            let seconds = change.unwrap().timestamp().as_second() + after;
            let at = time::OffsetDateTime::from_unix_timestamp(seconds).unwrap();
            let at = PrimitiveDateTime::new(at.date(), at.time());
            let instant: Cell = print_time(at, 'T', "", "Z").into();
            if let Ok(there) = wall.to_local(&instant) {
                prop_assert_eq!(wall.to_utc(&there), Ok(instant));
            } else {
                let there = wall.zone.0.to_offset(Timestamp::from_second(seconds).unwrap());
                let local: Cell = print_time(moved(at, there).unwrap(), ' ', "", "").into();
                let back = wall.to_utc(&local).ok();
                prop_assert_ne!(back, Some(instant));
            }
        }

        #[test]
        fn no_text_panics(text: String) {
            let wall = wall("Europe/Berlin", Ambiguous::Earlier);
            let _ = wall.to_utc(&text.clone().into());
            let _ = wall.to_local(&text.into());
        }
    }
}
