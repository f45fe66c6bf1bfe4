//! What a side is asked where it has other ids than the one that has answered the client: ids in
//! the path, the query and the body become what the rules know they are there. What is not known is
//! not asked for.

mod body;

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use http::StatusCode;
use http::uri::PathAndQuery;
use outgrow_rollout::Side;
use percent_encoding::percent_decode_str;

use crate::error::Error;
use crate::path::Pattern;
use crate::renaming::Book;
use crate::rewrite::{escaped, plain};
use crate::settings::Writes;
use crate::slice::Slice;
use crate::tap::Exchange;
use crate::writes::Kind;

/// By a parameter of the path, one of the query with a `?` before it, or a path of the body's
/// document that begins with `$`: the name under which rules know its ids.
pub type AskedIds = BTreeMap<String, String>;

/// Looks at a key of [`AskedIds`] as such.
///
/// # Errors
/// [`Error`] for one that begins with `$` and is no path into a document.
pub fn check_asked(key: &str) -> Result<(), Error> {
    match key.starts_with('$') {
        true => Pattern::parse(key).map(drop),
        false => Ok(()),
    }
}

/// Why a side is not asked.
pub(crate) const UNKNOWN: &str = "id-not-known-yet";
const UNFIT: &str = "id-not-in-its-path";

/// What a side is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) target: PathAndQuery,
    pub(crate) body: Bytes,
    /// With an id that is the other side's, and names nothing there. Only an answer that it names
    /// nothing here either says something.
    pub(crate) is_blind: bool,
}

/// Whether an answer says that what was asked for is not there.
pub(crate) fn is_gone(status: StatusCode) -> bool {
    matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE)
}

impl Slice {
    /// What this side is asked. Clients know the ids of the side that answers them.
    ///
    /// # Errors
    /// Why it is not.
    pub(crate) fn asked(
        &self,
        (side, kind): (Side, Kind),
        exchange: &Exchange,
    ) -> Result<Asked, &'static str> {
        let asked = &exchange.request;
        let own = asked.sides.of(side);
        let ids = self.settings.flow.ids.get(&*exchange.route);
        let Some(ids) = ids.filter(|_| side != exchange.primary) else {
            return Ok(Asked {
                target: own.unwrap_or(&asked.target).clone(),
                body: asked.body.clone(),
                is_blind: false,
            });
        };
        let book = match kind {
            Kind::Write(Writes::Sandbox) => Book::Sandbox,
            Kind::Write(_) | Kind::Read => Book::Sides,
        };
        let rules = self.rules();
        let may_be_blind = kind == Kind::Read && is_gone(exchange.response.status);
        let mut is_blind = false;
        let mut other = |name: &str, id: &str| {
            let found = rules.renamed(name, book, exchange.primary, id);
            is_blind |= found.is_none();
            match found {
                None if !may_be_blind => Err(UNKNOWN),
                found => Ok(found),
            }
        };
        let target = target(&exchange.route, &asked.target, own, ids, &mut other)?;
        let body = body::renamed(&asked.body, ids, other)?;
        Ok(Asked {
            target,
            body: body.unwrap_or_else(|| asked.body.clone()),
            is_blind,
        })
    }
}

/// The target of a side, whose own path is `own`, with its ids. `other` says what an id of this name
/// is there, and nothing where it is to stay.
fn target(
    route: &str,
    asked: &PathAndQuery,
    own: Option<&PathAndQuery>,
    ids: &AskedIds,
    mut other: impl FnMut(&str, &str) -> Result<Option<String>, &'static str>,
) -> Result<PathAndQuery, &'static str> {
    let whole = own.unwrap_or(asked);
    let parts: Vec<&str> = whole.path().split('/').collect();
    let mut made: Vec<Cow<'_, str>> = parts.iter().map(|part| Cow::Borrowed(*part)).collect();
    let open = open(route, asked.path());
    for (at, name, written) in open {
        let Some(known_as) = ids.get(name) else {
            continue;
        };
        let id = percent_decode_str(written).decode_utf8_lossy();
        let Some(new) = other(known_as, &id)? else {
            continue;
        };
        // These are steps through a path, however they are written.
        if matches!(new.as_str(), "" | "." | "..") {
            return Err(UNFIT);
        }
        let len = asked.path().split('/').count();
        let place = match own {
            None => Some(at),
            Some(_) => place(&parts, written, len - at),
        };
        let part = place.and_then(|place| made.get_mut(place)).ok_or(UNFIT)?;
        *part = escaped(&new).to_string().into();
    }
    let mut text = made.join("/");
    if let Some(query) = whole.query() {
        text.push('?');
        text.push_str(&in_query(query, ids, other)?);
    }
    text.parse().map_err(|_| UNFIT)
}

/// Where an id is in a path of another form: as far from its end, or wherever it is alone.
fn place(parts: &[&str], written: &str, from_end: usize) -> Option<usize> {
    let same = parts.len().checked_sub(from_end);
    if let Some(same) = same.filter(|at| parts.get(*at) == Some(&written)) {
        return Some(same);
    }
    let mut all = parts.iter().enumerate();
    let (at, _) = all.find(|(_, part)| **part == written)?;
    all.all(|(_, part)| *part != written).then_some(at)
}

fn in_query(
    query: &str,
    ids: &AskedIds,
    mut other: impl FnMut(&str, &str) -> Result<Option<String>, &'static str>,
) -> Result<String, &'static str> {
    let mut made: Vec<Cow<'_, str>> = Vec::new();
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let known_as = ids.get(&format!("?{}", plain(name)));
        // Without a value it names nothing.
        let new = match known_as.filter(|_| !value.is_empty()) {
            Some(known_as) => other(known_as, &plain(value))?,
            None => None,
        };
        made.push(match new {
            Some(new) => format!("{name}={}", escaped(&new)).into(),
            None => pair.into(),
        });
    }
    Ok(made.join("&"))
}

/// The parts of a path that its route leaves open: which, their name, and what is there. A route's
/// label ends in its host and template.
fn open<'a>(route: &'a str, path: &'a str) -> Vec<(usize, &'a str, &'a str)> {
    let template = route.find('/').and_then(|at| route.get(at..));
    let wanted = template.unwrap_or_default().split('/');
    let name = |part: &'a str| part.strip_prefix('{')?.strip_suffix('}');
    let both = wanted.zip(path.split('/')).enumerate();
    both.filter_map(|(at, (wanted, part))| Some((at, name(wanted)?, part)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: &str = "GET shop.example/api/{kind}/{user}/orders/{id}";

    /// With ids that are known to have become others; a `?` stays.
    fn made(asked: &'static str, own: Option<&'static str>) -> Result<String, &'static str> {
        let names = [
            ("id", "order"),
            ("user", "user"),
            ("?order", "order"),
            ("?a b", "user"),
        ];
        let ids = names.map(|(key, name)| (key.to_owned(), name.to_owned()));
        let own = own.map(PathAndQuery::from_static);
        let asked = PathAndQuery::from_static(asked);
        let other = |name: &str, id: &str| match (name, id) {
            ("order", "17") => Ok(Some("a/1".to_owned())),
            ("order", "18") => Ok(Some("17".to_owned())),
            ("order", "19") => Ok(Some("..".to_owned())),
            ("user", "17") => Ok(Some("ü".to_owned())),
            ("user", "ü") => Ok(Some("7".to_owned())),
            (_, "none") => Ok(None),
            _ => Err(UNKNOWN),
        };
        let found = target(ROUTE, &asked, own.as_ref(), &ids.into(), other);
        found.map(|target| target.to_string())
    }

    #[test]
    fn ids_are_replaced_where_the_route_and_the_query_have_them() {
        for (asked, own, expected) in [
            (
                "/api/17/17/orders/17",
                None,
                Ok("/api/17/%C3%BC/orders/a%2F1"),
            ),
            (
                "/api/x/%C3%BC/orders/18?x",
                None,
                Ok("/api/x/7/orders/17?x"),
            ),
            (
                "/api/x/none/orders/none?order=17&order=18&order&order=&id=17&%61+b=17",
                None,
                Ok("/api/x/none/orders/none?order=a%2F1&order=17&order&order=&id=17&%61+b=%C3%BC"),
            ),
            ("/api/x/17/orders/20", None, Err(UNKNOWN)),
            ("/api/x/17/orders/17?order=20", None, Err(UNKNOWN)),
            ("/api/x/17/orders/19", None, Err(UNFIT)),
            // A side has paths of its own: as far from the end, or alone.
            (
                "/api/x/17/orders/18?order=18",
                Some("/18/17/orders/18?order=18"),
                Ok("/18/%C3%BC/orders/17?order=17"),
            ),
            (
                "/api/x/17/orders/18",
                Some("/18/of/17"),
                Ok("/17/of/%C3%BC"),
            ),
            ("/api/x/17/orders/18", Some("/18/17/18/x"), Err(UNFIT)),
            ("/api/x/17/orders/18", Some("/orders/18"), Err(UNFIT)),
        ] {
            let found = made(asked, own);
            assert_eq!(found, expected.map(str::to_owned), "{asked} {own:?}");
        }
    }
}
