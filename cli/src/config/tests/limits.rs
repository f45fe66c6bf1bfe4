//! How much requests may bring, and how long anybody is waited for.

use std::time::Duration;

use super::{golden, good};

#[test]
fn limits_are_of_the_proxy_or_of_a_route() {
    let two = "[proxy]\nlisten = [\"127.0.0.1:0\"]\n[legacy]\nurls = [\"http://[::1]:9\"]\n";
    let usual = good(two).proxy.limits;
    let minute = Some(Duration::from_secs(60));
    assert_eq!((usual.head_max, usual.headers_max), (256 << 10, 256));
    let allowance = usual.allowance;
    assert_eq!((allowance.body_max, allowance.upload_idle), (None, minute));
    let text = "[proxy.limits]\nhead_max = \"16KiB\"\nfields_max = 64\nhead_timeout = \"5s\"\n\
                body_max = \"10MiB\"\nupload_idle = \"0s\"\n\
                [proxy.filters.limits]\nbody_max = \"1GiB\"\n";
    let config = good(&format!("{two}{text}"));
    let limits = config.proxy.limits;
    assert_eq!((limits.head_max, limits.headers_max), (16 << 10, 64));
    assert_eq!(limits.head_timeout, Duration::from_secs(5));
    let allowance = limits.allowance;
    assert_eq!(allowance.body_max, Some(10 << 20));
    assert_eq!(allowance.upload_idle, Some(Duration::ZERO));
    let own = config.proxy.filters.unwrap().allowance;
    assert_eq!((own.body_max, own.upload_idle), (Some(1 << 30), None));
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
body_max = "12"
upload_idle = "48h"
idle = "1s"

[proxy.filters.limits]
body_max = 10
head_max = "16KiB"
upload_idle = 60

[legacy]
urls = ["http://127.0.0.1:9000"]
"#,
    );
}
