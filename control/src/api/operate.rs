//! Endpoints that change something. Each runs to its end even if the client goes away.

use std::collections::BTreeSet;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use outgrow_rollout::{Side, SliceState};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{Answer, read};
use crate::controller::{
    Controller, CutoverReport, FlipReport, FlipRequest, Note, RollbackReport, Settle, StepDone,
    VerifyReport,
};
use crate::error::ControlError;
use crate::ports::Verification;

type Slice = Path<String>;

/// By whom and why; every change may say so.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    #[serde(default)]
    by: Option<String>,
    #[serde(default)]
    reason: Option<String>,
}

impl Said {
    fn note(&self) -> Note {
        Note::new(self.by.as_deref(), self.reason.as_deref())
    }
}

fn said(body: &Bytes) -> Result<Note, super::Failure> {
    read::<Said>(body).map(|said| said.note())
}

pub(super) async fn flip(
    State(controller): State<Controller>,
    Path(name): Slice,
    body: Bytes,
) -> Answer<FlipReport> {
    let request: FlipRequest = read(&body)?;
    let own = controller.clone();
    let run = async move { own.flip(&name, request).await };
    Ok(Json(controller.to_end(run).await?))
}

/// Whoever runs the process carries it out; this only waits for what becomes of it.
pub(super) async fn reload(State(controller): State<Controller>, body: Bytes) -> Answer<Value> {
    let note = said(&body)?;
    let process = controller.ports().process.clone();
    Ok(Json(process.reload(note).await?))
}

/// As a reload.
pub(super) async fn upgrade(State(controller): State<Controller>, body: Bytes) -> Answer<Value> {
    let note = said(&body)?;
    let process = controller.ports().process.clone();
    Ok(Json(process.upgrade(note).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RollbackBody {
    #[serde(default)]
    by: Option<String>,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    to: Option<String>,
}

pub(super) async fn rollback(
    State(controller): State<Controller>,
    Path(name): Slice,
    body: Bytes,
) -> Answer<RollbackReport> {
    let RollbackBody { by, reason, to } = read(&body)?;
    let note = Note::new(by.as_deref(), reason.as_deref());
    let own = controller.clone();
    let run = async move { own.rollback(&name, to.as_deref(), note).await };
    Ok(Json(controller.to_end(run).await?))
}

pub(super) async fn freeze(
    State(controller): State<Controller>,
    Path(name): Slice,
    body: Bytes,
) -> Answer<SliceState> {
    let note = said(&body)?;
    Ok(Json(controller.freeze(&name, note).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SwitchBody {
    on: bool,
    by: Option<String>,
    reason: Option<String>,
}

pub(super) async fn maintenance(
    State(controller): State<Controller>,
    Path(name): Slice,
    body: Bytes,
) -> Answer<SliceState> {
    let SwitchBody { on, by, reason } = read(&body)?;
    let note = Note::new(by.as_deref(), reason.as_deref());
    Ok(Json(controller.maintenance(&name, on, note).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MirroringBody {
    on: bool,
    /// Those of which something was stopped; without, all of the slice.
    #[serde(default)]
    routes: BTreeSet<String>,
    by: Option<String>,
    reason: Option<String>,
}

pub(super) async fn mirroring(
    State(controller): State<Controller>,
    Path(name): Slice,
    body: Bytes,
) -> Answer<SliceState> {
    let body: MirroringBody = read(&body)?;
    let note = Note::new(body.by.as_deref(), body.reason.as_deref());
    if body.routes.is_empty() {
        return Ok(Json(controller.mirroring(&name, body.on, note).await?));
    }
    if !body.on {
        let text = "routes are stopped by the tripwire and by dry runs only; stop the slice, or \
                    give the route `sample = 0` in its config";
        return Err(ControlError::Usage(text.to_owned()).into());
    }
    let state = controller.resume_routes(&name, body.routes, note).await?;
    Ok(Json(state))
}

pub(super) async fn unfreeze(
    State(controller): State<Controller>,
    Path(name): Slice,
    body: Bytes,
) -> Answer<SliceState> {
    let note = said(&body)?;
    Ok(Json(controller.unfreeze(&name, note).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleBody {
    path: String,
    reason: String,
    #[serde(default)]
    until: Option<String>,
    #[serde(default)]
    owner: Option<String>,
    /// What it accepts; anything where nothing is said. The shadow reads it.
    #[serde(default)]
    accept: Option<Value>,
    #[serde(default)]
    by: Option<String>,
}

pub(super) async fn add_rule(
    State(controller): State<Controller>,
    Path(name): Slice,
    body: Bytes,
) -> Answer<Value> {
    let rule: RuleBody = read(&body)?;
    if rule.reason.trim().is_empty() {
        let text = "a rule needs a `reason`; it hides differences".to_owned();
        return Err(ControlError::Usage(text).into());
    }
    let note = Note::new(rule.by.as_deref(), Some(&rule.reason));
    let mut value = json!({"path": rule.path, "reason": rule.reason});
    for (key, given) in [
        ("until", rule.until.map(Value::from)),
        ("owner", rule.owner.map(Value::from)),
        ("accept", rule.accept),
    ] {
        if let Some(given) = given {
            value[key] = given;
        }
    }
    let own = controller.clone();
    let run = async move { own.add_rule(&name, value, note).await };
    Ok(Json(controller.to_end(run).await?))
}

pub(super) async fn reset_shadow(
    State(controller): State<Controller>,
    Path(name): Slice,
    body: Bytes,
) -> Answer<Value> {
    let note = said(&body)?;
    let own = controller.clone();
    let run = async move { own.reset_shadow(&name, note).await };
    controller.to_end(run).await?;
    Ok(Json(json!({"reset": true})))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordBody {
    recorder: String,
}

/// Changes nothing of the slice, so there is no journal entry; the lines have no secrets.
pub(super) async fn record(
    State(controller): State<Controller>,
    Path(name): Slice,
    body: Bytes,
) -> Answer<Value> {
    let slice = controller.known(&name)?;
    let RecordBody { recorder } = read(&body)?;
    let shadow = &controller.ports().shadow;
    let fetched = shadow.record(&slice, &recorder);
    Ok(Json(fetched.map_err(ControlError::Port)?))
}

/// Changes nothing, so there is no journal entry. The shadow reads what is asked.
pub(super) async fn what_if(
    State(controller): State<Controller>,
    Path(name): Slice,
    body: Bytes,
) -> Answer<Value> {
    let changed: Value = read(&body)?;
    Ok(Json(controller.what_if(&name, changed).await?))
}

pub(super) async fn sync_start(
    State(controller): State<Controller>,
    Path(name): Slice,
    body: Bytes,
) -> Answer<SliceState> {
    let note = said(&body)?;
    let own = controller.clone();
    let run = async move { own.sync_start(&name, note).await };
    Ok(Json(controller.to_end(run).await?))
}

pub(super) async fn sync_pause(
    State(controller): State<Controller>,
    Path(name): Slice,
    body: Bytes,
) -> Answer<SliceState> {
    let note = said(&body)?;
    let own = controller.clone();
    let run = async move { own.sync_pause(&name, note).await };
    Ok(Json(controller.to_end(run).await?))
}

pub(super) async fn sync_resume(
    State(controller): State<Controller>,
    Path(name): Slice,
    body: Bytes,
) -> Answer<SliceState> {
    let note = said(&body)?;
    let own = controller.clone();
    let run = async move { own.sync_resume(&name, note).await };
    Ok(Json(controller.to_end(run).await?))
}

pub(super) async fn sync_another_server(
    State(controller): State<Controller>,
    Path(name): Slice,
    body: Bytes,
) -> Answer<SliceState> {
    let note = said(&body)?;
    let own = controller.clone();
    let run = async move { own.sync_another_server(&name, note).await };
    Ok(Json(controller.to_end(run).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct VerifyBody {
    #[serde(default)]
    share: Option<f64>,
    #[serde(default)]
    resume: bool,
    #[serde(default)]
    by_rows: bool,
    #[serde(default, rename = "by")]
    _by: Option<String>,
    #[serde(default, rename = "reason")]
    _reason: Option<String>,
}

pub(super) async fn sync_verify(
    State(controller): State<Controller>,
    Path(name): Slice,
    body: Bytes,
) -> Answer<VerifyReport> {
    let asked: VerifyBody = read(&body)?;
    let wanted = Verification {
        share: asked.share,
        resume: asked.resume,
        by_rows: asked.by_rows,
        keep: asked.share.is_none(),
    };
    Ok(Json(controller.sync_verify(&name, wanted).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RepairBody {
    #[serde(default)]
    apply: bool,
    #[serde(default)]
    by: Option<String>,
    #[serde(default)]
    reason: Option<String>,
}

pub(super) async fn sync_repair(
    State(controller): State<Controller>,
    Path(name): Slice,
    body: Bytes,
) -> Answer<Value> {
    let RepairBody { apply, by, reason } = read(&body)?;
    let note = Note::new(by.as_deref(), reason.as_deref());
    let own = controller.clone();
    let run = async move { own.sync_repair(&name, apply, note).await };
    Ok(Json(controller.to_end(run).await?))
}

pub(super) async fn sync_resume_events(
    State(controller): State<Controller>,
    Path(name): Slice,
    body: Bytes,
) -> Answer<Value> {
    let note = said(&body)?;
    let own = controller.clone();
    let run = async move { own.sync_resume_events(&name, note).await };
    Ok(Json(controller.to_end(run).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SettleBody {
    /// Needed unless `all` is said.
    #[serde(default)]
    conflict: Option<String>,
    #[serde(default)]
    all: bool,
    take: Side,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    by: Option<String>,
    #[serde(default)]
    reason: Option<String>,
}

pub(super) async fn sync_settle(
    State(controller): State<Controller>,
    Path(name): Slice,
    body: Bytes,
) -> Answer<Value> {
    let body: SettleBody = read(&body)?;
    if body.conflict.is_some() == body.all {
        let what = "name one `conflict`, or say `all`".to_owned();
        return Err(ControlError::Usage(what).into());
    }
    let note = Note::new(body.by.as_deref(), body.reason.as_deref());
    let wanted = Settle {
        conflict: body.conflict,
        take: body.take,
        dry_run: body.dry_run,
    };
    let own = controller.clone();
    let run = async move { own.sync_settle(&name, wanted, note).await };
    Ok(Json(controller.to_end(run).await?))
}

pub(super) async fn sync_close(
    State(controller): State<Controller>,
    Path(name): Slice,
    body: Bytes,
) -> Answer<SliceState> {
    let note = said(&body)?;
    let own = controller.clone();
    let run = async move { own.sync_close(&name, note).await };
    Ok(Json(controller.to_end(run).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReverseBody {
    to: Side,
    #[serde(default)]
    by: Option<String>,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    force: bool,
}

pub(super) async fn sync_reverse(
    State(controller): State<Controller>,
    Path(name): Slice,
    body: Bytes,
) -> Answer<CutoverReport> {
    let ReverseBody {
        to,
        by,
        reason,
        force,
    } = read(&body)?;
    let note = Note::new(by.as_deref(), reason.as_deref());
    let own = controller.clone();
    let run = async move { own.sync_reverse(&name, to, note, force).await };
    Ok(Json(controller.to_end(run).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NextBody {
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    by: Option<String>,
    #[serde(default)]
    reason: Option<String>,
}

pub(super) async fn runbook_next(
    State(controller): State<Controller>,
    Path(name): Slice,
    body: Bytes,
) -> Answer<StepDone> {
    let NextBody {
        dry_run,
        by,
        reason,
    } = read(&body)?;
    let note = Note::new(by.as_deref(), reason.as_deref());
    let own = controller.clone();
    let run = async move { own.runbook_next(&name, dry_run, note).await };
    Ok(Json(controller.to_end(run).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ApproveBody {
    step: String,
    by: String,
    #[serde(default)]
    reason: Option<String>,
}

pub(super) async fn approve(
    State(controller): State<Controller>,
    Path(name): Slice,
    body: Bytes,
) -> Answer<Value> {
    let ApproveBody { step, by, reason } = read(&body)?;
    let note = Note::new(Some(&by), reason.as_deref());
    let own = controller.clone();
    let run = async move { own.approve(&name, &step, note).await };
    Ok(Json(json!({"approved": controller.to_end(run).await?})))
}

pub(super) async fn runbook_abort(
    State(controller): State<Controller>,
    Path(name): Slice,
    body: Bytes,
) -> Answer<RollbackReport> {
    let note = said(&body)?;
    let own = controller.clone();
    let run = async move { own.runbook_abort(&name, note).await };
    Ok(Json(controller.to_end(run).await?))
}
