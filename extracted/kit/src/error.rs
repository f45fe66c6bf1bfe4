//! Why a service cannot start or keep running.
//!
//! Owns the errors an operator sees. Refuses the errors a client sees: see [`crate::answer`].

use std::net::SocketAddr;
use std::path::PathBuf;

/// The service did not start, or stopped with an error.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// `--database` names something that this service cannot use.
    #[error(
        "database `{url}` is not usable: {why}; give a file, as in `--database sqlite:data/shop.db`"
    )]
    DatabaseUrl {
        /// As given on the command line.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The database file cannot be opened or is no SQLite database.
    #[error(
        "cannot open the database file {path}; check that its folder exists, that it is writable and that it is a SQLite file"
    )]
    OpenDatabase {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: sqlx::Error,
    },
    /// The tables cannot be created, most often because another process holds the write lock.
    #[error("cannot prepare the tables in {path}")]
    PrepareTables {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: sqlx::Error,
    },
    /// A table exists but is not the one this service was written for.
    #[error("the tables in {path} do not fit this service; give it a database of its own")]
    WrongTables {
        /// The file.
        path: PathBuf,
        /// What SQLite said about the missing table or column.
        #[source]
        source: sqlx::Error,
    },
    /// The identity secret's file cannot be read.
    #[error("cannot read the identity secret from {path}")]
    ReadSecret {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The secret is too short to keep anybody out.
    #[error("the identity secret from {from} has {bytes} bytes; it needs at least {least}")]
    WeakSecret {
        /// Where it came from: a file or a variable.
        from: String,
        /// Its length after trimming.
        bytes: usize,
        /// The least length accepted.
        least: usize,
    },
    /// The build id cannot be sent as a header.
    #[error("build id `{0}` cannot be sent as a header; use letters, digits, `.`, `-` and `_`")]
    BuildId(String),
    /// The address is taken, or not one of this machine's.
    #[error(
        "cannot listen on {listen}; if the port is taken, stop its owner or choose another `--listen`"
    )]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The runtime or its signal handlers cannot be set up, or the listener failed for good.
    #[error("cannot {doing}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl StartError {
    /// The error and all its causes on one line, for a log.
    #[must_use]
    pub fn with_causes(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            // Some libraries repeat their cause in their own text; once is enough.
            let said = error.to_string();
            if !text.contains(&said) {
                text.push_str(": ");
                text.push_str(&said);
            }
            cause = error.source();
        }
        text
    }
}
