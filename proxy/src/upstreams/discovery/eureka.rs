//! Eureka: the instances of an application that are up, asked for again and again.
//!
//! <https://github.com/Netflix/eureka/wiki/Eureka-REST-operations>.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::time::sleep;

use super::{Teller, rest};
use crate::dial::Dialer;
use crate::sources::Eureka;
use crate::upstreams::address::Address;

/// For an answer of one server.
const ANSWER: Duration = Duration::from_secs(5);

#[derive(Debug, Deserialize)]
struct Answer {
    application: Application,
}

#[derive(Debug, Deserialize)]
struct Application {
    /// One alone is no list: so does the library that writes it.
    #[serde(default)]
    instance: Value,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Instance {
    #[serde(default)]
    host_name: String,
    #[serde(default)]
    ip_addr: String,
    status: String,
    port: Port,
    secure_port: Option<Port>,
}

#[derive(Debug, Deserialize)]
struct Port {
    /// A number, or one in quotes.
    #[serde(rename = "$")]
    number: Value,
    #[serde(rename = "@enabled", default)]
    enabled: Value,
}

impl Port {
    fn get(&self) -> Option<u16> {
        if matches!(&self.enabled, Value::Bool(false))
            || self.enabled.as_str().is_some_and(|text| text == "false")
        {
            return None;
        }
        match &self.number {
            Value::String(text) => text.parse().ok(),
            number => u16::try_from(number.as_u64()?).ok(),
        }
    }
}

impl Instance {
    /// Where it is reached, over TLS or not.
    fn upstream(&self, safe: bool) -> Option<Address> {
        if self.status != "UP" {
            return None;
        }
        let host = match self.ip_addr.is_empty() {
            true => &self.host_name,
            false => &self.ip_addr,
        };
        let port = match safe {
            true => self.secure_port.as_ref()?,
            false => &self.port,
        };
        rest::upstream(host, port.get()?)
    }
}

/// Asks for ever.
pub(super) async fn watch(eureka: Eureka, teller: Teller) {
    let dialer = match rest::dialer(eureka.tls.as_ref()) {
        Ok(dialer) => dialer,
        Err(why) => return teller.tell(Err(why)),
    };
    loop {
        teller.tell(ask(&dialer, &eureka, teller.is_safe()).await);
        sleep(eureka.every).await;
    }
}

/// The instances, by the first server that knows them.
pub(super) async fn ask(
    dialer: &Dialer,
    eureka: &Eureka,
    safe: bool,
) -> Result<Vec<Address>, String> {
    let mut troubles = Vec::new();
    for (server, base) in &eureka.servers {
        let path = format!("{base}/apps/{}", eureka.app);
        let found = match rest::get((dialer, server), &path, None, ANSWER).await {
            Ok(answer) if answer.status.is_success() => read(&answer.body, safe),
            Ok(answer) if answer.status.as_u16() == 404 => Err("there is no such app".to_owned()),
            Ok(answer) => Err(format!("it answers {}", answer.status)),
            Err(why) => Err(why),
        };
        match found {
            Ok(found) => return Ok(found),
            Err(why) => troubles.push(format!("{server}: {why}")),
        }
    }
    Err(troubles.join("; "))
}

fn read(body: &[u8], safe: bool) -> Result<Vec<Address>, String> {
    let answer: Answer = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let instances = match answer.application.instance {
        Value::Null => Vec::new(),
        Value::Array(instances) => instances,
        one => vec![one],
    };
    let mut found = Vec::new();
    for instance in instances {
        let instance = Instance::deserialize(instance).map_err(|error| error.to_string())?;
        found.extend(instance.upstream(safe));
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn instance(status: &str, ip: &str, port: Value, enabled: &str) -> Value {
        json!({
            "instanceId": format!("{ip}:catalog"),
            "hostName": "catalog.internal",
            "app": "CATALOG",
            "ipAddr": ip,
            "status": status,
            "overriddenStatus": "UNKNOWN",
            "port": { "$": port, "@enabled": enabled },
            "securePort": { "$": 443, "@enabled": "false" },
        })
    }

    fn check(instance: &Value, expected: &[&str]) {
        let body = json!({ "application": { "name": "CATALOG", "instance": instance } });
        let found = read(body.to_string().as_bytes(), false).unwrap();
        let found: Vec<&str> = found.iter().map(Address::as_str).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn who_is_up_with_a_port_is_found() {
        let up = instance("UP", "10.0.0.1", json!(8_081), "true");
        let text = instance("UP", "10.0.0.2", json!("8082"), "true");
        let down = instance("OUT_OF_SERVICE", "10.0.0.3", json!(8_083), "true");
        let off = instance("UP", "10.0.0.4", json!(8_084), "false");
        let named = instance("UP", "", json!(8_085), "true");
        let all = json!([up, text, down, off, named]);
        let expected = ["10.0.0.1:8081", "10.0.0.2:8082", "catalog.internal:8085"];
        check(&all, &expected);
        check(&up, &["10.0.0.1:8081"]);
        check(&Value::Null, &[]);
        let mut both = up.clone();
        both["securePort"]["@enabled"] = json!("true");
        let body = json!({ "application": { "instance": [up, both] } }).to_string();
        let safe = read(body.as_bytes(), true).unwrap();
        assert_eq!(safe, ["10.0.0.1:443".parse().unwrap()]);
        assert!(read(b"<applications/>", false).is_err());
    }
}
