//! The proxy's own cookie: who a client is among those that reads are split by, and when it wrote last.
//!
//! It is signed and holds all there is to know, so that any proxy with the same key decides alike about a
//! client that it has never seen.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use http::HeaderValue;
use sha2::Sha256;

use crate::settings::Secret;

pub(crate) const NAME: &str = "outgrow_cohort";

/// Of the format. A proxy of another version takes what it does not know for none.
const VERSION: &str = "v1.";

/// Thirty days: a client stays on its side for the length of a usual rollout.
const SECONDS: u32 = 30 * 24 * 3_600;

const ID: usize = 16;
const TIME: usize = 6;
/// Half of HMAC-SHA256: 128 bits are not guessed, and the cookie stays short (RFC 2104 section 5).
const TAG: usize = 16;
const ALL: usize = ID + TIME + TAG;

/// So that no bytes are signed with two meanings.
const OF_COOKIES: &[u8] = b"outgrow cookie v1\0";
const OF_ADDRESSES: &[u8] = b"outgrow address v1\0";
const OF_OTHERS: &[u8] = b"outgrow cookies v1\0";
const OF_KEYS: &[u8] = b"outgrow key v1\0";

/// A client, as its cookie names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClientId([u8; ID]);

/// What a cookie says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Carried {
    pub(crate) id: ClientId,
    /// When the client's last write was answered, in milliseconds since 1970; 0 for never.
    pub(crate) wrote: u64,
    /// It was issued before cookies were signed, and is to be replaced.
    pub(crate) unsigned: bool,
}

/// What cookies are signed with. Cheap to use: the keys are prepared.
pub(crate) struct CookieKeys {
    /// The first one signs.
    all: Vec<Hmac<Sha256>>,
}

impl std::fmt::Debug for CookieKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CookieKeys(..)")
    }
}

impl CookieKeys {
    pub(crate) fn new(secrets: &[Secret]) -> Self {
        let keys = secrets.iter();
        let keys = keys.filter_map(|secret| Hmac::new_from_slice(secret.bytes()).ok());
        Self {
            all: keys.collect(),
        }
    }

    /// What a cookie says; `None` where it is forged, of another version, or none of ours. One that was
    /// issued before they were signed names its client and no more, which needs no signature: a client
    /// may come without a cookie as often as it likes.
    pub(crate) fn read(&self, value: &str) -> Option<Carried> {
        let Some(text) = value.strip_prefix(VERSION) else {
            return unsigned(value);
        };
        // Room for what the decoder thinks that it may need.
        let mut bytes = [0; ALL + 10];
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        let (said, tag) = bytes[..ALL].split_at(ID + TIME);
        let good = |key: &Hmac<Sha256>| {
            let mut mac = key.clone();
            mac.update(OF_COOKIES);
            mac.update(said);
            mac.verify_truncated_left(tag).is_ok()
        };
        if length != ALL || !self.all.iter().any(good) {
            return None;
        }
        let (id, time) = said.split_at(ID);
        Some(Carried {
            id: ClientId(id.try_into().ok()?),
            wrote: time.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
            unsigned: false,
        })
    }

    /// The cookie for a client; `None` without a key.
    pub(crate) fn issue(&self, id: ClientId, wrote: u64) -> Option<HeaderValue> {
        let value = self.value(id, wrote)?;
        let cookie = format!("{NAME}={value}; Path=/; Max-Age={SECONDS}; HttpOnly; SameSite=Lax");
        HeaderValue::try_from(cookie).ok()
    }

    pub(crate) fn value(&self, id: ClientId, wrote: u64) -> Option<String> {
        let mut bytes = [0; ALL];
        bytes[..ID].copy_from_slice(&id.0);
        bytes[ID..ID + TIME].copy_from_slice(&wrote.to_be_bytes()[8 - TIME..]);
        let tag = self.tag(OF_COOKIES, &bytes[..ID + TIME])?;
        bytes[ID + TIME..].copy_from_slice(&tag);
        Some(format!("{VERSION}{}", URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// Who has no cookie is known by its address, and stays who it is when it gets one. Of IPv6 it is
    /// the network: hosts change the other half themselves (RFC 8981).
    pub(crate) fn of_address(&self, address: IpAddr) -> ClientId {
        let tag = match address.to_canonical() {
            IpAddr::V4(four) => self.tag(OF_ADDRESSES, &four.octets()),
            IpAddr::V6(six) => self.tag(OF_ADDRESSES, &six.octets()[..8]),
        };
        ClientId(tag.unwrap_or_default())
    }

    /// Who brings cookies keeps them, and is told by them from others of its address; also who sends the
    /// same ones for ever, and keeps none of ours.
    pub(crate) fn of_cookies(&self, address: IpAddr, brought: &[u8]) -> ClientId {
        let ClientId(address) = self.of_address(address);
        let tag = self.tag(OF_OTHERS, &[&address, brought].concat());
        ClientId(tag.unwrap_or_default())
    }

    /// For a client that is known by a key of the config.
    pub(crate) fn of_key(&self, hash: u64) -> ClientId {
        let tag = self.tag(OF_KEYS, &hash.to_be_bytes());
        ClientId(tag.unwrap_or_default())
    }

    fn tag(&self, meaning: &[u8], bytes: &[u8]) -> Option<[u8; TAG]> {
        let mut mac = self.all.first()?.clone();
        mac.update(meaning);
        mac.update(bytes);
        let whole = mac.finalize().into_bytes();
        whole[..TAG].try_into().ok()
    }
}

impl ClientId {
    /// Nobody yet. What chance says is enough to spread clients; nothing is kept secret by it.
    pub(crate) fn new(chance: [u64; 2]) -> Self {
        let [one, two] = chance.map(u64::to_be_bytes);
        let mut id = [0; ID];
        id[..8].copy_from_slice(&one);
        id[8..].copy_from_slice(&two);
        Self(id)
    }

    /// As cookies were written before they were signed, so that who had one is the same client still.
    pub(crate) fn text(self) -> [u8; 2 * ID] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 2 * ID];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        text
    }
}

fn unsigned(value: &str) -> Option<Carried> {
    let digits = value.as_bytes();
    if digits.len() != 2 * ID {
        return None;
    }
    let mut id = [0; ID];
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(Carried {
        id: ClientId(id),
        wrote: 0,
        unsigned: true,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(secrets: &[&str]) -> CookieKeys {
        let secrets: Vec<Secret> = secrets.iter().map(|secret| Secret::new(*secret)).collect();
        CookieKeys::new(&secrets)
    }

    #[test]
    fn a_cookie_is_short_and_means_the_same_to_all_with_its_key() {
        let (one, other) = (keys(&["0123456789abcdef"]), keys(&["fedcba9876543210"]));
        let id = one.of_address("192.0.2.1".parse().unwrap());
        let value = one.value(id, 1_700_000_000_123).unwrap();
        assert!(value.len() <= 80 && value.starts_with("v1."), "{value}");
        let said = keys(&["0123456789abcdef"]).read(&value).unwrap();
        assert_eq!(
            (said.id, said.wrote, said.unsigned),
            (id, 1_700_000_000_123, false)
        );
        assert_eq!(other.read(&value), None);
        let both = keys(&["fedcba9876543210", "0123456789abcdef"]);
        assert_eq!(both.read(&value), Some(said), "a former key is known");
        assert_eq!(keys(&[]).read(&value), None);
        assert_eq!(keys(&[]).value(id, 0), None);
    }

    #[test]
    fn cookies_of_before_keep_their_client() {
        let keys = keys(&["0123456789abcdef"]);
        let old = "00112233445566778899aabbccddeeff";
        let said = keys.read(old).unwrap();
        assert!(said.unsigned);
        assert_eq!(&said.id.text(), old.as_bytes());
        let new = keys.read(&keys.value(said.id, 0).unwrap()).unwrap();
        assert_eq!((new.id, new.unsigned), (said.id, false));
        for odd in [
            "",
            "c",
            &old[1..],
            &old.to_uppercase(),
            "v1.",
            "v2.AAAA",
            "v1.==",
        ] {
            assert_eq!(keys.read(odd), None, "{odd}");
        }
    }

    #[test]
    fn an_address_is_one_client_however_it_is_written() {
        let keys = keys(&["0123456789abcdef"]);
        let of = |text: &str| keys.of_address(text.parse().unwrap());
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_eq!(
            of("2001:db8:1:2:3::1"),
            of("2001:db8:1:2:4:5:6:7"),
            "one network"
        );
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_fall(text in "\\PC{0,90}", tail in "[A-Za-z0-9_-]{0,60}") {
            let keys = keys(&["0123456789abcdef"]);
            prop_assert_eq!(keys.read(&format!("v1.{tail}")), None);
            if let Some(said) = keys.read(&text) {
                prop_assert!(said.unsigned);
            }
        }

        /// What is signed comes back, and one letter changed makes it none.
        #[test]
        fn a_changed_cookie_is_none(
            id: [u8; ID],
            wrote in 0..1_u64 << 48,
            at: prop::sample::Index,
            letter in "[A-Za-z0-9_.=-]",
        ) {
            let keys = keys(&["0123456789abcdef"]);
            let id = ClientId(id);
            let value = keys.value(id, wrote).unwrap();
            let said = keys.read(&value).unwrap();
            prop_assert_eq!((said.id, said.wrote), (id, wrote));
            let at = at.index(value.len());
            let changed = format!("{}{letter}{}", &value[..at], &value[at + 1..]);
            if changed != value {
                prop_assert_eq!(keys.read(&changed), None);
            }
        }
    }
}
