//! API keys: a file of names and hashes. The file gives nobody a key.
//!
//! A key is random and long, so SHA-256 is enough: there is nothing to guess, which is what slow
//! hashes are for. A line is `NAME sha256:HEX SCOPE..`; `#` begins a comment.

use std::path::Path;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// All of them are compared with every key that is given.
const KEYS_MAX: usize = 1_000;
/// A longer file is none of keys.
const FILE_MAX: usize = 1 << 20;

/// Who may come in by a key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApiKeys {
    keys: Vec<ApiKey>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct ApiKey {
    name: String,
    hash: [u8; 32],
    scope: String,
}

impl ApiKeys {
    /// # Errors
    /// Says what is wrong, with the line.
    pub fn load(path: &Path) -> Result<Self, String> {
        let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
        if bytes.len() > FILE_MAX {
            return Err(format!("it is longer than {FILE_MAX} bytes"));
        }
        let text = String::from_utf8(bytes).map_err(|_| "it is not text".to_owned())?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut keys: Vec<ApiKey> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            let Some(name) = words.next() else {
                continue;
            };
            let at = |rule: &str| format!("line {}: {rule}", index + 1);
            let hash = words
                .next()
                .and_then(|word| word.strip_prefix("sha256:"))
                .and_then(hash)
                .ok_or_else(|| at("write NAME sha256:HEX, with 64 digits"))?;
            if keys.iter().any(|key| key.name == name || key.hash == hash) {
                return Err(at("the name or the key is there twice"));
            }
            if keys.len() == KEYS_MAX {
                return Err(at("there are more than 1,000 keys"));
            }
            keys.push(ApiKey {
                name: name.to_owned(),
                hash,
                scope: words.collect::<Vec<_>>().join(" "),
            });
        }
        Ok(Self { keys })
    }

    /// The claims of a key: its name and its scopes. Looks at all keys, whichever fits.
    pub(super) fn claims(&self, given: &[u8]) -> Option<Map<String, Value>> {
        let given: [u8; 32] = Sha256::digest(given).into();
        let mut found = None;
        for key in &self.keys {
            let pairs = key.hash.iter().zip(given);
            let differs = pairs.fold(0, |seen, (ours, theirs)| seen | (ours ^ theirs));
            if differs == 0 {
                found = Some(key);
            }
        }
        let key = found?;
        Some(Map::from_iter([
            ("sub".to_owned(), Value::from(key.name.as_str())),
            ("scope".to_owned(), Value::from(key.scope.as_str())),
        ]))
    }
}

fn hash(hex: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).ok()?;
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of `abc` (FIPS 180-2, appendix B.1).
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_key_has_a_name_and_scopes() {
        let text = format!("# partners\n\n  ann sha256:{ABC} read write # since May\n");
        let keys = ApiKeys::parse(&text).unwrap();
        let claims = keys.claims(b"abc").unwrap();
        assert_eq!(
            (&claims["sub"], &claims["scope"]),
            (&"ann".into(), &"read write".into())
        );
        assert_eq!(keys.claims(b"abd"), None);
        assert_eq!(keys.claims(b""), None);
    }

    #[test]
    fn what_is_wrong_is_named_by_its_line() {
        for (text, rule) in [
            ("ann".to_owned(), "line 1: write NAME"),
            ("ann abc".to_owned(), "line 1: write NAME"),
            (format!("ann sha256:{}", &ABC[1..]), "line 1: write NAME"),
            (format!("ann sha256:+{}", &ABC[1..]), "line 1: write NAME"),
            (
                format!("\na sha256:{ABC}\nb sha256:{ABC}"),
                "line 3: the name or the key",
            ),
        ] {
            let error = ApiKeys::parse(&text).unwrap_err();
            assert!(error.starts_with(rule), "{error}");
        }
    }
}
