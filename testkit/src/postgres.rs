//! A PostgreSQL server of a test's own: in a temporary directory, on a free loopback port, gone
//! with the test. PostgreSQL refuses to run as root, so under root another user runs it.
//!
//! `OUTGROW_PG_BIN` names the folder of its programs, or several with `:` between them: the servers
//! of a test take turns then, so that a test of two has one of each version.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Executor};
use tempfile::TempDir;

use crate::certificates::{Authority, ServerFiles, Signed};
use crate::disk::Disk;
use crate::eventually;
use crate::process::free_address;
use crate::relay::Relay;
use crate::servers::{binary, bridge_user, give, installed, other_user, run, run_on, small};

const INSTALL: &str = "PostgreSQL (Debian: postgresql), or set OUTGROW_PG_BIN";
/// Users that run the server when we are root.
const USERS: [&str; 2] = ["postgres", "nobody"];
/// A server on a busy machine is up within seconds.
const START: Duration = Duration::from_secs(60);

/// A server. Dropping it stops it and removes its files.
#[derive(Debug)]
pub struct Postgres {
    dir: TempDir,
    /// Its program.
    program: PathBuf,
    port: u16,
    user: Option<&'static str>,
    tls: Option<ServerFiles>,
    server: Child,
    pool: PgPool,
    /// Behind the server, which it outlives.
    disk: Option<Disk>,
}

/// Who may connect to a server with TLS: the test by the socket, all others with a certificate in
/// their own name.
const STRICT: &str = "local all all trust\nhostssl all all all trust clientcert=verify-full\n";

/// A user that may do what the docs say that a bridge must: be in the owner's role, make a schema, read
/// the log.
const RIGHTS: &str = "CREATE ROLE least LOGIN REPLICATION; GRANT CREATE ON DATABASE postgres TO least; \
    GRANT CREATE ON SCHEMA public TO least; GRANT outgrow TO least";

impl Postgres {
    /// An empty server that prepares for crashes as a real one does, but for the waits for the
    /// disk.
    ///
    /// # Panics
    /// Panics, saying what to install, when there is no PostgreSQL on this machine.
    pub async fn start() -> Self {
        Self::begin(None, None).await
    }

    /// A server that takes connections only over TLS, from clients with a certificate of this
    /// authority in the name of the user.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub async fn strict(authority: &Authority, signed: Signed) -> Self {
        let ca = authority.file();
        Self::begin(Some(ServerFiles { ca, signed }), None).await
    }

    /// A server whose files are on a disk of so many megabytes.
    ///
    /// # Panics
    /// As [`Self::start`], and where this machine lets nobody mount.
    pub async fn on_disk(megabytes: u32) -> Self {
        Self::begin(None, Some(megabytes)).await
    }

    /// The disk of a server that has one of its own.
    ///
    /// # Panics
    /// Panics where it has none.
    pub fn disk(&self) -> &Disk {
        self.disk.as_ref().expect("it was started on one")
    }

    /// Whether it runs: a server whose log cannot be written ends.
    pub fn runs(&mut self) -> bool {
        matches!(self.server.try_wait(), Ok(None))
    }

    async fn begin(tls: Option<ServerFiles>, disk: Option<u32>) -> Self {
        let dir = tempfile::tempdir().expect("there is room for a temporary directory");
        let user = other_user(&USERS);
        let data = dir.path().join("data");
        give(dir.path(), user);
        let program = program("postgres", turn());
        let initdb = program.with_file_name("initdb");
        installed(&initdb, user, &data, || {
            install(user, &initdb, dir.path(), &data);
        });
        let disk = disk.map(|megabytes| small(&data, megabytes));
        let tls = tls.map(|files| files.install(dir.path(), user));
        if tls.is_some() {
            std::fs::write(data.join("pg_hba.conf"), STRICT).expect("its rules can be written");
        }
        let port = free_address().port();
        let place = (dir.path(), disk.as_ref());
        let server = serve(user, &program, place, (port, tls.as_ref()), &[]);
        let options = PgConnectOptions::new_without_pgpass().port(port);
        let options = options.username("outgrow").database("postgres");
        let options = match &tls {
            None => options.host("127.0.0.1"),
            Some(_) => options.socket(&data),
        };
        let pool = PgPoolOptions::new()
            .max_connections(4)
            .connect_lazy_with(options);
        let mut made = Self {
            dir,
            program,
            port,
            user,
            tls,
            server,
            pool,
            disk,
        };
        made.ready().await;
        made.execute(RIGHTS).await;
        made
    }

    /// A server after these statements.
    ///
    /// # Panics
    /// As [`Self::start`], and when a statement fails.
    pub async fn with(statements: &str) -> Self {
        let server = Self::start().await;
        server.execute(statements).await;
        server
    }

    async fn ready(&mut self) {
        let log = self.dir.path().join("log");
        let (server, pool) = (&mut self.server, &self.pool);
        eventually("PostgreSQL to take connections", START, || {
            let ended = server.try_wait().ok().flatten();
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(ended.is_none(), "PostgreSQL ended: {}", said());
            async move { pool.execute("SELECT 1").await.ok() }
        })
        .await;
    }

    /// `kill -9` of all its processes, and a new start that recovers.
    ///
    /// # Panics
    /// Panics when it does not come back.
    pub async fn crash(&mut self) {
        self.restart(&[]).await;
    }

    /// As [`Self::crash`], with other settings from then on, as `name=value`.
    ///
    /// # Panics
    /// As [`Self::crash`].
    pub async fn restart(&mut self, settings: &[&str]) {
        self.kill().await;
        self.go_on(settings).await;
    }

    /// Takes a copy of all files, as of a crash at this moment.
    ///
    /// # Panics
    /// Panics when the files cannot be copied, or the server does not come back.
    pub async fn backup(&mut self) {
        self.kill().await;
        let copied = Command::new("cp")
            .args(["-a", "data", "backup"])
            .current_dir(self.dir.path())
            .status();
        assert!(copied.is_ok_and(|status| status.success()), "cp");
        self.go_on(&[]).await;
    }

    /// A crash, and a start from what [`Self::backup`] has taken.
    ///
    /// # Panics
    /// Panics when there is no backup, or the server does not come back.
    pub async fn restore(&mut self) {
        self.kill().await;
        let (data, backup) = (self.dir.path().join("data"), self.dir.path().join("backup"));
        std::fs::remove_dir_all(&data).expect("there is a data folder");
        std::fs::rename(backup, data).expect("there is a backup");
        self.go_on(&[]).await;
    }

    /// A standby that follows this server by its log; like any, it has none of its slots. From version 17 on
    /// it fetches those that are made to outlive their server.
    ///
    /// # Panics
    /// Panics when the files cannot be copied, or a server does not come up.
    pub async fn standby(&mut self) -> Self {
        let slot = "SELECT pg_create_physical_replication_slot('standby', true)";
        self.execute(slot).await;
        let fetches = self.version().await >= 17;
        self.kill().await;
        let dir = tempfile::tempdir().expect("there is room for a temporary directory");
        give(dir.path(), self.user);
        let (from, data) = (self.dir.path().join("data"), dir.path().join("data"));
        let copied = Command::new("cp").arg("-a").args([&from, &data]).status();
        assert!(copied.is_ok_and(|status| status.success()), "cp");
        for slot in std::fs::read_dir(data.join("pg_replslot")).expect("a folder of slots") {
            let path = slot.expect("a slot").path();
            std::fs::remove_dir_all(path).expect("the copy's slots can be removed");
        }
        std::fs::write(data.join("standby.signal"), "").expect("it can be written");
        self.go_on(&[]).await;
        let port = free_address().port();
        let leader = format!(
            "primary_conninfo=host=127.0.0.1 port={} user=outgrow dbname=postgres",
            self.port
        );
        let mut settings = vec![
            &*leader,
            "primary_slot_name=standby",
            "hot_standby_feedback=on",
        ];
        if fetches {
            settings.push("sync_replication_slots=on");
        }
        let server = serve(
            self.user,
            &self.program,
            (dir.path(), None),
            (port, None),
            &settings,
        );
        let options = PgConnectOptions::new_without_pgpass().port(port);
        let options = options.username("outgrow").database("postgres");
        let mut made = Self {
            dir,
            program: self.program.clone(),
            port,
            user: self.user,
            tls: None,
            server,
            pool: PgPoolOptions::new()
                .max_connections(4)
                .connect_lazy_with(options.host("127.0.0.1")),
            disk: None,
        };
        made.ready().await;
        made
    }

    async fn kill(&mut self) {
        // Held first, so that it has no more children than are found.
        let postmaster = self.server.id().to_string();
        signal("-STOP", &postmaster);
        let children = children(&postmaster);
        let _ = self.server.kill();
        let _ = self.server.wait();
        // By themselves they would see its end, and might write on for a moment.
        for child in &children {
            signal("-KILL", child);
        }
        let data = self.dir.path().join("data");
        let data = self.disk.as_ref().map_or(data, Disk::path);
        let _ = std::fs::remove_file(data.join("postmaster.pid"));
        eventually("the old processes to be gone", START, || async {
            let gone = !children.iter().any(|child| lives(child));
            let port = self.port;
            std::net::TcpListener::bind(("127.0.0.1", port))
                .ok()
                .filter(|_| gone)
        })
        .await;
    }

    async fn go_on(&mut self, settings: &[&str]) {
        // The shared memory of the old server is still in use until its last child has ended.
        let mut tries = 0;
        loop {
            let way = (self.port, self.tls.as_ref());
            let place = (self.dir.path(), self.disk.as_ref());
            self.server = serve(self.user, &self.program, place, way, settings);
            tokio::time::sleep(Duration::from_millis(300)).await;
            if self.server.try_wait().ok().flatten().is_none() {
                break;
            }
            tries += 1;
            assert!(tries < 50, "PostgreSQL does not start again");
        }
        self.ready().await;
    }

    /// The oldest of the versions that this test's servers may have, as `18`.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn oldest() -> u32 {
        static OLDEST: OnceLock<u32> = OnceLock::new();
        let of = |turn| {
            let said = Command::new(program("postgres", turn))
                .arg("--version")
                .output();
            let said = said.expect("the server can be run").stdout;
            let said = String::from_utf8_lossy(&said).into_owned();
            // postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)
            let number = said
                .split(") ")
                .nth(1)
                .and_then(|rest| rest.split(['.', ' ', 'b']).next());
            number
                .and_then(|text| text.trim().parse().ok())
                .expect("its version")
        };
        let all = || (0..folders().len().max(1)).map(of).min();
        *OLDEST.get_or_init(|| all().expect("there is one"))
    }

    /// The version of this server, as `18`.
    ///
    /// # Panics
    /// Panics when it does not tell.
    pub async fn version(&self) -> i64 {
        self.number("SELECT current_setting('server_version_num')::int8 / 10000")
            .await
    }

    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// `postgres://..`, as the config wants it; a superuser, or [`crate::least`].
    pub fn url(&self) -> String {
        url_of(self.port)
    }

    /// The number of its first process.
    pub fn pid(&self) -> u32 {
        self.server.id()
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// As [`Self::url`], by way of a relay.
    pub fn url_through(&self, relay: &Relay) -> String {
        url_of(relay.address().port())
    }

    /// `postgres://..` by this name of the machine, with these options, e.g. `sslmode=require`.
    pub fn url_by(&self, host: &str, options: &str) -> String {
        format!("postgres://outgrow@{host}:{}/postgres?{options}", self.port)
    }

    /// As [`Self::url`], for another user.
    pub fn url_for(&self, user: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/postgres", self.port)
    }

    /// Runs one or more statements.
    ///
    /// # Panics
    /// Panics, showing the statement, when one fails.
    #[allow(clippy::panic)] // The statement is the message of the failing test.
    pub async fn execute(&self, statements: &str) {
        self.pool
            .execute(sqlx::raw_sql(AssertSqlSafe(statements.to_owned())))
            .await
            .unwrap_or_else(|e| panic!("{e}: {statements}"));
    }

    /// The one integer (`bigint`) that a query gives.
    ///
    /// # Panics
    /// Panics, showing the query, when it gives none.
    #[allow(clippy::panic)] // The query is the message of the failing test.
    pub async fn number(&self, query: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(query.to_owned()))
            .fetch_one(&self.pool)
            .await
            .unwrap_or_else(|e| panic!("{e}: {query}"))
    }
}

fn signal(which: &str, pid: &str) {
    let _ = Command::new("kill")
        .args([which, pid])
        .stderr(Stdio::null())
        .status();
}

/// The processes that this one has made, as far as the system tells.
fn children(pid: &str) -> Vec<String> {
    let said = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let said = said.unwrap_or_default();
    said.split_whitespace().map(str::to_owned).collect()
}

/// Whether a process runs still; one that has ended may wait for somebody to ask how.
fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default();
    !matches!(state.trim_start().chars().next(), None | Some('Z' | 'X'))
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGQUIT: an immediate shutdown, children and all.
        let _ = Command::new("kill")
            .arg("-QUIT")
            .arg(self.server.id().to_string())
            .status();
        let _ = self.server.wait();
    }
}

fn url_of(port: u16) -> String {
    let user = bridge_user();
    format!("postgres://{user}@127.0.0.1:{port}/postgres")
}

fn serve(
    user: Option<&str>,
    program: &Path,
    (dir, disk): (&Path, Option<&Disk>),
    (port, tls): (u16, Option<&ServerFiles>),
    settings: &[&str],
) -> Child {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(dir.join("log"))
        .expect("a log file");
    let mut server = run_on(disk, user, program, dir);
    if let Some(files) = tls {
        let paths = [
            ("ssl_ca_file", &files.ca),
            ("ssl_cert_file", &files.signed.certificate),
            ("ssl_key_file", &files.signed.key),
        ];
        server.args(["-c", "ssl=on"]);
        for (name, path) in paths {
            server.args(["-c", &format!("{name}={}", path.display())]);
        }
    }
    server
        .args(["-D", "data", "-k", "."])
        .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"])
        .args(["-c", "wal_level=logical", "-c", "max_connections=60"])
        .args(["-c", &format!("port={port}")])
        .args(settings.iter().flat_map(|setting| ["-c", setting]))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("the server can be run")
}

/// Makes the files of an empty server.
fn install(user: Option<&str>, initdb: &Path, dir: &Path, data: &Path) {
    let made = run(user, initdb, dir)
        .args(["--no-sync", "--auth=trust", "--username=outgrow"])
        .args(["--encoding=UTF8", "--locale=C.UTF-8", "--pgdata"])
        .arg(data)
        .output()
        .expect("initdb can be run");
    let said = String::from_utf8_lossy(&made.stderr).into_owned();
    assert!(made.status.success(), "initdb: {said}");
}

/// How many servers were started before.
fn turn() -> usize {
    static STARTED: AtomicUsize = AtomicUsize::new(0);
    STARTED.fetch_add(1, Ordering::Relaxed)
}

/// The folders that are named for the servers.
fn folders() -> Vec<PathBuf> {
    let named = std::env::var_os("OUTGROW_PG_BIN").unwrap_or_default();
    let folders = std::env::split_paths(&named);
    folders
        .filter(|folder| !folder.as_os_str().is_empty())
        .collect()
}

/// A program of the server: of the folder of `$OUTGROW_PG_BIN` whose turn it is, of Debian's folders, the
/// newest first, or of the path.
fn program(name: &str, turn: usize) -> PathBuf {
    let own = folders();
    if let Some(own) = own.get(turn.checked_rem(own.len()).unwrap_or(0)) {
        let program = own.join(name);
        assert!(
            program.is_file(),
            "OUTGROW_PG_BIN: no {}",
            program.display()
        );
        return program;
    }
    let debian = std::fs::read_dir("/usr/lib/postgresql");
    let mut debian: Vec<PathBuf> = debian
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .collect();
    debian.sort();
    let folders = debian.into_iter().rev().collect();
    binary(&[name], folders, INSTALL)
}
