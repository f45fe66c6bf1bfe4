//! Files as they are written, torn, damaged and hostile.

use proptest::prelude::*;

use super::*;

fn read(text: &[u8]) -> Result<Recording, RecordingError> {
    Recording::read(text, None)
}

fn refused(text: &str) -> String {
    match read(text.as_bytes()) {
        Err(error) => error.to_string(),
        Ok(found) => panic!("{found:?}"),
    }
}

fn request(at_ms: u64, target: &str) -> Recorded {
    Recorded {
        at_ms,
        session: "s1".to_owned(),
        route: Some("GET /a".to_owned()),
        method: Method::GET,
        target: target.parse().unwrap(),
        sides: SideTargets::default(),
        headers: HeaderMap::new(),
        body: Bytes::new(),
        answer: None,
    }
}

fn file(lines: &[String]) -> String {
    let all: Vec<&str> = lines.iter().map(String::as_str).collect();
    format!("{}\n{}\n", head("a test"), all.join("\n"))
}

#[test]
fn a_file_that_was_cut_off_keeps_every_whole_line() {
    let whole = file(&[request(2, "/b").line(), request(1, "/a").line()]);
    let found = read(whole.as_bytes()).unwrap();
    let targets: Vec<&str> = found.requests.iter().map(|r| r.target.path()).collect();
    assert_eq!(targets, ["/a", "/b"], "in the order of their time");
    assert!(found.left_out.is_empty());
    let first = head("a test").len() + 1;
    for cut in first..whole.len() {
        let found = read(&whole.as_bytes()[..cut]).unwrap();
        let lines = whole[first..cut].matches('\n').count();
        // A line without its end may be whole all the same.
        let seen = found.requests.len();
        assert!(
            seen == lines || seen == lines + 1,
            "{cut}: {seen} of {lines}"
        );
        assert!(found.left_out.len() <= 1);
    }
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    let good = request(1, "/a").line();
    for (lines, expected) in [
        (vec![good.clone(), "{}".to_owned()], "line 3: missing field"),
        (
            vec![good.replace("\"GET\"", "\"G T\"")],
            "line 2: `G T` is no method",
        ),
        (
            vec![good.replace("\"/a\"", "\"a\"")],
            "line 2: `a` is no path",
        ),
        (
            vec![good.replace("\"method\"", "\"headers\":[[\"a b\",\"c\"]],\"method\"")],
            "line 2: `a b` is no header",
        ),
        (
            vec![good.replace("\"method\"", "\"body\":{\"base64\":\"*\"},\"method\"")],
            "line 2: a body is no base64",
        ),
    ] {
        let text = refused(&file(&lines));
        assert!(text.contains(expected), "{text}");
    }
    assert!(refused("").contains("line 1 is no head"));
    assert!(refused("[1, 2]").contains("outgrow shadow record"));
    assert!(refused("{\"outgrow_recording\": 9, \"source\": \"x\"}\n").contains("format 9"));
}

const HAR: &str = r#"{"log":{"version":"1.2","creator":{"name":"Browser","version":"1"},"entries":[
{"startedDateTime":"2026-11-21T10:00:01.500+01:00","request":{"method":"POST","url":"https://shop.example/login?x=1#top",
 "headers":[{"name":":authority","value":"shop.example"},{"name":"Content-Type","value":"application/json"}],
 "postData":{"mimeType":"application/json","text":"{\"name\":\"ada\"}"}},
 "response":{"status":200,"headers":[{"name":"set-cookie","value":"a=1; Path=/\nb=2"}],
 "content":{"mimeType":"application/json","text":"eyJ0b2tlbiI6InQifQ==","encoding":"base64"}}},
{"startedDateTime":"2026-11-21T09:00:00Z","request":{"method":"GET","url":"https://shop.example/","headers":[]},
 "response":{"status":0,"headers":[],"content":{"size":0}}},
{"startedDateTime":"2026-11-21T09:00:02Z","request":{"method":"GET","url":"https://cdn.example/x.js","headers":[]}},
{"startedDateTime":"2026-11-21T09:00:02Z","request":{"method":"GET","url":"data:text/css,x","headers":[]}},
{"startedDateTime":"2026-11-21T09:00:03Z","request":{"method":"POST","url":"https://shop.example/cart","headers":[],
 "postData":{"mimeType":"application/x-www-form-urlencoded","params":[{"name":"a","value":"1"},{"name":"b"}]}}}
]}}"#;

#[test]
fn a_browsers_session_is_imported() {
    let found = read(HAR.as_bytes()).unwrap();
    let seen: Vec<(u64, &str)> = found
        .requests
        .iter()
        .map(|request| (request.at_ms, request.target.as_str()))
        .collect();
    assert_eq!(seen, [(0, "/"), (1_500, "/login?x=1"), (3_000, "/cart")]);
    assert_eq!(
        found.left_out,
        [
            "one request to https://cdn.example",
            "one request to other schemes"
        ]
    );
    let login = &found.requests[1];
    assert_eq!(login.body, r#"{"name":"ada"}"#);
    assert_eq!(login.headers.len(), 1);
    let given = login.answer.as_ref().unwrap();
    assert_eq!(given.body, r#"{"token":"t"}"#);
    let cookies: Vec<_> = given.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1; Path=/", "b=2"]);
    assert_eq!(found.requests[0].answer, None, "it was blocked");
    assert_eq!(found.requests[2].body, "a=1&b=");
    let other = Recording::read(HAR.as_bytes(), Some("https://cdn.example/")).unwrap();
    assert_eq!(other.requests.len(), 1);
}

#[test]
fn a_har_file_that_is_none_says_where() {
    for (from, to, expected) in [
        ("\"1.2\"", "\"2.0\"", "its version is 2.0"),
        ("\"entries\":[", "\"entries\":3,\"x\":[", "invalid type"),
        (
            "2026-11-21T09:00:00Z",
            "yesterday",
            "entry 2 of the HAR file: `yesterday` is no moment",
        ),
        (
            "\"method\":\"POST\",\"url\":\"https://shop.example/cart\"",
            "\"method\":\"POST\"",
            "entry 5 of the HAR file: missing field `url`",
        ),
        ("x-www-form-urlencoded", "x-other", "entry 5"),
        ("https://shop.example/\"", "https:///\"", "entry 2"),
    ] {
        assert!(HAR.contains(from), "{from}");
        let text = refused(&HAR.replacen(from, to, 1));
        assert!(text.contains(expected), "{from}: {text}");
    }
    let none = Recording::read(HAR.as_bytes(), Some("https://nobody.example"));
    assert!(none.unwrap_err().to_string().contains("no request to"));
}

fn any_recorded() -> impl Strategy<Value = Recorded> {
    (
        any::<u64>(),
        "[a-z0-9]{0,8}",
        prop::option::of("\\PC{0,12}"),
        "/[a-z0-9/?=&%.]{0,20}",
        prop::collection::vec(("[a-z-]{1,8}", "[ -~]{0,12}"), 0..4),
        prop::collection::vec(any::<u8>(), 0..40),
        prop::option::of((100u16..600, prop::collection::vec(any::<u8>(), 0..20))),
    )
        .prop_map(
            |(at_ms, session, route, path, pairs, body, answer)| Recorded {
                at_ms,
                session,
                route,
                method: Method::PUT,
                target: path.parse().unwrap_or(PathAndQuery::from_static("/")),
                sides: SideTargets {
                    legacy: None,
                    extracted: Some(PathAndQuery::from_static("/v2/x?a=1")),
                },
                headers: fields(&pairs).unwrap_or_default(),
                body: Bytes::from(body),
                answer: answer.map(|(status, body)| Given {
                    status,
                    headers: HeaderMap::new(),
                    body: Bytes::from(body),
                }),
            },
        )
}

proptest! {
    #[test]
    fn what_is_written_comes_back(request in any_recorded()) {
        let found = read(file(&[request.line()]).as_bytes()).unwrap();
        let again = &found.requests[0];
        prop_assert_eq!(&again.line(), &request.line());
        prop_assert_eq!(&again.body, &request.body);
        prop_assert_eq!(&again.headers, &request.headers);
        prop_assert_eq!(&again.answer, &request.answer);
    }

    #[test]
    fn no_bytes_bring_the_reader_down(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&bytes);
        let headed = [head("x").as_bytes(), b"\n", &bytes].concat();
        let _ = read(&headed);
    }

    #[test]
    fn a_damaged_file_is_read_or_refused(
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        har in any::<bool>(),
    ) {
        let mut text = match har {
            true => HAR.as_bytes().to_vec(),
            false => file(&[request(1, "/a").line(), request(2, "/b").line()]).into_bytes(),
        };
        for (place, byte) in places {
            let at = place.index(text.len());
            text[at] = byte;
        }
        let _ = read(&text);
    }
}
