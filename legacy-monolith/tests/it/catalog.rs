//! Products, search, paging, entity tags, prices.

use crate::harness::{CUSTOMER, STAFF, TestShop, keys};
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn ids(list: &Value) -> Vec<i64> {
    let products = list["products"].as_array().unwrap();
    products
        .iter()
        .map(|product| product["id"].as_i64().unwrap())
        .collect()
}

#[tokio::test]
async fn a_product_has_exactly_the_agreed_fields() {
    let shop = TestShop::open().await;
    shop.run(
        "UPDATE products SET description = NULL, weight_g = NULL, tags = '', featured = 'Y' \
         WHERE id = 1; UPDATE products SET description = 'text', weight_g = 5, tags = 'a,b' \
         WHERE id = 2",
    )
    .await;
    let mut browser = shop.anonymous();
    let bare = browser.get("/api/products/1").await.json(200);
    let mut expected = vec![
        "category",
        "category_id",
        "created_at",
        "currency",
        "featured",
        "generated_at",
        "id",
        "name",
        "price",
        "request_id",
        "sku",
        "status",
        "tags",
        "updated_at",
        "weight_g",
    ];
    assert_eq!(keys(&bare), expected);
    assert_eq!(bare["weight_g"], Value::Null);
    assert_eq!(bare["tags"], json!([]));
    assert_eq!(bare["featured"], true);
    let answer = browser.get("/api/products/2").await;
    assert_eq!(answer.header("cache-control"), Some("private, max-age=0"));
    assert_eq!(answer.header("x-build-id"), Some("test-build"));
    let full = answer.json(200);
    expected.push("description");
    expected.sort_unstable();
    assert_eq!(keys(&full), expected);
    assert_eq!(
        (&full["weight_g"], &full["description"]),
        (&json!(5), &json!("text"))
    );
}

#[tokio::test]
async fn tags_come_in_any_order_but_are_the_same_set() {
    let shop = TestShop::open().await;
    shop.run("UPDATE products SET tags = 'a,b,c' WHERE id = 1")
        .await;
    let mut browser = shop.anonymous();
    let mut orders = BTreeSet::new();
    for _ in 0..60 {
        let product = browser.get("/api/products/1").await.json(200);
        let tags: Vec<String> = serde_json::from_value(product["tags"].clone()).unwrap();
        assert_eq!(
            tags.iter().map(String::as_str).collect::<BTreeSet<_>>(),
            ["a", "b", "c"].into()
        );
        orders.insert(tags);
    }
    assert!(orders.len() > 1);
}

#[tokio::test]
async fn what_is_not_there_is_a_404_with_three_fields() {
    let shop = TestShop::open().await;
    let mut browser = shop.anonymous();
    for id in ["999999", "abc", "0", "-1", "1.0", "%ff"] {
        for path in [
            format!("/api/products/{id}"),
            format!("/api/products/{id}/prices"),
        ] {
            let answer = browser.get(&path).await.json(404);
            assert_eq!(keys(&answer), ["error", "request_id", "status"], "{path}");
            assert_eq!(
                (&answer["error"], &answer["status"]),
                (&json!("no such product"), &json!(404))
            );
        }
    }
}

#[tokio::test]
async fn an_entity_tag_saves_the_body_until_the_product_changes() {
    let shop = TestShop::open().await;
    shop.run("UPDATE products SET updated_at = '2025-07-01 01:00:00' WHERE id = 1")
        .await;
    let mut browser = shop.user(STAFF).await;
    let answer = browser.get("/api/products/1").await;
    assert_eq!(answer.header("etag"), Some("W/\"p1-1751328000\""));
    let known = [("if-none-match", "W/\"p1-1751328000\"")];
    let answer = browser.send("GET", "/api/products/1", &known, "").await;
    assert_eq!(answer.status.as_u16(), 304);
    assert!(answer.body.is_empty());
    assert_eq!(answer.header("etag"), Some("W/\"p1-1751328000\""));
    browser
        .put(
            "/api/products/1/price",
            json!({"price": "1.00", "ref": "r"}),
        )
        .await
        .json(200);
    let answer = browser.send("GET", "/api/products/1", &known, "").await;
    assert_eq!(answer.json(200)["price"], "1.00");
}

#[tokio::test]
async fn pages_of_every_order_cover_each_product_once() {
    let shop = TestShop::open().await;
    // Many ties: the order must still be total.
    shop.run("UPDATE products SET name = 'Same', price = '5.00', created_at = '2024-01-01 00:00:00' WHERE id % 3 = 0")
        .await;
    let mut browser = shop.anonymous();
    for sort in ["id", "price", "name", "newest"] {
        let mut seen = Vec::new();
        for page in 1..=8 {
            let path = format!("/api/products?sort={sort}&per_page=17&page={page}");
            let list = browser.get(&path).await.json(200);
            assert_eq!(list["total"], 120);
            seen.extend(ids(&list));
        }
        assert_eq!(seen.len(), 120, "{sort}");
        assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 120, "{sort}");
    }
}

#[tokio::test]
async fn prices_sort_as_numbers_and_newest_comes_first() {
    let shop = TestShop::open().await;
    shop.run("UPDATE products SET price = '100.00' WHERE id = 1; UPDATE products SET price = '20.00' WHERE id = 2; UPDATE products SET price = '3.00' WHERE id = 3; UPDATE products SET category_id = 9 WHERE id <= 3; UPDATE products SET category_id = 10 WHERE id > 3")
        .await;
    let mut browser = shop.anonymous();
    let list = browser
        .get("/api/products?category=9&sort=price")
        .await
        .json(200);
    assert_eq!(ids(&list), [3, 2, 1]);
    let list = browser
        .get("/api/products?category=9&sort=newest")
        .await
        .json(200);
    assert_eq!(ids(&list), [3, 2, 1]);
    assert_eq!(
        keys(&list),
        [
            "generated_at",
            "page",
            "per_page",
            "products",
            "request_id",
            "total"
        ]
    );
}

#[tokio::test]
async fn search_is_by_substring_and_takes_wildcards_as_letters() {
    let shop = TestShop::open().await;
    shop.run("UPDATE products SET name = 'Plain'; UPDATE products SET name = '50%_off' WHERE id = 4; UPDATE products SET name = 'GREEN chair' WHERE id = 5; UPDATE products SET name = 'ÄPFEL' WHERE id = 6")
        .await;
    let mut browser = shop.anonymous();
    for (query, expected) in [
        ("%25_", vec![4]),
        ("green%20CHAIR", vec![5]),
        ("%C3%84pf", vec![6]),
        // Case is ASCII only.
        ("%C3%A4pf", vec![]),
        ("'%20OR%201=1--", vec![]),
    ] {
        let list = browser
            .get(&format!("/api/products?q={query}"))
            .await
            .json(200);
        assert_eq!(ids(&list), expected, "{query}");
        assert_eq!(list["total"], expected.len());
    }
}

#[tokio::test]
async fn paging_parameters_have_bounds() {
    let shop = TestShop::open().await;
    let mut browser = shop.anonymous();
    let list = browser
        .get("/api/products?per_page=1000&page=0")
        .await
        .json(200);
    assert_eq!((&list["per_page"], &list["page"]), (&json!(100), &json!(1)));
    let list = browser
        .get("/api/products?page=9223372036854775807")
        .await
        .json(200);
    assert_eq!(list["products"], json!([]));
    for query in ["page=x", "per_page=1.5", "category=all", "sort=colour"] {
        browser
            .get(&format!("/api/products?{query}"))
            .await
            .json(400);
    }
}

#[tokio::test]
async fn categories_are_all_there() {
    let shop = TestShop::open().await;
    let list = shop.anonymous().get("/api/categories").await.json(200);
    let categories = list["categories"].as_array().unwrap();
    assert_eq!(categories.len(), 48);
    assert!(
        categories
            .iter()
            .all(|one| keys(one) == ["id", "name", "parent_id", "position"])
    );
}

#[tokio::test]
async fn a_price_changes_together_with_its_history() {
    let shop = TestShop::open().await;
    shop.run("UPDATE products SET price = '9.99' WHERE id = 3; DELETE FROM price_changes")
        .await;
    let mut staff = shop.user(STAFF).await;
    let change = json!({"price": "12.90", "ref": "spring"});
    let done = staff.put("/api/products/3/price", change).await.json(200);
    assert_eq!(
        keys(&done),
        [
            "change_id",
            "generated_at",
            "id",
            "old_price",
            "price",
            "ref",
            "request_id"
        ]
    );
    assert_eq!(
        (&done["old_price"], &done["price"]),
        (&json!("9.99"), &json!("12.90"))
    );
    staff
        .put(
            "/api/products/3/price",
            json!({"price": "13.00", "ref": "b"}),
        )
        .await
        .json(200);
    let history = staff.get("/api/products/3/prices").await.json(200);
    let changes = history["changes"].as_array().unwrap();
    assert_eq!(changes.len(), 2);
    assert_eq!(changes[0]["new_price"], "13.00");
    assert_eq!(
        keys(&changes[1]),
        [
            "changed_at",
            "changed_by",
            "id",
            "new_price",
            "old_price",
            "ref"
        ]
    );
    assert_eq!(
        (&changes[1]["id"], &changes[1]["ref"]),
        (&done["change_id"], &json!("spring"))
    );
    assert_eq!(changes[1]["changed_by"], STAFF);
}

#[tokio::test]
async fn only_staff_change_prices_and_only_to_prices() {
    let shop = TestShop::open().await;
    let change = json!({"price": "12.90", "ref": "x"});
    shop.anonymous()
        .put("/api/products/1/price", change.clone())
        .await
        .json(401);
    shop.user(CUSTOMER)
        .await
        .put("/api/products/1/price", change.clone())
        .await
        .json(403);
    let before = shop.number("SELECT count(*) FROM price_changes").await;
    let mut staff = shop.user(STAFF).await;
    for price in [
        "0.00",
        "-1.00",
        "1000000.00",
        "12.9",
        "12",
        "abc",
        "",
        "012.90",
    ] {
        let change = json!({"price": price, "ref": "x"});
        staff.put("/api/products/1/price", change).await.json(422);
    }
    staff
        .put("/api/products/1/price", json!({"price": 12.9, "ref": "x"}))
        .await
        .json(422);
    staff
        .put("/api/products/1/price", json!({"price": "12.90"}))
        .await
        .json(422);
    staff
        .put("/api/products/99999/price", change)
        .await
        .json(404);
    assert_eq!(
        shop.number("SELECT count(*) FROM price_changes").await,
        before
    );
}
