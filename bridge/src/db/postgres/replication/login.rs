//! What is said before a stream: who we are, with what right, and what is wanted (PostgreSQL manual,
//! "Message Flow" and "Streaming Replication Protocol").

use std::io;

use bytes::{Buf, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::Broken;
use super::frames;
use super::socket::Socket;

/// No message of a login is longer.
const MOST: usize = 256 << 10;
/// What a message that copies both ways begins with; the client library does not know it.
const BOTH: u8 = b'W';
/// Values are told in one form, whatever the server's settings are.
const SETTINGS: &str =
    "-c datestyle=ISO -c timezone=UTC -c intervalstyle=iso_8601 -c extra_float_digits=1";

/// Who asks, and for what.
pub(super) struct Login {
    pub(super) user: String,
    pub(super) database: String,
    pub(super) password: String,
    /// The command that begins the stream.
    pub(super) wanted: String,
}

/// Logs in, and begins the stream. What has come of that already comes with the socket.
pub(super) async fn begin(socket: Socket, login: &Login) -> Result<(Socket, BytesMut), Broken> {
    let mut talk = Talk {
        socket,
        login,
        buffer: BytesMut::new(),
        out: BytesMut::new(),
        scram: None,
    };
    let who = [
        ("user", login.user.as_str()),
        ("database", &login.database),
        ("replication", "database"),
        ("client_encoding", "UTF8"),
        ("application_name", "outgrow"),
        ("options", SETTINGS),
    ];
    frontend::startup_message(who, &mut talk.out)?;
    while !matches!(talk.hear().await?, Some(Message::ReadyForQuery(_))) {}
    frontend::query(&login.wanted, &mut talk.out)?;
    while talk.hear().await?.is_some() {}
    Ok((talk.socket, talk.buffer))
}

struct Talk<'a> {
    socket: Socket,
    login: &'a Login,
    /// What has come and was not looked at.
    buffer: BytesMut,
    /// What is to be sent.
    out: BytesMut,
    scram: Option<ScramSha256>,
}

impl Talk<'_> {
    /// Sends what is to be sent, and gives the next message; `None` where the stream begins.
    async fn hear(&mut self) -> Result<Option<Message>, Broken> {
        if !self.out.is_empty() {
            self.socket.write_all_buf(&mut self.out).await?;
            self.socket.flush().await?;
        }
        loop {
            if let Some((kind, length)) = frames::head(&self.buffer, MOST)?
                && self.buffer.len() >= length
            {
                if kind == BOTH {
                    self.buffer.advance(length);
                    return Ok(None);
                }
                let message = Message::parse(&mut self.buffer)?;
                let message = message.ok_or(Broken::Odd("a message that is cut short"))?;
                self.answer(&message)?;
                return Ok(Some(message));
            }
            if self.socket.read_buf(&mut self.buffer).await? == 0 {
                let cut = io::ErrorKind::UnexpectedEof;
                return Err(io::Error::new(cut, "the server has closed the connection").into());
            }
        }
    }

    fn answer(&mut self, message: &Message) -> Result<(), Broken> {
        let password = self.login.password.as_bytes();
        match message {
            Message::ErrorResponse(body) => return Err(frames::refused(body)),
            Message::AuthenticationCleartextPassword => {
                frontend::password_message(password, &mut self.out)?;
            }
            Message::AuthenticationMd5Password(body) => {
                let hashed = md5_hash(self.login.user.as_bytes(), password, body.salt());
                frontend::password_message(hashed.as_bytes(), &mut self.out)?;
            }
            Message::AuthenticationSasl(body) => {
                if !body.mechanisms().any(|name| Ok(name == SCRAM_SHA_256))? {
                    return Err(unknown("a login by SASL without SCRAM-SHA-256"));
                }
                // What the connection runs over is no part of it.
                let scram = ScramSha256::new(password, ChannelBinding::unsupported());
                frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), &mut self.out)?;
                self.scram = Some(scram);
            }
            Message::AuthenticationSaslContinue(body) => {
                let scram = self.scram.as_mut().ok_or(UNASKED)?;
                scram.update(body.data())?;
                frontend::sasl_response(scram.message(), &mut self.out)?;
            }
            Message::AuthenticationSaslFinal(body) => {
                self.scram.take().ok_or(UNASKED)?.finish(body.data())?;
            }
            // A server that was asked to prove itself has done so.
            Message::AuthenticationOk if self.scram.is_some() => return Err(UNASKED),
            Message::AuthenticationGss
            | Message::AuthenticationSspi
            | Message::AuthenticationKerberosV5
            | Message::AuthenticationScmCredential => {
                return Err(unknown(
                    "a login that is neither by password nor by certificate",
                ));
            }
            _ => {}
        }
        Ok(())
    }
}

const UNASKED: Broken = Broken::Odd("a step of a login out of its order");

fn unknown(what: &str) -> Broken {
    Broken::Login(format!("the server wants {what}"))
}
