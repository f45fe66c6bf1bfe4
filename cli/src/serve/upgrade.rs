//! Another binary in place of this process, without a closed listener and without a failed request.
//!
//! As a reload, in two processes. The new one is started by this one, is given the sockets, and does all
//! that can refuse. Then this one closes its back office, which frees the store and the bridge, and the
//! new one opens its own; meanwhile this proxy carries on. Then the new proxy lets clients in at the same
//! sockets, and connections of this one end behind their next answer.
//!
//! Until this process has ended the new one moves nothing forward. What takes traffic back it says to this
//! one, too; and because it does not know who has just written here, its reads go to the writers.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use outgrow_control::{Note, Quiet};
use outgrow_proxy::{Handle, Running};
use serde_json::{Value, json};
use tokio::net::unix::OwnedWriteHalf;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::handover::{self, Declared, Ears, Inherited, Line, PATIENCE, Word};
use super::notify;
use super::office::Office;
use super::reload::{Before, Generation, Prepared, Reloads, listen, prepare};
use crate::config::Config;

/// The argument by which the new process knows.
const TAKE_OVER: &str = "--take-over";

/// Words that wait for the process that leaves. It has one config's slices to hear of.
const WORDS_MAX: usize = 1_024;

/// A start waits some seconds for each link and each cutover that was left behind.
const TAKING: Duration = Duration::from_secs(120);

/// Who has closed its end of the line has this long to end by itself, which says more.
const LAST_WORDS: Duration = Duration::from_secs(2);

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The process that comes, to the one that leaves.
pub(super) struct Successor {
    child: Child,
    line: Line,
    version: String,
    pub(super) has: Declared,
}

impl Successor {
    /// Starts the binary as it is on the disk now, with this process's own arguments. Ready when only the
    /// store is missing.
    ///
    /// # Errors
    /// Why it does not come; it has ended then.
    pub(super) async fn start(present: &Generation, note: &Note) -> anyhow::Result<Self> {
        let (own, other) = UnixStream::pair()?;
        let child = spawn(other)?;
        let (admin, socket) = (present.config.control.listen, present.admin.try_clone()?);
        let listening = present.running.listening()?;
        let store = present.config.control.store.to_string();
        let (by, reason) = (note.by.clone(), note.reason.clone());
        let greeted = tokio::task::spawn_blocking(move || {
            let said = (VERSION, by.as_str(), reason.as_str(), store);
            // The future that it makes is this runtime's.
            handover::greet(own, said, (admin, &socket), &listening)
        });
        let mut come = Coming { child };
        let mut line = match greeted.await? {
            Ok(line) => line,
            Err(error) => return Err(come.ended(error).await),
        };
        match come.hears(&mut line.hears, PATIENCE).await? {
            Word::Ready { version, has } => Ok(Self {
                child: come.child,
                line,
                version,
                has,
            }),
            Word::Refused(why) => {
                come.end().await;
                anyhow::bail!("the new binary refuses: {why}")
            }
            _ => {
                come.end().await;
                anyhow::bail!("the new binary does not say that it is ready")
            }
        }
    }

    /// The store is free: ready when it has let clients in.
    ///
    /// # Errors
    /// Why it has not; it has ended then.
    pub(super) async fn take(self, handle: &Handle) -> anyhow::Result<Leaving> {
        let Self {
            child,
            mut line,
            version,
            ..
        } = self;
        let mut come = Coming { child };
        // Who has written there is not known here from now on.
        handle.share(true);
        let took = Self::taken(&mut come, &mut line, handle).await;
        if let Err(error) = took {
            handle.share(false);
            return Err(error);
        }
        let pid = come.child.id().unwrap_or_default();
        notify::main_process(pid);
        // What the guard has done since.
        let said = handover::say(&mut line.says, &Word::Orders(handle.orders())).await;
        if let Err(error) = said {
            warn!(%error, "the new process does not hear any more");
        }
        info!(pid, version, "another process has taken over");
        Ok(Leaving { pid, version, line })
    }

    async fn taken(come: &mut Coming, line: &mut Line, handle: &Handle) -> anyhow::Result<()> {
        let said = handover::say(&mut line.says, &Word::Orders(handle.orders())).await;
        come.or_end(said).await?;
        match come.hears(&mut line.hears, TAKING).await? {
            Word::Took => Ok(()),
            Word::Refused(why) => {
                come.end().await;
                anyhow::bail!("the new binary could not take over: {why}")
            }
            _ => {
                come.end().await;
                anyhow::bail!("the new binary does not say that it has taken over")
            }
        }
    }

    /// It is not wanted after all.
    pub(super) async fn dismiss(self) {
        Coming { child: self.child }.end().await;
    }
}

/// A process that is waited for.
struct Coming {
    child: Child,
}

impl Coming {
    async fn hears(&mut self, ears: &mut Ears, within: Duration) -> anyhow::Result<Word> {
        let heard = tokio::time::timeout(within, ears.hear()).await;
        let heard = heard.with_context(|| format!("the new binary says nothing for {within:?}"));
        let word = self.or_end(heard.flatten()).await?;
        if let Some(word) = word {
            return Ok(word);
        }
        let silent = anyhow::anyhow!("the new binary says nothing more");
        Err(self.ended(silent).await)
    }

    /// Its end of the line is closed: it has ended, or ends.
    async fn ended(&mut self, why: anyhow::Error) -> anyhow::Error {
        match tokio::time::timeout(LAST_WORDS, self.child.wait()).await {
            Ok(Ok(status)) => anyhow::anyhow!("the new binary ends: {status}; see its log"),
            _ => {
                self.end().await;
                why.context("the new binary does not take what it is handed")
            }
        }
    }

    async fn or_end<T>(&mut self, done: anyhow::Result<T>) -> anyhow::Result<T> {
        if done.is_err() {
            self.end().await;
        }
        done
    }

    async fn end(&mut self) {
        if let Err(error) = self.child.kill().await {
            warn!(%error, "the new binary could not be ended");
        }
    }
}

fn spawn(line: UnixStream) -> anyhow::Result<Child> {
    let mut arguments = std::env::args_os();
    // With what it was started by, so that a link that points elsewhere now is followed.
    let program = arguments
        .next()
        .context("nobody says what this binary is")?;
    let rest: Vec<OsString> = arguments.filter(|word| *word != TAKE_OVER).collect();
    Command::new(&program)
        .args(rest)
        .arg(TAKE_OVER)
        .stdin(Stdio::from(OwnedFd::from(line)))
        .kill_on_drop(false)
        .spawn()
        .with_context(|| format!("{} cannot be started", program.display()))
}

/// This process, when another one has taken over.
pub(super) struct Leaving {
    pub(super) pid: u32,
    pub(super) version: String,
    line: Line,
}

impl Leaving {
    pub(super) fn told(&self) -> Value {
        json!({"pid": self.pid, "version": self.version, "before": VERSION})
    }

    /// Lets connections end, and does meanwhile what the other process says.
    pub(super) async fn retire(
        self,
        running: Running,
        handle: Handle,
        (grace, hurry): (Duration, CancellationToken),
    ) {
        let Line { mut hears, says } = self.line;
        let obeying = async {
            while let Ok(Some(word)) = hears.hear().await {
                match word {
                    Word::Live(slice, live) => handle.apply(&slice, live),
                    Word::Builds(service, state) => handle.apply_builds(&service, &state),
                    _ => {}
                }
            }
            // Whoever took over has gone: what is under way ends all the same.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            drained = running.retire(grace, hurry) => info!(?drained, "this process has ended"),
            () = obeying => {}
        }
        drop(says);
    }
}

/// The process that leaves, to the one that comes: what it is to hear.
#[derive(Debug, Clone)]
pub(super) struct Earlier(mpsc::Sender<Word>);

impl Earlier {
    /// One that has ended hears nothing, and needs not.
    pub(super) fn tell(&self, word: Word) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.0.try_send(word) {
            warn!("the process before is not told of a change");
        }
    }
}

/// Takes over from the process that has started this one.
///
/// # Errors
/// Whatever keeps this process from it; the other one carries on.
pub(super) async fn take_over(config: Config, reloads: Reloads) -> anyhow::Result<Prepared> {
    let inherited = tokio::task::spawn_blocking(handover::inherit);
    let Inherited {
        greeting,
        listening,
        admin,
        line: Line {
            mut hears,
            mut says,
        },
    } = inherited.await??;
    let store = config.control.store.to_string();
    let done = async {
        anyhow::ensure!(
            greeting.store == store,
            "`[control] store` cannot change while Outgrow runs; end it and start it again"
        );
        let admin = match admin {
            (asked, socket) if asked == config.control.listen => socket,
            _ => listen(config.control.listen)?,
        };
        let (proxy, mut field) = prepare(&config, Before::Process(listening))?;
        let (version, has) = (VERSION.to_owned(), declared(&config));
        handover::say(&mut says, &Word::Ready { version, has }).await?;
        let Some(Word::Orders(orders)) = hears.hear().await? else {
            anyhow::bail!("the process before carries on");
        };
        field.handle.adopt(orders).map_err(anyhow::Error::msg)?;
        field.handle.share(true);
        let (tell, words) = mpsc::channel(WORDS_MAX);
        field.earlier = Some(Earlier(tell));
        let office = Office::open(&config, &field, (&admin, &reloads), 1).await?;
        let quiet = office.controller.occupy("the end of the process before")?;
        let note = Note::new(Some(&greeting.by), Some(&greeting.reason));
        let detail = json!({
            "pid": std::process::id(), "version": VERSION, "before": greeting.version,
        });
        if let Err(error) = office.controller.replaced("upgraded", &note, &detail).await {
            warn!(%error, "the upgrade is not in the journal");
        }
        anyhow::Ok((proxy, field, admin, office, quiet, words))
    };
    let done = Box::pin(done).await;
    let (proxy, field, admin, office, quiet, words) = match done {
        Ok(done) => done,
        Err(error) => {
            // It may have ended.
            let _ = handover::say(&mut says, &Word::Refused(format!("{error:#}"))).await;
            return Err(error);
        }
    };
    let handle = field.handle.clone();
    let watch = Watch {
        hears,
        says,
        words,
        handle,
        quiet,
    };
    Ok(Prepared {
        config,
        proxy,
        field,
        admin,
        office,
        reloads,
        before: Some(watch),
    })
}

/// Tells the process that has started this one why it does not take over. The reason, again.
pub(crate) async fn refuse(why: anyhow::Error) -> anyhow::Error {
    let told = async {
        let inherited = tokio::task::spawn_blocking(handover::inherit).await??;
        let mut line = inherited.line;
        handover::say(&mut line.says, &Word::Refused(format!("{why:#}"))).await
    };
    if let Err(error) = told.await {
        warn!(error = format!("{error:#}"), "nobody is told");
    }
    why
}

fn declared(config: &Config) -> Declared {
    let built = config.built().into_iter();
    let builds = built.map(|(name, builds)| (name.to_owned(), builds));
    let builds = builds.collect::<BTreeMap<_, _>>();
    Declared {
        slices: config.slices.iter().map(|slice| slice.id.clone()).collect(),
        builds,
    }
}

impl Declared {
    pub(super) fn of(config: &Config) -> Self {
        declared(config)
    }
}

/// Looks after the process before, until it has ended.
pub(super) struct Watch {
    hears: Ears,
    says: OwnedWriteHalf,
    words: mpsc::Receiver<Word>,
    handle: Handle,
    quiet: Quiet,
}

impl Watch {
    /// Clients are let in.
    pub(super) fn begin(self) -> JoinHandle<()> {
        tokio::spawn(self.run())
    }

    async fn run(mut self) {
        let took = handover::say(&mut self.says, &Word::Took).await;
        if let Err(error) = took {
            warn!(%error, "the process before does not hear");
        }
        loop {
            tokio::select! {
                heard = self.hears.hear() => match heard {
                    Ok(Some(Word::Orders(orders))) => {
                        if let Err(why) = self.handle.adopt(orders) {
                            warn!(%why, "what the process before has in force");
                        }
                    }
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => break,
                },
                Some(word) = self.words.recv() => {
                    // Gone: the other branch will say so.
                    let _ = handover::say(&mut self.says, &word).await;
                }
            }
        }
        self.handle.share(false);
        drop(self.quiet);
        info!("the process before has ended");
    }
}
