//! Values and events as servers write them.

use super::event::{Event, Logged, code, decode};
use super::gtid::Named;
use super::needs::for_a_fail_over;
use super::value::{Part, part, unfit};
use super::wire::inflate;
use crate::typed::Typed;

fn column(code: u8, meta: u16) -> Logged {
    Logged {
        code,
        meta,
        name: None,
        unsigned: false,
        labels: vec![b"a".to_vec(), b"b'c".to_vec()],
    }
}

fn stored(kind: (&str, &str), column: &Logged, bytes: &[u8]) -> String {
    match part(&Typed::mysql(kind.0, kind.1, Some(2)), column, bytes) {
        Some(Part::Stored(text)) => text,
        Some(Part::Foreign(bytes)) => format!("~{}", String::from_utf8(bytes).unwrap()),
        other => format!("{other:?}"),
    }
}

#[test]
fn numbers() {
    let int = ("int", "int");
    assert_eq!(stored(int, &column(code::LONG, 0), &[0xff; 4]), "i-1");
    let unsigned = Logged {
        unsigned: true,
        ..column(code::LONGLONG, 0)
    };
    let whole = ("bigint", "bigint unsigned");
    assert_eq!(
        stored(whole, &unsigned, &[0xff; 8]),
        "t18446744073709551615"
    );
    assert_eq!(
        stored(int, &column(code::INT24, 0), &[0, 0, 0x80]),
        "i-8388608"
    );
    assert_eq!(
        stored(("year", "year"), &column(code::YEAR, 0), &[126]),
        "i2026"
    );
    let decimal = ("decimal", "decimal(14,4)");
    let place = column(code::DECIMAL, u16::from_be_bytes([14, 4]));
    // The manual's own examples.
    let positive = [0x81, 0x0d, 0xfb, 0x38, 0xd2, 0x04, 0xd2];
    assert_eq!(stored(decimal, &place, &positive), "t1234567890.1234");
    let negative = positive.map(|b| !b);
    assert_eq!(stored(decimal, &place, &negative), "t-1234567890.1234");
}

#[test]
fn times() {
    let clock =
        |digits, bytes: &[u8]| stored(("time", "time"), &column(code::TIME2, digits), bytes);
    assert_eq!(clock(0, &[0x80, 0x10, 0x83]), "t01:02:03");
    assert_eq!(clock(0, &[0x7f, 0xff, 0xff]), "t-00:00:01");
    // A second and a half before midnight.
    assert_eq!(clock(1, &[0x7f, 0xff, 0xfe, 0xce]), "t-00:00:01.5");
    assert_eq!(
        clock(6, &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff]),
        "t-00:00:00.000001"
    );
    let moment = ("timestamp", "timestamp");
    let at = column(code::TIMESTAMP2, 3);
    assert_eq!(
        stored(moment, &at, &[0, 0, 0, 1, 0x13, 0x88]),
        "t1970-01-01T00:00:01.5Z"
    );
    assert_eq!(
        stored(
            ("date", "date"),
            &column(code::DATE, 0),
            &[0x5d, 0xd0, 0x0f]
        ),
        "t2024-02-29"
    );
}

#[test]
fn text_and_bytes() {
    let kind = ("enum", "enum('a','b''c')");
    assert_eq!(stored(kind, &column(code::ENUM, 1), &[2]), "~b'c");
    assert_eq!(stored(kind, &column(code::ENUM, 1), &[0]), "~");
    assert_eq!(
        stored(("set", "set"), &column(code::SET, 1), &[3]),
        "~a,b'c"
    );
    assert_eq!(
        stored(("binary", "binary(4)"), &column(code::STRING, 4), &[1]),
        "b01000000"
    );
    assert_eq!(
        stored(("uuid", "uuid"), &column(code::STRING, 16), &[0x11]),
        "t11000000-0000-0000-0000-000000000000"
    );
    for (bare, fits) in [
        ("float", false),
        ("inet6", false),
        ("date", true),
        ("uuid", true),
    ] {
        assert_eq!(
            unfit(&Typed::mysql(bare, bare, None)).is_none(),
            fits,
            "{bare}"
        );
    }
}

#[test]
fn what_is_broken_is_an_error_and_never_a_panic() {
    for kind in 0..=u8::MAX {
        for length in 0..64 {
            let zeros = vec![0; length];
            let ones = vec![0xff; length];
            for bytes in [&zeros, &ones] {
                if let Some(Event::Map(mapped)) = decode(kind, bytes) {
                    let _ = mapped.columns();
                }
                let fits = column(kind, 0x0303);
                for name in [
                    "int",
                    "decimal",
                    "varchar",
                    "binary",
                    "uuid",
                    "datetime",
                    "timestamp",
                    "date",
                    "time",
                ] {
                    let _ = part(&Typed::mysql(name, name, None), &fits, bytes);
                }
            }
        }
    }
    assert_eq!(inflate(&[0x81, 3, 1, 2, 3]), None);
}

/// `GTID_LOG_EVENT` as documented: flags, the server's UUID, the number, and more behind it.
#[test]
fn names_of_transactions() {
    let uuid: [u8; 16] = std::array::from_fn(|at| u8::try_from(at).unwrap());
    let mut body = vec![1];
    body.extend(uuid);
    body.extend(42_u64.to_le_bytes());
    body.extend([2, 0, 0]);
    match decode(33, &body) {
        Some(Event::Gtid { begun, named }) => {
            assert!(!begun, "MySQL says so by a statement");
            assert_eq!(named, Named::Unique { uuid, number: 42 });
        }
        other => unreachable!("{other:?}"),
    }
    for kind in [34, 42] {
        assert!(matches!(
            decode(kind, &body),
            Some(Event::Gtid {
                named: Named::Unknown,
                ..
            })
        ));
    }
    assert!(decode(33, &body[..20]).is_none());
    // MariaDB: the number, the domain, flags, of which one says that no commit comes.
    for (flags, begun) in [(0, true), (1, false)] {
        let mut body = 100_u64.to_le_bytes().to_vec();
        body.extend(3_u32.to_le_bytes());
        body.push(flags);
        let Some(Event::Gtid { begun: told, named }) = decode(162, &body) else {
            unreachable!()
        };
        assert_eq!(told, begun);
        let expected = Named::Counted {
            domain: 3,
            number: 100,
        };
        assert_eq!(named, expected);
    }
    let none = 0_u64.to_le_bytes();
    assert!(matches!(decode(35, &none), Some(Event::Before(Some(_)))));
}

/// What is well is not spoken of, on either server; what is not known there neither.
#[test]
fn settings_that_a_fail_over_needs() {
    let said = |set: &[(&str, &'static str)]| {
        let of = |name: &str| set.iter().find(|(n, _)| *n == name).map_or("", |(_, v)| v);
        let found = for_a_fail_over(of);
        found.into_iter().map(|(what, _)| what).collect::<Vec<_>>()
    };
    let maria = [("gtid_strict_mode", "ON"), ("log_slave_updates", "ON")];
    assert!(said(&maria).is_empty());
    let mysql = [("gtid_mode", "ON"), ("log_replica_updates", "ON")];
    assert!(said(&mysql).is_empty());
    let maria = [("gtid_strict_mode", "OFF"), ("log_slave_updates", "OFF")];
    let found = said(&maria);
    assert_eq!(found.len(), 2);
    assert!(found[0].contains("gtid_strict_mode is `OFF`"), "{found:?}");
    assert!(found[1].contains("log_slave_updates is `OFF`"), "{found:?}");
    assert!(said(&[("gtid_mode", "ON_PERMISSIVE")])[0].contains("gtid_mode is `ON_PERMISSIVE`"));
}
