//! Bodies that are made to cost much: each would take minutes, or gigabytes, without its bound.
//! What is given up is compared as text.

use super::*;
use crate::body::coding::GROWTH_MAX;
use http::HeaderValue;

/// What an answer may be once it is unpacked, as copies are bounded by default.
const LENGTH: usize = GROWTH_MAX * (256 << 10);

fn of(content_type: &str, body: impl Into<Bytes>) -> Body {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_str(content_type).unwrap());
    headers.insert("grpc-encoding", HeaderValue::from_static("zstd"));
    read(kind(&headers), &headers, &body.into(), &[])
}

/// As long as a body may be: the parts are numbered.
fn many(length: usize, part: impl Fn(usize) -> String) -> String {
    let mut all = String::with_capacity(length);
    for n in 0.. {
        all.push_str(&part(n));
        if all.len() >= length {
            break;
        }
    }
    all
}

#[test]
fn pages_that_grow_beyond_their_tags_are_given_up() {
    let fonts = many(3_000, |n| format!("<b a={n}>"));
    for (name, page) in [
        ("never closed", many(LENGTH, |_| "<div>".to_owned())),
        (
            "closed by others",
            many(LENGTH / 2, |_| "<span>".to_owned()) + &many(LENGTH / 2, |_| "</x>".to_owned()),
        ),
        (
            "opened anew",
            fonts + &many(LENGTH, |_| "</p><p>x".to_owned()),
        ),
        (
            "attributes",
            format!("<a {}>", many(LENGTH / 8, |n| format!("a{n} "))),
        ),
        (
            "attributes with quotes",
            format!("<a {}>", many(LENGTH / 8, |n| format!("a{n}='>'"))),
        ),
    ] {
        assert!(matches!(of("text/html", page), Body::Text(_)), "{name}");
    }
}

#[test]
fn pages_as_they_are_written_are_read_whatever_their_length() {
    let image = format!(
        "<img src='data:image/png;base64,{}'>",
        "abcd".repeat(100_000)
    );
    let list = many(LENGTH / 2, |n| {
        format!("<li class=a><b>{n}</b><a href=/{n}>é&amp;</a><br>\n")
    });
    let words = "<p>".to_owned() + &"some words of a text, ".repeat(10_000);
    let page = format!("<!doctype html><table><tr><td><ul>{list}</ul>{image}</table>{words}");
    assert!(matches!(of("text/html", page), Body::Tree(_)));
    let deep = "<div>".repeat(90) + "x";
    assert!(matches!(of("text/html", deep), Body::Tree(_)));
}

#[test]
fn names_that_stand_once_are_not_copied_without_end() {
    let long = "u".repeat(LENGTH / 2);
    for (name, content_type, body) in [
        (
            "a namespace",
            "text/xml",
            format!("<a xmlns='{long}'>{}</a>", "<b/>".repeat(100_000)),
        ),
        (
            "a column",
            "text/csv",
            format!("{long}\n{}", "1\n".repeat(200_000)),
        ),
        (
            "attributes",
            "text/xml",
            format!("<a {}/>", many(LENGTH, |n| format!("a{n}='' "))),
        ),
        (
            "prefixes",
            "text/xml",
            format!(
                "<a {}>{}</a>",
                many(LENGTH / 2, |n| format!("xmlns:p{n}='u' ")),
                "<p0:b/>".repeat(60_000)
            ),
        ),
        (
            "prefixes of many",
            "text/xml",
            many(LENGTH, |n| format!("<a xmlns:p{n}='u' xmlns:q{n}='u'>")),
        ),
    ] {
        assert!(matches!(of(content_type, body), Body::Text(_)), "{name}");
    }
    let rows = "<row xmlns='http://example.org/rows' a='1'><b/></row>".repeat(10_000);
    let (all, cells) = (format!("<a>{rows}</a>"), "a column,b\n".to_owned());
    assert!(matches!(of("text/xml", all), Body::Tree(_)));
    let table = cells + &",\n".repeat(100_000);
    assert!(matches!(of("text/csv", table), Body::Tree(_)));
}

#[test]
fn a_boundary_is_no_longer_than_it_may_be() {
    for (length, is_read) in [(70, true), (71, false)] {
        let boundary = "-".repeat(length);
        let body = format!("--{boundary}\n\nx\n--{boundary}--");
        let found = of(&format!("multipart/mixed; boundary={boundary}"), body);
        assert_eq!(matches!(found, Body::Tree(_)), is_read, "{length}");
    }
}

#[test]
fn what_bombs_grow_to_is_unpacked_once() {
    let bomb = zstd::stream::encode_all(&vec![b' '; 64 << 20][..], 19).unwrap();
    let small = zstd::stream::encode_all(&b"\x08\x01"[..], 1).unwrap();
    let framed = |message: &[u8]| {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[1][..], &length, message].concat()
    };
    let count = LENGTH / bomb.len();
    let all = [framed(&small), framed(&bomb).repeat(count), framed(&small)];
    let Body::Tree(Json::Array(found)) = of("application/grpc", all.concat()) else {
        panic!("no messages");
    };
    assert_eq!(found.len(), count + 2);
    assert!(matches!(&found[0], Json::Object(_)));
    let is_packed =
        |one: &Json| matches!(one, Json::String(text) if text.starts_with("compressed"));
    assert!(found[1..].iter().all(is_packed));
}

#[test]
fn codings_are_no_more_than_anybody_uses() {
    let mut headers = HeaderMap::new();
    for most in [8, 9] {
        let names = vec!["identity"; most].join(", ");
        headers.insert("content-encoding", HeaderValue::from_str(&names).unwrap());
        let found = decoded(&headers, &Bytes::from_static(b"x"), 100);
        assert_eq!(found.is_ok(), most == 8);
    }
}
