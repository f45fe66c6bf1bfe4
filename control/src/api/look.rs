//! Endpoints that change nothing.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::answer::{Answer, Failure, query};
use crate::controller::{Controller, RunbookView, SliceStatus, Status};
use crate::error::ControlError;
use crate::ports::PortError;
use crate::store::{JournalEntry, Verified};

type Slice = Path<String>;

/// What a port refuses of a question is the asker's mistake.
fn usage(error: PortError) -> Failure {
    ControlError::Usage(error.to_string()).into()
}

pub(super) async fn status(State(controller): State<Controller>) -> Json<Status> {
    Json(controller.status())
}

pub(super) async fn slice(
    State(controller): State<Controller>,
    Path(name): Slice,
) -> Answer<SliceStatus> {
    Ok(Json(controller.slice_status(&name)?))
}

/// Counters of the data plane; whoever wants rates asks twice.
pub(super) async fn figures(State(controller): State<Controller>) -> Json<Value> {
    let data_plane = &controller.ports().data_plane;
    Json(json!({
        "routes": data_plane.routes(),
        "services": data_plane.services(),
        "holds": data_plane.holds(),
    }))
}

pub(super) async fn explain(State(controller): State<Controller>, uri: Uri) -> Answer<Value> {
    let pairs: Vec<(String, String)> = query(&uri)?;
    let (mut method, mut target, mut headers) = (None, None, Vec::new());
    for (key, value) in pairs {
        match key.as_str() {
            "method" => method = Some(value),
            "target" => target = Some(value),
            "h" => {
                let (name, value) = value.split_once(':').ok_or_else(|| {
                    ControlError::Usage(format!("`h={value}` is no header; use h=name:value"))
                })?;
                headers.push((name.trim().to_owned(), value.trim().to_owned()));
            }
            other => {
                let text = format!("`{other}` is unknown here; use method, target and h");
                return Err(ControlError::Usage(text).into());
            }
        }
    }
    let (Some(method), Some(target)) = (method, target) else {
        let text = "give `method` and `target`, e.g. ?method=GET&target=/api/products/7";
        return Err(ControlError::Usage(text.to_owned()).into());
    };
    let data_plane = &controller.ports().data_plane;
    let told = data_plane.explain(&method, &target, &headers);
    Ok(Json(told.map_err(usage)?))
}

pub(super) async fn shadow(State(controller): State<Controller>) -> Json<Value> {
    let shadow = &controller.ports().shadow;
    let all: Map<String, Value> = controller
        .slices()
        .into_iter()
        .map(|id| {
            let mut evidence = json!(shadow.evidence(&id));
            let state = controller
                .slice_status(id.as_str())
                .map(|status| status.state);
            if let (Some(fields), Ok(state)) = (evidence.as_object_mut(), state) {
                if let Some(reason) = state.unmirrored {
                    fields.insert("unmirrored".to_owned(), Value::String(reason));
                }
                let routes = state.unmirrored_routes;
                if !routes.is_empty() {
                    fields.insert("unmirrored_routes".to_owned(), json!(routes));
                }
            }
            (id.to_string(), evidence)
        })
        .collect();
    Json(Value::Object(all))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReportQuery {
    #[serde(default)]
    format: Option<String>,
}

pub(super) async fn report(
    State(controller): State<Controller>,
    Path(name): Slice,
    uri: Uri,
) -> Result<Response, Failure> {
    let asked: ReportQuery = query(&uri)?;
    let slice = controller.known(&name)?;
    let format = asked.format.as_deref().unwrap_or("json");
    let kind = match format {
        "html" => "text/html; charset=utf-8",
        "md" => "text/markdown; charset=utf-8",
        "json" => "application/json",
        "junit" => "application/xml",
        other => {
            let text = format!("`{other}` is no format; use html, md, json or junit");
            return Err(ControlError::Usage(text).into());
        }
    };
    let shadow = &controller.ports().shadow;
    let body = shadow.report(&slice, format).map_err(ControlError::Port)?;
    Ok(([(CONTENT_TYPE, kind)], body).into_response())
}

pub(super) async fn pair(
    State(controller): State<Controller>,
    Path(id): Path<String>,
) -> Answer<Value> {
    let found = controller.ports().shadow.mismatch(&id);
    let found = found.ok_or_else(|| ControlError::NotFound {
        what: "stored pair",
        name: id,
        hint: "only the latest examples of each difference are kept; see the report".to_owned(),
    })?;
    Ok(Json(found))
}

pub(super) async fn rules(
    State(controller): State<Controller>,
    Path(name): Slice,
) -> Answer<Value> {
    let slice = controller.known(&name)?;
    let rules = controller.ports().shadow.rules(&slice);
    Ok(Json(rules.map_err(ControlError::Port)?))
}

pub(super) async fn sync_all(State(controller): State<Controller>) -> Answer<Value> {
    let all: Result<Vec<Value>, ControlError> = controller
        .slices()
        .iter()
        .map(|id| controller.sync_status(id.as_str()))
        .collect();
    Ok(Json(json!({"slices": all?})))
}

pub(super) async fn sync(State(controller): State<Controller>, Path(name): Slice) -> Answer<Value> {
    Ok(Json(controller.sync_status(&name)?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConflictsQuery {
    #[serde(default)]
    limit: Option<u32>,
    #[serde(default)]
    page: Option<u32>,
}

pub(super) async fn conflicts(
    State(controller): State<Controller>,
    Path(name): Slice,
    uri: Uri,
) -> Answer<Value> {
    let ConflictsQuery { limit, page } = query(&uri)?;
    let found = controller.sync_conflicts(&name, limit, page).await?;
    Ok(Json(found))
}

pub(super) async fn preflight(
    State(controller): State<Controller>,
    Path(name): Slice,
) -> Answer<Value> {
    Ok(Json(controller.sync_preflight(&name).await?))
}

pub(super) async fn runbook(
    State(controller): State<Controller>,
    Path(name): Slice,
) -> Answer<RunbookView> {
    Ok(Json(controller.runbook(&name)?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct JournalQuery {
    #[serde(default)]
    slice: Option<String>,
    #[serde(default)]
    limit: Option<i64>,
    #[serde(default)]
    after: Option<i64>,
}

pub(super) async fn journal(
    State(controller): State<Controller>,
    uri: Uri,
) -> Answer<Vec<JournalEntry>> {
    let JournalQuery {
        slice,
        limit,
        after,
    } = query(&uri)?;
    let entries = controller.journal(slice.as_deref(), after, limit).await?;
    Ok(Json(entries))
}

pub(super) async fn verify_journal(State(controller): State<Controller>) -> Answer<Verified> {
    Ok(Json(controller.verify_journal().await?))
}
