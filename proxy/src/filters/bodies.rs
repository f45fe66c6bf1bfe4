//! In which bodies links are changed on their way to a client, and what their heads say then. Pure; the
//! bytes pass through `relink.rs`.

use std::sync::Arc;

use http::HeaderValue;
use http::header::{ACCEPT_ENCODING, ACCEPT_RANGES, CONTENT_LENGTH};
use http::{HeaderMap, StatusCode};

use super::Link;
use super::compress::{MediaRange, may_change, weaken};
use crate::body::Body;
use crate::relink::{Needle, Relink};
use crate::reply::Reply;

/// Links in bodies of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodyLinks {
    needles: Arc<[Needle]>,
    types: Vec<MediaRange>,
}

impl BodyLinks {
    /// Of those links that name a host: a path alone is too many other things in a text.
    ///
    /// # Errors
    /// Says that none does.
    pub fn new(links: &[Link], types: Vec<MediaRange>) -> Result<Self, &'static str> {
        let named = links.iter().filter(|link| link.host > 0);
        let needles: Arc<[Needle]> = named
            .flat_map(|link| Needle::both(&link.from, link.host, &link.to))
            .collect();
        match needles.is_empty() {
            true => Err("none of `links` names a host, and only those are changed in bodies"),
            false => Ok(Self { needles, types }),
        }
    }

    /// Asks for what can be read.
    pub(crate) fn request(fields: &mut HeaderMap) {
        fields.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }

    pub(crate) fn apply(&self, answer: &mut Reply<Body>) {
        if answer.status() == StatusCode::NOT_MODIFIED {
            weaken(answer.headers_mut());
            return;
        }
        if !may_change(answer, &self.types) {
            return;
        }
        let relink = || Relink::new(self.needles.clone());
        answer.body_mut().relink(relink);
        let fields = answer.headers_mut();
        fields.remove(CONTENT_LENGTH);
        fields.remove(ACCEPT_RANGES);
        weaken(fields);
    }
}
