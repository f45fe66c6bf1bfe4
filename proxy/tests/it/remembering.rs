//! The proxy's own cookie: any proxy with its key decides alike about a client that it has never seen.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::Method;
use outgrow_proxy::{Secret, Settings};
use outgrow_rollout::Weight;
use outgrow_testkit::{Answer, Upstream, client};

use crate::harness::{Front, named, slice_id, sliced, start};

/// Reads go to the extracted side, writes to the legacy one, and the bridge is long behind.
fn split(settings: Settings) -> Front {
    let front = start(settings);
    front.weigh(1, Weight::FULL);
    through(&front, SystemTime::now() - Duration::from_hours(1));
    front
}

fn through(front: &Front, at: SystemTime) {
    front.handle.set_applied_through(&slice_id(), Some(at));
}

fn other_key(mut settings: Settings) -> Settings {
    settings.cookie_keys = vec![Secret::new("another key of the tests")];
    settings
}

async fn write(front: &Front, fields: &[(&str, &str)]) -> Answer {
    let url = front.url("/api/items");
    client::send(client::request(Method::POST, &url, fields, Bytes::new())).await
}

/// The cookie of an answer as the next request sends it.
fn cookie(answer: &Answer) -> Option<String> {
    let set = answer.header("set-cookie")?;
    Some(set.split(';').next().unwrap().to_owned())
}

async fn read(front: &Front, fields: &[(&str, &str)]) -> String {
    front.get("/api/items", fields).await.text()
}

async fn sides() -> (Upstream, Upstream) {
    (named("legacy").await, named("extracted").await)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_written_reads_its_write_through_any_proxy() {
    let (legacy, extracted) = sides().await;
    let settings = sliced(&legacy, &extracted);
    let (first, second) = (split(settings.clone()), split(settings.clone()));
    let third = split(other_key(settings));
    for key in [None, Some(("x-visitor", "ann"))] {
        let known: Vec<_> = key.into_iter().collect();
        assert_eq!(read(&second, &known).await, "extracted");
        let written = cookie(&write(&first, &known).await).unwrap();
        assert!(written.len() <= 80 + "outgrow_cohort=".len(), "{written}");
        let with: Vec<_> = key.into_iter().chain([("cookie", &*written)]).collect();
        assert_eq!(read(&second, &with).await, "legacy", "it has written");
        assert_eq!(
            read(&second, &known).await,
            "extracted",
            "who does not say so"
        );
        assert_eq!(read(&third, &with).await, "extracted", "not its key");
        let answer = second.get("/api/items", &with).await;
        assert_eq!(answer.header("set-cookie"), None, "it has one");
        through(&second, SystemTime::now() + Duration::from_secs(1));
        assert_eq!(read(&second, &with).await, "extracted", "carried over");
        through(&second, SystemTime::now() - Duration::from_hours(1));
    }
    for front in [first, second, third] {
        front.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_cookie_is_none() {
    let (legacy, extracted) = sides().await;
    let front = split(sliced(&legacy, &extracted));
    let written = cookie(&write(&front, &[("x-visitor", "ann")]).await).unwrap();
    assert_eq!(read(&front, &[("cookie", &written)]).await, "legacy");
    let (begin, end) = written.split_at("outgrow_cohort=v1.".len() + 30);
    let flipped = if end.starts_with('A') { "B" } else { "A" };
    let forged = [
        format!("{begin}{flipped}{}", &end[1..]),
        written[..written.len() - 1].to_owned(),
        "outgrow_cohort=v1.".to_owned(),
        "outgrow_cohort=".to_owned(),
        written.replace("v1.", "v2."),
    ];
    for forged in forged {
        let answer = front.get("/api/items", &[("cookie", &forged)]).await;
        assert_eq!(answer.text(), "extracted", "{forged}");
        assert!(cookie(&answer).is_some(), "it is given a good one");
    }
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_keeps_no_cookie_stays_on_the_side_of_its_address() {
    let (legacy, extracted) = sides().await;
    let mut settings = sliced(&legacy, &extracted);
    settings.trust.forwarded = Some(vec!["127.0.0.0/8".parse().unwrap()]);
    let fronts = [start(settings.clone()), start(settings)];
    let half = Weight::from_basis_points(5_000).unwrap();
    let mut seen = Vec::new();
    for front in &fronts {
        front.weigh(1, half);
    }
    for host in 1..40 {
        let from = format!("192.0.2.{host}");
        let fields = [("x-forwarded-for", &*from)];
        let first = fronts[0].get("/api/items", &fields).await;
        let cookie = cookie(&first).unwrap();
        for front in &fronts {
            assert_eq!(read(front, &fields).await, first.text(), "{from}");
            let elsewhere = [("x-forwarded-for", "203.0.113.9"), ("cookie", &*cookie)];
            assert_eq!(read(front, &elsewhere).await, first.text(), "{from}");
        }
        seen.push(first.text());
    }
    assert!(seen.contains(&"legacy".to_owned()) && seen.contains(&"extracted".to_owned()));
    for front in fronts {
        front.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_of_before_is_replaced_and_its_client_stays() {
    let (legacy, extracted) = sides().await;
    let front = start(sliced(&legacy, &extracted));
    front.weigh(1, Weight::from_basis_points(5_000).unwrap());
    for id in 0..20_u128 {
        let old = format!("outgrow_cohort={:032x}", id * 0x9e37_79b9_7f4a_7c15);
        let first = front.get("/api/items", &[("cookie", &old)]).await;
        let bucket = outgrow_rollout::bucket(outgrow_rollout::key_hash(
            "salt",
            old.trim_start_matches("outgrow_cohort=").as_bytes(),
        ));
        let expected = if bucket < 5_000 {
            "extracted"
        } else {
            "legacy"
        };
        assert_eq!(first.text(), expected, "as before");
        let new = cookie(&first).unwrap();
        assert!(new.starts_with("outgrow_cohort=v1."), "{new}");
        let second = front.get("/api/items", &[("cookie", &new)]).await;
        assert_eq!((second.text(), cookie(&second)), (first.text(), None));
    }
    front.stop().await;
}

/// Before there is a split clients see nothing of the proxy, and neither where no bridge is.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_all_can_read_sets_no_cookie() {
    let (legacy, extracted) = sides().await;
    let front = start(sliced(&legacy, &extracted));
    through(&front, SystemTime::now());
    assert_eq!(cookie(&write(&front, &[]).await), None);
    front.stop().await;
    let front = start(sliced(&legacy, &extracted));
    front.weigh(1, Weight::FULL);
    assert_eq!(cookie(&write(&front, &[("x-visitor", "ann")]).await), None);
    front.stop().await;
}

/// Behind one address, as a balancer's that says nothing of its clients, there may be many.
#[tokio::test(flavor = "multi_thread")]
async fn who_keeps_cookies_is_split_behind_one_address_too() {
    let (legacy, extracted) = sides().await;
    let settings = sliced(&legacy, &extracted);
    let fronts = [start(settings.clone()), start(settings)];
    for front in &fronts {
        front.weigh(1, Weight::from_basis_points(5_000).unwrap());
    }
    let mut seen = Vec::new();
    for client in 0..40 {
        let session = format!("sid={client}");
        let brings = [("cookie", session.as_str())];
        let first = fronts[0].get("/api/items", &brings).await;
        let own = format!("{session}; {}", cookie(&first).unwrap());
        for front in &fronts {
            assert_eq!(
                read(front, &brings).await,
                first.text(),
                "it keeps no other"
            );
            assert_eq!(read(front, &[("cookie", &own)]).await, first.text());
        }
        let browser = fronts[0]
            .get("/api/items", &[("sec-fetch-mode", "navigate")])
            .await;
        let own = cookie(&browser).unwrap();
        assert_eq!(read(&fronts[1], &[("cookie", &own)]).await, browser.text());
        seen.push((first.text(), browser.text()));
    }
    for side in ["legacy", "extracted"] {
        assert!(seen.iter().any(|(bringing, _)| bringing == side), "{side}");
        assert!(seen.iter().any(|(_, browser)| browser == side), "{side}");
    }
    for front in fronts {
        front.stop().await;
    }
}
