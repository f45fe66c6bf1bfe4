//! The bodies of a pair that differs. Most such pairs are not kept, so that what is kept of a body
//! is made only where it is.

use std::sync::Arc;

use crate::compare::Answer;
use crate::redact::Redactor;
use crate::stored::{Head, keep};

/// Both answers, as they came.
#[derive(Debug, Clone)]
pub(crate) struct Bodies {
    pub(crate) redactor: Arc<Redactor>,
    /// Those that are compared.
    pub(crate) headers: Option<Vec<String>>,
    /// The bound of a copied body.
    pub(crate) cap: usize,
    pub(crate) legacy: Option<Answer>,
    pub(crate) extracted: Option<Answer>,
}

impl Bodies {
    /// What is kept of them, without secrets.
    pub(crate) fn kept(&self) -> [(String, Option<Head>); 2] {
        let headers = self.headers.as_deref();
        [&self.legacy, &self.extracted].map(|side| match side {
            Some(answer) => {
                let (text, head) = keep(answer, headers, &self.redactor, self.cap);
                (text, Some(head))
            }
            None => (String::new(), None),
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};

    use super::*;
    use crate::stored::BODY_KEPT;

    #[test]
    fn bodies_are_cut_and_secrets_at_the_cut_are_known() {
        let filler = "x".repeat(BODY_KEPT - 30);
        let text = format!("{{\"a\":\"{filler}\",\"password\":\"hunter2hunter2\",\"b\":1}}");
        let bodies = Bodies {
            redactor: Arc::new(Redactor::new(&[]).unwrap()),
            headers: None,
            cap: 1 << 20,
            legacy: Some(Answer {
                status: StatusCode::OK,
                headers: HeaderMap::new(),
                body: Bytes::from(text),
                trailers: HeaderMap::new(),
            }),
            extracted: None,
        };
        let [(legacy, _), (extracted, _)] = bodies.kept();
        assert_eq!((legacy.len(), extracted.as_str()), (BODY_KEPT, ""));
        assert!(!legacy.contains("hunter"), "{}", &legacy[BODY_KEPT - 60..]);
    }
}
