//! Ids in the body of a request: values of a JSON document at paths that `ids` names. All else of
//! the body stays as the client wrote it, to the byte.

use bytes::Bytes;

use crate::json::{DEPTH_MAX, Json, Reader};
use crate::path::{Pattern, Step};

use super::AskedIds;

/// Why a side is not asked.
pub(super) const UNREAD: &str = "id-not-in-its-body";

/// What says which id another one is.
type Result<T> = std::result::Result<T, &'static str>;

/// The body with the other side's ids; `None` where it stays as it is. `other` says what an id of
/// this name is there, and nothing where it is to stay.
pub(super) fn renamed(
    body: &Bytes,
    ids: &AskedIds,
    other: impl FnMut(&str, &str) -> Result<Option<String>>,
) -> Result<Option<Bytes>> {
    let mut places = Vec::new();
    for (path, name) in ids.iter().filter(|(path, _)| path.starts_with('$')) {
        // The config has been read with these paths.
        let pattern = Pattern::parse(path).map_err(|_| UNREAD)?;
        places.push((pattern, name.as_str()));
    }
    // A request without a body names nothing in it.
    if places.is_empty() || body.is_empty() {
        return Ok(None);
    }
    let text = std::str::from_utf8(body).map_err(|_| UNREAD)?;
    let mut walk = Walk {
        reader: Reader::new(text),
        steps: Vec::new(),
        places,
        other,
        made: String::new(),
        copied: 0,
    };
    walk.value(DEPTH_MAX)?;
    if !walk.reader.is_over() {
        return Err(UNREAD);
    }
    if walk.copied == 0 {
        return Ok(None);
    }
    walk.made
        .push_str(walk.reader.part(walk.copied, text.len()));
    Ok(Some(walk.made.into()))
}

struct Walk<'a, F> {
    reader: Reader<'a>,
    steps: Vec<Step>,
    places: Vec<(Pattern, &'a str)>,
    other: F,
    made: String,
    /// As far as the text is in what is made.
    copied: usize,
}

impl<F: FnMut(&str, &str) -> Result<Option<String>>> Walk<'_, F> {
    fn value(&mut self, depth: usize) -> Result<()> {
        let depth = depth.checked_sub(1).ok_or(UNREAD)?;
        self.reader.space();
        match self.reader.peek() {
            Some(b'{') => {
                let mut more = self.reader.opens(b'{', b'}').ok_or(UNREAD)?;
                while more {
                    let name = self.reader.member().ok_or(UNREAD)?;
                    self.within(Step::Name(name), depth)?;
                    more = self.reader.goes_on(b'}').ok_or(UNREAD)?;
                }
            }
            Some(b'[') => {
                let mut more = self.reader.opens(b'[', b']').ok_or(UNREAD)?;
                let mut index = 0;
                while more {
                    self.within(Step::Index(index), depth)?;
                    index += 1;
                    more = self.reader.goes_on(b']').ok_or(UNREAD)?;
                }
            }
            _ => self.scalar()?,
        }
        Ok(())
    }

    fn within(&mut self, step: Step, depth: usize) -> Result<()> {
        self.steps.push(step);
        self.value(depth)?;
        self.steps.pop();
        Ok(())
    }

    fn scalar(&mut self) -> Result<()> {
        let from = self.reader.at();
        let value = self.reader.value(1).ok_or(UNREAD)?;
        let to = self.reader.at();
        let mut places = self.places.iter();
        let Some((_, name)) = places.find(|(place, _)| place.is_at(&self.steps)) else {
            return Ok(());
        };
        let written = self.reader.part(from, to);
        let (id, is_number) = match &value {
            Json::String(id) => (id.as_str(), false),
            Json::Number(_) => (written, true),
            // It names nothing.
            _ => return Ok(()),
        };
        let Some(new) = (self.other)(name, id)? else {
            return Ok(());
        };
        self.made.push_str(self.reader.part(self.copied, from));
        // A number stays one where it can.
        match is_number && is_integer(&new) {
            true => self.made.push_str(&new),
            false => self
                .made
                .push_str(&serde_json::Value::String(new).to_string()),
        }
        self.copied = to;
        Ok(())
    }
}

/// Whether it is written as JSON writes an integer.
fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let leads = digits.len() > 1 && digits.starts_with('0');
    !digits.is_empty() && !leads && digits.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::UNKNOWN;
    use super::*;

    fn made(body: &str, path: &str) -> Result<Option<String>> {
        let ids = [(path.to_owned(), "order".to_owned())];
        let other = |name: &str, id: &str| match (name, id) {
            ("order", "17") => Ok(Some("18".to_owned())),
            ("order", "18") => Ok(Some("a\"1".to_owned())),
            ("order", "x") => Ok(Some("007".to_owned())),
            ("order", "none") => Ok(None),
            _ => Err(UNKNOWN),
        };
        let found = renamed(&Bytes::from(body.to_owned()), &ids.into(), other)?;
        Ok(found.map(|body| String::from_utf8(body.to_vec()).unwrap()))
    }

    #[test]
    fn ids_are_replaced_and_all_else_stays_to_the_byte() {
        for (body, path, expected) in [
            (r#"{"id":17}"#, "$.id", r#"{"id":18}"#),
            (r#"{"id":"17"}"#, "$.id", r#"{"id":"18"}"#),
            (r#"{"id":18}"#, "$.id", r#"{"id":"a\"1"}"#),
            (r#"{"id":"\u0031\u0037"}"#, "$.id", r#"{"id":"18"}"#),
            (r#"["x", 17 ,{"id":1}]"#, "$[*]", r#"["007", 18 ,{"id":1}]"#),
            (
                " {\"n\" : 1.50, \"lines\":[ {\"\\u0069d\":17,\"id\" : 17}, {\"q\":1e2}]}\n",
                "$.lines[*].id",
                " {\"n\" : 1.50, \"lines\":[ {\"\\u0069d\":18,\"id\" : 18}, {\"q\":1e2}]}\n",
            ),
            (
                r#"{"a":{"id":17,"b":[{"id":18}]},"id":17}"#,
                "$..id",
                r#"{"a":{"id":18,"b":[{"id":"a\"1"}]},"id":18}"#,
            ),
            (
                r#"{"a":{"id":17},"id":17}"#,
                "$.a..id",
                r#"{"a":{"id":18},"id":17}"#,
            ),
            ("17", "$", "18"),
        ] {
            let found = made(body, path).unwrap();
            assert_eq!(found.as_deref(), Some(expected), "{body} {path}");
        }
    }

    #[test]
    fn a_body_without_such_ids_stays_and_one_that_is_not_read_is_not_sent() {
        for (body, path) in [
            ("", "$.id"),
            (r#"{"id":"none"}"#, "$.id"),
            (r#"{"id":null,"a":{"id":1}}"#, "$.id"),
            // What lies below the path is another thing.
            (r#"{"id":{"id":1}}"#, "$.id"),
            ("no document", "id"),
        ] {
            assert_eq!(made(body, path), Ok(None), "{body} {path}");
        }
        assert_eq!(made(r#"{"id":1}"#, "$.id"), Err(UNKNOWN));
        let deep = "[".repeat(10_000);
        for body in ["id=17", "{\"id\":17", "{\"id\":17} x", &deep, "{}{}"] {
            assert_eq!(made(body, "$.id"), Err(UNREAD), "{body}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_sent_is_read_and_keeps_its_form(body in "[\\[\\]{}\":,a-b17 \\\\u.-]{0,40}") {
            let made = renamed(&Bytes::from(body.clone()), &[("$..a".to_owned(), String::new())].into(), |_, id| Ok(Some(id.to_owned())));
            let read = serde_json::from_str::<serde_json::Value>(&body);
            match made {
                Ok(Some(made)) => prop_assert_eq!(serde_json::from_slice::<serde_json::Value>(&made).unwrap(), read.unwrap()),
                Ok(None) => {}
                Err(_) => prop_assert!(read.is_err(), "{}", body),
            }
        }
    }
}
