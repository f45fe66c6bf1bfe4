//! The bodies of a pair that differs. Most such pairs are not kept, so that what is kept of a body
//! is made only where it is.

use std::sync::Arc;

use crate::body;
use crate::compare::Answer;
use crate::redact::Redactor;

/// Bytes of a body in a stored pair.
const BODY_KEPT: usize = 16 * 1024;

/// Longer secrets are not known as such where a body is cut.
const SECRET_MAX: usize = 1_024;

/// Both answers, as they came.
#[derive(Debug, Clone)]
pub(crate) struct Bodies {
    pub(crate) redactor: Arc<Redactor>,
    /// The bound of a copied body.
    pub(crate) cap: usize,
    pub(crate) legacy: Option<Answer>,
    pub(crate) extracted: Option<Answer>,
}

impl Bodies {
    /// What is kept of them, without secrets.
    pub(crate) fn kept(&self) -> [String; 2] {
        [&self.legacy, &self.extracted].map(|side| match side {
            Some(answer) => self.text(answer),
            None => String::new(),
        })
    }

    fn text(&self, answer: &Answer) -> String {
        // Compressed bytes would show nothing, and hide what must not be kept.
        let plain = body::decoded(&answer.headers, &answer.body, self.cap).unwrap_or_default();
        // Cut afterwards: half a secret would not be known as one.
        let bytes = &plain[..plain.len().min(BODY_KEPT + SECRET_MAX)];
        let mut text = self.redactor.text(&String::from_utf8_lossy(bytes));
        text.truncate(text.floor_char_boundary(BODY_KEPT));
        text
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};

    use super::*;

    #[test]
    fn bodies_are_cut_and_secrets_at_the_cut_are_known() {
        let filler = "x".repeat(BODY_KEPT - 30);
        let text = format!("{{\"a\":\"{filler}\",\"password\":\"hunter2hunter2\",\"b\":1}}");
        let bodies = Bodies {
            redactor: Arc::new(Redactor::new(&[]).unwrap()),
            cap: 1 << 20,
            legacy: Some(Answer {
                status: StatusCode::OK,
                headers: HeaderMap::new(),
                body: Bytes::from(text),
                trailers: HeaderMap::new(),
            }),
            extracted: None,
        };
        let [legacy, extracted] = bodies.kept();
        assert_eq!((legacy.len(), extracted.as_str()), (BODY_KEPT, ""));
        assert!(!legacy.contains("hunter"), "{}", &legacy[BODY_KEPT - 60..]);
    }
}
