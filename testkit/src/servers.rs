//! What database servers of a test's own have in common: who runs them, where their programs are.

use std::ffi::OsString;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::UNIX_EPOCH;

use crate::disk::Disk;

/// Whether the bridge comes to a test's servers as a user `least`, with the rights that the docs name
/// and no others: where `OUTGROW_TEST_RIGHTS` is `least`.
pub fn least() -> bool {
    std::env::var_os("OUTGROW_TEST_RIGHTS").is_some_and(|rights| rights == "least")
}

/// As whom the bridge comes: a user that may do everything, or the other.
pub fn bridge_user() -> &'static str {
    if least() { "least" } else { "outgrow" }
}

/// The other user, if we are root: servers refuse to run as root.
pub(crate) fn other_user(candidates: &[&'static str]) -> Option<&'static str> {
    let text = |args: &[&str]| {
        let output = Command::new("id").args(args).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    if text(&["-u"])? != "0" {
        return None;
    }
    candidates
        .iter()
        .copied()
        .find(|user| text(&["-u", user]).is_some())
}

/// A program, as a user that may run it, in a folder that the user may read.
pub(crate) fn run(user: Option<&str>, program: &Path, dir: &Path) -> Command {
    let mut words = words(user, program).into_iter();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).current_dir(dir);
    command
}

/// As [`run`], with the disk in its place where there is one.
pub(crate) fn run_on(
    disk: Option<&Disk>,
    user: Option<&str>,
    program: &Path,
    dir: &Path,
) -> Command {
    let Some(disk) = disk else {
        return run(user, program, dir);
    };
    let mut command = disk.beside(dir);
    command.args(words(user, program));
    command
}

/// What runs a program as this user.
fn words(user: Option<&str>, program: &Path) -> Vec<OsString> {
    let Some(user) = user else {
        return vec![program.into()];
    };
    let group = Command::new("id").args(["-g", user]).output();
    let group = group.expect("id can be run");
    let group = String::from_utf8_lossy(&group.stdout).trim().to_owned();
    let before = [
        "setpriv",
        "--reuid",
        user,
        "--regid",
        &group,
        "--clear-groups",
    ];
    let before = before.iter().map(OsString::from);
    before.chain([program.into()]).collect()
}

/// A small disk over a server's files, which are put on it.
pub(crate) fn small(data: &Path, megabytes: u32) -> Disk {
    let disk = Disk::at(data, megabytes);
    // Only those beside the disk see it there: here is what was there before. As it is, owner and all.
    copy(&data.join("."), &disk.path());
    disk
}

pub(crate) fn give(path: &Path, user: Option<&str>) {
    let Some(user) = user else { return };
    let given = Command::new("chown").arg(user).arg(path).status();
    assert!(given.is_ok_and(|status| status.success()), "chown {user}");
}

/// A program in these folders, then in the path.
#[allow(clippy::panic)] // What to install is the message of the failing test.
pub(crate) fn binary(names: &[&str], mut folders: Vec<PathBuf>, install: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    folders.extend(std::env::split_paths(&path));
    folders.push(PathBuf::from("/usr/sbin"));
    folders
        .iter()
        .flat_map(|folder| names.iter().map(move |name| folder.join(name)))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{names:?} is not on this machine: install {install}"))
}

/// Of folders that this process has begun to fill.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// Puts the files of a freshly installed server at `data`, which is not there yet. Installing takes
/// a second or more of a core, so it is done once for a build; each test has a copy, kept beside the
/// test programs. Whoever clears those clears it.
pub(crate) fn installed(program: &Path, user: Option<&str>, data: &Path, install: impl FnOnce()) {
    let Some(kept) = kept(program, user) else {
        return install();
    };
    if kept.is_dir() {
        return copy(&kept, data);
    }
    install();
    // Others may be doing the same, also threads of this process: the first that is done is the one that counts.
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let own = kept.with_extension(format!("{}-{next}", std::process::id()));
    // Of an earlier process of this number, that was killed in the middle.
    let _ = std::fs::remove_dir_all(&own);
    copy(data, &own);
    if std::fs::rename(&own, &kept).is_err() {
        let _ = std::fs::remove_dir_all(&own);
    }
}

/// Of this program, as it is now, for this user.
fn kept(program: &Path, user: Option<&str>) -> Option<PathBuf> {
    let test = std::env::current_exe().ok()?;
    let folder = test.parent()?.parent()?.join("servers");
    std::fs::create_dir_all(&folder).ok()?;
    let file = std::fs::metadata(program).ok()?;
    let changed = file.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    // Those of several versions may be of the same time.
    let mut place = std::hash::DefaultHasher::new();
    program.hash(&mut place);
    let name = program.file_name()?.to_string_lossy();
    let user = user.unwrap_or("own");
    Some(folder.join(format!(
        "{name}-{}-{:x}-{user}",
        changed.as_secs(),
        place.finish()
    )))
}

/// `kill -9` of a server and of the processes it has started, from anywhere, also where nothing can
/// wait: within a hook of a program that is tested. A server's own `crash` starts it again.
pub fn kill_server(pid: u32) {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    let _ = Command::new("kill")
        .args(["-KILL", &pid.to_string()])
        .args(children.split_whitespace())
        .stderr(std::process::Stdio::null())
        .status();
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.is_ok_and(|status| status.success()), "cp");
}
