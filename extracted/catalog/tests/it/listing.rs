//! Lists of products.

use crate::harness::Shop;

#[tokio::test]
async fn every_order_breaks_ties_by_id() {
    let shop = Shop::new().await;
    assert_eq!(shop.ids("").await, [1, 2, 3, 4, 5]);
    assert_eq!(shop.ids("?sort=id").await, [1, 2, 3, 4, 5]);
    assert_eq!(shop.ids("?sort=price").await, [5, 2, 4, 1, 3]);
    assert_eq!(shop.ids("?sort=name").await, [5, 1, 3, 2, 4]);
    assert_eq!(shop.ids("?sort=newest").await, [1, 4, 2, 3, 5]);
}

#[tokio::test]
async fn pages_and_totals() {
    let shop = Shop::new().await;
    for sort in ["id", "price", "name", "newest"] {
        let whole = shop.ids(&format!("?sort={sort}")).await;
        let mut pages = Vec::new();
        for page in 1..=3 {
            pages.extend(
                shop.ids(&format!("?sort={sort}&per_page=2&page={page}"))
                    .await,
            );
        }
        assert_eq!(pages, whole, "{sort}");
    }
    let facts = shop.get("/api/products?per_page=2&page=9").await.facts();
    assert_eq!(
        (&facts["page"], &facts["per_page"], &facts["total"]),
        (&9.into(), &2.into(), &5.into())
    );
    assert!(facts["products"].as_array().unwrap().is_empty());
    assert_eq!(
        shop.get("/api/products?per_page=1000").await.facts()["per_page"],
        100
    );
    assert_eq!(
        shop.get("/api/products?page=9223372036854775807")
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn filters_restrict_list_and_total() {
    let shop = Shop::new().await;
    assert_eq!(shop.ids("?category=2").await, [1, 3, 5]);
    assert_eq!(shop.ids("?category=2&sort=price").await, [5, 1, 3]);
    assert_eq!(shop.ids("?category=77").await, [] as [i64; 0]);
    assert_eq!(shop.ids("?q=RAKE").await, [1, 5]);
    assert_eq!(shop.ids("?q=LAMP&category=1&sort=newest").await, [4, 2]);
    let facts = shop.get("/api/products?q=rake&per_page=1").await.facts();
    assert_eq!(
        (&facts["total"], facts["products"].as_array().unwrap().len()),
        (&2.into(), 1)
    );
}

#[tokio::test]
async fn wildcards_and_quotes_are_plain_text() {
    let shop = Shop::new().await;
    assert_eq!(shop.ids("?q=100%25").await, [5]);
    assert_eq!(shop.ids("?q=%25").await, [5]);
    assert_eq!(shop.ids("?q=_").await, [5]);
    assert_eq!(shop.ids("?q=%27%20OR%201%3D1--").await, [] as [i64; 0]);
}

#[tokio::test]
async fn bad_parameters_are_refused() {
    let shop = Shop::new().await;
    for query in [
        "?page=x",
        "?per_page=many",
        "?category=Garden",
        "?sort=colour",
    ] {
        let answer = shop.get(&format!("/api/products{query}")).await;
        assert_eq!(
            (answer.status, &answer.json()["status"]),
            (400, &400.into()),
            "{query}"
        );
    }
}

/// The plan of a page must not sort or scan the table: that is what the indexes are for.
#[tokio::test]
async fn pages_are_read_from_indexes() {
    let shop = Shop::new().await;
    let mut tx = shop.service.database().read().await.unwrap();
    for (sort, index) in [
        ("id", "PRIMARY KEY"),
        ("name", "product_by_title"),
        ("newest", "product_by_age"),
        ("price", "product_price_by_amount"),
    ] {
        let query = [("sort".to_owned(), sort.to_owned())].into();
        let listing = extracted_catalog::listing::Listing::parse(&query).unwrap();
        let sql = listing.select(false);
        let explain = format!("EXPLAIN QUERY PLAN {}", sql.sql().as_str());
        let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(sqlx::AssertSqlSafe(explain))
            .fetch_all(&mut *tx)
            .await
            .unwrap();
        let plan: Vec<_> = plan.into_iter().map(|(.., detail)| detail).collect();
        // The outer sort of the one page is the only one.
        let sorts = plan
            .iter()
            .filter(|line| line.contains("TEMP B-TREE"))
            .count();
        assert!(sorts <= 1, "{sort}: {plan:#?}");
        assert!(
            sort == "id" || plan.iter().any(|line| line.contains(index)),
            "{sort}: {plan:#?}"
        );
    }
}
