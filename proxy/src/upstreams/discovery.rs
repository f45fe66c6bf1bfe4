//! Who the upstreams of a service are: what each source says, and asking them again and again.
//!
//! On the guard's thread. A source that fails or names nobody changes nothing: what it said last
//! holds, and `status` says why.

mod consul;
mod dns;
mod eureka;
mod file;
mod kubernetes;
pub(crate) mod rest;

use std::sync::Arc;
use std::time::Instant;

use outgrow_rollout::SourceFigures;
use serde_json::json;
use tracing::{info, warn};

use super::Service;
use super::address::{Address, Route};
use crate::rules::Transport;
use crate::sources::{DnsSettings, Source};
pub(crate) use dns::Resolver;

/// Who the upstreams are, and why some of that is what was said before; or why nobody is known.
pub(super) type News = Result<(Vec<Address>, Option<String>), String>;

/// What one source has said.
#[derive(Debug)]
pub(crate) struct Told {
    source: String,
    /// It says the same for ever.
    fixed: bool,
    found: Vec<Address>,
    /// Who it is as long as it has said nothing and is known to fail.
    fallback: Option<Address>,
    trouble: Option<String>,
    /// When it last said who they are.
    at: Option<Instant>,
    /// Answers that changed something, and failures.
    changes: u64,
    failures: u64,
}

impl Told {
    /// Before it was asked. Where name servers fail a name stands for itself: the system may know it
    /// otherwise.
    pub(crate) fn at_first(source: &Source) -> Self {
        let (found, fallback) = match source {
            Source::At(address) => match address.route() {
                Route::Name(_) => (None, Some(address.clone())),
                Route::Socket(_) | Route::Unix(_) => (Some(address.clone()), None),
            },
            Source::Srv(_)
            | Source::File(_)
            | Source::Consul(_)
            | Source::Eureka(_)
            | Source::Kubernetes(_) => (None, None),
        };
        Self {
            source: source.to_string(),
            fixed: found.is_some(),
            found: found.into_iter().collect(),
            fallback,
            trouble: None,
            at: None,
            changes: 0,
            failures: 0,
        }
    }

    /// Whether anything is known of it.
    pub(super) fn has_spoken(&self) -> bool {
        !self.found.is_empty()
    }

    pub(super) fn trouble(&self) -> Option<String> {
        let trouble = self.trouble.as_ref()?;
        Some(format!("{}: {trouble}", self.source))
    }

    pub(super) fn take(&mut self, service: &str, news: News) {
        let source = &self.source;
        let news = news.and_then(|(found, trouble)| match found.is_empty() {
            true => Err(trouble.unwrap_or_else(|| "it names nobody".to_owned())),
            false => Ok((found, trouble)),
        });
        let trouble = match news {
            Ok((found, trouble)) => {
                self.at = Some(Instant::now());
                self.changes += u64::from(self.found != found);
                self.found = found;
                trouble
            }
            Err(why) => {
                if self.found.is_empty() {
                    self.found.extend(self.fallback.clone());
                }
                Some(why)
            }
        };
        match (&self.trouble, &trouble) {
            (None, Some(why)) => {
                let upstreams = self.found.len();
                warn!(%service, %source, %why, upstreams, "what it said last holds");
            }
            (Some(_), None) => info!(%service, %source, "it says again who the upstreams are"),
            _ => {}
        }
        self.failures += u64::from(trouble.is_some());
        self.trouble = trouble;
    }

    /// For the metrics; nothing of what is fixed.
    pub(super) fn figures(&self) -> Option<SourceFigures> {
        (!self.fixed).then(|| SourceFigures {
            source: self.source.clone(),
            failing: self.trouble.is_some(),
            failures: self.failures,
            age_s: self.at.map(|at| at.elapsed().as_secs_f64()),
        })
    }

    /// For `status`; nothing of what is fixed.
    pub(super) fn describe(&self) -> Option<serde_json::Value> {
        (!self.fixed).then(|| {
            json!({
                "source": self.source,
                "upstreams": self.found.len(),
                "trouble": self.trouble,
                "answered_s_ago": self.at.map(|at| at.elapsed().as_secs()),
                "changes": self.changes,
                "failures": self.failures,
            })
        })
    }
}

/// All that are named, each once.
pub(super) fn union(told: &[Told]) -> Vec<Address> {
    let mut all: Vec<Address> = Vec::new();
    for address in told.iter().flat_map(|told| &told.found) {
        if !all.contains(address) {
            all.push(address.clone());
        }
    }
    all
}

/// Begins to ask. Ends with the runtime of this thread.
pub(super) fn begin(service: &Arc<Service>, resolver: &Resolver) {
    for (at, source) in service.settings.upstreams.iter().enumerate() {
        let teller = Teller {
            service: service.clone(),
            at,
        };
        if let Some(asked) = asked(source) {
            tokio::task::spawn_local(dns::watch(resolver.clone(), asked, teller));
            continue;
        }
        match source.clone() {
            Source::File(list) => tokio::task::spawn_local(file::watch(list, teller)),
            Source::Consul(consul) => tokio::task::spawn_local(consul::watch(consul, teller)),
            Source::Eureka(eureka) => tokio::task::spawn_local(eureka::watch(eureka, teller)),
            Source::Kubernetes(of) => tokio::task::spawn_local(kubernetes::watch(of, teller)),
            Source::At(_) | Source::Srv(_) => continue,
        };
    }
}

/// What a name server is asked for it.
fn asked(source: &Source) -> Option<dns::Asked> {
    match source {
        Source::At(address) => match address.route() {
            Route::Name(name) => dns::Asked::host(name),
            Route::Socket(_) | Route::Unix(_) => None,
        },
        Source::Srv(name) => Some(dns::Asked::Services(name.clone())),
        Source::File(_) | Source::Consul(_) | Source::Eureka(_) | Source::Kubernetes(_) => None,
    }
}

/// Asks a source once: what a proxy would begin with.
///
/// # Errors
/// Says why it names nobody.
pub async fn look_up(
    source: &Source,
    dns: &DnsSettings,
    transport: &Transport,
) -> Result<Vec<Address>, String> {
    let safe = transport.tls.is_some();
    let found = match source {
        Source::File(list) => file::ask(list, safe).await?,
        Source::Consul(consul) => {
            let dialer = rest::dialer(consul.tls.as_ref())?;
            consul::ask(&dialer, consul, None).await?.0
        }
        Source::Eureka(eureka) => {
            let dialer = rest::dialer(eureka.tls.as_ref())?;
            eureka::ask(&dialer, eureka, safe).await?
        }
        Source::Kubernetes(of) => {
            let dialer = rest::dialer(of.tls.as_ref())?;
            kubernetes::ask(&dialer, of).await?
        }
        Source::At(address) => match asked(source) {
            // What only the system knows (a name of its own) is left to it, as the proxy does.
            Some(asked) => {
                let resolver = Resolver::new(dns.clone());
                let found = resolver.once(&asked).await;
                found.unwrap_or_else(|_| vec![address.clone()])
            }
            None => vec![address.clone()],
        },
        Source::Srv(name) => {
            let asked = dns::Asked::Services(name.clone());
            let resolver = Resolver::new(dns.clone());
            resolver.once(&asked).await?
        }
    };
    match found.is_empty() {
        true => Err("it names nobody".to_owned()),
        false => Ok(found),
    }
}

/// The ear of a service for one of its sources.
#[derive(Debug)]
pub(super) struct Teller {
    service: Arc<Service>,
    at: usize,
}

impl Teller {
    /// Whether the service is asked over TLS.
    fn is_safe(&self) -> bool {
        self.service.dialer.is_safe()
    }

    fn tell(&self, found: Result<Vec<Address>, String>) {
        self.service.tell(self.at, found.map(|found| (found, None)));
    }

    /// Some of it is what was said before, and this is why.
    fn tell_in_part(&self, found: Vec<Address>, why: String) {
        self.service.tell(self.at, Ok((found, Some(why))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_last_holds() {
        let mut told = Told::at_first(&Source::Srv("_http._tcp.shop".to_owned()));
        assert!(!told.has_spoken());
        told.take("shop", Err("no answer".to_owned()));
        assert_eq!(
            told.trouble().as_deref(),
            Some("srv:_http._tcp.shop: no answer")
        );
        let one: Address = "10.0.0.1:80".parse().unwrap();
        told.take("shop", Ok((vec![one.clone()], None)));
        assert_eq!((told.has_spoken(), told.trouble()), (true, None));
        let part = Some("no answer".to_owned());
        told.take("shop", Ok((vec![one.clone()], part)));
        assert_eq!((told.failures, told.trouble().is_some()), (2, true));
        told.take("shop", Ok((Vec::new(), None)));
        assert_eq!(union(&[told]), [one]);
    }

    #[test]
    fn a_name_stands_for_itself_once_its_servers_fail() {
        let name: Address = "shop.internal:80".parse().unwrap();
        let mut told = Told::at_first(&Source::At(name.clone()));
        assert!(!told.has_spoken(), "they are asked first");
        told.take("shop", Err("no answer".to_owned()));
        assert_eq!(union(&[told]), [name]);
    }
}
