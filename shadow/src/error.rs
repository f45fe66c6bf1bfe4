//! What the shadow refuses.

use outgrow_rollout::SliceId;

/// Why a rule, a report or a snapshot was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "`{path}` is no path: {what} at byte {at}; write `$.a.b[*].c`, `status`, `header:NAME` or `css:SELECTOR`"
    )]
    Path {
        path: String,
        at: usize,
        what: &'static str,
    },
    #[error("`{0}` is no CSS selector: {1}")]
    Selector(String, String),
    #[error(
        "`{0}` leaves elements out of pages: it cannot look at values, so write it under `ignore`"
    )]
    OnlyIgnored(String),
    #[error("a rule needs a reason: say why `{0}` may differ")]
    NoReason(String),
    #[error("{0}")]
    Accept(String),
    #[error("a rule is `{{path, reason, until, owner, accept}}`: {0}")]
    Rule(#[source] serde_json::Error),
    #[error("changed rules are `{{config, add, drop}}`: {0}")]
    Changed(#[source] serde_json::Error),
    #[error("no rule is for `{path}`, so none can be dropped; the rules are for {known}")]
    NoSuchRule { path: String, known: String },
    #[error("`{0}` is no date: write YYYY-MM-DD")]
    Date(String),
    #[error("there is no slice `{0}`")]
    UnknownSlice(SliceId),
    #[error("`{0}` is no format: choose html, md, json, junit or table")]
    Format(String),
    #[error("a side of a replay has no address of a host and a port")]
    NoSide,
    #[error("the login was refused by {to}: {request}: {refused}")]
    Login {
        to: String,
        request: String,
        refused: String,
    },
    #[error(
        "a file of accepted differences is `{{\"accepted\": [{{route, path, kind, reason, until}}]}}`: {0}"
    )]
    Accepted(String),
    #[error("another recorder is at work: {0}")]
    Recording(String),
    #[error("the saved evidence cannot be read; it is gathered anew")]
    Snapshot(#[source] serde_json::Error),
    #[error("the report could not be written")]
    Render(#[source] minijinja::Error),
    #[error("the report could not be written")]
    Json(#[source] serde_json::Error),
}
