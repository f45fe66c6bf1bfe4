//! Endpoints of the builds of services.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use outgrow_rollout::{BuildMove, BuildName, Weight};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{Answer, read};
use crate::controller::{BuildsStatus, Controller, Note};
use crate::error::ControlError;

pub(super) async fn all(State(controller): State<Controller>) -> Json<Value> {
    Json(json!({"services": controller.builds()}))
}

pub(super) async fn one(
    State(controller): State<Controller>,
    Path(service): Path<String>,
) -> Answer<BuildsStatus> {
    Ok(Json(controller.builds_status(&service)?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MoveBody {
    /// Needed but for `back`.
    build: Option<String>,
    /// As `25%`, for `weight` alone.
    weight: Option<String>,
    #[serde(default)]
    force: bool,
    by: Option<String>,
    reason: Option<String>,
}

impl MoveBody {
    fn build(&self) -> Result<BuildName, ControlError> {
        let text = self.build.as_deref();
        let text = text.ok_or_else(|| ControlError::Usage("name a `build`".to_owned()))?;
        BuildName::new(text).map_err(|error| ControlError::Usage(error.to_string()))
    }

    fn weight(&self) -> Result<Weight, ControlError> {
        let text = self.weight.as_deref().unwrap_or_default();
        Weight::from_percent(text).map_err(|error| ControlError::Usage(error.to_string()))
    }
}

pub(super) async fn change(
    State(controller): State<Controller>,
    Path((service, verb)): Path<(String, String)>,
    body: Bytes,
) -> Answer<BuildsStatus> {
    let body: MoveBody = read(&body)?;
    let wanted = match verb.as_str() {
        "switch" => BuildMove::Switch(body.build()?),
        "weight" => BuildMove::Weight(body.build()?, body.weight()?),
        "drain" => BuildMove::Drain(body.build()?),
        "back" => BuildMove::Back,
        _ => return Err(super::Failure::no_endpoint()),
    };
    let note = Note::new(body.by.as_deref(), body.reason.as_deref());
    let own = controller.clone();
    let run = async move { own.move_builds(&service, wanted, body.force, note).await };
    Ok(Json(controller.to_end(run).await?))
}
