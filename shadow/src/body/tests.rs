//! Each type of body, content codings, and bytes that are none of them.

use std::io::Write;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use http::{HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;

fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
    let pair =
        |(name, value): &(HeaderName, &str)| (name.clone(), HeaderValue::from_str(value).unwrap());
    pairs.iter().map(pair).collect()
}

fn tree(content_type: &str, text: &str) -> Option<String> {
    let headers = headers(&[(CONTENT_TYPE, content_type)]);
    match read(kind(&headers), &headers, &Bytes::from(text.to_owned())) {
        Body::Tree(json) => Some(shown(&json)),
        _ => None,
    }
}

fn shown(json: &Json) -> String {
    let list = |all: Vec<String>| all.join(",");
    match json {
        Json::Array(all) => format!("[{}]", list(all.iter().map(shown).collect())),
        Json::Object(all) => {
            let all = all
                .iter()
                .map(|(name, value)| format!("{name}:{}", shown(value)));
            format!("{{{}}}", list(all.collect()))
        }
        scalar => scalar.brief().replace('"', "'"),
    }
}

#[test]
fn each_type_is_read_into_a_tree() {
    let multipart = "multipart/form-data; boundary=\"b o\"";
    let parts = "skipped\r\n--b o\r\nContent-Type: text/plain\r\nX: 1\r\n\r\nhi\r\nyou\r\n--b o  \r\n\r\n{\"a\":1}\r\n--b o--\r\nepilogue";
    for (content_type, text, expected) in [
        (
            "application/x-ndjson",
            "{\"a\":1}\n\n{\"a\":2}\n",
            "[{a:1},{a:2}]",
        ),
        ("application/problem+json; x=y", "{\"a\":1.0}", "{a:1}"),
        (
            "application/x-www-form-urlencoded",
            "b=2&a=%41+b&a=&c",
            "{a:'A b',a:'',b:'2',c:''}",
        ),
        (
            "text/csv",
            "id,n\r\n1,\"a, \"\"\"\r\n2,\n",
            "[{id:'1',n:'a, \\''},{id:'2',n:''}]",
        ),
        (
            "text/tab-separated-values",
            "id\tn\n1\t\"\"",
            "[{id:'1',n:''}]",
        ),
        (
            "text/event-stream",
            ": hi\nevent: x\ndata: {\"a\":\ndata: 1}\n\ndata: y\n\ndata: cut",
            "[{data:{a:1},event:'x'},{data:'y'}]",
        ),
        (
            multipart,
            parts,
            "[{content:'hi\\r\\nyou',content-type:'text/plain',x:'1'},{content:{a:1}}]",
        ),
    ] {
        assert_eq!(
            tree(content_type, text).as_deref(),
            Some(expected),
            "{content_type}"
        );
    }
    for (content_type, text) in [
        ("application/x-ndjson", "{\"a\":1}\n{"),
        ("application/json", "{"),
        ("text/csv", "id,id\n1,2"),
        ("text/csv", "id\n1,2"),
        ("text/csv", "id\n\"open"),
        ("multipart/mixed", "--x\r\n\r\nhi\r\n--x--"),
        ("multipart/mixed; boundary=x", "--x\r\n\r\nnot whole"),
        ("text/html", "<p>"),
    ] {
        assert_eq!(tree(content_type, text), None, "{content_type} {text}");
    }
}

fn squeezed(form: &str, plain: &[u8]) -> Bytes {
    let best = Compression::best();
    let squeezed = match form {
        "gzip" => {
            let mut to = GzEncoder::new(Vec::new(), best);
            to.write_all(plain).unwrap();
            to.finish()
        }
        "zlib" => {
            let mut to = ZlibEncoder::new(Vec::new(), best);
            to.write_all(plain).unwrap();
            to.finish()
        }
        _ => {
            let mut to = DeflateEncoder::new(Vec::new(), best);
            to.write_all(plain).unwrap();
            to.finish()
        }
    };
    Bytes::from(squeezed.unwrap())
}

#[test]
fn codings_are_taken_off_and_bombs_are_not_unpacked() {
    let plain = b"{\"a\":1,\"text\":\"not that short, so that something is left of it\"}";
    let of = |coding: &str| headers(&[(CONTENT_ENCODING, coding)]);
    for (form, coding) in [
        ("gzip", "gzip"),
        ("gzip", "X-GZip"),
        ("zlib", "deflate"),
        ("raw", "deflate"),
    ] {
        let body = squeezed(form, plain);
        assert_eq!(
            &decoded(&of(coding), &body, 1_000).unwrap()[..],
            plain,
            "{coding}"
        );
        let cut = body.slice(..body.len() - 5);
        assert_eq!(
            decoded(&of(coding), &cut, 1_000),
            Err("broken-encoding"),
            "{form}"
        );
    }
    let twice = squeezed("gzip", &squeezed("zlib", plain));
    assert_eq!(
        &decoded(&of("deflate, gzip"), &twice, 1_000).unwrap()[..],
        plain
    );
    let bomb = squeezed("gzip", &vec![b' '; 10 << 20]);
    assert!(bomb.len() < 20_000);
    assert_eq!(decoded(&of("gzip"), &bomb, 256 << 10), Err("bomb"));
    assert_eq!(
        decoded(&of("br"), &Bytes::from_static(b"x"), 1_000),
        Err("encoding")
    );
    assert_eq!(decoded(&of("br"), &Bytes::new(), 1_000), Ok(Bytes::new()));
}

const TYPES: [&str; 7] = [
    "application/json",
    "application/x-ndjson",
    "text/csv",
    "text/event-stream",
    "application/x-www-form-urlencoded",
    "multipart/mixed; boundary=x",
    "text/tab-separated-values",
];

proptest! {
    #[test]
    fn any_bytes_are_read_and_the_same_each_time(
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            "[-x{}\\[\\]\",:;=&%+ \t\r\na-c0-9é]{0,80}".prop_map(String::into_bytes),
        ],
        coding in prop_oneof![Just("gzip"), Just("deflate"), Just("identity")],
    ) {
        let body = Bytes::from(bytes);
        let _ = decoded(&headers(&[(CONTENT_ENCODING, coding)]), &body, 100);
        for content_type in TYPES {
            let headers = headers(&[(CONTENT_TYPE, content_type)]);
            let seen = read(kind(&headers), &headers, &body);
            prop_assert_eq!(&seen, &read(kind(&headers), &headers, &body));
        }
    }

    #[test]
    fn cells_come_back(rows in prop::collection::vec(prop::collection::vec("[a,\"\n\r é]{0,6}", 2), 0..6)) {
        let quote = |cell: &String| format!("\"{}\"", cell.replace('"', "\"\""));
        let line = |row: &Vec<String>| row.iter().map(quote).collect::<Vec<_>>().join(",");
        let mut text = "x,y\r\n".to_owned();
        rows.iter().for_each(|row| text.push_str(&format!("{}\r\n", line(row))));
        let expected = rows.iter().map(|row| {
            let cell = |name: &str, at: usize| (name.to_owned(), Json::String(row[at].clone()));
            Json::object(vec![cell("x", 0), cell("y", 1)])
        });
        prop_assert_eq!(table::table(&text, ','), Some(Json::Array(expected.collect())));
    }
}
