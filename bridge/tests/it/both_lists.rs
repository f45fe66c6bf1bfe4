//! More rows wait for a person than one page or one part has: all are counted, all are listed on
//! some page, and all are settled.

use std::collections::HashSet;

use outgrow_bridge::{Link, Page, Policy, Which};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::eventually;
use serde_json::Value;

use crate::both::{equal, following, meanwhile};
use crate::shop::{Shop, WAIT, copied};

async fn page(link: &Link, number: u32, rows: u32) -> Value {
    let found = link.conflicts_on(Page { number, rows }).await.unwrap();
    serde_json::to_value(found).unwrap()
}

fn names(found: &Value, kind: &str, name: &str) -> Vec<String> {
    let all = found[kind].as_array().unwrap().iter();
    all.map(|one| one[name].to_string()).collect()
}

/// Names of one kind on each page, until the link says that there are no more.
async fn on_pages(link: &Link, rows: u32, kind: &str, name: &str) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    for number in 1.. {
        let found = page(link, number, rows).await;
        assert_eq!(found["page"], number);
        pages.push(names(&found, kind, name));
        if found["more"] == false {
            break;
        }
    }
    pages
}

fn different(pages: &[Vec<String>]) -> usize {
    pages.iter().flatten().collect::<HashSet<_>>().len()
}

#[tokio::test]
async fn all_conflicts_and_parked_rows_are_counted_listed_and_settled() {
    let shop = Shop::with(600).await;
    let link = following(&shop, Policy::Manual).await;
    let legacy = "update reviews set title = 'L' where id <= 300; \
        update reviews set status = '?' where id > 300;";
    let extracted = "update review_text set headline = 'E' where review_id <= 300";
    meanwhile(&shop, &link, legacy, extracted).await;
    let found = eventually("all of them", WAIT, || async {
        let found = page(&link, 1, 10).await;
        let total = &found["total"];
        (total["open"] == 300 && total["parked"] == 300).then_some(found)
    })
    .await;
    assert_eq!(names(&found, "conflicts", "id").len(), 10);
    assert_eq!(found["more"], true);
    for (kind, name) in [("conflicts", "id"), ("parked", "key")] {
        let pages = on_pages(&link, 200, kind, name).await;
        let sizes: Vec<usize> = pages.iter().map(Vec::len).collect();
        assert_eq!((sizes, different(&pages)), (vec![200, 100], 300), "{kind}");
    }
    let would = link.settle(&Which::All, Side::Legacy, true).await.unwrap();
    assert_eq!((would.total, would.open), (300, 300));
    let done = link.settle(&Which::All, Side::Legacy, false).await.unwrap();
    assert_eq!((done.total, done.total_failed, done.open), (300, 0, 0));
    assert_eq!((done.settled.len(), done.more), (300, false));
    let found = page(&link, 1, 10).await;
    assert_eq!(
        (&found["total"]["open"], &found["total"]["settled"]),
        (&0.into(), &300.into())
    );
    let there = "select count(*) from review_text where headline = 'L'";
    assert_eq!(shop.reviews.number(there).await, 300);
    shop.legacy
        .execute("update reviews set status = 'A' where id > 300")
        .await;
    equal(&shop).await;
    link.shutdown().await;
}

#[tokio::test]
async fn all_foreign_writes_are_kept_counted_listed_and_settled() {
    let shop = Shop::with(300).await;
    let mut spec = shop.reviews_spec();
    spec.limits.foreign_kept = 10;
    let link = Link::open(spec).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    link.unfence(Side::Extracted).await.unwrap();
    // Some rows twice, and so far apart that no part has both.
    shop.reviews
        .execute(
            "update review_text set headline = 'E'; \
             update review_text set headline = 'EE' where review_id <= 50;",
        )
        .await;
    eventually("the foreign writes", WAIT, || async {
        let found = page(&link, 1, 1).await;
        (found["total"]["foreign_open"] == 350).then_some(())
    })
    .await;
    let pages = on_pages(&link, 150, "foreign", "id").await;
    let sizes: Vec<usize> = pages.iter().map(Vec::len).collect();
    assert_eq!((sizes, different(&pages)), (vec![150, 150, 50], 350));
    let would = link.settle(&Which::All, Side::Legacy, true).await.unwrap();
    assert_eq!(would.total, 300);
    let done = link.settle(&Which::All, Side::Legacy, false).await.unwrap();
    assert_eq!((done.total, done.total_failed), (300, 0));
    equal(&shop).await;
    let total = &page(&link, 1, 1).await["total"];
    let counts = (&total["foreign_open"], &total["foreign_settled"]);
    assert_eq!(counts, (&0.into(), &350.into()));
    let again = link.settle(&Which::All, Side::Legacy, false).await.unwrap();
    assert_eq!(again.total, 0, "{again:?}");
    // A new one is found beside all that are settled, and listed first.
    shop.reviews
        .execute("update review_text set headline = 'late' where review_id = 7")
        .await;
    eventually("the late one", WAIT, || async {
        let found = page(&link, 1, 1).await;
        (found["total"]["foreign_open"] == 1).then_some(())
    })
    .await;
    let found = page(&link, 1, 1).await;
    assert_eq!(found["foreign"][0]["took"], Value::Null);
    // Of those that are settled, old ones are forgotten.
    assert_eq!(found["total"]["foreign_settled"], 9);
    let last = link.settle(&Which::All, Side::Legacy, false).await.unwrap();
    assert_eq!(last.total, 1);
    equal(&shop).await;
    link.shutdown().await;
}
