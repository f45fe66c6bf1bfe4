//! A file that names the upstreams, read again and again.
//!
//! Looked at by its bytes: no event of a file system is missed, whatever mounted it.

use std::path::Path;

use serde::Deserialize;
use tokio::time::sleep;

use super::Teller;
use crate::sources::FileList;
use crate::upstreams::address::{Address, AddressError};

/// Bytes of a list; 64 upstreams are some kilobytes.
const FILE_MAX: usize = 1_024 * 1_024;

/// What a file may hold.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum List {
    Named {
        upstreams: Vec<String>,
    },
    Bare(Vec<String>),
    /// As Prometheus has it (`file_sd_configs`).
    Targets(Vec<Targets>),
}

#[derive(Debug, Deserialize)]
struct Targets {
    targets: Vec<String>,
}

/// Reads for ever.
pub(super) async fn watch(list: FileList, teller: Teller) {
    let mut last = None;
    loop {
        let bytes = tokio::fs::read(&list.path).await;
        let bytes = bytes.map_err(|error| format!("it cannot be read: {error}"));
        if last.as_ref() != Some(&bytes) {
            let found = bytes.as_ref().map_err(Clone::clone);
            teller.tell(found.and_then(|bytes| read(&list.path, bytes, teller.is_safe())));
            last = Some(bytes);
        }
        sleep(list.every).await;
    }
}

/// Reads once.
pub(super) async fn ask(list: &FileList, safe: bool) -> Result<Vec<Address>, String> {
    let bytes = tokio::fs::read(&list.path).await;
    let bytes = bytes.map_err(|error| format!("it cannot be read: {error}"))?;
    read(&list.path, &bytes, safe)
}

/// All or nothing: a list with a slip in it may have others.
fn read(path: &Path, bytes: &[u8], safe: bool) -> Result<Vec<Address>, String> {
    if bytes.len() > FILE_MAX {
        return Err(format!("it has more than {FILE_MAX} bytes"));
    }
    let list = match path.extension().is_some_and(|name| name == "json") {
        true => serde_json::from_slice(bytes).map_err(|error| error.to_string())?,
        false => {
            let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
            toml::from_str(text).map_err(|error| error.message().to_owned())?
        }
    };
    let texts = match list {
        List::Named { upstreams } | List::Bare(upstreams) => upstreams,
        List::Targets(all) => all.into_iter().flat_map(|of| of.targets).collect(),
    };
    texts.iter().map(|text| one(text, safe)).collect()
}

/// `http://HOST:PORT`, `https://HOST:PORT`, `HOST:PORT` or `unix:/PATH`.
fn one(text: &str, safe: bool) -> Result<Address, String> {
    let refused = |why: &str| format!("`{text}`: {why}");
    let bare = match (text.split_once("://"), safe) {
        (Some(("http", _)), true) => return Err(refused("the service is asked over TLS")),
        (Some(("https", _)), false) => return Err(refused("the service is asked without TLS")),
        (Some(("http" | "https", rest)), _) => rest,
        _ => text,
    };
    let bare = bare.strip_suffix('/').unwrap_or(bare);
    let address: Address = bare
        .parse()
        .map_err(|error: AddressError| refused(&error.to_string()))?;
    match address.has_port() {
        true => Ok(address),
        false => Err(refused("the port is missing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, text: &str, expected: Result<&[&str], &str>) {
        let found = read(Path::new(name), text.as_bytes(), false);
        match (found, expected) {
            (Ok(found), Ok(expected)) => {
                let found: Vec<&str> = found.iter().map(Address::as_str).collect();
                assert_eq!(found, expected);
            }
            (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
            (found, expected) => panic!("{found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn lists_are_read_in_three_forms_and_refused_whole() {
        let two = ["10.0.0.1:80", "unix:/run/a.sock"];
        check(
            "a.toml",
            "upstreams = [\"http://10.0.0.1:80\", \"unix:/run/a.sock\"]",
            Ok(&two),
        );
        check("a.json", r#"["10.0.0.1:80", "unix:/run/a.sock"]"#, Ok(&two));
        check(
            "a.json",
            r#"[{"targets": ["10.0.0.1:80"], "labels": {}}, {"targets": ["unix:/run/a.sock"]}]"#,
            Ok(&two),
        );
        check("a.json", r#"["10.0.0.1:80""#, Err("EOF"));
        check("a.json", r#"["10.0.0.1:80", "10.0.0.2"]"#, Err("port"));
        check("a.toml", "upstreams = [\"http://a b:1\"]", Err("a b:1"));
        check("a.toml", "upstreams = ", Err(""));
        check("a.json", "{}", Err("match"));
        check("a.json", r#"["https://a:1"]"#, Err("without TLS"));
        let safe = |text: &str| read(Path::new("a.json"), text.as_bytes(), true);
        assert_eq!(safe(r#"["https://a:1"]"#), Ok(vec!["a:1".parse().unwrap()]));
        assert!(safe(r#"["http://a:1"]"#).unwrap_err().contains("over TLS"));
    }
}
