//! The admin API as the demo uses it: everything that an operator could do by hand.

use std::net::SocketAddr;

use anyhow::Context;
use outgrow_rollout::GateResult;
use serde_json::Value;

use crate::client::{ApiError, Client, Code};
use crate::config::{HttpUrl, Secret};

/// What a request for a step led to.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Done(Value),
    /// A gate is not met, or not enough is known yet.
    Refused(Refusal),
}

/// Why a step was not taken.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    /// More evidence may still settle it: nothing fails, something is missing.
    pub(crate) inconclusive: bool,
    pub(crate) error: String,
    pub(crate) gates: Vec<GateResult>,
}

impl Refusal {
    /// `None` for an error that asking again does not help.
    fn of(error: &ApiError) -> Option<Self> {
        // A cutover that took itself back changed nothing, and what is busy will be free.
        let took_itself_back = error.details["outcome"] == "aborted";
        let inconclusive = match error.code {
            Code::Gate => false,
            Code::Inconclusive | Code::Conflict => true,
            _ if took_itself_back => true,
            _ => return None,
        };
        let gates = serde_json::from_value(error.details["gates"].clone());
        Some(Self {
            inconclusive,
            error: error.message.clone(),
            gates: gates.unwrap_or_default(),
        })
    }

    /// The gates that are not met, in a few words.
    pub(crate) fn words(&self) -> String {
        let open: Vec<String> = self
            .gates
            .iter()
            .filter(|gate| !gate.ok)
            .map(|gate| format!("{} {} (limit {})", gate.name, gate.value, gate.limit))
            .collect();
        if open.is_empty() {
            self.error.clone()
        } else {
            open.join(", ")
        }
    }
}

/// The API with its token.
#[derive(Debug)]
pub(crate) struct Admin {
    client: Client,
}

impl Admin {
    /// # Errors
    /// When the token is none.
    pub(crate) fn new(at: SocketAddr, token: &str) -> anyhow::Result<Self> {
        let base = HttpUrl {
            host: at.ip().to_string(),
            port: at.port(),
        };
        let token = Secret::new(token).map_err(|why| anyhow::anyhow!("the admin token: {why}"))?;
        let client = Client::new(base, &token)?;
        Ok(Self { client })
    }

    /// # Errors
    /// On any answer but a success.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let answer = self.client.get(path).await;
        answer.with_context(|| format!("GET {path}"))
    }

    /// # Errors
    /// On any answer but a success.
    pub(crate) async fn text(&self, path: &str) -> anyhow::Result<String> {
        let answer = self.client.text(path).await;
        answer.with_context(|| format!("GET {path}"))
    }

    /// # Errors
    /// On any answer but a success.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let answer = self.client.post(path, body.clone()).await;
        answer.with_context(|| format!("POST {path}"))
    }

    /// As [`Admin::post`], where a refusal that may pass is an answer like another.
    ///
    /// # Errors
    /// On any answer but a success or such a refusal.
    pub(crate) async fn ask(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        match self.client.post(path, body.clone()).await {
            Ok(value) => Ok(Answer::Done(value)),
            Err(error) => match Refusal::of(&error) {
                Some(refusal) => Ok(Answer::Refused(refusal)),
                None => Err(error).with_context(|| format!("POST {path}")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Response;
    use outgrow_testkit::Upstream;
    use serde_json::json;

    use super::*;

    async fn answers(status: u16, body: Value) -> (Upstream, Admin) {
        let upstream = Upstream::start(move |_| {
            let mut answer = Response::new(Bytes::from(body.to_string()));
            *answer.status_mut() = status.try_into().unwrap();
            async move { answer }
        })
        .await;
        let admin = Admin::new(upstream.addr(), "a-token-of-some-length\n").unwrap();
        (upstream, admin)
    }

    #[tokio::test]
    async fn a_refusal_names_its_open_gates() {
        let gates = json!([
            {"name": "lag", "value": "3 ms", "limit": "1 s", "ok": true, "missing": false, "hint": ""},
            {"name": "mismatches", "value": "40%", "limit": "1%", "ok": false,
                "missing": false, "hint": "look"},
        ]);
        let body = json!({"error": "blocked", "code": "gate", "details": {"gates": gates}});
        let (upstream, admin) = answers(412, body).await;
        let answer = admin
            .ask("/v1/runbook/catalog/next", &json!({}))
            .await
            .unwrap();
        let Answer::Refused(refusal) = answer else {
            panic!("{answer:?}")
        };
        assert!(!refusal.inconclusive);
        assert_eq!(refusal.words(), "mismatches 40% (limit 1%)");
        assert_eq!(
            upstream.seen()[0].header("authorization"),
            Some("Bearer a-token-of-some-length")
        );
    }

    #[tokio::test]
    async fn missing_evidence_is_inconclusive_and_other_refusals_are_errors() {
        let (_upstream, admin) = answers(
            424,
            json!({"error": "too few pairs", "code": "inconclusive"}),
        )
        .await;
        let answer = admin.ask("/v1/x", &json!({})).await.unwrap();
        assert!(matches!(
            answer,
            Answer::Refused(Refusal {
                inconclusive: true,
                ..
            })
        ));
        let (_upstream, admin) = answers(
            422,
            json!({"error": "retired is terminal", "code": "illegal"}),
        )
        .await;
        let error = admin.ask("/v1/x", &json!({})).await.unwrap_err();
        assert!(
            format!("{error:#}").contains("retired is terminal"),
            "{error:#}"
        );
    }

    #[tokio::test]
    async fn what_took_itself_back_may_be_asked_for_again() {
        for (status, code, details) in [
            (409, "conflict", Value::Null),
            (504, "timeout", json!({"outcome": "aborted"})),
        ] {
            let body = json!({"error": "not now", "code": code, "details": details});
            let (_upstream, admin) = answers(status, body).await;
            let answer = admin.ask("/v1/x", &json!({})).await.unwrap();
            let Answer::Refused(refusal) = answer else {
                panic!("{answer:?}")
            };
            assert!(refusal.inconclusive);
            assert_eq!(refusal.words(), "not now");
        }
    }
}
