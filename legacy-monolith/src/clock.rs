//! The shop's clock: local time as text, UTC+01:00 all year.
//!
//! Owns the one text form of a timestamp in the database and in every answer. Refuses time zones,
//! daylight saving and fractions of a second: the shop has never had them.

use time::format_description::BorrowedFormatItem;
use time::macros::{format_description, offset};
use time::{OffsetDateTime, PrimitiveDateTime, UtcOffset};

const FORMAT: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
const SHOP: UtcOffset = offset!(+1);

/// Now, as the shop writes it.
pub(crate) fn now() -> String {
    text(OffsetDateTime::now_utc())
}

/// Now plus some seconds, as the shop writes it.
pub(crate) fn in_seconds(seconds: i64) -> String {
    text(OffsetDateTime::now_utc() + time::Duration::seconds(seconds))
}

/// Unix seconds as the shop writes them.
pub(crate) fn local(unix: i64) -> String {
    text(OffsetDateTime::from_unix_timestamp(unix).unwrap_or(OffsetDateTime::UNIX_EPOCH))
}

/// The unix seconds of a local text; `None` when it is not one.
pub(crate) fn unix(local: &str) -> Option<i64> {
    let plain = PrimitiveDateTime::parse(local, FORMAT).ok()?;
    Some(plain.assume_offset(SHOP).unix_timestamp())
}

fn text(at: OffsetDateTime) -> String {
    // Writing numbers into a string cannot fail; the fallback keeps a panic out of reach anyway.
    at.to_offset(SHOP)
        .format(FORMAT)
        .unwrap_or_else(|_| String::from("1970-01-01 01:00:00"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_text_is_an_hour_ahead_of_utc_and_round_trips() {
        assert_eq!(local(0), "1970-01-01 01:00:00");
        // Summer too: the shop never moved its clocks.
        assert_eq!(local(1_751_328_000), "2025-07-01 01:00:00");
        assert_eq!(unix("2025-07-01 01:00:00"), Some(1_751_328_000));
        assert_eq!(unix("2025-07-01T01:00:00Z"), None);
    }
}
