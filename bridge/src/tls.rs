//! TLS to a database server: what a URL asks for, checked before anything connects, and what went
//! wrong, in words.
//!
//! Certificates are sqlx's business; this says which files a URL names, refuses what would be
//! ignored without a word (a CA that nobody looks at), and turns the errors of a handshake into
//! something that can be acted on.

mod binlog;
mod client;
mod failure;
mod files;

use std::path::{Path, PathBuf};

use sqlx::mysql::{MySqlConnectOptions, MySqlSslMode};
use sqlx::postgres::{PgConnectOptions, PgSslMode};

pub(crate) use failure::{told, way_out};

/// Whose names a URL's options have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Options {
    Postgres,
    Mysql,
}

/// How far the server is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// What a URL says of TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    mode: Option<Mode>,
    ca: Option<Pem>,
    certificate: Option<Pem>,
    key: Option<Pem>,
}

/// Certificates or a key.
#[derive(Clone, PartialEq, Eq)]
enum Pem {
    File(PathBuf),
    /// The text itself, as sqlx allows it.
    Inline(String),
}

impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            // May be a key.
            Self::Inline(_) => f.write_str(".."),
        }
    }
}

impl From<&str> for Pem {
    fn from(text: &str) -> Self {
        if text.trim_start().starts_with("-----BEGIN") {
            Self::Inline(text.to_owned())
        } else {
            Self::File(PathBuf::from(text))
        }
    }
}

impl Options {
    /// The names in messages: mode, CA, certificate, key.
    fn names(self) -> [&'static str; 4] {
        match self {
            Self::Postgres => ["sslmode", "sslrootcert", "sslcert", "sslkey"],
            Self::Mysql => ["ssl-mode", "ssl-ca", "ssl-cert", "ssl-key"],
        }
    }

    /// What else a URL may say.
    fn others(self) -> &'static [&'static str] {
        match self {
            Self::Postgres => &[
                "application_name",
                "dbname",
                "host",
                "hostaddr",
                "options",
                "password",
                "port",
                "statement-cache-capacity",
                "user",
            ],
            Self::Mysql => &[
                "charset",
                "collation",
                "socket",
                "statement-cache-capacity",
                "time-zone",
                "timezone",
            ],
        }
    }

    fn modes(self) -> [(&'static str, Mode); 5] {
        match self {
            Self::Postgres => [
                ("disable", Mode::Disable),
                ("prefer", Mode::Prefer),
                ("require", Mode::Require),
                ("verify-ca", Mode::VerifyCa),
                ("verify-full", Mode::VerifyFull),
            ],
            Self::Mysql => [
                ("DISABLED", Mode::Disable),
                ("PREFERRED", Mode::Prefer),
                ("REQUIRED", Mode::Require),
                ("VERIFY_CA", Mode::VerifyCa),
                ("VERIFY_IDENTITY", Mode::VerifyFull),
            ],
        }
    }

    fn word(self, mode: Mode) -> &'static str {
        let found = self.modes().into_iter().find(|(_, known)| *known == mode);
        found.map_or("", |(word, _)| word)
    }

    fn mode(self, text: &str) -> Result<Mode, String> {
        let modes = self.modes();
        let found = modes
            .iter()
            .find(|(word, _)| word.eq_ignore_ascii_case(text));
        found.map(|(_, mode)| *mode).ok_or_else(|| {
            let words: Vec<&str> = modes.iter().map(|(word, _)| *word).collect();
            let [name, ..] = self.names();
            format!("`{name}={text}` is not known: write {}", words.join(", "))
        })
    }
}

impl Tls {
    /// Reads the query of a URL.
    ///
    /// # Errors
    /// Returns the rule that was broken.
    pub(crate) fn read(url: &url::Url, options: Options) -> Result<Self, String> {
        let mut found = Self::default();
        for (key, value) in url.query_pairs() {
            match (options, &*key) {
                (_, "sslmode" | "ssl-mode") => found.mode = Some(options.mode(&value)?),
                (Options::Postgres, "sslrootcert" | "ssl-root-cert" | "ssl-ca")
                | (Options::Mysql, "sslca" | "ssl-ca") => found.ca = Some(Pem::from(&*value)),
                (_, "sslcert" | "ssl-cert") => found.certificate = Some(Pem::from(&*value)),
                (_, "sslkey" | "ssl-key") => found.key = Some(Pem::from(&*value)),
                (_, other) => {
                    // `options[name]` is one setting of PostgreSQL's.
                    let name = other.split('[').next().unwrap_or(other);
                    if !options.others().contains(&name) {
                        let known = [&options.names()[..], options.others()].concat().join(", ");
                        return Err(format!(
                            "`{other}` is not an option here: there are {known}; Outgrow's own, such as `capture`, \
                             stand beside the URL"
                        ));
                    }
                }
            }
        }
        found.sound(options)
    }

    /// Refuses what would look safe and be ignored; a CA without a mode means the whole check.
    fn sound(mut self, options: Options) -> Result<Self, String> {
        let [name, ca, certificate, key] = options.names();
        let full = options.word(Mode::VerifyFull);
        if self.certificate.is_some() != self.key.is_some() {
            return Err(format!("`{certificate}` and `{key}` belong together"));
        }
        match (self.mode, &self.ca) {
            (None, Some(_)) => self.mode = Some(Mode::VerifyFull),
            (Some(mode @ (Mode::Disable | Mode::Prefer | Mode::Require)), Some(_)) => {
                let word = options.word(mode);
                return Err(format!(
                    "`{name}={word}` would not look at the `{ca}`: write `{name}={full}`"
                ));
            }
            (Some(Mode::Disable), None) if self.certificate.is_some() => {
                let word = options.word(Mode::Disable);
                return Err(format!("`{name}={word}` uses no `{certificate}`"));
            }
            _ => {}
        }
        Ok(self)
    }

    /// Whether plain text will not do.
    pub(crate) fn is_demanded(&self) -> bool {
        matches!(
            self.mode,
            Some(Mode::Require | Mode::VerifyCa | Mode::VerifyFull)
        )
    }

    /// Takes relative paths from a folder.
    pub(crate) fn based_on(&mut self, folder: &Path) {
        for pem in [&mut self.ca, &mut self.certificate, &mut self.key] {
            if let Some(Pem::File(path)) = pem {
                *path = folder.join(&*path);
            }
        }
    }

    pub(crate) fn postgres(&self, mut options: PgConnectOptions) -> PgConnectOptions {
        if let Some(mode) = self.mode {
            options = options.ssl_mode(match mode {
                Mode::Disable => PgSslMode::Disable,
                Mode::Prefer => PgSslMode::Prefer,
                Mode::Require => PgSslMode::Require,
                Mode::VerifyCa => PgSslMode::VerifyCa,
                Mode::VerifyFull => PgSslMode::VerifyFull,
            });
        }
        options = match &self.ca {
            Some(Pem::File(path)) => options.ssl_root_cert(path),
            _ => options,
        };
        options = match &self.certificate {
            Some(Pem::File(path)) => options.ssl_client_cert(path),
            _ => options,
        };
        match &self.key {
            Some(Pem::File(path)) => options.ssl_client_key(path),
            _ => options,
        }
    }

    pub(crate) fn mysql(&self, mut options: MySqlConnectOptions) -> MySqlConnectOptions {
        if let Some(mode) = self.mode {
            options = options.ssl_mode(match mode {
                Mode::Disable => MySqlSslMode::Disabled,
                Mode::Prefer => MySqlSslMode::Preferred,
                Mode::Require => MySqlSslMode::Required,
                Mode::VerifyCa => MySqlSslMode::VerifyCa,
                Mode::VerifyFull => MySqlSslMode::VerifyIdentity,
            });
        }
        options = match &self.ca {
            Some(Pem::File(path)) => options.ssl_ca(path),
            _ => options,
        };
        options = match &self.certificate {
            Some(Pem::File(path)) => options.ssl_client_cert(path),
            _ => options,
        };
        match &self.key {
            Some(Pem::File(path)) => options.ssl_client_key(path),
            _ => options,
        }
    }
}

/// Names the one cryptography of this program, which rustls asks for where it is not told. Does
/// nothing where that was done before.
pub(crate) fn ready() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Tls, String> {
        let options = match text.split_once(':') {
            Some(("postgres", _)) => Options::Postgres,
            _ => Options::Mysql,
        };
        Tls::read(&url::Url::parse(text).unwrap(), options)
    }

    #[test]
    fn a_ca_without_a_mode_means_the_whole_check() {
        for url in [
            "postgres://h/d?sslrootcert=a.pem",
            "mysql://h/d?ssl-ca=a.pem",
        ] {
            let mut tls = read(url).unwrap();
            assert_eq!(tls.mode, Some(Mode::VerifyFull), "{url}");
            tls.based_on(Path::new("/etc/outgrow"));
            assert_eq!(
                tls.ca,
                Some(Pem::File("/etc/outgrow/a.pem".into())),
                "{url}"
            );
            tls.based_on(Path::new("/elsewhere"));
            assert_eq!(
                tls.ca,
                Some(Pem::File("/etc/outgrow/a.pem".into())),
                "{url}"
            );
        }
        let others = "postgres://h/d?application_name=a&options[search_path]=b";
        for url in ["postgres://h/d", others, "mysql://h/d?charset=utf8mb4"] {
            assert_eq!(read(url).unwrap(), Tls::default());
        }
        let mode = |url| read(url).unwrap().mode;
        assert_eq!(mode("mysql://h/d?ssl-mode=required"), Some(Mode::Require));
    }

    #[test]
    fn what_would_be_ignored_is_refused() {
        for (url, rule) in [
            (
                "postgres://h/d?sslmode=require&sslrootcert=a",
                "would not look at the `sslrootcert`",
            ),
            (
                "mysql://h/d?ssl-ca=a&ssl-mode=PREFERRED",
                "write `ssl-mode=VERIFY_IDENTITY`",
            ),
            (
                "postgres://h/d?sslmode=allow",
                "write disable, prefer, require, verify-ca, verify-full",
            ),
            ("mysql://h/d?ssl-mode=verify-full", "VERIFY_IDENTITY"),
            (
                "mysql://h/d?sslrootcert=a",
                "there are ssl-mode, ssl-ca, ssl-cert, ssl-key",
            ),
            ("postgres://h/d?sslcrl=a", "`sslcrl` is not an option here"),
            ("postgres://h/d?capture=replication", "stand beside the URL"),
            ("mysql://h/d?user=a", "`user` is not an option here"),
            (
                "postgres://h/d?sslcert=a",
                "`sslcert` and `sslkey` belong together",
            ),
            (
                "mysql://h/d?ssl-key=a",
                "`ssl-cert` and `ssl-key` belong together",
            ),
            (
                "postgres://h/d?sslmode=disable&sslcert=a&sslkey=b",
                "uses no `sslcert`",
            ),
        ] {
            let found = read(url).unwrap_err();
            assert!(found.contains(rule), "{url}: {found}");
        }
    }

    #[test]
    fn a_key_in_the_url_never_prints() {
        let tls = read("mysql://h/d?ssl-cert=-----BEGIN%20C&ssl-key=-----BEGIN%20SECRET").unwrap();
        assert!(!format!("{tls:?}").contains("SECRET"));
    }
}
