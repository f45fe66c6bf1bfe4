//! Every problem at once, with nothing changed in either database.

use outgrow_bridge::{Cell, Error, Link, Source};
use outgrow_rollout::{DataPhase, Side};

use crate::shop::Shop;

#[tokio::test]
async fn a_good_mapping_has_no_problems_and_nothing_is_changed() {
    let shop = Shop::with(300).await;
    let link = Link::open(shop.catalog_spec()).await.unwrap();
    let found = link.preflight().await.unwrap();
    assert!(found.ok(), "{:?}", found.problems);
    assert_eq!(found.sampled, 604);
    assert_eq!(found.rows["legacy.products"], 300);
    assert_eq!(found.rows["extracted.product_price"], 0);
    let made = "select count(*) from sqlite_master where name like '%outgrow%'";
    assert_eq!(
        shop.legacy.number(made).await + shop.catalog.number(made).await,
        0
    );
    link.shutdown().await;
}

#[tokio::test]
async fn all_problems_are_named_at_once() {
    let shop = Shop::with(5).await;
    let mut spec = shop.catalog_spec();
    for table in &mut spec.tables {
        match table.extracted.as_str() {
            "price_change" => table.columns.retain(|c| c.extracted != "ref"),
            "product_price" => {
                table.columns[1].source = Source::Cents {
                    from: "cost".into(),
                    scale: 2,
                }
            }
            "product" => {
                for column in &mut table.columns {
                    if column.extracted == "state" {
                        column.source = Source::Map {
                            from: "status".into(),
                            pairs: vec![
                                ("A".into(), "active".into()),
                                ("D".into(), "active".into()),
                            ],
                        };
                    }
                    if column.extracted == "is_featured" {
                        column.source = Source::Expr {
                            from: "featured".into(),
                            forward: "value ==".into(),
                            reverse: "value".into(),
                        };
                    }
                }
            }
            "category" => table.key = vec!["position".into()],
            _ => {}
        }
    }
    let link = Link::open(spec).await.unwrap();
    let found = link.preflight().await.unwrap();
    let text = found
        .problems
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n");
    for part in [
        "column `ref`: it must not be null and nothing feeds it",
        "column `ref`: no extracted column is made from it",
        "no column `cost`",
        "cannot be reversed",
        "column `is_featured`: forward:",
        "(position) is not a unique key of the legacy table",
        "(sort_order) is not a unique key of the extracted table",
    ] {
        assert!(text.contains(part), "{part}\nis not in\n{text}");
    }
    let refused = link.ensure(DataPhase::Copying, Side::Legacy).await;
    assert!(matches!(refused, Err(Error::Mapping { problems, .. }) if problems.len() >= 5));
    link.shutdown().await;
}

#[tokio::test]
async fn real_rows_that_do_not_come_back_are_shown_with_their_values() {
    let shop = Shop::with(5).await;
    shop.legacy
        .execute("update products set price = '3.5' where id = 2; update products set status = 'X' where id = 3; update products set featured = 'y' where id = 4;")
        .await;
    let link = Link::open(shop.catalog_spec()).await.unwrap();
    let found = link.preflight().await.unwrap();
    let text = found
        .problems
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n");
    for part in [
        "column `price`: the row with key 2: '3.5' comes back as '3.50'",
        "the row with key 3: products.status: 'X' is not in the map",
        "column `featured`: the row with key 4: 'y' comes back as 'N'",
    ] {
        assert!(text.contains(part), "{part}\nis not in\n{text}");
    }
    link.shutdown().await;
}

#[tokio::test]
async fn missing_files_and_tables_are_problems() {
    let shop = Shop::with(5).await;
    let mut spec = shop.catalog_spec();
    spec.extracted = format!(
        "sqlite:{}/nowhere.db",
        shop.catalog.path().parent().unwrap().display()
    )
    .parse()
    .unwrap();
    let link = Link::open(spec).await.unwrap();
    let found = link.preflight().await.unwrap();
    assert!(
        found.problems[0].to_string().contains("nowhere.db"),
        "{:?}",
        found.problems
    );
    link.shutdown().await;

    shop.catalog.execute("drop table price_change").await;
    let link = Link::open(shop.catalog_spec()).await.unwrap();
    let found = link.preflight().await.unwrap();
    assert!(
        found.problems[0]
            .to_string()
            .contains("no table `price_change`"),
        "{:?}",
        found.problems
    );
    link.shutdown().await;
}

#[tokio::test]
async fn a_default_stands_in_for_a_column_that_is_not_carried_over() {
    let shop = Shop::with(5).await;
    let mut spec = shop.catalog_spec();
    for table in &mut spec.tables {
        table.columns.retain(|c| c.extracted != "weight_g");
    }
    let link = Link::open(spec.clone()).await.unwrap();
    assert!(!link.preflight().await.unwrap().ok());
    spec.tables[1]
        .defaults
        .push(("weight_g".into(), Cell::Null));
    let link = Link::open(spec).await.unwrap();
    let found = link.preflight().await.unwrap();
    assert!(found.ok(), "{:?}", found.problems);
    link.shutdown().await;
}

#[test]
fn only_known_databases_are_taken() {
    for bad in [
        "",
        "mongodb://x",
        "sqlite:",
        "sqlite::memory:",
        "postgres://a:b:c",
    ] {
        assert!(bad.parse::<outgrow_bridge::DatabaseUrl>().is_err(), "{bad}");
    }
    assert!(
        "sqlite:data/shop.db"
            .parse::<outgrow_bridge::DatabaseUrl>()
            .is_ok()
    );
    let url = "postgres://me:very-secret@db.example:5433/shop?sslmode=require";
    let url: outgrow_bridge::DatabaseUrl = url.parse().unwrap();
    assert_eq!(
        format!("{url} {url:?}"),
        "postgres://db.example:5433/shop postgres://db.example:5433/shop"
    );
}
