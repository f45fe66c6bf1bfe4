//! Who may ask.

use http::HeaderValue;
use outgrow_proxy::{Credentials, KeySource, Means, Secret, Way};

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
    let login = Way::Shown(Means {
        issuers: vec!["login".to_owned()],
        ..Means::default()
    });
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
fn what_a_service_says_of_a_caller_may_be_claims() {
    let text = "auth = { service = \"catalog\", identity = \"sub\", require = { groups = [\"staff\"] }, \
                claims = { X-User = \"sub\", x-groups = { list = \"groups\" } } }";
    let config = good(&with(LOGIN, text));
    let rule = config.slices[0].routes[0].filters.clone().unwrap();
    let rule = rule.auth.clone().unwrap();
    assert_eq!(
        (rule.demands.len(), rule.identity.as_deref()),
        (1, Some("sub"))
    );
    let Way::Asked { claims, .. } = rule.way else {
        panic!("a service is asked");
    };
    let mut claims: Vec<_> = claims
        .iter()
        .map(|said| (said.field.as_str(), said.claim.as_str(), said.list))
        .collect();
    claims.sort_unstable();
    assert_eq!(
        claims,
        [("x-groups", "groups", true), ("x-user", "sub", false)]
    );
    golden(
        "auth_claims",
        &with(
            LOGIN,
            "auth = { service = \"catalog\", identity = \"sub\", optional = true }\n\
             [[slices.catalog.route_filters]]\nroutes = [\"GET /api/products\"]\n\
             auth = { service = \"catalog\", claims = { x-a = \"sub\", x-b = { list = \"sub\" }, cookie = \"c\", \
             x-c = 1, x-d = { lists = \"a\" } } }\n\
             [[slices.catalog.route_filters]]\nroutes = [\"GET /api/categories\"]\n\
             auth = { issuers = [\"login\"], claims = { x-a = \"sub\" } }",
        ),
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

/// The shop's config with somebody who is asked about tokens.
fn asking(introspection: &str, auth: &str) -> String {
    with(LOGIN, auth).replace(
        "[proxy.identity]",
        &format!("[proxy.introspection.sessions]\n{introspection}\n\n[proxy.identity]"),
    )
}

const ASKED: &str = "service = \"catalog\"\npath = \"/introspect\"\naudience = []";

#[test]
fn somebody_may_be_asked_about_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    std::fs::write(&file, "0123456789abcdef\n").unwrap();
    let auth = "auth = { introspection = \"sessions\", cookie = \"sid\", identity = \"username\" }";
    let bearer = format!("{ASKED}\nbearer_file = \"{}\"", file.display());
    let config = good(&asking(&bearer, auth));
    let rule = config.slices[0].routes[0].filters.clone().unwrap();
    let means = Means {
        introspection: Some("sessions".to_owned()),
        cookie: Some("sid".to_owned()),
        ..Means::default()
    };
    assert_eq!(rule.auth.clone().unwrap().way, Way::Shown(means));
    let one = &config.proxy.auth.introspection[0];
    let secret = Secret::new("0123456789abcdef");
    assert_eq!(one.credentials, Credentials::Bearer(secret.clone()));
    let seconds = [one.keep, one.keep_inactive, one.timeout, one.leeway].map(|d| d.as_secs());
    assert_eq!(seconds, [30, 5, 3, 30]);
    assert_eq!((one.hint.as_str(), one.size), ("access_token", 16 << 20));
    assert_eq!((&one.host, &one.issuer), (&None, &None));
    let own = format!(
        "{ASKED}\nhost = \"login.example\"\nclient_id = \"shop\"\nclient_secret_file = \"{}\"\n\
         hint = \"\"\nissuer = \"https://login.example\"\nkeep = \"2s\"\nsize = \"1MiB\"",
        file.display()
    );
    let config = good(&asking(&own, auth));
    let one = &config.proxy.auth.introspection[0];
    let id = "shop".to_owned();
    assert_eq!(one.credentials, Credentials::Basic { id, secret });
    assert_eq!(one.host, Some(HeaderValue::from_static("login.example")));
    assert_eq!((one.keep_inactive.as_secs(), one.hint.as_str()), (2, ""));
    assert_eq!(one.issuer.as_deref(), Some("https://login.example"));
}

#[test]
fn who_cannot_be_asked_about_tokens_is_refused() {
    let auth = "auth = { introspection = \"session\", cookie = \"a b\" }";
    let odd = "service = \"login\"\npath = \"introspect\"\nhost = \"https://a/b\"\nkeep = \"2h\"\n\
               keep_inactive = \"1m\"\nsize = \"1KiB\"\ntimeout = \"0s\"\nleeway = \"1h\"\ncache = 1";
    golden("introspection", &asking(odd, auth));
    let cookie = "auth = { issuers = [\"login\"], cookie = \"sid\" }";
    let half = format!("{ASKED}\nclient_id = \"shop\"\nkeep = \"1s\"\nkeep_inactive = \"2s\"");
    golden("introspection_half", &asking(&half, cookie));
    let missing = ASKED.replace("catalog", "login") + "\nclient_secret_env = \"NO_SUCH_ONE\"";
    golden("introspection_nowhere", &asking(&missing, cookie));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    std::fs::write(&file, "two words that are no token").unwrap();
    let odd = format!("{ASKED}\nbearer_file = \"{}\"", file.display());
    let told = parse(&asking(&odd, cookie))
        .expect_err("a bad config")
        .to_string();
    assert!(told.contains("does not fit into a header"), "{told}");
    let nowhere = odd.replace("catalog", "login");
    std::fs::write(&file, "0123456789abcdef").unwrap();
    let told = parse(&asking(&nowhere, auth)).expect_err("a bad config");
    let told = told.to_string();
    assert!(
        told.contains("`introspection.sessions` asks `login`, which is no service"),
        "{told}"
    );
    let both = format!("{odd}\nclient_id = \"shop\"");
    let told = parse(&asking(&both, cookie))
        .expect_err("a bad config")
        .to_string();
    assert!(told.contains("keep one of the two ways"), "{told}");
}

#[test]
fn every_key_of_introspection_is_in_the_reference() {
    let (_, rest) = REFERENCE
        .split_once("### `[proxy.introspection.NAME]`")
        .unwrap();
    let (section, _) = rest.split_once("\n### ").unwrap();
    let told = parse(&asking(
        "none = 1",
        "auth = { introspection = \"sessions\" }",
    ));
    let told = told.expect_err("a bad config").to_string();
    let (_, after) = told.split_once("introspection.sessions.none").unwrap();
    let keys = after.split("the keys here are ").nth(1).unwrap();
    let keys: Vec<&str> = keys.lines().next().unwrap().split(", ").collect();
    assert_eq!(keys.len(), 16, "{keys:?}");
    for key in keys {
        assert!(section.contains(&format!("| `{key}`")), "{key}");
    }
}

/// Nobody is told to remove a service that decides who may ask.
#[test]
fn a_service_that_is_asked_is_used() {
    let more = "[services.catalog]";
    let gate = "[services.gate]\nurls = [\"http://127.0.0.1:9\"]\n\n[services.catalog]";
    let warned = |auth: &str| {
        let config = good(&with(LOGIN, auth).replace(more, gate));
        let told = config.warnings.iter().map(ToString::to_string);
        told.filter(|text| text.contains("services.gate")).count()
    };
    assert_eq!(warned("auth = { issuers = [\"login\"] }"), 1);
    assert_eq!(warned("auth = { service = \"gate\" }"), 0);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    std::fs::write(&file, "0123456789abcdef").unwrap();
    let asked = format!("{ASKED}\nbearer_file = \"{}\"", file.display()).replace("catalog", "gate");
    let text = asking(&asked, "auth = { introspection = \"sessions\" }").replace(more, gate);
    let warnings = good(&text).warnings;
    assert!(
        !warnings
            .iter()
            .any(|w| w.to_string().contains("services.gate"))
    );
}
