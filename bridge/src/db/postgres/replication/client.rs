//! The client of a log: a task that reads what the server sends, says where we are, and hands over
//! what came as it came, many messages at once.
//!
//! It is told of a place only once all up to it is committed, and tells the server of nothing else.

use std::future::ready;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use postgres_protocol::message::frontend::{self, CopyData};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::frames;
use super::login::{self, Login};
use super::reader::Reader;
use super::socket::Socket;
use crate::db::now_ms;
use crate::spec::PostgresUrl;

/// Read at once, but for a message that is longer.
const CHUNK: usize = 128 << 10;
/// Where less room than that is left, more is made.
const LEAST: usize = 16 << 10;
/// Chunks that wait to be taken, so that a megabyte of the log waits in memory, or as many large
/// messages.
const WAITING: usize = 8;
/// Between two words to the server while there is something to say.
const SAYS: Duration = Duration::from_secs(1);
/// The same while there is not.
const SILENT: Duration = Duration::from_secs(10);
/// From 1970 to 2000, where the server's time begins.
const BEFORE: i64 = 946_684_800_000;

/// Why there is no more.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("the replication stream has ended")]
    Ended,
    #[error("io error: {0}")]
    Io(#[from] io::Error),
    #[error("server error: {0}")]
    Refused(String),
    /// What cannot be logged in with, in words.
    #[error("{0}")]
    Login(String),
    #[error("the replication stream has {0}")]
    Odd(&'static str),
}

/// What came, or why nothing comes any more.
type Came = Result<Bytes, Broken>;

/// A stream that runs. Dropped, it is cut off.
#[derive(Debug)]
pub(super) struct Client {
    /// Messages that were taken over and not looked at yet.
    chunk: Bytes,
    broken: Option<Broken>,
    chunks: mpsc::Receiver<Came>,
    /// Up to here all is committed.
    done: watch::Sender<u64>,
    heard: Arc<AtomicU64>,
    leave: CancellationToken,
    /// Where it is read. Last, so that its work goes before it.
    reader: Reader,
}

impl Client {
    /// A stream that goes on from a place in the log. Up to the other one all is committed.
    ///
    /// # Errors
    /// Says what the server, the network or the URL has against it.
    pub(super) async fn begin(url: &PostgresUrl, login: Login, done: u64) -> Result<Self, Broken> {
        let reader = Reader::start()?;
        let url = url.clone();
        let opened = reader.run(async move {
            let socket = url.socket().await.map_err(Broken::Login)?;
            login::begin(socket, &login).await
        });
        let (socket, buffer) = opened.await.map_err(io::Error::other)??;
        let (client, carrier) = Self::over(reader, (socket, buffer), done);
        drop(client.reader.run(carrier.run()));
        Ok(client)
    }

    /// Both ends of a stream that has begun.
    fn over(reader: Reader, (socket, buffer): (Socket, BytesMut), done: u64) -> (Self, Carrier) {
        let (room, chunks) = mpsc::channel(WAITING);
        let committed = watch::Sender::new(done);
        let (heard, leave) = (Arc::default(), CancellationToken::new());
        let carrier = Carrier {
            socket,
            buffer,
            room,
            done: committed.subscribe(),
            told: done,
            heard: Arc::clone(&heard),
            leave: leave.clone(),
            busy: false,
            last: Instant::now(),
        };
        let client = Self {
            chunk: Bytes::new(),
            broken: None,
            chunks,
            done: committed,
            heard,
            leave,
            reader,
        };
        (client, carrier)
    }

    /// Returns once a piece of the log is there, or it is known why none comes. Cancel safe.
    pub(super) async fn ready(&mut self) {
        while self.broken.is_none() && !frames::leads(&mut self.chunk) {
            match self.chunks.recv().await {
                Some(Ok(chunk)) => self.chunk = chunk,
                Some(Err(broken)) => self.broken = Some(broken),
                None => self.broken = Some(Broken::Ended),
            }
        }
    }

    /// The next piece of the log that is there; none before [`Self::ready`] has seen one.
    ///
    /// # Errors
    /// Says why none comes any more.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        match (frames::next(&mut self.chunk), self.broken.take()) {
            (None, Some(broken)) => Err(broken),
            (next, broken) => {
                self.broken = broken;
                Ok(next)
            }
        }
    }

    /// Grows with whatever comes, also where that is of no account.
    pub(super) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// All up to this place is committed now.
    pub(super) fn committed(&self, upto: u64) {
        self.done.send_if_modified(|done| {
            let further = upto > *done;
            *done = upto.max(*done);
            further
        });
    }

    /// Reads nothing for so long.
    pub(super) fn rest(&self, pause: Duration) {
        self.reader.rest(pause);
    }

    /// Ends it in order.
    pub(super) async fn leave(mut self) {
        self.leave.cancel();
        while self.chunks.recv().await.is_some() {}
    }
}

/// The task.
struct Carrier {
    socket: Socket,
    /// What has come and is not handed over.
    buffer: BytesMut,
    room: mpsc::Sender<Came>,
    done: watch::Receiver<u64>,
    /// The server was told that all up to here is done.
    told: u64,
    heard: Arc<AtomicU64>,
    leave: CancellationToken,
    /// Something came since the server was told.
    busy: bool,
    last: Instant,
}

/// Nobody wants more of it.
struct Left;

impl Carrier {
    async fn run(mut self) {
        let ended = self.carry().await;
        if matches!(ended, Ok(Left)) {
            let mut farewell = BytesMut::new();
            frontend::copy_done(&mut farewell);
            let _ = self.socket.write_all(&farewell).await;
            let _ = self.socket.shutdown().await;
        }
        let Self { socket, room, .. } = self;
        drop(socket);
        if let Err(broken) = ended {
            let _ = room.send(Err(broken)).await;
        }
    }

    async fn carry(&mut self) -> Result<Left, Broken> {
        self.tell().await?;
        loop {
            let found = frames::scan(&self.buffer)?;
            if found.asks {
                self.tell().await?;
            }
            let whole = self.buffer.split_to(found.whole).freeze();
            if !whole.is_empty() {
                self.heard.fetch_add(1, Ordering::Relaxed);
            }
            if found.data && self.hand_over(whole).await?.is_some() {
                return Ok(Left);
            }
            if let Some(end) = found.end {
                return Err(end);
            }
            if self.fill(found.next).await?.is_some() {
                return Ok(Left);
            }
        }
    }

    /// Waits until there is room; the server hears of us meanwhile.
    async fn hand_over(&mut self, whole: Bytes) -> Result<Option<Left>, Broken> {
        loop {
            self.busy = true;
            tokio::select! {
                biased;
                () = self.leave.cancelled() => return Ok(Some(Left)),
                room = self.room.reserve() => {
                    let Ok(room) = room else { return Ok(Some(Left)) };
                    room.send(Ok(whole));
                    return Ok(None);
                }
                () = sleep_until(self.due()) => {}
            }
            self.tell().await?;
        }
    }

    /// Reads what has come, of a message that is so long.
    async fn fill(&mut self, next: usize) -> Result<Option<Left>, Broken> {
        // A length is believed as far as its bytes come.
        let missing = next.saturating_sub(self.buffer.len());
        let wanted = missing.min(self.buffer.len()).max(LEAST);
        if self.buffer.capacity() - self.buffer.len() < wanted {
            self.buffer.reserve(wanted.max(CHUNK));
        }
        loop {
            let due = self.due();
            if due <= Instant::now() {
                self.tell().await?;
                continue;
            }
            let said = *self.done.borrow_and_update() == self.told;
            tokio::select! {
                biased;
                () = self.leave.cancelled() => return Ok(Some(Left)),
                read = self.socket.read_buf(&mut self.buffer) => {
                    if read? == 0 {
                        let cut = io::ErrorKind::UnexpectedEof;
                        return Err(io::Error::new(cut, "the server has closed the connection").into());
                    }
                    break;
                }
                moved = self.done.changed(), if said => if moved.is_err() {
                    return Ok(Some(Left));
                },
                () = sleep_until(due) => {}
            }
        }
        // By TLS it comes in smaller pieces.
        while self.buffer.len() < self.buffer.capacity() {
            tokio::select! {
                biased;
                // An end is met again by whoever waits for more; what came before it counts.
                read = self.socket.read_buf(&mut self.buffer) => {
                    if !matches!(read, Ok(more) if more > 0) {
                        break;
                    }
                }
                () = ready(()) => break,
            }
        }
        Ok(None)
    }

    /// When the server is to hear of us.
    fn due(&self) -> Instant {
        let news = self.busy || *self.done.borrow() != self.told;
        self.last + if news { SAYS } else { SILENT }
    }

    /// Says up to where all is committed.
    async fn tell(&mut self) -> Result<(), Broken> {
        let done = *self.done.borrow_and_update();
        let now = (now_ms() - BEFORE).saturating_mul(1_000);
        let mut said = Vec::with_capacity(34);
        said.push(b'r');
        // Written, on disk, and to be seen.
        for _ in 0..3 {
            said.extend_from_slice(&done.to_be_bytes());
        }
        said.extend_from_slice(&now.to_be_bytes());
        // No answer is wanted.
        said.push(0);
        let mut message = BytesMut::with_capacity(40);
        CopyData::new(&said[..])?.write(&mut message);
        self.socket.write_all(&message).await?;
        self.socket.flush().await?;
        (self.told, self.busy, self.last) = (done, false, Instant::now());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::DuplexStream;
    use tokio::time::{sleep, timeout};

    use super::super::frames::tests::{message, piece, sign};
    use super::*;

    /// A stream that runs, and the server's end of it.
    fn begun(done: u64) -> (Client, DuplexStream) {
        let (socket, server) = tokio::io::duplex(64 << 10);
        let reader = Reader::start().unwrap();
        let (client, carrier) = Client::over(reader, (Box::new(socket), BytesMut::new()), done);
        tokio::spawn(carrier.run());
        (client, server)
    }

    /// What the server is told next.
    async fn told(server: &mut DuplexStream) -> u64 {
        let mut said = [0; 39];
        server.read_exact(&mut said).await.unwrap();
        assert_eq!((&said[..6], said[38]), (&b"d\0\0\0\x26r"[..], 0));
        let places = said[6..30].chunks(8).map(|place| place.try_into().unwrap());
        let places: Vec<u64> = places.map(u64::from_be_bytes).collect();
        assert!(places.iter().all(|place| *place == places[0]));
        places[0]
    }

    /// All that comes, until it is known why nothing more does.
    async fn all(client: &mut Client) -> (Vec<Bytes>, Broken) {
        let mut pieces = Vec::new();
        loop {
            client.ready().await;
            loop {
                match client.next() {
                    Ok(Some(piece)) => pieces.push(piece),
                    Ok(None) => break,
                    Err(broken) => return (pieces, broken),
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_server_hears_of_nothing_but_what_is_committed() {
        let (client, mut server) = begun(40);
        let clock = Instant::now();
        assert_eq!(told(&mut server).await, 40);
        assert_eq!(clock.elapsed(), Duration::ZERO);
        assert_eq!(told(&mut server).await, 40, "a sign of life");
        assert_eq!(clock.elapsed(), SILENT);
        sleep(SAYS).await;
        client.committed(100);
        client.committed(70);
        assert_eq!(told(&mut server).await, 100, "news are told at once");
        assert_eq!(clock.elapsed(), SILENT + SAYS);
        client.committed(200);
        client.committed(300);
        assert_eq!(told(&mut server).await, 300, "but not more often than that");
        assert_eq!(clock.elapsed(), SILENT + SAYS + SAYS);
        server.write_all(&sign(true)).await.unwrap();
        assert_eq!(told(&mut server).await, 300, "who asks has an answer");
        assert_eq!(clock.elapsed(), SILENT + SAYS + SAYS);
    }

    #[tokio::test(start_paused = true)]
    async fn messages_come_whole_however_they_were_cut() {
        for at in [1, 3, 7, 40, 1_000] {
            let (mut client, mut server) = begun(0);
            let pieces: Vec<Vec<u8>> = (0..40u8).map(|n| vec![n; usize::from(n) * 9]).collect();
            let mut sent = sign(false);
            for data in &pieces {
                sent.extend(piece(data));
                sent.extend(sign(false));
            }
            sent.extend(message(b'E', b"C57P01\0Mgone\0\0"));
            tokio::spawn(async move {
                for part in sent.chunks(at) {
                    server.write_all(part).await.unwrap();
                    tokio::task::yield_now().await;
                }
                // Whether that is read or not.
                let _ = told(&mut server).await;
            });
            let (came, broken) = all(&mut client).await;
            assert_eq!(came, pieces, "cut at {at}");
            let said = broken.to_string();
            assert_eq!(said, "server error: gone (SQLSTATE 57P01)", "cut at {at}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_server_hears_of_us_while_nobody_takes_what_comes() {
        let (mut client, server) = begun(5);
        let (mut listens, mut sends) = tokio::io::split(server);
        let sending = tokio::spawn(async move {
            for n in 0..4_000u32 {
                let large = [&n.to_be_bytes()[..], &[0; 996]].concat();
                sends.write_all(&piece(&large)).await.unwrap();
            }
            sends
        });
        let mut said = [0; 39 * 60];
        let listening = listens.read_exact(&mut said);
        timeout(Duration::from_secs(60), listening)
            .await
            .unwrap()
            .unwrap();
        assert!(!sending.is_finished(), "what waits in memory has a bound");
        let taking = tokio::spawn(async move { all(&mut client).await });
        drop(listens.unsplit(sending.await.unwrap()));
        let (came, broken) = taking.await.unwrap();
        let numbers = came
            .iter()
            .map(|piece| u32::from_be_bytes(piece[..4].try_into().unwrap()));
        assert!(numbers.eq(0..4_000));
        assert!(
            broken.to_string().contains("has closed the connection"),
            "{broken}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_of_many_megabytes_comes_whole() {
        let (mut client, mut server) = begun(0);
        let large: Vec<u8> = (0..20_000_000u32).map(|n| n.to_le_bytes()[0]).collect();
        let sent = [piece(b"small"), piece(&large), piece(b"small")].concat();
        tokio::spawn(async move { server.write_all(&sent).await });
        let (came, _) = all(&mut client).await;
        assert_eq!(came.len(), 3);
        assert!(came[1] == large);
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_in_order() {
        let (client, mut server) = begun(9);
        server
            .write_all(&piece(b"nobody waits for it"))
            .await
            .unwrap();
        assert_eq!(told(&mut server).await, 9);
        client.leave().await;
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"c\0\0\0\x04");
    }
}
