//! `[proxy.cookies]`.

use super::*;

fn with(lines: &str) -> String {
    let before = "[proxy.identity]";
    SHOP.replacen(before, &format!("[proxy.cookies]\n{lines}\n\n{before}"), 1)
}

#[test]
fn keys_are_those_of_the_config_or_none() {
    assert!(good(SHOP).proxy.cookie_keys.is_empty());
    let one = good(&with("key_env = \"IDENTITY\""));
    assert_eq!(one.proxy.cookie_keys.len(), 1);
    let both = with("key_env = \"IDENTITY\"\nformer_key_env = \"IDENTITY\"");
    assert_eq!(good(&both).proxy.cookie_keys.len(), 2);
}

#[test]
fn a_key_that_is_none_is_refused() {
    for (lines, rule) in [
        ("", "the key that signs cookies is missing"),
        (
            "former_key_env = \"IDENTITY\"",
            "the key that signs cookies is missing",
        ),
        ("key_file = \"nowhere.key\"", "no secret in"),
        (
            "key_env = \"NOT_THERE\"",
            "the environment has no such variable",
        ),
        (
            "key_file = \"identity.secret\"\nkey_env = \"X\"",
            "exclude one another",
        ),
        ("key = \"abc\"", "key_file"),
    ] {
        let error = parse(&with(lines)).expect_err(lines).to_string();
        assert!(error.contains(rule), "{lines}: {error}");
    }
}

#[test]
fn every_key_of_cookies_is_in_the_reference() {
    let part = REFERENCE.split("### `[proxy.cookies]`").nth(1).unwrap();
    let part = part.split("\n### ").next().unwrap();
    for key in ["key_file", "key_env", "former_key_file", "former_key_env"] {
        assert!(part.contains(&format!("`{key}`")), "{key}");
    }
}
