//! A service with a few reviews, and a client.

use axum::Router;
use axum::body::Body;
use extracted_kit::clock::Instant;
use extracted_kit::defects::Defect;
use extracted_kit::flags::Flags;
use extracted_kit::identity::Secret;
use extracted_kit::run;
use extracted_kit::service::Service;
use extracted_reviews::REVIEWS;
use http::{HeaderMap, Request};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower::ServiceExt as _;

const SECRET: &str = "a secret for the tests only";

/// Five reviews of product 7 in orders of age that differ from those of the ids, two of an age, one
/// of them not approved; and one of product 8.
const ROWS: &[&str] = &[
    "INSERT INTO review (id, product_id, author_id, author_name, stars, state, helpful_count, posted_at) VALUES
        (1, 7, 21, 'Ann', 5, 'approved', 3, '2024-03-02T23:30:00Z'),
        (2, 7, 22, 'Bob', 4, 'approved', 0, '2024-03-01T08:00:00Z'),
        (3, 7, 23, 'Cy', 1, 'pending', 0, '2024-03-04T08:00:00Z'),
        (4, 7, 24, 'Di', 5, 'approved', 1, '2024-03-01T08:00:00Z'),
        (5, 8, 25, 'Ed', 2, 'rejected', 0, '2024-03-01T08:00:00Z')",
    "INSERT INTO review_text (review_id, headline, content, staff_reply) VALUES
        (1, 'Great', 'Works', 'Thanks'), (2, 'Good', 'Nice', NULL), (3, 'Bad', 'Broke', NULL),
        (4, 'Fine', 'Ok', NULL), (5, 'Spam', 'Buy', NULL)",
];

pub(crate) struct Reviews {
    pub(crate) service: Service,
    router: Router,
    _dir: tempfile::TempDir,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    /// The body without what differs from request to request.
    pub(crate) fn facts(&self) -> Value {
        let mut body = self.json();
        let body = body.as_object_mut().unwrap();
        assert_eq!(
            body.remove("request_id").unwrap().as_str().unwrap().len(),
            16
        );
        assert_eq!(
            body.remove("generated_at").unwrap().as_str().unwrap().len(),
            19
        );
        Value::Object(body.clone())
    }
}

impl Reviews {
    pub(crate) async fn new() -> Reviews {
        let dir = tempfile::tempdir().unwrap();
        let database = format!("sqlite:{}", dir.path().join("reviews.db").display());
        let flags = Flags::new(([127, 0, 0, 1], 0).into(), database);
        let ready = run::prepare(REVIEWS, &flags, Some(SECRET.to_owned()))
            .await
            .unwrap();
        let service = ready.service().clone();
        let mut tx = service.database().write().await.unwrap();
        for rows in ROWS {
            sqlx::query(*rows).execute(&mut *tx).await.unwrap();
        }
        tx.commit().await.unwrap();
        let router = service.router(extracted_reviews::routes());
        Reviews {
            service,
            router,
            _dir: dir,
        }
    }

    pub(crate) fn plant(&self, defect: Option<Defect>) {
        self.service.defects().set(defect);
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            text,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap())
            .await
    }

    /// The ids of a product's reviews, in their order.
    pub(crate) async fn ids(&self, product: i64) -> Vec<i64> {
        let answer = self.get(&format!("/api/products/{product}/reviews")).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let reviews = answer.json()["reviews"].as_array().unwrap().clone();
        reviews
            .iter()
            .map(|review| review["id"].as_i64().unwrap())
            .collect()
    }

    /// Posts as user 31, or as nobody, under an idempotency key if there is one.
    pub(crate) async fn post(
        &self,
        path: &str,
        login: bool,
        key: Option<&str>,
        body: &str,
    ) -> Answer {
        let mut request = Request::post(path);
        if login {
            request = request.header("x-outgrow-identity", identity());
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        self.send(request.body(Body::from(body.to_owned())).unwrap())
            .await
    }

    /// The same as user 31, to be taken back.
    pub(crate) async fn dry_run(&self, path: &str, key: Option<&str>, body: &str) -> Answer {
        self.asked_dry(path, "1", key, body).await
    }

    pub(crate) async fn asked_dry(
        &self,
        path: &str,
        dry: &str,
        key: Option<&str>,
        body: &str,
    ) -> Answer {
        let mut request = Request::post(path)
            .header("x-outgrow-identity", identity())
            .header("x-outgrow-dry-run", dry);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        self.send(request.body(Body::from(body.to_owned())).unwrap())
            .await
    }

    /// Runs statements one by one, in one transaction.
    pub(crate) async fn run_sql(&self, statements: &[&'static str]) {
        let mut tx = self.service.database().write().await.unwrap();
        for statement in statements {
            sqlx::query(*statement).execute(&mut *tx).await.unwrap();
        }
        tx.commit().await.unwrap();
    }
}

/// Of user 31.
fn identity() -> String {
    let secret = Secret::new(SECRET.as_bytes(), "test").unwrap();
    secret.sign("31", "Flo", "customer", Instant::now().unix() + 60)
}
