//! A catalog with a few products, and a client.

use axum::Router;
use axum::body::Body;
use extracted_catalog::CATALOG;
use extracted_kit::clock::Instant;
use extracted_kit::defects::Defect;
use extracted_kit::flags::Flags;
use extracted_kit::identity::Secret;
use extracted_kit::run;
use extracted_kit::service::Service;
use http::{HeaderMap, Request};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower::ServiceExt as _;

const SECRET: &str = "a secret for the tests only";

/// Five products. Ages, amounts and names are in different orders; 2 and 4 have the same name and
/// amount; 3 has neither description nor weight.
const ROWS: &[&str] = &[
    "INSERT INTO category (id, label, parent_id, sort_order) VALUES
        (1, 'Home', NULL, 2), (2, 'Garden', 1, 1)",
    "INSERT INTO product (id, sku, title, description, category_id, state, is_featured, labels,
        weight_g, created_at, updated_at) VALUES
        (1, 'S1', 'Rake', 'Steel', 2, 'active', 1, 'tool,steel', 900, '2024-01-05T08:00:00Z', '2024-06-05T23:30:00Z'),
        (2, 'S2', 'lamp', 'Warm', 1, 'seasonal', 0, '', 300, '2024-01-04T08:00:00Z', '2024-06-04T08:00:00Z'),
        (3, 'S3', 'Spade', NULL, 2, 'discontinued', 0, 'tool', NULL, '2024-01-03T08:00:00Z', '2024-06-03T08:00:00Z'),
        (4, 'S4', 'lamp', 'Cold', 1, 'active', 0, 'light', 310, '2024-01-05T08:00:00Z', '2024-06-02T08:00:00Z'),
        (5, 'S5', '100% Rake_r', 'Odd', 2, 'active', 0, 'odd', 5, '2024-01-01T08:00:00Z', '2024-06-01T08:00:00Z')",
    "INSERT INTO product_price (product_id, amount_cents, currency) VALUES
        (1, 1290, 'EUR'), (2, 995, 'EUR'), (3, 10000, 'EUR'), (4, 995, 'EUR'), (5, 5, 'EUR')",
];

pub(crate) struct Shop {
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

impl Shop {
    pub(crate) async fn new() -> Shop {
        let dir = tempfile::tempdir().unwrap();
        let database = format!("sqlite:{}", dir.path().join("catalog.db").display());
        let flags = Flags::new(([127, 0, 0, 1], 0).into(), database);
        let ready = run::prepare(CATALOG, &flags, Some(SECRET.to_owned()))
            .await
            .unwrap();
        let service = ready.service().clone();
        let mut tx = service.database().write().await.unwrap();
        for rows in ROWS {
            sqlx::query(*rows).execute(&mut *tx).await.unwrap();
        }
        tx.commit().await.unwrap();
        let router = service.router(extracted_catalog::routes());
        Shop {
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

    /// `GET` of a version that the client may have.
    pub(crate) async fn get_unless(&self, path: &str, etag: &str) -> Answer {
        let request = Request::get(path).header("if-none-match", etag);
        self.send(request.body(Body::empty()).unwrap()).await
    }

    /// The ids of a list of products, in its order.
    pub(crate) async fn ids(&self, query: &str) -> Vec<i64> {
        let answer = self.get(&format!("/api/products{query}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let products = answer.json()["products"].as_array().unwrap().clone();
        products
            .iter()
            .map(|product| product["id"].as_i64().unwrap())
            .collect()
    }

    /// Changes a price as user 3 of some role; `None` is not logged in.
    pub(crate) async fn put_price(&self, id: &str, role: Option<&str>, body: &str) -> Answer {
        let mut request = Request::put(format!("/api/products/{id}/price"));
        if let Some(role) = role {
            let secret = Secret::new(SECRET.as_bytes(), "test").unwrap();
            let header = secret.sign("3", "Sam", role, Instant::now().unix() + 60);
            request = request.header("x-outgrow-identity", header);
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
