//! What is known of a link's events, for people. Written by the publisher, read by anybody.

use serde_json::{Value, json};

use crate::db::now_ms;

#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) running: bool,
    /// Since this process began.
    pub(crate) published: u64,
    /// The last place of the stream that was told.
    pub(crate) position: i64,
    /// Changes of rows that were not told yet, when last looked.
    pub(crate) waiting: u64,
    /// When the oldest of them was made.
    pub(crate) oldest_ms: Option<i64>,
    /// What the publisher waits for, e.g. the broker.
    pub(crate) trouble: Option<String>,
    /// Why it does not go on by itself.
    pub(crate) parked: Option<String>,
}

impl State {
    fn word(&self) -> &'static str {
        match (&self.parked, &self.trouble, self.running) {
            (Some(_), _, _) => "parked",
            (None, _, false) => "stopped",
            (None, Some(_), true) => "waiting",
            (None, None, true) => "publishing",
        }
    }

    pub(crate) fn describe(&self) -> Value {
        let lag = self.oldest_ms.map_or(0, |at| now_ms().saturating_sub(at));
        json!({
            "state": self.word(),
            "published": self.published,
            "position": self.position,
            "waiting": self.waiting,
            "lag_ms": lag.max(0),
            "waiting_for": self.trouble,
            "parked": self.parked,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parked_is_said_before_all_else() {
        let mut state = State {
            running: true,
            ..State::default()
        };
        assert_eq!(state.word(), "publishing");
        state.trouble = Some("the broker is away".to_owned());
        assert_eq!(state.word(), "waiting");
        state.running = false;
        assert_eq!(state.word(), "stopped");
        state.parked = Some("too far behind".to_owned());
        assert_eq!(state.word(), "parked");
        assert_eq!(state.describe()["lag_ms"], 0);
    }
}
