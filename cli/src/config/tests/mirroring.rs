//! `[slices.ID.shadow]`: how much is mirrored.

use super::{SHOP, good, parse};

fn with(text: &str) -> String {
    SHOP.replacen("sample = 1.0", &format!("sample = 1.0\n{text}"), 1)
}

#[test]
fn bounds_of_the_slice_and_of_routes_are_read() {
    let text = "by = \"client\"\nrate = 0.5\nwaiting = 7\nin_flight = 3\nmemory = \"8MiB\"\n\
         by_route = [{ routes = [\"GET /api/products/{id}\"], sample = 0.25, rate = 10, waiting = 2, memory = \"2MiB\" }]";
    let config = good(&with(text));
    let flow = &config.slice("catalog").unwrap().shadow.flow;
    assert!(flow.by_client);
    assert_eq!(
        (flow.rate, flow.waiting, flow.in_flight, flow.memory),
        (Some(0.5), 7, 3, 8 << 20)
    );
    let route = flow.routes["GET /api/products/{id}"];
    assert_eq!(
        (route.sample, route.rate, route.waiting, route.memory),
        (Some(0.25), Some(10.0), Some(2), Some(2 << 20))
    );
    assert_eq!(flow.routes.len(), 1);
}

#[test]
fn posts_of_a_route_may_read() {
    let shop = SHOP.replacen(
        "    \"GET /api/categories\",\n",
        "    \"GET /api/categories\",\n    \"POST /graphql\",\n",
        1,
    );
    let with = |text: &str| {
        let text = format!("sample = 1.0\nby_route = [{{ routes = {text} }}]");
        shop.replacen("sample = 1.0", &text, 1)
    };
    for (word, posts) in [
        ("graphql", outgrow_shadow::Posts::Graphql),
        ("reads", outgrow_shadow::Posts::Reads),
    ] {
        let config = good(&with(&format!("[\"POST /graphql\"], posts = \"{word}\"")));
        let flow = &config.slice("catalog").unwrap().shadow.flow;
        assert_eq!(flow.routes["POST /graphql"].posts, Some(posts));
    }
    for (text, rule) in [
        ("[\"POST /graphql\"], posts = \"all\"", "no kind of POST"),
        (
            "[\"GET /api/categories\"], posts = \"reads\"",
            "it has no POSTs",
        ),
    ] {
        let errors = parse(&with(text)).expect_err(text).to_string();
        assert!(errors.contains(rule), "{errors}");
    }
}

#[test]
fn what_is_no_bound_is_refused_with_its_fix() {
    for (text, rule) in [
        ("by = \"cookie\"", "it is not what can be sampled"),
        ("rate = 0", "it is not a rate"),
        ("memory = \"1KiB\"", "memory"),
        ("in_flight = 0", "it must be a whole number in range"),
        ("by_route = [{ sample = 0.5 }]", "`routes` is missing"),
        (
            "by_route = [{ routes = [\"GET /api/product/{id}\"] }]",
            "the slice has no such route",
        ),
        (
            "by_route = [{ routes = [\"GET /api/products\", \"GET /api/products\"] }]",
            "it is said apart already",
        ),
    ] {
        let errors = parse(&with(text)).expect_err(text).to_string();
        assert!(errors.contains(rule), "{errors}");
    }
    let near = "by_route = [{ routes = [\"GET /api/product/{id}\"] }]";
    let errors = parse(&with(near)).expect_err(near).to_string();
    assert!(
        errors.contains("did you mean \"GET /api/products/{id}\"?"),
        "{errors}"
    );
}

#[test]
fn requests_may_have_ids_that_rules_know() {
    let rule = |name: &str| {
        format!(
            "accept = [{{ path = \"$..id\", renamed = \"{name}\", reason = \"anew\", \
             until = \"2999-01-01\" }}]\n"
        )
    };
    let route =
        |route: &str, ids: &str| format!("by_route = [{{ routes = [\"{route}\"], ids = {ids} }}]");
    let one = "GET /api/products/{id}";
    let text = rule("product")
        + &route(
            one,
            "{ id = \"product\", \"?with\" = \"product\", \"$.of[*]\" = \"product\" }",
        );
    let config = good(&with(&text));
    let flow = &config.slice("catalog").unwrap().shadow.flow;
    assert_eq!(flow.ids.len(), 1);
    let ids = flow.ids[one].iter();
    let ids: Vec<(&str, &str)> = ids.map(|(key, name)| (&**key, &**name)).collect();
    assert_eq!(ids, ["$.of[*]", "?with", "id"].map(|key| (key, "product")));
    for (name, at, ids, expected) in [
        (
            "product",
            "GET /api/products",
            "{ id = \"product\" }",
            "its path has no `{id}`",
        ),
        (
            "product",
            one,
            "{ number = \"product\" }",
            "its path has no `{number}`",
        ),
        ("product", one, "{ id = \"order\" }", "has it as `renamed`"),
        (
            "product",
            one,
            "{ id = \"products\" }",
            "did you mean \"product\"?",
        ),
        (
            "product",
            one,
            "{ \"?\" = \"product\" }",
            "no parameter of the query",
        ),
        (
            "product",
            one,
            "{ \"$.of[\" = \"product\" }",
            "`]` is missing",
        ),
        ("product", one, "\"product\"", "ids"),
        ("product", one, "{ id = 1 }", "ids"),
    ] {
        let text = with(&(rule(name) + &route(at, ids)));
        let errors = parse(&text).expect_err(ids).to_string();
        assert!(errors.contains(expected), "{ids}: {errors}");
    }
}

/// Of the reviews, which have no tables.
fn reviews(writes: &str, shadow: &str) -> String {
    let routes = "routes = [\"GET /api/products/{id}/reviews\"";
    assert_eq!(SHOP.matches(routes).count(), 1);
    let shop = SHOP.replacen(routes, &format!("{routes}, \"POST /api/reviews\""), 1);
    let text = format!(
        "[slices.reviews.shadow]\nby_route = [{{ routes = [\"POST /api/reviews\"], {writes} }}]\n{shadow}\n"
    );
    shop.replacen("[slices.reviews.shadow]", &text, 1)
}

#[test]
fn copies_of_writes_are_wanted_by_route() {
    use outgrow_shadow::Writes;
    let sandbox = "sandbox_urls = [\"http://127.0.0.1:9202\", \"unix:/run/sandbox.sock\"]";
    for (word, shadow, writes) in [
        ("dry-run", "", Writes::DryRun),
        ("sandbox", sandbox, Writes::Sandbox),
        ("record", "", Writes::Record),
    ] {
        let config = good(&reviews(&format!("writes = \"{word}\""), shadow));
        let found = &config.slice("reviews").unwrap().shadow;
        let route = found.flow.routes["POST /api/reviews"];
        assert_eq!((route.writes, route.writes_reverse), (Some(writes), false));
        assert_eq!(found.sandbox.len(), if shadow.is_empty() { 0 } else { 2 });
    }
    let config = good(&reviews("writes = \"dry-run\", writes_reverse = true", ""));
    let found = &config.slice("reviews").unwrap().shadow;
    assert!(found.flow.routes["POST /api/reviews"].writes_reverse);
}

#[test]
fn copies_of_writes_that_cannot_be_are_refused() {
    let sandbox = "writes = \"sandbox\"";
    for (writes, shadow, rule) in [
        ("writes = \"twice\"", "", "no way to copy writes"),
        (
            "writes = \"dry-run\", posts = \"reads\"",
            "",
            "reads already, by `posts`",
        ),
        (
            "writes = \"record\", writes_reverse = true",
            "",
            "only dry runs can go to the legacy side",
        ),
        (sandbox, "", "go to a sandbox, and there is none"),
        (
            "rate = 1",
            "sandbox_urls = [\"http://a:80\"]",
            "no route has writes for the sandbox",
        ),
        (
            sandbox,
            "sandbox_urls = [\"https://a:443\"]",
            "does not ask a sandbox so",
        ),
        (
            sandbox,
            "sandbox_urls = [\"srv:_http._tcp.a\"]",
            "does not ask a sandbox so",
        ),
        (
            sandbox,
            "sandbox_urls = [\"http://a:80\", \"http://a:80\"]",
            "it is listed twice",
        ),
        (sandbox, "sandbox_urls = []", "it names no upstream"),
        (
            sandbox,
            "sandbox_urls = [\"http://localhost:9102\"]",
            "the sandbox 127.0.0.1:9102 is an upstream of [services.reviews]",
        ),
        (
            sandbox,
            "sandbox_urls = [\"http://[::1]:9000\"]",
            "the sandbox 127.0.0.1:9000 is an upstream of [legacy]",
        ),
    ] {
        let errors = parse(&reviews(writes, shadow)).expect_err(rule).to_string();
        assert!(errors.contains(rule), "{errors}");
    }
    for (text, rule) in [
        (
            "[\"GET /api/products\"], writes = \"record\"",
            "it has no writes",
        ),
        (
            "[\"PUT /api/products/{id}/price\"], writes = \"dry-run\"",
            "the fence refuses every write of the slice's tables",
        ),
    ] {
        let text = format!("by_route = [{{ routes = {text} }}]");
        let errors = parse(&with(&text)).expect_err(rule).to_string();
        assert!(errors.contains(rule), "{errors}");
    }
}

#[test]
fn copies_have_fields_of_their_own_for_each_side() {
    let text = r#"[slices.catalog.shadow.legacy_request]
remove = ["x-debug"]
cookies = { drop = ["theme"] }
[slices.catalog.shadow.extracted_request]
set = { x-api-version = "2", authorization = { env = "IDENTITY" } }
add = { x-from = "shadow" }
cookies = { pass = ["lang"], rename = { sid = "session" }, set = { own = "a=b" } }
query = { remove = ["debug"], rename = { q = "search" }, set = { "filter[a]" = "b c" } }
[slices.catalog.plan]"#;
    assert_eq!(SHOP.matches("[slices.catalog.plan]").count(), 1);
    let with = |text: &str| SHOP.replacen("[slices.catalog.plan]", text, 1);
    let config = good(&with(text));
    let found = &config.slice("catalog").unwrap().shadow.rewrites;
    assert!(found.legacy.authorization && !found.extracted.authorization);
    assert_eq!(found.legacy.cookies.pass, outgrow_shadow::Pass::All);
    let set = &found.extracted.set;
    assert_eq!(
        (set[0].1.as_bytes(), set[1].1.as_bytes()),
        (&b"2"[..], &b"0123456789abcdef0123456789abcdef"[..])
    );
    assert_eq!(
        found.extracted.query.set,
        [("filter[a]".to_owned(), "b c".to_owned())]
    );
    assert!(!format!("{config:?}").contains("0123456789abcdef"));
}

#[test]
fn fields_that_are_not_the_configs_to_change_are_refused() {
    let with = |text: &str| SHOP.replacen("[slices.catalog.plan]", text, 1);
    let of = |line: &str| {
        let text =
            format!("[slices.catalog.shadow.extracted_request]\n{line}\n[slices.catalog.plan]");
        with(&text)
    };
    assert!(
        good(&of(
            "authorization = \"pass\"\ncookies = { pass = \"all\" }"
        ))
        .slice("catalog")
        .is_some()
    );
    for (line, rule) in [
        (
            "remove = [\"host\"]",
            "`host` cannot be changed: the field says where a request goes",
        ),
        ("set = { cookie = \"a=1\" }", "cookies go on by their names"),
        (
            "set = { x-outgrow-shadow = \"0\" }",
            "the field is the proxy's own",
        ),
        (
            "set = { authorization = { env = \"NONE\" } }",
            "the environment has no such variable",
        ),
        ("set = { authorization = {} }", "it says no value"),
        ("set = { x = \"a\\nb\" }", "it is not the value of a header"),
        (
            "authorization = \"keep\"",
            "it is not what can be done with it",
        ),
        (
            "cookies = { pass = \"some\" }",
            "it is not which cookies go on",
        ),
        (
            "cookies = { set = { a = \"b; c=d\" } }",
            "it is not the value of a cookie",
        ),
        (
            "cookies = { rename = { a = \"b c\" } }",
            "`b c` is not the name of a cookie",
        ),
        ("query = { drop = [\"a\"] }", "there is no such key"),
    ] {
        let errors = parse(&of(line)).expect_err(rule).to_string();
        assert!(errors.contains(rule), "{errors}");
    }
}
