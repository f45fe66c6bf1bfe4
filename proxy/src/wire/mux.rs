//! One HTTP/2 connection to an upstream, shared by the requests of one core.
//!
//! A task of the core drives it (by `h2`); a request's own task sends its body and reads its answer.
//! A request that is dropped is reset, and its connection stays. What the upstream says it has not
//! looked at (`GOAWAY`, `REFUSED_STREAM`) may be sent again, whatever the method.

mod answer;
mod upload;

use std::cell::Cell;
use std::future::{Future as _, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use h2::{Ping, PingPong, Reason};
use http::header::{CONNECTION, HOST, HeaderMap, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, StatusCode, Uri, Version, request};
use tokio::sync::oneshot;
use tokio::time::{sleep, sleep_until, timeout};
use tracing::debug;

use super::times::{Times, Watch};
use super::{HEAD_MAX, Stream, WireError, head};
use crate::inbound::{ClientBody, Hints};
use crate::reply::Reply;
use crate::upstreams::address::Address;
pub(crate) use answer::MuxAnswer;
use upload::Upload;

/// Requests on one connection at a time, where the upstream allows as many. More share the fate of
/// one connection, and wait for one task, for no gain.
const STREAMS_MAX: usize = 100;

/// Bytes that an upstream may send ahead of what the client takes.
const WINDOW: u32 = 256 * 1_024;

/// As much as all streams together: one that nobody reads holds up no other.
const WINDOW_ALL: u32 = STREAMS_MAX as u32 * WINDOW;

/// An upstream with requests that has said nothing for this long is asked whether it is there.
/// Servers of gRPC take more than one ping in five minutes for an attack.
const PING_AFTER: Duration = Duration::from_secs(310);
const PONG_WITHIN: Duration = Duration::from_secs(20);

/// Fields of one connection, which HTTP/2 has no place for (RFC 9113 section 8.2.2).
const NOT_SENT: [HeaderName; 6] = [
    CONNECTION,
    HOST,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// A connection.
#[derive(Debug)]
pub(crate) struct Mux {
    sender: SendRequest<Bytes>,
    safe: bool,
    life: Rc<Life>,
    /// Nothing new is sent on it.
    retired: Cell<bool>,
}

/// What a connection's task and its requests know of it.
#[derive(Debug)]
struct Life {
    closed: Cell<bool>,
    streams: Cell<usize>,
    /// When its last request ended.
    rested: Cell<Instant>,
}

/// A request on a connection, counted until this is dropped.
#[derive(Debug)]
struct Busy(Rc<Life>);

impl Busy {
    fn enter(life: &Rc<Life>) -> Self {
        life.streams.set(life.streams.get() + 1);
        Self(life.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
        self.0.rested.set(Instant::now());
    }
}

/// A request that has no answer.
#[derive(Debug)]
pub(crate) struct Unanswered {
    pub(crate) error: WireError,
    /// The upstream has not looked at it.
    pub(crate) unseen: bool,
    /// The request's body as it was, where all of it is still there.
    pub(crate) body: Option<ClientBody>,
}

impl Mux {
    /// Of a connection that was just made. Bounded by its caller.
    ///
    /// # Errors
    /// What failed.
    pub(crate) async fn new(stream: Stream, safe: bool) -> Result<Self, h2::Error> {
        let mut builder = h2::client::Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW_ALL)
            .max_header_list_size(u32::try_from(HEAD_MAX).unwrap_or(u32::MAX));
        let (sender, mut connection) = builder.handshake(stream).await?;
        let life = Rc::new(Life {
            closed: Cell::new(false),
            streams: Cell::new(0),
            rested: Cell::new(Instant::now()),
        });
        let (pings, (give, given)) = (connection.ping_pong(), oneshot::channel());
        // Owned by the core; ends with the connection, which ends when nobody can send on it any
        // more and the last answer is through.
        tokio::task::spawn_local(drive(connection, life.clone(), given));
        if let Some(mut pings) = pings {
            // What the other side allows comes before its answer to this; and whoever does not
            // speak HTTP/2 is found out before a request is lost on it.
            pings.ping(Ping::opaque()).await?;
            // Refused when the connection has ended already.
            let _ = give.send(pings);
        }
        Ok(Self {
            sender,
            safe,
            life,
            retired: Cell::new(false),
        })
    }

    /// Whether it may be used at all.
    pub(crate) fn is_alive(&self) -> bool {
        !self.retired.get() && !self.life.closed.get()
    }

    /// Whether one request more finds room on it.
    pub(crate) fn takes(&self) -> bool {
        let most = self.sender.current_max_send_streams().min(STREAMS_MAX);
        self.is_alive() && self.streams() < most
    }

    pub(crate) fn streams(&self) -> usize {
        self.life.streams.get()
    }

    /// Since when it has no request; `None` while it has any.
    pub(crate) fn rested(&self) -> Option<Instant> {
        (self.streams() == 0).then(|| self.life.rested.get())
    }

    /// Nothing new is sent on it. What is under way ends.
    pub(crate) fn retire(&self) {
        self.retired.set(true);
    }

    /// Sends a request, and waits for the head of its answer. Cancel safe: a request that is dropped
    /// is reset.
    ///
    /// # Errors
    /// [`WireError::Late`] and [`WireError::UploadLate`] by `times`; else what failed.
    pub(crate) async fn ask(
        &self,
        (parts, body): (&request::Parts, Option<ClientBody>),
        to: &Address,
        times: &Times,
        (fields_max, hints): (usize, Option<&Hints>),
    ) -> Result<(Reply<()>, MuxAnswer), Unanswered> {
        let head = match self.head(parts, to) {
            Ok(head) => head,
            Err(error) => return Err(Unanswered::unsent(error, body)),
        };
        let mut late = pin!(sleep_until(times.until.into()));
        let mut sender = self.sender.clone();
        let ready = poll_fn(|cx| {
            let ready = sender.poll_ready(cx);
            match ready.is_pending() && late.as_mut().poll(cx).is_ready() {
                true => Poll::Ready(Err(WireError::Late)),
                false => ready.map(|ready| ready.map_err(WireError::Stream)),
            }
        });
        if let Err(error) = ready.await {
            return Err(self.unsent(error, body));
        }
        let (answer, stream) = match sender.send_request(head, body.is_none()) {
            Ok(sent) => sent,
            Err(error) => return Err(self.unsent(WireError::Stream(error), body)),
        };
        let busy = Busy::enter(&self.life);
        let apart = parts.extensions.get().cloned();
        let mut upload = body.map(|body| Upload::new(stream, (body, times.body_max), apart));
        let mut watch = Watch::new(times);
        let mut answer = answer;
        let answered = poll_fn(|cx| {
            // Both ways at once: an answer may come before the request is through.
            if let Some(upload) = &mut upload
                && let Poll::Ready(Err(error)) = upload.poll(cx)
            {
                return Poll::Ready(Err(error));
            }
            if let Some(hints) = hints {
                while let Poll::Ready(Some(Ok(mut hint))) = answer.poll_informational(cx) {
                    let status = hint.status();
                    if status != StatusCode::CONTINUE {
                        hints.tell(status, hint.headers_mut());
                    }
                }
            }
            match Pin::new(&mut answer).poll(cx) {
                Poll::Ready(answered) => Poll::Ready(answered.map_err(WireError::Stream)),
                Poll::Pending => {
                    let pause = upload.as_mut().map(Upload::pause);
                    if let Some(until) = pause.and_then(|pause| watch.look(pause)) {
                        late.as_mut().reset(until.into());
                    }
                    late.as_mut().poll(cx).map(|()| Err(watch.passed()))
                }
            }
        });
        match answered.await {
            Ok(answer) => {
                let upload = upload.filter(|upload| !upload.is_through());
                let upload = upload.map(|upload| (upload, times.upload_idle));
                let head = parts.method == Method::HEAD;
                let answer = (answer, watch.since());
                MuxAnswer::new(answer, head, (busy, upload), fields_max).map_err(Unanswered::of)
            }
            Err(error) => Err(self.unanswered(error, upload)),
        }
    }

    /// The head as HTTP/2 has it.
    fn head(&self, parts: &request::Parts, to: &Address) -> Result<Request<()>, WireError> {
        let said = parts.headers.get(HOST).map(|host| host.as_bytes());
        let host = said.filter(|host| !host.is_empty());
        let authority = Authority::try_from(host.unwrap_or(to.host().as_bytes()));
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(if self.safe {
            Scheme::HTTPS
        } else {
            Scheme::HTTP
        });
        uri.authority = Some(authority.map_err(|_| WireError::Head("its host"))?);
        let target = parts.uri.path_and_query().cloned();
        uri.path_and_query = Some(target.unwrap_or(PathAndQuery::from_static("/")));
        let mut request = Request::new(());
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = Uri::from_parts(uri).map_err(|_| WireError::Head("its target"))?;
        *request.version_mut() = Version::HTTP_2;
        let mut fields = parts.headers.clone();
        strip(&mut fields);
        *request.headers_mut() = fields;
        Ok(request)
    }

    /// Of a request that was not sent at all.
    fn unsent(&self, error: WireError, body: Option<ClientBody>) -> Unanswered {
        if !matches!(error, WireError::Late) {
            // Whatever keeps this one from being sent keeps the next one from it, too.
            self.retire();
        }
        Unanswered::unsent(error, body)
    }

    fn unanswered(&self, error: WireError, upload: Option<Upload>) -> Unanswered {
        let mut unseen = false;
        if let WireError::Stream(error) = &error {
            let refused = error.reason() == Some(Reason::REFUSED_STREAM);
            let stops = error.is_go_away() || refused;
            unseen = error.is_remote() && stops;
            if stops || error.is_io() {
                self.retire();
            }
        }
        Unanswered {
            error,
            unseen,
            body: upload.filter(|_| unseen).and_then(Upload::back),
        }
    }
}

impl Unanswered {
    fn of(error: WireError) -> Self {
        Self {
            error,
            unseen: false,
            body: None,
        }
    }

    fn unsent(error: WireError, body: Option<ClientBody>) -> Self {
        Self {
            unseen: !matches!(error, WireError::Late | WireError::Head(_)),
            body,
            error,
        }
    }
}

fn strip(fields: &mut HeaderMap) {
    for name in &NOT_SENT {
        fields.remove(name);
    }
    if fields.get(TE).is_some_and(|te| te != "trailers") {
        fields.remove(TE);
    }
}

/// A connection to its end.
async fn drive(
    mut connection: Connection<Stream, Bytes>,
    life: Rc<Life>,
    pings: oneshot::Receiver<PingPong>,
) {
    tokio::select! {
        ended = &mut connection => match ended {
            Ok(()) => debug!("a connection of HTTP/2 has ended"),
            Err(error) => debug!(%error, "a connection of HTTP/2 broke off"),
        },
        () = silence(pings, &life) => debug!("a connection of HTTP/2 does not answer"),
    }
    life.closed.set(true);
}

/// Ends when the other side is there no more. One without requests is nobody's concern.
async fn silence(pings: oneshot::Receiver<PingPong>, life: &Life) {
    let Ok(mut pings) = pings.await else {
        return std::future::pending().await;
    };
    loop {
        sleep(PING_AFTER).await;
        if life.streams.get() == 0 {
            continue;
        }
        match timeout(PONG_WITHIN, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection's own end says more.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}
