//! Each type of body, content codings, and bytes that are none of them.

use http::header::CONTENT_ENCODING;
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
    match read(kind(&headers), &headers, &Bytes::from(text.to_owned()), &[]) {
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
        ("text/xml", "<p>"),
        ("text/plain", "<p>"),
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
        "zstd" => zstd::stream::encode_all(plain, 19),
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
        ("zstd", "zstd"),
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
    let bomb = squeezed("zstd", &vec![b' '; 10 << 20]);
    assert!(bomb.len() < 20_000);
    assert_eq!(decoded(&of("zstd"), &bomb, 256 << 10), Err("bomb"));
    assert_eq!(
        decoded(&of("compress"), &Bytes::from_static(b"x"), 1_000),
        Err("encoding")
    );
    assert_eq!(decoded(&of("br"), &Bytes::new(), 1_000), Ok(Bytes::new()));
}

/// Made by another implementation: there is no encoder here.
const BROTLI: [u8; 26] = [
    139, 10, 128, 123, 34, 105, 100, 34, 58, 55, 44, 34, 110, 97, 109, 101, 34, 58, 34, 108, 97,
    109, 112, 34, 125, 3,
];
/// Ten MiB of spaces.
const BROTLI_BOMB: [u8; 27] = [
    203, 255, 255, 63, 248, 37, 64, 226, 177, 64, 32, 247, 254, 47, 255, 255, 63, 240, 75, 0, 196,
    97, 17, 128, 238, 253, 7,
];
/// With a window of 256 MiB.
const BROTLI_LARGE: [u8; 12] = [17, 92, 140, 1, 224, 151, 0, 9, 196, 2, 1, 29];

#[test]
fn brotli_and_windows_are_bounded() {
    let br = headers(&[(CONTENT_ENCODING, "br")]);
    let of = |bytes: &'static [u8]| decoded(&br, &Bytes::from_static(bytes), 256 << 10);
    assert_eq!(&of(&BROTLI).unwrap()[..], br#"{"id":7,"name":"lamp"}"#);
    assert_eq!(of(&BROTLI[..20]), Err("broken-encoding"));
    assert_eq!(of(&BROTLI_BOMB), Err("bomb"));
    assert_eq!(of(&BROTLI_LARGE), Err("broken-encoding"));
    let mut to = zstd::stream::write::Encoder::new(Vec::new(), 19).unwrap();
    to.window_log(24).unwrap();
    to.write_all(&vec![b' '; 20 << 20]).unwrap();
    let wide = Bytes::from(to.finish().unwrap());
    let zstd = headers(&[(CONTENT_ENCODING, "zstd")]);
    assert_eq!(decoded(&zstd, &wide, 64 << 20), Err("broken-encoding"));
}

const TYPES: [&str; 9] = [
    "text/html",
    "image/svg+xml",
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
        coding in prop_oneof![Just("gzip"), Just("deflate"), Just("br"), Just("zstd"), Just("identity")],
    ) {
        let body = Bytes::from(bytes);
        let _ = decoded(&headers(&[(CONTENT_ENCODING, coding)]), &body, 100);
        for content_type in TYPES {
            let headers = headers(&[(CONTENT_TYPE, content_type)]);
            let seen = read(kind(&headers), &headers, &body, &[]);
            prop_assert_eq!(&seen, &read(kind(&headers), &headers, &body, &[]));
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
