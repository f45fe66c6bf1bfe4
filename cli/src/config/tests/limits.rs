//! How much requests may bring, and how long anybody is waited for.

use std::time::Duration;

use super::{REFERENCE, golden, good, parse};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn limits_are_of_the_proxy_or_of_a_route() {
    let two = "[proxy]\nlisten = [\"127.0.0.1:0\"]\n[legacy]\nurls = [\"http://[::1]:9\"]\n";
    let usual = good(two).proxy.limits;
    let minute = Some(Duration::from_secs(60));
    assert_eq!((usual.head_max, usual.headers_max), (256 << 10, 256));
    assert_eq!(usual.clients_max, None);
    let allowance = usual.allowance;
    assert_eq!((allowance.body_max, allowance.total), (None, None));
    let rests =
        |limits: &outgrow_proxy::Limits| (limits.keep_alive, limits.half_closed, limits.pool_idle);
    assert_eq!(rests(&usual), (75 * SECOND, SECOND, 4 * SECOND));
    let idle = (allowance.upload_idle, allowance.answer_idle);
    assert_eq!(idle, (minute, minute));
    assert_eq!(allowance.client_idle, minute);
    assert_eq!(allowance.tunnel_idle, Some(60 * 60 * SECOND));
    let text = "[proxy.limits]\nhead_max = \"16KiB\"\nfields_max = 64\nhead_timeout = \"5s\"\nkeep_alive = \"10m\"\n\
                half_closed = \"0s\"\nconnect_retry = \"250ms\"\npool_idle = \"59s\"\npool_max = 10\nclients_max = 5_000\n\
                body_max = \"10MiB\"\nupload_idle = \"0s\"\nanswer_idle = \"2m\"\n\
                client_idle = \"0s\"\ntunnel_idle = \"2h\"\ntotal = \"1h\"\n\
                [proxy.filters.limits]\nbody_max = \"1GiB\"\nanswer_idle = \"0s\"\n\
                total = \"0s\"\nclient_idle = \"1s\"\ntunnel_idle = \"0s\"\n";
    let config = good(&format!("{two}{text}"));
    let limits = config.proxy.limits;
    assert_eq!((limits.head_max, limits.headers_max), (16 << 10, 64));
    assert_eq!(limits.head_timeout, Duration::from_secs(5));
    assert_eq!(rests(&limits), (600 * SECOND, Duration::ZERO, 59 * SECOND));
    assert_eq!((limits.pool_max, limits.connect_retry), (10, SECOND / 4));
    assert_eq!(limits.clients_max, Some(5_000));
    let allowance = limits.allowance;
    assert_eq!(allowance.body_max, Some(10 << 20));
    assert_eq!(allowance.upload_idle, Some(Duration::ZERO));
    let own = config.proxy.filters.unwrap().allowance;
    assert_eq!((own.body_max, own.upload_idle), (Some(1 << 30), None));
    let off = Some(Duration::ZERO);
    assert_eq!((own.answer_idle, own.total), (off, off));
    let hour = Some(Duration::from_secs(3_600));
    assert_eq!((allowance.client_idle, allowance.total), (off, hour));
    assert_eq!(allowance.tunnel_idle, Some(120 * 60 * SECOND));
    assert_eq!((own.client_idle, own.tunnel_idle), (Some(SECOND), off));
    assert_eq!(allowance.answer_idle, Some(Duration::from_secs(120)));
}

#[test]
fn limits_out_of_their_range_are_refused() {
    golden(
        "proxy_limits",
        r#"
[proxy]
listen = ["127.0.0.1:8080"]

[proxy.limits]
head_max = "1KiB"
fields_max = 5
head_timeout = "0s"
keep_alive = "2d"
half_closed = "2h"
connect_retry = 3
pool_idle = "1ms"
pool_max = -1
clients_max = 0
body_max = "12"
upload_idle = "48h"
answer_idle = "soon"
client_idle = "25h"
tunnel_idle = "-1s"
total = 5
idle = "1s"

[proxy.filters.limits]
body_max = 10
head_max = "16KiB"
upload_idle = 60
client_idle = "2d"
tunnel_idle = 5

[legacy]
urls = ["http://127.0.0.1:9000"]
"#,
    );
}

#[test]
fn every_key_of_limits_is_in_the_reference() {
    let (_, rest) = REFERENCE.split_once("### `[proxy.limits]`").unwrap();
    let (section, _) = rest.split_once("\n### ").unwrap();
    let text = "[proxy.limits]\nnone = 1\n";
    let told = parse(text).expect_err("a bad config").to_string();
    let keys = told.split("the keys here are ").nth(1).unwrap();
    let keys: Vec<&str> = keys.lines().next().unwrap().split(", ").collect();
    assert_eq!(keys.len(), 15, "{keys:?}");
    for key in keys {
        assert!(section.contains(&format!("| `{key}`")), "{key}");
    }
}

#[test]
fn writes_wait_within_the_bounds_of_the_file() {
    let two = "[proxy]\nlisten = [\"127.0.0.1:0\"]\n[legacy]\nurls = [\"http://[::1]:9\"]\n";
    let usual = good(two).proxy.limits;
    assert_eq!((usual.held_max, usual.held_bytes), (4_096, 64 << 20));
    let own = "[proxy]\nhold_max = 7\nhold_bytes = \"0MiB\"\noverrides = \"strip\"\n";
    let proxy = good(&two.replace("[proxy]\n", own)).proxy;
    assert_eq!((proxy.limits.held_max, proxy.limits.held_bytes), (7, 0));
    assert_eq!(proxy.overrides, outgrow_proxy::Overrides::Strip);
    for (name, hold) in [
        (
            "hold_low",
            "hold_max = 0\nhold_bytes = 1\noverrides = \"drop\"",
        ),
        (
            "hold_high",
            "hold_max = 1000001\nhold_bytes = \"2TiB\"\noverrides = true",
        ),
        (
            "hold_odd",
            "hold_max = \"many\"\nhold_bytes = \"much\"\noverrides = \"Check\"",
        ),
        (
            "hold_unknown",
            "hold_maximum = 5\nhold_byte = \"1MiB\"\noverride = \"pass\"",
        ),
    ] {
        golden(
            name,
            &two.replace("[proxy]\n", &format!("[proxy]\n{hold}\n")),
        );
    }
}
