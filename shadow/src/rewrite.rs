//! What a side is sent in place of what the client sent: fields, credentials, cookies, query
//! parameters. Pure; paths are rewritten by the proxy, for clients and copies alike.

use http::header::{AUTHORIZATION, COOKIE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue};
use outgrow_rollout::Side;
use percent_encoding::{
    AsciiSet, NON_ALPHANUMERIC, PercentEncode, percent_decode_str, utf8_percent_encode,
};

/// What the copies for one side have of their own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewrite {
    pub remove: Vec<HeaderName>,
    pub set: Vec<(HeaderName, HeaderValue)>,
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Whether the client's own `Authorization` goes on.
    pub authorization: bool,
    pub cookies: Cookies,
    pub query: Query,
}

/// Of both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrites {
    pub legacy: Rewrite,
    pub extracted: Rewrite,
}

impl Default for Rewrites {
    fn default() -> Self {
        Self {
            legacy: Rewrite::usual(Side::Legacy),
            extracted: Rewrite::usual(Side::Extracted),
        }
    }
}

impl Rewrites {
    pub(crate) fn of(&self, side: Side) -> &Rewrite {
        match side {
            Side::Legacy => &self.legacy,
            Side::Extracted => &self.extracted,
        }
    }
}

/// Which of a client's cookies go on, and what takes their place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cookies {
    pub pass: Pass,
    pub drop: Vec<String>,
    /// From and to. Who is renamed goes on.
    pub rename: Vec<(String, String)>,
    /// In place of the client's, or beside them. A value is one of a field, so that a secret does
    /// not print.
    pub set: Vec<(String, HeaderValue)>,
}

/// The cookies that go on as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pass {
    All,
    These(Vec<String>),
}

impl Default for Pass {
    fn default() -> Self {
        Self::These(Vec::new())
    }
}

/// Parameters, by their names without escapes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    pub remove: Vec<String>,
    pub rename: Vec<(String, String)>,
    /// In place of all of that name, at the end.
    pub set: Vec<(String, String)>,
}

impl Rewrite {
    /// As a side gets requests of which nothing is said: the extracted one learns no client's
    /// credentials.
    #[must_use]
    pub fn usual(side: Side) -> Self {
        match side {
            Side::Legacy => Self {
                authorization: true,
                cookies: Cookies {
                    pass: Pass::All,
                    ..Cookies::default()
                },
                ..Self::default()
            },
            Side::Extracted => Self::default(),
        }
    }

    /// The same for a replay, whose cookies and credentials are the build's own.
    #[must_use]
    pub(crate) fn replayed(&self) -> Self {
        let mut own = self.clone();
        own.authorization = true;
        own.cookies.pass = Pass::All;
        own
    }

    /// Removed, set, added, in this order, as by the filters of the proxy.
    pub(crate) fn fields(&self, fields: &mut HeaderMap) {
        if !self.authorization {
            fields.remove(AUTHORIZATION);
        }
        self.cookies.apply(fields);
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

    /// What is asked; all that is not named stays as it was written.
    pub(crate) fn target(&self, asked: &PathAndQuery) -> PathAndQuery {
        let made = self.query.apply(asked.query());
        let text = match &made {
            Some(query) if query.is_empty() => asked.path().to_owned(),
            Some(query) => format!("{}?{query}", asked.path()),
            None => return asked.clone(),
        };
        // Of parts that were a target, and of escaped ones.
        text.parse().unwrap_or_else(|_| asked.clone())
    }
}

impl Cookies {
    fn apply(&self, fields: &mut HeaderMap) {
        let is_untouched = self.pass == Pass::All
            && self.drop.is_empty()
            && self.rename.is_empty()
            && self.set.is_empty();
        if is_untouched {
            return;
        }
        let mut sent: Vec<Vec<u8>> = Vec::new();
        for value in fields.get_all(COOKIE) {
            for pair in value.as_bytes().split(|byte| *byte == b';') {
                let pair = pair.trim_ascii();
                let end = pair.iter().position(|byte| *byte == b'=');
                let (name, rest) = pair.split_at(end.unwrap_or(pair.len()));
                if let Some(name) = self.name(name) {
                    sent.push([name, rest].concat());
                }
            }
        }
        for (name, value) in &self.set {
            sent.push([name.as_bytes(), b"=", value.as_bytes()].concat());
        }
        fields.remove(COOKIE);
        if sent.is_empty() {
            return;
        }
        if let Ok(mut value) = HeaderValue::from_bytes(&sent.join(&b"; "[..])) {
            value.set_sensitive(true);
            fields.insert(COOKIE, value);
        }
    }

    /// What a client's cookie is called here; `None` where it does not go on.
    fn name<'a>(&'a self, name: &'a [u8]) -> Option<&'a [u8]> {
        let is = |known: &String| known.as_bytes() == name;
        let renamed = self.rename.iter().find(|(from, _)| is(from));
        let passes = match &self.pass {
            Pass::All => true,
            Pass::These(names) => names.iter().any(is),
        };
        let found = match renamed {
            Some((_, to)) => to.as_bytes(),
            None if name.is_empty() || !passes || self.drop.iter().any(is) => return None,
            None => name,
        };
        let is_set = self.set.iter().any(|(own, _)| own.as_bytes() == found);
        (!is_set).then_some(found)
    }
}

impl Query {
    /// `None` where nothing changes.
    fn apply(&self, query: Option<&str>) -> Option<String> {
        if self == &Self::default() {
            return None;
        }
        let pairs = query.unwrap_or_default().split('&');
        let mut made: Vec<String> = Vec::new();
        for pair in pairs.filter(|pair| !pair.is_empty()) {
            let (written, rest) = pair.split_at(pair.find('=').unwrap_or(pair.len()));
            let name = plain(written);
            if self.remove.contains(&name) {
                continue;
            }
            let renamed = self.rename.iter().find(|(from, _)| *from == name);
            let called = renamed.map_or(&name, |(_, to)| to);
            if self.set.iter().any(|(own, _)| own == called) {
                continue;
            }
            made.push(match renamed {
                Some((_, to)) => format!("{}{rest}", escaped(to)),
                None => pair.to_owned(),
            });
        }
        let set = self.set.iter();
        made.extend(set.map(|(name, value)| format!("{}={}", escaped(name), escaped(value))));
        Some(made.join("&"))
    }
}

/// Without escapes, for a comparison.
pub(crate) fn plain(text: &str) -> String {
    let text = text.replace('+', " ");
    percent_decode_str(&text).decode_utf8_lossy().into_owned()
}

pub(crate) fn escaped(text: &str) -> PercentEncode<'_> {
    /// RFC 3986, 2.3.
    const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'.')
        .remove(b'_')
        .remove(b'~');
    utf8_percent_encode(text, ESCAPED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(all: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in all {
            let name = HeaderName::from_static(name);
            fields.append(name, HeaderValue::from_static(value));
        }
        fields
    }

    fn cookies_of(rewrite: &Rewrite, cookies: &[&'static str]) -> String {
        let all: Vec<_> = cookies.iter().map(|value| ("cookie", *value)).collect();
        let mut sent = fields(&all);
        rewrite.fields(&mut sent);
        let value = sent.get(COOKIE);
        value.map_or_else(String::new, |value| value.to_str().unwrap().to_owned())
    }

    fn names(all: &[&str]) -> Vec<String> {
        all.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn the_extracted_side_learns_no_credentials_by_itself() {
        let client = [
            ("authorization", "Bearer s3cret"),
            ("cookie", "sid=1"),
            ("accept", "*/*"),
        ];
        let mut sent = fields(&client);
        Rewrite::usual(Side::Extracted).fields(&mut sent);
        assert_eq!(sent, fields(&client[2..]));
        let mut sent = fields(&client);
        Rewrite::usual(Side::Legacy).fields(&mut sent);
        assert_eq!(sent, fields(&client));
    }

    #[test]
    fn fields_are_removed_then_set_then_added() {
        let rewrite = Rewrite {
            remove: vec![HeaderName::from_static("x-a")],
            set: vec![(AUTHORIZATION, HeaderValue::from_static("Bearer own"))],
            add: vec![(
                HeaderName::from_static("x-a"),
                HeaderValue::from_static("2"),
            )],
            ..Rewrite::usual(Side::Extracted)
        };
        let mut sent = fields(&[("x-a", "1"), ("authorization", "Bearer theirs")]);
        rewrite.fields(&mut sent);
        assert_eq!(
            sent,
            fields(&[("authorization", "Bearer own"), ("x-a", "2")])
        );
    }

    #[test]
    fn cookies_go_on_by_name() {
        let mut rewrite = Rewrite::usual(Side::Extracted);
        let client = ["sid=a=b; theme=dark", "lang=en; odd; sid2=x"];
        assert_eq!(cookies_of(&rewrite, &client), "");
        rewrite.cookies.pass = Pass::These(names(&["theme", "lang"]));
        rewrite.cookies.rename = vec![("sid".to_owned(), "session".to_owned())];
        assert_eq!(
            cookies_of(&rewrite, &client),
            "session=a=b; theme=dark; lang=en"
        );
        rewrite.cookies.set = vec![("session".to_owned(), HeaderValue::from_static("own"))];
        assert_eq!(
            cookies_of(&rewrite, &client),
            "theme=dark; lang=en; session=own"
        );
        assert_eq!(cookies_of(&rewrite, &[]), "session=own");
        let mut legacy = Rewrite::usual(Side::Legacy);
        legacy.cookies.drop = names(&["theme"]);
        assert_eq!(
            cookies_of(&legacy, &client),
            "sid=a=b; lang=en; odd; sid2=x"
        );
    }

    #[test]
    fn parameters_change_by_name_and_the_rest_stays_as_it_was() {
        let rewrite = Rewrite {
            query: Query {
                remove: names(&["debug"]),
                rename: vec![("q".to_owned(), "search".to_owned())],
                set: vec![("v".to_owned(), "a b".to_owned())],
            },
            ..Rewrite::default()
        };
        for (asked, made) in [
            (
                "/a?q=x%20y+z&page=2&debug=1&debug",
                "/a?search=x%20y+z&page=2&v=a%20b",
            ),
            ("/a?v=1&b&v=2&%71=1&%7A=1", "/a?b&search=1&%7A=1&v=a%20b"),
            ("/a", "/a?v=a%20b"),
        ] {
            assert_eq!(rewrite.target(&asked.parse().unwrap()), made);
        }
        let mut gone = rewrite;
        gone.query.set.clear();
        assert_eq!(gone.target(&"/a?debug=1".parse().unwrap()), "/a");
        let same = "/a?b=1&&c=%zz".parse().unwrap();
        assert_eq!(Rewrite::default().target(&same), same);
    }

    #[test]
    fn secrets_do_not_print() {
        let mut own = HeaderValue::from_static("swordfish");
        own.set_sensitive(true);
        let mut rewrite = Rewrite::default();
        rewrite.set.push((AUTHORIZATION, own.clone()));
        rewrite.cookies.set.push(("sid".to_owned(), own));
        let mut sent = HeaderMap::new();
        rewrite.fields(&mut sent);
        assert_eq!(sent[COOKIE], "sid=swordfish");
        assert!(!format!("{rewrite:?} {sent:?}").contains("swordfish"));
    }
}
