//! Spans of requests, told to a collector by OTLP over HTTP.
//!
//! A core writes spans in protobuf into a block of its own and hands whole blocks to one thread that
//! sends them. No request waits for that thread: when its queue is full, the block's spans are
//! lost, and counted. Which attributes spans have is in `docs/config.md`.

mod collector;
mod exporter;
mod proto;
mod write;

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::{HeaderName, HeaderValue, StatusCode, Uri};
use outgrow_rollout::SpanFigures;
use tokio::sync::mpsc::{Sender, channel};

use crate::answer::upstream_code;
use crate::error::UpstreamError;
use crate::pool::{Lent, Outgoing};
use crate::reply::Reply;
use crate::slice::Slice;
use crate::trace::{self, Share};
use crate::trail::{Ending, Trail};
use crate::upstreams::Service;
use crate::upstreams::address::Address;
use collector::Collector;
pub(crate) use exporter::{Exporter, LAST};

/// A block is handed over when it has this many bytes: a hundred spans or more.
const BLOCK: usize = 64 * 1_024;
/// Room for the span that makes a block full.
const ROOM: usize = BLOCK + 8 * 1_024;
/// Blocks of a core that may wait for the exporter: 1 MB, or some 2,000 spans, as many as the
/// exporters of OpenTelemetry keep by default.
const WAITING_MAX: usize = 16;
/// What is in a block waits no longer than this.
pub(crate) const FLUSH: Duration = Duration::from_secs(1);

/// Which spans are told to whom.
#[derive(Debug, Clone, PartialEq)]
pub struct SpanExport {
    /// As [`endpoint`] makes it.
    pub endpoint: Uri,
    /// Of each export, e.g. an authorization; marked as sensitive, so that nobody prints them.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Authorities for an endpoint over TLS; `None`: those of this machine.
    pub ca: Option<PathBuf>,
    /// Of the traces of which nobody has decided it before, 0.0 to 1.0.
    pub sample: f64,
    /// From a connection to the end of an answer.
    pub timeout: Duration,
    /// Whether spans tell of URLs with their queries.
    pub query: bool,
    /// What this proxy is; `service.name` where nothing else is said.
    pub resource: Vec<(String, String)>,
}

impl SpanExport {
    /// Whether the file that it names can be used as it is now.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        Collector::new(self).map(drop)
    }
}

/// Where traces are taken at a collector of this URL: `/v1/traces`, where it has no path.
///
/// # Errors
/// Says what it lacks.
pub fn endpoint(text: &str) -> Result<Uri, &'static str> {
    let url: Uri = text.parse().map_err(|_| "it is no URL")?;
    let known = matches!(url.scheme_str(), Some("http" | "https"));
    if !known || url.host().is_none_or(str::is_empty) {
        return Err("it is no URL of a host");
    }
    let (Some(scheme), Some(authority), "/") = (url.scheme(), url.authority(), url.path()) else {
        return Ok(url);
    };
    let whole = Uri::builder().scheme(scheme.clone());
    let whole = whole.authority(authority.clone());
    let whole = whole.path_and_query("/v1/traces").build();
    whole.map_err(|_| "it is no URL")
}

/// Spans of a core on their way.
#[derive(Debug)]
struct Block {
    bytes: Vec<u8>,
    spans: u64,
}

/// What has become of spans.
#[derive(Debug)]
pub(crate) struct Tallies {
    /// By core: the exporter was behind. Only the core itself writes its one.
    queue: Box<[AtomicU64]>,
    sent: AtomicU64,
    /// The collector does not want them.
    refused: AtomicU64,
    /// It could not be reached for too long.
    failed: AtomicU64,
}

impl Tallies {
    fn new(cores: usize) -> Self {
        Self {
            queue: (0..cores).map(|_| AtomicU64::new(0)).collect(),
            sent: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    pub(crate) fn read(&self) -> SpanFigures {
        SpanFigures {
            sent: self.sent.load(Relaxed),
            queue: self.queue.iter().map(|spans| spans.load(Relaxed)).sum(),
            refused: self.refused.load(Relaxed),
            failed: self.failed.load(Relaxed),
        }
    }
}

/// Spans on one core.
#[derive(Debug)]
pub(crate) struct CoreSpans {
    core: usize,
    query: bool,
    pub(crate) share: Share,
    block: RefCell<Vec<u8>>,
    /// One span, until its length is known.
    scratch: RefCell<Vec<u8>>,
    spans: Cell<u64>,
    to: Sender<Block>,
    tallies: Arc<Tallies>,
}

/// All of it, before there are threads.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) cores: Vec<CoreSpans>,
    pub(crate) exporter: Exporter,
    pub(crate) tallies: Arc<Tallies>,
}

/// # Errors
/// Says what is wrong with the authorities.
pub(crate) fn open(settings: &SpanExport, cores: usize) -> Result<Opened, String> {
    let (to, blocks) = channel(cores * WAITING_MAX);
    let tallies = Arc::new(Tallies::new(cores));
    let exporter = Exporter::new(settings, blocks, tallies.clone())?;
    let core = |core| CoreSpans::new(settings, core, to.clone(), tallies.clone());
    Ok(Opened {
        cores: (0..cores).map(core).collect(),
        exporter,
        tallies,
    })
}

impl CoreSpans {
    fn new(settings: &SpanExport, core: usize, to: Sender<Block>, tallies: Arc<Tallies>) -> Self {
        Self {
            core,
            query: settings.query,
            share: Share::new(settings.sample),
            block: RefCell::new(Vec::with_capacity(ROOM)),
            scratch: RefCell::default(),
            spans: Cell::new(0),
            to,
            tallies,
        }
    }

    /// A request has ended.
    pub(crate) fn tell(&self, ending: &Ending, slices: &[Arc<Slice>]) {
        self.put(|to| write::server(to, ending, slices, self.query));
    }

    fn put(&self, span: impl FnOnce(&mut Vec<u8>)) {
        let mut scratch = self.scratch.borrow_mut();
        scratch.clear();
        span(&mut scratch);
        let mut block = self.block.borrow_mut();
        proto::bytes(&mut block, write::SPANS, &scratch);
        self.spans.set(self.spans.get() + 1);
        if block.len() >= BLOCK {
            drop(block);
            self.flush();
        }
    }

    /// Hands over what there is.
    pub(crate) fn flush(&self) {
        let spans = self.spans.take();
        if spans == 0 {
            return;
        }
        let Ok(place) = self.to.try_reserve() else {
            // The same block begins anew.
            self.block.borrow_mut().clear();
            let lost = &self.tallies.queue[self.core];
            lost.store(lost.load(Relaxed).wrapping_add(spans), Relaxed);
            return;
        };
        let bytes = self.block.replace(Vec::with_capacity(ROOM));
        place.send(Block { bytes, spans });
    }
}

impl Drop for CoreSpans {
    fn drop(&mut self) {
        self.flush();
    }
}

/// One try at an upstream: a span of its own below the request's. Told of when it ends, at the head of
/// an answer, or is given up.
#[derive(Debug)]
pub(crate) struct Try {
    trail: Rc<Trail>,
    id: u64,
    begun: Instant,
    /// As this upstream is asked.
    target: Uri,
    service: Arc<Service>,
    to: Address,
    /// How many were before it.
    before: u32,
    end: End,
}

/// How a try ended.
#[derive(Debug)]
enum End {
    Answered(StatusCode, bool),
    Failed(&'static str),
    /// The client has left.
    Dropped,
}

impl Try {
    /// A try that begins now; the upstream learns of its span. `None` where nobody is told of this
    /// request.
    pub(crate) fn begin(
        out: &mut Outgoing,
        (service, to): (&Arc<Service>, &Address),
        before: u32,
    ) -> Option<Box<Self>> {
        let trail = out.told.as_ref()?;
        let own = trail.span.as_ref()?.id;
        let id = trail.dice();
        trace::hand_on(&mut out.parts.headers, own, id);
        Some(Box::new(Self {
            trail: trail.clone(),
            id,
            begun: Instant::now(),
            target: out.parts.uri.clone(),
            service: service.clone(),
            to: to.clone(),
            before,
            end: End::Dropped,
        }))
    }

    pub(crate) fn ended(&mut self, sent: &Result<(Reply<()>, Lent), UpstreamError>) {
        self.end = match sent {
            Ok((response, lent)) => End::Answered(response.status(), lent.has_failed(response)),
            Err(error) => End::Failed(upstream_code(error)),
        };
    }
}

impl Drop for Try {
    fn drop(&mut self) {
        if let Some(spans) = self.trail.spans() {
            spans.put(|to| write::client(to, self, spans.query));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> SpanExport {
        SpanExport {
            endpoint: endpoint("http://127.0.0.1:4318").unwrap(),
            headers: Vec::new(),
            ca: None,
            sample: 1.0,
            timeout: Duration::from_secs(10),
            query: false,
            resource: Vec::new(),
        }
    }

    #[test]
    fn a_collector_has_one_place_for_traces() {
        let at = |text: &str| endpoint(text).map(|url| url.to_string());
        let whole = "http://tempo:4318/v1/traces";
        for text in ["http://tempo:4318", "http://tempo:4318/", whole] {
            assert_eq!(at(text).as_deref(), Ok(whole));
        }
        let other = "https://api.example/otlp/v1/traces?team=shop";
        assert_eq!(at(other).as_deref(), Ok(other));
        for text in [
            "tempo:4318",
            "/v1/traces",
            "grpc://tempo:4317",
            "http://",
            "",
        ] {
            assert!(at(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_exporter_that_is_behind_costs_spans_and_no_time() {
        let (to, mut blocks) = channel(1);
        let tallies = Arc::new(Tallies::new(1));
        let spans = CoreSpans::new(&settings(), 0, to, tallies.clone());
        for count in [2, 3, 4] {
            for _ in 0..count {
                spans.put(|to| to.extend_from_slice(b"span"));
            }
            spans.flush();
        }
        let block = blocks.try_recv().unwrap();
        assert_eq!((block.bytes.len(), block.spans), (12, 2));
        assert_eq!(tallies.read().queue, 7);
        // There is room again, and what was lost is in no block.
        spans.put(|to| to.extend_from_slice(b"span"));
        drop(spans);
        let block = blocks.try_recv().unwrap();
        assert_eq!((block.bytes.len(), block.spans), (6, 1));
        assert_eq!(tallies.read().queue, 7);
    }
}
