//! Each planted defect shows, and only it.

use extracted_kit::defects::Defect;

use crate::harness::Reviews;

#[tokio::test]
async fn the_average_is_cut_off() {
    let reviews = Reviews::new().await;
    reviews.plant(Some(Defect::PriceRounding));
    assert_eq!(
        reviews.get("/api/products/7/reviews").await.facts()["average"],
        "4.66"
    );
    reviews.plant(None);
    assert_eq!(
        reviews.get("/api/products/7/reviews").await.facts()["average"],
        "4.67"
    );
}

#[tokio::test]
async fn a_null_reply_goes_missing() {
    let reviews = Reviews::new().await;
    reviews.plant(Some(Defect::MissingNull));
    assert_eq!(
        reviews.get("/api/reviews/2").await.facts().get("reply"),
        None
    );
    assert_eq!(
        reviews.get("/api/reviews/1").await.facts()["reply"],
        "Thanks"
    );
}

#[tokio::test]
async fn the_oldest_come_first() {
    let reviews = Reviews::new().await;
    reviews.plant(Some(Defect::StaleSort));
    assert_eq!(reviews.ids(7).await, [2, 4, 1]);
    reviews.plant(None);
    assert_eq!(reviews.ids(7).await, [1, 4, 2]);
}

#[tokio::test]
async fn some_reads_fail() {
    let reviews = Reviews::new().await;
    reviews.plant(Some(Defect::Errors));
    let mut failed = 0;
    for _ in 0..40 {
        failed += usize::from(reviews.get("/api/reviews/1").await.status == 500);
    }
    assert!((8..=16).contains(&failed), "{failed}");
    assert_eq!(
        reviews
            .post("/api/reviews/1/helpful", true, None, "")
            .await
            .status,
        200
    );
}
