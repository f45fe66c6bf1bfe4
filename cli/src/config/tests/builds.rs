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
