//! A disk of some megabytes, to be filled: a file system in memory, which only a process of the test's
//! own has mounted. It is gone with that process, whatever becomes of the test.
//!
//! From outside it is reached through that process. A server, which may run as another user, is
//! started beside it, and so is the test itself where a library reads no such path (SQLite).

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// What fills the rest of a disk.
const BALLAST: &str = "ballast";

/// Where the disk is, told to a test that runs beside it.
const BESIDE: &str = "OUTGROW_TEST_DISK";

#[derive(Debug)]
pub struct Disk {
    /// `None` beside it, where another process holds it.
    holder: Option<Child>,
    /// Where it is mounted.
    mounted: PathBuf,
    /// The user's own namespace around it, where mounting is nobody else's right.
    user: bool,
    /// Removed behind it.
    dir: Option<TempDir>,
}

impl Disk {
    /// A disk of so many megabytes.
    ///
    /// # Panics
    /// Panics where this machine lets nobody mount: `scripts/test` looks before.
    pub fn of(megabytes: u32) -> Self {
        let dir = tempfile::tempdir().expect("there is room for a temporary directory");
        let mut disk = Self::at(dir.path(), megabytes);
        disk.dir = Some(dir);
        disk
    }

    /// Runs a test, named in full, beside a disk of so many megabytes: there this gives it the
    /// disk, and here nothing is left to be done.
    ///
    /// # Panics
    /// As [`Self::of`], and when the test fails.
    pub fn beside_it(megabytes: u32, test: &str) -> Option<Self> {
        if let Some(mounted) = std::env::var_os(BESIDE) {
            return Some(Self {
                holder: None,
                mounted: mounted.into(),
                user: false,
                dir: None,
            });
        }
        let disk = Self::of(megabytes);
        let program = std::env::current_exe().expect("a test is a program");
        let mut command = disk.beside(&disk.mounted);
        let ran = command
            .arg(program)
            .args(["--exact", test, "--ignored", "--nocapture"])
            .env(BESIDE, &disk.mounted)
            .status();
        assert!(
            ran.is_ok_and(|status| status.success()),
            "{test} has failed"
        );
        None
    }

    /// As [`Self::of`], over a folder.
    #[allow(clippy::panic)] // What the machine says is the message of the failing test.
    pub(crate) fn at(folder: &Path, megabytes: u32) -> Self {
        let id = Command::new("id")
            .arg("-u")
            .output()
            .expect("id can be run");
        let user = id.stdout.trim_ascii() != b"0";
        let script = format!(
            "mount -t tmpfs -o size={megabytes}m,mode=0777 disk \"$0\" && echo mounted && exec cat"
        );
        let mut holder = Command::new("unshare")
            .args(if user {
                &["-r", "-U", "-m"][..]
            } else {
                &["-m"]
            })
            .args(["sh", "-c", &script])
            .arg(folder)
            // It ends when the test does.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare can be run");
        let mut said = String::new();
        let output = holder.stdout.take().expect("it is piped");
        let read = BufReader::new(output).read_line(&mut said);
        if read.is_err() || said.trim() != "mounted" {
            let _ = holder.kill();
            let _ = holder.wait();
            panic!("nobody may mount a file system here: {said}");
        }
        Self {
            holder: Some(holder),
            mounted: folder.to_owned(),
            user,
            dir: None,
        }
    }

    /// The disk, as everybody who runs as the test does sees it.
    pub fn path(&self) -> PathBuf {
        let Some(holder) = &self.holder else {
            return self.mounted.clone();
        };
        let root = PathBuf::from(format!("/proc/{}/root", holder.id()));
        let mounted = self.mounted.strip_prefix("/").unwrap_or(&self.mounted);
        root.join(mounted)
    }

    /// What runs a program where the disk is mounted, in a folder as it is called there. Servers that
    /// refuse to run as root do not: in a namespace of the user's own everybody else is nobody, so
    /// there is one more in it.
    pub(crate) fn beside(&self, folder: &Path) -> Command {
        let holder = self.holder.as_ref().expect("a disk of this process's own");
        let mut command = Command::new("nsenter");
        command.args(["--target", &holder.id().to_string(), "--mount"]);
        if self.user {
            command.args(["--user", "--preserve-credentials"]);
            command.args(["unshare", "-U", "--map-user=1000", "--map-group=1000"]);
        }
        command.args(["sh", "-c", "cd \"$0\" && exec \"$@\""]);
        command.arg(folder);
        command
    }

    /// Fills what is left of it.
    ///
    /// # Panics
    /// Panics when that cannot be done.
    pub fn fill(&self) {
        let mut ballast = File::options()
            .create(true)
            .append(true)
            .open(self.path().join(BALLAST))
            .expect("a file on the disk");
        // Down to the last byte.
        let mut bytes = vec![0; 1 << 20];
        while !bytes.is_empty() {
            match ballast.write(&bytes) {
                Ok(written) if written > 0 => {}
                _ => bytes.truncate(bytes.len() / 2),
            }
        }
    }

    /// Takes away what has filled it.
    ///
    /// # Panics
    /// Panics when it was not filled.
    pub fn clear(&self) {
        std::fs::remove_file(self.path().join(BALLAST)).expect("it was filled");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(holder) = &mut self.holder {
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }
}
