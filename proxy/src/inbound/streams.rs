//! A client that speaks HTTP/2 (RFC 9113). The frames are those of `h2`; each request is a task of the
//! core, which ends when its client resets the stream.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, DATE, EXPECT, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::{Body as _, Frame};
use tokio::time::timeout;
use tracing::debug;

use super::framed::{Framed, Manners};
use super::line::{ClientBody, INTERIM_MAX, Io};
use super::linger;
use super::pulse::{OpenStream, Pulse, Rest, Streams};
use crate::answer::refuse;
use crate::body::Body;
use crate::connection::Ends;
use crate::core::{Core, Peer};
use crate::deadline::{Deadline, earliest};
use crate::error::Refusal;
use crate::headers;
use crate::kinds::{Asked, Kinds};
use crate::stages::answer;

/// Bytes of a head, at the most, counted as RFC 9113 section 6.5.2 does.
const HEAD_MAX: u32 = 64 * 1_024;

/// Bytes that a client may send of one body before they are read.
pub(super) const WINDOW: u32 = 1_024 * 1_024;
/// And of all together: fifteen bodies that no upstream reads hold up no other.
const WINDOW_ALL: u32 = 16 * WINDOW;
/// Requests at once.
const STREAMS_MAX: u32 = 200;
/// Bytes of a hint beside its fields.
const HINT: usize = 16;
/// Bytes of one answer that wait to be sent. A client may open all windows and read nothing of any answer; more
/// than this is slower, too, as soon as several large answers are sent at once.
const UNSENT_MAX: usize = 128 * 1_024;

type Answering = Rc<RefCell<Answerer>>;

/// What of a stream goes down to the client.
#[derive(Debug)]
struct Answerer {
    respond: SendResponse<Bytes>,
    /// The answer proper: nothing interim comes behind it.
    begun: bool,
    /// Bytes of hints, which no window of the client bounds.
    hinted: usize,
}

impl Answerer {
    /// An answer before the answer; of a client that has left it goes nowhere.
    fn interim(&mut self, status: StatusCode, fields: HeaderMap) {
        if self.begun {
            return;
        }
        let mut head = Response::new(());
        *head.status_mut() = status;
        *head.headers_mut() = fields;
        if let Err(failure) = self.respond.send_informational(head) {
            debug!(%failure, "an interim answer is not sent");
        }
    }
}

/// The body of a request.
#[derive(Debug)]
pub(crate) struct StreamBody {
    stream: RecvStream,
    answering: Answering,
    /// The client waits for a word that it is wanted.
    expects: bool,
    data_over: bool,
}

impl StreamBody {
    /// Where hints go.
    pub(super) fn hints(&self) -> StreamHints {
        StreamHints(Rc::downgrade(&self.answering))
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.data_over {
            let data = self.stream.poll_data(cx);
            if data.is_pending() && std::mem::take(&mut self.expects) {
                let mut answering = self.answering.borrow_mut();
                answering.interim(StatusCode::CONTINUE, HeaderMap::new());
            }
            match ready!(data) {
                Some(Ok(data)) => {
                    // What was taken makes room for as much.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                // The client wants no more of it than it has sent (RFC 9113 section 8.1).
                Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) => {
                    return Poll::Ready(None);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.data_over = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx));
        Poll::Ready(match trailers {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) if error.reason() == Some(Reason::NO_ERROR) => None,
            Err(error) => Some(Err(error)),
        })
    }
}

/// Where an upstream's interim answers to a stream's request go.
#[derive(Debug, Clone)]
pub(crate) struct StreamHints(Weak<RefCell<Answerer>>);

impl StreamHints {
    pub(super) fn tell(&self, status: StatusCode, fields: &HeaderMap) {
        let Some(answering) = self.0.upgrade() else {
            return;
        };
        let mut answering = answering.borrow_mut();
        let line = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len();
        answering.hinted += HINT + fields.iter().map(line).sum::<usize>();
        if answering.hinted <= INTERIM_MAX {
            answering.interim(status, fields.clone());
        }
    }
}

/// A client's connection of HTTP/2, of which `read` was read already.
pub(super) async fn converse(core: Rc<Core>, (io, read): (Io, Bytes), peer: Rc<Peer>, ends: Ends) {
    let limits = &core.shared.settings.limits;
    let head_max = u32::try_from(limits.head_max).unwrap_or(HEAD_MAX);
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW_ALL)
        .max_concurrent_streams(STREAMS_MAX)
        .max_send_buffer_size(UNSENT_MAX)
        .max_header_list_size(head_max.min(HEAD_MAX));
    let manners = Rc::new(Manners::default());
    let io = Framed::new(io, read, manners.clone());
    let begun = timeout(limits.head_timeout, builder.handshake(io));
    let ended = match begun.await {
        Err(_) => return debug!("a client did not begin to speak HTTP/2 in time"),
        Ok(Err(failure)) => Err(failure),
        Ok(Ok(connection)) => {
            let manners = manners.clone();
            serve(core.clone(), connection, peer, (ends, manners)).await
        }
    };
    if let Err(failure) = ended {
        debug!(%failure, "a client connection ended early");
    }
    if let Some(io) = manners.given_back() {
        // What it says after its last answer, of windows for example, is not to take that away.
        linger(io, &core.desk, true).await;
    }
}

async fn serve(
    core: Rc<Core>,
    mut connection: Connection<Framed, Bytes>,
    peer: Rc<Peer>,
    (ends, manners): (Ends, Rc<Manners>),
) -> Result<(), h2::Error> {
    let mut left = pin!(ends.leave.cancelled());
    let mut told = false;
    let mut pulse = Pulse::new(manners.clone(), connection.ping_pong());
    let streams = Streams::none();
    let mut rest = Rest::new(streams.clone(), core.shared.settings.limits.keep_alive);
    poll_fn(|cx| {
        if !told && (left.as_mut().poll(cx).is_ready() || rest.poll(cx).is_ready()) {
            told = true;
            // GOAWAY; what is under way ends.
            manners.leave();
            connection.graceful_shutdown();
        }
        loop {
            match connection.poll_accept(cx) {
                Poll::Pending => break,
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Ready(Some(Err(failure))) => return Poll::Ready(Err(failure)),
                Poll::Ready(Some(Ok((request, respond)))) => {
                    let streams = streams.begin();
                    let request = exchange(core.clone(), peer.clone(), (request, respond), streams);
                    // Ends by itself, with its stream, or with the core.
                    drop(tokio::task::spawn_local(request));
                }
            }
        }
        pulse.poll(cx).map(|()| {
            debug!("a client does not answer any more");
            Ok(())
        })
    })
    .await
}

/// One request and its answer.
async fn exchange(
    core: Rc<Core>,
    peer: Rc<Peer>,
    (request, respond): (Request<RecvStream>, SendResponse<Bytes>),
    _open: OpenStream,
) {
    let (mut parts, stream) = request.into_parts();
    headers::trim(&mut parts.headers);
    let head = parts.method == Method::HEAD;
    let answering = Rc::new(RefCell::new(Answerer {
        respond,
        begun: false,
        hinted: 0,
    }));
    let waits = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    let body = ClientBody::Stream(StreamBody {
        expects: parts.headers.get(EXPECT).is_some_and(waits),
        data_over: false,
        stream,
        answering: answering.clone(),
    });
    let answered = if parts.headers.len() > core.shared.settings.limits.headers_max {
        let pages = &core.shared.settings.error_pages;
        core.refuses(&Refusal::HeadTooLong);
        Some(refuse(&Refusal::HeadTooLong, pages, None))
    } else {
        // In a box, so that the task is no larger than what it does behind this.
        let asked = Asked {
            kinds: Kinds::of(&parts.headers),
            parts: Box::new(parts),
        };
        let mut stages = Box::pin(answer(core.clone(), peer, (asked, body)));
        poll_fn(|cx| {
            if let Poll::Ready(Ok(answer)) = stages.as_mut().poll(cx) {
                return Poll::Ready(Some(answer));
            }
            // A client that has no use for it any more, or has gone.
            let reset = answering.borrow_mut().respond.poll_reset(cx);
            reset.map(|_| None)
        })
        .await
    };
    let Some(answer) = answered else {
        return;
    };
    let (parts, mut body) = answer.into_response().into_parts();
    let mut response = Response::from_parts(parts, ());
    let over = complete(&core, &mut response, &body, head);
    let begun = {
        let mut answering = answering.borrow_mut();
        answering.begun = true;
        answering.respond.send_response(response, over)
    };
    let sent = match begun {
        Ok(_) if over => return,
        Ok(mut stream) => {
            let usual = core.shared.settings.limits.allowance.client_idle;
            let idle = body.client_idle().or(usual);
            let idle = idle.filter(|idle| !idle.is_zero());
            let mut reader = Reader::new(idle, body.end());
            send(&mut stream, &mut body, &mut reader).await
        }
        Err(failure) => Err(failure),
    };
    if let Err(failure) = sent {
        debug!(%failure, "an answer broke off");
    }
}

/// Makes a head fit for HTTP/2. Whether it is all of the answer.
fn complete(core: &Core, response: &mut Response<()>, body: &Body, head: bool) -> bool {
    let status = response.status();
    let fields = response.headers_mut();
    headers::strip_hop_by_hop(fields);
    if !fields.contains_key(DATE)
        && let Ok(date) = HeaderValue::from_str(core.desk.date.borrow_mut().now())
    {
        fields.insert(DATE, date);
    }
    let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let exact = body.size_hint().exact().filter(|_| !bodiless);
    let says = exact.filter(|length| *length > 0 || !(head || body.is_end_stream()));
    if let Some(length) = says
        && !fields.contains_key(CONTENT_LENGTH)
    {
        fields.insert(CONTENT_LENGTH, length.into());
    }
    head || bodiless || body.is_end_stream()
}

/// Sends a body as fast as the client takes it.
async fn send(
    stream: &mut SendStream<Bytes>,
    body: &mut Body,
    reader: &mut Reader,
) -> Result<(), h2::Error> {
    loop {
        // Room first: what is taken from a side is to go on.
        stream.reserve_capacity(1);
        if !has_room(stream, reader).await? {
            return Ok(());
        }
        let frame = poll_fn(|cx| match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(Ok(frame)),
            Poll::Pending => {
                let reset = ready!(stream.poll_reset(cx));
                Poll::Ready(Err(reset.map_or_else(|failure| failure, h2::Error::from)))
            }
        });
        match frame.await? {
            None => return stream.send_data(Bytes::new(), true),
            Some(Err(failure)) => {
                debug!(%failure, "an answer broke off");
                stream.send_reset(Reason::INTERNAL_ERROR);
                return Ok(());
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    let over = body.is_end_stream();
                    if !pass(stream, (data, over), reader).await? || over {
                        return Ok(());
                    }
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    return stream.send_trailers(trailers);
                }
            },
        }
    }
}

/// Sends a part in pieces for which the client has room, so that it is known whether it takes them.
/// Whether more may follow.
async fn pass(
    stream: &mut SendStream<Bytes>,
    (mut data, over): (Bytes, bool),
    reader: &mut Reader,
) -> Result<bool, h2::Error> {
    loop {
        stream.reserve_capacity(data.len());
        let room = stream.capacity();
        if room >= data.len() {
            return stream.send_data(data, over).map(|()| true);
        }
        if room > 0 {
            stream.send_data(data.split_to(room), false)?;
        } else if !has_room(stream, reader).await? {
            return Ok(false);
        }
    }
}

/// Waits until the client has room. Whether it will: it may have no use for more, or make none for too
/// long, and is given up then.
async fn has_room(stream: &mut SendStream<Bytes>, reader: &mut Reader) -> Result<bool, h2::Error> {
    let mut waits = false;
    poll_fn(|cx| {
        if stream.capacity() > 0 {
            return Poll::Ready(Ok(true));
        }
        let room = loop {
            break match stream.poll_capacity(cx) {
                Poll::Ready(Some(Ok(0))) => continue,
                Poll::Ready(Some(Ok(_))) => Poll::Ready(Ok(true)),
                Poll::Ready(Some(Err(failure))) => Poll::Ready(Err(failure)),
                Poll::Ready(None) => Poll::Ready(Ok(false)),
                Poll::Pending => stream.poll_reset(cx).map_ok(|_| false),
            };
        };
        let begins = !std::mem::replace(&mut waits, true);
        if room.is_pending() && reader.poll(cx, begins).is_ready() {
            debug!("a client takes nothing of its answer");
            stream.send_reset(Reason::CANCEL);
            return Poll::Ready(Ok(false));
        }
        room
    })
    .await
}

/// How long a client may take nothing of an answer.
#[derive(Debug)]
struct Reader {
    /// None is for ever.
    idle: Option<Duration>,
    /// When all of the answer must have gone, where somebody says so.
    end: Option<Instant>,
    deadline: Option<Deadline>,
}

impl Reader {
    fn new(idle: Option<Duration>, end: Option<Instant>) -> Self {
        Self {
            idle,
            end,
            deadline: None,
        }
    }

    /// Ready when it is over. `begins`: from now on the client is waited for.
    fn poll(&mut self, cx: &mut Context<'_>, begins: bool) -> Poll<()> {
        if begins {
            let idle = self.idle.map(|idle| Instant::now() + idle);
            let Some(until) = earliest((idle, self.end)) else {
                return Poll::Pending;
            };
            match &mut self.deadline {
                Some(deadline) => deadline.set(until),
                none => *none = Some(Deadline::new(until)),
            }
        }
        match &mut self.deadline {
            Some(deadline) => deadline.poll(cx),
            None => Poll::Pending,
        }
    }
}
