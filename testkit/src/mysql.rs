//! MySQL in the place of MariaDB: servers of tests are that where `OUTGROW_MYSQL` names a folder with its
//! program `mysqld`, as `scripts/mysql` makes one.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::servers::run;

/// The folder of MySQL's program, where tests are to be run with it.
fn folder() -> Option<PathBuf> {
    let named = std::env::var_os("OUTGROW_MYSQL")?;
    (!named.is_empty()).then(|| named.into())
}

/// Whether servers of tests are MySQL, not MariaDB.
pub fn is_mysql() -> bool {
    folder().is_some()
}

/// Its program, where tests are to be run with it.
pub(crate) fn program() -> Option<PathBuf> {
    let program = folder()?.join("mysqld");
    assert!(program.is_file(), "OUTGROW_MYSQL has no program mysqld");
    Some(program)
}

/// What is said otherwise to MySQL than to MariaDB so that it is as the tests want it.
pub(crate) const OPTIONS: [&str; 7] = [
    "--mysqlx=OFF",
    "--secure-file-priv=NULL",
    "--innodb-redo-log-capacity=8M",
    "--disable-log-bin",
    "--log-error-verbosity=2",
    "--cte-max-recursion-depth=100000000",
    // As MariaDB is by itself: monoliths that have dates of zeros, and sums of some columns only.
    "--sql-mode=STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION",
];

/// What gives a server of 9.6 or newer the hashes that older ones have by themselves.
pub const HASHES: &str = "INSTALL COMPONENT 'file://component_classic_hashing'";

/// What makes a server name transactions, as MariaDB does by itself.
pub(crate) const NAMED: [&str; 2] = ["--gtid-mode=ON", "--enforce-gtid-consistency=ON"];

/// Makes the files of an empty server.
pub(crate) fn install(user: Option<&str>, program: &Path, dir: &Path) {
    let data = dir.join("data");
    let made = run(user, program, dir)
        .args(["--no-defaults", "--initialize-insecure"])
        .args(["--innodb-use-native-aio=0", "--innodb-redo-log-capacity=8M"])
        .arg(format!("--tmpdir={}", dir.display()))
        .arg(format!("--datadir={}", data.display()))
        .output()
        .expect("mysqld can be run");
    let said = [made.stdout, made.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(made.status.success(), "mysqld --initialize: {said}");
    // Copies of these files are servers of their own: each gives itself a name at its start.
    let own = Command::new("rm").arg(data.join("auto.cnf")).status();
    assert!(own.is_ok_and(|status| status.success()), "rm auto.cnf");
}

/// What removes a server's log.
pub(crate) fn reset(version: &str) -> &'static str {
    // The older words for replicas are gone in 8.4. The newer ones for all else are known before it.
    match version.starts_with("8.0") || !is_mysql() {
        true => "RESET MASTER",
        false => "RESET BINARY LOGS AND GTIDS",
    }
}

/// Makes a new server follow another one.
pub(crate) fn follow(port: u16) -> String {
    format!(
        "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {port}, \
         SOURCE_USER = 'outgrow', SOURCE_CONNECT_RETRY = 1, SOURCE_AUTO_POSITION = 1, \
         GET_SOURCE_PUBLIC_KEY = 1; START REPLICA"
    )
}

/// A test's statement in words that this server knows: what MariaDB alone has becomes what comes
/// next to it in MySQL, and in an older MariaDB.
pub fn words(statement: &str) -> Cow<'_, str> {
    if is_mysql() {
        Cow::Owned(of_mysql(statement))
    } else if is_before_uuids() {
        Cow::Owned(without_uuids(statement))
    } else {
        Cow::Borrowed(statement)
    }
}

/// Whether servers of tests are a MariaDB before 10.7.
fn is_before_uuids() -> bool {
    let named = std::env::var_os("OUTGROW_MARIADB").unwrap_or_default();
    named.to_string_lossy().ends_with("10.6")
}

fn without_uuids(statement: &str) -> String {
    statement
        .replace(" uuid,", " char(36) CHARACTER SET ascii,")
        .replace(" uuid)", " char(36) CHARACTER SET ascii)")
        .replace(" uuid PRIMARY", " char(36) CHARACTER SET ascii PRIMARY")
}

fn of_mysql(statement: &str) -> String {
    let mut text = without_uuids(statement);
    for (theirs, ours) in [
        (" inet6", " varbinary(16)"),
        (" COMPRESSED", ""),
        ("SET DEFAULT ROLE clerk FOR", "SET DEFAULT ROLE clerk TO"),
        ("SET DEFAULT ROLE above FOR", "SET DEFAULT ROLE above TO"),
    ] {
        text = text.replace(theirs, ours);
    }
    // A table of numbers.
    while let Some(at) = text.find(" seq_") {
        let name: String = text[at + 1..]
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect();
        let ends = name.trim_start_matches("seq_").split_once("_to_");
        let (from, to) = ends.expect("seq_FROM_to_TO");
        let numbers = format!(
            " (WITH RECURSIVE n (seq) AS (SELECT {from} UNION ALL SELECT seq + 1 FROM n WHERE seq < {to}) \
             SELECT seq FROM n) AS numbers"
        );
        text.replace_range(at..=at + name.len(), &numbers);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_mariadb_alone_has_is_said_otherwise() {
        assert_eq!(
            of_mysql("CREATE TABLE t (a uuid, b inet6, c text COMPRESSED)"),
            "CREATE TABLE t (a char(36) CHARACTER SET ascii, b varbinary(16), c text)"
        );
        assert_eq!(
            of_mysql("SELECT uuid(), seq FROM seq_3_to_17 WHERE seq > 5"),
            "SELECT uuid(), seq FROM (WITH RECURSIVE n (seq) AS (SELECT 3 UNION ALL SELECT seq + 1 FROM n \
             WHERE seq < 17) SELECT seq FROM n) AS numbers WHERE seq > 5"
        );
    }
}
