//! Lists of certificates that were taken back before their time (RFC 5280 section 5).

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;
use time::{Date, Month, OffsetDateTime, Time};
use tracing::warn;
use webpki::OwnedCertRevocationList;

use super::client::{tagged, take};
use super::{CertificateError, files};

/// Which certificates are believed no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// One or more lists, in PEM form. Each authority of a chain has one, or the chain is not believed.
    pub lists: PathBuf,
    /// A list is believed also when the next one should have come.
    pub expired: bool,
}

/// What a file holds.
pub(super) type Lists = Vec<CertificateRevocationListDer<'static>>;

impl Revocation {
    /// The lists, and what tells the file from another one.
    pub(super) fn load(&self) -> Result<(Lists, [u8; 32]), CertificateError> {
        let (found, print) = self.read()?;
        for list in &found {
            let read = OwnedCertRevocationList::from_der(list);
            read.map_err(|source| CertificateError::List {
                path: self.lists.clone(),
                source,
            })?;
        }
        Ok((found, print))
    }

    /// The same, as they are written.
    fn read(&self) -> Result<(Lists, [u8; 32]), CertificateError> {
        let bytes = files::read(&self.lists)?;
        let found: Result<Lists, _> =
            CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
        let found = found.and_then(|found| match found.is_empty() {
            true => Err(rustls::pki_types::pem::Error::NoItemsFound),
            false => Ok(found),
        });
        let found = found.map_err(|source| CertificateError::Pem {
            path: self.lists.clone(),
            what: "revocation list",
            source,
        })?;
        Ok((found, files::fingerprint(&[&bytes])))
    }

    /// What is wrong with the time of the lists as they are now.
    pub(super) fn stale(&self) -> Result<(), CertificateError> {
        // Whether each can be used is looked at where they are: they may be long.
        let (lists, _) = self.read()?;
        match until(&lists).filter(|until| until.unix_timestamp() <= now()) {
            None => Ok(()),
            Some(since) => Err(expired(&self.lists, since)),
        }
    }
}

/// By the wall's clock, in seconds since 1970: lists say theirs so.
fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(now.unwrap_or_default().as_secs()).unwrap_or(i64::MAX)
}

/// Until when the lists are good that are in force; the file is not read for that.
#[derive(Debug)]
pub(super) struct Age(AtomicI64);

impl Age {
    pub(super) fn of(until: Option<OffsetDateTime>) -> Self {
        let age = Self(AtomicI64::new(i64::MAX));
        age.set(until);
        age
    }

    pub(super) fn set(&self, until: Option<OffsetDateTime>) {
        let until = until.map_or(i64::MAX, OffsetDateTime::unix_timestamp);
        self.0.store(until, Relaxed);
    }

    fn stale(&self, now: i64) -> Option<OffsetDateTime> {
        let until = Some(self.0.load(Relaxed)).filter(|until| *until <= now);
        until.and_then(|until| OffsetDateTime::from_unix_timestamp(until).ok())
    }

    /// Says, once each time, that a list is too old. Never ends.
    pub(super) async fn watch(&self, of: &Revocation, every: Duration) {
        let mut tick = tokio::time::interval(every);
        let mut told = false;
        loop {
            tick.tick().await;
            let stale = self.stale(now());
            if let Some(since) = stale
                && !told
            {
                let why = expired(&of.lists, since);
                let refused = !of.expired;
                warn!(%why, refused, "the list of revoked certificates of clients is too old");
            }
            told = stale.is_some();
        }
    }
}

fn expired(path: &Path, since: OffsetDateTime) -> CertificateError {
    CertificateError::Expired {
        path: path.to_owned(),
        since,
    }
}

/// When the first of them is to be followed by the next one.
pub(super) fn until(lists: &Lists) -> Option<OffsetDateTime> {
    lists.iter().filter_map(|list| next_update(list)).min()
}

/// When the next list is to come.
fn next_update(list: &[u8]) -> Option<OffsetDateTime> {
    let mut rest = list;
    let mut whole = tagged(&mut rest, 0x30)?;
    let mut list = tagged(&mut whole, 0x30)?;
    // The version may be left out. Then the algorithm, the issuer, and since when it is.
    if list.first() == Some(&0x02) {
        take(&mut list)?;
    }
    for _ in 0..3 {
        take(&mut list)?;
    }
    let (tag, text) = take(&mut list)?;
    moment(tag, text)
}

/// A time as certificates have it: with two digits of its year up to 2049, with four behind.
fn moment(tag: u8, text: &[u8]) -> Option<OffsetDateTime> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, rest) = match tag {
        0x17 => {
            let (year, rest) = text.split_at_checked(2)?;
            let year: i32 = digits(year)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        0x18 => {
            let (year, rest) = text.split_at_checked(4)?;
            (digits(year)?, rest)
        }
        _ => return None,
    };
    let part = |at: usize| digits(rest.get(at..at + 2)?).and_then(|n| u8::try_from(n).ok());
    if rest.len() != 10 {
        return None;
    }
    let month = Month::try_from(part(0)?).ok()?;
    let date = Date::from_calendar_date(year, month, part(2)?).ok()?;
    let time = Time::from_hms(part(4)?, part(6)?, part(8)?).ok()?;
    Some(OffsetDateTime::new_utc(date, time))
}

fn digits(text: &str) -> Option<i32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use outgrow_testkit::certificates::Authority;
    use proptest::prelude::*;

    use super::*;

    /// 2040-01-01, and a day before 2060 began.
    const BOTH: [i64; 2] = [2_208_988_800, 2_840_054_400];

    #[test]
    fn a_list_says_when_the_next_one_comes() {
        let ca = Authority::new("ca");
        let many: Vec<String> = (0..5_000).map(|n| format!("client-{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        for (names, years) in [(&[][..], [2040, 2060]), (&many, [2040, 2060])] {
            for (year, at) in years.into_iter().zip([BOTH[0], BOTH[1] + 86_400]) {
                let lists = Revocation {
                    lists: ca.revokes(names, year),
                    expired: false,
                };
                let (lists, _) = lists.load().unwrap();
                let age = Age::of(until(&lists));
                assert_eq!(age.stale(at - 1), None);
                assert_eq!(age.stale(at).unwrap().unix_timestamp(), at);
                age.set(None);
                assert_eq!(age.stale(at), None);
            }
        }
    }

    #[test]
    fn times_are_those_of_the_standard() {
        for (tag, text, expected) in [
            (0x17, "400101000000Z", Some(BOTH[0])),
            (0x18, "20400101000000Z", Some(BOTH[0])),
            (0x17, "700101000000Z", Some(0)),
            (0x17, "491231235959Z", Some(2_524_607_999)),
            (0x17, "20400101000000Z", None),
            (0x18, "400101000000Z", None),
            (0x17, "401301000000Z", None),
            (0x17, "400101000000", None),
            (0x17, "4001010000+1Z", None),
            (0x02, "400101000000Z", None),
        ] {
            let found = moment(tag, text.as_bytes()).map(OffsetDateTime::unix_timestamp);
            assert_eq!(found, expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn bytes_of_any_kind_are_no_list(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            next_update(&bytes);
        }
    }
}
