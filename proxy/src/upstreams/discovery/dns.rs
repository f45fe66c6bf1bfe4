//! Names: all their addresses, and the hosts and ports of services (SRV, RFC 2782), asked again when
//! their time to live is over.
//!
//! What was said last holds for each question, not only for all together: a server that knows the
//! addresses of version 6 alone, or one host of several, takes nobody else away.

mod held;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::time::{sleep, timeout};

use self::held::{Held, Host, Said, of_both, of_first};
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
    made: Arc<Mutex<Option<[TokioResolver; 2]>>>,
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

/// What was found.
#[derive(Debug)]
struct Found {
    addresses: Vec<Address>,
    until: Instant,
    /// Why some of it is what was said before.
    trouble: Option<String>,
}

/// Asks for ever.
pub(super) async fn watch(resolver: Resolver, asked: Asked, teller: Teller) {
    let DnsSettings {
        ttl_min, ttl_max, ..
    } = resolver.settings;
    // Requests wait for the first answer: the bounds of its servers together are too long for it.
    let mut within = Some(FIRST);
    let held = Mutex::default();
    loop {
        let found = match within.take() {
            Some(within) => timeout(within, resolver.find(&asked, &held))
                .await
                .unwrap_or_else(|_| Err(format!("no answer within {within:?}"))),
            None => resolver.find(&asked, &held).await,
        };
        let rest = match &found {
            Ok(found) if found.trouble.is_none() => {
                found.until.saturating_duration_since(Instant::now())
            }
            // Some of it failed, or all.
            _ => {
                resolver.forget();
                Duration::ZERO
            }
        };
        match found {
            Ok(Found {
                addresses,
                trouble: Some(why),
                ..
            }) => teller.tell_in_part(addresses, why),
            found => teller.tell(found.map(|found| found.addresses)),
        }
        sleep(rest.clamp(ttl_min, ttl_max.max(ttl_min))).await;
    }
}

/// By priority, the best ones first (RFC 2782, page 3); weights are not heeded, because the balance goes
/// by what it sees.
fn by_priority(services: impl Iterator<Item = SRV>) -> BTreeMap<u16, Vec<SRV>> {
    let mut all = BTreeMap::<u16, Vec<SRV>>::new();
    for srv in services.filter(|srv| !srv.target.is_root()) {
        all.entry(srv.priority).or_default().push(srv);
    }
    all
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

    fn options(&self, family: Family, options: &mut ResolverOpts) {
        options.ip_strategy = match family {
            Family::Ipv6 => LookupIpStrategy::Ipv6Only,
            _ => LookupIpStrategy::Ipv4Only,
        };
        options.timeout = self.settings.timeout;
        options.attempts = ATTEMPTS;
        // Whoever asks does so when an answer is over.
        options.cache_size = 0;
    }

    fn make(&self, family: Family) -> Result<TokioResolver, String> {
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
        self.options(family, builder.options_mut());
        builder.build().map_err(|error| error.to_string())
    }

    /// One for each family: which of them failed is to be known.
    fn get(&self) -> Result<[TokioResolver; 2], String> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.is_none() {
            *made = Some([self.make(Family::Ipv4)?, self.make(Family::Ipv6)?]);
        }
        made.clone()
            .ok_or_else(|| "there is no resolver".to_owned())
    }

    fn forget(&self) {
        *self.made.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    async fn host_of(&self, name: &str, held: &Mutex<Held>) -> Host {
        let [four, six] = match self.get() {
            Ok(both) => both,
            Err(why) => return Host::from(Said::Failed(why)),
        };
        let ask = async |resolver: &TokioResolver, family| {
            let said = match resolver.lookup_ip(name).await {
                Ok(found) => Said::These(found.iter().collect(), found.valid_until()),
                Err(error) if error.is_no_records_found() => Said::Nobody(error.to_string()),
                Err(error) => Said::Failed(error.to_string()),
            };
            let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
            held.take(name, family, said)
        };
        match self.settings.family {
            Family::Ipv4 => ask(&four, Family::Ipv4).await,
            Family::Ipv6 => ask(&six, Family::Ipv6).await,
            Family::Auto => {
                let first = ask(&four, Family::Ipv4).await;
                match first.is_nobody() {
                    true => of_first(first, ask(&six, Family::Ipv6).await),
                    false => first,
                }
            }
            Family::Both => {
                let (four, six) = join(ask(&four, Family::Ipv4), ask(&six, Family::Ipv6)).await;
                of_both(four, six)
            }
        }
    }

    /// Asks once.
    ///
    /// # Errors
    /// Says why nobody is known.
    pub(super) async fn once(&self, asked: &Asked) -> Result<Vec<Address>, String> {
        let found = self.find(asked, &Mutex::default()).await?;
        Ok(found.addresses)
    }

    /// What is held of it is brought up to date. The error says why nothing was found out.
    async fn find(&self, asked: &Asked, held: &Mutex<Held>) -> Result<Found, String> {
        match asked {
            Asked::Host { name, port } => {
                let host = self.host_of(name, held).await.told()?;
                Ok(Found {
                    until: host.until().unwrap_or_else(Instant::now),
                    trouble: host.trouble().map(ToOwned::to_owned),
                    addresses: addresses(host.ips(), *port, name).collect(),
                })
            }
            Asked::Services(name) => self.services(name, held).await,
        }
    }

    async fn services(&self, name: &str, held: &Mutex<Held>) -> Result<Found, String> {
        let [any, _] = self.get()?;
        let found = any.lookup(name, RecordType::SRV).await;
        let found = found.map_err(|error| error.to_string())?;
        let records = found.answers().iter();
        let services = records.filter_map(|record| match &record.data {
            RData::SRV(srv) => Some(srv.clone()),
            _ => None,
        });
        let services = by_priority(services);
        let names = services.values().flatten().map(|srv| srv.target.to_utf8());
        held.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .keep(&names.collect::<Vec<_>>());
        let mut trouble = None;
        for alike in services.into_values() {
            let mut all = self.alike(&alike, held, found.valid_until()).await;
            trouble = all.trouble.take().or(trouble);
            if !all.addresses.is_empty() {
                return Ok(Found { trouble, ..all });
            }
        }
        Err(trouble.unwrap_or_else(|| "it names nobody".to_owned()))
    }

    /// Services of one priority.
    async fn alike(&self, services: &[SRV], held: &Mutex<Held>, until: Instant) -> Found {
        let asked = services.iter().map(async |srv| {
            let host = srv.target.to_utf8();
            let found = self.host_of(&host, held).await;
            (srv.port, host, found)
        });
        let mut all = Found {
            addresses: Vec::new(),
            until,
            trouble: None,
        };
        for (port, host, found) in join_all(asked).await {
            let host = host.trim_end_matches('.');
            all.trouble = found.trouble().map(ToOwned::to_owned).or(all.trouble);
            all.until = all.until.min(found.until().unwrap_or(all.until));
            all.addresses.extend(addresses(found.ips(), port, host));
        }
        all
    }
}
