//! Consul: the instances of a service whose checks pass, by blocking queries.
//!
//! <https://developer.hashicorp.com/consul/api-docs/health> and `/features/blocking`.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use serde::Deserialize;
use tokio::time::sleep;

use super::{Teller, rest};
use crate::dial::Dialer;
use crate::sources::Consul;
use crate::upstreams::address::Address;

const TOKEN: HeaderName = HeaderName::from_static("x-consul-token");
const INDEX: HeaderName = HeaderName::from_static("x-consul-index");

/// After a failure.
const RETRY: Duration = Duration::from_secs(1);
/// Between two answers: a service that changes all the time is not asked for all the time.
const PAUSE: Duration = Duration::from_millis(50);
/// For an answer, beside the time that it is asked to wait.
const ANSWER: Duration = Duration::from_secs(5);

/// One element of the answer, as far as it says where an instance is.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    node: Node,
    service: Service,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    address: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    /// Empty: the node's.
    #[serde(default)]
    address: String,
    port: u16,
}

impl Entry {
    fn upstream(&self) -> Option<Address> {
        let host = match self.service.address.is_empty() {
            true => &self.node.address,
            false => &self.service.address,
        };
        rest::upstream(host, self.service.port)
    }
}

/// Asks for ever.
pub(super) async fn watch(consul: Consul, teller: Teller) {
    let mut index = None;
    let dialer = match rest::dialer(consul.tls.as_ref()) {
        Ok(dialer) => dialer,
        Err(why) => return teller.tell(Err(why)),
    };
    loop {
        match ask(&dialer, &consul, index).await {
            Ok((found, next)) => {
                index = follow(index, next);
                teller.tell(Ok(found));
                sleep(PAUSE).await;
            }
            Err(why) => {
                index = None;
                teller.tell(Err(why));
                sleep(RETRY).await;
            }
        }
    }
}

/// The index to wait from. One that went back is of another history, and 0 would not wait.
fn follow(before: Option<u64>, now: Option<u64>) -> Option<u64> {
    let now = now.filter(|now| *now > 0)?;
    before.is_none_or(|before| now >= before).then_some(now)
}

/// The instances, and the index of what was said; waits for a change from `index` on.
pub(super) async fn ask(
    dialer: &Dialer,
    consul: &Consul,
    index: Option<u64>,
) -> Result<(Vec<Address>, Option<u64>), String> {
    let mut path = format!("/v1/health/service/{}?passing=true", consul.service);
    for (key, value) in [("tag", &consul.tag), ("dc", &consul.datacenter)] {
        if let Some(value) = value {
            path.push_str(&format!("&{key}={value}"));
        }
    }
    let mut within = ANSWER;
    if let Some(index) = index {
        path.push_str(&format!("&index={index}&wait={}s", consul.wait.as_secs()));
        // It adds up to a sixteenth of its own.
        within += consul.wait + consul.wait / 8;
    }
    let token = consul.token.as_ref().map(|token| {
        let mut value = HeaderValue::from_bytes(token.bytes()).ok()?;
        value.set_sensitive(true);
        Some((TOKEN, value))
    });
    let token = match token {
        Some(None) => return Err("the token is no header's value".to_owned()),
        Some(token) => token,
        None => None,
    };
    let answer = rest::get((dialer, &consul.agent), &path, token, within).await?;
    if !answer.status.is_success() {
        let text = String::from_utf8_lossy(&answer.body);
        let text: String = text.trim().chars().take(200).collect();
        return Err(format!(
            "{} answers {}: {text}",
            consul.agent, answer.status
        ));
    }
    let entries: Vec<Entry> =
        serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
    let index = answer.headers.get(INDEX);
    let index = index.and_then(|value| value.to_str().ok()?.parse().ok());
    let mut found: Vec<Address> = entries.iter().filter_map(Entry::upstream).collect();
    found.sort();
    Ok((found, index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_goes_back_begins_anew() {
        assert_eq!(follow(None, Some(7)), Some(7));
        assert_eq!(follow(Some(7), Some(7)), Some(7));
        assert_eq!(follow(Some(7), Some(6)), None);
        assert_eq!(follow(Some(7), Some(0)), None);
        assert_eq!(follow(Some(7), None), None);
    }
}
