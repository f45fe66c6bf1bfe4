//! NATS JetStream: publishes events, each with its id for the stream's deduplication, and waits
//! until the stream has them.

use std::fmt;
use std::time::Duration;

use async_nats::jetstream::context::{ContextBuilder, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, Context, ErrorCode};
use async_nats::{Client, ConnectOptions};
use outgrow_bridge::events::{Event, Publishing, Sink, SinkError};
use outgrow_rollout::SliceId;
use tokio::sync::{Mutex, OnceCell, watch};

use crate::config::Events;

/// A stream that has not answered in this time is asked again later.
const ANSWER: Duration = Duration::from_secs(5);
/// How long a check waits for a connection.
const CHECK: Duration = Duration::from_secs(3);
/// Requests that wait for the connection; one wave of events is far below.
const QUEUE: usize = 2_048;
/// What a stream of ours knows of ids: longer than a publisher that restarts is away.
const DUPLICATES: Duration = Duration::from_secs(600);

/// How long events wait for a connection that is being made.
const CONNECT: Duration = Duration::from_secs(2);

/// What the connection says of itself.
#[derive(Debug, Clone, Default)]
struct Line {
    up: bool,
    /// The last trouble.
    said: Option<String>,
}

/// One slice's way to its stream.
pub(super) struct JetStream {
    slice: SliceId,
    wanted: Events,
    context: OnceCell<Context>,
    line: watch::Sender<Line>,
    /// Whether the stream is known to be there.
    ready: Mutex<bool>,
}

impl fmt::Debug for JetStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JetStream")
            .field("server", &self.wanted.server)
            .field("stream", &self.wanted.stream)
            .finish_non_exhaustive()
    }
}

impl JetStream {
    /// Connects when the first event is there, and again whenever that is needed.
    pub(super) fn new(slice: SliceId, wanted: Events) -> Self {
        Self {
            slice,
            wanted,
            context: OnceCell::new(),
            line: watch::Sender::new(Line::default()),
            ready: Mutex::new(false),
        }
    }

    async fn connected(&self) -> Result<&Context, SinkError> {
        let connect = async || {
            let options = options(&self.wanted, self.line.clone()).await?;
            let client = options
                .retry_on_initial_connect()
                .connect(address(&self.wanted))
                .await
                .map_err(|e| e.to_string())?;
            Ok::<_, String>(context(client))
        };
        let context = self.context.get_or_try_init(connect).await;
        let context = context.map_err(SinkError::Trouble)?;
        // What is sent without a connection would wait in the client and be forgotten by us.
        let mut line = self.line.subscribe();
        let up = tokio::time::timeout(CONNECT, line.wait_for(|line| line.up)).await;
        if up.is_ok_and(|seen| seen.is_ok()) {
            return Ok(context);
        }
        let said = self.line.borrow().said.clone();
        let why = said.unwrap_or_else(|| "is it running there?".to_owned());
        let server = &self.wanted.server;
        let what = format!("no connection to {server}: {why}");
        Err(SinkError::Trouble(what))
    }

    /// Makes the stream if it is not there; one that is there is left as it is.
    async fn stream(&self, context: &Context) -> Result<(), SinkError> {
        let mut ready = self.ready.lock().await;
        if *ready {
            return Ok(());
        }
        let name = &self.wanted.stream;
        if !there(context, name).await.map_err(SinkError::Trouble)? {
            let config = jetstream::stream::Config {
                name: name.clone(),
                subjects: vec![subject(&self.wanted.subject, self.slice.as_str(), "*")],
                duplicate_window: DUPLICATES,
                description: Some(format!("changes of slice {}, by Outgrow", self.slice)),
                ..jetstream::stream::Config::default()
            };
            let made = context.create_stream(config).await;
            made.map_err(|e| {
                SinkError::Trouble(format!("stream `{name}` cannot be made: {}", chain(&e)))
            })?;
            tracing::info!(slice = %self.slice, stream = %name, "stream made");
        }
        *ready = true;
        Ok(())
    }

    async fn send(&self, events: &[Event]) -> Result<(), SinkError> {
        let context = self.connected().await?;
        self.stream(context).await?;
        let mut acks = Vec::with_capacity(events.len());
        for (at, event) in events.iter().enumerate() {
            let message = PublishMessage::build()
                .payload(event.payload.clone().into())
                .message_id(&event.id)
                .expected_stream(&self.wanted.stream)
                .header("Content-Type", "application/cloudevents+json");
            let to = subject(
                &self.wanted.subject,
                self.slice.as_str(),
                &token(&event.table),
            );
            let sent = context.send_publish(to, message).await;
            acks.push(sent.map_err(|e| refused(at, &e))?);
        }
        let acks = acks.into_iter().map(IntoFuture::into_future);
        let acks = futures_util::future::join_all(acks).await;
        for (at, ack) in acks.into_iter().enumerate() {
            if let Err(error) = ack {
                // Somebody may have removed it.
                *self.ready.lock().await = false;
                return Err(refused(at, &error));
            }
        }
        Ok(())
    }
}

impl Sink for JetStream {
    fn publish<'a>(&'a self, events: &'a [Event]) -> Publishing<'a> {
        Box::pin(self.send(events))
    }
}

/// What can be known of a broker without changing anything there.
pub(super) async fn look(slice: &SliceId, wanted: &Events) -> Result<String, String> {
    let seen = async {
        let client = options(wanted, watch::Sender::new(Line::default()))
            .await?
            .connect(address(wanted))
            .await
            .map_err(|e| format!("{}; is it running there?", chain(&e)))?;
        let (context, name) = (context(client), &wanted.stream);
        if there(&context, name).await? {
            return Ok(format!("stream `{name}` is there"));
        }
        let to = subject(&wanted.subject, slice.as_str(), "*");
        Ok(format!("stream `{name}` will be made for `{to}`"))
    };
    match tokio::time::timeout(CHECK, seen).await {
        Ok(seen) => seen,
        Err(_) => Err(format!("no answer within {CHECK:?}")),
    }
}

fn context(client: Client) -> Context {
    ContextBuilder::new()
        .timeout(ANSWER)
        .ack_timeout(ANSWER)
        .build(client)
}

/// Without what is said by [`options`].
fn address(wanted: &Events) -> String {
    wanted.server.to_string()
}

async fn options(wanted: &Events, line: watch::Sender<Line>) -> Result<ConnectOptions, String> {
    let url = wanted.server.url();
    let text = |text: &str| {
        let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
        decoded
            .map(|text| text.into_owned())
            .map_err(|_| "user and password of the broker must be UTF-8".to_owned())
    };
    let mut options = ConnectOptions::new().name("outgrow").client_capacity(QUEUE);
    options = match (url.username(), url.password()) {
        ("", _) => options,
        (token, None) => options.token(text(token)?),
        (user, Some(password)) => options.user_and_password(text(user)?, text(password)?),
    };
    if let Some(file) = &wanted.credentials {
        let read = tokio::fs::read_to_string(file).await;
        let shown = file.display();
        let read = read.map_err(|e| format!("the credentials {shown} cannot be read: {e}"))?;
        options = options
            .credentials(&read)
            .map_err(|e| format!("the credentials {shown} are broken: {e}"))?;
    }
    if let Some(file) = &wanted.ca {
        tokio::fs::read(file)
            .await
            .map_err(|e| format!("the CA file {} cannot be read: {e}", file.display()))?;
        options = options.add_root_certificates(file.clone());
    }
    let tls = url.scheme() == "tls" || wanted.ca.is_some();
    let heard = move |event: async_nats::Event| {
        tracing::debug!(%event, "broker");
        line.send_modify(|line| match event {
            async_nats::Event::Connected => {
                *line = Line {
                    up: true,
                    said: None,
                }
            }
            async_nats::Event::Disconnected => line.up = false,
            other => line.said = Some(other.to_string()),
        });
        std::future::ready(())
    };
    Ok(options.require_tls(tls).event_callback(heard))
}

/// Whether a stream of this name is there.
async fn there(context: &Context, name: &str) -> Result<bool, String> {
    use async_nats::jetstream::context::GetStreamErrorKind as Kind;
    match context.get_stream(name).await {
        Ok(_) => Ok(true),
        Err(error) => match error.kind() {
            Kind::JetStream(inner) if inner.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                Ok(false)
            }
            _ => Err(format!("stream `{name}`: {}", chain(&error))),
        },
    }
}

fn refused(at: usize, error: &PublishError) -> SinkError {
    let what = chain(error);
    let too_large = error.kind() == PublishErrorKind::MaxPayloadExceeded
        // The stream's own limit.
        || what.contains("message size exceeds maximum allowed");
    if too_large {
        SinkError::TooLarge { at, what }
    } else {
        SinkError::Trouble(what)
    }
}

/// An error with its causes.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Some texts hold their cause already.
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

fn subject(template: &str, slice: &str, table: &str) -> String {
    template.replace("{slice}", slice).replace("{table}", table)
}

/// A table's name as one token of a subject.
fn token(table: &str) -> String {
    if table.is_empty() {
        return "_stream".to_owned();
    }
    let plain = |c: char| {
        if c.is_whitespace() || c.is_control() || ".*>".contains(c) {
            '_'
        } else {
            c
        }
    };
    table.chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_one_token_of_its_subject() {
        let template = "outgrow.{slice}.{table}";
        let to = |table: &str| subject(template, "catalog", &token(table));
        assert_eq!(to("product"), "outgrow.catalog.product");
        assert_eq!(to("shop.odd name>"), "outgrow.catalog.shop_odd_name_");
        assert_eq!(to(""), "outgrow.catalog._stream");
    }
}
