//! Whose word is taken for whom: networks of balancers and proxies in front.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

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

    pub(crate) fn word(&self, of: IpAddr) -> Word {
        match &self.forwarded {
            None => Word::Usual,
            Some(networks) if networks.iter().any(|network| network.has(of)) => Word::Believed,
            Some(_) => Word::Stranger,
        }
    }
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
