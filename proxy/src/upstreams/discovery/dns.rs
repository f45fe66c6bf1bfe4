//! Names: all their addresses, and the hosts and ports of services (SRV, RFC 2782), asked again when
//! their time to live is over.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::time::{sleep, timeout};

use super::Teller;
use crate::sources::{DnsSettings, Family};
use crate::upstreams::address::Address;

/// For the first answer.
const FIRST: Duration = Duration::from_secs(1);

/// Tries of one server, beside the first one.
const ATTEMPTS: usize = 2;

/// Asks name servers. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Resolver {
    settings: DnsSettings,
    /// Made anew after a failure, so that a change of the system's settings is seen.
    made: Arc<Mutex<Option<TokioResolver>>>,
}

/// What is asked.
#[derive(Debug)]
pub(super) enum Asked {
    /// Addresses of a host.
    Host { name: String, port: u16 },
    /// Services of a name.
    Services(String),
}

impl Asked {
    /// Of `HOST:PORT`.
    pub(super) fn host(text: &str) -> Option<Self> {
        let (name, port) = text.rsplit_once(':')?;
        Some(Self::Host {
            name: name.to_owned(),
            port: port.parse().ok()?,
        })
    }
}

/// Addresses, and until when they hold.
type Found = Result<(Vec<Address>, Instant), String>;

/// Asks for ever.
pub(super) async fn watch(resolver: Resolver, asked: Asked, teller: Teller) {
    let DnsSettings {
        ttl_min, ttl_max, ..
    } = resolver.settings;
    // Requests wait for the first answer: the bounds of its servers together are too long for it.
    let mut within = Some(FIRST);
    loop {
        let found = match within.take() {
            Some(within) => timeout(within, resolver.find(&asked))
                .await
                .unwrap_or_else(|_| Err(format!("no answer within {within:?}"))),
            None => resolver.find(&asked).await,
        };
        let rest = match &found {
            Ok((_, until)) => until.saturating_duration_since(Instant::now()),
            Err(_) => Duration::ZERO,
        };
        if found.is_err() {
            resolver.forget();
        }
        teller.tell(found.map(|(addresses, _)| addresses));
        sleep(rest.clamp(ttl_min, ttl_max.max(ttl_min))).await;
    }
}

/// Those of the best priority (RFC 2782, page 3); weights are not heeded, because the balance goes
/// by what it sees.
fn best(services: Vec<SRV>) -> Vec<SRV> {
    let least = services.iter().map(|srv| srv.priority).min();
    let mut services = services;
    services.retain(|srv| Some(srv.priority) == least && !srv.target.is_root());
    services
}

fn addresses(ips: BTreeSet<IpAddr>, port: u16, host: &str) -> impl Iterator<Item = Address> {
    let host = format!("{host}:{port}");
    let address = move |ip| Address::resolved(SocketAddr::new(ip, port), &host);
    ips.into_iter().map(address)
}

impl Resolver {
    pub(crate) fn new(settings: DnsSettings) -> Self {
        Self {
            settings,
            made: Arc::default(),
        }
    }

    fn options(&self, options: &mut ResolverOpts) {
        options.ip_strategy = match self.settings.family {
            Family::Auto => LookupIpStrategy::Ipv4thenIpv6,
            Family::Both => LookupIpStrategy::Ipv4AndIpv6,
            Family::Ipv4 => LookupIpStrategy::Ipv4Only,
            Family::Ipv6 => LookupIpStrategy::Ipv6Only,
        };
        options.timeout = self.settings.timeout;
        options.attempts = ATTEMPTS;
        // Whoever asks does so when an answer is over.
        options.cache_size = 0;
    }

    fn make(&self) -> Result<TokioResolver, String> {
        let mut builder = if self.settings.servers.is_empty() {
            TokioResolver::builder_tokio().map_err(|error| error.to_string())?
        } else {
            let server = |at: &SocketAddr| {
                let both = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
                let both = both.map(|mut connection| {
                    connection.port = at.port();
                    connection
                });
                NameServerConfig::new(at.ip(), true, both.into())
            };
            let servers = self.settings.servers.iter().map(server).collect();
            let config = ResolverConfig::from_parts(None, Vec::new(), servers);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        self.options(builder.options_mut());
        builder.build().map_err(|error| error.to_string())
    }

    fn get(&self) -> Result<TokioResolver, String> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.is_none() {
            *made = Some(self.make()?);
        }
        made.clone()
            .ok_or_else(|| "there is no resolver".to_owned())
    }

    fn forget(&self) {
        *self.made.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    async fn ips(&self, name: &str) -> Result<(BTreeSet<IpAddr>, Instant), String> {
        let found = self.get()?.lookup_ip(name).await;
        let found = found.map_err(|error| error.to_string())?;
        Ok((found.iter().collect(), found.valid_until()))
    }

    pub(super) async fn find(&self, asked: &Asked) -> Found {
        match asked {
            Asked::Host { name, port } => self.host(name, *port).await,
            Asked::Services(name) => self.services(name).await,
        }
    }

    async fn host(&self, name: &str, port: u16) -> Found {
        let (ips, until) = self.ips(name).await?;
        Ok((addresses(ips, port, name).collect(), until))
    }

    async fn services(&self, name: &str) -> Found {
        let found = self.get()?.lookup(name, RecordType::SRV).await;
        let found = found.map_err(|error| error.to_string())?;
        let records = found.answers().iter();
        let services = records.filter_map(|record| match &record.data {
            RData::SRV(srv) => Some(srv.clone()),
            _ => None,
        });
        let services = best(services.collect());
        let asked = services.iter().map(|srv| async move {
            let host = srv.target.to_utf8();
            let (ips, until) = self.ips(&host).await?;
            let host = host.trim_end_matches('.');
            Ok::<_, String>((addresses(ips, srv.port, host).collect::<Vec<_>>(), until))
        });
        let (mut all, mut until, mut trouble) = (Vec::new(), found.valid_until(), None);
        for found in join_all(asked).await {
            match found {
                Ok((addresses, over)) => {
                    all.extend(addresses);
                    until = until.min(over);
                }
                Err(why) => trouble = Some(why),
            }
        }
        match trouble {
            Some(why) if all.is_empty() => Err(why),
            _ => Ok((all, until)),
        }
    }
}
