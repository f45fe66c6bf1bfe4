//! An issuer of tokens, with its public keys as they were last seen.
//!
//! Cores only read. Who meets a key that is not known asks for a new look and waits for it, once;
//! between two looks lies a pause, so that made-up key names cost the issuer nothing. Keys that
//! were seen stay in force while the issuer does not answer.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use http::Uri;
use serde_json::{Map, Value};
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use super::fetch::{Fetch, file};
use super::jwt::{KeySet, TokenError, TokenRule, verify};

/// A request waits this long for keys, somewhat longer than getting them may take.
const WAIT: Duration = Duration::from_secs(6);

/// Where the public keys of an issuer are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    File(PathBuf),
    /// Of a JWK set.
    Url(Uri),
    /// Of the document in which the issuer describes itself.
    Discover(Uri),
}

impl KeySource {
    /// A file is looked at now.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::File(path) => file(path).map(|_| ()),
            Self::Url(_) | Self::Discover(_) => Ok(()),
        }
    }
}

/// Whose tokens are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerSettings {
    /// What filters call it.
    pub name: String,
    pub rule: TokenRule,
    pub keys: KeySource,
    /// Whom to believe about TLS there; none takes the machine's own CAs.
    pub ca: Option<PathBuf>,
    /// How old keys may get before they are looked at again.
    pub refresh: Duration,
    /// The least time between two looks.
    pub pause: Duration,
}

/// An issuer at work, shared by all cores.
#[derive(Debug)]
pub(crate) struct Issuer {
    pub(super) settings: IssuerSettings,
    fetch: Fetch,
    keys: ArcSwapOption<KeySet>,
    /// Somebody has met an unknown key.
    wanted: Notify,
    /// Counts looks.
    looks: watch::Sender<u64>,
    begun: Instant,
    /// When the last look ended, in milliseconds since `begun`, plus one; 0 before the first.
    looked: AtomicU64,
}

/// Why a token gives no claims.
#[derive(Debug)]
pub(super) enum Unproven {
    Token(TokenError),
    /// No key of the issuer was ever seen.
    NoKeys,
}

impl Issuer {
    /// # Errors
    /// Says what is wrong with its files.
    pub(crate) fn new(settings: IssuerSettings) -> Result<Arc<Self>, String> {
        let keys = match &settings.keys {
            KeySource::File(path) => Some(Arc::new(file(path)?)),
            KeySource::Url(_) | KeySource::Discover(_) => None,
        };
        let fetch = Fetch::new(settings.keys.clone(), settings.ca.as_deref())?;
        Ok(Arc::new(Self {
            settings,
            fetch,
            keys: ArcSwapOption::new(keys),
            wanted: Notify::new(),
            looks: watch::Sender::new(0),
            begun: Instant::now(),
            looked: AtomicU64::new(0),
        }))
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether the last look is long enough ago.
    fn may_look(&self) -> bool {
        let pause = u64::try_from(self.settings.pause.as_millis()).unwrap_or(u64::MAX);
        match self.looked.load(Relaxed) {
            0 => true,
            looked => self.millis().saturating_sub(looked - 1) >= pause,
        }
    }

    /// The claims of a token of this issuer.
    ///
    /// Cancel safe: who leaves only stops waiting.
    pub(super) async fn claims(
        &self,
        token: &str,
        now: u64,
    ) -> Result<Map<String, Value>, Unproven> {
        let rule = &self.settings.rule;
        let tried = |keys: &Option<Arc<KeySet>>| match keys {
            Some(keys) => verify(token, rule, keys, now).map_err(Unproven::Token),
            None => Err(Unproven::NoKeys),
        };
        // Before the keys are read, so that no look ends unseen in between.
        let mut looks = self.looks.subscribe();
        let found = tried(&self.keys.load_full());
        let unknown = matches!(
            found,
            Err(Unproven::NoKeys | Unproven::Token(TokenError::UnknownKey))
        );
        if !unknown || !self.may_look() {
            return found;
        }
        self.wanted.notify_one();
        // What is known after the wait is what counts, also where the look took too long.
        let _ = tokio::time::timeout(WAIT, looks.changed()).await;
        tried(&self.keys.load_full())
    }

    /// Looks after the keys for ever.
    pub(crate) async fn watch(self: Arc<Self>) {
        loop {
            let settings = &self.settings;
            let seen = self.fetch.keys(&settings.rule.issuer).await;
            let next = match seen {
                Ok(keys) => {
                    let known = self.keys.load_full();
                    if known.as_deref() != Some(&keys) {
                        info!(issuer = %settings.name, "its keys are known");
                        self.keys.store(Some(Arc::new(keys)));
                    }
                    settings.refresh
                }
                Err(why) => {
                    warn!(issuer = %settings.name, %why, "its keys cannot be looked at");
                    settings.pause
                }
            };
            self.looked.store(self.millis() + 1, Relaxed);
            self.looks.send_modify(|looks| *looks += 1);
            self.rest(next).await;
        }
    }

    /// Until the next look is due, or is wanted and allowed.
    async fn rest(&self, next: Duration) {
        let due = tokio::time::Instant::now() + next;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(due) => return,
                () = self.wanted.notified() => {
                    if self.may_look() {
                        return;
                    }
                    // Nobody is to wait for a look that does not come.
                    self.looks.send_modify(|looks| *looks += 1);
                }
            }
        }
    }
}
