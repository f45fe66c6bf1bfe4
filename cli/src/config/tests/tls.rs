//! TLS towards clients.

use outgrow_testkit::Authority;
use outgrow_testkit::certificates::Signed;

use super::*;

/// The shop's config with this in `[proxy.tls]`.
fn with(text: &str) -> String {
    let before = "[proxy.identity]";
    assert_eq!(SHOP.matches(before).count(), 1);
    SHOP.replace(before, &format!("[proxy.tls]\n{text}\n\n{before}"))
}

#[test]
fn clients_are_served_over_tls() {
    // It holds the folder of the files.
    let ca = Authority::new("ca");
    let signed = ca.server(&["shop.example"]);
    let (cert, key) = (signed.certificate.display(), signed.key.display());
    let text = format!(
        "listen = [\"127.0.0.1:8443\"]\ncertificates = [{{ cert = \"{cert}\", key = \"{key}\" }}]"
    );
    let tls = good(&with(&text)).proxy.tls.unwrap();
    assert_eq!((tls.listen.len(), tls.certificates.len()), (1, 1));
    assert_eq!(tls.reload, Duration::from_secs(10));
    let alone = with(&text).replace("listen = [\"127.0.0.1:8080\"]\n", "");
    assert_eq!(good(&alone).proxy.listen, []);
    let swapped = text.replace(&cert.to_string(), &key.to_string());
    let refused = parse(&with(&swapped)).unwrap_err().to_string();
    assert!(
        refused.contains("holds no certificate in PEM form"),
        "{refused}"
    );
}

#[test]
fn tls_that_cannot_be_is_refused() {
    golden("tls_without_anything", &with("reload = \"1ms\""));
    golden(
        "tls",
        &with(
            "listen = []\ncertificates = [{ cert = \"no.pem\", key = \"no.key\" }, { cert = \"x\" }]",
        ),
    );
}

#[test]
fn every_key_of_tls_is_in_the_reference() {
    let errors = parse(&with("QQQQ = 1")).unwrap_err();
    let unknown = errors
        .problems
        .iter()
        .find(|p| p.key.ends_with("QQQQ"))
        .unwrap();
    let keys = unknown.fix.split_once("the keys here are ").unwrap().1;
    let part = REFERENCE.split("### `[proxy.tls]`").nth(1).unwrap();
    let part = part.split("\n### ").next().unwrap();
    for key in keys.split(", ") {
        assert!(part.contains(&format!("| `{key}` |")), "{key}");
    }
}

/// A certificate of this authority, and the line that has clients show one of it, too.
fn own(ca: &Authority) -> (Signed, String) {
    let own = format!("client_ca = \"{}\"", ca.file().display());
    (ca.server(&["shop.example"]), own)
}

/// A config with a door that has this certificate, and more.
fn door(signed: &Signed, more: &str) -> String {
    let (cert, key) = (signed.certificate.display(), signed.key.display());
    with(&format!(
        "listen = [\"127.0.0.1:8443\"]\ncertificates = [{{ cert = \"{cert}\", key = \"{key}\" }}]\n{more}"
    ))
}

#[test]
fn clients_may_be_asked_for_certificates() {
    let ca = Authority::new("ca");
    let (signed, own) = own(&ca);
    let (file, key) = (ca.file(), signed.key.display());
    let text = |more: &str| door(&signed, more);
    for (more, required) in [("", true), ("\nclient_auth = \"optional\"", false)] {
        let config = good(&text(&format!("{own}{more}")));
        let clients = config.proxy.tls.unwrap().clients.unwrap();
        assert_eq!((&clients.ca, clients.required), (&file, required));
    }
    let ask = "[proxy.filters]\nauth = { certificate = true, require = { cn = [\"ann\"] } }\n\n[proxy.tls]";
    let asks = |more: &str| text(more).replace("[proxy.tls]", ask);
    let filters = good(&asks(&own)).proxy.filters.unwrap();
    let rule = filters.auth.clone().unwrap();
    assert!(matches!(rule.way, outgrow_proxy::Way::Shown(means) if means.certificate));
    for (text, rule) in [
        (
            text("client_auth = \"required\""),
            "whose certificates are believed",
        ),
        (
            text(&format!("{own}\nclient_auth = \"maybe\"")),
            "cannot be asked so",
        ),
        (text("client_ca = \"nowhere.pem\""), "cannot be read"),
        (
            text(&format!("client_ca = \"{key}\"")),
            "holds no certificate",
        ),
        (asks(""), "no client is asked for one"),
    ] {
        let refused = parse(&text).unwrap_err().to_string();
        assert!(refused.contains(rule), "{rule}: {refused}");
    }
}

#[test]
fn certificates_of_clients_may_be_taken_back() {
    let ca = Authority::new("ca");
    let (signed, own) = own(&ca);
    let file = ca.file();
    let text = |more: &str| door(&signed, more);
    let lists = |until| {
        let file = ca.revokes(&["eve"], until);
        format!("{own}\nclient_crl = \"{}\"", file.display())
    };
    for (more, accepted) in [("", false), ("\nclient_crl_expired = \"accept\"", true)] {
        let config = good(&text(&format!("{}{more}", lists(2090))));
        let clients = config.proxy.tls.unwrap().clients.unwrap();
        assert_eq!(clients.revocation.unwrap().expired, accepted);
    }
    let old = lists(2020);
    good(&text(&format!("{old}\nclient_crl_expired = \"accept\"")));
    for (text, rule) in [
        (
            text(&old),
            "holds a revocation list that has expired: the next one was due 2020-01-01",
        ),
        (
            text(&format!("{own}\nclient_crl = \"{}\"", file.display())),
            "holds no revocation list",
        ),
        (
            text(&format!("{own}\nclient_crl = \"none.pem\"")),
            "cannot be read",
        ),
        (
            text(&format!("{old}\nclient_crl_expired = \"maybe\"")),
            "an old list cannot be taken so",
        ),
        (
            text(&format!("{own}\nclient_crl_expired = \"accept\"")),
            "no list that could expire",
        ),
        (
            text(old.strip_prefix(&own).unwrap()),
            "whose certificates are believed",
        ),
    ] {
        let refused = parse(&text).unwrap_err().to_string();
        assert!(refused.contains(rule), "{rule}: {refused}");
    }
}
