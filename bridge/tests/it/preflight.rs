//! Every problem at once, with nothing changed in either database.

use outgrow_bridge::{Cell, Error, Link, Source};
use outgrow_rollout::{DataPhase, Side};

use crate::mapping::{entry, same, spec};
use crate::postgres::Db;
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

/// Expressions compute in floats, so amounts are not for them; whole numbers of any size are.
async fn amounts_are_refused(legacy: Db, extracted: Db, whole: &str) {
    let expr = |from: &str, forward: &str, reverse: &str| Source::Expr {
        from: from.to_owned(),
        forward: forward.to_owned(),
        reverse: reverse.to_owned(),
    };
    legacy
        .execute(&format!(
            "CREATE TABLE item (id bigint PRIMARY KEY, price decimal(10,2) NOT NULL, cents bigint NOT NULL, size {whole})"
        ))
        .await;
    extracted
        .execute(
            "CREATE TABLE item (id bigint PRIMARY KEY, price bigint NOT NULL, amount decimal(10,2) NOT NULL, size bigint)",
        )
        .await;
    let columns = vec![
        ("id", same("id")),
        (
            "price",
            expr(
                "price",
                "int(double(value) * 100.0)",
                "string(double(value) / 100.0)",
            ),
        ),
        ("amount", expr("cents", "string(value)", "int(value)")),
        ("size", expr("size", "int(value) + 1", "int(value) - 1")),
    ];
    let spec = spec(&legacy, &extracted, vec![entry("item", "item", columns)]);
    let link = Link::open(spec).await.unwrap();
    let found = link.preflight().await.unwrap();
    let problems: Vec<String> = found.problems.iter().map(ToString::to_string).collect();
    let said = |column: &str, amount: &str, way: &str| {
        let column = format!("column `{column}`: `{amount}` is a decimal");
        let all = |p: &&String| p.contains(&column) && p.contains(way);
        assert_eq!(problems.iter().filter(all).count(), 1, "{problems:?}");
    };
    said("price", "price", "{ from = \"price\", cents = 2 }");
    said("amount", "amount", "keep whole cents");
    assert_eq!(problems.len(), 2, "{problems:?}");
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn amounts_of_postgres_are_not_for_expressions() {
    amounts_are_refused(Db::pg("").await, Db::pg("").await, "bigint").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn amounts_of_mariadb_are_not_for_expressions() {
    amounts_are_refused(
        Db::my("SELECT 1").await,
        Db::my("SELECT 1").await,
        "bigint unsigned",
    )
    .await;
}
