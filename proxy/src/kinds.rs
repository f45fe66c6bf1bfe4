//! Of which kinds the fields of a request's head are. Each name is looked at once, when it is read, and
//! mostly not even then (`inbound::head::KnownNames`): that is far cheaper than to ask a head for each field
//! wherever it would matter.

use http::header::{
    CONTENT_LENGTH, COOKIE, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, request};

use crate::headers::{self, is_hop_by_hop, is_ours};
use crate::overrides::is_override;

/// A set of kinds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Kind(u16);

impl Kind {
    pub(crate) const HOST: Self = Self(1);
    /// A host that has to be read in full.
    pub(crate) const ODD_HOST: Self = Self(1 << 1);
    pub(crate) const LENGTH: Self = Self(1 << 2);
    pub(crate) const CODING: Self = Self(1 << 3);
    /// For one hop; those that `connection` names are known by that one.
    pub(crate) const HOP: Self = Self(1 << 4);
    pub(crate) const UPGRADE: Self = Self(1 << 5);
    /// Nobody but the proxy, or somebody that it knows, may say it.
    pub(crate) const OURS: Self = Self(1 << 6);
    pub(crate) const COOKIE: Self = Self(1 << 7);
    pub(crate) const FORWARDED: Self = Self(1 << 8);
    /// Some servers take a request for another one by it.
    pub(crate) const OVERRIDE: Self = Self(1 << 9);

    /// Of a name alone.
    pub(crate) fn of(name: &HeaderName) -> Self {
        let one = |is: bool, kind: Self| if is { kind.0 } else { 0 };
        Self(
            one(*name == HOST, Self::HOST)
                | one(*name == CONTENT_LENGTH, Self::LENGTH)
                | one(*name == TRANSFER_ENCODING, Self::CODING)
                | one(is_hop_by_hop(name), Self::HOP)
                | one(*name == UPGRADE, Self::UPGRADE)
                | one(is_ours(name, false), Self::OURS)
                | one(*name == COOKIE, Self::COOKIE)
                | one(is_override(name), Self::OVERRIDE)
                | one(headers::is_forwarded(name), Self::FORWARDED),
        )
    }
}

/// What there is in one head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Kinds {
    some: u16,
    /// More than once.
    many: u16,
}

impl Kinds {
    /// Of a head that came otherwise than line by line.
    pub(crate) fn of(fields: &HeaderMap) -> Self {
        let mut kinds = Self::default();
        for (name, value) in fields {
            kinds.add(Kind::of(name), value);
        }
        kinds
    }

    pub(crate) fn add(&mut self, Kind(mut kind): Kind, value: &HeaderValue) {
        if kind & Kind::HOST.0 != 0 && !headers::is_plain_host(value.as_bytes()) {
            kind |= Kind::ODD_HOST.0;
        }
        self.many |= self.some & kind;
        self.some |= kind;
    }

    pub(crate) fn has(self, Kind(kind): Kind) -> bool {
        self.some & kind != 0
    }

    pub(crate) fn has_many(self, Kind(kind): Kind) -> bool {
        self.many & kind != 0
    }
}

/// A request as it came: its head, and what is known of its fields as long as nobody changes them.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) parts: Box<request::Parts>,
    pub(crate) kinds: Kinds,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_known_by_its_kinds() {
        let of = |fields: &[(&'static str, &'static str)]| {
            let mut all = HeaderMap::new();
            for (name, value) in fields {
                all.append(*name, HeaderValue::from_static(value));
            }
            Kinds::of(&all)
        };
        let plain = of(&[
            ("host", "shop.example:80"),
            ("accept", "*/*"),
            ("x-visitor", "v"),
        ]);
        assert!(plain.has(Kind::HOST) && !plain.has_many(Kind::HOST));
        for kind in [
            Kind::ODD_HOST,
            Kind::LENGTH,
            Kind::CODING,
            Kind::HOP,
            Kind::UPGRADE,
            Kind::OURS,
            Kind::COOKIE,
            Kind::FORWARDED,
        ] {
            assert!(!plain.has(kind), "{kind:?}");
        }
        for (name, value, kind) in [
            ("host", "a@b", Kind::ODD_HOST),
            ("content-length", "1", Kind::LENGTH),
            ("transfer-encoding", "chunked", Kind::CODING),
            ("transfer-encoding", "chunked", Kind::HOP),
            ("connection", "close", Kind::HOP),
            ("upgrade", "h2c", Kind::UPGRADE),
            ("expect", "100-continue", Kind::OURS),
            ("x-outgrow-side", "legacy", Kind::OURS),
            ("x_outgrow_identity", "me", Kind::OURS),
            ("x-outgrow-shadow", "1", Kind::OURS),
            ("x_forwarded_for", "1.1.1.1", Kind::OURS),
            ("cookie", "a=1", Kind::COOKIE),
            ("forwarded", "for=a", Kind::FORWARDED),
            ("x-forwarded-for", "1.1.1.1", Kind::FORWARDED),
            ("x-forwarded-proto", "https", Kind::FORWARDED),
            ("x-forwarded-host", "a", Kind::FORWARDED),
            ("x_forwarded_port", "1", Kind::FORWARDED),
            ("x-real-ip", "1.1.1.1", Kind::FORWARDED),
        ] {
            let one = of(&[(name, value)]);
            assert!(one.has(kind) && !one.has_many(kind), "{name}");
            assert!(of(&[(name, value), (name, value)]).has_many(kind), "{name}");
        }
    }
}
