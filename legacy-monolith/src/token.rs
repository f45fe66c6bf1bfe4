//! Random tokens, their digests, and the form token derived from a cookie.
//!
//! Owns randomness outside of the seeded fill. Refuses to store a secret in the clear: the
//! database holds digests of session tokens only.

use argon2::password_hash::rand_core::{OsRng, RngCore};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Failure;

/// 256 random bits in URL-safe text.
pub(crate) fn secret() -> Result<String, Failure> {
    let mut bytes = [0_u8; 32];
    OsRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| Failure::Unexpected(format!("no randomness from the system: {error}")))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// A name for one request, sixteen hex digits. It identifies, it does not protect: when the
/// system has no randomness left, a counter serves.
pub(crate) fn request_id() -> String {
    static FALLBACK: AtomicU64 = AtomicU64::new(1);
    let mut bytes = [0_u8; 8];
    let number = match OsRng.try_fill_bytes(&mut bytes) {
        Ok(()) => u64::from_be_bytes(bytes),
        Err(_) => FALLBACK.fetch_add(1, Ordering::Relaxed),
    };
    format!("{number:016x}")
}

/// The digest under which a session token is stored.
pub(crate) fn digest(token: &str) -> String {
    hex(&Sha256::digest(token.as_bytes()))
}

/// The digest of an uploaded file, for its entity tag.
pub(crate) fn content_digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The form token that belongs to the browser holding `cookie`.
pub(crate) fn form_token(key: &[u8], cookie: &str) -> String {
    URL_SAFE_NO_PAD.encode(mac(key, cookie).finalize().into_bytes())
}

/// Whether `given` is the form token of `cookie`; compares in constant time.
pub(crate) fn form_token_matches(key: &[u8], cookie: &str, given: &str) -> bool {
    URL_SAFE_NO_PAD
        .decode(given)
        .is_ok_and(|given| mac(key, cookie).verify_slice(&given).is_ok())
}

fn mac(key: &[u8], cookie: &str) -> Hmac<Sha256> {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(key).expect("HMAC-SHA256 takes a key of any length");
    mac.update(b"form:");
    mac.update(cookie.as_bytes());
    mac
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_token_fits_one_cookie_only() {
        let token = form_token(b"key", "cookie");
        assert!(form_token_matches(b"key", "cookie", &token));
        assert!(!form_token_matches(b"key", "other", &token));
        assert!(!form_token_matches(b"other", "cookie", &token));
        assert!(!form_token_matches(b"key", "cookie", "not base64 !"));
    }
}
