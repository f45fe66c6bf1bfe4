//! Pages of the config in place of the proxy's own answers, as HTML or as JSON.

use std::path::Path;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

/// Of one page; longer ones are somebody's mistake.
const PAGE_MAX: usize = 1 << 20;

/// What the proxy says in `x-outgrow-error` when it answers itself.
pub const ERROR_CODES: [&str; 23] = [
    "malformed",
    "head-too-long",
    "body-too-long",
    "connect",
    "held",
    "crowded",
    "identity",
    "maintenance",
    "cors",
    "unauthorized",
    "forbidden",
    "auth-unavailable",
    "rate-limited",
    "connect-failed",
    "tls-failed",
    "no-upstream",
    "timeout",
    "broken",
    "broken-upload",
    "slow-upload",
    "circuit-open",
    "overloaded",
    "not-kept",
];

/// A page for answers of the proxy's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorPage {
    pub status: StatusCode,
    /// One of [`ERROR_CODES`]; none fits all of the status.
    pub code: Option<String>,
    pub html: Option<Bytes>,
    pub json: Option<Bytes>,
}

impl ErrorPage {
    /// Reads a page.
    ///
    /// # Errors
    /// Says why the file is none.
    pub fn html(path: &Path) -> Result<Bytes, String> {
        let bytes = read(path)?;
        match std::str::from_utf8(&bytes) {
            Ok(_) => Ok(bytes),
            Err(_) => Err("it is not UTF-8".to_owned()),
        }
    }

    /// Reads a page.
    ///
    /// # Errors
    /// Says why the file is none.
    pub fn json(path: &Path) -> Result<Bytes, String> {
        let bytes = read(path)?;
        let read: Result<serde::de::IgnoredAny, _> = serde_json::from_slice(&bytes);
        match read {
            Ok(_) => Ok(bytes),
            Err(error) => Err(format!("it is not JSON: {error}")),
        }
    }
}

fn read(path: &Path) -> Result<Bytes, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    match bytes.len() {
        0 => Err("it is empty".to_owned()),
        1..=PAGE_MAX => Ok(Bytes::from(bytes)),
        _ => Err(format!("it is longer than {PAGE_MAX} bytes")),
    }
}

/// The first page that fits, in the form that its reader wants, with its type.
pub(crate) fn page(
    pages: &[ErrorPage],
    (status, code): (StatusCode, &str),
    accept: Option<&HeaderValue>,
) -> Option<(Bytes, &'static str)> {
    let fits = |page: &&ErrorPage| {
        page.status == status && page.code.as_deref().is_none_or(|own| own == code)
    };
    let page = pages.iter().find(fits)?;
    let html = page
        .html
        .clone()
        .map(|page| (page, "text/html; charset=utf-8"));
    let json = page.json.clone().map(|page| (page, "application/json"));
    match wants_html(accept) {
        true => html,
        false => json,
    }
}

/// Browsers name HTML; whoever takes anything gets JSON, as without pages.
fn wants_html(accept: Option<&HeaderValue>) -> bool {
    let Some(text) = accept.and_then(|accept| accept.to_str().ok()) else {
        return false;
    };
    quality(text, "text", "html") > quality(text, "application", "json")
}

/// How much a type is wanted, in thousandths: by the range that names it best (RFC 9110 section
/// 12.5.1).
fn quality(accept: &str, kind: &str, subtype: &str) -> u32 {
    let mut best = (0, 0);
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let (a, b) = name.split_once('/').unwrap_or_default();
        let exact = match (
            a.eq_ignore_ascii_case(kind),
            b.eq_ignore_ascii_case(subtype),
        ) {
            (true, true) => 3,
            (true, false) if b == "*" => 2,
            _ if a == "*" && b == "*" => 1,
            _ => continue,
        };
        let q = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
        let q = q.map_or(Some(1.0), |text| text.parse::<f64>().ok());
        let q = q.filter(|q| (0.0..=1.0).contains(q)).unwrap_or_default();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0 to 1,000.
        let thousandths = (q * 1_000.0) as u32;
        if exact > best.0 {
            best = (exact, thousandths);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_get_html_and_programs_json() {
        for (accept, html) in [
            (
                "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
                true,
            ),
            ("text/*", true),
            ("TEXT/HTML;q=0.5, application/json;q=0.4", true),
            ("text/html;q=0.5, application/json", false),
            ("text/html;q=0, */*", false),
            ("*/*", false),
            ("application/json", false),
            ("text/html;q=x", false),
            ("", false),
        ] {
            let accept = HeaderValue::from_static(accept);
            assert_eq!(wants_html(Some(&accept)), html, "{accept:?}");
        }
        assert!(!wants_html(None));
    }

    #[test]
    fn the_first_page_that_fits_is_taken() {
        let page = |code: Option<&str>, html: &'static str| ErrorPage {
            status: StatusCode::SERVICE_UNAVAILABLE,
            code: code.map(str::to_owned),
            html: Some(Bytes::from_static(html.as_bytes())),
            json: None,
        };
        let pages = [page(Some("maintenance"), "closed"), page(None, "down")];
        let browser = HeaderValue::from_static("text/html");
        let found = |status, code| {
            super::page(&pages, (status, code), Some(&browser)).map(|(bytes, _)| bytes)
        };
        let down = StatusCode::SERVICE_UNAVAILABLE;
        assert_eq!(found(down, "maintenance").unwrap(), "closed");
        assert_eq!(found(down, "held").unwrap(), "down");
        assert_eq!(found(StatusCode::BAD_GATEWAY, "broken"), None);
        assert!(
            super::page(&pages, (down, "held"), None).is_none(),
            "no JSON of its own"
        );
    }
}
