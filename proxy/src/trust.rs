//! Whose word is taken for whom: networks of balancers and proxies in front.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use http::header::FORWARDED;
use http::{HeaderMap, HeaderValue};

use crate::core::Peer;
use crate::headers::FORWARDED_FOR;

/// An address, or all addresses that begin like it: `10.0.0.0/8`, `::1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// Whom the proxy believes what about clients.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// Connections from there begin with a PROXY head.
    pub preface: Vec<Network>,
    /// What clients from elsewhere say in `X-Forwarded-*` and `Forwarded` is taken off. `None`
    /// believes everybody.
    pub forwarded: Option<Vec<Network>>,
}

/// What becomes of a client's `X-Forwarded-*` and `Forwarded`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// `X-Forwarded-*` is believed; of `Forwarded` nobody knows, so it stays as it is.
    Usual,
    /// Both are, and grow.
    Believed,
    Stranger,
}

impl Trust {
    /// Whether a connection from there must begin with a PROXY head.
    pub(crate) fn wants_preface(&self, from: IpAddr) -> bool {
        self.preface.iter().any(|network| network.has(from))
    }

    /// The client's own address, as far as it is known, of a head that was prepared: the last one in
    /// `X-Forwarded-For` that nobody of the trusted proxies has, or in `Forwarded` where such a proxy has told
    /// only that. Where everybody is believed it is the one that whoever is connected has told.
    pub(crate) fn client(&self, peer: &Peer, fields: &HeaderMap) -> IpAddr {
        if peer.word == Word::Stranger {
            return peer.ip;
        }
        let chain = fields.get(FORWARDED_FOR).map(HeaderValue::as_bytes);
        let chain = std::str::from_utf8(chain.unwrap_or_default()).unwrap_or_default();
        // The last one is whoever is connected.
        let mut told = chain.rsplit(',').skip(1).peekable();
        if peer.word == Word::Believed && told.peek().is_none() {
            let chain = forwarded(fields);
            return self.walk(peer.ip, chain.iter().rev().skip(1).map(String::as_str));
        }
        self.walk(peer.ip, told)
    }

    /// The same of a head as it came, where a trusted proxy is connected, and `None` where none is.
    pub(crate) fn told(&self, peer: &Peer, fields: &HeaderMap) -> Option<IpAddr> {
        if peer.word != Word::Believed {
            return None;
        }
        if !fields.contains_key(FORWARDED_FOR) {
            let chain = forwarded(fields);
            return Some(self.walk(peer.ip, chain.iter().rev().map(String::as_str)));
        }
        let texts = fields.get_all(FORWARDED_FOR).iter().rev();
        let texts = texts.map(|text| text.to_str().unwrap_or_default());
        Some(self.walk(peer.ip, texts.flat_map(|text| text.rsplit(','))))
    }

    /// The first of these, from the nearest on, that is none of ours; where all are, the farthest.
    fn walk<'a>(&self, connected: IpAddr, told: impl Iterator<Item = &'a str>) -> IpAddr {
        let ours = self.forwarded.as_deref().unwrap_or_default();
        let mut client = connected;
        for told in told {
            let Some(address) = read_address(told.trim()) else {
                break;
            };
            client = address;
            if !ours.iter().any(|network| network.has(address)) {
                break;
            }
        }
        client
    }

    pub(crate) fn word(&self, of: IpAddr) -> Word {
        match &self.forwarded {
            None => Word::Usual,
            Some(networks) if networks.iter().any(|network| network.has(of)) => Word::Believed,
            Some(_) => Word::Stranger,
        }
    }
}

/// Who has asked whom by `Forwarded` (RFC 7239, section 4), the farthest first: per element what `for` says, and
/// nothing where it says nothing.
fn forwarded(fields: &HeaderMap) -> Vec<String> {
    let mut found = Vec::new();
    for line in fields.get_all(FORWARDED) {
        let mut rest = line.to_str().unwrap_or_default();
        loop {
            let (element, after) = element(rest);
            found.push(element);
            match after {
                Some(after) => rest = after,
                None => break,
            }
        }
    }
    found
}

/// What `for` says in the first element, and what comes behind it.
fn element(text: &str) -> (String, Option<&str>) {
    let (mut name, mut value, mut told) = (String::new(), String::new(), String::new());
    let (mut in_value, mut quoted, mut escaped) = (false, false, false);
    let mut end = None;
    for (at, letter) in text.char_indices() {
        match letter {
            _ if escaped => {
                value.push(letter);
                escaped = false;
            }
            '\\' if quoted => escaped = true,
            '"' if in_value => quoted = !quoted,
            _ if quoted => value.push(letter),
            '=' if !in_value => in_value = true,
            ';' | ',' => {
                if name.trim().eq_ignore_ascii_case("for") {
                    told = std::mem::take(&mut value);
                }
                name.clear();
                value.clear();
                in_value = false;
                if letter == ',' {
                    end = text.get(at + 1..);
                    break;
                }
            }
            _ if in_value => value.push(letter),
            _ => name.push(letter),
        }
    }
    if name.trim().eq_ignore_ascii_case("for") {
        told = value;
    }
    (told, end)
}

/// With or without a port, as balancers write them.
fn read_address(text: &str) -> Option<IpAddr> {
    let bare = text.trim_matches(['[', ']']).parse();
    let with_port = || text.parse::<SocketAddr>().map(|address| address.ip());
    bare.or_else(|_| with_port()).ok()
}

/// IPv4 addresses lie among those of IPv6, as a socket for both shows them.
fn wide(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(four) => four.to_ipv6_mapped(),
        IpAddr::V6(six) => six,
    }
    .to_bits()
}

impl Network {
    /// Whether an address is of this network.
    pub fn has(&self, address: IpAddr) -> bool {
        let bits = match self.address {
            IpAddr::V4(_) => u32::from(self.bits) + 96,
            IpAddr::V6(_) => u32::from(self.bits),
        };
        let differs = wide(self.address) ^ wide(address);
        differs.leading_zeros() >= bits.min(Ipv6Addr::BITS)
    }
}

impl FromStr for Network {
    /// The rule that was broken.
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| "it is no IP address")?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                text.parse().map_err(|_| "its length is none")?
            }
            Some(_) => return Err("its length is none"),
        };
        if bits > most {
            return Err("its length is more than the address has bits");
        }
        let found = Self { address, bits };
        let tail = match address {
            IpAddr::V4(four) => {
                u128::from(four.to_bits().checked_shl(u32::from(bits)).unwrap_or(0))
            }
            IpAddr::V6(six) => six.to_bits().checked_shl(u32::from(bits)).unwrap_or(0),
        };
        if tail != 0 {
            return Err("the address has bits beyond its length");
        }
        Ok(found)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_who_no_proxy_of_ours_is() {
        let networks = |all: &[&str]| all.iter().map(|one| one.parse().unwrap()).collect();
        let ours = Trust {
            forwarded: Some(networks(&["10.0.0.0/8"])),
            ..Trust::default()
        };
        let all = Trust::default();
        for (trust, from, chain, client) in [
            (&all, "192.0.2.1", "192.0.2.1", "192.0.2.1"),
            (
                &all,
                "10.0.0.1",
                "192.0.2.9, 192.0.2.1, 10.0.0.1",
                "192.0.2.1",
            ),
            (&ours, "192.0.2.1", "203.0.113.1, 192.0.2.1", "192.0.2.1"),
            (
                &ours,
                "10.0.0.1",
                "1.1.1.1, 192.0.2.1, 10.0.0.2, 10.0.0.1",
                "192.0.2.1",
            ),
            (&ours, "10.0.0.1", "192.0.2.1:4000, 10.0.0.1", "192.0.2.1"),
            (
                &ours,
                "10.0.0.1",
                "[2001:db8::1]:40, 10.0.0.1",
                "2001:db8::1",
            ),
            (&ours, "10.0.0.1", "10.0.0.3, 10.0.0.1", "10.0.0.3"),
            (&ours, "10.0.0.1", "who, 10.0.0.2, 10.0.0.1", "10.0.0.2"),
            (&ours, "10.0.0.1", "10.0.0.1", "10.0.0.1"),
        ] {
            let peer = Peer::new(from.parse().unwrap(), crate::core::Scheme::Http, trust);
            let fields = HeaderMap::from_iter([(FORWARDED_FOR, chain.parse().unwrap())]);
            let found = trust.client(&peer, &fields);
            assert_eq!(found.to_string(), client, "{from} {chain}");
        }
    }

    #[test]
    fn a_proxy_that_tells_only_the_standard_field_is_heard() {
        let ours = Trust {
            forwarded: Some(vec!["10.0.0.0/8".parse().unwrap()]),
            ..Trust::default()
        };
        for (told, client) in [
            ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60"),
            ("For=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"),
            (
                "for=1.1.1.1, for=192.0.2.7;proto=\"a,b;for=9.9.9.9\", for=10.0.0.2",
                "192.0.2.7",
            ),
            ("proto=https;for=\"192.0.\\2.8\"", "192.0.2.8"),
            // Whoever hides itself is not known; what is before it is nobody's word.
            ("for=192.0.2.7, for=_hidden, for=10.0.0.2", "10.0.0.2"),
            ("for=192.0.2.7, for=unknown", "10.0.0.1"),
            ("for=192.0.2.7, proto=http", "10.0.0.1"),
            ("for=192.0.2.7, for=\"10.0.0.2", "192.0.2.7"),
            ("for", "10.0.0.1"),
            ("", "10.0.0.1"),
        ] {
            let peer = Peer::new(
                "10.0.0.1".parse().unwrap(),
                crate::core::Scheme::Http,
                &ours,
            );
            let mut fields = HeaderMap::from_iter([(FORWARDED, told.parse().unwrap())]);
            assert_eq!(
                ours.told(&peer, &fields).unwrap().to_string(),
                client,
                "{told}"
            );
            // As it is prepared.
            fields.append(FORWARDED, "for=10.0.0.1;proto=http".parse().unwrap());
            fields.append(FORWARDED_FOR, "10.0.0.1".parse().unwrap());
            assert_eq!(ours.client(&peer, &fields).to_string(), client, "{told}");
            let stranger = Peer::new(
                "192.0.2.1".parse().unwrap(),
                crate::core::Scheme::Http,
                &ours,
            );
            assert_eq!(ours.client(&stranger, &fields).to_string(), "192.0.2.1");
        }
    }

    #[test]
    fn addresses_are_of_networks() {
        let network = |text: &str| text.parse::<Network>();
        for (text, inside, outside) in [
            ("10.0.0.0/8", "10.255.1.2", "11.0.0.1"),
            ("10.0.0.0/8", "::ffff:10.1.1.1", "::a00:1"),
            ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
            ("0.0.0.0/0", "203.0.113.1", "2001:db8::1"),
            ("::/0", "203.0.113.1", ""),
            ("2001:db8::/33", "2001:db8:7fff::", "2001:db8:8000::"),
        ] {
            let network = network(text).unwrap();
            assert!(network.has(inside.parse().unwrap()), "{inside} in {text}");
            if !outside.is_empty() {
                assert!(
                    !network.has(outside.parse().unwrap()),
                    "{outside} in {text}"
                );
            }
        }
        assert_eq!(network("10.0.0.0/8").unwrap().to_string(), "10.0.0.0/8");
        for bad in [
            "",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "::/129",
            "a.b/8",
            "10.0.0.0/",
            "10.0.0.0/+8",
        ] {
            assert!(network(bad).is_err(), "{bad}");
        }
    }
}
