//! Changes of heads.

use super::*;

/// The shop's config with this in `[slices.catalog.filters]`, and the rest behind it.
fn with(text: &str) -> String {
    let before = "[slices.catalog.shadow]";
    assert_eq!(SHOP.matches(before).count(), 1);
    SHOP.replace(
        before,
        &format!("[slices.catalog.filters]\n{text}\n\n{before}"),
    )
}

#[test]
fn a_route_has_its_own_filters_or_the_slices() {
    let text = "request = { remove = [\"X-Debug\"], set = { x-channel = \"web\" } }\n\
        links = [{ from = \"http://127.0.0.1:9000\", to = \"\" }]\n\
        cookie_domains = [{ from = \".shop.internal\", to = \"\" }]\n\
        [[slices.catalog.route_filters]]\nroutes = [\"GET /api/categories\"]\n\
        response = { add = { vary = \"x-channel\" } }";
    let config = good(&with(text));
    let filters = |route: &str| {
        let routes = &config.slices[0].routes;
        let found = routes.iter().find(|r| r.to_string() == route).unwrap();
        found.filters.clone().unwrap()
    };
    let (common, own) = (filters("GET /api/products"), filters("GET /api/categories"));
    assert_eq!(common.links.len(), 1);
    assert_eq!(common.cookie_domains, [("shop.internal".to_owned(), None)]);
    assert!(own.links.is_empty() && own.response != common.response);
    assert!(config.slices[1].routes[0].filters.is_none());
    assert!(config.proxy.filters.is_none());
    let all = SHOP.replace(
        "[proxy.identity]",
        "[proxy.filters]\nresponse = { remove = [\"x-powered-by\"] }\n\n[proxy.identity]",
    );
    assert!(good(&all).proxy.filters.is_some());
}

#[test]
fn filters_that_cannot_be_are_refused() {
    golden(
        "filters",
        &with(
            "request = { set = { Host = \"a\", \"x y\" = \"1\", x-a = \"\\u0007\" }, \
             remove = [\"transfer-encoding\", \"x-outgrow-identity\"], put = {} }\n\
             response = { add = { content-length = \"1\" } }\n\
             links = [{ from = \"shop\", to = \"/\" }, { from = \"/a\" }]\n\
             fallback = \"always\"\n\
             links_in = [\"text/html\", \"text\"]\n\
             cookie_domains = [{ from = \"a b\", to = \"\" }]\n\
             cookie_paths = [{ from = \"/app\", to = \"x\" }]\n\
             [[slices.catalog.route_filters]]\n\
             routes = [\"GET /api/category\", \"GET /api/products\", \"GET /api/products\"]",
        ),
    );
}

#[test]
fn a_path_that_no_route_has_is_told() {
    let text = with(
        "paths = [{ from = \"/api/products/{sku}\", to = \"/v2/{sku}\" }, \
         { from = \"/api/product/{id}\", to = \"/v2/{id}\" }]\n\
         [[slices.catalog.route_filters]]\n\
         routes = [\"GET /api/categories\"]\n\
         paths = [{ from = \"/api/products\", to = \"/v2\" }, { from = \"/{*all}\", to = \"/v2/{*all}\" }]",
    );
    let warnings = good(&text).warnings;
    let keys: Vec<_> = warnings
        .iter()
        .map(|warning| warning.key.as_str())
        .collect();
    assert_eq!(
        keys,
        [
            "slices.catalog.filters.paths[1]",
            "slices.catalog.route_filters[0].paths[0]"
        ],
        "{warnings:?}"
    );
    assert!(warnings[0].rule.contains("no route"), "{warnings:?}");
    assert_eq!(
        text.lines()
            .nth(warnings[0].line - 1)
            .unwrap()
            .split(' ')
            .next(),
        Some("paths")
    );
}

#[test]
fn sides_may_have_paths_of_their_own() {
    let config = good(&with(
        "paths = [{ from = \"/api/products/{id}\", to = \"/v2/items/{id}\" }, \
         { side = \"both\", from = \"/api/{*rest}\", to = \"/{*rest}\" }]",
    ));
    let filters = config.slices[0].routes[0].filters.clone().unwrap();
    use outgrow_rollout::Side::{Extracted, Legacy};
    let changes = |side| {
        filters
            .paths
            .iter()
            .filter(|rule| rule.changes(side))
            .count()
    };
    assert_eq!((changes(Legacy), changes(Extracted)), (1, 2));
    let all = |text: &str| {
        let filters = format!("[proxy.filters]\npaths = [{text}]\n\n[proxy.identity]");
        SHOP.replace("[proxy.identity]", &filters)
    };
    let config = good(&all("{ from = \"/{*rest}\", to = \"/app/{*rest}\" }"));
    assert!(config.proxy.filters.unwrap().paths[0].changes(Legacy));
    golden(
        "paths_outside",
        &all("{ side = \"both\", from = \"/a\", to = \"/b\" }"),
    );
    golden(
        "paths",
        &with(
            "paths = [{ side = \"left\", from = \"/a\", to = \"/b\" }, { from = \"a\", to = \"/b\" }, \
             { from = \"/{id}\", to = \"/{sku}\" }, { from = \"/a\", to = \"/../b\" }, { from = \"/a\", way = 1 }]",
        ),
    );
}

#[test]
fn answers_may_be_compressed() {
    let of = |text: &str| {
        let config = good(&with(&format!("compress = {{ {text} }}")));
        let filters = config.slices[0].routes[0].filters.clone().unwrap();
        filters.compress.clone().unwrap()
    };
    let usual = of("");
    let names: Vec<_> = usual.codings.iter().map(|coding| coding.name()).collect();
    assert_eq!((names, usual.min), (vec!["zstd", "br", "gzip"], 1_024));
    assert_eq!(usual.types.len(), 12, "each can be read");
    let own = of("codings = [\"gzip\"], types = [\"Text/*\", \"*+json\"], min = \"2KiB\"");
    assert_eq!((own.codings.len(), own.types.len(), own.min), (1, 2, 2_048));
    golden(
        "compress",
        &with(
            "compress = { codings = [\"deflate\", \"br\", \"br\"], types = [\"html\", \"*/*\"], min = \"2GiB\", level = 9 }\n\
             [[slices.catalog.route_filters]]\nroutes = [\"GET /api/products\"]\ncompress = { codings = [] }",
        ),
    );
}

#[test]
fn slow_requests_of_a_route_need_a_log() {
    golden("slow_without_log", &with("slow = \"500ms\""));
    let log = "[proxy.access_log]\nfile = \"-\"\n\n[proxy.identity]";
    let config = good(&with("slow = \"500ms\"").replace("[proxy.identity]", log));
    let filters = config.slices[0].routes[0].filters.clone().unwrap();
    assert_eq!(filters.slow, Some(Duration::from_millis(500)));
}

#[test]
fn the_whole_proxy_may_be_limited() {
    let limit = "rate_limit = { requests = 9, by = \"everybody\" }\n";
    let text = SHOP.replacen("[proxy]\n", &format!("[proxy]\n{limit}"), 1);
    assert!(good(&text).proxy.limit.is_some());
    assert!(good(SHOP).proxy.limit.is_none());
}

#[test]
fn answers_may_be_kept() {
    golden("kept_without_cache", &with("cache = { }"));
    let store = |text: &str| {
        let section = format!("[proxy.cache]\n{text}\n\n[proxy.identity]");
        let kept = with("cache = { heuristic_max = \"10m\" }");
        kept.replace("[proxy.identity]", &section)
    };
    let config = good(&store(""));
    let filters = config.slices[0].routes[0].filters.as_ref().unwrap();
    let rule = filters.cache.as_ref().unwrap();
    assert_eq!(rule.heuristic_max, Some(Duration::from_secs(600)));
    let cache = config.proxy.cache.unwrap();
    assert_eq!((cache.size, cache.body_max), (64 << 20, 1 << 20));
    assert_eq!(cache.wait, Duration::from_secs(3));
    let small = good(&store("size = \"2MiB\"")).proxy.cache.unwrap();
    assert_eq!(small.body_max, 256 << 10);
    golden(
        "cache",
        &store("size = \"1KiB\"\nbody_max = \"32MiB\"\nwait = \"2m\"\nttl = 5"),
    );
    let outside = "[proxy.cache]\n[proxy.filters]\ncache = { }\n\n[proxy.identity]";
    golden("kept_outside", &SHOP.replace("[proxy.identity]", outside));
}

#[test]
fn requests_may_be_limited() {
    let limit = |text: &str| {
        let config = good(&with(&format!("rate_limit = {{ {text} }}")));
        let routes = &config.slices[0].routes;
        let shared = routes[0].filters.clone().unwrap();
        let other = routes[1].filters.as_ref().unwrap();
        assert!(std::sync::Arc::ptr_eq(&shared, other), "one limit for all");
        format!("{:?}", shared.limit.as_ref().unwrap())
    };
    assert_eq!(
        limit("requests = 5"),
        "Limiter(RateRule { requests: 5, per: 1s, burst: 5, by: Address })"
    );
    assert_eq!(
        limit("requests = 100, per = \"1m\", burst = 10, by = \"everybody\""),
        "Limiter(RateRule { requests: 100, per: 60s, burst: 10, by: Everybody })"
    );
    assert!(limit("requests = 5, by = \"header:x-key\"").contains("x-key"));
    let bad = "rate_limit = { per = \"1ms\", burst = 0, by = \"ip\", request = 5 }";
    golden("rate_limit", &with(bad));
}

#[test]
fn pages_of_other_origins_may_ask() {
    let cors = |text: &str| {
        let config = good(&with(&format!("cors = {{ {text} }}")));
        let filters = config.slices[0].routes[0].filters.clone().unwrap();
        format!("{:?}", filters.cors.as_ref().unwrap())
    };
    let plain = cors("origins = [\"https://Shop.example\"]");
    assert!(plain.contains("One(\"https://shop.example\")"), "{plain}");
    assert!(plain.contains("GET, HEAD, POST"), "{plain}");
    let all = cors(
        "origins = [\"https://*.a.example\"], methods = [\"PUT\"], headers = [\"X-A\"], \
         expose = [\"x-b\"], credentials = true, max_age = \"10m\"",
    );
    for part in [
        "Below",
        "\"PUT\"",
        "\"x-a\"",
        "\"x-b\"",
        "credentials: true",
        "\"600\"",
    ] {
        assert!(all.contains(part), "{part} in {all}");
    }
    golden(
        "cors",
        &with(
            "cors = { origins = [\"*\"], credentials = true }\n\
             [[slices.catalog.route_filters]]\nroutes = [\"GET /api/products\"]\n\
             cors = { origins = [\"null\", \"shop.example\", \"https://a.example/x\"], \
             methods = [\"G T\"], headers = [\"*\"], max_age = \"2d\", origin = 1 }\n\
             [[slices.catalog.route_filters]]\nroutes = [\"GET /api/categories\"]\n\
             cors = { }",
        ),
    );
}
