//! Fences, and turning the link round: nothing is lost in either direction, however often.

use std::time::Duration;

use outgrow_bridge::{Error, Link};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::{TempDatabase, eventually};
use proptest::prelude::*;
use sqlx::Executor as _;

use crate::shop::{Dice, Shop, WAIT, legacy_change};

/// What control does to change the writer.
pub(crate) async fn cut_over(link: &Link, to: Side) {
    let position = link.fence(to.other()).await.unwrap();
    link.drain(position, WAIT).await.unwrap();
    for (table, rows) in link.check().await.unwrap() {
        assert_eq!(
            (rows.legacy, rows.different),
            (rows.extracted, 0),
            "{table}"
        );
    }
    link.turn(to).await.unwrap();
    let phase = match to {
        Side::Legacy => DataPhase::Following,
        Side::Extracted => DataPhase::Reversed,
    };
    link.ensure(phase, to).await.unwrap();
}

async fn refusal(database: &TempDatabase, statement: &'static str) -> String {
    match database.pool().execute(statement).await {
        Ok(_) => "taken".to_owned(),
        Err(e) => e.to_string(),
    }
}

#[tokio::test]
async fn a_fence_refuses_others_and_lets_the_bridge_pass() {
    let shop = Shop::with(20).await;
    let link = shop.following().await;
    let message = refusal(
        &shop.catalog,
        "update product set title = 'mine' where id = 1",
    )
    .await;
    assert!(
        message.contains(
            "outgrow: table product is fenced: the legacy side takes the writes of slice catalog"
        ),
        "{message}"
    );
    for statement in [
        "insert into category values (99, 'x', null, 1)",
        "insert or replace into category values (1, 'x', null, 1)",
        "insert or ignore into category values (98, 'x', null, 1)",
        "delete from product_price",
    ] {
        assert!(
            refusal(&shop.catalog, statement)
                .await
                .contains("is fenced"),
            "{statement}"
        );
    }
    shop.legacy
        .execute("update products set name = 'theirs'")
        .await;
    shop.catalog_equal().await;
    eventually("the refused writes to be counted", WAIT, || async {
        (link.evidence()?.foreign_writes == 5).then_some(())
    })
    .await;
    let evidence = link.evidence().unwrap();
    assert!(
        evidence
            .last_foreign
            .unwrap()
            .contains("extracted `product_price`")
    );
    link.unfence(Side::Extracted).await.unwrap();
    assert_eq!(
        refusal(
            &shop.catalog,
            "update category set label = label where id = 1"
        )
        .await,
        "taken"
    );
    link.shutdown().await;
}

#[tokio::test]
async fn a_fence_survives_a_restart() {
    let shop = Shop::with(5).await;
    let link = shop.following().await;
    let position = link.fence(Side::Legacy).await.unwrap();
    assert!(link.fence(Side::Legacy).await.unwrap() >= position);
    link.shutdown().await;
    assert!(
        refusal(&shop.legacy, "update products set name = 'x'")
            .await
            .contains("is fenced")
    );
    let again = Link::open(shop.catalog_spec()).await.unwrap();
    again
        .ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    assert!(
        refusal(&shop.legacy, "delete from categories")
            .await
            .contains("is fenced")
    );
    again.unfence(Side::Legacy).await.unwrap();
    assert_eq!(
        refusal(&shop.legacy, "update products set name = 'x'").await,
        "taken"
    );
    shop.catalog_equal().await;
    again.shutdown().await;
}

#[tokio::test]
async fn a_fence_undoes_a_statement_that_began_elsewhere() {
    let shop = Shop::with(5).await;
    shop.catalog
        .execute(
            "create table job(id integer primary key, product integer);
             create trigger job_done after insert on job begin update product set title = 'job' where id = new.product; end;",
        )
        .await;
    let link = shop.following().await;
    let message = refusal(&shop.catalog, "insert into job values (1, 1)").await;
    assert!(message.contains("is fenced"), "{message}");
    assert_eq!(shop.catalog.number("select count(*) from job").await, 0);
    link.shutdown().await;
}

const SERVICE_WRITES: &str = "
begin immediate;
insert into product values (null, 'NEW-1', 'Fresh', null, 1, 'seasonal', 1, 'n', null, '2026-05-05T10:00:00Z', '2026-05-05T10:00:00Z');
insert into product_price values (last_insert_rowid(), 4242, 'EUR');
update product_price set amount_cents = 5 where product_id = 2;
update product set state = 'discontinued', description = 'changed' where id = 2;
delete from price_change where product_id = 3; delete from product_price where product_id = 3; delete from product where id = 3;
commit;";

#[tokio::test]
async fn writes_of_both_sides_survive_there_and_back_again() {
    let shop = Shop::with(30).await;
    let link = shop.following().await;
    shop.legacy.execute("insert into products select 5000, 'S5000', name, description, price, currency, category_id, status, featured, tags, weight_g, created_at, updated_at from products where id = 1; delete from products where id = 5000;").await;
    cut_over(&link, Side::Extracted).await;
    assert!(
        refusal(&shop.legacy, "update products set name = 'old code'")
            .await
            .contains("the extracted side takes the writes")
    );
    shop.catalog.execute(SERVICE_WRITES).await;
    // The legacy side gave out 5000 once; it must not come again.
    assert_eq!(
        shop.catalog.number("select max(id) from product").await,
        5001
    );
    eventually("the service's writes in legacy", WAIT, || async {
        (shop
            .legacy
            .number("select count(*) from products where price in ('42.42', '0.05')")
            .await
            == 2)
            .then_some(())
    })
    .await;
    shop.catalog_equal().await;
    assert_eq!(link.evidence().unwrap().source, Side::Extracted);
    assert_eq!(link.verify().await.unwrap().different, 0);

    shop.catalog
        .execute("update product_price set amount_cents = 777 where product_id = 4")
        .await;
    cut_over(&link, Side::Legacy).await;
    assert_eq!(
        shop.legacy
            .number("select count(*) from products where id = 4 and price = '7.77'")
            .await,
        1
    );
    shop.legacy
        .execute("update products set tags = 'home again' where id = 4")
        .await;
    shop.catalog_equal().await;
    assert_eq!(link.evidence().unwrap().foreign_writes, 1);
    link.shutdown().await;
}

#[tokio::test]
async fn every_step_of_a_cutover_may_be_repeated() {
    let shop = Shop::with(10).await;
    let link = shop.following().await;
    for _ in 0..3 {
        let position = link.fence(Side::Legacy).await.unwrap();
        for _ in 0..2 {
            link.drain(position, WAIT).await.unwrap();
            link.check().await.unwrap();
        }
        link.turn(Side::Extracted).await.unwrap();
        link.turn(Side::Extracted).await.unwrap();
    }
    shop.catalog.execute(SERVICE_WRITES).await;
    shop.catalog_equal().await;
    link.shutdown().await;
}

#[tokio::test]
async fn a_turn_needs_both_fences_and_a_drained_stream() {
    let shop = Shop::with(10).await;
    let link = shop.following().await;
    assert!(matches!(
        link.turn(Side::Extracted).await,
        Err(Error::NotFenced(Side::Legacy))
    ));
    link.pause().await.unwrap();
    shop.legacy
        .execute("update products set tags = 'late'")
        .await;
    let position = link.fence(Side::Legacy).await.unwrap();
    let short = link.drain(position, Duration::from_millis(1)).await;
    assert!(matches!(short, Err(Error::DrainTimeout { .. })));
    assert!(matches!(
        link.turn(Side::Extracted).await,
        Err(Error::NotDrained { waiting: 10, .. })
    ));
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    link.drain(position, WAIT).await.unwrap();
    link.unfence(Side::Legacy).await.unwrap();
    shop.legacy
        .execute("update products set tags = 'went on'")
        .await;
    shop.catalog_equal().await;
    link.shutdown().await;
}

#[tokio::test]
async fn a_link_found_the_other_way_round_is_turned_without_loss() {
    let shop = Shop::with(10).await;
    let link = shop.following().await;
    cut_over(&link, Side::Extracted).await;
    link.pause().await.unwrap();
    shop.catalog.execute(SERVICE_WRITES).await;
    link.shutdown().await;
    let again = Link::open(shop.catalog_spec()).await.unwrap();
    again
        .ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    assert_eq!(shop.catalog_differences().await, 0);
    assert_eq!(again.evidence().unwrap().source, Side::Legacy);
    shop.legacy
        .execute("update products set tags = 'legacy writes'")
        .await;
    shop.catalog_equal().await;
    again.shutdown().await;
}

#[tokio::test]
async fn a_row_with_a_missing_part_is_parked_until_it_is_whole() {
    let shop = Shop::with(10).await;
    let link = shop.following().await;
    cut_over(&link, Side::Extracted).await;
    shop.catalog
        .execute("insert into product values (70, 'HALF', 'Half', null, 1, 'active', 0, '', null, '2026-05-05T10:00:00Z', '2026-05-05T10:00:00Z')")
        .await;
    eventually("the row to be parked", WAIT, || async {
        (link.evidence()?.parked == 1).then_some(())
    })
    .await;
    assert_eq!(
        shop.legacy
            .number("select count(*) from products where id = 70")
            .await,
        0
    );
    shop.catalog
        .execute("insert into product_price values (70, 100, 'EUR')")
        .await;
    eventually("the row to be whole", WAIT, || async {
        (link.evidence()?.parked == 0).then_some(())
    })
    .await;
    shop.catalog_equal().await;
    link.shutdown().await;
}

/// Writers on whichever side is the source, with cutovers at random moments.
async fn there_and_back(seed: u64, turns: u32) {
    let shop = Shop::with(30).await;
    let link = shop.following().await;
    let mut dice = Dice(seed | 1);
    let mut source = Side::Legacy;
    for _ in 0..turns {
        for _ in 0..dice.roll(15) {
            match source {
                Side::Legacy => shop.legacy.execute(&legacy_change(&mut dice, 35)).await,
                Side::Extracted => {
                    let (id, cents) = (dice.roll(35) + 1, dice.roll(9_999) + 1);
                    let text = match dice.roll(3) {
                        0 => format!(
                            "update product_price set amount_cents = {cents} where product_id = {id}"
                        ),
                        1 => format!(
                            "update product set weight_g = {cents}, is_featured = 1 - is_featured where id = {id}"
                        ),
                        _ => format!(
                            "begin immediate; delete from price_change where product_id = {id}; delete from product_price where product_id = {id}; delete from product where id = {id}; commit"
                        ),
                    };
                    shop.catalog.execute(&text).await;
                }
            }
        }
        source = source.other();
        cut_over(&link, source).await;
        assert_eq!(shop.catalog_differences().await, 0);
    }
    assert_eq!(link.evidence().unwrap().parked, 0);
    assert_eq!(link.evidence().unwrap().foreign_writes, 0);
    link.shutdown().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 8, ..ProptestConfig::default() })]

    #[test]
    fn turning_at_any_moment_loses_nothing(seed: u64, turns in 1u32..6) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(there_and_back(seed, turns));
    }
}
