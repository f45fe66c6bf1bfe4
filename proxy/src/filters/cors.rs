//! Which pages of other origins may read answers: CORS, as the Fetch standard has it. Pure.
//!
//! A preflight is answered here, by the config alone. An origin that is not listed is told nothing:
//! its own text never comes back. Requests are not refused for their origin, because browsers send
//! `Origin` with forms of the page itself, too; what is withheld is the leave to read the answer.

use std::str::FromStr;
use std::time::Duration;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderName, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Uri};

/// What the config allows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CorsRule {
    /// At least one.
    pub origins: Vec<Origin>,
    /// Of requests that need a preflight.
    pub methods: Vec<Method>,
    /// Fields that a page may send, beside those that every page may.
    pub headers: Vec<HeaderName>,
    /// Fields that a page may read, beside those that every page may.
    pub expose: Vec<HeaderName>,
    /// With cookies and the like.
    pub credentials: bool,
    /// How long a browser may remember it; none leaves it at the browser's own few seconds.
    pub max_age: Option<Duration>,
}

/// Whose pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// `*`
    Any,
    /// `https://shop.example`
    One(String),
    /// `https://*.shop.example`: what is before the star, and what is behind it.
    Below(String, String),
}

impl FromStr for Origin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "it is not an origin";
        if text == "*" {
            return Ok(Self::Any);
        }
        // Sandboxed frames of anybody are `null`.
        if text.eq_ignore_ascii_case("null") {
            return Err("`null` is the origin of every sandboxed page");
        }
        let (scheme, rest) = text.split_once("://").ok_or(RULE)?;
        let scheme = scheme.to_ascii_lowercase();
        let letters = scheme.bytes().all(|b| b.is_ascii_alphanumeric());
        let (below, rest) = match rest.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let rest = rest.to_ascii_lowercase();
        let uri: Uri = format!("http://{rest}").parse().map_err(|_| RULE)?;
        let authority = uri.authority().ok_or(RULE)?.as_str();
        if scheme.is_empty() || !letters || authority != rest || rest.contains(['@', '*']) {
            return Err(RULE);
        }
        // Browsers leave the usual port out.
        let rest = match scheme.as_str() {
            "http" => rest.strip_suffix(":80").unwrap_or(&rest),
            "https" => rest.strip_suffix(":443").unwrap_or(&rest),
            _ => &rest,
        };
        Ok(match below {
            true => Self::Below(format!("{scheme}://"), format!(".{rest}")),
            false => Self::One(format!("{scheme}://{rest}")),
        })
    }
}

impl Origin {
    fn is(&self, given: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::One(origin) => given == origin.as_bytes(),
            Self::Below(scheme, domain) => {
                let middle = given
                    .strip_prefix(scheme.as_bytes())
                    .and_then(|rest| rest.strip_suffix(domain.as_bytes()));
                let label = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
                middle.is_some_and(|name| !name.is_empty() && name.iter().all(label))
            }
        }
    }
}

/// A rule that holds together, with its fields written out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    origins: Vec<Origin>,
    any: bool,
    credentials: bool,
    methods: Option<HeaderValue>,
    headers: Option<HeaderValue>,
    expose: Option<HeaderValue>,
    max_age: Option<HeaderValue>,
}

/// What one answer says; made before a side is asked.
#[derive(Debug)]
pub(crate) struct Grant {
    /// None where the request is of no page or of one that is not allowed.
    origin: Option<HeaderValue>,
    credentials: bool,
    expose: Option<HeaderValue>,
    /// Another origin would be answered otherwise.
    varies: bool,
}

/// What an upstream says of it is not passed on: two words of `allow-origin` allow nothing.
const OURS: [HeaderName; 6] = [
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
];

fn list<'a>(names: impl Iterator<Item = &'a str>) -> Option<HeaderValue> {
    let names: Vec<&str> = names.collect();
    // Tokens joined by commas are the value of a field.
    (!names.is_empty()).then(|| HeaderValue::try_from(names.join(", ")).ok())?
}

impl Cors {
    /// # Errors
    /// Says what of the rule excludes what.
    pub fn new(rule: CorsRule) -> Result<Self, &'static str> {
        let any = rule.origins.contains(&Origin::Any);
        if rule.origins.is_empty() {
            return Err("no origin is allowed");
        }
        if any && rule.origins.len() > 1 {
            return Err("`*` is every origin already");
        }
        if any && rule.credentials {
            return Err("with `credentials` every site could act for its visitors");
        }
        Ok(Self {
            origins: rule.origins,
            any,
            credentials: rule.credentials,
            methods: list(rule.methods.iter().map(Method::as_str)),
            headers: list(rule.headers.iter().map(HeaderName::as_str)),
            expose: list(rule.expose.iter().map(HeaderName::as_str)),
            max_age: rule.max_age.map(|age| HeaderValue::from(age.as_secs())),
        })
    }

    /// What the answer to these fields may say.
    pub(crate) fn grant(&self, fields: &HeaderMap) -> Grant {
        let mut given = fields.get_all(ORIGIN).iter();
        let origin = match (given.next(), given.next()) {
            (Some(_), None) if self.any => Some(HeaderValue::from_static("*")),
            (Some(origin), None) if self.allows(origin) => Some(origin.clone()),
            _ => None,
        };
        Grant {
            origin,
            credentials: self.credentials,
            expose: self.expose.clone(),
            varies: !self.any,
        }
    }

    fn allows(&self, origin: &HeaderValue) -> bool {
        self.origins.iter().any(|rule| rule.is(origin.as_bytes()))
    }

    /// The fields of the answer to a preflight; none where the origin is not allowed. Methods and
    /// fields are told, not checked: the browser does that, and says which of them is missing.
    pub(crate) fn preflight(&self, fields: &HeaderMap) -> Option<HeaderMap> {
        let mut grant = self.grant(fields);
        grant.origin.as_ref()?;
        // What may be read is a word on the answer proper.
        grant.expose = None;
        let mut answer = HeaderMap::new();
        grant.dress(&mut answer);
        for (name, value) in [
            (ACCESS_CONTROL_ALLOW_METHODS, &self.methods),
            (ACCESS_CONTROL_ALLOW_HEADERS, &self.headers),
            (ACCESS_CONTROL_MAX_AGE, &self.max_age),
        ] {
            if let Some(value) = value {
                answer.insert(name, value.clone());
            }
        }
        Some(answer)
    }
}

/// The method that a page wants leave for; none where the request is no preflight.
pub(crate) fn asked(method: &Method, fields: &HeaderMap) -> Option<Method> {
    if *method != Method::OPTIONS || !fields.contains_key(ORIGIN) {
        return None;
    }
    let wanted = fields.get(ACCESS_CONTROL_REQUEST_METHOD)?;
    Method::from_bytes(wanted.as_bytes()).ok()
}

impl Grant {
    pub(crate) fn dress(self, fields: &mut HeaderMap) {
        for name in OURS {
            fields.remove(name);
        }
        if self.varies {
            vary(fields, &ORIGIN);
        }
        let Some(origin) = self.origin else {
            return;
        };
        fields.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if self.credentials {
            let yes = HeaderValue::from_static("true");
            fields.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
        }
        if let Some(expose) = self.expose {
            fields.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose);
        }
    }
}

/// Says that the answer depends on a field, unless that is said already.
pub(crate) fn vary(fields: &mut HeaderMap, name: &HeaderName) {
    let said = fields.get_all(VARY).iter().any(|value| {
        let text = value.to_str().unwrap_or_default();
        text.split(',')
            .map(str::trim)
            .any(|one| one == "*" || one.eq_ignore_ascii_case(name.as_str()))
    });
    if !said {
        fields.append(VARY, HeaderValue::from(name.clone()));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(origins: &[&str]) -> CorsRule {
        CorsRule {
            origins: origins.iter().map(|text| text.parse().unwrap()).collect(),
            ..CorsRule::default()
        }
    }

    fn from(origin: &str) -> HeaderMap {
        HeaderMap::from_iter([(ORIGIN, HeaderValue::try_from(origin).unwrap())])
    }

    #[test]
    fn only_whole_origins_are_alike() {
        let cors = Cors::new(rule(&[
            "https://Shop.example:443",
            "http://a.example:8080",
            "https://*.apps.example",
        ]))
        .unwrap();
        for (origin, allowed) in [
            ("https://shop.example", true),
            ("http://shop.example", false),
            ("https://shop.example:8443", false),
            ("https://shop.example.evil", false),
            ("https://xshop.example", false),
            ("http://a.example:8080", true),
            ("https://one.apps.example", true),
            ("https://one.two.apps.example", true),
            ("https://apps.example", false),
            ("https://.apps.example", false),
            ("https://evilapps.example", false),
            ("https://evil.example/.apps.example", false),
            ("https://evil.example:1@x.apps.example", false),
            ("http://one.apps.example", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(
                cors.grant(&from(origin)).origin.is_some(),
                allowed,
                "{origin}"
            );
        }
        let mut two = from("https://shop.example");
        two.append(ORIGIN, HeaderValue::from_static("https://evil.example"));
        assert!(cors.grant(&two).origin.is_none());
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for bad in [
            "shop.example",
            "https://",
            "https://shop.example/",
            "https://a@shop.example",
            "https://*",
            "https://a.*.example",
            "https://*.*.example",
            "://a",
            "null",
            "",
        ] {
            assert!(bad.parse::<Origin>().is_err(), "{bad:?}");
        }
        assert!(Cors::new(CorsRule::default()).is_err());
        assert!(Cors::new(rule(&["*", "https://a.example"])).is_err());
        let all = CorsRule {
            credentials: true,
            ..rule(&["*"])
        };
        assert!(Cors::new(all).is_err());
    }

    #[test]
    fn vary_is_said_once() {
        for (before, after) in [
            (&[][..], &["origin"][..]),
            (&["accept-encoding"], &["accept-encoding", "origin"]),
            (&["Accept, ORIGIN"], &["Accept, ORIGIN"]),
            (&["*"], &["*"]),
        ] {
            let mut fields = HeaderMap::new();
            for value in before {
                fields.append(VARY, HeaderValue::from_static(value));
            }
            vary(&mut fields, &ORIGIN);
            assert_eq!(fields.get_all(VARY).iter().collect::<Vec<_>>(), after);
        }
    }

    proptest! {
        /// Whatever a page calls itself, what comes back is a listed origin, or nothing.
        #[test]
        fn nothing_is_reflected_that_is_not_listed(host in "[a-z./:@*-]{0,20}", tail in "(\\.shop\\.example)?") {
            let cors = Cors::new(rule(&["https://*.shop.example"])).unwrap();
            let origin = format!("https://{host}{tail}");
            let mut fields = HeaderMap::new();
            cors.grant(&from(&origin)).dress(&mut fields);
            if let Some(seen) = fields.get(ACCESS_CONTROL_ALLOW_ORIGIN) {
                let name = seen.to_str().unwrap().strip_prefix("https://").unwrap();
                let label = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
                prop_assert!(name.ends_with(".shop.example") && name.chars().all(label));
            }
            prop_assert_eq!(&fields[VARY], "origin");
        }
    }
}
