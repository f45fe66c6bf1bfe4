//! What went wrong in a handshake, in words, and what may be done about it.

use rustls::{AlertDescription, CertificateError};

use crate::error::Error;

const NO_TLS: &str = "turn TLS on at the server; without `sslmode` (MySQL: `ssl-mode`) it is used \
     where there is any";
const TRUST: &str =
    "name the CA that signed it in the URL: `sslrootcert=FILE` (MySQL: `ssl-ca=FILE`)";
const NAME: &str =
    "connect by a name that is in the certificate, or have it made out to this one too";
const TIME: &str = "renew the certificate, or set the clock";
const IDENTITY: &str = "the server asks for a client certificate that it trusts: `sslcert=FILE` and \
     `sslkey=FILE` (MySQL: `ssl-cert`, `ssl-key`)";
const LOGIN: &str = "check user, password and rights; this user may have to come by TLS, or with a \
     client certificate (`ssl-cert=FILE` and `ssl-key=FILE`)";
const PASSWORD: &str = "let the server have TLS, and leave `ssl-mode=DISABLED` out; or give this user \
     `mysql_native_password`, which MySQL 9 has not";
const OTHER: &str = "mend the server's TLS, or turn it off for this URL: `sslmode=disable` (MySQL: \
     `ssl-mode=DISABLED`)";

/// MySQL's number for a login that was refused, also for want of a certificate.
const ACCESS_DENIED: u16 = 1045;

/// What a database's error says; that of a handshake in words.
pub(crate) fn told(cause: &sqlx::Error) -> String {
    match (handshake(cause), cause) {
        (Some(error), _) => words(error),
        (None, sqlx::Error::Tls(error)) => format!("TLS: {error}"),
        (None, cause) if wants_tls(cause) => {
            "this user's password is sent over TLS only (`caching_sha2_password`)".to_owned()
        }
        (None, cause) => cause.to_string(),
    }
}

/// What to do about it, where TLS or a login is the reason.
pub(crate) fn way_out(error: &Error) -> Option<&'static str> {
    let Error::Database { cause, .. } = error else {
        return None;
    };
    if let Some(error) = handshake(cause) {
        return Some(advice(error));
    }
    match cause {
        cause if wants_tls(cause) => Some(PASSWORD),
        sqlx::Error::Tls(error) if error.to_string().contains("not support TLS") => Some(NO_TLS),
        sqlx::Error::Tls(_) => Some(OTHER),
        sqlx::Error::Database(error) => {
            let mysql = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>();
            if mysql.is_some_and(|e| e.number() == ACCESS_DENIED) {
                return Some(LOGIN);
            }
            let text = error.message();
            if text.contains("client certificate") {
                return Some(IDENTITY);
            }
            // Before version 14 in other words.
            (text.contains("no encryption") || text.ends_with("SSL off"))
                .then_some("the server wants TLS: leave `sslmode=disable` out")
        }
        _ => None,
    }
}

/// Whether a password was to be sent without TLS, encrypted with the server's key: for that the
/// driver would need a library with an open advisory.
fn wants_tls(cause: &sqlx::Error) -> bool {
    matches!(cause, sqlx::Error::Configuration(error) if error.to_string().contains("RSA auth backend"))
}

fn handshake(cause: &sqlx::Error) -> Option<&rustls::Error> {
    let sqlx::Error::Io(error) = cause else {
        return None;
    };
    error.get_ref()?.downcast_ref()
}

fn words(error: &rustls::Error) -> String {
    use CertificateError as Bad;
    match error {
        rustls::Error::InvalidCertificate(bad) => match bad {
            Bad::UnknownIssuer => {
                "the server's certificate is not signed by a CA that is trusted here".to_owned()
            }
            Bad::NotValidForNameContext {
                expected,
                presented,
            } => {
                let names: Vec<&str> = presented.iter().map(|name| bare(name)).collect();
                let names = match names.as_slice() {
                    [] => "no name at all".to_owned(),
                    names => names.join(", "),
                };
                let expected = expected.to_str();
                format!("the server's certificate is for {names}, not for {expected}")
            }
            Bad::Expired | Bad::ExpiredContext { .. } => {
                "the server's certificate has expired".to_owned()
            }
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
                "the server's certificate is not valid yet".to_owned()
            }
            other => format!("the server's certificate cannot be used: {other}"),
        },
        rustls::Error::AlertReceived(alert) => {
            format!("the server refused the TLS handshake: {alert:?}")
        }
        other => format!("the TLS handshake failed: {other}"),
    }
}

/// `DnsName("a.example")` and `IpAddress(10.0.0.1)` without their kind.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').map_or(name, |(_, rest)| rest);
    inner.trim_end_matches(')').trim_matches('"')
}

fn advice(error: &rustls::Error) -> &'static str {
    use AlertDescription as Alert;
    use CertificateError as Bad;
    match error {
        rustls::Error::InvalidCertificate(bad) => match bad {
            Bad::UnknownIssuer => TRUST,
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => NAME,
            Bad::Expired
            | Bad::ExpiredContext { .. }
            | Bad::NotValidYet
            | Bad::NotValidYetContext { .. } => TIME,
            _ => OTHER,
        },
        rustls::Error::AlertReceived(
            Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateUnknown
            | Alert::CertificateExpired
            | Alert::UnknownCA,
        ) => IDENTITY,
        _ => OTHER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(error: rustls::Error) -> Error {
        let cause = sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::InvalidData, error));
        let side = outgrow_rollout::Side::Legacy;
        Error::Database { side, cause }
    }

    #[test]
    fn names_are_shown_without_their_kind() {
        assert_eq!(bare("DnsName(\"a.example\")"), "a.example");
        assert_eq!(bare("IpAddress(10.0.0.1)"), "10.0.0.1");
        assert_eq!(bare("odd"), "odd");
    }

    #[test]
    fn a_refused_certificate_says_what_to_do() {
        let alert = failed(rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired,
        ));
        assert!(alert.to_string().contains("CertificateRequired"), "{alert}");
        assert_eq!(way_out(&alert), Some(IDENTITY));
        let expired = failed(CertificateError::Expired.into());
        assert!(expired.to_string().contains("has expired"), "{expired}");
        assert_eq!(way_out(&expired), Some(TIME));
    }
}
