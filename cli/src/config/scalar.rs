//! The small notations of the config and the command line: durations, sizes, days, URLs, databases,
//! offsets. Each returns the rule that was broken.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use time::macros::format_description;

use outgrow_bridge::DatabaseUrl;

use outgrow_proxy::{AddressError, Source};

use super::model::{Database, HttpUrl};

/// Reads `500ms`, `10m`, `14d`, `1h30m`: whole numbers with a unit of ms, s, m, h, d.
///
/// # Errors
/// Returns the rule that was broken.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let refused = || format!("`{text}` is not a duration");
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(refused());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| refused())?;
        let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at(letters);
        let ms: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(refused()),
        };
        let part = number.checked_mul(ms).map(Duration::from_millis);
        total = part
            .and_then(|part| total.checked_add(part))
            .ok_or_else(refused)?;
        rest = tail.trim_start();
    }
    Ok(total)
}

const SIZES: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];

/// Reads `64GiB`, `500 MiB`: a whole number with a unit of KiB, MiB, GiB, TiB.
///
/// # Errors
/// Returns the rule that was broken.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let refused = || format!("`{text}` is not a size");
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| refused())?;
    let unit = unit.trim_start();
    let known = SIZES.iter().find(|(name, _)| *name == unit);
    let (_, power) = known.ok_or_else(refused)?;
    number.checked_mul(1 << power).ok_or_else(refused)
}

/// A size in the notation that [`size`] reads.
pub(crate) fn show_size(bytes: u64) -> String {
    let fits = |(_, power): &&(&str, u32)| bytes >= 1 << power && bytes.is_multiple_of(1 << power);
    match SIZES.iter().find(fits) {
        Some((unit, power)) => format!("{}{unit}", bytes >> power),
        None => format!("{bytes} bytes"),
    }
}

/// A duration in the notation that [`duration`] reads.
pub(crate) fn show(value: Duration) -> String {
    let ms = value.as_millis();
    for (unit, size) in [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
    ] {
        if ms >= size && ms.is_multiple_of(size) {
            return format!("{}{unit}", ms / size);
        }
    }
    format!("{ms}ms")
}

/// Reads `2027-01-31`.
pub(crate) fn date(text: &str) -> Option<time::Date> {
    time::Date::parse(text.trim(), format_description!("[year]-[month]-[day]")).ok()
}

/// Reads `+01:00` or `-05:30` as seconds east of UTC.
///
/// # Errors
/// Returns the rule that was broken.
pub(crate) fn offset(text: &str) -> Result<i32, String> {
    let refused = || format!("`{text}` is not an offset from UTC");
    let (sign, rest) = match text.split_at_checked(1) {
        Some(("+", rest)) => (1, rest),
        Some(("-", rest)) => (-1, rest),
        _ => return Err(refused()),
    };
    let (hours, minutes) = rest.split_once(':').ok_or_else(refused)?;
    let two = |part: &str, max: i32| {
        (part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit()))
            .then(|| part.parse::<i32>().ok())
            .flatten()
            .filter(|number| *number <= max)
            .ok_or_else(refused)
    };
    // The world's clocks lie between -12:00 and +14:00.
    Ok(sign * (two(hours, 14)? * 3_600 + two(minutes, 59)? * 60))
}

/// Reads `http://HOST:PORT`.
///
/// # Errors
/// Returns the rule that was broken.
pub(crate) fn http_url(text: &str) -> Result<HttpUrl, String> {
    match text.split_once("://") {
        Some(("http", rest)) => host_and_port(rest),
        Some(("https", _)) => Err("TLS is not supported here; use the cleartext port".to_owned()),
        Some((scheme, _)) => Err(format!("`{scheme}` is not supported, only http is")),
        None => Err("the scheme is missing".to_owned()),
    }
}

/// Reads `http://HOST:PORT` or `https://HOST:PORT`, as a config has it.
///
/// # Errors
/// Returns the rule that was broken.
pub(crate) fn upstream_url(text: &str) -> Result<String, String> {
    match text.strip_prefix("https://") {
        Some(rest) => Ok(format!("https://{}", host_and_port(rest)?.authority())),
        None => Ok(http_url(text)?.to_string()),
    }
}

fn host_and_port(rest: &str) -> Result<HttpUrl, String> {
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        return Err("an upstream has no path; requests keep theirs".to_owned());
    }
    if authority.contains('@') {
        return Err("an upstream URL carries no login".to_owned());
    }
    let (host, port) = authority
        .rsplit_once(':')
        .filter(|(host, _)| !host.is_empty() && (!host.contains(':') || host.ends_with(']')))
        .ok_or_else(|| "the port is missing".to_owned())?;
    let port: u16 = port
        .parse()
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| format!("`{port}` is not a port"))?;
    if !is_host(host) {
        return Err(format!("`{host}` is not a host name or address"));
    }
    Ok(HttpUrl {
        host: host.to_ascii_lowercase(),
        port,
    })
}

/// Reads an upstream: `http://HOST:PORT`, `https://HOST:PORT`, `unix:/PATH` or `srv:NAME`; and
/// whether that is one over TLS, where it says so.
///
/// # Errors
/// Returns the rule that was broken.
pub(crate) fn upstream(text: &str) -> Result<(Source, Option<bool>), String> {
    if let Some(name) = text.strip_prefix("srv:") {
        let is_service = name.starts_with('_') && name.contains("._") && is_host(name);
        return match is_service {
            true => Ok((Source::Srv(name.to_ascii_lowercase()), None)),
            false => Err("it is no name of a service: srv:_http._tcp.shop.internal".to_owned()),
        };
    }
    let (address, safe) = match (text.strip_prefix("unix:"), text.strip_prefix("https://")) {
        (Some(_), _) => (text.to_owned(), false),
        (None, Some(rest)) => (host_and_port(rest)?.authority(), true),
        (None, None) => (http_url(text)?.authority(), false),
    };
    let source = address.parse();
    let source = source.map_err(|error: AddressError| error.to_string())?;
    Ok((source, Some(safe)))
}

/// A DNS name, an IPv4 address, or an IPv6 address in brackets.
pub(crate) fn is_host(host: &str) -> bool {
    if let Some(inner) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        return inner.parse::<std::net::Ipv6Addr>().is_ok();
    }
    host.len() <= 253
        && host.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

/// Reads `IP:PORT`.
///
/// # Errors
/// Returns the rule that was broken.
pub(crate) fn listen(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "a listen address is IP:PORT".to_owned())
}

/// Reads `sqlite:PATH`, where a relative path is taken from `dir`, or the URL of a server,
/// where that goes for certificates.
///
/// # Errors
/// Returns the rule that was broken.
pub(crate) fn database(text: &str, dir: &Path) -> Result<Database, String> {
    let path = match text.split_once(':') {
        Some(("sqlite", path)) => path.strip_prefix("//").unwrap_or(path),
        Some(("postgres" | "postgresql" | "mysql" | "mariadb", _)) => {
            return match text.parse::<DatabaseUrl>() {
                Ok(url) => Ok(Database::Server(url.based_on(dir))),
                Err(outgrow_bridge::Error::UrlOption(rule)) => Err(rule),
                Err(_) => Err("this is no URL of a database, SCHEME://USER@HOST/NAME".to_owned()),
            };
        }
        _ => {
            let kinds = "a database is `sqlite:PATH`, `postgres://..` or `mysql://..`";
            return Err(kinds.to_owned());
        }
    };
    if path.is_empty() || path.starts_with(":memory:") {
        return Err("the database must be a file, so that it outlives the process".to_owned());
    }
    if path.contains('?') {
        return Err("a database has no parameters; Outgrow sets what it needs".to_owned());
    }
    Ok(Database::Sqlite(dir.join(PathBuf::from(path))))
}

/// Whether a token is a header name or a cookie name (RFC 9110 section 5.6.2, RFC 6265
/// section 4.1.1).
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [
            ("500ms", 500),
            ("10m", 600_000),
            ("10min", 600_000),
            ("1h30m", 5_400_000),
            ("14d", 1_209_600_000),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in [
            "",
            "10",
            "m",
            "1.5s",
            "-1s",
            "1y",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        for text in ["500ms", "10m", "14d", "2s", "90s"] {
            assert_eq!(show(duration(text).unwrap()), text);
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("64GiB", 64 << 30),
            ("500 MiB", 500 << 20),
            ("1TiB", 1 << 40),
            ("3KiB", 3 << 10),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
            assert_eq!(size(&show_size(bytes)), Ok(bytes), "{text}");
        }
        for bad in ["", "10", "GiB", "1.5GiB", "1gib", "64GB", "99999999TiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert_eq!(show_size(1 << 40), "1TiB");
    }

    #[test]
    fn offsets() {
        assert_eq!(offset("+01:00"), Ok(3_600));
        assert_eq!(offset("-05:30"), Ok(-19_800));
        for bad in ["", "01:00", "+1:00", "+15:00", "+01:60", "+0100", "é1:00"] {
            assert!(offset(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn upstream_urls() {
        for (text, shown) in [
            ("http://127.0.0.1:9000", "http://127.0.0.1:9000"),
            ("http://Shop.internal:80/", "http://shop.internal:80"),
            ("http://[::1]:9000", "http://[::1]:9000"),
        ] {
            assert_eq!(http_url(text).unwrap().to_string(), shown);
        }
        let url = upstream_url("https://Shop.internal:443/");
        assert_eq!(url.as_deref(), Ok("https://shop.internal:443"));
        assert!(
            upstream_url("https://shop.internal")
                .unwrap_err()
                .contains("port")
        );
        for (bad, rule) in [
            ("127.0.0.1:9000", "scheme"),
            ("https://a:1", "TLS"),
            ("ftp://a:1", "ftp"),
            ("http://a", "port"),
            ("http://::1:80", "port"),
            ("http://a:0", "not a port"),
            ("http://a:99999", "not a port"),
            ("http://a:80/shop", "path"),
            ("http://u:p@a:80", "login"),
            ("http://a b:80", "host"),
        ] {
            let found = http_url(bad).unwrap_err();
            assert!(found.contains(rule), "{bad}: {found}");
        }
    }

    #[test]
    fn upstreams() {
        let shown = |text| upstream(text).map(|(address, _)| address.to_string());
        let safe = |text| upstream(text).unwrap().1;
        assert_eq!(safe("https://a:443"), Some(true));
        assert_eq!(
            (safe("http://a:80"), safe("unix:/a")),
            (Some(false), Some(false))
        );
        assert_eq!(safe("srv:_http._tcp.a"), None);
        assert_eq!(shown("https://a:443").as_deref(), Ok("a:443"));
        assert_eq!(shown("http://a:80").as_deref(), Ok("a:80"));
        assert_eq!(shown("srv:_http._tcp.A"), Ok("srv:_http._tcp.a".to_owned()));
        assert_eq!(shown("unix:/run/a.sock").as_deref(), Ok("unix:/run/a.sock"));
        for (bad, rule) in [
            ("unix:run/a.sock", "absolute"),
            ("srv:shop", "_http"),
            ("https://a:443/x", "path"),
            ("/run/a.sock", "scheme"),
        ] {
            let found = shown(bad).unwrap_err();
            assert!(found.contains(rule), "{bad}: {found}");
        }
    }

    #[test]
    fn databases() {
        let dir = Path::new("/srv/shop");
        let path = |text| match database(text, dir)? {
            Database::Sqlite(path) => Ok(path),
            Database::Server(url) => Err(url.to_string()),
        };
        assert_eq!(path("sqlite:data/a.db"), Ok("/srv/shop/data/a.db".into()));
        assert_eq!(path("sqlite:///a.db"), Ok("/a.db".into()));
        for bad in ["a.db", "sqlite:", "sqlite::memory:", "sqlite:a?mode=ro"] {
            assert!(path(bad).is_err(), "{bad}");
        }
        let shown = path("postgres://me:secret@x/y");
        assert_eq!(shown.unwrap_err(), "postgres://x:5432/y");
        assert_eq!(
            path("mariadb://me:secret@x/y").unwrap_err(),
            "mysql://x:3306/y"
        );
        assert!(path("mysql://x").unwrap_err().contains("no URL"));
        let rule = path("postgres://x/y?sslmode=require&sslrootcert=ca.pem").unwrap_err();
        assert!(rule.contains("would not look at"), "{rule}");
        assert!(
            path("postgres://x:y:z/secret")
                .unwrap_err()
                .contains("no URL")
        );
    }
}
