//! The PROXY protocol: a balancer in front says, before the first request, whose connection it
//! passes on (HAProxy, "The PROXY protocol, versions 1 & 2").
//!
//! Read only from addresses that the config trusts with it, and demanded from these: whoever may
//! choose to send it could choose whom to be.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Begins version 2. A version 1 head is longer, whatever it says.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// A head of version 1 with its line end.
const TEXT_MAX: usize = 107;

/// What version 2 may add beside addresses (TLVs); balancers add some hundred bytes.
const BINARY_MAX: usize = 4_096;

/// Why a connection was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrefaceError {
    #[error("it ended within the PROXY head")]
    Io(#[from] io::Error),
    #[error("no PROXY head: {0}")]
    Malformed(&'static str),
}

/// Reads the head and nothing behind it. `None`: the balancer speaks for itself (a health check),
/// or does not know.
///
/// Not cancel safe: what was read is lost.
pub(crate) async fn read(stream: &mut TcpStream) -> Result<Option<IpAddr>, PrefaceError> {
    let mut begin = [0; SIGNATURE.len()];
    stream.read_exact(&mut begin).await?;
    if begin == SIGNATURE {
        let mut rest = [0; 4];
        stream.read_exact(&mut rest).await?;
        let length = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        if length > BINARY_MAX {
            return Err(PrefaceError::Malformed("it is too long"));
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        return binary(rest[0], rest[1], &body).map_err(PrefaceError::Malformed);
    }
    let mut line = begin.to_vec();
    // Not before it looks like one: a request would be waited for in vain.
    if !line.starts_with(b"PROXY ") {
        return Err(PrefaceError::Malformed("the connection begins otherwise"));
    }
    while line.len() < TEXT_MAX && !line.ends_with(b"\n") {
        let mut seen = [0; TEXT_MAX];
        let count = stream.peek(&mut seen[..TEXT_MAX - line.len()]).await?;
        let end = seen[..count].iter().position(|byte| *byte == b'\n');
        // At least one, so that the end of the connection is seen.
        let take = end.map_or(count, |at| at + 1).max(1);
        stream.read_exact(&mut seen[..take]).await?;
        line.extend_from_slice(&seen[..take]);
    }
    text(&line).map_err(PrefaceError::Malformed)
}

/// `PROXY TCP4 SOURCE DESTINATION SOURCE-PORT DESTINATION-PORT\r\n`.
pub(crate) fn text(line: &[u8]) -> Result<Option<IpAddr>, &'static str> {
    let line = line.strip_suffix(b"\r\n").ok_or("its line does not end")?;
    let line = std::str::from_utf8(line).map_err(|_| "it is not text")?;
    let mut words = line.split(' ').skip(1);
    let family = words.next().unwrap_or_default();
    if family == "UNKNOWN" {
        return Ok(None);
    }
    let [Some(source), Some(to), Some(port), Some(to_port), None] =
        std::array::from_fn(|_| words.next())
    else {
        return Err("it has not the words that it should have");
    };
    let is_port =
        |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
    if !is_port(port) || !is_port(to_port) {
        return Err("a port is none");
    }
    match family {
        "TCP4" => {
            let found = source
                .parse::<Ipv4Addr>()
                .ok()
                .zip(to.parse::<Ipv4Addr>().ok());
            found.map(|(source, _)| Some(source.into()))
        }
        "TCP6" => {
            let found = source
                .parse::<Ipv6Addr>()
                .ok()
                .zip(to.parse::<Ipv6Addr>().ok());
            found.map(|(source, _)| Some(source.into()))
        }
        _ => return Err("its family is unknown"),
    }
    .ok_or("an address is none")
}

pub(crate) fn binary(version: u8, family: u8, body: &[u8]) -> Result<Option<IpAddr>, &'static str> {
    match version {
        // LOCAL: the balancer's own connection; whatever the body says is to be skipped.
        0x20 => return Ok(None),
        0x21 => {}
        _ => return Err("its version or command is unknown"),
    }
    let short = "it is too short for its addresses";
    match family >> 4 {
        // UNSPEC, and AF_UNIX, which has no address that anybody could use.
        0 | 3 => Ok(None),
        1 => {
            let source = body.get(..12).and_then(|body| body.first_chunk::<4>());
            source
                .map(|source| Some(Ipv4Addr::from(*source).into()))
                .ok_or(short)
        }
        2 => {
            let source = body.get(..36).and_then(|body| body.first_chunk::<16>());
            source
                .map(|source| Some(Ipv6Addr::from(*source).into()))
                .ok_or(short)
        }
        _ => Err("its address family is unknown"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn heads_of_version_1() {
        let ok = |line: &str| text(line.as_bytes()).unwrap().map(|ip| ip.to_string());
        let tcp4 = "PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\n";
        assert_eq!(ok(tcp4).as_deref(), Some("192.0.2.7"));
        let tcp6 = "PROXY TCP6 2001:db8::1 ::1 1 65535\r\n";
        assert_eq!(ok(tcp6).as_deref(), Some("2001:db8::1"));
        assert_eq!(ok("PROXY UNKNOWN ffff::1 any thing\r\n"), None);
        assert_eq!(ok("PROXY UNKNOWN\r\n"), None);
        for bad in [
            "PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 56324\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 56324 443 x\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 192.0.2.7 10.0.0.1 1 2\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 +1 2\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 1 65536\r\n",
            "PROXY UDP4 192.0.2.7 10.0.0.1 1 2\r\n",
            "PROXY  TCP4 192.0.2.7 10.0.0.1 1 2\r\n",
        ] {
            assert!(text(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn heads_of_version_2() {
        let mut four = vec![192, 0, 2, 7, 10, 0, 0, 1, 0, 80, 1, 187];
        four.extend([4, 0, 0]); // A TLV.
        assert_eq!(binary(0x21, 0x11, &four), Ok(Some([192, 0, 2, 7].into())));
        assert_eq!(binary(0x20, 0x11, &four), Ok(None), "its own connection");
        assert_eq!(binary(0x21, 0x00, &[]), Ok(None));
        assert!(binary(0x21, 0x11, &four[..11]).is_err());
        assert!(binary(0x11, 0x11, &four).is_err());
        assert!(binary(0x22, 0x11, &four).is_err());
        let six = [1; 36];
        assert_eq!(binary(0x21, 0x21, &six), Ok(Some([1_u8; 16].into())));
        assert!(binary(0x21, 0x21, &six[..35]).is_err());
    }

    proptest! {
        #[test]
        fn nothing_makes_it_fall(version: u8, family: u8, body: Vec<u8>, line: Vec<u8>) {
            let _ = binary(version, family, &body);
            let _ = text(&line);
        }
    }
}
