//! Changing a price.

use serde_json::json;

use crate::harness::Shop;

const STAFF: Option<&str> = Some("staff");

#[tokio::test]
async fn staff_change_a_price_in_all_tables_at_once() {
    let shop = Shop::new().await;
    let answer = shop
        .put_price("1", STAFF, r#"{"price":"13.05","ref":"spring"}"#)
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(
        answer.facts(),
        json!({ "id": 1, "price": "13.05", "old_price": "12.90", "ref": "spring", "change_id": 1 })
    );
    shop.put_price("1", STAFF, r#"{"price":"14.00","ref":"summer"}"#)
        .await;
    let facts = shop.get("/api/products/1/prices").await.facts();
    assert_eq!(facts["product_id"], 1);
    let mut changes = facts["changes"].as_array().unwrap().clone();
    let updated_at = shop.get("/api/products/1").await.facts()["updated_at"].clone();
    assert_eq!(changes[0]["changed_at"], updated_at);
    for change in &mut changes {
        change
            .as_object_mut()
            .unwrap()
            .remove("changed_at")
            .unwrap();
    }
    assert_eq!(
        json!(changes),
        json!([
            { "id": 2, "old_price": "13.05", "new_price": "14.00", "changed_by": 3, "ref": "summer" },
            { "id": 1, "old_price": "12.90", "new_price": "13.05", "changed_by": 3, "ref": "spring" },
        ])
    );
    let events = shop.get("/events").await.json();
    assert_eq!(
        events["events"][0]["data"],
        json!({ "change_id": 1, "product_id": 1, "old_cents": 1290, "new_cents": 1305,
            "staff_id": 3, "ref": "spring" })
    );
}

#[tokio::test]
async fn others_may_not_and_bad_prices_are_refused() {
    let shop = Shop::new().await;
    let good = r#"{"price":"13.05","ref":"spring"}"#;
    for (id, role, body, status) in [
        ("1", None, good, 401),
        ("1", Some("customer"), good, 403),
        ("99", STAFF, good, 404),
        ("rake", STAFF, good, 404),
        ("1", STAFF, "{", 400),
        ("1", STAFF, r#"{"price":"13.05"}"#, 422),
        ("1", STAFF, r#"{"price":13.05,"ref":"r"}"#, 422),
        ("1", STAFF, r#"{"price":"0.00","ref":"r"}"#, 422),
        ("1", STAFF, r#"{"price":"1000000.00","ref":"r"}"#, 422),
        ("1", STAFF, r#"{"price":"13.5","ref":"r"}"#, 422),
    ] {
        let answer = shop.put_price(id, role, body).await;
        assert_eq!(
            (answer.status, &answer.json()["status"]),
            (status, &status.into()),
            "{id} {body}"
        );
    }
    assert_eq!(shop.get("/api/products/1").await.facts()["price"], "12.90");
    assert_eq!(
        shop.get("/api/products/1/prices").await.facts()["changes"],
        json!([])
    );
}

/// A fence on any one of the tables stops the whole change.
#[tokio::test]
async fn a_fence_on_one_table_undoes_the_others() {
    for (table, verb) in [
        ("product", "UPDATE"),
        ("product_price", "UPDATE"),
        ("price_change", "INSERT"),
    ] {
        let shop = Shop::new().await;
        let before = shop.get("/api/products/1").await.facts();
        let trigger = format!(
            "CREATE TRIGGER fence BEFORE {verb} ON {table}
             BEGIN SELECT RAISE(ABORT, 'outgrow: catalog is moving'); END"
        );
        let mut tx = shop.service.database().write().await.unwrap();
        sqlx::query(sqlx::AssertSqlSafe(trigger))
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        let answer = shop
            .put_price("1", STAFF, r#"{"price":"13.05","ref":"spring"}"#)
            .await;
        assert_eq!(
            (answer.status, answer.headers["retry-after"].as_bytes()),
            (503, &b"1"[..]),
            "{table}"
        );
        assert_eq!(shop.get("/api/products/1").await.facts(), before, "{table}");
        assert_eq!(
            shop.get("/api/products/1/prices").await.facts()["changes"],
            json!([])
        );
        assert_eq!(shop.get("/events").await.json()["events"], json!([]));
    }
}

#[tokio::test]
async fn the_history_shows_the_last_fifty() {
    let shop = Shop::new().await;
    for cents in 100..160 {
        let body = format!(
            r#"{{"price":"{}.{:02}","ref":"r{cents}"}}"#,
            cents / 100,
            cents % 100
        );
        assert_eq!(shop.put_price("1", STAFF, &body).await.status, 200);
    }
    let facts = shop.get("/api/products/1/prices").await.facts();
    let refs: Vec<_> = facts["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["ref"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        (refs.len(), refs[0].as_str(), refs[49].as_str()),
        (50, "r159", "r110")
    );
}

#[tokio::test]
async fn numbers_go_on_from_where_the_bridge_left_the_sequence() {
    let shop = Shop::new().await;
    shop.run_sql(&["INSERT INTO sqlite_sequence (name, seq) VALUES ('price_change', 4000)"])
        .await;
    let answer = shop
        .put_price("1", STAFF, r#"{"price":"13.05","ref":"r"}"#)
        .await;
    assert_eq!(answer.facts()["change_id"], 4001);
}
