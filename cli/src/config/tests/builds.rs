//! Builds of a service.

use super::*;

const CATALOG: &str = "urls = [\"http://127.0.0.1:9101\"]";

/// The shop's config with this at the end of the catalog's section.
fn with(service: &str, builds: &str) -> String {
    assert_eq!(SHOP.matches(CATALOG).count(), 1);
    format!("{}\n{builds}", SHOP.replace(CATALOG, service))
}

#[test]
fn builds_are_as_the_file_has_them() {
    let text = with(
        "timeout = \"3s\"",
        "[services.catalog.builds.green]\nurls = [\"http://127.0.0.1:1\"]\n\
         [services.catalog.builds.2026-07]\nurls = [\"http://127.0.0.1:2\", \"http://127.0.0.1:3\"]\n",
    );
    let config = good(&text);
    let catalog = &config.services["catalog"];
    let found: Vec<String> = catalog
        .parts()
        .map(|(build, urls)| format!("{} {}", build.unwrap(), urls.len()))
        .collect();
    assert_eq!(found, ["green 1", "2026-07 2"]);
    assert_eq!(catalog.rules.timeout, Some(Duration::from_secs(3)));
    let reviews = &config.services["reviews"];
    assert!(
        reviews
            .parts()
            .all(|(build, urls)| build.is_none() && !urls.is_empty())
    );
}

#[test]
fn slips_in_builds_are_named() {
    let build = "[services.catalog.builds.green]\nurls = [\"http://127.0.0.1:1\"]\n";
    golden("builds_beside_urls", &with(CATALOG, build));
    golden("builds_none", &with("builds = {}", ""));
    golden(
        "builds_wrong",
        &with(
            "",
            "[services.catalog.builds.Green]\nurls = [\"http://127.0.0.1:1\"]\n\
             [services.catalog.builds.blue]\nurl = \"http://127.0.0.1:1\"\n",
        ),
    );
    let safe = "[services.catalog.builds.blue]\nurls = [\"https://127.0.0.1:2\"]\n";
    golden("builds_half_safe", &with("", &format!("{build}{safe}")));
}

#[test]
fn the_legacy_side_may_have_builds() {
    let text = "[proxy]\nlisten = [\"127.0.0.1:0\"]\n\
                [legacy]\ncohort = [\"cookie:sid\", \"header:X-User\"]\nguard = { alpha = 0.01 }\n\
                [legacy.builds.old]\nurls = [\"http://127.0.0.1:1\"]\n\
                [legacy.builds.new]\nurls = [\"http://127.0.0.1:2\"]\n";
    let config = good(text);
    let legacy = &config.legacy;
    let names: Vec<_> = legacy.parts().into_iter().map(|(build, _)| build).collect();
    assert_eq!(names.len(), 2);
    assert_eq!(config.built()[0].0, "legacy");
    assert_eq!(legacy.cohort.len(), 2);
    assert!((legacy.guard.alpha - 0.01).abs() < 1e-9);
    let services = "[services.legacy]\nurls = [\"http://127.0.0.1:3\"]\n";
    let refused = parse(&format!("{text}{services}")).expect_err("one name for two");
    assert!(
        refused
            .to_string()
            .contains("the builds of [legacy] go by this name")
    );
}
