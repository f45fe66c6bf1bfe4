//! Golden texts of what a bad config is told, and the config of the bundled shop.

use outgrow_bridge::Ambiguous;
use std::path::Path;
use std::time::Duration;

use super::*;

mod access_log;
mod auth;
mod builds;
mod cookies;
mod filters;
mod limits;
mod mirroring;
mod pages;
mod sources;
mod sync;
mod tls;
mod trace;
mod transport;
mod upstreams;

const SHOP: &str = include_str!("shop.toml");
const REFERENCE: &str = include_str!("../../../docs/config.md");

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    let env =
        |name: &str| (name == "IDENTITY").then(|| "0123456789abcdef0123456789abcdef".to_owned());
    let around = Surroundings {
        dir: Path::new("/srv/shop"),
        env: &env,
        today: time::macros::date!(2026 - 06 - 01),
    };
    Config::parse(text, Path::new("outgrow.toml"), around)
}

#[track_caller]
fn good(text: &str) -> Config {
    parse(text).unwrap_or_else(|errors| panic!("{errors}"))
}

/// The shop's config with one text replaced is refused with this.
#[track_caller]
fn refused(name: &str, from: &str, to: &str) {
    assert_eq!(SHOP.matches(from).count(), 1, "{from}");
    golden(name, &SHOP.replace(from, to));
}

#[track_caller]
fn golden(name: &str, text: &str) {
    let errors = parse(text).expect_err("a bad config");
    insta::assert_snapshot!(name, errors.to_string());
}

#[test]
fn a_database_says_how_its_changes_are_found() {
    let line = "database = \"sqlite:data/shop.db\"";
    assert_eq!(SHOP.matches(line).count(), 1);
    let with = |text: &str| SHOP.replace(line, text);
    good(&with(&format!("{line}\ncapture = \"triggers\"")));
    let postgres = "database = \"postgres://app@db/shop\"\ncapture = \"replication\"";
    good(&with(postgres));
    good(&with(&postgres.replace("postgres", "mysql")));
    good(&with(&postgres.replace("postgres", "mariadb")));
    golden(
        "capture_of_sqlite",
        &with(&format!("{line}\ncapture = \"replication\"")),
    );
    golden(
        "capture_unknown",
        &with(&postgres.replace("replication", "magic")),
    );
    good(&with(
        &postgres.replace("db/shop", "db/shop?sslmode=verify-full"),
    ));
    golden("capture_of_nothing", &with("capture = \"triggers\""));
}

#[test]
fn a_database_says_whether_another_server_is_gone_on_with() {
    let line = "database = \"sqlite:data/shop.db\"";
    let with = |text: &str| SHOP.replace(line, text);
    let follow = "capture = \"replication\"\nfollow_failover = true";
    good(&with(&format!(
        "database = \"mysql://app@db/shop\"\n{follow}"
    )));
    good(&with(&format!("{line}\nfollow_failover = false")));
    golden(
        "failover_of_postgres",
        &with(&format!("database = \"postgres://app@db/shop\"\n{follow}")),
    );
    golden(
        "failover_without_a_log",
        &with("database = \"mysql://app@db/shop\"\nfollow_failover = true"),
    );
    golden(
        "failover_of_sqlite",
        &with(&format!("{line}\nfollow_failover = true")),
    );
}

#[test]
fn no_slip_brings_it_down() {
    outgrow_testkit::around(SHOP.as_bytes(), &mut |bytes| {
        if let Err(errors) = parse(&String::from_utf8_lossy(bytes)) {
            assert_ne!(errors.to_string(), "", "a refusal says why");
        }
    });
}

#[test]
fn the_shop_is_a_good_config() {
    let config = good(SHOP);
    assert_eq!(config.warnings, []);
    assert_eq!(config.legacy.urls[0].to_string(), "127.0.0.1:9000");
    let database = config.legacy.database.as_ref().unwrap();
    assert_eq!(database.to_string(), "sqlite:/srv/shop/data/shop.db");
    assert_eq!(
        config.control.token_file,
        Path::new("/srv/shop/admin.token")
    );
    let identity = config.proxy.identity.as_ref().unwrap();
    assert_eq!(
        (identity.cookie.as_str(), identity.secret.bytes().len()),
        ("sid", 32)
    );
    let ids: Vec<&str> = config
        .slices
        .iter()
        .map(|slice| slice.id.as_str())
        .collect();
    assert_eq!(ids, ["catalog", "reviews"], "in the order of the file");
    let catalog = config.slice("catalog").unwrap();
    assert_eq!(catalog.routes.len(), 5);
    assert_eq!(catalog.cohort[1], Cohort::Header("x-visitor".to_owned()));
    assert_eq!(catalog.plan.hold, Duration::from_secs(600));
    assert_eq!(catalog.plan.canary[0].to_string(), "1%");
    assert!((catalog.guard.alpha - 0.001).abs() < 1e-9);
    assert!(config.service_of(catalog).unwrap().database.is_some());
}

#[test]
fn columns_of_the_shop() {
    let config = good(SHOP);
    let tables = &config.slice("catalog").unwrap().tables;
    let source = |table: usize, name: &str| {
        let columns = &tables[table].columns;
        let found = columns.iter().find(|column| column.extracted == name);
        found.map(|column| column.source.clone())
    };
    assert_eq!(source(0, "title"), Some(Source::Rename("name".to_owned())));
    assert_eq!(
        source(0, "created_at"),
        Some(Source::LocalTime {
            from: "created_at".to_owned(),
            offset: 3_600
        })
    );
    let zoned = SHOP.replace(
        "from = \"created_at\", local_time = \"+01:00\"",
        "from = \"created_at\", local_time = \"Europe/Berlin\", ambiguous = \"later\"",
    );
    let zoned = good(&zoned);
    let columns = &zoned.slice("catalog").unwrap().tables[0].columns;
    assert!(columns.iter().any(|column| column.source
        == Source::ZonedTime {
            from: "created_at".to_owned(),
            zone: "Europe/Berlin".parse().unwrap(),
            ambiguous: Ambiguous::Later,
        }));
    assert_eq!(
        source(1, "amount_cents"),
        Some(Source::Cents {
            from: "price".to_owned(),
            scale: 2
        })
    );
    let Some(Source::Map { from, pairs }) = source(0, "state") else {
        panic!("a map");
    };
    assert_eq!((from.as_str(), pairs.len()), ("status", 3));
    assert!(matches!(
        source(0, "is_featured"),
        Some(Source::Expr { .. })
    ));
    assert_eq!(
        tables[0].columns[0].extracted, "id",
        "in the order of the file"
    );
}

#[test]
fn two_lines_are_a_complete_config() {
    let config =
        good("[proxy]\nlisten = [\"127.0.0.1:0\"]\n[legacy]\nurls = [\"http://[::1]:9\"]\n");
    assert_eq!(config.control.listen.to_string(), "127.0.0.1:7070");
    assert_eq!(
        config.control.store.to_string(),
        "sqlite:/srv/shop/outgrow-store.db"
    );
    assert_eq!(config.proxy.request_timeout, Duration::from_secs(30));
    assert!(config.slices.is_empty() && config.proxy.identity.is_none());
}

#[test]
fn codes_that_are_no_text_are_mapped_by_pairs() {
    let text = SHOP.replace(
        "{ from = \"status\", map = { A = \"active\", D = \"discontinued\", S = \"seasonal\" } }",
        "{ from = \"status\", map = [[1, \"active\"], [2, true], [\"1\", 0.5]] }",
    );
    assert_ne!(text, SHOP);
    let config = good(&text);
    let columns = &config.slice("catalog").unwrap().tables[0].columns;
    let state = columns
        .iter()
        .find(|column| column.extracted == "state")
        .unwrap();
    let Source::Map { pairs, .. } = &state.source else {
        panic!("a map");
    };
    assert_eq!(pairs[0], (1.into(), "active".into()));
    assert_eq!(pairs[2], ("1".into(), 0.5.into()));
}

#[test]
fn unknown_keys() {
    refused(
        "unknown_key",
        "cohort = [\"cookie:sid\",",
        "cohrot = [\"cookie:sid\",",
    );
    refused("unknown_section", "[shadow]", "[shadows]");
    refused("unknown_plan_key", "min_requests", "minimum");
}

#[test]
fn routes() {
    refused(
        "route_of_two_slices",
        "\"GET /api/reviews/{id}\"",
        "\"GET /api/reviews/{id}\", \"GET /api/products/{product}\"",
    );
    refused(
        "route_twice",
        "\"GET /api/categories\",",
        "\"GET /api/categories\", \"GET /api/categories\",",
    );
    refused(
        "routes_that_cross",
        "\"GET /api/reviews/{id}\"",
        "\"GET /api/{kind}/7\"",
    );
    refused(
        "route_method",
        "\"GET /api/categories\"",
        "\"get /api/categories\"",
    );
    refused(
        "route_template",
        "\"GET /api/categories\"",
        "\"GET /api/{*rest}/x\"",
    );
}

#[test]
fn services() {
    refused(
        "missing_service",
        "service = \"catalog\"",
        "service = \"catlog\"",
    );
    let unused = format!("{SHOP}\n[services.search]\nurls = [\"http://127.0.0.1:1\"]\n");
    let warnings = good(&unused).warnings;
    assert_eq!(warnings.len(), 1);
    assert_eq!(warnings[0].key, "services.search");
}

#[test]
fn addresses() {
    refused(
        "admin_api_for_all",
        "listen = \"127.0.0.1:7070\"",
        "listen = \"0.0.0.0:7070\"",
    );
    refused(
        "database_kind",
        "sqlite:data/shop.db",
        "mongodb://shop:secret@db/shop",
    );
    refused("database_variable", "sqlite:data/shop.db", "env:NOTHING");
    refused(
        "store_kind",
        "sqlite:outgrow-store.db",
        "postgres://me:secret@db/shop",
    );
    refused("no_database", "database = \"sqlite:data/shop.db\"", "");
    refused(
        "secret_not_set",
        "secret_env = \"IDENTITY\"",
        "secret_env = \"NOTHING\"",
    );
    refused("no_secret", "secret_env = \"IDENTITY\"", "");
}

#[test]
fn plan_and_shares() {
    refused(
        "bad_percentage",
        "canary = [1, 5, 25, 50, 100]",
        "canary = [1, 5, 250]",
    );
    refused(
        "falling_canary",
        "canary = [1, 5, 25, 50, 100]",
        "canary = [5, 1, 100]",
    );
    refused("bad_duration", "hold = \"10m\"", "hold = 10");
    refused("bad_unit", "hold = \"10m\"", "hold = \"10 years\"");
    refused("share_as_percent", "sample = 1.0", "sample = 50");
    refused("alpha", "alpha = 0.001", "alpha = 1.5");
    refused(
        "long_cutover",
        "cutover_timeout = \"2s\"",
        "cutover_timeout = \"20s\"",
    );
}

#[test]
fn mappings_that_cannot_be_inverted() {
    refused(
        "two_codes_become_one",
        "D = \"discontinued\"",
        "D = \"active\"",
    );
    refused("one_way", ", reverse = \"value == 1 ? 'Y' : 'N'\"", "");
    refused(
        "key_by_transform",
        "id = \"id\", sku",
        "id = { lookup = \"ids\", from = \"id\", key = \"id\", value = \"name\" }, sku",
    );
    refused(
        "fed_twice",
        "labels = \"tags\"",
        "labels = \"tags\", tags_too = \"tags\"",
    );
    refused(
        "table_fed_twice",
        "extracted = \"product_price\"",
        "extracted = \"product\"",
    );
    refused(
        "offset",
        "{ from = \"updated_at\", local_time = \"+01:00\" }",
        "{ from = \"updated_at\", local_time = \"+1:00\" }",
    );
    for (name, said) in [
        ("zone", "local_time = \"Europe/Bern\""),
        ("ambiguous", "local_time = \"CET\", ambiguous = \"first\""),
        (
            "ambiguous_offset",
            "local_time = \"+01:00\", ambiguous = \"later\"",
        ),
        ("ambiguous_alone", "ambiguous = \"later\""),
    ] {
        refused(
            name,
            "{ from = \"updated_at\", local_time = \"+01:00\" }",
            &format!("{{ from = \"updated_at\", {said} }}"),
        );
    }
    refused(
        "two_transforms",
        "cents = 2",
        "cents = 2, local_time = \"+01:00\"",
    );
}

const TITLE: &str = "title = \"name\"";

#[test]
fn columns_are_joined_and_split_and_rows_told_apart() {
    let to = "title = { join = [\"brand\", \"name\"], with = \" \", empty = \"null\" }, \
              shelf = { template = \"{row}/{place}\" }, \
              hour = { part = 1, of = \"opens\", at = \":\" }, \
              minute = { part = 2, of = \"opens\", at = \":\" }, \
              maker = { lookup = \"makers\", from = \"maker_id\", key = \"id\", value = \"name\" }";
    let text = SHOP.replace(TITLE, to);
    let name = "extracted = \"product_price\"\n";
    for (rows, not, count) in [
        ("is = \"book\"", false, 1),
        ("not = [\"cd\", 7]", true, 2),
        ("null = true", false, 1),
        ("null = false", true, 1),
    ] {
        let rows = format!("{name}rows = {{ column = \"kind\", {rows} }}\n");
        let config = good(&text.replace(name, &rows));
        let tables = &config.slice("catalog").unwrap().tables;
        let found = tables[1].rows.as_ref().unwrap();
        assert_eq!(found.column, "kind");
        assert_eq!((found.not, found.values.len()), (not, count));
        let of = |name: &str| {
            let mut columns = tables[0].columns.iter();
            let column = columns.find(|column| column.extracted == name);
            column.unwrap().source.clone()
        };
        let texts = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let (from, literals) = (texts(&["brand", "name"]), texts(&["", " ", ""]));
        let joined = |from, literals, empty_is_null| Source::Join {
            from,
            literals,
            empty_is_null,
        };
        assert_eq!(of("title"), joined(from, literals, true));
        let (from, literals) = (texts(&["row", "place"]), texts(&["", "/", ""]));
        assert_eq!(of("shelf"), joined(from, literals, false));
        assert!(matches!(of("minute"), Source::Part { part: 2, .. }));
        let Source::Lookup { from, table, .. } = of("maker") else {
            panic!("a lookup");
        };
        assert_eq!((from.as_str(), table.as_str()), ("maker_id", "makers"));
    }
}

#[test]
fn legacy_tables_stand_beside_another() {
    let name = "extracted = \"product_price\"\n";
    let also = |text: &str| SHOP.replace(name, &format!("{name}also = {text}\n"));
    let config = good(&also(
        "[{ table = \"offers\", key = [\"product\"], optional = true }, { table = \"stock\", key = [\"id\"] }]",
    ));
    let tables = &config.slice("catalog").unwrap().tables;
    let found: Vec<(&str, bool)> = tables[1]
        .also
        .iter()
        .map(|also| (also.table.as_str(), also.optional))
        .collect();
    assert_eq!(found, [("offers", true), ("stock", false)]);
    golden(
        "also",
        &also("[{ table = \"offers\", key = [\"a\", \"b\"] }, { key = [\"a\"], if = 1 }]"),
    );
    golden(
        "also_twice",
        &also(
            "[{ table = \"stock\", key = [\"a\"] }, { table = \"stock\", key = [\"b\"] }, { table = \"products\", key = [\"id\"] }]",
        ),
    );
}

#[test]
fn pieces_that_could_not_be_put_together() {
    refused(
        "join_of_one",
        TITLE,
        "title = { join = [\"name\"], with = \" \" }",
    );
    refused(
        "join_without_separator",
        TITLE,
        "title = { join = [\"brand\", \"name\"], with = \"\" }, other = { join = [\"x\", \"y\"] }",
    );
    refused(
        "template",
        TITLE,
        "title = { template = \"{brand}{name}\" }",
    );
    refused(
        "pieces_missing",
        TITLE,
        "title = { part = 1, of = \"name\", at = \" \" }, third = { part = 3, of = \"name\", at = \" \" }",
    );
    refused(
        "pieces_unlike",
        TITLE,
        "title = { part = 1, of = \"name\", at = \" \" }, second = { part = 2, of = \"name\", at = \"-\" }",
    );
    refused(
        "keys_of_two_forms",
        TITLE,
        "title = { from = \"name\", at = \" \", empty = \"none\" }",
    );
    refused(
        "lookup_without_columns",
        TITLE,
        "title = { lookup = \"titles\", from = \"name\", value = 7 }",
    );
    refused(
        "rows_of_two_tests",
        "extracted = \"product_price\"",
        "extracted = \"product_price\"\nrows = { column = \"kind\", is = \"a\", null = true, or = 1 }",
    );
}

#[test]
fn rules() {
    refused("array_rule", "as = \"set\"", "as = \"bag\"");
    refused(
        "ignore_without_reason",
        "reason = \"random per request\", ",
        "",
    );
    refused("accept_nothing", "tolerance = 0.005, ", "");
    refused(
        "accept_twice",
        "tolerance = 0.005",
        "tolerance = 0.005, round = 2",
    );
    refused(
        "accept_odd_tolerance",
        "tolerance = 0.005",
        "tolerance = \"near\"",
    );
    refused(
        "accept_odd_format",
        "tolerance = 0.005",
        "format = \"guid\"",
    );
    refused("accept_odd_regex", "tolerance = 0.005", "regex = \"(\"");
    refused("rule_odd_path", "\"$.rating\"", "\"rating\"");
    use outgrow_shadow::{Accept, Known};
    for (text, accept) in [
        ("tolerance = \"1%\"", Accept::Tolerance("1%".to_owned())),
        ("round = 2", Accept::Round(2)),
        ("same = \"null\"", Accept::Null),
        ("same = \"renamed\"", Accept::Renamed),
        (
            "one_of = [\"a\", 1]",
            Accept::OneOf(vec!["a".into(), 1.into()]),
        ),
        ("prefix = \"/img/\"", Accept::Prefix("/img/".to_owned())),
        ("format = \"uuid\"", Accept::Format(Known::Uuid)),
        ("regex = \"a+\"", Accept::Regex("a+".to_owned())),
    ] {
        let config = good(&SHOP.replace("tolerance = 0.005", text));
        let rule = &config.slice("reviews").unwrap().shadow.rules[1];
        assert_eq!(
            (&rule.accept, rule.owner.as_deref()),
            (&accept, Some("ada"))
        );
    }
    let old = SHOP.replace("until = \"2030-01-01\"", "until = 2026-06-01");
    let warnings = good(&old).warnings;
    assert_eq!(warnings.len(), 4, "one for each rule");
    assert!(warnings[0].rule.contains("expired"), "{warnings:?}");
}

#[test]
fn several_at_once() {
    golden(
        "several_at_once",
        r#"
[proxy]
listen = ["8080"]
request_timeout = "soon"
worker = 4

[legacy]
url = "http://127.0.0.1:9000"

[slices.Catalog]
service = "catalog"
routes = ["GET products", 7]
fallback = "yes"
"#,
    );
}

#[test]
fn what_is_no_toml_is_said_so_with_its_place() {
    golden(
        "not_toml",
        "[proxy]\nlisten = [\"127.0.0.1:8080\"\n[legacy]\nurls = \n",
    );
}

#[test]
fn an_empty_file_is_told_what_it_needs() {
    golden("empty", "");
}

#[test]
fn a_slip_in_a_slice_does_not_hide_the_admin_api() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("outgrow.toml");
    std::fs::write(
        &path,
        "[slices.x]\nroutes = 7\n[control]\nlisten = \"127.0.0.1:7171\"\n",
    )
    .unwrap();
    let found = AdminEndpoint::load(&path).unwrap();
    assert_eq!(found.listen.port(), 7171);
    assert_eq!(found.token_file, dir.path().join("admin.token"));
}

#[test]
fn no_text_makes_the_reader_panic() {
    // Every prefix and every copy with a line left out, as an editor would save them midway.
    for end in (0..SHOP.len()).filter(|end| SHOP.is_char_boundary(*end)) {
        let _ = parse(&SHOP[..end]);
    }
    let lines: Vec<&str> = SHOP.lines().collect();
    for left_out in 0..lines.len() {
        let kept: Vec<&str> = lines
            .iter()
            .enumerate()
            .filter(|(i, _)| *i != left_out)
            .map(|(_, l)| *l)
            .collect();
        let _ = parse(&kept.join("\n"));
    }
}

#[test]
fn the_example_of_the_reference_is_a_good_config() {
    let example = REFERENCE
        .split("```toml\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .expect("an example");
    let config = good(&example.replace("OUTGROW_IDENTITY_SECRET", "IDENTITY"));
    assert_eq!(config.warnings, []);
    assert_eq!(config.slices[0].plan.approvals, ["cutover"]);
}

#[test]
fn the_examples_of_mappings_are_good_too() {
    let examples: Vec<&str> = REFERENCE
        .split("```toml\n")
        .skip(2)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(examples.len() >= 4);
    for example in examples {
        let rest = example.split_once("slices.").map(|(_, rest)| rest);
        let id = rest.and_then(|rest| rest.split('.').next()).unwrap();
        let table = match example.starts_with("[[") {
            true => String::new(),
            false => format!(
                "[[slices.{id}.tables]]\nlegacy = \"l\"\nextracted = \"e\"\nkey = [\"id\"]\n"
            ),
        };
        let slice =
            format!("[slices.{id}]\nservice = \"reviews\"\nroutes = [\"GET /api/{id}/only\"]\n");
        let config = good(&format!("{SHOP}\n{slice}{table}{example}"));
        assert!(!config.slice(id).unwrap().tables.is_empty(), "{id}");
    }
}

/// A key that is nothing like any other is answered with all keys of its table.
#[test]
fn every_key_is_in_the_reference() {
    for table in [
        "[proxy]",
        "[proxy.identity]",
        "[legacy]",
        "[control]",
        "[shadow]",
        "[services.catalog]",
        "[slices.reviews]",
        "[[slices.catalog.tables]]",
        "[slices.catalog.shadow]",
        "[slices.catalog.plan]",
        "[slices.catalog.guard]",
        "[slices.catalog.sync]",
    ] {
        let shop = sync::with_sync("writes = \"both\"");
        let text = shop.replacen(table, &format!("{table}\nQQQQ = 1"), 1);
        let errors = parse(&text).expect_err(table);
        let keys = errors.problems[0]
            .fix
            .strip_prefix("remove it; the keys here are ")
            .unwrap_or_else(|| panic!("{table}: {errors}"));
        for key in keys.split(", ") {
            let named = [format!("`{key}`"), format!(".{key}]")];
            let known = named.iter().any(|name| REFERENCE.contains(name));
            assert!(known, "{table} {key}");
        }
    }
}
