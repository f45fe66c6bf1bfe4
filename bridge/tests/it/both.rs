//! Writes on both sides: carried both ways without loops, conflicts kept and settled.

use outgrow_bridge::{Both, Capture, DatabaseUrl, Error, Link, LinkSpec, Policy, Which, Writes};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::eventually;
use serde_json::Value;

use crate::shop::{Shop, WAIT, copied};
use crate::turning::cut_over;

pub(crate) fn both(policy: Policy) -> Writes {
    Writes::Both(Both {
        policy,
        ids_apart: true,
    })
}

fn spec(shop: &Shop, policy: Policy) -> LinkSpec {
    LinkSpec {
        writes: both(policy),
        ..shop.reviews_spec()
    }
}

/// A link of the reviews that has copied everything and takes writes of both sides.
pub(crate) async fn following(shop: &Shop, policy: Policy) -> Link {
    let link = Link::open(spec(shop, policy)).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    link
}

pub(crate) async fn equal(shop: &Shop) {
    eventually("both sides of the reviews to be equal", WAIT, || async {
        (shop.review_differences().await == 0).then_some(())
    })
    .await;
}

/// What the link lists, once everything that was written is applied or held.
async fn conflicts(link: &Link, count: usize) -> Vec<Value> {
    let found = eventually("the conflicts", WAIT, || async {
        let found = serde_json::to_value(link.conflicts().await.unwrap()).unwrap();
        let found = found["conflicts"].as_array().unwrap().clone();
        (found.len() == count).then_some(found)
    });
    found.await
}

/// Lets both sides change before the bridge sees either.
pub(crate) async fn meanwhile(shop: &Shop, link: &Link, legacy: &str, extracted: &str) {
    link.pause().await.unwrap();
    shop.legacy.execute(legacy).await;
    shop.reviews.execute(extracted).await;
    let source = link.evidence().unwrap().source;
    let phase = match source {
        Side::Legacy => DataPhase::Following,
        Side::Extracted => DataPhase::Reversed,
    };
    link.ensure(phase, source).await.unwrap();
}

async fn titles(shop: &Shop, id: u32, title: &str) {
    eventually("one version on both sides", WAIT, || async {
        let legacy = format!("select count(*) from reviews where id = {id} and title = '{title}'");
        let extracted = format!(
            "select count(*) from review_text where review_id = {id} and headline = '{title}'"
        );
        let found = (
            shop.legacy.number(&legacy).await,
            shop.reviews.number(&extracted).await,
        );
        (found == (1, 1)).then_some(())
    })
    .await;
}

const NOTED: &str = "select count(*) from \"_outgrow_reviews_changes\" where tbl <> ''";
const LEGACY: &str = "update reviews set title = 'L' where id = 3";
const EXTRACTED: &str = "update review_text set headline = 'E' where review_id = 3";

#[tokio::test]
async fn writes_of_both_sides_cross_without_loops() {
    let shop = Shop::with(40).await;
    let link = following(&shop, Policy::Writer).await;
    // Nothing is trimmed while the test counts.
    for id in 1..=20 {
        let (theirs, title) = (id + 20, format!("n{id}"));
        shop.legacy
            .execute(&format!(
                "update reviews set title = '{title}' where id = {id}"
            ))
            .await;
        shop.reviews
            .execute(&format!(
                "update review_text set headline = '{title}' where review_id = {theirs}"
            ))
            .await;
    }
    equal(&shop).await;
    let carried = eventually("all to be carried", WAIT, || async {
        let carried = link.describe()["carried_back"].as_u64()?;
        (carried == 20).then_some(carried)
    })
    .await;
    assert_eq!(carried, 20);
    assert_eq!(link.describe()["tables"][0]["applied"], 20);
    let evidence = link.evidence().unwrap();
    assert_eq!((evidence.conflicts, evidence.parked), (0, 0));
    // Writes of the passive side are known to the gate that asks for silence.
    assert_eq!(evidence.foreign_writes, 20);
    assert!(evidence.last_foreign.unwrap().contains("carried over"));
    assert_eq!(link.verify().await.unwrap().different, 0);
    link.shutdown().await;
    let noted = shop.legacy.number(NOTED).await + shop.reviews.number(NOTED).await;
    assert!(noted <= 40, "an echo was noted: {noted}");
}

#[tokio::test]
async fn each_policy_lets_its_side_win_and_keeps_the_other_version() {
    for (policy, title, winner) in [
        (Policy::Writer, "L", "legacy"),
        (Policy::Legacy, "L", "legacy"),
        (Policy::Extracted, "E", "extracted"),
        // The newest by stars: 5 on the extracted side.
        (Policy::Newest("stars".to_owned()), "E", "extracted"),
    ] {
        let shop = Shop::with(10).await;
        let link = following(&shop, policy).await;
        meanwhile(
            &shop,
            &link,
            "update reviews set title = 'L', rating = 1 where id = 3; update reviews set title = 'alone' where id = 4",
            "update review_text set headline = 'E' where review_id = 3; update review set stars = 5 where id = 3",
        )
        .await;
        titles(&shop, 3, title).await;
        titles(&shop, 4, "alone").await;
        equal(&shop).await;
        let found = conflicts(&link, 1).await;
        assert_eq!(found[0]["winner"], winner);
        assert_eq!(found[0]["state"], "settled");
        assert_eq!(found[0]["legacy"]["review_text"]["headline"], "L");
        assert_eq!(found[0]["extracted"]["review_text"]["headline"], "E");
        let differ = found[0]["differ"].to_string();
        assert!(differ.contains("review_text.headline"), "{differ}");
        assert!(!differ.contains("author"), "{differ}");
        assert_eq!(link.evidence().unwrap().conflicts, 0);
        link.shutdown().await;
    }
}

#[tokio::test]
async fn the_same_change_on_both_sides_is_no_conflict() {
    let shop = Shop::with(10).await;
    let link = following(&shop, Policy::Manual).await;
    // What comes after on either side tells when both sides' changes were seen.
    let same = "update review_text set headline = 'L' where review_id in (3, 4)";
    let legacy = "update reviews set title = 'L' where id in (3, 5)";
    meanwhile(&shop, &link, legacy, same).await;
    titles(&shop, 4, "L").await;
    titles(&shop, 5, "L").await;
    shop.legacy
        .execute("update reviews set title = 'then' where id = 3")
        .await;
    titles(&shop, 3, "then").await;
    conflicts(&link, 0).await;
    link.shutdown().await;
}

#[tokio::test]
async fn changes_in_sight_of_each_other_are_no_conflict() {
    let shop = Shop::with(10).await;
    let link = following(&shop, Policy::Manual).await;
    for turn in 0..10 {
        let title = format!("t{turn}");
        if turn % 2 == 0 {
            let text = format!("update reviews set title = '{title}' where id = 3");
            shop.legacy.execute(&text).await;
        } else {
            let text = format!("update review_text set headline = '{title}' where review_id = 3");
            shop.reviews.execute(&text).await;
        }
        titles(&shop, 3, &title).await;
    }
    conflicts(&link, 0).await;
    link.shutdown().await;
}

#[tokio::test]
async fn deletes_and_inserts_are_conflicts_like_any_other() {
    let shop = Shop::with(10).await;
    let link = following(&shop, Policy::Extracted).await;
    let gone = "begin immediate; delete from review_text where review_id = 5; delete from review where id = 5; commit";
    meanwhile(
        &shop,
        &link,
        "update reviews set title = 'kept' where id = 5; delete from reviews where id = 3",
        EXTRACTED,
    )
    .await;
    meanwhile(
        &shop,
        &link,
        "update reviews set title = 'late' where id = 5; insert into reviews select 77, product_id, user_id, author, rating, 'L', body, status, helpful, reply, created_at from reviews where id = 1",
        &format!(
            "{gone}; begin immediate; insert into review select 77, product_id, author_id, author_name, stars, state, helpful_count, posted_at from review where id = 1; insert into review_text values (77, 'E', 'x', null); commit"
        ),
    )
    .await;
    titles(&shop, 77, "E").await;
    titles(&shop, 3, "E").await;
    equal(&shop).await;
    assert_eq!(
        shop.legacy
            .number("select count(*) from reviews where id = 5")
            .await,
        0
    );
    let found = conflicts(&link, 3).await;
    let of = |key: &str| found.iter().find(|c| c["key"] == key).unwrap();
    assert_eq!(of("3")["legacy"], serde_json::json!({}));
    assert_eq!(of("5")["extracted"], serde_json::json!({}));
    assert_eq!(of("5")["legacy"]["review_text"]["headline"], "late");
    assert_eq!(of("77")["legacy"]["review_text"]["headline"], "L");
    link.shutdown().await;
}

#[tokio::test]
async fn a_held_row_waits_for_a_person_and_blocks() {
    for (take, title) in [(Side::Legacy, "L2"), (Side::Extracted, "E2")] {
        let shop = Shop::with(10).await;
        let link = following(&shop, Policy::Manual).await;
        meanwhile(&shop, &link, LEGACY, EXTRACTED).await;
        let found = conflicts(&link, 1).await;
        assert_eq!(
            (&found[0]["state"], &found[0]["winner"]),
            (&"open".into(), &Value::Null)
        );
        // Later changes of the row are held as well, those of others are not.
        shop.legacy.execute("update reviews set title = 'L2' where id = 3; update reviews set title = 'free' where id = 4").await;
        shop.reviews
            .execute("update review_text set headline = 'E2' where review_id = 3")
            .await;
        titles(&shop, 4, "free").await;
        assert_eq!(link.evidence().unwrap().conflicts, 1);
        let held = "select count(*) from review_text where review_id = 3 and headline = 'E2'";
        assert_eq!(shop.reviews.number(held).await, 1);
        assert_eq!(link.verify().await.unwrap().different, 1);
        // A repair does not decide it, and nothing turns.
        assert_eq!(link.repair(false).await.unwrap().repaired, 0);
        link.fence(Side::Legacy).await.unwrap();
        let turned = link.turn(Side::Extracted).await;
        assert!(matches!(turned, Err(Error::OpenConflicts(1))), "{turned:?}");
        link.unfence(Side::Legacy).await.unwrap();
        let id = found[0]["id"].as_str().unwrap().to_owned();
        let one = Which::One(id.clone());
        let would = link.settle(&one, take, true).await.unwrap();
        assert_eq!((would.settled.len(), would.open), (1, 1));
        // Held over a restart, too.
        link.shutdown().await;
        let link = Link::open(spec(&shop, Policy::Manual)).await.unwrap();
        link.ensure(DataPhase::Following, Side::Legacy)
            .await
            .unwrap();
        assert_eq!(link.evidence().unwrap().conflicts, 1);
        let done = link.settle(&one, take, false).await.unwrap();
        assert_eq!((done.settled.len(), done.open), (1, 0));
        titles(&shop, 3, title).await;
        equal(&shop).await;
        let found = conflicts(&link, 1).await;
        assert_eq!(found[0]["winner"], take.as_str());
        assert_eq!(found[0]["legacy"]["review_text"]["headline"], "L2");
        assert_eq!(found[0]["extracted"]["review_text"]["headline"], "E2");
        shop.legacy
            .execute("update reviews set title = 'on' where id = 3")
            .await;
        titles(&shop, 3, "on").await;
        conflicts(&link, 1).await;
        link.shutdown().await;
    }
}

#[tokio::test]
async fn a_conflict_that_was_settled_but_not_closed_is_closed_by_the_next_start() {
    let shop = Shop::with(10).await;
    let link = following(&shop, Policy::Manual).await;
    meanwhile(&shop, &link, LEGACY, EXTRACTED).await;
    assert_eq!(conflicts(&link, 1).await[0]["id"], "E1");
    link.settle(&Which::All, Side::Extracted, false)
        .await
        .unwrap();
    link.shutdown().await;
    // As if it had died between the two transactions.
    shop.reviews
        .execute("update \"_outgrow_reviews_conflicts\" set winner = null, settled_at = null")
        .await;
    let link = Link::open(spec(&shop, Policy::Manual)).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    assert_eq!(link.evidence().unwrap().conflicts, 0);
    shop.legacy
        .execute("update reviews set title = 'on' where id = 3")
        .await;
    titles(&shop, 3, "on").await;
    let found = conflicts(&link, 1).await;
    assert_eq!(found[0]["winner"], "extracted");
    assert_eq!(found[0]["legacy"]["review_text"]["headline"], "L");
    link.shutdown().await;
}

#[tokio::test]
async fn a_version_that_lost_can_be_written_again() {
    let shop = Shop::with(10).await;
    let link = following(&shop, Policy::Writer).await;
    meanwhile(&shop, &link, LEGACY, EXTRACTED).await;
    titles(&shop, 3, "L").await;
    let id = conflicts(&link, 1).await[0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let done = link
        .settle(&Which::One(id.to_lowercase()), Side::Extracted, false)
        .await
        .unwrap();
    assert_eq!(done.settled[0].what, "settled conflict");
    titles(&shop, 3, "E").await;
    equal(&shop).await;
    // What it replaced is kept in turn.
    let found = conflicts(&link, 2).await;
    assert!(
        found
            .iter()
            .any(|c| c["policy"] == "by hand" && c["winner"] == "extracted")
    );
    let none = link
        .settle(&Which::One("L99".to_owned()), Side::Legacy, false)
        .await;
    assert!(matches!(none, Err(Error::NoConflict(_))), "{none:?}");
    link.shutdown().await;
}

#[tokio::test]
async fn all_open_conflicts_are_settled_at_once() {
    let shop = Shop::with(30).await;
    let link = following(&shop, Policy::Manual).await;
    meanwhile(
        &shop,
        &link,
        "update reviews set title = 'L'",
        "update review_text set headline = 'E'",
    )
    .await;
    conflicts(&link, 30).await;
    let done = link
        .settle(&Which::All, Side::Extracted, false)
        .await
        .unwrap();
    assert_eq!(
        (done.settled.len(), done.failed.len(), done.open),
        (30, 0, 0)
    );
    equal(&shop).await;
    assert_eq!(
        shop.legacy
            .number("select count(*) from reviews where title = 'E'")
            .await,
        30
    );
    link.shutdown().await;
}

#[tokio::test]
async fn turning_drains_both_streams_and_opens_both_sides_again() {
    let shop = Shop::with(20).await;
    let link = following(&shop, Policy::Writer).await;
    let mut writer = Side::Legacy;
    for turn in 0..4 {
        let (here, there) = (turn + 1, turn + 11);
        shop.legacy
            .execute(&format!(
                "update reviews set title = 'turn' where id = {here}"
            ))
            .await;
        shop.reviews
            .execute(&format!(
                "update review_text set headline = 'turn' where review_id = {there}"
            ))
            .await;
        writer = writer.other();
        cut_over(&link, writer).await;
        assert_eq!(shop.review_differences().await, 0);
        // Both are open: a write of either side is taken, and wins if the other is not the writer.
        meanwhile(&shop, &link, LEGACY, EXTRACTED).await;
        titles(&shop, 3, if writer == Side::Legacy { "L" } else { "E" }).await;
        equal(&shop).await;
        shop.legacy
            .execute("update reviews set title = 'between' where id = 3")
            .await;
        equal(&shop).await;
    }
    conflicts(&link, 4).await;
    link.shutdown().await;
}

#[tokio::test]
async fn a_foreign_write_is_settled_either_way() {
    for (take, title) in [(Side::Legacy, "Title"), (Side::Extracted, "E")] {
        let shop = Shop::with(10).await;
        let link = Link::open(shop.reviews_spec()).await.unwrap();
        link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
        copied(&link).await;
        link.unfence(Side::Extracted).await.unwrap();
        shop.reviews.execute(EXTRACTED).await;
        let id = eventually("the foreign write", WAIT, || async {
            let found = serde_json::to_value(link.conflicts().await.unwrap()).unwrap();
            let write = found["foreign"].get(0)?.clone();
            assert_eq!(write["differ"][0]["column"], "review_text.headline");
            Some(write["id"].as_str()?.to_owned())
        })
        .await;
        assert_eq!(id, "FL1");
        let done = link.settle(&Which::All, take, false).await.unwrap();
        assert_eq!(done.settled[0].what, "foreign write");
        titles(&shop, 3, title).await;
        equal(&shop).await;
        let found = serde_json::to_value(link.conflicts().await.unwrap()).unwrap();
        assert_eq!(found["foreign"][0]["took"], take.as_str());
        let again = link.settle(&Which::All, take, false).await.unwrap();
        assert!(again.settled.is_empty(), "{again:?}");
        link.shutdown().await;
    }
}

#[tokio::test]
async fn the_passive_side_is_fenced_until_every_row_is_copied() {
    let shop = Shop::with(10).await;
    let link = Link::open(spec(&shop, Policy::Writer)).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    let fenced = "select fenced from \"_outgrow_reviews_control\"";
    eventually("the fence to be down", WAIT, || async {
        (shop.reviews.number(fenced).await == 0).then_some(())
    })
    .await;
    link.shutdown().await;
    // With one writer again it is up.
    let link = Link::open(shop.reviews_spec()).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    assert_eq!(shop.reviews.number(fenced).await, 1);
    link.shutdown().await;
}

#[tokio::test]
async fn the_check_asks_for_ids_that_never_meet_and_a_column_that_is_there() {
    let shop = Shop::with(2).await;
    let said = async |writes: Writes| {
        let spec = LinkSpec {
            writes,
            ..shop.reviews_spec()
        };
        let link = Link::open(spec).await.unwrap();
        let found = link.preflight().await.unwrap();
        link.shutdown().await;
        found
            .problems
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; ")
    };
    let ids = said(Writes::Both(Both::default())).await;
    assert!(
        ids.contains("`reviews -> review`: both sides take writes and generate its ids"),
        "{ids}"
    );
    assert!(ids.contains("ids = \"apart\""), "{ids}");
    assert_eq!(said(both(Policy::Writer)).await, "");
    let newest = |column: &str| both(Policy::Newest(column.to_owned()));
    assert_eq!(said(newest("posted_at")).await, "");
    let unmapped = said(newest("updated_at")).await;
    assert!(
        unmapped.contains("none of its extracted tables maps it"),
        "{unmapped}"
    );
    let nullable = said(newest("staff_reply")).await;
    assert!(nullable.contains("it may be null"), "{nullable}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_go_together_is_refused_at_the_start() {
    let shop = Shop::with(40).await;
    let url: DatabaseUrl = "mysql://nobody@127.0.0.1:9/none".parse().unwrap();
    let spec = LinkSpec {
        extracted: url.capturing(Capture::Replication).unwrap(),
        ..spec(&shop, Policy::Writer)
    };
    let link = Link::open(spec).await.unwrap();
    let refused = link.ensure(DataPhase::Copying, Side::Legacy).await;
    let text = refused.unwrap_err().to_string();
    assert!(
        text.contains("its log has no keys of a truncated table"),
        "{text}"
    );
    link.shutdown().await;
}
