//! Who tells of requests: the access log and the exporter of spans. Opened before anybody is served,
//! and ended when the last core is gone and what it had is told.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tracing::warn;

use crate::access::{self, CoreLog, Losses, Writer};
use crate::error::BindError;
use crate::settings::Settings;
use crate::spans::{self, CoreSpans, Exporter, LAST, Tallies};

/// How long the end waits for either of them, which is longer than the exporter takes.
const WRITE_OUT: Duration = Duration::from_secs(2).saturating_add(LAST);

/// What has been opened.
#[derive(Debug)]
pub(crate) struct Telling {
    logs: Vec<CoreLog>,
    spans: Vec<CoreSpans>,
    pub(crate) writer: Option<Writer>,
    pub(crate) exporter: Option<Exporter>,
    pub(crate) losses: Option<Arc<Losses>>,
    pub(crate) tallies: Option<Arc<Tallies>>,
}

/// What one core has of it.
pub(crate) type Tellers = (Option<CoreLog>, Option<CoreSpans>);

impl Telling {
    /// # Errors
    /// What cannot be opened, and why.
    pub(crate) fn open(settings: &Settings) -> Result<Self, BindError> {
        let cores = settings.workers.get();
        let mut opened = Self {
            logs: Vec::new(),
            spans: Vec::new(),
            writer: None,
            exporter: None,
            losses: None,
            tallies: None,
        };
        if let Some(log) = &settings.access_log {
            let losses = Arc::new(Losses::new(cores));
            let refused = |source| {
                let file = log.file.as_ref();
                let path = file.map_or("-".to_owned(), |path| path.display().to_string());
                BindError::AccessLog { path, source }
            };
            let (logs, writer) = access::open(log, &losses).map_err(refused)?;
            opened.logs = logs;
            opened.writer = Some(writer);
            opened.losses = Some(losses);
        }
        if let Some(export) = &settings.spans {
            let spans = spans::open(export, cores).map_err(BindError::Spans)?;
            opened.spans = spans.cores;
            opened.exporter = Some(spans.exporter);
            opened.tallies = Some(spans.tallies);
        }
        Ok(opened)
    }

    /// Each core's part, in their order.
    pub(crate) fn of_cores(&mut self) -> impl Iterator<Item = Tellers> + use<> {
        let mut logs = std::mem::take(&mut self.logs).into_iter();
        let mut spans = std::mem::take(&mut self.spans).into_iter();
        std::iter::repeat_with(move || (logs.next(), spans.next()))
    }
}

/// Waits for a thread that ends by itself. One that cannot, a pipe that nobody reads, keeps nobody
/// from ending.
pub(crate) async fn told(thread: &JoinHandle<()>, what: &str) {
    let done = async {
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        while !thread.is_finished() {
            tick.tick().await;
        }
    };
    if tokio::time::timeout(WRITE_OUT, done).await.is_err() {
        warn!("the last {what} could not be written");
    }
}
