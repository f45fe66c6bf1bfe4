//! Answers as they are kept with a pair, and their way back to be compared again.
//!
//! What is kept is text without secrets, and no more of a body than a page can show. So not every
//! answer comes back as it was; those that do not are named, never guessed.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};

use crate::body;
use crate::compare::{self, Answer};
use crate::redact::Redactor;

/// Bytes of a body in a stored pair.
pub(crate) const BODY_KEPT: usize = 16 * 1024;

/// Longer secrets are not known as such where a body is cut.
const SECRET_MAX: usize = 1_024;

/// Bytes of all kept header fields of an answer.
const FIELDS_KEPT: usize = 4 * 1024;

/// What of an answer is kept beside its status and the text of its body.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// Those that are compared.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) trailers: Vec<(String, String)>,
    /// They were more than are kept.
    #[serde(default)]
    pub(crate) headers_cut: bool,
    pub(crate) body: Kept,
}

/// Whether the kept text is the body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kept {
    #[default]
    Whole,
    Cut,
    /// It is no text.
    Binary,
    /// Its coding could not be taken off.
    Unread,
}

impl Head {
    pub(crate) fn size(&self) -> usize {
        let fields = self.headers.iter().chain(&self.trailers);
        fields.map(|(name, value)| name.len() + value.len()).sum()
    }
}

/// The text of an answer's body and its head, fit to be kept.
pub(crate) fn keep(
    answer: &Answer,
    compared: Option<&[String]>,
    redactor: &Redactor,
    body_cap: usize,
) -> (String, Head) {
    let (text, body) = text(answer, redactor, body_cap);
    let mut room = FIELDS_KEPT;
    let mut cut = false;
    let mut fields = |headers: &HeaderMap, wanted: &dyn Fn(&str) -> bool| {
        let mut found = Vec::new();
        for (name, value) in headers.iter().filter(|(name, _)| wanted(name.as_str())) {
            let name = name.as_str();
            let value = redactor.header(name, &String::from_utf8_lossy(value.as_bytes()));
            match room.checked_sub(name.len() + value.len()) {
                Some(left) => {
                    room = left;
                    found.push((name.to_owned(), value));
                }
                None => cut = true,
            }
        }
        found
    };
    let names = compare::names(compared);
    let headers = fields(&answer.headers, &|name| names.iter().any(|one| one == name));
    let trailers = fields(&answer.trailers, &|_| true);
    let head = Head {
        headers,
        trailers,
        headers_cut: cut,
        body,
    };
    (text, head)
}

fn text(answer: &Answer, redactor: &Redactor, body_cap: usize) -> (String, Kept) {
    // Compressed bytes would show nothing, and hide what must not be kept.
    let Ok(plain) = body::decoded(&answer.headers, &answer.body, body_cap) else {
        return (String::new(), Kept::Unread);
    };
    // Cut afterwards: half a secret would not be known as one.
    let most = BODY_KEPT + SECRET_MAX;
    let some = &plain[..plain.len().min(most)];
    let mut text = redactor.text(&String::from_utf8_lossy(some));
    let is_cut = plain.len() > most || text.len() > BODY_KEPT;
    text.truncate(text.floor_char_boundary(BODY_KEPT));
    let kept = match std::str::from_utf8(&plain) {
        Err(_) => Kept::Binary,
        Ok(_) if is_cut => Kept::Cut,
        Ok(_) => Kept::Whole,
    };
    (text, kept)
}

/// The answer, as far as it was kept.
///
/// # Errors
/// Why it is not the one that was compared.
pub(crate) fn back(
    status: Option<u16>,
    head: Option<&Head>,
    text: &str,
) -> Result<Answer, &'static str> {
    let head = head.ok_or("stored by an older version")?;
    match head.body {
        _ if head.headers_cut => return Err("long headers"),
        Kept::Whole => {}
        Kept::Cut => return Err("body beyond 16 KiB"),
        Kept::Binary => return Err("body is no text"),
        Kept::Unread => return Err("body could not be read"),
    }
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    let fields = |all: &[(String, String)]| -> Option<HeaderMap> {
        let one = |(name, value): &(String, String)| {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            Some((name, HeaderValue::from_bytes(value.as_bytes()).ok()?))
        };
        all.iter().map(one).collect()
    };
    match (status, fields(&head.headers), fields(&head.trailers)) {
        (Some(status), Some(headers), Some(trailers)) => Ok(Answer {
            status,
            headers,
            body: Bytes::copy_from_slice(text.as_bytes()),
            trailers,
        }),
        _ => Err("headers could not be kept"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &[u8], headers: &[(&'static str, &'static str)]) -> Answer {
        let pair = |(name, value): &(&'static str, &'static str)| {
            let name = HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        };
        Answer {
            status: StatusCode::OK,
            headers: headers.iter().map(pair).collect(),
            body: Bytes::copy_from_slice(body),
            trailers: HeaderMap::new(),
        }
    }

    fn kept(answer: &Answer, compared: Option<&[String]>) -> (String, Head) {
        keep(answer, compared, &Redactor::new(&[]).unwrap(), 1 << 20)
    }

    #[test]
    fn an_answer_comes_back_without_secrets_and_without_what_is_not_compared() {
        let headers = [
            ("content-type", "application/json"),
            ("set-cookie", "sid=s3cret; Path=/"),
            ("x-own", "1"),
        ];
        let given = answer(br#"{"id":7,"password":"s3cret"}"#, &headers);
        let own = ["set-cookie".to_owned()];
        let (text, head) = kept(&given, Some(&own));
        let again = back(Some(200), Some(&head), &text).unwrap();
        assert_eq!(again.headers["content-type"], "application/json");
        assert_eq!(again.headers.get("x-own"), None);
        let cookie = again.headers["set-cookie"].to_str().unwrap();
        assert!(cookie.starts_with("sid=[hidden ") && cookie.ends_with("; Path=/"));
        assert!(!format!("{again:?}").contains("s3cret"));
        assert_eq!(kept(&answer(b"{}", &headers), None).1.headers.len(), 1);
    }

    #[test]
    fn what_is_not_whole_does_not_come_back() {
        let gzip = answer(b"no gzip", &[("content-encoding", "gzip")]);
        let long = "x".repeat(BODY_KEPT + 1);
        for (given, why) in [
            (answer(long.as_bytes(), &[]), "body beyond 16 KiB"),
            (answer(b"\xff\xfe", &[]), "body is no text"),
            (gzip, "body could not be read"),
        ] {
            let (text, head) = kept(&given, None);
            assert!(text.len() <= BODY_KEPT);
            assert_eq!(back(Some(200), Some(&head), &text).unwrap_err(), why);
        }
        let mut wide = answer(b"{}", &[]);
        let value = HeaderValue::try_from("y".repeat(FIELDS_KEPT)).unwrap();
        wide.headers.insert("etag", value);
        let (text, head) = kept(&wide, None);
        assert_eq!(
            back(Some(200), Some(&head), &text).unwrap_err(),
            "long headers"
        );
        assert!(back(Some(200), None, "{}").is_err());
    }
}
