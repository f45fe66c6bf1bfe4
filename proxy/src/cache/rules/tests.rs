//! What RFC 9111 says of each, case by case.

use std::time::Duration;

use super::*;
use crate::moment::tests::{at, set};

type Pairs<'a> = &'a [(&'static str, &'static str)];

fn fields(pairs: Pairs<'_>) -> HeaderMap {
    let mut all = HeaderMap::new();
    for (name, value) in pairs {
        all.append(*name, HeaderValue::from_static(value));
    }
    all
}

fn cc(text: &'static str) -> (&'static str, &'static str) {
    ("cache-control", text)
}

fn times(asked: u64, came: u64) -> Times {
    Times {
        asked: at(asked),
        came: at(came),
    }
}

fn fresh(pairs: Pairs<'_>) -> Freshness {
    Freshness::of(StatusCode::OK, &fields(pairs), times(0, 0), None)
}

const TAG: (&str, &str) = ("etag", "\"a\"");

#[track_caller]
fn kept_is(request: Pairs<'_>, known: bool, status: u16, answer: Pairs<'_>, kept: bool) {
    let status = StatusCode::from_u16(status).unwrap();
    let told = fields(answer);
    let freshness = Freshness::of(status, &told, times(0, 0), None);
    let found = may_keep(&fields(request), known, (status, &told), &freshness);
    assert_eq!(found, kept, "{request:?} {known} {status} {answer:?}");
}

#[test]
fn only_what_says_so_is_kept() {
    let expires = ("expires", "Sun, 06 Nov 1994 08:49:37 GMT");
    let cookie = ("set-cookie", "a=b");
    for (status, answer, kept) in [
        (200, &[cc("max-age=5")][..], true),
        (200, &[cc("Max-Age=\"5\", x=\"no-store, a\"")], true),
        (200, &[cc("max-age=5, x=\"no-store")], false),
        (200, &[], false),
        (200, &[TAG], false),
        (200, &[cc("no-cache"), TAG], true),
        (200, &[cc("no-cache")], false),
        (200, &[cc("max-age=0")], false),
        (200, &[cc("max-age=0"), TAG], true),
        (200, &[cc("max-age=0, stale-if-error=5")], true),
        (200, &[cc("s-maxage=0, stale-if-error=5")], false),
        (200, &[expires], true),
        (200, &[("expires", "0"), ("last-modified", "x")], true),
        (200, &[cc("max-age=5, No-Store")], false),
        (200, &[cc("max-age=5"), cc("PRIVATE=\"x\"")], false),
        (200, &[cc("max-age=5"), cookie], false),
        (200, &[cc("max-age=5"), ("vary", "accept, *")], false),
        (200, &[cc("max-age=5"), ("age", "5")], false),
        (206, &[cc("max-age=5")], false),
        (200, &[cc("max-age=5"), ("content-range", "x")], false),
        (404, &[cc("max-age=5")], true),
        (304, &[cc("max-age=5")], false),
        (500, &[cc("max-age=5")], false),
    ] {
        kept_is(&[], false, status, answer, kept);
    }
}

#[test]
fn credentials_and_clients_are_heeded() {
    let bearer = ("authorization", "a");
    for (request, known, answer, kept) in [
        (&[cc("no-store")][..], false, cc("max-age=5"), false),
        (&[bearer], false, cc("max-age=5"), false),
        (&[bearer], false, cc("max-age=5, public"), true),
        (&[bearer], false, cc("s-maxage=5"), true),
        (&[bearer], false, cc("max-age=5, proxy-revalidate"), false),
        (&[], true, cc("max-age=5"), false),
        (&[], true, cc("max-age=5, must-revalidate"), true),
    ] {
        kept_is(request, known, 200, &[answer], kept);
    }
    for (cookies, known) in [
        (&[][..], false),
        (&[("cookie", "own=a")], false),
        (&[("cookie", "own=a; sid=b")], true),
        (&[("cookie", "own=a"), ("cookie", "owner=b")], true),
        (&[bearer], true),
    ] {
        assert_eq!(is_known(&fields(cookies), "own"), known, "{cookies:?}");
    }
}

#[test]
fn an_answer_is_good_for_as_long_as_it_says() {
    let dated = ("date", "Thu, 01 Jan 1970 00:16:30 GMT");
    let until = ("expires", "Thu, 01 Jan 1970 00:17:30 GMT");
    let old = ("expires", "Thursday, 01-Jan-70 00:17:30 GMT");
    let asc = ("expires", "Thu Jan  1 00:17:30 1970");
    let far = ("expires", "Thu, 01 Jan 2070 00:00:00 GMT");
    for (answer, left) in [
        (&[cc("max-age=60")][..], Some(58)),
        (&[cc("max-age=60, s-maxage=9")], Some(7)),
        (&[cc("max-age=60, max-age=30")], Some(28)),
        (&[cc("max-age=60"), ("age", "50")], Some(8)),
        (&[cc("max-age=60"), ("age", "50, 70")], Some(8)),
        (&[cc("max-age=60"), ("age", "70")], None),
        (&[cc("max-age=60"), ("age", "old")], Some(58)),
        (&[cc("max-age=60"), dated], Some(49)),
        (&[cc("max-age=x")], None),
        (&[cc("max-age=-1")], None),
        (&[cc("max-age=0"), far], None),
        (&[cc("no-cache, max-age=60")], None),
        (&[cc("max-age=99999999999999999999")], Some((1 << 31) - 2)),
        (&[dated, until], Some(49)),
        (&[dated, old], Some(49)),
        (&[dated, asc], Some(49)),
        (&[("expires", "0")], None),
        (&[("pragma", "no-cache"), far], None),
    ] {
        // Asked at 999 s, here at 1,000 s, looked at at 1,001 s; dated 990 s where it is.
        let found = Freshness::of(StatusCode::OK, &fields(answer), times(999, 1_000), None);
        let found = found.left(at(1_001)).map(|left| left.as_secs());
        assert_eq!(found, left, "{answer:?}");
    }
}

#[test]
fn guesses_are_made_where_they_are_wanted_and_nothing_is_said() {
    let changed = ("last-modified", "Thu, 01 Jan 1970 00:00:00 GMT");
    let left = |status: u16, answer: Pairs<'_>, most: Option<u64>| {
        let status = StatusCode::from_u16(status).unwrap();
        let times = times(1_000, 1_000);
        let most = most.map(Duration::from_secs);
        let found = Freshness::of(status, &fields(answer), times, most);
        found.left(at(1_000)).map(|left| left.as_secs())
    };
    assert_eq!(left(200, &[changed], None), None);
    assert_eq!(left(200, &[changed], Some(500)), Some(100));
    assert_eq!(left(200, &[changed], Some(50)), Some(50));
    assert_eq!(left(200, &[], Some(50)), None);
    assert_eq!(left(200, &[changed, cc("max-age=0")], Some(50)), None);
    assert_eq!(left(200, &[changed, ("expires", "x")], Some(50)), None);
    assert_eq!(left(200, &[changed, cc("no-cache")], Some(50)), None);
    assert_eq!(left(302, &[changed], Some(50)), None);
    assert_eq!(left(302, &[changed, cc("public")], Some(50)), Some(50));
}

#[test]
fn requests_may_want_it_fresher() {
    let kept = fresh(&[cc("max-age=60")]);
    for (wants, serves) in [
        ("", true),
        ("no-cache", false),
        ("max-age=30", true),
        ("max-age=10", false),
        ("min-fresh=40", true),
        ("min-fresh=50", false),
        ("max-stale=100", true),
    ] {
        let wants = Directives::read(&fields(&[cc(wants)]));
        assert_eq!(kept.serves(&wants, at(20)), serves, "{wants:?}");
    }
    let pragma = Directives::read(&fields(&[("pragma", "x, No-Cache")]));
    assert!(!kept.serves(&pragma, at(20)));
    assert!(!kept.serves(&Directives::default(), at(60)));
}

#[test]
fn a_stale_one_stands_in_where_it_says_so() {
    for (said, wants, at_70, at_90) in [
        ("max-age=60", "", false, false),
        ("max-age=60, stale-if-error=20", "", true, false),
        ("max-age=60, stale-if-error=20", "no-cache", false, false),
        ("max-age=60", "stale-if-error=20", true, false),
        (
            "max-age=60, stale-if-error=20, must-revalidate",
            "",
            false,
            false,
        ),
        (
            "max-age=60, proxy-revalidate",
            "stale-if-error=20",
            false,
            false,
        ),
        ("s-maxage=60, stale-if-error=20", "", false, false),
    ] {
        let kept = fresh(&[cc(said)]);
        let wants = Directives::read(&fields(&[cc(wants)]));
        let found = [70, 90].map(|now| kept.stands_in(&wants, at(now)));
        assert_eq!(found, [at_70, at_90], "{said} {wants:?}");
    }
}

#[test]
fn a_stale_one_is_given_while_its_side_is_asked_where_it_says_so() {
    const WHILE: &str = "max-age=60, stale-while-revalidate=20";
    // Whether it is given 50, 70 and 90 seconds after.
    for (said, wants, expected) in [
        ("max-age=60", "", [true, false, false]),
        (WHILE, "", [true, true, false]),
        (WHILE, "no-cache", [false, false, false]),
        (WHILE, "max-age=100", [true, false, false]),
        (WHILE, "min-fresh=1", [true, false, false]),
        // It is the answer's to say.
        (
            "max-age=60",
            "stale-while-revalidate=20",
            [true, false, false],
        ),
        (
            "max-age=60, stale-while-revalidate=20, must-revalidate",
            "",
            [true, false, false],
        ),
        (
            "s-maxage=60, stale-while-revalidate=20",
            "",
            [true, false, false],
        ),
        (
            "no-cache, max-age=60, stale-while-revalidate=20",
            "",
            [false, false, false],
        ),
        // Said twice, or not to be read, the shorter time counts.
        (
            "max-age=60, stale-while-revalidate=99, stale-while-revalidate=5",
            "",
            [true, false, false],
        ),
        (
            "max-age=60, stale-while-revalidate=soon",
            "",
            [true, false, false],
        ),
    ] {
        let kept = fresh(&[cc(said)]);
        let wants = Directives::read(&fields(&[cc(wants)]));
        let given = |now| kept.serves(&wants, at(now)) || kept.stays(&wants, at(now));
        // The time until which it is good belongs to neither.
        let found = [50, 70, 90].map(given);
        assert_eq!(found, expected, "{said} {wants:?}");
    }
    let over = |now| fresh(&[cc("max-age=60")]).over(at(now)).as_secs();
    assert_eq!((over(50), over(70)), (0, 10));
}

#[test]
fn variants_are_told_apart_by_the_fields_that_chose_them() {
    let asked = fields(&[("accept-language", "de"), ("x-a", "1"), ("x-a", "2")]);
    let vary = fields(&[("vary", "Accept-Language, x-b"), ("vary", "x-a")]);
    let by = chosen_by(&asked, &vary).unwrap();
    assert!(chooses(&by, &asked));
    for other in [
        &[("accept-language", "en"), ("x-a", "1"), ("x-a", "2")][..],
        &[("accept-language", "de"), ("x-a", "1")],
        &[
            ("accept-language", "de"),
            ("x-a", "1"),
            ("x-a", "2"),
            ("x-b", "1"),
        ],
    ] {
        assert!(!chooses(&by, &fields(other)), "{other:?}");
    }
    assert!(chosen_by(&asked, &fields(&[("vary", "a b")])).is_none());
}

#[test]
fn what_a_client_makes_up_is_told_apart_and_who_it_is_is_not() {
    let told = |pairs: Pairs<'_>| unsaid(&fields(pairs));
    let usual = told(&[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-host", "a")]);
    assert_eq!(
        usual,
        told(&[("x-forwarded-for", "2.2.2.2"), ("x-forwarded-host", "a")])
    );
    let turned = told(&[("x-forwarded-host", "a"), ("x-forwarded-proto", "b")]);
    let other = told(&[("x-forwarded-proto", "b"), ("x-forwarded-host", "a")]);
    assert_eq!(turned, other, "the order of unlike fields says nothing");
    let twice = [("x-forwarded-host", "a"), ("x-forwarded-host", "b")];
    assert_ne!(told(&twice), told(&[twice[1], twice[0]]));
    let with = |pair| told(&[("x-forwarded-host", "a"), pair]);
    assert_eq!(usual, with(("forwarded", "for=2.2.2.2, For=\"[::1]\"")));
    for pair in [
        ("x-forwarded-prefix", "/a"),
        ("x-original-url", "/admin"),
        ("x-http-method-override", "DELETE"),
        ("forwarded", "for=2.2.2.2;host=evil"),
    ] {
        assert_ne!(usual, with(pair), "{pair:?}");
    }
}

#[test]
fn a_client_that_has_it_is_told_so() {
    let changed = ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT");
    let kept = fields(&[("etag", "W/\"a,b\""), changed]);
    for (asked, has) in [
        (&[("if-none-match", "\"b\", \"a,b\"")][..], true),
        (
            &[("if-none-match", "\"b\""), ("if-none-match", "\"a,b\"")],
            true,
        ),
        (&[("if-none-match", ", ,W/\"a,b\"")], true),
        (&[("if-none-match", "*")], true),
        (&[("if-none-match", "\"a\", \"b\"")], false),
        (&[("if-none-match", "a,b")], false),
        (&[("if-none-match", "\"x\"y, \"a,b\"")], false),
        (&[("if-none-match", "\"")], false),
        (
            &[("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT")],
            true,
        ),
        (
            &[("if-modified-since", "Sun, 06 Nov 1994 08:49:36 GMT")],
            false,
        ),
        (&[("if-modified-since", "yesterday")], false),
        (
            &[
                ("if-none-match", "\"b\""),
                ("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ],
            false,
        ),
    ] {
        assert_eq!(has_it(&fields(asked), &kept), has, "{asked:?}");
    }
    let dated = fields(&[("date", "Sun, 06 Nov 1994 08:49:37 GMT")]);
    let since = fields(&[("if-modified-since", "Sun, 06 Nov 1994 08:49:38 GMT")]);
    assert!(
        has_it(&since, &dated),
        "what came before has not changed since"
    );
}

#[test]
fn a_side_is_asked_about_what_is_kept_and_about_nothing_else() {
    let changed = ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT");
    let mut request = fields(&[
        ("if-none-match", "\"b\""),
        ("if-modified-since", "yesterday"),
    ]);
    assert!(ask_whether(&fields(&[("etag", "W/\"a\"")]), &mut request));
    assert_eq!(request["if-none-match"], "W/\"a\"");
    assert!(!request.contains_key("if-modified-since"));
    assert!(ask_whether(&fields(&[TAG, changed]), &mut request));
    assert_eq!(request["if-modified-since"], changed.1);
    let own = fields(&[("if-none-match", "\"b\"")]);
    let mut request = own.clone();
    assert!(!ask_whether(&HeaderMap::new(), &mut request));
    assert_eq!(request, own, "left to the client");
    for (said, about) in [
        (&[][..], true),
        (&[("etag", "W/\"a\"")], true),
        (&[("etag", "\"b\"")], false),
        (&[("etag", "a")], false),
    ] {
        assert_eq!(is_about(&fields(said), &fields(&[TAG])), about, "{said:?}");
    }
}

proptest::proptest! {
    #[test]
    fn whatever_is_sent_is_read(text: Vec<u8>, etag: Vec<u8>) {
        let value = |bytes: &[u8]| HeaderValue::from_bytes(bytes).ok();
        if let (Some(text), Some(etag)) = (value(&text), value(&etag)) {
            let mut all = HeaderMap::new();
            for name in ["cache-control", "if-none-match", "vary", "age", "expires", "forwarded"] {
                all.insert(name, text.clone());
            }
            all.insert("etag", etag);
            let freshness = Freshness::of(StatusCode::OK, &all, times(5, 5), None);
            may_keep(&all, false, (StatusCode::OK, &all), &freshness);
            has_it(&all, &all);
            chosen_by(&all, &all);
            unsaid(&all);
        }
    }
}

#[test]
fn a_clock_that_is_set_makes_nothing_older_or_younger() {
    let any = Directives::default();
    let said = "max-age=60, stale-if-error=20, stale-while-revalidate=10";
    let answer = fields(&[("cache-control", said)]);
    for was in [0, 3_600] {
        let came = set(10_000, was);
        let kept = Freshness::of(StatusCode::OK, &answer, Times { asked: came, came }, None);
        for by in [-7_200, -1, 0, 1, 7_200] {
            let asked = |after: u64| set(10_000 + after, by);
            let age = kept.age(asked(59)).as_secs();
            assert_eq!((age, kept.serves(&any, asked(59))), (59, true), "{by}");
            assert!(!kept.serves(&any, asked(60)), "{by}");
            assert!(kept.stays(&any, asked(70)) && !kept.stays(&any, asked(71)));
            assert!(kept.stands_in(&any, asked(80)) && !kept.stands_in(&any, asked(81)));
        }
    }
    // Set while it was under way: that it took a second counts, and no more.
    let dated = fields(&[("cache-control", "max-age=60"), ("age", "7")]);
    for by in [-7_200, 7_200] {
        let times = Times {
            asked: at(9_999),
            came: set(10_000, by),
        };
        let kept = Freshness::of(StatusCode::OK, &dated, times, None);
        assert_eq!(kept.age(at(10_000)).as_secs(), 8, "{by}");
    }
}
