//! The store: for whom what is kept is good, what a write takes out, and its bounds.

use outgrow_rollout::Revision;

use super::*;
use crate::moment::tests::{at, set};

const NOW: u64 = 1_000_000;

fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut all = HeaderMap::new();
    for (name, value) in pairs {
        all.append(*name, http::HeaderValue::from_static(value));
    }
    all
}

fn cache() -> Cache {
    let settings = CacheSettings {
        size: 1 << 20,
        body_max: 1_000,
        wait: Duration::ZERO,
    };
    Cache::new(&settings, &[], 1).unwrap()
}

fn question(revision: u64, side: Side) -> Question {
    Question {
        key: key(&fields(&[("host", "Shop")]), &Uri::from_static("/a?b")),
        route: 0,
        side,
        live: Live {
            revision: Revision(revision),
            ..Live::legacy()
        },
        known: false,
        wants: Directives::default(),
        wrote: 0,
        seen: millis(at(NOW).wall),
        asked: at(NOW),
        heuristic_max: None,
    }
}

const LASTS: (&str, &str) = ("cache-control", "max-age=60");

/// Keeps an answer with this body.
fn keep(cache: &Cache, question: &Question, asked: &HeaderMap, said: &HeaderMap, body: &str) {
    let found = cache.entry(question, asked, (StatusCode::OK, said), at(NOW));
    let mut entry = found.unwrap();
    entry.body = bytes::Bytes::copy_from_slice(body.as_bytes());
    cache.put((question, asked), entry, question.asked);
}

/// What would be given to whom asks so; the words of RFC 9211 where nothing is.
fn found(cache: &Cache, question: &Question, asked: &HeaderMap) -> String {
    match cache.find(question, asked, at(NOW + 1)) {
        Found::Fresh(entry) => String::from_utf8(entry.body.to_vec()).unwrap(),
        Found::Stale(_) => "stale".to_owned(),
        Found::Nothing(why) => why.to_owned(),
        Found::Passed => "passed".to_owned(),
    }
}

#[test]
fn what_is_kept_is_of_one_side_and_state() {
    let (cache, none) = (cache(), HeaderMap::new());
    let legacy = question(3, Side::Legacy);
    keep(&cache, &legacy, &none, &fields(&[LASTS]), "legacy");
    assert_eq!(found(&cache, &legacy, &none), "legacy");
    let extracted = question(3, Side::Extracted);
    assert_eq!(found(&cache, &extracted, &none), "uri-miss");
    keep(&cache, &extracted, &none, &fields(&[LASTS]), "extracted");
    assert_eq!(found(&cache, &extracted, &none), "extracted");
    assert_eq!(found(&cache, &legacy, &none), "legacy");
    let other = Question {
        route: 1,
        ..legacy.clone()
    };
    assert_eq!(found(&cache, &other, &none), "uri-miss");
    let flipped = question(4, Side::Legacy);
    assert_eq!(found(&cache, &flipped, &none), "uri-miss");
    keep(&cache, &flipped, &none, &fields(&[LASTS]), "flipped");
    assert_eq!(found(&cache, &legacy, &none), "uri-miss", "dropped");
    keep(&cache, &legacy, &none, &fields(&[LASTS]), "late");
    assert_eq!(found(&cache, &flipped, &none), "flipped");
    assert_eq!(found(&cache, &legacy, &none), "uri-miss");
}

#[test]
fn a_write_takes_out_what_it_changes_and_keeps_out_what_lacks_it() {
    let (cache, none) = (cache(), HeaderMap::new());
    let asks = question(1, Side::Legacy);
    let (host, target) = (fields(&[("host", "SHOP")]), Uri::from_static("/a?b"));
    let write = |target: &Uri, answer: Option<&HeaderMap>, at| {
        cache.changed((&super::host(&host), target), answer, at);
    };
    keep(&cache, &asks, &none, &fields(&[LASTS]), "before");
    write(&Uri::from_static("/a"), None, at(NOW));
    assert_eq!(found(&cache, &asks, &none), "before", "another URL");
    write(&target, None, at(NOW));
    assert_eq!(found(&cache, &asks, &none), "uri-miss");
    // Asked for before the write was through.
    keep(&cache, &asks, &none, &fields(&[LASTS]), "before");
    assert_eq!(found(&cache, &asks, &none), "uri-miss");
    let later = Question {
        seen: asks.seen + 1,
        ..asks.clone()
    };
    keep(&cache, &later, &none, &fields(&[LASTS]), "after");
    assert_eq!(found(&cache, &asks, &none), "after");
    let elsewhere = Uri::from_static("/b");
    for (name, gone) in [
        ("http://other.example/a?b", false),
        ("/a", false),
        ("http://shop/a?b", true),
    ] {
        let said = fields(&[("location", name)]);
        write(&elsewhere, Some(&said), at(NOW - 1));
        assert_eq!(found(&cache, &asks, &none) != "after", gone, "{name}");
    }
    let behind = Question {
        seen: 0,
        ..asks.clone()
    };
    keep(&cache, &behind, &none, &fields(&[LASTS]), "nobody knows");
    assert_eq!(found(&cache, &asks, &none), "uri-miss");
}

#[test]
fn who_has_written_is_not_given_less() {
    let (cache, none) = (cache(), HeaderMap::new());
    let asks = question(1, Side::Extracted);
    keep(&cache, &asks, &none, &fields(&[LASTS]), "a");
    for (wrote, given) in [(-1, "a"), (0, "stale"), (1, "stale")] {
        let writer = Question {
            wrote: asks.seen.saturating_add_signed(wrote),
            ..asks.clone()
        };
        assert_eq!(found(&cache, &writer, &none), given, "{wrote}");
    }
    let known = Question {
        known: true,
        ..asks.clone()
    };
    assert_eq!(found(&cache, &known, &none), "passed");
    let shared = fields(&[("cache-control", "public, max-age=60")]);
    keep(&cache, &asks, &none, &shared, "b");
    assert_eq!(found(&cache, &known, &none), "b");
}

#[test]
fn what_stays_while_its_side_is_asked_lacks_nothing_that_a_client_wrote() {
    let (cache, none) = (cache(), HeaderMap::new());
    let asks = question(1, Side::Legacy);
    let said = fields(&[("cache-control", "max-age=0, stale-while-revalidate=60")]);
    keep(&cache, &asks, &none, &said, "a");
    let stays = |question: &Question, now| match cache.find(question, &none, at(NOW + 1)) {
        Found::Stale(entry) => entry.stays(question, at(now)),
        other => panic!("{other:?}"),
    };
    assert!(stays(&asks, NOW + 60) && !stays(&asks, NOW + 61));
    for (wrote, expected) in [(-1, true), (0, false), (1, false)] {
        let writer = Question {
            wrote: asks.seen.saturating_add_signed(wrote),
            ..asks.clone()
        };
        assert_eq!(stays(&writer, NOW + 1), expected, "{wrote}");
    }
    for other in [question(2, Side::Legacy), question(1, Side::Extracted)] {
        assert_eq!(found(&cache, &other, &none), "uri-miss");
    }
    cache.forget(&asks);
    assert_eq!(found(&cache, &asks, &none), "uri-miss");
}

#[test]
fn variants_stand_beside_each_other_and_have_a_bound() {
    let cache = cache();
    let asks = question(1, Side::Legacy);
    let said = fields(&[LASTS, ("vary", "accept-language")]);
    let lang = |n: usize| {
        let value = http::HeaderValue::try_from(format!("l{n}")).unwrap();
        HeaderMap::from_iter([(http::header::ACCEPT_LANGUAGE, value)])
    };
    for n in 0..=VARIANTS_MAX {
        keep(&cache, &asks, &lang(n), &said, &format!("old {n}"));
        keep(&cache, &asks, &lang(n), &said, &n.to_string());
    }
    assert_eq!(found(&cache, &asks, &lang(0)), "vary-miss", "the oldest");
    for n in 1..=VARIANTS_MAX {
        assert_eq!(found(&cache, &asks, &lang(n)), n.to_string());
    }
    let mut forged = lang(1);
    forged.insert("x-forwarded-prefix", http::HeaderValue::from_static("/x"));
    assert_eq!(found(&cache, &asks, &forged), "vary-miss");
}

#[test]
fn the_store_has_a_bound_and_so_has_an_answer() {
    let (cache, none) = (cache(), HeaderMap::new());
    let said = fields(&[LASTS]);
    let body = "x".repeat(1_000);
    for n in 0..5_000 {
        let asks = Question {
            key: format!("shop/{n}").into_boxed_str(),
            ..question(1, Side::Legacy)
        };
        keep(&cache, &asks, &none, &said, &body);
    }
    let figures = cache.figures();
    assert!(figures.bytes <= 1 << 20, "{figures:?}");
    assert!(figures.entries > 500, "{figures:?}");
    let asks = question(1, Side::Legacy);
    keep(&cache, &asks, &none, &said, &"x".repeat(1_001));
    assert_eq!(found(&cache, &asks, &none), "uri-miss");
    let long = fields(&[LASTS, ("content-length", "1001")]);
    let answer = (StatusCode::OK, &long);
    assert!(cache.entry(&asks, &none, answer, at(NOW)).is_none());
}

#[test]
fn a_304_makes_it_good_again_and_tells_nothing_of_its_body() {
    let (cache, none) = (cache(), HeaderMap::new());
    let asks = question(1, Side::Legacy);
    let before = fields(&[
        ("cache-control", "max-age=0"),
        ("etag", "\"a\""),
        ("age", "7"),
        ("x-a", "1"),
        ("content-type", "text/plain"),
    ]);
    keep(&cache, &asks, &none, &before, "body");
    let Found::Stale(old) = cache.find(&asks, &none, at(NOW)) else {
        panic!("it is fresh");
    };
    let said = fields(&[LASTS, ("x-a", "2"), ("content-type", "a/b")]);
    let good = cache.renew(&asks, &none, (&old, &said), at(NOW));
    assert_eq!(found(&cache, &asks, &none), "body");
    let mut given = good.give((&Method::GET, &none), at(NOW + 5));
    let given = given.headers();
    let text = |name: &str| given[name].to_str().unwrap().to_owned();
    assert_eq!(
        ["x-a", "content-type", "age"].map(text),
        ["2", "text/plain", "5"]
    );
    // About something else; and no longer to be kept.
    for said in [
        &[LASTS, ("etag", "\"b\"")][..],
        &[("cache-control", "no-store")],
        &[LASTS, ("set-cookie", "a=b")],
    ] {
        keep(&cache, &asks, &none, &before, "body");
        let given = cache.renew(&asks, &none, (&old, &fields(said)), at(NOW));
        assert_eq!(given.body, "body");
        assert_eq!(found(&cache, &asks, &none), "uri-miss", "{said:?}");
    }
}

#[test]
fn one_that_is_followed_gives_nothing_and_tells_of_writes() {
    let (old, next) = (cache(), Arc::new(cache()));
    let (none, said) = (HeaderMap::new(), fields(&[LASTS]));
    let asks = question(1, Side::Legacy);
    keep(&old, &asks, &none, &said, "a");
    old.close(Some(next.clone()));
    assert_eq!(found(&old, &asks, &none), "passed");
    let answer = (StatusCode::OK, &said);
    assert!(old.entry(&asks, &none, answer, at(NOW)).is_none());
    keep(&next, &asks, &none, &said, "b");
    let host = fields(&[("host", "shop")]);
    old.changed(
        (&super::host(&host), &Uri::from_static("/a?b")),
        None,
        at(NOW),
    );
    assert_eq!(found(&next, &asks, &none), "uri-miss");
}

#[test]
fn a_clock_that_is_set_gives_nobody_less_than_he_wrote() {
    let (cache, none) = (cache(), HeaderMap::new());
    let ahead = Question {
        seen: millis(set(NOW, 3_600).wall),
        asked: set(NOW, 3_600),
        ..question(1, Side::Legacy)
    };
    let entry = || {
        let found = cache.entry(
            &ahead,
            &none,
            (StatusCode::OK, &fields(&[LASTS])),
            ahead.asked,
        );
        let mut entry = found.unwrap();
        entry.body = bytes::Bytes::from_static(b"before");
        entry
    };
    cache.put((&ahead, &none), entry(), ahead.asked);
    // The hour that the clock was ahead is taken back, and then the client writes something else.
    let right = |seconds, wrote: u64| Question {
        asked: at(NOW + seconds),
        wrote,
        ..question(1, Side::Legacy)
    };
    let wrote = millis(at(NOW + 1).wall);
    assert_eq!(
        found(&cache, &right(2, 0), &none),
        "before",
        "who never wrote"
    );
    assert_eq!(found(&cache, &right(2, wrote), &none), "stale");
    let before = millis(at(NOW - 1).wall);
    assert_eq!(found(&cache, &right(2, before), &none), "before");
    // Asked for while it was ahead, and there behind a write of the right time.
    let (host, target) = (fields(&[("host", "shop")]), Uri::from_static("/a?b"));
    cache.changed((&super::host(&host), &target), None, at(NOW + 1));
    cache.put((&ahead, &none), entry(), at(NOW + 2));
    assert_eq!(found(&cache, &right(2, 0), &none), "uri-miss");
}
