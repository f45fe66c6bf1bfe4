//! Why control refused or failed, and what the caller can do about it.

use outgrow_rollout::{GateResult, IllegalBuild, IllegalMove, Revision};
use serde_json::{Value, json};

use crate::controller::CutoverReport;
use crate::ports::PortError;

pub type Result<T> = std::result::Result<T, ControlError>;

/// Why the store could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the store `{0}` is no `sqlite:FILE` address")]
    Address(String),
    #[error("the store `{path}` cannot be opened; check the path and its permissions")]
    Open {
        path: String,
        #[source]
        source: sqlx::Error,
    },
    #[error("the store is locked by another program; end it, or wait and try again")]
    Locked(#[source] sqlx::Error),
    #[error("the store is damaged ({0}); restore it from a backup")]
    Corrupt(String),
    #[error("`{0}` is a database, but no store of outgrow; give `[control] store` another file")]
    Foreign(String),
    #[error(
        "the store was made by a newer outgrow (schema {found}, this one knows {known}); \
         upgrade this one"
    )]
    Newer { found: i64, known: i64 },
    #[error("the state of slice `{slice}` in the store cannot be read ({why})")]
    Unreadable { slice: String, why: String },
    #[error("the state moved to revision {actual} meanwhile; look again and decide anew")]
    Moved { actual: Revision },
    #[error(
        "another outgrow ({holder}) controls this store; stop it first, or wait until its lease \
         lapses"
    )]
    Held { holder: String },
    #[error("the store failed")]
    Database(#[source] sqlx::Error),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let code = error
            .as_database_error()
            .and_then(sqlx::error::DatabaseError::code)
            .and_then(|code| code.parse::<i64>().ok())
            // The lower byte of an extended code is the primary code.
            .map(|code| code & 0xff);
        match code {
            Some(5 | 6) => Self::Locked(error),
            Some(11 | 26) => Self::Corrupt(error.to_string()),
            _ => Self::Database(error),
        }
    }
}

/// Everything that an operation of the controller can end in, other than success.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("there is no {what} `{name}`")]
    NotFound {
        what: &'static str,
        name: String,
        hint: String,
    },
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Illegal(#[from] IllegalMove),
    #[error("{0}")]
    Build(#[from] IllegalBuild),
    #[error("step `{step}` is blocked by {}", blockers(gates))]
    Gate {
        step: String,
        gates: Vec<GateResult>,
    },
    #[error("step `{step}` lacks evidence: {}", blockers(gates))]
    Inconclusive {
        step: String,
        gates: Vec<GateResult>,
    },
    #[error("slice `{slice}` is busy with {what}; wait for it, or abort it")]
    Busy { slice: String, what: String },
    #[error("`{service}` waits for {what}; try again when that is over")]
    Occupied { service: String, what: String },
    #[error("the revision is {actual}, not {expected}; look again and decide anew")]
    Revision {
        expected: Revision,
        actual: Revision,
    },
    #[error("{what} took longer than {limit}")]
    Timeout { what: String, limit: String },
    #[error("the cutover took itself back: {}", .0.why.as_deref().unwrap_or("unknown"))]
    Aborted(Box<CutoverReport>),
    /// The preflight of the tables found a reason not to begin.
    #[error(transparent)]
    Refused(PortError),
    #[error(transparent)]
    Port(#[from] PortError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("outgrow is shutting down")]
    Stopping,
}

/// The kind of an error, as the API tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    pub code: &'static str,
    pub status: u16,
}

impl ControlError {
    /// One function decides how errors look outside.
    #[must_use]
    pub fn kind(&self) -> Kind {
        let (code, status) = match self {
            Self::NotFound { .. } => ("not-found", 404),
            Self::Usage(_) => ("usage", 400),
            Self::Illegal(_) | Self::Build(_) | Self::Refused(_) => ("illegal", 422),
            Self::Gate { .. } => ("gate", 412),
            Self::Inconclusive { .. } => ("inconclusive", 424),
            Self::Busy { .. }
            | Self::Occupied { .. }
            | Self::Revision { .. }
            | Self::Store(StoreError::Moved { .. } | StoreError::Held { .. }) => ("conflict", 409),
            Self::Timeout { .. } => ("timeout", 504),
            Self::Aborted(report) if report.timed_out => ("timeout", 504),
            Self::Aborted(_) => ("internal", 500),
            Self::Port(_) | Self::Store(_) | Self::Stopping => ("internal", 500),
        };
        Kind { code, status }
    }

    /// What to do about it; may be empty where the text says it already.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::NotFound { hint, .. } => hint.clone(),
            Self::Gate { gates, .. } | Self::Inconclusive { gates, .. } => gates
                .iter()
                .find(|gate| !gate.ok)
                .map(|gate| gate.hint.clone())
                .unwrap_or_default(),
            Self::Aborted(_) => {
                "nothing was changed and no write was lost; mend the cause and try again".to_owned()
            }
            _ => String::new(),
        }
    }

    /// Data for programs.
    #[must_use]
    pub fn details(&self) -> Value {
        match self {
            Self::Gate { step, gates } | Self::Inconclusive { step, gates } => {
                json!({"step": step, "gates": gates})
            }
            Self::Revision { expected, actual } => json!({"expected": expected, "actual": actual}),
            Self::Store(StoreError::Moved { actual }) => json!({"actual": actual}),
            Self::Store(StoreError::Held { holder }) => json!({"holder": holder}),
            Self::Busy { what, .. } | Self::Occupied { what, .. } => json!({"running": what}),
            Self::Aborted(report) => json!(report),
            _ => Value::Null,
        }
    }
}

fn blockers(gates: &[GateResult]) -> String {
    let texts: Vec<String> = gates
        .iter()
        .filter(|gate| !gate.ok)
        .map(|gate| format!("{} {} (limit {})", gate.name, gate.value, gate.limit))
        .collect();
    texts.join("; ")
}

/// A text with its sources, for logs and answers: `Display` alone never repeats a source.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}
