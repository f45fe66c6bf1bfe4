//! The operator's verbs: take the next step of the runbook, be refused, wait, read what stands.
//!
//! Owns patience: how long a step may wait for its evidence. Decides nothing; the gates do.

use std::time::Duration;

use anyhow::{Context, bail};
use outgrow_rollout::{Evidence, FieldDifference, Live};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::admin::{Admin, Answer, Refusal};
use super::screen::Screen;
use super::summary::Cutover;
use super::watch::{self, Watch};

/// No gate of the demo's plan needs a third of this.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// How often a step is asked for while its gates are not met.
const BETWEEN_TRIES: Duration = Duration::from_millis(150);
/// How often a state is looked at that changes by itself.
const BETWEEN_LOOKS: Duration = Duration::from_millis(15);

/// Who the journal says it was.
const OPERATOR: &str = "demo";

/// A step that was taken.
#[derive(Debug, Clone)]
pub(crate) struct Taken {
    pub(crate) step: String,
    pub(crate) detail: Value,
}

/// One slice under an operator's hands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hands<'a> {
    pub(crate) slice: &'a str,
    pub(crate) admin: &'a Admin,
    pub(crate) screen: &'a Screen,
    pub(crate) watch: &'a Watch,
}

impl Hands<'_> {
    /// Asks for the next step once.
    ///
    /// # Errors
    /// On anything but done or refused by a gate.
    pub(crate) async fn try_next(&self, reason: &str) -> anyhow::Result<Result<Taken, Refusal>> {
        let path = format!("/v1/runbook/{}/next", self.slice);
        let body = json!({"by": OPERATOR, "reason": reason});
        Ok(match self.admin.ask(&path, &body).await? {
            Answer::Done(value) => Ok(Taken {
                step: value["step"].as_str().unwrap_or("?").to_owned(),
                detail: value["detail"].clone(),
            }),
            Answer::Refused(refusal) => Err(refusal),
        })
    }

    /// Takes the next step as soon as its gates allow it.
    ///
    /// # Errors
    /// When they do not within [`PATIENCE`]: says which do not.
    pub(crate) async fn next(&self, reason: &str) -> anyhow::Result<Taken> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.try_next(reason).await? {
                Ok(taken) => return Ok(taken),
                Err(refusal) if Instant::now() > deadline => {
                    bail!(
                        "{}: waited {PATIENCE:?} for: {}",
                        self.slice,
                        refusal.words()
                    );
                }
                Err(refusal) => {
                    self.screen
                        .progress(&format!("waiting for {}", refusal.words()));
                }
            }
            tokio::time::sleep(BETWEEN_TRIES).await;
        }
    }

    /// [`Self::next`] until `wanted` was taken, with a line for every step.
    ///
    /// # Errors
    /// As [`Self::next`], or when the slice is past `wanted`.
    pub(crate) async fn advance_to(&self, wanted: &str, reason: &str) -> anyhow::Result<Taken> {
        loop {
            let taken = self.next(reason).await?;
            self.screen
                .good(&format!("{}: {}", taken.step, self.stage().await?));
            if taken.step == wanted {
                return Ok(taken);
            }
            if taken.step == "retire" {
                bail!("{}: the runbook has no step {wanted}", self.slice);
            }
        }
    }

    /// Waits until the gate before the next step fails for good, not for want of evidence, in
    /// a way that `fits`.
    ///
    /// # Errors
    /// When the step is taken instead, or nothing is decided within [`PATIENCE`].
    pub(crate) async fn be_refused<F, Fut, T>(
        &self,
        what: &str,
        fits: F,
    ) -> anyhow::Result<(Refusal, T)>
    where
        F: Fn(Refusal) -> Fut,
        Fut: Future<Output = anyhow::Result<Option<T>>>,
    {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.try_next("the planted fault must stop this").await? {
                Ok(taken) => bail!("the gate let {what} through: {} was taken", taken.step),
                Err(refusal) if Instant::now() > deadline => {
                    bail!("the gate did not name {what}: {}", refusal.words());
                }
                Err(refusal) => {
                    if !refusal.inconclusive
                        && let Some(found) = fits(refusal.clone()).await?
                    {
                        return Ok((refusal, found));
                    }
                    self.screen
                        .progress(&format!("waiting for {}", refusal.words()));
                }
            }
            tokio::time::sleep(BETWEEN_TRIES).await;
        }
    }

    /// The status of the slice.
    ///
    /// # Errors
    /// When it cannot be had.
    pub(crate) async fn status(&self) -> anyhow::Result<Value> {
        self.admin.get(&format!("/v1/slices/{}", self.slice)).await
    }

    /// # Errors
    /// When the status cannot be had or has none.
    pub(crate) async fn evidence(&self) -> anyhow::Result<Evidence> {
        let status = self.status().await?;
        watch::evidence(&status)
            .with_context(|| format!("the status of {} has no evidence", self.slice))
    }

    /// The state in force.
    ///
    /// # Errors
    /// When the status cannot be had or has none.
    pub(crate) async fn live(&self) -> anyhow::Result<Live> {
        let status = self.status().await?;
        serde_json::from_value(status["effective"].clone())
            .with_context(|| format!("the status of {} has no state in force", self.slice))
    }

    /// The stage as text.
    ///
    /// # Errors
    /// When the status cannot be had.
    pub(crate) async fn stage(&self) -> anyhow::Result<String> {
        Ok(self.status().await?["stage"]
            .as_str()
            .unwrap_or("unknown")
            .to_owned())
    }

    /// Looks at the evidence until it gives a value.
    ///
    /// # Errors
    /// After [`PATIENCE`], naming `what`.
    pub(crate) async fn until<T>(
        &self,
        what: &str,
        look: impl Fn(&Evidence) -> Option<T>,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let evidence = self.evidence().await?;
            if let Some(value) = look(&evidence) {
                return Ok(value);
            }
            if Instant::now() > deadline {
                bail!("{}: waited {PATIENCE:?} in vain for {what}", self.slice);
            }
            self.screen.progress(&format!(
                "waiting for {what}: {}",
                self.watch.words(self.slice)
            ));
            tokio::time::sleep(BETWEEN_TRIES).await;
        }
    }

    /// Seconds until no read goes to the extracted side any more, counted from now.
    ///
    /// # Errors
    /// When that does not happen within [`PATIENCE`].
    pub(crate) async fn until_taken_back(&self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        loop {
            if self.live().await?.weight == outgrow_rollout::Weight::ZERO {
                return Ok(begun.elapsed());
            }
            if begun.elapsed() > PATIENCE {
                bail!("{}: the guard did not take the slice back", self.slice);
            }
            self.screen.progress("waiting for the guard");
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }

    /// Takes the slice back by hand.
    ///
    /// # Errors
    /// When it is refused.
    pub(crate) async fn roll_back(&self, reason: &str) -> anyhow::Result<Value> {
        let path = format!("/v1/slices/{}/rollback", self.slice);
        self.admin
            .post(&path, &json!({"by": OPERATOR, "reason": reason}))
            .await
    }

    /// Does something to the slice's link.
    ///
    /// # Errors
    /// When it is refused.
    pub(crate) async fn sync(&self, verb: &str, body: &Value) -> anyhow::Result<Value> {
        self.admin
            .post(&format!("/v1/sync/{}/{verb}", self.slice), body)
            .await
    }
}

/// The report of a cutover, wherever in an answer it stands.
pub(crate) fn cutover(answer: &Value) -> Option<Cutover> {
    match answer {
        Value::Object(fields) => {
            if let (Some(direction), Some(pause)) =
                (fields.get("direction"), fields.get("pause_ms"))
            {
                return Some(Cutover {
                    slice: fields.get("slice")?.as_str()?.to_owned(),
                    direction: direction.as_str()?.to_owned(),
                    held: fields.get("held")?.as_u64()?,
                    pause_ms: pause.as_u64()?,
                });
            }
            fields.values().find_map(cutover)
        }
        _ => None,
    }
}

/// A difference in one line.
pub(crate) fn in_words(difference: &FieldDifference) -> String {
    format!(
        "{} at {}: legacy {}, extracted {} ({} times)",
        difference.route,
        difference.path,
        difference.legacy,
        difference.extracted,
        difference.count
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use http::Response;
    use outgrow_testkit::Upstream;

    use super::*;

    /// A control that answers `next` with these in turn, the last for ever.
    async fn control(answers: &'static [(u16, &'static str)]) -> Upstream {
        let asked = Arc::new(AtomicUsize::new(0));
        Upstream::start(move |request| {
            let next = request.uri().path().ends_with("/next");
            let turn = if next {
                asked.fetch_add(1, Ordering::Relaxed)
            } else {
                0
            };
            let (status, body) = answers[turn.min(answers.len() - 1)];
            let (status, body) = if next {
                (status, body)
            } else {
                (200, r#"{"stage":"x"}"#)
            };
            let mut answer = Response::new(Bytes::from_static(body.as_bytes()));
            *answer.status_mut() = status.try_into().unwrap();
            async move { answer }
        })
        .await
    }

    fn connect(control: &Upstream) -> Admin {
        Admin::new(control.addr(), "a-token-of-some-length").unwrap()
    }

    const LACKING: (u16, &str) = (424, r#"{"error":"too few pairs","code":"inconclusive"}"#);
    const FAILING: (u16, &str) = (
        412,
        r#"{"error":"no","code":"gate","details":{"gates":[{"name":"mismatch rate","value":"40%",
            "limit":"1%","ok":false,"missing":false,"hint":""}]}}"#,
    );

    #[tokio::test]
    async fn a_step_is_asked_for_until_its_gates_allow_it() {
        let control = control(&[
            LACKING,
            FAILING,
            (200, r#"{"step":"shadow","done":true,"detail":{}}"#),
        ])
        .await;
        let (admin, screen) = (connect(&control), Screen::new());
        let watch = Watch::start(connect(&control));
        let hands = Hands {
            slice: "catalog",
            admin: &admin,
            screen: &screen,
            watch: &watch,
        };
        assert_eq!(hands.next("test").await.unwrap().step, "shadow");
        let asked = control
            .seen()
            .iter()
            .filter(|s| s.target.ends_with("/next"))
            .count();
        assert_eq!(asked, 3);
    }

    #[tokio::test]
    async fn a_refusal_must_be_for_good_and_fit() {
        let gates = control(&[LACKING, FAILING, FAILING]).await;
        let (admin, screen) = (connect(&gates), Screen::new());
        let watch = Watch::start(connect(&gates));
        let hands = Hands {
            slice: "catalog",
            admin: &admin,
            screen: &screen,
            watch: &watch,
        };
        let looked = AtomicUsize::new(0);
        let (refusal, found) = hands
            .be_refused("the defect", |_| async {
                let turn = looked.fetch_add(1, Ordering::Relaxed);
                Ok((turn == 1).then_some(turn))
            })
            .await
            .unwrap();
        assert_eq!(
            (refusal.words().as_str(), found),
            ("mismatch rate 40% (limit 1%)", 1)
        );

        let open = control(&[(200, r#"{"step":"canary-10","done":true}"#)]).await;
        let admin = connect(&open);
        let hands = Hands {
            admin: &admin,
            ..hands
        };
        let error = hands
            .be_refused("the defect", |_| async { Ok(Some(())) })
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("let the defect through"),
            "{error}"
        );
    }

    #[test]
    fn a_cutover_report_is_found_at_any_depth() {
        let report = json!({"slice": "catalog", "direction": "legacy->extracted", "held": 4,
            "pause_ms": 31, "outcome": "switched"});
        let expected = Cutover {
            slice: "catalog".into(),
            direction: "legacy->extracted".into(),
            held: 4,
            pause_ms: 31,
        };
        assert_eq!(cutover(&report), Some(expected.clone()));
        assert_eq!(
            cutover(&json!({"revision": 4, "cutover": report})),
            Some(expected)
        );
        assert_eq!(cutover(&json!({"cutover": null})), None);
    }
}
