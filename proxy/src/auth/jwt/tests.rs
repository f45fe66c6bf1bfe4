//! Tokens by one key, changed in every way that somebody might try.

use proptest::prelude::*;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::json;

use super::*;

const NOW: u64 = 1_800_000_000;

/// Signs with Ed25519, as the key `one`.
struct Signer(Ed25519KeyPair);

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    fn new() -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap())
    }

    fn jwk(&self) -> Value {
        let x = encode(self.0.public_key());
        json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": "one"})
    }

    fn keys(&self) -> KeySet {
        set(&[self.jwk()])
    }

    fn token(&self, head: &Value, claims: &Value) -> String {
        let signed = format!(
            "{}.{}",
            encode(head.to_string()),
            encode(claims.to_string())
        );
        let signature = self.0.sign(signed.as_bytes());
        format!("{signed}.{}", encode(signature))
    }
}

fn set(keys: &[Value]) -> KeySet {
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
}

fn rule() -> TokenRule {
    TokenRule {
        issuer: "https://login.example".to_owned(),
        audience: vec!["shop".to_owned()],
        algorithms: vec![Algorithm::EdDsa, Algorithm::Es256],
        leeway: Duration::from_secs(30),
    }
}

fn head() -> Value {
    json!({"alg": "EdDSA", "kid": "one", "typ": "JWT"})
}

fn claims() -> Value {
    json!({"iss": "https://login.example", "aud": ["api", "shop"], "sub": "7", "exp": NOW + 60})
}

#[test]
fn a_good_token_says_what_it_says() {
    let signer = Signer::new();
    let found = verify(
        &signer.token(&head(), &claims()),
        &rule(),
        &signer.keys(),
        NOW,
    )
    .unwrap();
    assert_eq!(found["sub"], "7");
}

#[test]
fn claims_are_checked_each_by_its_rule() {
    let signer = Signer::new();
    let check = |change: Value, expected: Result<(), TokenError>| {
        let mut claims = claims();
        for (name, value) in change.as_object().unwrap() {
            match value {
                Value::Null => claims.as_object_mut().unwrap().remove(name),
                value => claims
                    .as_object_mut()
                    .unwrap()
                    .insert(name.clone(), value.clone()),
            };
        }
        let token = signer.token(&head(), &claims);
        let found = verify(&token, &rule(), &signer.keys(), NOW).map(|_| ());
        assert_eq!(found, expected, "{change}");
    };
    check(json!({"exp": NOW - 29}), Ok(()));
    check(json!({"exp": NOW - 30}), Err(TokenError::Expired));
    check(json!({"exp": 1.5}), Err(TokenError::Expired));
    check(json!({"exp": null}), Err(TokenError::Malformed));
    check(json!({"exp": "1900000000"}), Err(TokenError::Malformed));
    check(json!({"nbf": NOW + 30}), Ok(()));
    check(json!({"nbf": NOW + 31}), Err(TokenError::Early));
    check(json!({"nbf": "soon"}), Err(TokenError::Malformed));
    check(
        json!({"iss": "https://login.example/"}),
        Err(TokenError::Issuer),
    );
    check(
        json!({"iss": ["https://login.example"]}),
        Err(TokenError::Issuer),
    );
    check(json!({"iss": null}), Err(TokenError::Issuer));
    check(json!({"aud": "shop"}), Ok(()));
    check(json!({"aud": "api"}), Err(TokenError::Audience));
    check(json!({"aud": [["shop"]]}), Err(TokenError::Audience));
    check(json!({"aud": null}), Err(TokenError::Audience));
}

/// Nothing is remembered of a token: wherever the clock is set to, it is what its own times say then.
#[test]
fn the_clock_may_jump() {
    let signer = Signer::new();
    let mut claims = claims();
    claims["nbf"] = json!(NOW - 60);
    let token = signer.token(&head(), &claims);
    let (rule, keys) = (rule(), signer.keys());
    let hour = 3_600;
    for (now, expected) in [
        (NOW, Ok(())),
        (NOW + hour, Err(TokenError::Expired)),
        (NOW, Ok(())),
        (NOW - hour, Err(TokenError::Early)),
        (0, Err(TokenError::Early)),
        (u64::MAX, Err(TokenError::Expired)),
        (NOW + 89, Ok(())),
        (NOW + 90, Err(TokenError::Expired)),
    ] {
        let found = verify(&token, &rule, &keys, now).map(|_| ());
        assert_eq!(found, expected, "{now}");
    }
}

#[test]
fn the_config_says_what_signs_and_never_the_token() {
    let signer = Signer::new();
    let check = |head: Value, expected: TokenError| {
        let token = signer.token(&head, &claims());
        assert_eq!(
            verify(&token, &rule(), &signer.keys(), NOW),
            Err(expected),
            "{head}"
        );
    };
    for alg in ["none", "None", "HS256", "RS256", "eddsa", ""] {
        check(json!({"alg": alg, "kid": "one"}), TokenError::Algorithm);
    }
    // An algorithm that is accepted, of a key that is none for it.
    check(
        json!({"alg": "ES256", "kid": "one"}),
        TokenError::UnknownKey,
    );
    check(
        json!({"alg": "EdDSA", "kid": "two"}),
        TokenError::UnknownKey,
    );
    check(json!({"kid": "one"}), TokenError::Malformed);
    let critical = json!({"alg": "EdDSA", "kid": "one", "crit": ["b64"], "b64": false});
    check(critical, TokenError::Algorithm);
    let mut bound = signer.jwk();
    bound["alg"] = json!("ES256");
    let token = signer.token(&head(), &claims());
    assert_eq!(
        verify(&token, &rule(), &set(&[bound]), NOW),
        Err(TokenError::UnknownKey)
    );
}

#[test]
fn a_token_without_a_key_name_is_tried_with_all() {
    let (signer, random) = (Signer::new(), SystemRandom::new());
    let other = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    let other = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, other.as_ref(), &random);
    let other = other.unwrap();
    let (x, y) = other.public_key().as_ref()[1..].split_at(32);
    let other = json!({"kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y)});
    let token = signer.token(&json!({"alg": "EdDSA"}), &claims());
    assert!(verify(&token, &rule(), &set(&[other.clone(), signer.jwk()]), NOW).is_ok());
    assert_eq!(
        verify(&token, &rule(), &set(&[other]), NOW),
        Err(TokenError::UnknownKey)
    );
}

#[test]
fn a_set_needs_a_key_that_can_be_used() {
    let none = |text: &str| KeySet::parse(text.as_bytes()).unwrap_err();
    assert!(none("[]").contains("no JWK set"));
    for keys in [
        "",
        r#"{"kty": "oct", "k": "c2VjcmV0"}"#,
        r#"{"kty": "OKP", "crv": "Ed25519", "x": "AA"}"#,
        r#"{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}"#,
        r#"{"kty": "RSA", "n": "AQAB", "e": "AQAB", "use": "enc"}"#,
        "7",
    ] {
        let text = format!("{{\"keys\": [{keys}]}}");
        assert!(none(&text).contains("no public key"), "{keys}");
    }
}

proptest! {
    /// No other text than the one that was signed is believed.
    #[test]
    fn a_changed_token_is_refused(at in 0_usize..300, to in "[A-Za-z0-9_.-]") {
        let signer = Signer::new();
        let token = signer.token(&head(), &claims());
        let at = at % token.len();
        let mut changed = token.clone();
        changed.replace_range(at..=at, &to);
        prop_assume!(changed != token);
        prop_assert!(verify(&changed, &rule(), &signer.keys(), NOW).is_err());
    }

    #[test]
    fn nothing_that_is_sent_is_more_than_refused(text in ".{0,200}") {
        prop_assert!(verify(&text, &rule(), &Signer::new().keys(), NOW).is_err());
        let _ = issuer(&text);
    }
}
