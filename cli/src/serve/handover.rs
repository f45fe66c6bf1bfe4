//! What two processes say to each other while the one takes over from the other, and the sockets that
//! go with it.
//!
//! The new process has one end of a pair of sockets as its standard input. On it come, in this order: the
//! greeting with its length before it, a byte for each socket with the socket itself (`SCM_RIGHTS`,
//! unix(7)), and from then on lines of JSON both ways.

use std::collections::BTreeMap;
use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::Context as _;
use outgrow_proxy::Listening;
use outgrow_rollout::{BuildName, BuildsState, Live, SliceId};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// A config is read and a store is opened in this time, or something is wrong.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A greeting names addresses; this is hundreds of them.
const GREETING_MAX: u32 = 1 << 20;

/// What the process that leaves says first.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Greeting {
    pub(super) version: String,
    pub(super) by: String,
    pub(super) reason: String,
    /// Of the config in force, which the next one must have, too.
    pub(super) store: String,
    admin: SocketAddr,
    listening: Vec<Address>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Address {
    asked: SocketAddr,
    safe: bool,
    sockets: usize,
}

/// What the process that comes has in its config, as far as the one that leaves must know it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Declared {
    pub(super) slices: Vec<SliceId>,
    /// Of services that have some.
    pub(super) builds: BTreeMap<String, Vec<BuildName>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Word {
    /// It comes: all but the store is in its hands.
    Ready {
        version: String,
        has: Declared,
    },
    /// It does not, for this reason.
    Refused(String),
    /// It leaves: the store is free, and this is in force. Again when clients are let in by the other.
    Orders(serde_json::Value),
    /// It comes: clients are let in.
    Took,
    /// It comes: this is in force from now on, for the last requests of the other, too.
    Live(SliceId, Live),
    Builds(String, BuildsState),
}

/// One end.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) hears: Ears,
    pub(super) says: OwnedWriteHalf,
}

#[derive(Debug)]
pub(super) struct Ears(tokio::io::Lines<BufReader<OwnedReadHalf>>);

impl Ears {
    /// The next word; `None` where the other process has ended. Cancel safe.
    pub(super) async fn hear(&mut self) -> anyhow::Result<Option<Word>> {
        let line = match self.0.next_line().await {
            // It has ended with something unread.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
            read => read?,
        };
        let word = line.map(|line| serde_json::from_str(&line)).transpose();
        word.context("the other process says what is not understood")
    }
}

pub(super) async fn say(to: &mut OwnedWriteHalf, word: &Word) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(word)?;
    line.push(b'\n');
    Ok(to.write_all(&line).await?)
}

fn line(stream: UnixStream) -> anyhow::Result<Line> {
    stream.set_nonblocking(true)?;
    let (hears, says) = tokio::net::UnixStream::from_std(stream)?.into_split();
    let hears = Ears(BufReader::new(hears).lines());
    Ok(Line { hears, says })
}

/// Everything that a process takes over.
pub(super) struct Inherited {
    pub(super) greeting: Greeting,
    pub(super) listening: Vec<Listening>,
    /// Where the admin API listens.
    pub(super) admin: (SocketAddr, TcpListener),
    pub(super) line: Line,
}

/// For the process that leaves. The sockets stay its own, too.
pub(super) fn greet(
    mut stream: UnixStream,
    (version, by, reason, store): (&str, &str, &str, String),
    (admin, admin_socket): (SocketAddr, &TcpListener),
    listening: &[Listening],
) -> anyhow::Result<Line> {
    // The other end may be anything.
    stream.set_write_timeout(Some(PATIENCE))?;
    let greeting = Greeting {
        version: version.to_owned(),
        by: by.to_owned(),
        reason: reason.to_owned(),
        store,
        admin,
        listening: listening
            .iter()
            .map(|one| Address {
                asked: one.asked,
                safe: one.safe,
                sockets: one.sockets.len(),
            })
            .collect(),
    };
    let greeting = serde_json::to_vec(&greeting)?;
    stream.write_all(&u32::try_from(greeting.len())?.to_be_bytes())?;
    stream.write_all(&greeting)?;
    let all = listening.iter().flat_map(|one| &one.sockets);
    for socket in std::iter::once(admin_socket).chain(all) {
        send(&stream, socket.as_fd())?;
    }
    line(stream)
}

/// For the process that comes: takes what is at its standard input.
pub(super) fn inherit() -> anyhow::Result<Inherited> {
    let stream = std::io::stdin().as_fd().try_clone_to_owned()?;
    let mut stream = UnixStream::from(stream);
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut length = [0; 4];
    let read = stream.read_exact(&mut length);
    read.context("nobody hands over at the standard input")?;
    let length = u32::from_be_bytes(length);
    anyhow::ensure!(length <= GREETING_MAX, "no greeting of an Outgrow");
    let mut greeting = vec![0; usize::try_from(length)?];
    stream.read_exact(&mut greeting)?;
    let greeting: Greeting = serde_json::from_slice(&greeting)
        .context("the process before is of a version that hands over otherwise")?;
    let admin = (greeting.admin, TcpListener::from(receive(&stream)?));
    let mut listening = Vec::new();
    for address in &greeting.listening {
        let sockets = (0..address.sockets).map(|_| receive(&stream).map(TcpListener::from));
        listening.push(Listening {
            asked: address.asked,
            safe: address.safe,
            sockets: sockets.collect::<anyhow::Result<_>>()?,
        });
    }
    Ok(Inherited {
        greeting,
        listening,
        admin,
        line: line(stream)?,
    })
}

fn send(stream: &UnixStream, socket: BorrowedFd<'_>) -> anyhow::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    let sockets = [socket];
    // There is space for it.
    rights.push(SendAncillaryMessage::ScmRights(&sockets));
    let sent = sendmsg(
        stream,
        &[IoSlice::new(b"s")],
        &mut rights,
        SendFlags::NOSIGNAL,
    )?;
    anyhow::ensure!(sent == 1, "a socket could not be handed over");
    Ok(())
}

fn receive(stream: &UnixStream) -> anyhow::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut into = [IoSliceMut::new(&mut byte)];
    recvmsg(stream, &mut into, &mut rights, RecvFlags::CMSG_CLOEXEC)?;
    let mut sockets = rights.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
        _ => None,
    });
    let socket = sockets.next().and_then(|mut sockets| sockets.next());
    socket.context("a socket of the process before has not come")
}
