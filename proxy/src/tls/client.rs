//! Who a client is by the certificate that it has shown, and whose certificates are believed.

use std::path::PathBuf;
use std::sync::Arc;

use http::HeaderValue;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use super::CertificateError;
use super::files::{self, Seen};
use super::revoked::{self, Revocation};
use crate::auth::Claims;

/// Longer texts of subjects and names are left out: what a service is told goes into each request.
const TOLD_MAX: usize = 4 * 1_024;

/// Who checks, what tells the files from others, and when the next list of revoked ones is to come.
type Checks = (Arc<dyn ClientCertVerifier>, Seen, Option<OffsetDateTime>);

/// Whose certificates clients may show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientAuth {
    /// A file of authorities, in PEM form.
    pub ca: PathBuf,
    /// Who shows none is not served; else it is, as nobody.
    pub required: bool,
    /// Which of them were taken back; `None` asks nobody.
    pub revocation: Option<Revocation>,
}

impl ClientAuth {
    /// Whether the file can be used as it is now.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), CertificateError> {
        self.load()?;
        match &self.revocation {
            Some(revocation) if !revocation.expired => revocation.stale(),
            _ => Ok(()),
        }
    }

    /// All that it names.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let lists = self.revocation.iter().map(|of| of.lists.clone());
        std::iter::once(self.ca.clone()).chain(lists).collect()
    }

    pub(super) fn load(&self) -> Result<Checks, CertificateError> {
        let (roots, print) = files::roots(Some(&self.ca))?;
        let mut prints: Seen = print.into_iter().collect();
        let ring = Arc::new(ring::default_provider());
        let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), ring);
        let mut until = None;
        if let Some(revocation) = &self.revocation {
            let (lists, print) = revocation.load()?;
            prints.push(print);
            until = revoked::until(&lists);
            verifier = verifier.with_crls(lists);
            if !revocation.expired {
                verifier = verifier.enforce_revocation_expiration();
            }
        }
        let verifier = match self.required {
            true => verifier,
            false => verifier.allow_unauthenticated(),
        };
        let verifier = verifier.build().map_err(CertificateError::Clients)?;
        Ok((verifier, prints, until))
    }
}

/// What a verified certificate says of its client.
#[derive(Debug, PartialEq)]
pub(crate) struct Shown {
    /// For services: as other proxies write it in `X-Forwarded-Client-Cert`.
    pub(crate) field: HeaderValue,
    /// For policies, as if they were a token's.
    pub(crate) claims: Claims,
}

impl Shown {
    /// Of a certificate whose signature and times were checked. `None` where its subject cannot be read: then
    /// nobody is told of it.
    pub(crate) fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let cert = webpki::EndEntityCert::try_from(certificate).ok()?;
        let subject = names(cert.subject())?;
        let text: Vec<String> = subject.iter().rev().map(Name::text).collect();
        let text = text.join(",");
        let hash = Sha256::digest(certificate.as_ref());
        let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let plain = |name: &&str| !name.bytes().any(|byte| b"\";,".contains(&byte));
        let dns: Vec<&str> = cert.valid_dns_names().filter(plain).collect();
        let uri: Vec<&str> = cert.valid_uri_names().filter(plain).collect();
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        let mut field = format!("Hash={hash};Subject=\"{quoted}\"");
        for (key, names) in [("URI", &uri), ("DNS", &dns)] {
            for name in names {
                field.push_str(&format!(";{key}={name}"));
            }
        }
        if field.len() > TOLD_MAX {
            return None;
        }
        let all = |kind: &str| -> Vec<&str> {
            let own = subject.iter().filter(|name| name.kind == kind);
            own.map(|name| name.value.as_str()).collect()
        };
        let mut claims = Map::from_iter([
            ("sub".to_owned(), Value::from(text)),
            ("o".to_owned(), all("O").into()),
            ("ou".to_owned(), all("OU").into()),
            ("dns".to_owned(), dns.into()),
            ("uri".to_owned(), uri.into()),
            ("sha256".to_owned(), hash.into()),
        ]);
        if let [.., last] = all("CN")[..] {
            claims.insert("cn".to_owned(), last.into());
            claims.insert("name".to_owned(), last.into());
        }
        Some(Self {
            field: HeaderValue::try_from(field).ok()?,
            claims: claims.into(),
        })
    }
}

/// One part of a subject.
#[derive(Debug, PartialEq, Eq)]
struct Name {
    kind: String,
    value: String,
}

impl Name {
    /// As RFC 4514 writes it, and what is not ASCII in its escapes.
    fn text(&self) -> String {
        let mut text = format!("{}=", self.kind);
        let last = self.value.len().saturating_sub(1);
        for (at, byte) in self.value.bytes().enumerate() {
            let edge = at == 0 && matches!(byte, b' ' | b'#') || at == last && byte == b' ';
            match byte {
                b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => {
                    text.push('\\');
                    text.push(char::from(byte));
                }
                b' '..=b'~' if !edge => text.push(char::from(byte)),
                _ => text.push_str(&format!("\\{byte:02X}")),
            }
        }
        text
    }
}

/// The parts of a subject (RFC 5280 section 4.1.2.6), without its outermost tag.
fn names(mut der: &[u8]) -> Option<Vec<Name>> {
    let mut found = Vec::new();
    while !der.is_empty() {
        let mut set = tagged(&mut der, 0x31)?;
        while !set.is_empty() {
            let mut pair = tagged(&mut set, 0x30)?;
            let kind = kind(tagged(&mut pair, 0x06)?);
            let (tag, bytes) = take(&mut pair)?;
            found.push(Name {
                kind,
                value: string(tag, bytes)?,
            });
        }
    }
    Some(found)
}

pub(super) fn tagged<'a>(der: &mut &'a [u8], wanted: u8) -> Option<&'a [u8]> {
    let (tag, value) = take(der)?;
    (tag == wanted).then_some(value)
}

/// The next value, and its tag.
pub(super) fn take<'a>(der: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let [tag, first, rest @ ..] = *der else {
        return None;
    };
    let (length, rest) = match (*first, rest) {
        (short @ ..=0x7f, rest) => (usize::from(short), rest),
        (0x81, [length, rest @ ..]) => (usize::from(*length), rest),
        (0x82, [high, low, rest @ ..]) => (usize::from(*high) << 8 | usize::from(*low), rest),
        // Lists are long.
        (0x83, [top, high, low, rest @ ..]) => {
            let length = [*top, *high, *low].map(usize::from);
            (length[0] << 16 | length[1] << 8 | length[2], rest)
        }
        (0x84, rest) => {
            let (length, rest) = rest.split_first_chunk::<4>()?;
            (usize::try_from(u32::from_be_bytes(*length)).ok()?, rest)
        }
        _ => return None,
    };
    let (value, left) = rest.split_at_checked(length)?;
    *der = left;
    Some((*tag, value))
}

/// The short name of a kind that has one, else its number (RFC 4514 section 3).
fn kind(oid: &[u8]) -> String {
    let known = match oid {
        [85, 4, 3] => Some("CN"),
        [85, 4, 6] => Some("C"),
        [85, 4, 7] => Some("L"),
        [85, 4, 8] => Some("ST"),
        [85, 4, 9] => Some("STREET"),
        [85, 4, 10] => Some("O"),
        [85, 4, 11] => Some("OU"),
        [9, 146, 38, 137, 147, 242, 44, 100, 1, 1] => Some("UID"),
        [9, 146, 38, 137, 147, 242, 44, 100, 1, 25] => Some("DC"),
        _ => None,
    };
    if let Some(known) = known {
        return known.to_owned();
    }
    let mut numbers = Vec::new();
    let mut number = 0_u64;
    for byte in oid {
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            numbers.push(number);
            number = 0;
        }
    }
    if let Some(first) = numbers.first_mut() {
        let top = (*first / 40).min(2);
        *first -= 40 * top;
        numbers.insert(0, top);
    }
    let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    numbers.join(".")
}

/// Text of the kinds that certificates have it in.
fn string(tag: u8, bytes: &[u8]) -> Option<String> {
    match tag {
        // UTF8String; NumericString, PrintableString, IA5String and VisibleString are ASCII.
        0x0c => String::from_utf8(bytes.to_vec()).ok(),
        0x12 | 0x13 | 0x16 | 0x1a if bytes.is_ascii() => String::from_utf8(bytes.to_vec()).ok(),
        // TeletexString, in practice Latin-1.
        0x14 => Some(bytes.iter().copied().map(char::from).collect()),
        // BMPString.
        0x1e => {
            let (units, rest) = bytes.as_chunks::<2>();
            let units: Vec<u16> = units.iter().map(|unit| u16::from_be_bytes(*unit)).collect();
            String::from_utf16(&units).ok().filter(|_| rest.is_empty())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use outgrow_testkit::certificates::Authority;
    use proptest::prelude::*;
    use rustls::pki_types::pem::PemObject;

    use super::*;

    fn der(parts: &[(u8, &[u8])]) -> Vec<u8> {
        let mut all = Vec::new();
        for (tag, value) in parts {
            all.push(*tag);
            match u8::try_from(value.len()) {
                Ok(short @ ..=0x7f) => all.push(short),
                Ok(long) => all.extend([0x81, long]),
                Err(_) => {
                    all.push(0x82);
                    all.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
                }
            }
            all.extend(*value);
        }
        all
    }

    fn part(oid: &[u8], tag: u8, value: &[u8]) -> Vec<u8> {
        let pair = der(&[(0x06, oid), (tag, value)]);
        der(&[(0x31, &der(&[(0x30, &pair)]))])
    }

    #[test]
    fn a_subject_is_written_so_that_nobody_reads_another() {
        for (oid, tag, value, text) in [
            (&[85, 4, 3][..], 0x0c, &b"ann"[..], "CN=ann"),
            (
                &[85, 4, 10],
                0x13,
                b"Shop, \"Ltd\"; x",
                "O=Shop\\, \\\"Ltd\\\"\\; x",
            ),
            (&[85, 4, 3], 0x0c, "\u{e9} ".as_bytes(), "CN=\\C3\\A9\\20"),
            (&[85, 4, 3], 0x0c, b"a\r\nb\0", "CN=a\\0D\\0Ab\\00"),
            (&[85, 4, 3], 0x1e, &[0, 97, 0x20, 0xac], "CN=a\\E2\\82\\AC"),
            (&[85, 4, 3], 0x14, &[0xe9], "CN=\\C3\\A9"),
            (
                &[42, 134, 72, 134, 247, 13, 1, 9, 1],
                0x16,
                b"a@b",
                "1.2.840.113549.1.9.1=a@b",
            ),
        ] {
            let found = names(&part(oid, tag, value)).unwrap();
            assert_eq!(found[0].text(), text);
        }
        for odd in [
            &[0x31][..],
            &[0x31, 5, 0],
            &part(&[85, 4, 3], 0x0c, &[0xff]),
            &part(&[85, 4, 3], 0x02, &[1]),
            &part(&[85, 4, 3], 0x1e, &[0]),
        ] {
            assert_eq!(names(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn a_length_may_be_long() {
        for (bytes, found) in [
            (&[0x30, 0x84, 0, 0, 0, 1, 7, 9][..], Some((0x30, &[7][..]))),
            (&[0x30, 0x83, 0, 0, 1, 7, 9], Some((0x30, &[7]))),
            (&[0x30, 0x84, 0, 0, 0], None),
            (&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 7], None),
            (&[0x30, 0x85, 0, 0, 0, 0, 1, 7], None),
        ] {
            let mut rest = bytes;
            assert_eq!(take(&mut rest), found, "{bytes:?}");
            assert!(found.is_none() || rest == [9]);
        }
    }

    #[test]
    fn a_certificate_says_who_its_client_is() {
        let ca = Authority::new("ca");
        let signed = ca.client("ann");
        let cert = CertificateDer::from_pem_file(&signed.certificate).unwrap();
        let shown = Shown::read(&cert).unwrap();
        let field = shown.field.to_str().unwrap();
        assert!(
            field.starts_with("Hash=") && field.ends_with(";Subject=\"CN=ann\""),
            "{field}"
        );
        assert_eq!(
            (&shown.claims["cn"], &shown.claims["sub"]),
            (&"ann".into(), &"CN=ann".into())
        );
        let named = ca.server(&["a.example"]);
        let cert = CertificateDer::from_pem_file(&named.certificate).unwrap();
        let shown = Shown::read(&cert).unwrap();
        assert!(shown.field.to_str().unwrap().ends_with(";DNS=a.example"));
        assert_eq!(shown.claims["dns"], serde_json::json!(["a.example"]));
        assert_eq!(Shown::read(&CertificateDer::from(vec![0x30, 0])), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fall(bytes: Vec<u8>, oid: Vec<u8>, tag: u8) {
            let _ = names(&bytes);
            let _ = names(&part(&oid, tag, &bytes));
        }

        /// What a subject has in it never ends its text.
        #[test]
        fn a_value_stays_a_value(value in "\\PC{1,20}") {
            let found = names(&part(&[85, 4, 3], 0x0c, value.as_bytes())).unwrap();
            let text = found[0].text();
            let mut letters = text["CN=".len()..].chars();
            while let Some(letter) = letters.next() {
                match letter {
                    '\\' => prop_assert!(letters.next().is_some()),
                    other => prop_assert!(!"\",;+<>".contains(other) && other.is_ascii()),
                }
            }
        }
    }
}
