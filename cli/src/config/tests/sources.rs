//! Where upstreams are.

use outgrow_proxy::{
    Consul, DnsSettings, EndpointPort, Eureka, Family, FileList, Kubernetes, Source,
};

use super::*;

const CATALOG: &str = "urls = [\"http://127.0.0.1:9101\"]";

/// The shop's config with this in place of the catalog's `urls`.
fn with(text: &str) -> String {
    assert_eq!(SHOP.matches(CATALOG).count(), 1);
    SHOP.replace(CATALOG, text)
}

fn sources(text: &str) -> Vec<Source> {
    good(&with(text)).services["catalog"].urls.clone()
}

#[test]
fn upstreams_are_found_as_the_file_says() {
    let shown = |text: &str| -> Vec<String> {
        let found = sources(text);
        found.iter().map(ToString::to_string).collect()
    };
    let urls = "urls = [\"http://a:1\", \"unix:/run/a.sock\", \"srv:_http._tcp.a\"]";
    assert_eq!(shown(urls), ["a:1", "unix:/run/a.sock", "srv:_http._tcp.a"]);
    let both = format!("{CATALOG}\ndiscovery = {{ file = \"/srv/list.json\" }}");
    assert_eq!(shown(&both), ["127.0.0.1:9101", "file:/srv/list.json"]);
    let found = sources("discovery = { file = \"/srv/a.toml\", every = \"3s\" }");
    let list = FileList {
        path: "/srv/a.toml".into(),
        every: Duration::from_secs(3),
    };
    assert_eq!(found, [Source::File(list)]);
    let found = sources(
        "discovery = { consul = \"http://127.0.0.1:8500\", service = \"catalog\", tag = \"v2\" }",
    );
    let consul = Consul {
        agent: "127.0.0.1:8500".parse().unwrap(),
        tls: None,
        service: "catalog".to_owned(),
        tag: Some("v2".to_owned()),
        datacenter: None,
        token: None,
        wait: Duration::from_secs(55),
    };
    assert_eq!(found, [Source::Consul(consul)]);
    let found = sources(
        "discovery = { eureka = [\"http://e:8761/eureka/\", \"http://f:1\"], app = \"CATALOG\" }",
    );
    let eureka = Eureka {
        servers: vec![
            ("e:8761".parse().unwrap(), "/eureka".to_owned()),
            ("f:1".parse().unwrap(), String::new()),
        ],
        tls: None,
        app: "CATALOG".to_owned(),
        every: Duration::from_secs(5),
    };
    assert_eq!(found, [Source::Eureka(eureka)]);
}

/// Every problem is told, each with one of these words.
fn refused(text: &str, words: &[&str]) {
    let errors = parse(text).expect_err("a bad config");
    let shown = errors.to_string();
    assert_eq!(errors.problems.len(), words.len(), "{shown}");
    for word in words {
        assert!(shown.contains(word), "no `{word}` in {shown}");
    }
}

#[test]
fn what_finds_no_upstreams_is_refused() {
    refused(
        &with("discovery = { every = \"1s\" }"),
        &["it does not say by what"],
    );
    refused(
        &with("discovery = { file = \"a.toml\", consul = \"http://a:1\" }"),
        &["it does not say by what"],
    );
    let consul = "consul = \"srv:_a._tcp.b\", tag = \"a b\", app = \"X\"";
    refused(
        &with(&format!("discovery = {{ {consul} }}")),
        &[
            "it is no address",
            "`service` is missing",
            "it is no such name",
            "there is no such key",
        ],
    );
    let eureka = "eureka = [\"ftp://e:1/\", \"http://e:1/?a\"], app = \"X\"";
    refused(
        &with(&format!("discovery = {{ {eureka} }}")),
        &["`ftp` is not supported", "more than letters and digits"],
    );
    refused(&with("urls = [\"srv:shop\"]"), &["no name of a service"]);
}

#[test]
fn names_are_looked_up_as_the_file_says() {
    let dns = |text: &str| good(&format!("{SHOP}\n[proxy.dns]\n{text}")).proxy.dns;
    assert_eq!(dns(""), DnsSettings::default());
    let found =
        dns("servers = [\"10.0.0.2\", \"[::1]:5353\"]\nfamily = \"both\"\nttl_min = \"2m\"");
    let expected = DnsSettings {
        servers: vec![
            "10.0.0.2:53".parse().unwrap(),
            "[::1]:5353".parse().unwrap(),
        ],
        family: Family::Both,
        ttl_min: Duration::from_secs(120),
        ttl_max: Duration::from_secs(120),
        ..DnsSettings::default()
    };
    assert_eq!(found, expected);
    let wrong =
        "servers = [\"dns\"]\nfamily = \"six\"\nttl_min = \"5s\"\nttl_max = \"1s\"\nport = 1";
    refused(
        &format!("{SHOP}\n[proxy.dns]\n{wrong}"),
        &[
            "it is no address",
            "there is no such family",
            "it is less than `ttl_min`",
            "there is no such key",
        ],
    );
    let part = REFERENCE
        .split("`[proxy.dns]`, not needed:")
        .nth(1)
        .unwrap();
    for key in ["servers", "family", "timeout", "ttl_min", "ttl_max"] {
        assert!(part.contains(&format!("| `{key}` |")), "{key}");
    }
}

#[test]
fn kubernetes_is_asked_as_the_file_says() {
    let found = |more: &str| {
        let text = format!(
            "discovery = {{ kubernetes = \"catalog\", namespace = \"shop\", \
             server = \"http://127.0.0.1:8001\", token_file = \"token\"{more} }}"
        );
        sources(&text)
    };
    let of = |port| {
        vec![Source::Kubernetes(Kubernetes {
            server: "127.0.0.1:8001".parse().unwrap(),
            tls: None,
            namespace: "shop".to_owned(),
            service: "catalog".to_owned(),
            port,
            token_file: Some("/srv/shop/token".into()),
        })]
    };
    assert_eq!(found(""), of(EndpointPort::Only));
    assert_eq!(found(", port = 8080"), of(EndpointPort::Number(8_080)));
    let named = EndpointPort::Name("http".to_owned());
    assert_eq!(found(", port = \"http\""), of(named));
    // Outside of a pod, with nothing said.
    golden(
        "kubernetes_nowhere",
        &with("discovery = { kubernetes = \"catalog\", namespace = \"shop\" }"),
    );
    golden(
        "kubernetes_wrong",
        &with(
            "discovery = { kubernetes = \"cata log\", namespace = \"shop\", port = 0, \
             server = \"srv:api\", ca = \"ca.pem\" }",
        ),
    );
}
