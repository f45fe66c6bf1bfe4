//! What a route changes in the heads that pass, as the config says. Pure; the stages that call it
//! are listed in `stages.rs`.
//!
//! Nothing here can name a field that decides where a message ends, who calls, or where it goes:
//! [`Edits`] refuses those when it is built.

pub(crate) mod bodies;
pub(crate) mod compress;
pub(crate) mod cors;
pub(crate) mod path;

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LOCATION, Entry, HeaderName, HeaderValue, LOCATION, SET_COOKIE};
use http::{HeaderMap, Uri};

use crate::auth::AuthRule;
use crate::cache::CacheRule;
use crate::error::Refusal;
use crate::headers;
use crate::limit::Limiter;
use crate::limits::Allowance;
use path::Targets;

pub use bodies::BodyLinks;
pub use compress::{Compression, MediaRange};
pub use cors::{Cors, CorsRule, Origin};
pub use path::PathRule;

/// Everything that one route changes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// How many requests; the routes that share the filters share it.
    pub limit: Option<Limiter>,
    /// Who may ask; none asks nobody who they are.
    pub auth: Option<AuthRule>,
    /// Whose pages may read the answers; none leaves that to the sides.
    pub cors: Option<Cors>,
    /// What the sides are asked in place of the client's path; for each the first that fits.
    pub paths: Vec<PathRule>,
    /// Which answers are compressed; none leaves that to the sides.
    pub compress: Option<Arc<Compression>>,
    /// What a request and its answer may take; what is not said is as the proxy has it.
    pub allowance: Allowance,
    /// From when on a request is in the access log whatever its sample says; none is as that says.
    pub slow: Option<Duration>,
    /// Keeps answers to reads, as far as they say that they may be kept.
    pub cache: Option<CacheRule>,
    /// When the legacy side steps in for a read; none is as the slice has it.
    pub fallback: Option<Fallback>,
    pub request: Edits,
    pub response: Edits,
    /// Of `Location` and `Content-Location`; the first that fits.
    pub links: Vec<Link>,
    /// The same in bodies; none leaves those as they are.
    pub body_links: Option<Arc<BodyLinks>>,
    /// The `Domain` of cookies, from and to; none to leaves the attribute out.
    pub cookie_domains: Vec<(String, Option<String>)>,
    /// The `Path` of cookies.
    pub cookie_paths: Vec<Link>,
}

/// When the legacy side answers a read that the extracted side was to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    Never,
    /// While nothing was sent: no connection can be had, the breaker is open, or no more requests are taken.
    Unsent,
    /// Whenever it fails before a byte of its answer has gone down.
    Failed,
}

impl Fallback {
    /// Rules as the config has them.
    pub const ALL: [(&'static str, Self); 3] = [
        ("never", Self::Never),
        ("unsent", Self::Unsent),
        ("failed", Self::Failed),
    ];
}

/// Changes of fields, in this order: removed, set, added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edits {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
}

/// One change of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    Remove,
    Set(HeaderValue),
    Add(HeaderValue),
}

impl Edits {
    /// # Errors
    /// Says why the field is not the config's to change.
    pub fn push(&mut self, name: HeaderName, edit: Edit) -> Result<(), &'static str> {
        if let Some(why) = kept(&name) {
            return Err(why);
        }
        match edit {
            Edit::Remove => self.remove.push(name),
            Edit::Set(value) => self.set.push((name, value)),
            Edit::Add(value) => self.add.push((name, value)),
        }
        Ok(())
    }

    /// Of a request: what could be taken for a field that is removed or set goes, too.
    fn apply_alone(&self, fields: &mut HeaderMap) {
        let ours = self.remove.iter();
        let ours = ours.chain(self.set.iter().map(|(name, _)| name));
        if ours.clone().next().is_some() {
            headers::drop_twins(fields, ours);
        }
        self.apply(fields);
    }

    fn apply(&self, fields: &mut HeaderMap) {
        for name in &self.remove {
            fields.remove(name);
        }
        for (name, value) in &self.set {
            fields.insert(name.clone(), value.clone());
        }
        for (name, value) in &self.add {
            fields.append(name.clone(), value.clone());
        }
    }
}

/// Why a field is the proxy's own.
fn kept(name: &HeaderName) -> Option<&'static str> {
    if headers::is_hop_by_hop(name) {
        return Some("the field is for one connection");
    }
    let name = name.as_str();
    match name {
        "content-length" | "trailer" | "expect" => Some("the field says where a message ends"),
        "host" => Some("the field says where a request goes"),
        "cookie" => Some("sessions and cohorts are read from it"),
        "forwarded" | "x-forwarded-for" | "x-forwarded-proto" | "x-forwarded-host" => {
            Some("the proxy says there who asks")
        }
        _ if name.starts_with("x-outgrow-") => Some("the field is the proxy's own"),
        _ => None,
    }
}

/// The beginning of an address, and what takes its place. Whole segments only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    from: String,
    /// Bytes of `from` that are scheme and host, where case means nothing.
    host: usize,
    to: String,
}

impl Link {
    /// `from` and `to` are `http://HOST`, a path, or both; `to` may be empty.
    ///
    /// # Errors
    /// Says which of the two is none.
    pub fn new(from: &str, to: &str) -> Result<Self, &'static str> {
        let host = host_end(from).ok_or("`from` is neither a path nor an http address")?;
        if !to.is_empty() && host_end(to).is_none() {
            return Err("`to` is neither a path nor an http address");
        }
        let from = from.trim_end_matches('/');
        Ok(Self {
            from: from.to_owned(),
            host: host.min(from.len()),
            to: to.trim_end_matches('/').to_owned(),
        })
    }

    /// The address as a client should see it; `None` where it begins otherwise.
    fn of(&self, address: &str) -> Option<String> {
        if self.host == 0 && address.starts_with("//") {
            // Another host, without a scheme.
            return None;
        }
        let (start, rest) = address.split_at_checked(self.from.len())?;
        let (host, path) = start.split_at_checked(self.host)?;
        let same = host.eq_ignore_ascii_case(&self.from[..self.host])
            && path == &self.from[self.host..]
            && (rest.is_empty() || rest.starts_with(['/', '?', '#']));
        if !same {
            return None;
        }
        let joined = format!("{}{rest}", self.to);
        if host_end(&joined).is_some_and(|end| end > 0) {
            return Some(joined);
        }
        // One slash exactly: browsers read two, or one and a backslash, as another host.
        let path = joined.trim_start_matches(['/', '\\']);
        Some(format!("/{path}"))
    }
}

/// Where scheme and host end; 0 for a path.
fn host_end(text: &str) -> Option<usize> {
    if text.starts_with('/')
        && !text.starts_with("//")
        && text.bytes().all(|b| b.is_ascii_graphic())
    {
        return Some(0);
    }
    let uri: Uri = text.parse().ok()?;
    let scheme = uri
        .scheme_str()
        .filter(|s| matches!(*s, "http" | "https"))?;
    Some(scheme.len() + "://".len() + uri.authority()?.as_str().len())
}

impl Filters {
    /// Before anything is spent on a request.
    pub(crate) fn limit(&self, fields: &HeaderMap, address: &HeaderValue) -> Result<(), Refusal> {
        let Some(limit) = &self.limit else {
            return Ok(());
        };
        let checked = limit.check(fields, address.as_bytes());
        checked.map_err(Refusal::Limited)
    }

    /// Whether these keep from a request whatever the others would.
    pub(crate) fn guards_as(&self, others: &Self) -> bool {
        let limit = others.limit.is_none() || self.limit == others.limit;
        let auth = others.auth.is_none() || self.auth == others.auth;
        let request = others.request == Edits::default() || self.request == others.request;
        let usual = others.allowance == Allowance::default();
        let allowance = usual || self.allowance == others.allowance;
        limit && auth && request && allowance
    }

    /// What each side is asked; `None` where that is what the client asks.
    pub(crate) fn targets(&self, asked: &Uri) -> Result<Option<Box<Targets>>, Refusal> {
        match &self.paths[..] {
            [] => Ok(None),
            rules => path::targets(rules, asked),
        }
    }

    /// Before a side is asked, after the proxy has read the head itself.
    pub(crate) fn request(&self, fields: &mut HeaderMap) {
        self.request.apply_alone(fields);
    }

    /// After a side has answered; the shadow has its copy from before.
    pub(crate) fn response(&self, fields: &mut HeaderMap) {
        if !self.links.is_empty() {
            for name in [LOCATION, CONTENT_LOCATION] {
                let Some(value) = fields.get_mut(&name) else {
                    continue;
                };
                let address = std::str::from_utf8(value.as_bytes()).ok();
                let seen = address.and_then(|text| self.links.iter().find_map(|l| l.of(text)));
                if let Some(seen) = seen.and_then(|text| HeaderValue::try_from(text).ok()) {
                    *value = seen;
                }
            }
        }
        if (!self.cookie_domains.is_empty() || !self.cookie_paths.is_empty())
            && let Entry::Occupied(mut cookies) = fields.entry(SET_COOKIE)
        {
            for value in cookies.iter_mut() {
                let text = std::str::from_utf8(value.as_bytes()).ok();
                let seen = text.and_then(|text| self.cookie(text));
                if let Some(seen) = seen.and_then(|text| HeaderValue::try_from(text).ok()) {
                    *value = seen;
                }
            }
        }
        self.response.apply(fields);
    }

    /// The cookie with its domain and path as a client should see them; `None` for no change.
    fn cookie(&self, text: &str) -> Option<String> {
        let mut parts = text.split(';');
        let mut seen = parts.next()?.to_owned();
        let mut changed = false;
        for part in parts {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let (name, value) = (name.trim(), value.trim());
            let other = if name.eq_ignore_ascii_case("domain") {
                let bare = value.strip_prefix('.').unwrap_or(value);
                let fits = |(from, _): &&(String, _)| bare.eq_ignore_ascii_case(from);
                let found = self.cookie_domains.iter().find(fits);
                found.map(|(_, to)| to.as_ref().map(|to| format!("; {name}={to}")))
            } else if name.eq_ignore_ascii_case("path") {
                let found = self.cookie_paths.iter().find_map(|path| path.of(value));
                found.map(|to| Some(format!("; {name}={to}")))
            } else {
                None
            };
            changed |= other.is_some();
            match other {
                None => {
                    seen.push(';');
                    seen.push_str(part);
                }
                Some(other) => seen.push_str(&other.unwrap_or_default()),
            }
        }
        changed.then_some(seen)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_that_steer_the_proxy_are_not_the_configs() {
        let mut edits = Edits::default();
        for name in [
            "connection",
            "te",
            "upgrade",
            "transfer-encoding",
            "content-length",
            "host",
            "cookie",
            "x-forwarded-for",
            "x-outgrow-identity",
            "x-outgrow-side",
            "expect",
        ] {
            assert!(
                edits
                    .push(HeaderName::from_static(name), Edit::Remove)
                    .is_err(),
                "{name}"
            );
        }
        assert_eq!(edits, Edits::default());
    }

    #[test]
    fn removed_then_set_then_added() {
        let name = || HeaderName::from_static("x-a");
        let mut edits = Edits::default();
        edits
            .push(name(), Edit::Add(HeaderValue::from_static("3")))
            .unwrap();
        edits
            .push(name(), Edit::Set(HeaderValue::from_static("2")))
            .unwrap();
        edits
            .push(HeaderName::from_static("x-b"), Edit::Remove)
            .unwrap();
        let mut fields = HeaderMap::new();
        fields.insert("x-a", HeaderValue::from_static("1"));
        fields.insert("x-b", HeaderValue::from_static("1"));
        edits.apply(&mut fields);
        let values: Vec<_> = fields.get_all("x-a").iter().collect();
        assert_eq!(values, ["2", "3"]);
        assert!(!fields.contains_key("x-b"));
    }

    #[test]
    fn links_are_changed_by_whole_segments() {
        for (from, to, address, seen) in [
            ("http://m:9000", "", "http://m:9000/a?b#c", Some("/a?b#c")),
            ("http://m:9000", "", "HTTP://M:9000", Some("/")),
            ("http://m:9000", "", "http://m:90001/a", None),
            (
                "http://m/",
                "https://shop.example",
                "http://m/a",
                Some("https://shop.example/a"),
            ),
            ("http://m/app", "/", "http://m/app?x", Some("/?x")),
            ("http://m/app", "/", "http://m/application", None),
            ("http://m/app", "/", "http://m/APP/x", None),
            ("/app", "/new/", "/app/x", Some("/new/x")),
            ("/", "/shop", "/x", Some("/shop/x")),
            ("/", "/shop", "//evil.example/x", None),
            ("/", "/shop", "http://m/x", None),
            (
                "http://m",
                "",
                "http://m//evil.example",
                Some("/evil.example"),
            ),
            (
                "http://m",
                "",
                "http://m/\\evil.example",
                Some("/evil.example"),
            ),
        ] {
            let link = Link::new(from, to).unwrap();
            assert_eq!(link.of(address).as_deref(), seen, "{from} {to} {address}");
        }
        for (from, to) in [
            ("", "/"),
            ("m", "/"),
            ("//m", "/"),
            ("ftp://m", ""),
            ("/a b", ""),
            ("/", "x"),
        ] {
            assert!(Link::new(from, to).is_err(), "{from:?} {to:?}");
        }
    }

    #[test]
    fn cookies_keep_all_but_domain_and_path() {
        let filters = Filters {
            cookie_domains: vec![
                ("m.internal".to_owned(), Some("shop.example".to_owned())),
                ("old.example".to_owned(), None),
            ],
            cookie_paths: vec![Link::new("/app", "/").unwrap()],
            ..Filters::default()
        };
        for (text, seen) in [
            (
                "a=b; Domain=.M.internal; Secure; path=/app/x",
                Some("a=b; Domain=shop.example; Secure; path=/x"),
            ),
            (
                "a=Path=/app;HttpOnly; domain=old.example",
                Some("a=Path=/app;HttpOnly"),
            ),
            ("a=b; Domain=sub.m.internal; Path=/application", None),
            ("a=b", None),
        ] {
            assert_eq!(filters.cookie(text).as_deref(), seen, "{text}");
        }
    }

    proptest! {
        /// A path that a redirect is changed to never names another host.
        #[test]
        fn no_redirect_leaves_for_a_host_of_the_upstreams_choice(rest in "[/\\\\?#a-z.:]{0,20}") {
            let link = Link::new("http://m", "").unwrap();
            if let Some(seen) = link.of(&format!("http://m{rest}")) {
                prop_assert!(seen.starts_with('/'), "{}", seen);
                prop_assert!(!seen[1..].starts_with(['/', '\\']), "{}", seen);
            }
        }
    }
}
