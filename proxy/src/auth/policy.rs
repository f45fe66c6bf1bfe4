//! What a caller's claims must say. Pure.

use serde_json::{Map, Value};

use super::Denial;

/// One claim, and the values of which it must have one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    /// A name, or a path of names with dots.
    pub claim: String,
    pub values: Vec<String>,
}

/// A claim by its name, which may hold dots itself, or by a path of names.
pub(super) fn claim<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    if let Some(found) = claims.get(name) {
        return Some(found);
    }
    let (first, rest) = name.split_once('.')?;
    claim(claims.get(first)?.as_object()?, rest)
}

/// Whether a claim has a value. Scopes are words of one text (RFC 6749 section 3.3).
fn has(found: &Value, name: &str, wanted: &str) -> bool {
    match found {
        Value::String(text) if matches!(name, "scope" | "scp") => {
            text.split(' ').any(|word| word == wanted)
        }
        Value::String(text) => text == wanted,
        Value::Array(all) => all.iter().any(|one| one.as_str() == Some(wanted)),
        Value::Bool(flag) => wanted == if *flag { "true" } else { "false" },
        Value::Number(number) => number.to_string() == wanted,
        Value::Null | Value::Object(_) => false,
    }
}

/// # Errors
/// The first demand that is not met.
pub(super) fn check(demands: &[Demand], claims: &Map<String, Value>) -> Result<(), Denial> {
    for demand in demands {
        let name = &demand.claim;
        let found = claim(claims, name);
        let met = found.is_some_and(|found| demand.values.iter().any(|v| has(found, name, v)));
        if !met {
            let scope = matches!(name.as_str(), "scope" | "scp");
            return Err(Denial::Policy {
                scope: scope.then(|| demand.values.join(" ")),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_demand_is_met_by_one_value() {
        let claims = serde_json::json!({
            "scope": "read write", "role": "staff user", "level": 3, "verified": true,
            "groups": ["a", "b"], "realm_access": {"roles": ["admin"]},
            "https://a.example/x": "y", "nothing": null,
        });
        let claims = claims.as_object().unwrap();
        for (claim, values, met) in [
            ("scope", &["write"][..], true),
            ("scope", &["admin", "read"], true),
            ("scope", &["rea"], false),
            ("role", &["staff"], false),
            ("role", &["staff user"], true),
            ("level", &["3"], true),
            ("verified", &["true"], true),
            ("groups", &["b"], true),
            ("groups", &["ab"], false),
            ("realm_access.roles", &["admin"], true),
            ("realm_access", &["admin"], false),
            ("https://a.example/x", &["y"], true),
            ("nothing", &["null", ""], false),
            ("missing", &[""], false),
        ] {
            let demand = Demand {
                claim: claim.to_owned(),
                values: values.iter().map(|&value| value.to_owned()).collect(),
            };
            assert_eq!(check(&[demand], claims).is_ok(), met, "{claim} {values:?}");
        }
    }
}
