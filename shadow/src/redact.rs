//! What must not be kept is replaced before a pair is stored, by a token: the same text has the
//! same token, so that it still shows whether two answers agree.
//!
//! Tokens are made with a key that is drawn at the start and kept nowhere: they cannot be
//! guessed back, and are not the same after a restart. Comparison itself sees the real values.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};

use regex::{Captures, Match, Regex};

use crate::diff::Difference;
use crate::error::Error;
use crate::path::{Place, Step};

/// Names of fields, parameters, cookies and headers whose values are nobody's business. Compared
/// without case, `-` and `_`.
const NAMES: [&str; 30] = [
    "authorization",
    "cookie",
    "setcookie",
    "password",
    "passwd",
    "passphrase",
    "secret",
    "clientsecret",
    "token",
    "accesstoken",
    "refreshtoken",
    "idtoken",
    "csrftoken",
    "apikey",
    "privatekey",
    "session",
    "sessionid",
    "sid",
    "ssn",
    "iban",
    "pan",
    "cardnumber",
    "creditcard",
    "cvv",
    "cvc",
    "pin",
    "email",
    "phone",
    "phonenumber",
    "dateofbirth",
];

/// What ends so is as secret: `x-auth-token`, `user_password`.
const ENDINGS: [&str; 6] = [
    "password",
    "secret",
    "token",
    "apikey",
    "privatekey",
    "authorization",
];

/// Digits of a card's number at least.
const CARD_MIN: usize = 13;

/// Replaces what must not be kept.
#[derive(Debug)]
pub(crate) struct Redactor {
    key: RandomState,
    names: BTreeSet<String>,
    /// A member of a document: `"name": value`.
    member: Regex,
    /// A parameter: `name=value`.
    parameter: Regex,
    email: Regex,
    card: Regex,
    /// A signed token (RFC 7519).
    jwt: Regex,
}

/// Without case, `-` and `_`.
fn plain(name: &str) -> Cow<'_, str> {
    let written = |c: char| matches!(c, '-' | '_') || c.is_ascii_uppercase() || !c.is_ascii();
    if !name.contains(written) {
        return Cow::Borrowed(name);
    }
    let name = name.chars().filter(|c| !matches!(c, '-' | '_'));
    Cow::Owned(name.flat_map(char::to_lowercase).collect())
}

/// Whether it may have a member of a document: most texts have none, and are not searched.
fn may_have_member(text: &str) -> bool {
    text.contains('"') && text.contains(':')
}

/// The same of the address of a mailbox.
fn may_have_email(text: &str) -> bool {
    text.contains('@') || text.contains("%40")
}

/// The same of the number of a card.
fn may_have_card(text: &str) -> bool {
    let mut digits = 0;
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' => digits += 1,
            b' ' | b'-' => {}
            _ => digits = 0,
        }
        if digits >= CARD_MIN {
            return true;
        }
    }
    false
}

impl Redactor {
    /// With further names to those that everybody has.
    ///
    /// # Errors
    /// [`Error::Accept`] never, in practice: the patterns are fixed.
    pub(crate) fn new(names: &[String]) -> Result<Self, Error> {
        let regex = |text: &str| Regex::new(text).map_err(|error| Error::Accept(error.to_string()));
        let known = NAMES.iter().map(|name| (*name).to_owned());
        let own = names.iter().map(|name| plain(name).into_owned());
        Ok(Self {
            key: RandomState::new(),
            names: known.chain(own).collect(),
            // A text that was cut off has no closing quote.
            member: regex(r#""([A-Za-z0-9_-]+)"(\s*:\s*)("(?:[^"\\]|\\.)*"?|[^\s,\]\}\[\{"]+)"#)?,
            parameter: regex(r#"([A-Za-z0-9_-]+)=([^&;\s"'<>]+)"#)?,
            email: regex(r"[A-Za-z0-9._%+-]+(?:@|%40)[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+")?,
            card: regex(r"[0-9](?:[ -]?[0-9]){12,18}")?,
            jwt: regex(r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?")?,
        })
    }

    pub(crate) fn is_secret(&self, name: &str) -> bool {
        let name = plain(name);
        let bare = name.strip_prefix('x').unwrap_or(&name);
        self.names.contains(&*name)
            || self.names.contains(bare)
            || ENDINGS.iter().any(|ending| name.ends_with(ending))
    }

    fn token(&self, kind: &str, text: &str) -> String {
        format!("[{kind} {:016x}]", self.key.hash_one(text))
    }

    /// The value of a field, parameter or header of this name.
    pub(crate) fn named(&self, name: &str, value: &str) -> String {
        match self.is_secret(name) && !value.starts_with("[hidden ") {
            true => self.hidden_text(value),
            false => self.text(value),
        }
    }

    /// A header of an answer. Of a cookie all but its value stays.
    pub(crate) fn header(&self, name: &str, value: &str) -> String {
        if name != "set-cookie" || value.starts_with("[hidden ") {
            return self.named(name, value);
        }
        let (pair, attributes) = match value.find(';') {
            Some(at) => value.split_at(at),
            None => (value, ""),
        };
        let (name, value) = pair.split_once('=').unwrap_or(("", pair));
        format!("{name}={}{attributes}", self.token("hidden", value.trim()))
    }

    /// A token, whatever the text is.
    pub(crate) fn hidden_text(&self, text: &str) -> String {
        self.token("hidden", text)
    }

    /// A body, a target, a message.
    pub(crate) fn text(&self, text: &str) -> String {
        let mut text = Cow::Borrowed(text);
        if may_have_member(&text) {
            replace(&self.member, &mut text, |found| {
                let (name, between, value) = (&found[1], &found[2], &found[3]);
                let hides = self.is_secret(name) && !value.starts_with("\"[hidden ");
                let token = || self.token("hidden", value);
                hides.then(|| format!("\"{name}\"{between}\"{}\"", token()))
            });
        }
        if text.contains('=') {
            replace(&self.parameter, &mut text, |found| {
                let token = || self.token("hidden", &found[2]);
                let hides = self.is_secret(&found[1]);
                hides.then(|| format!("{}={}", &found[1], token()))
            });
        }
        if text.contains("eyJ") {
            replace(&self.jwt, &mut text, |found| {
                Some(self.token("token", &found[0]))
            });
        }
        if may_have_email(&text) {
            replace(&self.email, &mut text, |found| {
                Some(self.token("email", &found[0]))
            });
        }
        if may_have_card(&text) {
            let bare = bare_numbers(&text, &self.card);
            replace(&self.card, &mut text, |found| {
                let number = found.get(0)?;
                let token = luhn(number.as_str()).then(|| self.token("card", number.as_str()))?;
                // What is a document stays one.
                let is_bare = bare.binary_search(&number.start()).is_ok();
                Some(if is_bare {
                    format!("\"{token}\"")
                } else {
                    token
                })
            });
        }
        text.into_owned()
    }

    /// A difference, whose place names the field.
    pub(crate) fn difference(&self, mut found: Difference) -> Difference {
        let steps = match &found.place {
            Place::Status => return found,
            Place::Header(name, steps) | Place::Trailer(name, steps) => {
                if self.is_secret(name) {
                    return self.hidden(found);
                }
                steps
            }
            Place::Body(steps) => steps,
        };
        let named = |step: &Step| matches!(step, Step::Name(name) if self.is_secret(name));
        if steps.iter().any(named) {
            return self.hidden(found);
        }
        for text in [&mut found.legacy, &mut found.extracted] {
            *text = clipped(&self.text(text));
        }
        found
    }

    fn hidden(&self, mut found: Difference) -> Difference {
        for text in [&mut found.legacy, &mut found.extracted] {
            if text != "absent" {
                *text = self.token("hidden", text);
            }
        }
        found
    }
}

/// Replaces what `new` has something else for.
fn replace(
    pattern: &Regex,
    text: &mut Cow<'_, str>,
    new: impl Fn(&Captures<'_>) -> Option<String>,
) {
    let mut out = String::new();
    let mut from = 0;
    for found in pattern.captures_iter(text) {
        if let (Some(whole), Some(new)) = (found.get(0), new(&found)) {
            out.push_str(&text[from..whole.start()]);
            out.push_str(&new);
            from = whole.end();
        }
    }
    if from > 0 {
        out.push_str(&text[from..]);
        *text = Cow::Owned(out);
    }
}

/// Where what is found is a number of a document of JSON, in ascending order, and not a part of a
/// text or of a longer number.
fn bare_numbers(document: &str, pattern: &Regex) -> Vec<usize> {
    if !document.trim_start().starts_with(['{', '[']) {
        return Vec::new();
    }
    let (mut at, mut is_text) = (0, false);
    let is_bare = |found: &Match<'_>| {
        let between = document.as_bytes()[at..found.start()].iter();
        let mut is_escaped = false;
        for byte in between {
            is_text ^= *byte == b'"' && !is_escaped;
            is_escaped = *byte == b'\\' && !is_escaped;
        }
        at = found.start();
        let behind = document[found.end()..].trim_start().chars().next();
        let before = document[..at].chars().next_back();
        !is_text
            && matches!(behind, None | Some(',' | ']' | '}'))
            && !matches!(before, Some('.' | '-' | 'e' | 'E' | '+'))
    };
    let found = pattern.find_iter(document).filter(is_bare);
    found.map(|found| found.start()).collect()
}

/// Whether something in this text was replaced.
pub(crate) fn has_token(text: &str) -> bool {
    let begins = |at: usize, kind: &str| {
        let rest = &text[at + kind.len()..];
        let hex = rest.bytes().take_while(u8::is_ascii_hexdigit).count();
        hex == 16 && rest[hex..].starts_with(']')
    };
    let kinds = ["[hidden ", "[token ", "[email ", "[card "].iter();
    let mut found = kinds.flat_map(|kind| text.match_indices(kind));
    found.any(|(at, kind)| begins(at, kind))
}

/// What is shown of a value.
fn clipped(text: &str) -> String {
    const SHOWN_MAX: usize = 160;
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// The check digit of a card's number (ISO/IEC 7812-1).
fn luhn(text: &str) -> bool {
    let digits = text.chars().rev().filter_map(|c| c.to_digit(10));
    let sum: u32 = digits
        .enumerate()
        .map(|(place, digit)| match place % 2 {
            1 if digit > 4 => digit * 2 - 9,
            1 => digit * 2,
            _ => digit,
        })
        .sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Its patterns are slow to make.
    static REDACTOR: std::sync::LazyLock<Redactor> =
        std::sync::LazyLock::new(|| Redactor::new(&[]).unwrap());

    #[test]
    fn planted_secrets_are_gone_and_the_rest_stays() {
        let redactor = Redactor::new(&["maiden_name".to_owned()]).unwrap();
        let text = r#"{"id":7,"password":"hunter2","Access-Token" : "xyz\"uvw","n":"ada@shop.example",
            "card":"4111 1111 1111 1111","order":"4111111111111112","pin":123456789,"maidenName":"Byron",
            "jwt":"eyJhbGciOi.eyJzdWIi.c2ln","cut":1,"secret":"to the en"#;
        let found = redactor.text(text);
        for secret in [
            "hunter2",
            "xyz",
            "uvw",
            "ada@",
            "4111 1111",
            "123456789",
            "Byron",
            "eyJ",
            "to the en",
        ] {
            assert!(!found.contains(secret), "{secret}: {found}");
        }
        for kept in [
            r#""id":7"#,
            "4111111111111112",
            r#""cut":1"#,
            r#""password":"[hidden "#,
        ] {
            assert!(found.contains(kept), "{kept}: {found}");
        }
        for name in ["X-Api-Key", "x-auth-token", "userPassword", "client_secret"] {
            assert!(redactor.is_secret(name), "{name}");
        }
        for name in ["x-tenant", "spin", "company", "tokens_left"] {
            assert!(!redactor.is_secret(name), "{name}");
        }
        let target = redactor.text("/a?q=1&token=t0p&mail=ada%40shop.example");
        assert!(
            target.starts_with("/a?q=1&token=[hidden ")
                && !target.contains("t0p")
                // A token has hexadecimal digits, which may be these three.
                && !target.contains("ada%40")
                && !target.contains("shop.example")
        );
    }

    #[test]
    fn a_document_with_a_cards_number_stays_one() {
        let redactor = Redactor::new(&[]).unwrap();
        for text in [
            r#"{"a":4111111111111111,"b":1}"#,
            r#" [ 4111111111111111 , "4111 1111 1111 1111", 5500005555555559]"#,
            r#"{"a":{"b": 4111111111111111 }, "c":"of: 4111111111111111, \"or\":5500005555555559, so"}"#,
        ] {
            let found = redactor.text(text);
            for card in ["411111111111", "4111 1111", "550000555555"] {
                assert!(!found.contains(card), "{found}");
            }
            let read: Result<serde_json::Value, _> = serde_json::from_str(&found);
            assert!(read.is_ok(), "{found}");
        }
        let found = redactor.text("by 4111111111111111, please");
        assert!(!found.contains('"') && has_token(&found), "{found}");
    }

    #[test]
    fn tokens_are_known_as_such() {
        let redactor = Redactor::new(&[]).unwrap();
        for text in [
            "ada@shop.example",
            "4111 1111 1111 1111",
            "eyJhbGciOi.eyJzdWIi.c2ln",
        ] {
            let found = redactor.text(text);
            assert!(!has_token(text) && has_token(&found), "{found}");
        }
        assert!(has_token(&redactor.named("cookie", "x")));
        for text in [
            "[hidden x]",
            "[email 0123456789abcdef",
            "[card 0123]",
            "[hidden ",
        ] {
            assert!(!has_token(text), "{text}");
        }
    }

    #[test]
    fn tokens_are_equal_where_the_texts_are() {
        let one = Redactor::new(&[]).unwrap();
        assert_eq!(one.text("a@b.example"), one.text("a@b.example"));
        assert_ne!(one.text("a@b.example"), one.text("c@b.example"));
        let other = Redactor::new(&[]).unwrap();
        assert_ne!(one.text("a@b.example"), other.text("a@b.example"));
        let found = one.difference(Difference {
            place: Place::Header("set-cookie".to_owned(), vec![Step::Name("x".to_owned())]),
            kind: "missing",
            legacy: "s3cret".to_owned(),
            extracted: "absent".to_owned(),
        });
        assert!(found.legacy.starts_with("[hidden ") && found.extracted == "absent");
    }

    proptest! {
        #[test]
        fn any_text_is_read_and_what_is_hidden_stays_hidden(text in "[\"a-c:=@.{}, 0-9\\\\]{0,60}", secret in "[a-z]{12}") {
            let redactor = &*REDACTOR;
            let _ = redactor.text(&text);
            let planted = format!("{{\"x\":1,\"password\":\"{secret}\"}}");
            prop_assert!(!redactor.text(&planted).contains(&secret));
        }

        #[test]
        fn what_is_not_searched_has_nothing_to_be_found(
            text in "([\"a:=@ .-]{0,3}|%40|eyJ|[0-9]{1,9}[ -]?|\"pin\": ?\"?x|a@b.example|sid=x){0,8}"
        ) {
            let redactor = &*REDACTOR;
            prop_assert!(may_have_member(&text) || !redactor.member.is_match(&text), "{}", text);
            prop_assert!(text.contains('=') || !redactor.parameter.is_match(&text), "{}", text);
            prop_assert!(text.contains("eyJ") || !redactor.jwt.is_match(&text), "{}", text);
            prop_assert!(may_have_email(&text) || !redactor.email.is_match(&text), "{}", text);
            prop_assert!(may_have_card(&text) || !redactor.card.is_match(&text), "{}", text);
        }
    }
}
