//! How upstreams are spoken with.

use outgrow_proxy::{Protocol, Source, Transport, UpstreamTls};
use outgrow_testkit::Authority;

use super::*;

const CATALOG: &str = "urls = [\"http://127.0.0.1:9101\"]";

/// The shop's config with this in place of the catalog's `urls`.
fn with(text: &str) -> String {
    assert_eq!(SHOP.matches(CATALOG).count(), 1);
    SHOP.replace(CATALOG, text)
}

fn transport(text: &str) -> Transport {
    let config = good(&with(text));
    config.services["catalog"].rules.transport.clone()
}

/// Every problem is told, each with one of these words.
fn refused(text: &str, words: &[&str]) {
    let errors = parse(&with(text)).expect_err("a bad config");
    let shown = errors.to_string();
    assert_eq!(errors.problems.len(), words.len(), "{shown}");
    for word in words {
        assert!(shown.contains(word), "no `{word}` in {shown}");
    }
}

#[test]
fn upstreams_are_asked_over_tls_where_their_urls_say_so() {
    let ca = Authority::new("ca");
    let (file, own) = (ca.file(), ca.client("proxy"));
    let usual = Some(UpstreamTls::default());
    assert_eq!(transport(CATALOG), Transport::default());
    assert_eq!(transport("urls = [\"https://a:1\"]").tls, usual);
    assert_eq!(transport("urls = [\"https://a:1\"]\ntls = true").tls, usual);
    assert_eq!(transport("urls = [\"srv:_http._tcp.a\"]").tls, None);
    assert_eq!(
        transport("urls = [\"srv:_http._tcp.a\"]\ntls = true").tls,
        usual
    );
    let (file, cert, key) = (file.display(), own.certificate.display(), own.key.display());
    let text = format!(
        "discovery = {{ file = \"a.json\" }}\nprotocol = \"auto\"\n\
         tls = {{ ca = \"{file}\", cert = \"{cert}\", key = \"{key}\", name = \"shop\", reload = \"1m\" }}"
    );
    let found = transport(&text);
    assert_eq!(found.protocol, Protocol::Auto);
    let tls = found.tls.unwrap();
    assert_eq!(tls.name.as_deref(), Some("shop"));
    assert_eq!(tls.reload, Duration::from_secs(60));
    assert!(tls.ca.is_some() && tls.client.is_some());
    let registry =
        format!("discovery = {{ consul = \"https://a:8501\", service = \"b\", ca = \"{file}\" }}");
    let found = good(&with(&registry)).services["catalog"].urls.clone();
    assert!(matches!(&found[..], [Source::Consul(consul)] if consul.tls.is_some()));
    let eureka = "discovery = { eureka = [\"https://e:1/eureka\"], app = \"X\" }";
    let found = good(&with(eureka)).services["catalog"].urls.clone();
    assert!(matches!(&found[..], [Source::Eureka(eureka)] if eureka.tls.is_some()));
}

#[test]
fn what_is_spoken_is_chosen() {
    for (name, protocol) in Protocol::ALL {
        let text = format!("urls = [\"https://a:1\"]\nprotocol = \"{name}\"");
        assert_eq!(transport(&text).protocol, protocol);
    }
    let clear = transport(&format!("{CATALOG}\nprotocol = \"h2\""));
    assert_eq!((clear.protocol, clear.tls), (Protocol::Http2, None));
}

#[test]
fn what_does_not_go_together_is_refused() {
    refused(
        "urls = [\"https://a:1\", \"http://b:1\"]",
        &["some upstreams"],
    );
    refused(
        "urls = [\"https://a:1\", \"unix:/run/a.sock\"]",
        &["some upstreams"],
    );
    refused(&format!("{CATALOG}\ntls = true"), &["say http://"]);
    refused("urls = [\"https://a:1\"]\ntls = false", &["say https://"]);
    refused(
        &format!("{CATALOG}\nprotocol = \"auto\""),
        &["agreed on over TLS"],
    );
    refused(
        &format!("{CATALOG}\nprotocol = \"h3\""),
        &["no such protocol"],
    );
    let tls = |text: &str| format!("urls = [\"https://a:1\"]\ntls = {{ {text} }}");
    refused(
        &tls("ca = \"no.pem\""),
        &["/srv/shop/no.pem cannot be read"],
    );
    refused(&tls("cert = \"a.pem\""), &["shown with its key"]);
    refused(
        &tls("name = \"a b\", reload = \"1ms\""),
        &["no host name", "out of range"],
    );
    let ca = "discovery = { consul = \"http://a:1\", service = \"b\", ca = \"a.pem\" }";
    refused(ca, &["asked without TLS"]);
    let mixed = "discovery = { eureka = [\"https://e:1/\", \"http://f:1/\"], app = \"X\" }";
    refused(mixed, &["some servers"]);
}

#[test]
fn every_key_of_it_is_in_the_reference() {
    let errors = parse(&with("urls = [\"https://a:1\"]\ntls = { QQQQ = 1 }")).unwrap_err();
    let unknown = errors.problems.iter().find(|p| p.key.ends_with("QQQQ"));
    let keys = unknown.unwrap().fix.split_once("the keys here are ");
    for key in keys.unwrap().1.split(", ") {
        let line = format!("| `tls.{key}` |");
        assert!(REFERENCE.contains(&line), "{line}");
    }
    for line in ["| `tls` |", "| `protocol` |", "| `discovery.ca` |"] {
        assert!(REFERENCE.contains(line), "{line}");
    }
}
