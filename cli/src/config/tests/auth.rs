//! Who may ask.

use outgrow_proxy::{KeySource, Way};

use super::*;

/// The shop's config with an issuer, and this for the catalog.
fn with(issuer: &str, auth: &str) -> String {
    let shop = SHOP.replace(
        "[proxy.identity]",
        &format!("[proxy.issuers.login]\n{issuer}\n\n[proxy.identity]"),
    );
    let before = "[slices.catalog.shadow]";
    assert_eq!(shop.matches(before).count(), 1);
    shop.replace(
        before,
        &format!("[slices.catalog.filters]\n{auth}\n\n{before}"),
    )
}

const LOGIN: &str = "issuer = \"https://login.example/\"\naudience = [\"shop\"]";

#[test]
fn routes_may_ask_for_tokens() {
    let text = "auth = { issuers = [\"login\"], optional = true, identity = \"sub\", \
                require = { scope = [\"read\", \"write\"] } }";
    let config = good(&with(LOGIN, text));
    let rule = config.slices[0].routes[0].filters.clone().unwrap();
    let rule = rule.auth.clone().unwrap();
    let login = Way::Shown {
        issuers: vec!["login".to_owned()],
        key: None,
        certificate: false,
    };
    assert!(rule.way == login && rule.optional);
    assert_eq!(rule.identity.as_deref(), Some("sub"));
    assert_eq!(rule.demands[0].values, ["read", "write"]);
    let issuer = &config.proxy.auth.issuers[0];
    let about = "https://login.example/.well-known/openid-configuration";
    assert_eq!(issuer.keys, KeySource::Discover(about.parse().unwrap()));
    assert_eq!(issuer.rule.audience, ["shop"]);
    assert_eq!(issuer.rule.algorithms.len(), 3);
    assert_eq!(issuer.pause, Duration::from_secs(10));
}

#[test]
fn api_keys_and_services_may_be_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys");
    std::fs::write(&file, format!("ann sha256:{}\n", "a".repeat(64))).unwrap();
    let shop = with(LOGIN, "auth = { api_key = \"X-Api-Key\" }");
    let shop = shop.replace(
        "[proxy]\n",
        &format!("[proxy]\napi_keys = \"{}\"\n", file.display()),
    );
    assert_eq!(good(&shop).proxy.auth.api_keys, Some(file));
    let text = "auth = { service = \"catalog\", path = \"/check\", copy = [\"x-user\"] }";
    let config = good(&with(LOGIN, text));
    let rule = config.slices[0].routes[0].filters.clone().unwrap();
    let way = rule.auth.clone().unwrap().way;
    assert!(
        matches!(way, Way::Asked { service, copy, .. } if service == "catalog" && copy.len() == 1)
    );
}

#[test]
fn what_cannot_be_asked_for_is_refused() {
    golden(
        "auth_issuer",
        &with(
            "algorithms = [\"none\", \"HS256\"]\njwks = \"ftp://a/b\"\nleeway = \"1h\"\nkeys = 1",
            "auth = { issuers = [\"log\"], api_key = \"authorization\" }",
        ),
    );
    golden(
        "auth",
        &with(
            LOGIN,
            "auth = { issuers = [\"log\"], api_key = \"x-key\" }\n\
             [[slices.catalog.route_filters]]\nroutes = [\"GET /api/products\"]\n\
             auth = { service = \"gate\", path = \"check\", copy = [\"cookie\"], require = { a = [] } }\n\
             [[slices.catalog.route_filters]]\nroutes = [\"GET /api/categories\"]\n\
             auth = { optional = true, who = 1 }",
        ),
    );
}
