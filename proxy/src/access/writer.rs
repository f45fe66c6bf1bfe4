//! The thread that writes the access log out. It alone waits for a disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::{Block, Losses};

/// How often it looks whether the file is still the one of that name.
const LOOK: Duration = Duration::from_secs(1);

/// What the blocks of all cores come to.
#[derive(Debug)]
pub(crate) struct Writer {
    /// `None`: standard output.
    path: Option<PathBuf>,
    /// Also `None` while the file cannot be opened.
    open: Option<Opened>,
    blocks: Receiver<Block>,
    /// To the cores, by index.
    back: Vec<SyncSender<Vec<u8>>>,
    losses: Arc<Losses>,
    looked: Instant,
    /// Trouble was told, and is not told again before there is none.
    warned: bool,
    /// The last line that was written has no end.
    torn: bool,
    /// The file that it stands in.
    last: Option<(u64, u64)>,
}

#[derive(Debug)]
struct Opened {
    file: File,
    /// Device and inode.
    id: (u64, u64),
}

impl Opened {
    fn new(path: &Path) -> io::Result<Self> {
        if fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo()) {
            // To open one waits for a reader, for ever where there is none.
            return Err(io::Error::other("it is a named pipe"));
        }
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        let found = file.metadata()?;
        let id = (found.dev(), found.ino());
        Ok(Self { file, id })
    }

    fn is_at(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == self.id)
    }
}

impl Writer {
    pub(super) fn open(
        path: Option<PathBuf>,
        blocks: Receiver<Block>,
        back: Vec<SyncSender<Vec<u8>>>,
        losses: Arc<Losses>,
    ) -> io::Result<Self> {
        let open = path.as_deref().map(Opened::new).transpose()?;
        let last = open.as_ref().map(|open| open.id);
        Ok(Self {
            path,
            last,
            open,
            blocks,
            back,
            losses,
            looked: Instant::now(),
            warned: false,
            torn: false,
        })
    }

    /// Until the last core is gone, and what it had is written.
    pub(crate) fn run(mut self) {
        loop {
            let left = LOOK.saturating_sub(self.looked.elapsed());
            match self.blocks.recv_timeout(left) {
                Ok(block) => self.take(block),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.looked.elapsed() >= LOOK {
                self.look();
                self.looked = Instant::now();
            }
        }
    }

    /// After a rename the name is another file's, or nobody's.
    fn look(&mut self) {
        let Some(path) = &self.path else { return };
        if self.open.as_ref().is_some_and(|open| open.is_at(path)) {
            return;
        }
        match Opened::new(path) {
            Ok(opened) => {
                self.torn &= self.last == Some(opened.id);
                self.last = Some(opened.id);
                self.open = Some(opened);
            }
            Err(failure) => {
                self.open = None;
                self.complain(&failure);
            }
        }
    }

    fn complain(&mut self, failure: &io::Error) {
        if !self.warned {
            let file = self.path.as_deref().unwrap_or(Path::new("-"));
            warn!(%failure, file = %file.display(), "the access log cannot be written; its lines are lost, requests go on");
        }
        self.warned = true;
    }

    fn take(&mut self, block: Block) {
        let Block {
            core,
            mut bytes,
            lines,
        } = block;
        let (written, failure) = self.write(&bytes);
        let lost = if written == 0 {
            lines
        } else {
            bytes[written..].iter().filter(|b| **b == b'\n').count() as u64
        };
        self.losses.write.fetch_add(lost, Relaxed);
        match failure {
            Some(failure) => {
                self.torn |= written > 0 && bytes[written - 1] != b'\n';
                // Opened again at the next look; till then nobody beats on a full disk.
                self.open = None;
                self.complain(&failure);
            }
            None if lost == 0 && self.warned => {
                self.warned = false;
                info!("the access log is written again");
            }
            None => {}
        }
        bytes.clear();
        if let Some(back) = self.back.get(core) {
            // Where the core has enough of them this one is given up.
            let _ = back.try_send(bytes);
        }
    }

    /// How many of the bytes were written.
    fn write(&mut self, bytes: &[u8]) -> (usize, Option<io::Error>) {
        let mut stdout;
        let to: &mut dyn Write = match (&self.path, &mut self.open) {
            (None, _) => {
                stdout = io::stdout().lock();
                &mut stdout
            }
            (Some(_), Some(open)) => &mut open.file,
            (Some(_), None) => return (0, None),
        };
        if self.torn {
            match put(to, b"\n") {
                (_, None) => self.torn = false,
                failed => return failed,
            }
        }
        match put(to, bytes) {
            (written, None) => (written, to.flush().err()),
            failed => failed,
        }
    }
}

fn put(to: &mut dyn Write, bytes: &[u8]) -> (usize, Option<io::Error>) {
    let mut written = 0;
    while written < bytes.len() {
        match to.write(&bytes[written..]) {
            Ok(0) => return (written, Some(io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(failure) if failure.kind() == io::ErrorKind::Interrupted => {}
            Err(failure) => return (written, Some(failure)),
        }
    }
    (written, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a few bytes, then has no room.
    struct Small(Vec<u8>, usize);

    impl Write for Small {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let room = self.1 - self.0.len();
            if room == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let taken = bytes.len().min(room).min(3);
            self.0.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_was_written_before_a_failure_is_known() {
        let mut small = Small(Vec::new(), 8);
        let (written, failure) = put(&mut small, b"one\ntwo\nthree\n");
        assert_eq!(written, 8);
        assert_eq!(failure.unwrap().kind(), io::ErrorKind::StorageFull);
        assert_eq!(small.0, b"one\ntwo\n");
        let (written, failure) = put(&mut Small(Vec::new(), 9), b"one\ntwo\n");
        assert!(written == 8 && failure.is_none());
    }
}
