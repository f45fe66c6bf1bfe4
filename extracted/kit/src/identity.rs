//! Who is calling, as signed by the proxy.
//!
//! Owns the `x-outgrow-identity` header: `v1.<payload>.<signature>`, both parts base64url without
//! padding, the payload a JSON object, the signature HMAC-SHA256 over `v1.<payload>`. Refuses
//! sessions, cookies and passwords: those stay where the logins are. Refuses also to say *why* an
//! identity is bad to the client; the log knows.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::error::StartError;

/// The header that carries the identity.
pub const IDENTITY_HEADER: &str = "x-outgrow-identity";

/// The role that may change prices.
pub const ROLE_STAFF: &str = "staff";

/// Shorter secrets are guessed too easily; 128 bits is the least that is not.
const SECRET_BYTES_MIN: usize = 16;

/// An identity is a few dozen bytes; anything longer is refused before it is hashed.
const HEADER_BYTES_MAX: usize = 4096;

/// The key that the proxy and the services share. Its text is never shown.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A caller whose signature was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The user's number in the shop.
    pub user_id: i64,
    /// The name to show.
    pub name: String,
    /// `customer` or `staff`.
    pub role: String,
}

impl Caller {
    /// Whether the caller works for the shop.
    #[must_use]
    pub fn is_staff(&self) -> bool {
        self.role == ROLE_STAFF
    }
}

/// Why there is no caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// No header.
    #[error("no identity header")]
    Missing,
    /// Not of the form `v1.payload.signature`, or the payload is not the JSON agreed on.
    #[error("the identity header is malformed")]
    Malformed,
    /// Signed with another secret, or changed on its way.
    #[error("the identity's signature is wrong")]
    Signature,
    /// Its time has passed.
    #[error("the identity has expired")]
    Expired,
    /// The service was started without a secret, so no signature can be checked.
    #[error("no identity secret is configured")]
    NoSecret,
}

#[derive(Serialize, Deserialize)]
struct Payload {
    sub: String,
    name: String,
    role: String,
    /// Unix seconds; the identity is good before this second.
    exp: i64,
}

impl Secret {
    /// Takes a secret, without the white space around it (files end in a newline).
    ///
    /// # Errors
    /// [`StartError::WeakSecret`] when it is shorter than 16 bytes; `from` says where it was found.
    pub fn new(bytes: &[u8], from: &str) -> Result<Secret, StartError> {
        let trimmed = bytes.trim_ascii();
        if trimmed.len() < SECRET_BYTES_MIN {
            return Err(StartError::WeakSecret {
                from: from.to_owned(),
                bytes: trimmed.len(),
                least: SECRET_BYTES_MIN,
            });
        }
        Ok(Secret(trimmed.to_vec()))
    }

    /// Signs an identity as the proxy does; `expires` in Unix seconds. For tests and tools.
    #[must_use]
    pub fn sign(&self, user_id: &str, name: &str, role: &str, expires: i64) -> String {
        let payload = serde_json::json!({
            "sub": user_id, "name": name, "role": role, "exp": expires,
        });
        let signed = format!("v1.{}", URL_SAFE_NO_PAD.encode(payload.to_string()));
        let mut mac = self.mac();
        mac.update(signed.as_bytes());
        format!(
            "{signed}.{}",
            URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
        )
    }

    /// Checks a header's signature, in constant time, and then its expiry against `now` in Unix
    /// seconds.
    ///
    /// # Errors
    /// [`IdentityError`], never naming what the right signature would have been.
    pub fn verify(&self, header: &str, now: i64) -> Result<Caller, IdentityError> {
        if header.len() > HEADER_BYTES_MAX {
            return Err(IdentityError::Malformed);
        }
        let (signed, signature) = header.rsplit_once('.').ok_or(IdentityError::Malformed)?;
        let payload = signed.strip_prefix("v1.").ok_or(IdentityError::Malformed)?;
        let signature = URL_SAFE_NO_PAD
            .decode(signature)
            .map_err(|_| IdentityError::Malformed)?;
        // The signature comes first: nothing unsigned is parsed.
        let mut mac = self.mac();
        mac.update(signed.as_bytes());
        mac.verify_slice(&signature)
            .map_err(|_| IdentityError::Signature)?;
        let payload = URL_SAFE_NO_PAD
            .decode(payload)
            .map_err(|_| IdentityError::Malformed)?;
        let payload: Payload =
            serde_json::from_slice(&payload).map_err(|_| IdentityError::Malformed)?;
        if payload.exp <= now {
            return Err(IdentityError::Expired);
        }
        let user_id = payload.sub.parse().map_err(|_| IdentityError::Malformed)?;
        Ok(Caller {
            user_id,
            name: payload.name,
            role: payload.role,
        })
    }

    fn mac(&self) -> Hmac<Sha256> {
        Hmac::new_from_slice(&self.0).expect("HMAC takes a key of any length")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn secret() -> Secret {
        Secret::new(b"0123456789abcdef\n", "test").unwrap()
    }

    #[test]
    fn a_signed_identity_is_believed_until_it_expires() {
        let header = secret().sign("42", "Ann Müller", "staff", NOW + 1);
        let caller = secret().verify(&header, NOW).unwrap();
        assert_eq!((caller.user_id, caller.name.as_str()), (42, "Ann Müller"));
        assert!(caller.is_staff());
        assert_eq!(
            secret().verify(&header, NOW + 1),
            Err(IdentityError::Expired)
        );
    }

    #[test]
    fn anything_else_is_refused() {
        let other = Secret::new(b"another secret of 16+", "test").unwrap();
        let forged = other.sign("42", "Ann", "staff", NOW + 60);
        assert_eq!(secret().verify(&forged, NOW), Err(IdentityError::Signature));
        let no_number = secret().sign("ann", "Ann", "staff", NOW + 60);
        assert_eq!(
            secret().verify(&no_number, NOW),
            Err(IdentityError::Malformed)
        );
        let long = format!("v1.{}", "a".repeat(5000));
        for header in [
            "",
            "v1",
            "v1.",
            "v1..",
            "v2.e30.AAAA",
            "v1.e30.!!",
            long.as_str(),
        ] {
            assert!(secret().verify(header, NOW).is_err(), "{header}");
        }
    }

    #[test]
    fn debug_does_not_show_the_secret() {
        assert_eq!(format!("{:?}", secret()), "Secret(..)");
    }

    proptest! {
        #[test]
        fn a_changed_byte_is_noticed(at in 0usize..150, with in 0x21u8..0x7f) {
            let header = secret().sign("42", "Ann", "customer", NOW + 60);
            let mut bytes = header.clone().into_bytes();
            let at = at % bytes.len();
            prop_assume!(bytes[at] != with);
            bytes[at] = with;
            let changed = String::from_utf8(bytes).unwrap();
            prop_assert!(secret().verify(&changed, NOW).is_err());
        }
    }
}
