//! Whether the monolith says who calls as it is agreed, asked before anybody calls.

use std::time::Duration;

use http::StatusCode;
use http::header::{COOKIE, HeaderValue};

use super::said;
use crate::dial::Dialer;
use crate::rules::{Protocol, Transport};
use crate::upstreams::address::Address;
use crate::upstreams::discovery::rest;

/// A session that no monolith has.
const NO_SESSION: &str = "outgrow-check-0000000000000000";

/// What the monolith says of a session that it cannot know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nobody {
    /// That it is nobody's, as is right.
    Told,
    /// Something that other hosts, or another protocol, might not get: nothing is proved.
    Unclear(String),
    /// Something for which requests are refused, or served as somebody's.
    Wrong(String),
}

/// Asks one upstream of the monolith at `whoami` whose session it is that nobody has.
pub async fn who_is_nobody(
    (to, transport): (&Address, &Transport),
    (cookie, whoami): (&str, &str),
    within: Duration,
) -> Nobody {
    if transport.protocol == Protocol::Http2 {
        return Nobody::Unclear("not asked: it speaks HTTP/2 alone".to_owned());
    }
    let dialer = match Dialer::new(transport) {
        Ok(dialer) => dialer,
        Err(error) => return Nobody::Unclear(error.to_string()),
    };
    let Ok(session) = HeaderValue::try_from(format!("{cookie}={NO_SESSION}")) else {
        return Nobody::Unclear("its cookie is no name".to_owned());
    };
    let field = Some((COOKIE, session));
    match rest::get((&dialer, to), whoami, field, within).await {
        Ok(answer) => judged(answer.status, &answer.body, to.host()),
        Err(why) => Nobody::Wrong(why),
    }
}

fn judged(status: StatusCode, body: &[u8], host: &str) -> Nobody {
    const AGREED: &str = "it is to be 401, or 200 with {\"user_id\": null}";
    const ELSE: &str = "requests with such a session are refused (503 `identity`) else";
    match status {
        StatusCode::UNAUTHORIZED => Nobody::Told,
        StatusCode::OK => match said(body) {
            Ok(None) => Nobody::Told,
            Ok(Some(caller)) => Nobody::Wrong(format!(
                "it takes a session that does not exist for user {}; {AGREED}",
                caller.user_id
            )),
            Err(why) => Nobody::Wrong(format!(
                "its answer to a session that does not exist is none of an identity ({why}); {AGREED}; {ELSE}"
            )),
        },
        // Some frameworks know their host by name alone.
        StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN | StatusCode::MISDIRECTED_REQUEST => {
            Nobody::Unclear(format!(
                "it answers {status} to `host: {host}`; for a session that does not exist {AGREED}"
            ))
        }
        other => Nobody::Wrong(format!(
            "it answers {other} to a session that does not exist; {AGREED}; {ELSE}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_judged_as_requests_would_find_it() {
        let of = |status: u16, body: &str| {
            let status = StatusCode::from_u16(status).unwrap();
            judged(status, body.as_bytes(), "shop")
        };
        assert_eq!(of(401, "<html>"), Nobody::Told);
        assert_eq!(of(200, r#"{"user_id": null}"#), Nobody::Told);
        for (status, body, part) in [
            (200, r#"{"user_id": 7}"#, "for user 7"),
            (200, "<html>log in</html>", "none of an identity"),
            (200, r#"{"id": null}"#, "user_id"),
            (302, "", "302 Found"),
            (404, "", "404 Not Found"),
            (500, "", "503 `identity`"),
        ] {
            let Nobody::Wrong(why) = of(status, body) else {
                panic!("{status} {body}");
            };
            assert!(why.contains(part) && why.contains("401"), "{why}");
        }
        for status in [400, 403, 421] {
            let Nobody::Unclear(why) = of(status, "") else {
                panic!("{status}");
            };
            assert!(why.contains("host: shop"), "{why}");
        }
    }
}
