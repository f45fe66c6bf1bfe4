//! How long a connection is waited on, and who is waited for.
//!
//! An upstream is to answer within its time; but not while its request is still on the way up. So
//! the time begins anew when the upload is through, and with each part of it that the upstream takes;
//! and while the client is awaited no time of the upstream runs, but the client's.

use std::time::{Duration, Instant};

use super::WireError;

/// Where nothing is to end a wait.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3_600);

/// The times of one request, and how much it may bring.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// To the head of the answer, where the request is sent at once.
    pub(crate) until: Instant,
    /// To it from the end of an upload, and between two parts of one that the upstream takes.
    pub(crate) patience: Duration,
    /// Of everything.
    pub(crate) end: Option<Instant>,
    /// Between two parts of an upload that the client sends; none waits for ever.
    pub(crate) upload_idle: Option<Duration>,
    /// Bytes of an upload.
    pub(crate) body_max: u64,
}

impl Times {
    /// All of it until then.
    pub(crate) fn until(until: Instant) -> Self {
        Self {
            until,
            patience: FOR_EVER,
            end: Some(until),
            upload_idle: None,
            body_max: u64::MAX,
        }
    }
}

/// What an upload waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pause {
    /// Nothing: no more of it will be sent.
    Over,
    Client,
    Upstream,
}

/// Who is waited for until a head comes.
#[derive(Debug)]
pub(super) struct Watch<'a> {
    times: &'a Times,
    last: Pause,
    /// When it last began to wait for something else, or for more of the same.
    since: Option<Instant>,
}

impl<'a> Watch<'a> {
    /// From now on until `times.until`.
    pub(super) fn new(times: &'a Times) -> Self {
        Self {
            times,
            last: Pause::Over,
            since: None,
        }
    }

    /// Until when to wait from now on, where that has changed. Asked when nothing goes on; `moved`: a
    /// part of the upload has gone up meanwhile.
    pub(super) fn look(&mut self, (pause, moved): (Pause, bool)) -> Option<Instant> {
        if self.last == pause && (pause == Pause::Over || !moved) {
            return None;
        }
        self.last = pause;
        let now = Instant::now();
        self.since = Some(now);
        let within = match pause {
            Pause::Client => self.times.upload_idle.unwrap_or(FOR_EVER),
            Pause::Upstream | Pause::Over => self.times.patience,
        };
        let at = now + within;
        Some(self.times.end.map_or(at, |end| end.min(at)))
    }

    /// When the upstream had what it could answer to; none where it was sent at once.
    pub(super) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// What it means that this time is over.
    pub(super) fn passed(&self) -> WireError {
        match self.last {
            Pause::Client => WireError::UploadLate,
            Pause::Upstream | Pause::Over => WireError::Late,
        }
    }
}
