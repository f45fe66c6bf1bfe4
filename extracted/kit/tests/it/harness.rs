//! A notebook: the smallest service that reads and writes.

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use extracted_kit::answer::{self, Failure, Stamped};
use extracted_kit::call::Call;
use extracted_kit::clock::Instant;
use extracted_kit::database::Schema;
use extracted_kit::defects::Defect;
use extracted_kit::flags::Flags;
use extracted_kit::identity::Secret;
use extracted_kit::run::{self, ServiceSpec};
use extracted_kit::service::Service;
use extracted_kit::write::{Begun, Write};
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

pub(crate) const SECRET: &str = "a secret for the tests only";

pub(crate) const NOTEBOOK: ServiceSpec = ServiceSpec {
    name: "notebook",
    build: "notebook-1",
    schema: Schema {
        create: &["CREATE TABLE IF NOT EXISTS note (
            id INTEGER PRIMARY KEY AUTOINCREMENT, author INTEGER NOT NULL, text TEXT NOT NULL)"],
        probe: &["SELECT id, author, text FROM note LIMIT 0"],
    },
    routes,
};

fn routes() -> Router<Service> {
    Router::new().route("/notes", get(read).post(write))
}

async fn read(State(service): State<Service>) -> Result<Response, Failure> {
    let mut tx = service.database().read().await?;
    let rows: Vec<(String,)> = sqlx::query_as("SELECT text FROM note ORDER BY id")
        .fetch_all(&mut *tx)
        .await?;
    let notes: Vec<_> = rows.into_iter().map(|(text,)| text).collect();
    answer::json(StatusCode::OK, &Stamped::now(json!({ "notes": notes })))
}

async fn write(State(service): State<Service>, call: Call) -> Result<Response, Failure> {
    let author = call.caller()?.user_id;
    let body: Value = call.json()?;
    let text = body["text"]
        .as_str()
        .ok_or_else(|| Failure::unprocessable("text is missing"))?;
    let mut write = match Write::begin(&service, &call).await? {
        Begun::Replayed(answer) => return Ok(answer),
        Begun::Fresh(write) => write,
    };
    let (id,): (i64,) =
        sqlx::query_as("INSERT INTO note (author, text) VALUES (?, ?) RETURNING id")
            .bind(author)
            .bind(text)
            .fetch_one(write.rows())
            .await?;
    write.event("note-written", &json!({ "note": id })).await?;
    // After the rows and the event, to show that both go when the write fails late.
    if text == "too late" {
        return Err(Failure::unprocessable("too late"));
    }
    let location = Some(format!("/notes/{id}"));
    write
        .commit(
            StatusCode::CREATED,
            location,
            &Stamped::now(json!({ "id": id })),
        )
        .await
}

/// A notebook on a fresh file.
pub(crate) struct Notebook {
    pub(crate) service: Service,
    router: Router,
    pub(crate) dir: tempfile::TempDir,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }
}

pub(crate) fn flags(dir: &tempfile::TempDir) -> Flags {
    let database = format!("sqlite:{}", dir.path().join("notes.db").display());
    Flags::new(([127, 0, 0, 1], 0).into(), database)
}

impl Notebook {
    pub(crate) async fn new() -> Notebook {
        Notebook::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Flags)) -> Notebook {
        let dir = tempfile::tempdir().unwrap();
        let mut flags = flags(&dir);
        change(&mut flags);
        let ready = run::prepare(NOTEBOOK, &flags, Some(SECRET.to_owned()))
            .await
            .unwrap();
        let service = ready.service().clone();
        let router = service.router(routes());
        Notebook {
            service,
            router,
            dir,
        }
    }

    pub(crate) async fn with_defect(defect: Defect) -> Notebook {
        Notebook::with(|flags| flags.defect = Some(defect)).await
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

    /// Writes a note as user 7, under `key` if there is one.
    pub(crate) async fn note(&self, text: &str, key: Option<&str>) -> Answer {
        self.note_as(&identity("7"), text, key).await
    }

    pub(crate) async fn note_as(&self, identity: &str, text: &str, key: Option<&str>) -> Answer {
        let mut request = Request::post("/notes").header("x-outgrow-identity", identity);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        self.send(
            request
                .body(Body::from(json!({ "text": text }).to_string()))
                .unwrap(),
        )
        .await
    }

    pub(crate) async fn notes(&self) -> Vec<String> {
        serde_json::from_value(self.get("/notes").await.json()["notes"].clone()).unwrap()
    }

    pub(crate) async fn run_sql(&self, sql: &'static str) {
        let mut tx = self.service.database().write().await.unwrap();
        sqlx::query(sql).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    }
}

pub(crate) fn identity(user: &str) -> String {
    let secret = Secret::new(SECRET.as_bytes(), "test").unwrap();
    secret.sign(user, "Ann", "customer", Instant::now().unix() + 60)
}
