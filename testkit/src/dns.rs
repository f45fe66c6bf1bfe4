//! A name server that answers as a test says, over UDP on a free loopback port.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::UdpSocket;
use tokio::task::AbortHandle;

const A: u16 = 1;
const AAAA: u16 = 28;
const SRV: u16 = 33;

const NO_ERROR: u8 = 0;
const SERVER_FAILURE: u8 = 2;
const NO_SUCH_NAME: u8 = 3;
const REFUSED: u8 = 5;

/// What goes wrong with answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    Fails,
    /// For addresses of version 4 alone.
    FailsFour,
    Refuses,
    Silent,
    /// Bytes that are no answer.
    Garbage,
    /// To a question that was not asked.
    Another,
    /// The rest is to be had over TCP, where nobody listens.
    Cut,
}

/// What one name has: type, time to live, data.
type Records = Vec<(u16, u32, Vec<u8>)>;

#[derive(Debug, Default)]
struct Zone {
    names: BTreeMap<String, Records>,
    trouble: Option<Trouble>,
    /// With some names alone.
    troubles: BTreeMap<String, Trouble>,
    asked: BTreeMap<String, usize>,
}

/// A name server. Dropping it ends it.
#[derive(Debug)]
pub struct DnsServer {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    task: AbortHandle,
}

/// `a.test` as it stands in messages (RFC 1035, 3.1).
fn labels(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).expect("a label is short"));
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

impl DnsServer {
    /// # Panics
    /// Panics when there is no free port.
    pub async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await;
        let socket = socket.expect("a free loopback port");
        let address = socket.local_addr().expect("it is bound");
        let zone = Arc::<Mutex<Zone>>::default();
        let answering = Arc::clone(&zone);
        let task = tokio::spawn(async move {
            let mut message = [0; 1_500];
            while let Ok((length, from)) = socket.recv_from(&mut message).await {
                let answer = message.get(..length).and_then(|asked| {
                    let mut zone = answering.lock().unwrap_or_else(PoisonError::into_inner);
                    zone.answer(asked)
                });
                if let Some(answer) = answer {
                    // Who asked may be gone.
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
        Self {
            address,
            zone,
            task: task.abort_handle(),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn zone(&self) -> MutexGuard<'_, Zone> {
        self.zone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the name has these addresses.
    pub fn host(&self, name: &str, ttl: u32, addresses: &[&str]) {
        let record = |text: &&str| match text.parse().expect("a test names addresses") {
            IpAddr::V4(four) => (A, ttl, four.octets().to_vec()),
            IpAddr::V6(six) => (AAAA, ttl, six.octets().to_vec()),
        };
        let records = addresses.iter().map(record).collect();
        self.zone().names.insert(name.to_owned(), records);
    }

    /// From now on the name has these services: priority, port and host.
    pub fn services(&self, name: &str, ttl: u32, services: &[(u16, u16, &str)]) {
        let record = |(priority, port, host): &(u16, u16, &str)| {
            let mut data = Vec::new();
            for number in [*priority, 0, *port] {
                data.extend_from_slice(&number.to_be_bytes());
            }
            data.extend(labels(host));
            (SRV, ttl, data)
        };
        let records = services.iter().map(record).collect();
        self.zone().names.insert(name.to_owned(), records);
    }

    /// There is no such name any more.
    pub fn forget(&self, name: &str) {
        self.zone().names.remove(name);
    }

    /// From now on this goes wrong with every answer.
    pub fn goes(&self, trouble: impl Into<Option<Trouble>>) {
        self.zone().trouble = trouble.into();
    }

    /// With those for one name.
    pub fn goes_for(&self, name: &str, trouble: impl Into<Option<Trouble>>) {
        let mut zone = self.zone();
        match trouble.into() {
            Some(trouble) => zone.troubles.insert(name.to_owned(), trouble),
            None => zone.troubles.remove(name),
        };
    }

    /// How often the name was asked for.
    pub fn asked(&self, name: &str) -> usize {
        self.zone().asked.get(name).copied().unwrap_or(0)
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Zone {
    /// `None`: no answer.
    fn answer(&mut self, asked: &[u8]) -> Option<Vec<u8>> {
        let mut at = 12;
        let mut name = Vec::new();
        loop {
            let length = usize::from(*asked.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            let label = asked.get(at..at + length)?;
            name.push(String::from_utf8_lossy(label).to_ascii_lowercase());
            at += length;
        }
        let name = name.join(".");
        let kind = u16::from_be_bytes(asked.get(at..at + 2)?.try_into().ok()?);
        let question = asked.get(12..at + 4)?;
        *self.asked.entry(name.clone()).or_default() += 1;
        let trouble = self.troubles.get(&name).copied().or(self.trouble);
        let records = self.names.get(&name);
        let of_kind = |records: &Records| {
            let found = records.iter().filter(|record| record.0 == kind);
            found.cloned().collect::<Records>()
        };
        let (code, found) = match (trouble, records) {
            (Some(Trouble::Silent), _) => return None,
            (Some(Trouble::Garbage), _) => return Some(asked.repeat(3)),
            (Some(Trouble::Fails), _) => (SERVER_FAILURE, Vec::new()),
            (Some(Trouble::FailsFour), _) if kind == A => (SERVER_FAILURE, Vec::new()),
            (Some(Trouble::Refuses), _) => (REFUSED, Vec::new()),
            (Some(Trouble::Cut), _) => (NO_ERROR, Vec::new()),
            (_, None) => (NO_SUCH_NAME, Vec::new()),
            (_, Some(records)) => (NO_ERROR, of_kind(records)),
        };
        let mut answer = asked.get(..2)?.to_vec();
        if trouble == Some(Trouble::Another) {
            answer.reverse();
            answer = answer.iter().map(|byte| !byte).collect();
        }
        let cut = if trouble == Some(Trouble::Cut) { 2 } else { 0 };
        // An answer of who knows, to a question that asked for recursion, which is there.
        answer.extend([0x85 | cut, 0x80 | code, 0, 1]);
        answer.extend(u16::try_from(found.len()).ok()?.to_be_bytes());
        answer.extend([0, 0, 0, 0]);
        answer.extend_from_slice(question);
        for (kind, ttl, data) in found {
            // The name of the question.
            answer.extend([0xC0, 12]);
            answer.extend(kind.to_be_bytes());
            answer.extend([0, 1]);
            answer.extend(ttl.to_be_bytes());
            answer.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
            answer.extend(data);
        }
        Some(answer)
    }
}
