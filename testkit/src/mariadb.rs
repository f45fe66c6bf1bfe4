//! A MariaDB server of a test's own: in a temporary directory, on a free loopback port, gone with
//! the test. Where `OUTGROW_MYSQL` is set it is a MySQL server ([`crate::mysql`]), and where
//! `OUTGROW_MARIADB` is, the MariaDB of that folder, as `scripts/mysql` makes one.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sqlx::mysql::{MySqlPool, MySqlPoolOptions};
use sqlx::{AssertSqlSafe, Executor};
use tempfile::TempDir;

use crate::certificates::{Authority, ServerFiles, Signed};
use crate::disk::Disk;
use crate::eventually;
use crate::mysql;
use crate::process::free_address;
use crate::relay::Relay;
use crate::servers::{binary, bridge_user, give, installed, other_user, run, run_on, small};

const INSTALL: &str = "MariaDB (Debian: mariadb-server)";
const USERS: [&str; 2] = ["mysql", "nobody"];
/// A server on a busy machine is up within seconds.
const START: Duration = Duration::from_secs(60);

/// What the first start does: a database, a user that may do everything, and one that may do what
/// the docs say that a bridge must.
const INIT: &str = "CREATE DATABASE IF NOT EXISTS shop CHARACTER SET utf8mb4;\n\
    CREATE USER IF NOT EXISTS 'outgrow'@'%';\n\
    GRANT ALL PRIVILEGES ON *.* TO 'outgrow'@'%' WITH GRANT OPTION;\n\
    CREATE USER IF NOT EXISTS 'least'@'%';\n\
    GRANT CREATE, DROP, SELECT, INSERT, UPDATE, DELETE, TRIGGER, ALTER, INDEX ON shop.* TO 'least'@'%';\n\
    GRANT REPLICATION SLAVE, REPLICATION CLIENT, PROCESS ON *.* TO 'least'@'%';\n";

/// What makes a server log rows as they change, with the names of their columns.
const LOGGED: [&str; 5] = [
    "--log-bin=log-bin",
    "--binlog-format=ROW",
    "--binlog-row-metadata=FULL",
    "--server-id=7",
    // Or who is no superuser may make no triggers.
    "--log-bin-trust-function-creators=1",
];

/// A server. Dropping it stops it and removes its files.
#[derive(Debug)]
pub struct Mariadb {
    dir: TempDir,
    port: u16,
    user: Option<&'static str>,
    tls: Option<ServerFiles>,
    options: Vec<String>,
    server: Child,
    pool: MySqlPool,
    /// Behind the server, which it outlives.
    disk: Option<Disk>,
}

impl Mariadb {
    /// An empty server with a database `shop`.
    ///
    /// # Panics
    /// Panics, saying what to install, when there is no MariaDB on this machine.
    pub async fn start() -> Self {
        Self::begin(None, &[], None).await
    }

    /// A server without TLS, which MySQL has by itself and MariaDB has not.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub async fn plain() -> Self {
        let without = ["--tls-version="];
        let options: &[&str] = if mysql::is_mysql() { &without } else { &[] };
        Self::begin(None, options, None).await
    }

    /// A server with the row log on, after these statements.
    ///
    /// # Panics
    /// As [`Self::start`], and when a statement fails.
    pub async fn logged(statements: &str) -> Self {
        let server = Self::begin(None, &logged(), None).await;
        server.execute(statements).await;
        server
    }

    /// A server whose files are on a disk of so many megabytes.
    ///
    /// # Panics
    /// As [`Self::start`], and where this machine lets nobody mount.
    pub async fn on_disk(megabytes: u32) -> Self {
        Self::begin(None, &[], Some(megabytes)).await
    }

    /// The disk of a server that has one of its own.
    ///
    /// # Panics
    /// Panics where it has none.
    pub fn disk(&self) -> &Disk {
        self.disk.as_ref().expect("it was started on one")
    }

    /// A server with TLS, and a user `strict` that must come with a certificate of this
    /// authority.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub async fn strict(authority: &Authority, signed: Signed) -> Self {
        let ca = authority.file();
        let server = Self::begin(Some(ServerFiles { ca, signed }), &logged(), None).await;
        server
            .execute("CREATE USER strict@'%' REQUIRE X509; GRANT ALL ON *.* TO strict@'%'")
            .await;
        server
    }

    /// A replica of a server with the row log on, with a row log of its own. It has not caught up yet.
    ///
    /// # Panics
    /// As [`Self::logged`].
    pub async fn replica_of(primary: &Self) -> Self {
        let mut own = logged();
        own.extend(["--server-id=8", "--log-slave-updates"]);
        let server = Self::begin(None, &own, None).await;
        let port = primary.port;
        server.forget_log().await;
        let follow = if mysql::is_mysql() {
            mysql::follow(port)
        } else {
            format!(
                "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {port}, \
                 MASTER_USER = 'outgrow', MASTER_CONNECT_RETRY = 1, MASTER_USE_GTID = slave_pos; START SLAVE"
            )
        };
        server.execute(&follow).await;
        server
    }

    /// Waits until it has all that another server has written to its log.
    ///
    /// # Panics
    /// Panics when that takes too long.
    pub async fn catch_up_with(&self, primary: &Self) {
        let upto = primary.gtids().await;
        let wait = match mysql::is_mysql() {
            true => "WAIT_FOR_EXECUTED_GTID_SET",
            false => "MASTER_GTID_WAIT",
        };
        let wait = format!("SELECT {wait}('{upto}', {})", START.as_secs());
        assert_eq!(self.number(&wait).await, 0, "the replica has not {upto}");
    }

    /// Ends its being a replica: it takes writes of its own.
    ///
    /// # Panics
    /// As [`Self::execute`].
    pub async fn promote(&self) {
        self.stop_following().await;
        let reset = match mysql::is_mysql() {
            true => "RESET REPLICA ALL",
            false => "RESET SLAVE ALL",
        };
        self.execute(reset).await;
    }

    /// Removes its log, which begins anew.
    ///
    /// # Panics
    /// As [`Self::execute`].
    pub async fn forget_log(&self) {
        let version = self.text("SELECT VERSION()").await;
        self.execute(mysql::reset(&version)).await;
    }

    /// Has a replica take no more of its server's log.
    ///
    /// # Panics
    /// As [`Self::execute`].
    pub async fn stop_following(&self) {
        let stop = match mysql::is_mysql() {
            true => "STOP REPLICA",
            false => "STOP SLAVE",
        };
        self.execute(stop).await;
    }

    /// What tells it from other servers, as the bridge says it.
    ///
    /// # Panics
    /// As [`Self::text`].
    pub async fn identity(&self) -> String {
        let name = match mysql::is_mysql() {
            true => "server_uuid",
            false => "server_id",
        };
        let query = format!("SELECT CAST(@@global.{name} AS CHAR)");
        format!("{name} {}", self.text(&query).await)
    }

    /// What the names of its own transactions begin with.
    ///
    /// # Panics
    /// As [`Self::text`].
    pub async fn own_gtids(&self) -> String {
        let identity = self.identity().await;
        let name = identity.split(' ').next_back().unwrap_or_default();
        match mysql::is_mysql() {
            true => format!("{name}:"),
            false => format!("0-{name}-"),
        }
    }

    /// The transactions that are in its log.
    ///
    /// # Panics
    /// As [`Self::text`].
    pub async fn gtids(&self) -> String {
        let name = match mysql::is_mysql() {
            true => "gtid_executed",
            false => "gtid_binlog_pos",
        };
        self.text(&format!("SELECT @@global.{name}")).await
    }

    async fn begin(tls: Option<ServerFiles>, options: &[&str], disk: Option<u32>) -> Self {
        let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
        let dir = tempfile::tempdir().expect("there is room for a temporary directory");
        let user = other_user(&USERS);
        give(dir.path(), user);
        std::fs::write(dir.path().join("init.sql"), INIT).expect("a file");
        let data = dir.path().join("data");
        if let Some(program) = mysql::program() {
            installed(&program, user, &data, || {
                mysql::install(user, &program, dir.path());
            });
        } else {
            let program = ["mariadb-install-db", "mysql_install_db"];
            let program = binary(&program, other(), INSTALL);
            installed(&program, user, &data, || {
                install(user, &program, dir.path());
            });
        }
        let disk = disk.map(|megabytes| small(&dir.path().join("data"), megabytes));
        let tls = tls.map(|files| files.install(dir.path(), user));
        let port = free_address().port();
        let place = (dir.path(), disk.as_ref());
        let server = serve(user, place, port, tls.as_ref(), &options);
        let pool = MySqlPoolOptions::new()
            .max_connections(8)
            .acquire_timeout(Duration::from_secs(2))
            .connect_lazy(&format!("mysql://outgrow@127.0.0.1:{port}/shop"))
            .expect("a good URL");
        let mut made = Self {
            dir,
            port,
            user,
            tls,
            options,
            server,
            pool,
            disk,
        };
        made.ready().await;
        if mysql::is_mysql() && made.pool.execute("SELECT MD5('')").await.is_err() {
            made.execute(mysql::HASHES).await;
        }
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
        eventually("MariaDB to take connections", START, || {
            let ended = server.try_wait().ok().flatten();
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(ended.is_none(), "MariaDB ended: {}", said());
            async move { pool.execute("SELECT 1").await.ok() }
        })
        .await;
    }

    /// `kill -9`, and a new start that recovers.
    ///
    /// # Panics
    /// Panics when it does not come back.
    pub async fn crash(&mut self) {
        self.kill();
        self.go_on().await;
    }

    /// A crash, and a new start with these options besides; later ones count.
    ///
    /// # Panics
    /// Panics when it does not come back.
    pub async fn restart(&mut self, options: &[&str]) {
        self.options.extend(options.iter().map(|o| (*o).to_owned()));
        self.crash().await;
    }

    /// A crash, and a start from what [`Self::backup`] has taken.
    ///
    /// # Panics
    /// Panics when there is no backup, or the server does not come back.
    pub async fn restore(&mut self) {
        self.kill();
        let (data, backup) = (self.dir.path().join("data"), self.dir.path().join("backup"));
        std::fs::remove_dir_all(&data).expect("there is a data folder");
        std::fs::rename(backup, data).expect("there is a backup");
        self.go_on().await;
    }

    /// Takes a copy of all files, as of a crash at this moment.
    ///
    /// # Panics
    /// Panics when the files cannot be copied, or the server does not come back.
    pub async fn backup(&mut self) {
        self.kill();
        let copied = Command::new("cp")
            .args(["-a", "data", "backup"])
            .current_dir(self.dir.path())
            .status();
        assert!(copied.is_ok_and(|status| status.success()), "cp");
        self.go_on().await;
    }

    /// `kill -9`, and nothing more.
    pub fn kill(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }

    /// A start of one that was killed.
    ///
    /// # Panics
    /// Panics when it does not come back.
    pub async fn go_on(&mut self) {
        let (tls, options) = (self.tls.as_ref(), &self.options);
        let place = (self.dir.path(), self.disk.as_ref());
        self.server = serve(self.user, place, self.port, tls, options);
        self.ready().await;
    }

    pub fn pool(&self) -> &MySqlPool {
        &self.pool
    }

    /// `mysql://..`, as the config wants it; a user that may do everything, or [`crate::least`].
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

    /// `mysql://..` for a user, by this name of the machine, with these options.
    pub fn url_by(&self, user: &str, host: &str, options: &str) -> String {
        format!("mysql://{user}@{host}:{}/shop?{options}", self.port)
    }

    /// Runs one or more statements.
    ///
    /// # Panics
    /// Panics, showing the statement, when one fails.
    #[allow(clippy::panic)] // The statement is the message of the failing test.
    pub async fn execute(&self, statements: &str) {
        let statements = mysql::words(statements);
        // InnoDB undoes one of those that wait for each other, and asks to try again.
        for last in [false, false, false, false, true] {
            let text = sqlx::raw_sql(AssertSqlSafe(statements.clone().into_owned()));
            match self.pool.execute(text).await {
                Ok(_) => return,
                Err(sqlx::Error::Database(e)) if !last && e.code().as_deref() == Some("40001") => {}
                Err(e) => panic!("{e}: {statements}"),
            }
        }
    }

    /// The one text that a query gives.
    ///
    /// # Panics
    /// Panics, showing the query, when it gives none.
    #[allow(clippy::panic)] // The query is the message of the failing test.
    pub async fn text(&self, query: &str) -> String {
        sqlx::query_scalar(AssertSqlSafe(query.to_owned()))
            .fetch_one(&self.pool)
            .await
            .unwrap_or_else(|e| panic!("{e}: {query}"))
    }

    /// The one integer that a query gives.
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

impl Drop for Mariadb {
    fn drop(&mut self) {
        if matches!(self.server.try_wait(), Ok(Some(_))) {
            return;
        }
        let _ = Command::new("kill")
            .arg("-KILL")
            .arg(self.server.id().to_string())
            .status();
        let _ = self.server.wait();
    }
}

/// Where another MariaDB is to be looked for than the machine's.
fn other() -> Vec<PathBuf> {
    let named = std::env::var_os("OUTGROW_MARIADB").filter(|named| !named.is_empty());
    named.map(PathBuf::from).into_iter().collect()
}

/// Makes the files of an empty server.
fn install(user: Option<&str>, program: &Path, dir: &Path) {
    let made = run(user, program, dir)
        .args(["--no-defaults", "--skip-test-db", "--skip-name-resolve"])
        .arg("--auth-root-authentication-method=normal")
        .arg("--innodb-use-native-aio=0")
        // A server clears its temporary folder at its start: a shared one is cleared by others.
        .arg(format!("--tmpdir={}", dir.display()))
        .arg(format!("--datadir={}", dir.join("data").display()))
        .output()
        .expect("mariadb-install-db can be run");
    let said = [made.stdout, made.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(made.status.success(), "mariadb-install-db: {said}");
}

/// What makes a server log rows as they change, by names of transactions, too.
fn logged() -> Vec<&'static str> {
    let named = mysql::NAMED.iter().filter(|_| mysql::is_mysql());
    LOGGED.iter().chain(named).copied().collect()
}

fn url_of(port: u16) -> String {
    let user = bridge_user();
    format!("mysql://{user}@127.0.0.1:{port}/shop")
}

fn serve(
    user: Option<&str>,
    (dir, disk): (&Path, Option<&Disk>),
    port: u16,
    tls: Option<&ServerFiles>,
    options: &[String],
) -> Child {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(dir.join("log"))
        .expect("a log file");
    let at = |name: &str| dir.join(name).display().to_string();
    let mysql = mysql::program();
    let known: &[&str] = if mysql.is_some() {
        &mysql::OPTIONS
    } else {
        &[]
    };
    let program = mysql.unwrap_or_else(|| binary(&["mariadbd", "mysqld"], other(), INSTALL));
    let mut server = run_on(disk, user, &program, dir);
    server.args([
        "--no-defaults",
        "--bind-address=127.0.0.1",
        "--skip-name-resolve",
    ]);
    if let Some(files) = tls {
        let paths = [
            ("ssl-ca", &files.ca),
            ("ssl-cert", &files.signed.certificate),
            ("ssl-key", &files.signed.key),
        ];
        server.args(paths.map(|(name, path)| format!("--{name}={}", path.display())));
    }
    server
        .arg(format!("--datadir={}", at("data")))
        .arg(format!("--socket={}", at("socket")))
        .arg(format!("--pid-file={}", at("pid")))
        .arg(format!("--init-file={}", at("init.sql")))
        .arg(format!("--port={port}"))
        .args([
            "--innodb-flush-log-at-trx-commit=2",
            "--innodb-buffer-pool-size=32M",
        ])
        .args(["--innodb-use-native-aio=0"])
        .arg(format!("--tmpdir={}", dir.display()))
        .args(known)
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("the server can be run")
}
