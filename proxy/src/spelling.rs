//! How names of fields are spelled towards an upstream of HTTP/1.
//!
//! They mean the same in any case (RFC 9110 section 5.1), and lower case is what HTTP/2 knows. Some old
//! servers and programs behind them look for one spelling alone.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;

use crate::settings::Settings;

/// In which case names are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FieldNames {
    #[default]
    Lower,
    /// `Content-Type`.
    Title,
    /// As the client has written them; what it has not written, like `Title`.
    AsSent,
}

impl FieldNames {
    /// Names as the config has them.
    pub const ALL: [(&'static str, Self); 3] = [
        ("lower", Self::Lower),
        ("title", Self::Title),
        ("as-sent", Self::AsSent),
    ];
}

/// Whether some service is to see names as clients write them.
pub(crate) fn is_kept(settings: &Settings) -> bool {
    let services = settings.services.iter().chain([&settings.legacy]);
    services
        .map(|service| service.rules.field_names)
        .any(|names| names == FieldNames::AsSent)
}

/// The names of a request's fields as its client has written them.
#[derive(Debug, Clone)]
pub(crate) struct Spelled(Arc<[Bytes]>);

impl Spelled {
    pub(crate) fn new(names: impl Iterator<Item = Bytes>) -> Self {
        Self(names.collect())
    }

    fn of(&self, name: &str) -> Option<&Bytes> {
        let same = |own: &&Bytes| own.eq_ignore_ascii_case(name.as_bytes());
        self.0.iter().find(same)
    }
}

/// Writes fields, each with the end of its line.
pub(crate) fn write(
    out: &mut Vec<u8>,
    fields: &HeaderMap,
    how: FieldNames,
    spelled: Option<&Spelled>,
) {
    for (name, value) in fields {
        let name = name.as_str();
        let own = spelled.and_then(|spelled| spelled.of(name));
        match (how, own) {
            (FieldNames::Lower, _) => out.extend_from_slice(name.as_bytes()),
            (FieldNames::AsSent, Some(own)) => out.extend_from_slice(own),
            (FieldNames::AsSent | FieldNames::Title, _) => title(out, name),
        }
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

fn title(out: &mut Vec<u8>, name: &str) {
    let mut begins = true;
    out.extend(name.bytes().map(|byte| {
        let upper = std::mem::replace(&mut begins, byte == b'-');
        if upper {
            byte.to_ascii_uppercase()
        } else {
            byte
        }
    }));
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn names_are_spelled_as_the_service_wants_them() {
        let fields = [
            ("content-type", "a/b"),
            ("x-soapaction", "c"),
            ("te", "d"),
            ("-x", "e"),
        ];
        let fields = fields.map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        });
        let fields = HeaderMap::from_iter(fields);
        let sent = [&b"X-SOAPAction"[..], b"TE", b"Cookie"].map(Bytes::from_static);
        let sent = Spelled::new(sent.into_iter());
        let written = |how| {
            let mut out = Vec::new();
            write(&mut out, &fields, how, Some(&sent));
            String::from_utf8(out).unwrap()
        };
        let lower = "content-type: a/b\r\nx-soapaction: c\r\nte: d\r\n-x: e\r\n";
        assert_eq!(written(FieldNames::Lower), lower);
        let title = "Content-Type: a/b\r\nX-Soapaction: c\r\nTe: d\r\n-X: e\r\n";
        assert_eq!(written(FieldNames::Title), title);
        let own = "Content-Type: a/b\r\nX-SOAPAction: c\r\nTE: d\r\n-X: e\r\n";
        assert_eq!(written(FieldNames::AsSent), own);
    }
}
