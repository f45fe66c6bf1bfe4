//! The command line that all services share.
//!
//! Owns names, defaults and the first validation of flags. Refuses secrets as flags: a command line
//! is readable by every user of the machine, so the identity secret comes from a file or the
//! environment.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::defects::Defect;
use crate::error::StartError;
use crate::identity::Secret;

/// The environment variable read when no `--identity-secret-file` is given.
pub const SECRET_VARIABLE: &str = "OUTGROW_IDENTITY_SECRET";

/// The flags of a service.
#[derive(Debug, Clone, clap::Args)]
pub struct Flags {
    /// Address to listen on; port 0 takes a free one, which the log names
    #[arg(long, value_name = "ADDR")]
    pub listen: SocketAddr,
    /// The service's own database, created when missing
    #[arg(long, value_name = "sqlite:FILE")]
    pub database: String,
    /// What this build calls itself in the `x-build-id` header; the default is the service's own
    #[arg(long, value_name = "ID")]
    pub build_id: Option<String>,
    /// File with the secret that signs callers' identities; else OUTGROW_IDENTITY_SECRET is read
    #[arg(long, value_name = "FILE")]
    pub identity_secret_file: Option<PathBuf>,
    /// Plant a defect, for demonstrations and tests
    #[arg(long, value_name = "NAME", value_enum)]
    pub defect: Option<Defect>,
    /// Let `PUT /_defect` change the planted defect while the service runs
    #[arg(long)]
    pub allow_defect_switch: bool,
}

impl Flags {
    /// Flags with only what is required, for tests and for services started in-process.
    #[must_use]
    pub fn new(listen: SocketAddr, database: impl Into<String>) -> Flags {
        Flags {
            listen,
            database: database.into(),
            build_id: None,
            identity_secret_file: None,
            defect: None,
            allow_defect_switch: false,
        }
    }

    /// The file named by `--database`.
    ///
    /// # Errors
    /// [`StartError::DatabaseUrl`] for another kind of database, for one in memory (the bridge could
    /// not reach it), or when no file is named.
    pub fn database_path(&self) -> Result<&Path, StartError> {
        let refuse = |why| StartError::DatabaseUrl {
            url: self.database.clone(),
            why,
        };
        let file = self
            .database
            .strip_prefix("sqlite:")
            .ok_or_else(|| refuse("only `sqlite:` databases are supported"))?;
        // `sqlite://data/x.db` is the common spelling of the same thing.
        let file = file.strip_prefix("//").unwrap_or(file);
        if file.is_empty() {
            return Err(refuse("it names no file"));
        }
        if file.starts_with(":memory:") {
            return Err(refuse(
                "a database in memory cannot be shared with the bridge",
            ));
        }
        if file.contains('?') {
            return Err(refuse("options after `?` are not supported"));
        }
        Ok(Path::new(file))
    }

    /// The secret that signs identities: from the file if one is named, else from `variable` (the
    /// value of [`SECRET_VARIABLE`]), else none, and then nobody can log in.
    ///
    /// # Errors
    /// [`StartError::ReadSecret`] when the file is unreadable, [`StartError::WeakSecret`] when the
    /// secret is too short.
    pub fn identity_secret(&self, variable: Option<String>) -> Result<Option<Secret>, StartError> {
        if let Some(path) = &self.identity_secret_file {
            let bytes = std::fs::read(path).map_err(|source| StartError::ReadSecret {
                path: path.clone(),
                source,
            })?;
            return Secret::new(&bytes, &path.display().to_string()).map(Some);
        }
        variable
            .map(|text| Secret::new(text.as_bytes(), SECRET_VARIABLE))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path_of(database: &str) -> Result<PathBuf, String> {
        let flags = Flags::new(SocketAddr::from(([127, 0, 0, 1], 0)), database);
        flags
            .database_path()
            .map(Path::to_path_buf)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_database_is_a_sqlite_file() {
        assert_eq!(path_of("sqlite:data/x.db"), Ok(PathBuf::from("data/x.db")));
        assert_eq!(
            path_of("sqlite:///var/x.db"),
            Ok(PathBuf::from("/var/x.db"))
        );
        assert_eq!(path_of("sqlite:/var/x.db"), Ok(PathBuf::from("/var/x.db")));
        for (url, why) in [
            ("postgres://db/x", "only `sqlite:`"),
            ("sqlite:", "names no file"),
            ("sqlite::memory:", "in memory"),
            ("sqlite:x.db?mode=ro", "options after `?`"),
        ] {
            let error = path_of(url).unwrap_err();
            assert!(
                error.contains(why) && error.contains("--database"),
                "{url}: {error}"
            );
        }
    }

    #[test]
    fn the_file_wins_over_the_variable_and_is_trimmed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        std::fs::write(&file, "from-the-file-00\n").unwrap();
        let mut flags = Flags::new(SocketAddr::from(([127, 0, 0, 1], 0)), "sqlite:x.db");
        assert!(flags.identity_secret(None).unwrap().is_none());
        let variable = || Some("from-the-variable".to_owned());
        let now = 1_000;
        let header = Secret::new(b"from-the-file-00", "test")
            .unwrap()
            .sign("7", "Ann", "staff", 2_000);
        assert!(
            flags
                .identity_secret(variable())
                .unwrap()
                .unwrap()
                .verify(&header, now)
                .is_err()
        );
        flags.identity_secret_file = Some(file);
        assert!(
            flags
                .identity_secret(variable())
                .unwrap()
                .unwrap()
                .verify(&header, now)
                .is_ok()
        );
    }

    #[test]
    fn a_secret_that_cannot_be_had_is_an_error() {
        let mut flags = Flags::new(SocketAddr::from(([127, 0, 0, 1], 0)), "sqlite:x.db");
        assert!(matches!(
            flags.identity_secret(Some("  \n".to_owned())),
            Err(StartError::WeakSecret { bytes: 0, .. })
        ));
        flags.identity_secret_file = Some(PathBuf::from("no/such/file"));
        assert!(matches!(
            flags.identity_secret(None),
            Err(StartError::ReadSecret { .. })
        ));
    }
}
