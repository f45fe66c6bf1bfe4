//! Transactions that come while they run: what they have changed so far waits in files without a
//! name until they are committed, and then goes the way of all others; what is rolled back is never
//! looked at. A file is gone with the process, and with the stream: the server tells such a
//! transaction from its beginning again.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::io::{self, SeekFrom};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use super::pgoutput::{self, Inside, Malformed};

/// Bytes of all these files, for a transaction of some ten million rows. The server keeps what is
/// beyond, as it does without all this.
const MOST: usize = 8 << 30;
/// Rolled back parts of one transaction that are remembered, in some megabytes.
const GONE: usize = 100_000;
/// Written and read at once.
const CHUNK: usize = 64 << 10;
/// Before each message: its length, and the part of the transaction that it is of.
const HEAD: usize = 8;

/// Why a transaction cannot be kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unkept {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("a running transaction cannot wait in a file: {0}")]
    File(#[from] io::Error),
    #[error("running transactions are too large to wait in files")]
    Many,
}

/// What is known of transactions that run.
#[derive(Debug)]
pub(super) struct Streamed {
    /// Most bytes of all files.
    most: usize,
    running: HashMap<u32, Kept>,
    /// The one that is being told of.
    block: Option<u32>,
    /// Bytes of all files.
    bytes: usize,
    /// How many descriptions of tables have come.
    described: u64,
}

/// One transaction.
#[derive(Debug)]
pub(super) struct Kept {
    file: File,
    /// Not written yet; once it is read, not looked at yet.
    buffer: BytesMut,
    bytes: usize,
    messages: usize,
    /// Its parts that were rolled back.
    gone: HashSet<u32>,
    /// When the newest description of each table came.
    described: HashMap<u32, u64>,
}

impl Default for Streamed {
    fn default() -> Self {
        Self {
            most: MOST,
            running: HashMap::new(),
            block: None,
            bytes: 0,
            described: 0,
        }
    }
}

impl Streamed {
    /// A part of this transaction follows.
    pub(super) fn begins(&mut self, xid: u32) {
        self.block = Some(xid);
    }

    pub(super) fn stops(&mut self) {
        self.block = None;
    }

    /// Whether what comes is of a transaction that runs.
    pub(super) fn is_within(&self) -> bool {
        self.block.is_some()
    }

    /// The number of a table's description that has come just now.
    pub(super) fn describes(&mut self) -> u64 {
        self.described += 1;
        self.described
    }

    /// Keeps a message of the part that follows. Whether so much is in memory that it is better
    /// written.
    pub(super) fn keep(&mut self, message: &[u8]) -> Result<bool, Unkept> {
        let Some(block) = self.block else {
            return Ok(false);
        };
        let Some(Inside {
            xid,
            kind,
            rest,
            relation,
        }) = pgoutput::inside(message)?
        else {
            return Ok(false);
        };
        let kept = match self.running.entry(block) {
            Entry::Occupied(kept) => kept.into_mut(),
            Entry::Vacant(room) => room.insert(Kept::begin()?),
        };
        if let Some(relation) = relation {
            self.described += 1;
            kept.described.insert(relation, self.described);
        }
        let length = rest.len() + 1;
        kept.buffer.reserve(HEAD + length);
        kept.buffer
            .put_u32(u32::try_from(length).map_err(|_| Unkept::Many)?);
        kept.buffer.put_u32(xid);
        kept.buffer.put_u8(kind);
        kept.buffer.put_slice(rest);
        kept.messages += 1;
        kept.bytes += HEAD + length;
        self.bytes += HEAD + length;
        if self.bytes > self.most {
            return Err(Unkept::Many);
        }
        Ok(kept.buffer.len() >= CHUNK)
    }

    /// Writes what is in memory of the part that follows. How many bytes these were.
    pub(super) async fn write(&mut self) -> Result<usize, Unkept> {
        let block = self.block.and_then(|xid| self.running.get_mut(&xid));
        let Some(kept) = block else { return Ok(0) };
        let written = kept.buffer.len();
        kept.write().await?;
        Ok(written)
    }

    /// A transaction, or a part of it, was rolled back.
    pub(super) fn rolled_back(&mut self, xid: u32, part: u32) -> Result<(), Unkept> {
        if xid == part {
            self.take(xid);
        } else if let Some(kept) = self.running.get_mut(&xid) {
            kept.gone.insert(part);
            if kept.gone.len() > GONE {
                return Err(Unkept::Many);
            }
        }
        Ok(())
    }

    /// How much there is of a transaction: messages and bytes.
    pub(super) fn size(&self, xid: u32) -> (usize, usize) {
        let kept = self.running.get(&xid);
        kept.map_or((0, 0), |kept| (kept.messages, kept.bytes))
    }

    /// What was kept of a transaction.
    pub(super) fn take(&mut self, xid: u32) -> Option<Kept> {
        let kept = self.running.remove(&xid)?;
        self.bytes -= kept.bytes;
        Some(kept)
    }
}

impl Kept {
    fn begin() -> io::Result<Self> {
        Ok(Self {
            file: File::from_std(tempfile::tempfile()?),
            buffer: BytesMut::new(),
            bytes: 0,
            messages: 0,
            gone: HashSet::new(),
            described: HashMap::new(),
        })
    }

    async fn write(&mut self) -> io::Result<()> {
        self.file.write_all(&self.buffer).await?;
        self.buffer.clear();
        Ok(())
    }

    /// Back to the first of its messages.
    pub(super) async fn rewind(&mut self) -> Result<(), Unkept> {
        self.write().await?;
        self.file.flush().await?;
        self.file.seek(SeekFrom::Start(0)).await?;
        Ok(())
    }

    /// The next of its messages that was not rolled back.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Unkept> {
        loop {
            let length = match self.buffer.first_chunk::<4>() {
                Some(length) => u32::from_be_bytes(*length) as usize,
                None => 0,
            };
            let whole = HEAD + length;
            if self.buffer.len() < whole {
                self.buffer.reserve(CHUNK.max(whole - self.buffer.len()));
                if self.file.read_buf(&mut self.buffer).await? == 0 {
                    return match self.buffer.is_empty() {
                        true => Ok(None),
                        false => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                    };
                }
                continue;
            }
            let mut message = self.buffer.split_to(whole).freeze();
            message.advance(4);
            if !self.gone.contains(&message.get_u32()) {
                return Ok(Some(message));
            }
        }
    }

    /// When its newest description of a table came.
    pub(super) fn described(&self, relation: u32) -> u64 {
        self.described.get(&relation).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message of this part of a transaction.
    fn said(part: u32, kind: u8, text: &str) -> Vec<u8> {
        [&[kind], &part.to_be_bytes()[..], text.as_bytes()].concat()
    }

    async fn told(streamed: &mut Streamed, xid: u32, messages: &[(u32, String)]) {
        streamed.begins(xid);
        for (part, text) in messages {
            if streamed.keep(&said(*part, b'I', text)).unwrap() {
                assert!(streamed.write().await.unwrap() >= CHUNK);
            }
        }
        streamed.stops();
    }

    async fn all(kept: Option<Kept>) -> Vec<String> {
        let mut kept = kept.unwrap();
        kept.rewind().await.unwrap();
        let mut all = Vec::new();
        while let Some(message) = kept.next().await.unwrap() {
            all.push(String::from_utf8(message[1..].to_vec()).unwrap());
        }
        all
    }

    #[tokio::test]
    async fn transactions_come_back_as_they_came_but_for_what_was_rolled_back() {
        let mut streamed = Streamed::default();
        let texts = |of: &str, part: u32, count: usize| -> Vec<(u32, String)> {
            (0..count).map(|n| (part, format!("{of} {n}"))).collect()
        };
        // Beyond what waits in memory, told in turns.
        let (one, two) = (texts("one", 1, 40_000), texts("two", 2, 9));
        let part = texts("a part of one", 11, 20_000);
        told(&mut streamed, 1, &one[..30_000]).await;
        told(&mut streamed, 2, &two[..5]).await;
        told(&mut streamed, 1, &part).await;
        told(&mut streamed, 3, &texts("three", 3, 9)).await;
        streamed.rolled_back(1, 11).unwrap();
        streamed.rolled_back(3, 3).unwrap();
        streamed.rolled_back(4, 4).unwrap();
        told(&mut streamed, 1, &one[30_000..]).await;
        told(&mut streamed, 2, &two[5..]).await;
        assert!(streamed.take(3).is_none());
        assert_eq!(streamed.size(1).0, 60_000);
        let texts = |of: Vec<(u32, String)>| of.into_iter().map(|(_, text)| text);
        assert!(texts(two).eq(all(streamed.take(2)).await));
        assert!(texts(one).eq(all(streamed.take(1)).await));
        assert_eq!((streamed.bytes, streamed.size(1)), (0, (0, 0)));
    }

    #[tokio::test]
    async fn a_message_that_is_longer_than_what_is_read_at_once_comes_back() {
        let mut streamed = Streamed::default();
        let messages = [(1, "n".repeat(3 * CHUNK + 7)), (1, "last".to_owned())];
        told(&mut streamed, 1, &messages).await;
        assert_eq!(all(streamed.take(1)).await, messages.map(|(_, text)| text));
    }

    #[test]
    fn what_is_kept_has_a_bound() {
        let mut streamed = Streamed {
            most: 50,
            ..Streamed::default()
        };
        streamed.begins(1);
        assert!(
            !streamed
                .keep(&said(1, b'I', "a row of some bytes"))
                .unwrap()
        );
        let beyond = streamed.keep(&said(1, b'I', "a row of some bytes"));
        assert!(matches!(beyond, Err(Unkept::Many)));
        let mut known = Ok(());
        for part in 2.. {
            known = streamed.rolled_back(1, part);
            if known.is_err() {
                break;
            }
        }
        assert!(matches!(known, Err(Unkept::Many)));
        streamed.begins(2);
        let odd = streamed.keep(b"I\0");
        assert!(matches!(odd, Err(Unkept::Malformed(_))));
    }
}
