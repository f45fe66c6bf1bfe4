//! A small shop in a folder of its own, and a browser for it.

use axum::Router;
use axum::body::{Body, Bytes};
use http::header::{CONTENT_TYPE, COOKIE, SET_COOKIE};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use legacy_monolith::{Database, Scale, Shop, fill};
use serde_json::Value;
use sqlx::sqlite::SqlitePool;
use tempfile::TempDir;
use tower::ServiceExt as _;

pub(crate) struct TestShop {
    pub(crate) shop: Shop,
    pub(crate) db: SqlitePool,
    pub(crate) url: String,
    _folder: TempDir,
}

impl TestShop {
    pub(crate) async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("shop.db").display());
        let database = Database::open(&url).await.unwrap();
        assert!(fill(&database, 1, &Scale::SMALL).await.unwrap());
        let shop = Shop::new(database, "test-build").await.unwrap();
        let db = SqlitePool::connect(&url).await.unwrap();
        Self {
            shop,
            db,
            url,
            _folder: folder,
        }
    }

    pub(crate) fn anonymous(&self) -> Browser {
        Browser {
            router: self.shop.router(),
            cookies: Vec::new(),
        }
    }

    /// A browser with the cookies of another one, on another router over the same database.
    pub(crate) fn browser_of(shop: &Shop, like: &Browser) -> Browser {
        Browser {
            router: shop.router(),
            cookies: like.cookies.clone(),
        }
    }

    /// A browser in which user `id` has logged in.
    pub(crate) async fn user(&self, id: i64) -> Browser {
        let mut browser = self.anonymous();
        let body = format!(r#"{{"email":"user{id}@shop.example","password":"outgrow-{id}"}}"#);
        let answer = browser.send("POST", "/api/login", &[JSON], body).await;
        assert_eq!(answer.status, StatusCode::OK);
        browser
    }

    pub(crate) async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.db).await.unwrap()
    }

    pub(crate) async fn run(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&self.db).await.unwrap();
    }
}

/// The users with higher ids are customers.
pub(crate) const CUSTOMER: i64 = 30;
pub(crate) const STAFF: i64 = 2;
pub(crate) const JSON: (&str, &str) = ("content-type", "application/json");
pub(crate) const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

#[derive(Clone)]
pub(crate) struct Browser {
    router: Router,
    pub(crate) cookies: Vec<(String, String)>,
}

impl Browser {
    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if !self.cookies.is_empty() {
            let pairs: Vec<String> = self
                .cookies
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            request = request.header(COOKIE, pairs.join("; "));
        }
        let request = request.body(body.into()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        for cookie in parts.headers.get_all(SET_COOKIE) {
            self.keep(cookie.to_str().unwrap());
        }
        let body = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }

    fn keep(&mut self, cookie: &str) {
        let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
        self.cookies.retain(|(known, _)| known != name);
        if !value.is_empty() {
            self.cookies.push((name.to_owned(), value.to_owned()));
        }
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.send("GET", path, &[], Body::empty()).await
    }

    pub(crate) async fn post(&mut self, path: &str, body: Value) -> Answer {
        self.send("POST", path, &[JSON], body.to_string()).await
    }

    pub(crate) async fn put(&mut self, path: &str, body: Value) -> Answer {
        self.send("PUT", path, &[JSON], body.to_string()).await
    }

    pub(crate) async fn form(&mut self, path: &str, body: String) -> Answer {
        self.send("POST", path, &[FORM], body).await
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The JSON body of an answer with this status.
    pub(crate) fn json(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        assert_eq!(self.header(CONTENT_TYPE.as_str()), Some("application/json"));
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The page of an answer with this status.
    pub(crate) fn page(&self, status: u16) -> String {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        assert_eq!(
            self.header(CONTENT_TYPE.as_str()),
            Some("text/html; charset=utf-8")
        );
        self.text()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// The names of the fields of an object, sorted.
pub(crate) fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    keys.sort_unstable();
    keys
}

/// The value of the hidden field `csrf` of the first form on a page.
pub(crate) fn form_token(page: &str) -> String {
    let start = page
        .find("name=\"csrf\" value=\"")
        .expect("a form on the page");
    page[start..].split('"').nth(3).unwrap().to_owned()
}
