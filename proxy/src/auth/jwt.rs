//! Whether a JSON Web Token is genuine and for us (RFC 7519, with the advice of RFC 8725). Pure.
//!
//! What signs is chosen by the config, never by the token: only algorithms with a public key exist
//! here, so that `none`, or a public key taken for a shared secret, cannot even be written down.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents,
    UnparsedPublicKey, VerificationAlgorithm,
};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Longer than any token that fits into a head.
pub(super) const TOKEN_MAX: usize = 16 * 1024;
/// Keys of one issuer that are looked at.
const KEYS_MAX: usize = 64;
/// Keys that are tried for a token that names none: each try is work for whoever sends it.
const TRIES_MAX: usize = 4;

/// How a token is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

impl Algorithm {
    pub const ALL: [Self; 9] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::EdDsa,
    ];

    /// As tokens name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }

    fn rsa(self) -> Option<&'static RsaParameters> {
        match self {
            Self::Rs256 => Some(&RSA_PKCS1_2048_8192_SHA256),
            Self::Rs384 => Some(&RSA_PKCS1_2048_8192_SHA384),
            Self::Rs512 => Some(&RSA_PKCS1_2048_8192_SHA512),
            Self::Ps256 => Some(&RSA_PSS_2048_8192_SHA256),
            Self::Ps384 => Some(&RSA_PSS_2048_8192_SHA384),
            Self::Ps512 => Some(&RSA_PSS_2048_8192_SHA512),
            Self::Es256 | Self::Es384 | Self::EdDsa => None,
        }
    }
}

/// What a token must say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRule {
    pub issuer: String,
    /// One of these; empty asks for none.
    pub audience: Vec<String>,
    pub algorithms: Vec<Algorithm>,
    /// By how much clocks may differ.
    pub leeway: Duration,
}

/// Why a token is not believed. Names what is wrong, and nothing that the token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the token is malformed")]
    Malformed,
    #[error("the token is signed in a way that is not accepted")]
    Algorithm,
    #[error("the token is signed by an unknown key")]
    UnknownKey,
    #[error("the signature of the token is wrong")]
    Signature,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    Early,
    #[error("the token is of another issuer")]
    Issuer,
    #[error("the token is for another audience")]
    Audience,
    /// By the word of who has issued it.
    #[error("the token is not in force")]
    Inactive,
}

/// A public key of an issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    kid: Option<String>,
    /// The one algorithm that it is for, where that is said.
    alg: Option<String>,
    material: Material,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// An uncompressed point.
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// The public keys of an issuer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct KeySet {
    keys: Vec<Key>,
}

/// As RFC 7517 has it; members that are not listed mean nothing here.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Head {
    alg: String,
    kid: Option<String>,
    /// What must be understood; nothing of it is.
    crit: Option<Value>,
}

fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

impl Material {
    fn of(jwk: &Jwk) -> Option<Self> {
        let part = |text: &Option<String>| decode(text.as_ref()?);
        let point = |size: usize| {
            let (x, y) = (part(&jwk.x)?, part(&jwk.y)?);
            let whole = x.len() == size && y.len() == size;
            whole.then(|| [&[4][..], &x, &y].concat())
        };
        match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => Some(Self::Rsa {
                n: part(&jwk.n)?,
                e: part(&jwk.e)?,
            }),
            ("EC", Some("P-256")) => point(32).map(Self::P256),
            ("EC", Some("P-384")) => point(48).map(Self::P384),
            ("OKP", Some("Ed25519")) => part(&jwk.x).filter(|x| x.len() == 32).map(Self::Ed25519),
            _ => None,
        }
    }

    /// `None` where the key is none for the algorithm.
    fn verify(&self, algorithm: Algorithm, text: &[u8], signature: &[u8]) -> Option<bool> {
        let by = |algorithm: &'static dyn VerificationAlgorithm, key: &Vec<u8>| {
            let key = UnparsedPublicKey::new(algorithm, key);
            Some(key.verify(text, signature).is_ok())
        };
        match (self, algorithm) {
            (Self::Rsa { n, e }, _) => {
                let rule = algorithm.rsa()?;
                let key = RsaPublicKeyComponents { n, e };
                Some(key.verify(rule, text, signature).is_ok())
            }
            (Self::P256(key), Algorithm::Es256) => by(&ECDSA_P256_SHA256_FIXED, key),
            (Self::P384(key), Algorithm::Es384) => by(&ECDSA_P384_SHA384_FIXED, key),
            (Self::Ed25519(key), Algorithm::EdDsa) => by(&ED25519, key),
            _ => None,
        }
    }
}

impl KeySet {
    /// Reads a JWK set. Keys of kinds that are not known are left out, as the standard wants it.
    ///
    /// # Errors
    /// Says what is wrong where no key is left.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let set: Jwks =
            serde_json::from_slice(bytes).map_err(|error| format!("it is no JWK set: {error}"))?;
        let read = |value: Value| {
            let jwk: Jwk = serde_json::from_value(value).ok()?;
            let signs = jwk.usage.as_deref().is_none_or(|usage| usage == "sig");
            let material = Material::of(&jwk).filter(|_| signs)?;
            Some(Key {
                kid: jwk.kid,
                alg: jwk.alg,
                material,
            })
        };
        let keys: Vec<Key> = set
            .keys
            .into_iter()
            .filter_map(read)
            .take(KEYS_MAX)
            .collect();
        match keys.is_empty() {
            true => Err("it has no public key of RSA, P-256, P-384 or Ed25519".to_owned()),
            false => Ok(Self { keys }),
        }
    }

    fn verify(
        &self,
        head: &Head,
        algorithm: Algorithm,
        text: &[u8],
        signature: &[u8],
    ) -> Result<(), TokenError> {
        let meant = |key: &&Key| match &head.kid {
            Some(kid) => key.kid.as_ref() == Some(kid),
            None => true,
        };
        let agrees = |key: &&Key| key.alg.as_ref().is_none_or(|alg| *alg == head.alg);
        let fitting = self.keys.iter().filter(meant).filter(agrees);
        let mut outcomes = fitting
            .filter_map(|key| key.material.verify(algorithm, text, signature))
            .take(TRIES_MAX);
        match (outcomes.next(), head.kid.is_some()) {
            (None, _) => Err(TokenError::UnknownKey),
            (Some(first), named) => match first || outcomes.any(|right| right) {
                true => Ok(()),
                // Without a name it may be of a key that is not here yet.
                false if !named => Err(TokenError::UnknownKey),
                false => Err(TokenError::Signature),
            },
        }
    }
}

/// Who a token says has issued it. Nobody's word until the token is verified.
pub(super) fn issuer(token: &str) -> Result<String, TokenError> {
    #[derive(Deserialize)]
    struct Said {
        iss: Option<String>,
    }
    let malformed = TokenError::Malformed;
    if token.len() > TOKEN_MAX {
        return Err(malformed);
    }
    let payload = token.split('.').nth(1).and_then(decode).ok_or(malformed)?;
    let said: Said = serde_json::from_slice(&payload).map_err(|_| malformed)?;
    said.iss.ok_or(TokenError::Issuer)
}

/// The claims of a token that is genuine, in force at `now` (seconds since 1970), and for us.
pub(crate) fn verify(
    token: &str,
    rule: &TokenRule,
    keys: &KeySet,
    now: u64,
) -> Result<Map<String, Value>, TokenError> {
    let malformed = TokenError::Malformed;
    if token.len() > TOKEN_MAX {
        return Err(malformed);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(malformed)?;
    let (head, payload) = signed.split_once('.').ok_or(malformed)?;
    let head: Head =
        serde_json::from_slice(&decode(head).ok_or(malformed)?).map_err(|_| malformed)?;
    if head.crit.is_some() {
        return Err(TokenError::Algorithm);
    }
    let named = rule.algorithms.iter().find(|one| one.name() == head.alg);
    let algorithm = *named.ok_or(TokenError::Algorithm)?;
    let signature = decode(signature).ok_or(malformed)?;
    keys.verify(&head, algorithm, signed.as_bytes(), &signature)?;
    let claims = decode(payload).ok_or(malformed)?;
    let claims: Map<String, Value> = serde_json::from_slice(&claims).map_err(|_| malformed)?;
    let terms = Terms {
        issuer: Some(&rule.issuer),
        audience: &rule.audience,
        leeway: rule.leeway,
        ends: true,
    };
    check(&claims, &terms, now)?;
    Ok(claims)
}

/// What claims must say, whoever vouches for them.
pub(super) struct Terms<'a> {
    pub(super) issuer: Option<&'a str>,
    /// One of these; empty asks for none.
    pub(super) audience: &'a [String],
    pub(super) leeway: Duration,
    /// They must say until when they are good.
    pub(super) ends: bool,
}

/// Whether claims are in force at `now` (seconds since 1970), and for us.
pub(super) fn check(
    claims: &Map<String, Value>,
    rule: &Terms<'_>,
    now: u64,
) -> Result<(), TokenError> {
    let malformed = TokenError::Malformed;
    // Seconds may have a fraction. A claim that is there but no number is no claim to skip.
    let at = |name: &str| match claims.get(name) {
        None => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or(malformed),
    };
    let leeway = rule.leeway.as_secs_f64();
    // Exact for the next 200 million years.
    #[allow(clippy::cast_precision_loss)]
    let now = now as f64;
    match at("exp")? {
        None if rule.ends => return Err(malformed),
        None => {}
        Some(end) if now >= end + leeway => return Err(TokenError::Expired),
        Some(_) => {}
    }
    if at("nbf")?.is_some_and(|begin| now + leeway < begin) {
        return Err(TokenError::Early);
    }
    if let Some(issuer) = rule.issuer
        && claims.get("iss").and_then(Value::as_str) != Some(issuer)
    {
        return Err(TokenError::Issuer);
    }
    let is_ours = |value: &Value| {
        let text = value.as_str();
        text.is_some_and(|text| rule.audience.iter().any(|ours| ours == text))
    };
    let ours = match claims.get("aud") {
        _ if rule.audience.is_empty() => true,
        Some(Value::Array(all)) => all.iter().any(is_ours),
        Some(one) => is_ours(one),
        None => false,
    };
    match ours {
        true => Ok(()),
        false => Err(TokenError::Audience),
    }
}

#[cfg(test)]
mod tests;
