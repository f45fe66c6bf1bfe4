//! The names that servers give to transactions, which mean the same on every server that has them.
//! Pure; never a panic, whatever the text or the bytes are.
//!
//! MariaDB counts in a *domain*, and names the server that wrote it: `0-7-100`. A position is the last
//! of each domain. MySQL counts per server: `UUID:100`. A position is the set of all.

use std::collections::BTreeMap;
use std::fmt;

use super::wire::Reader;

/// How this server names transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flavour {
    Maria,
    Mysql,
}

/// One transaction as the log names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    /// MariaDB's; its server is in the event's header.
    Counted {
        domain: u32,
        number: u64,
    },
    Unique {
        uuid: [u8; 16],
        number: u64,
    },
    /// MySQL's without a name, or with one that has a tag.
    Unknown,
}

/// First and last numbers of ranges, in order, with gaps between them.
type Ranges = Vec<(u64, u64)>;

/// A place in all logs that have these transactions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Gtids {
    /// The last of each domain: its server and its number.
    Maria(BTreeMap<u32, (u32, u64)>),
    /// By `uuid`, or `uuid:tag`.
    Mysql(BTreeMap<String, Ranges>),
}

/// What a server has.
#[derive(Debug)]
pub(super) enum Held {
    /// The last number of each domain and server.
    Maria(BTreeMap<(u32, u32), u64>),
    Mysql(BTreeMap<String, Ranges>),
}

impl Gtids {
    /// A position as its server writes it. `None` when it is none.
    pub(super) fn parse(flavour: Flavour, text: &str) -> Option<Self> {
        match flavour {
            Flavour::Maria => {
                let all = counted(text)?.into_iter();
                let last = all.map(|(domain, server, number)| (domain, (server, number)));
                Some(Self::Maria(last.collect()))
            }
            Flavour::Mysql => sets(text).map(Self::Mysql),
        }
    }

    /// Whether nothing was named yet.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Maria(last) => last.is_empty(),
            Self::Mysql(sets) => sets.is_empty(),
        }
    }

    /// Moves on behind one transaction, written by this server. `false` where it has no name.
    pub(super) fn take(&mut self, named: Named, server: u32) -> bool {
        match (self, named) {
            (Self::Maria(last), Named::Counted { domain, number }) => {
                last.insert(domain, (server, number));
                true
            }
            (Self::Mysql(sets), Named::Unique { uuid, number }) => {
                let name = plain(uuid);
                let name = std::str::from_utf8(&name).unwrap_or_default();
                match sets.get_mut(name) {
                    Some(ranges) => put(ranges, number, number),
                    None => _ = sets.insert(name.to_owned(), vec![(number, number)]),
                }
                true
            }
            _ => false,
        }
    }

    /// All that is in the other one, too.
    pub(super) fn join(&mut self, other: Self) {
        match (self, other) {
            (Self::Maria(mine), Self::Maria(other)) => mine.extend(other),
            (Self::Mysql(mine), Self::Mysql(other)) => {
                for (name, ranges) in other {
                    let mine = mine.entry(name).or_default();
                    for (first, last) in ranges {
                        put(mine, first, last);
                    }
                }
            }
            _ => {}
        }
    }

    /// What a server lacks of these, by their names; empty where it has all.
    pub(super) fn lacking(&self, held: &Held) -> Vec<String> {
        match (self, held) {
            (Self::Maria(last), Held::Maria(held)) => {
                let mut lacking = Vec::new();
                for (&domain, &(server, number)) in last {
                    let has = held.get(&(domain, server)).copied().unwrap_or(0);
                    if has < number {
                        let name = |number: u64| format!("{domain}-{server}-{number}");
                        lacking.push(span(&name(has + 1), &name(number)));
                    }
                }
                lacking
            }
            (Self::Mysql(sets), Held::Mysql(held)) => {
                let none = Ranges::new();
                let mut lacking = Vec::new();
                for (name, ranges) in sets {
                    let held = held.get(name).unwrap_or(&none);
                    for (first, last) in without(ranges, held) {
                        let one = |number: u64| format!("{name}:{number}");
                        lacking.push(span(&one(first), &one(last)));
                    }
                }
                lacking
            }
            _ => vec![self.to_string()],
        }
    }

    /// By server, as `COM_BINLOG_DUMP_GTID` has them; none of MariaDB's.
    pub(super) fn by_server(&self) -> Vec<String> {
        match self {
            Self::Maria(_) => Vec::new(),
            Self::Mysql(sets) => sets.iter().map(|set| one_set(set.0, set.1)).collect(),
        }
    }
}

impl fmt::Display for Gtids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = match self {
            Self::Maria(last) => last
                .iter()
                .map(|(domain, (server, number))| format!("{domain}-{server}-{number}"))
                .collect(),
            Self::Mysql(_) => self.by_server(),
        };
        f.write_str(&parts.join(","))
    }
}

impl Held {
    /// Of MariaDB: the state of its log, and what it has applied of others' logs.
    pub(super) fn maria(state: &str, applied: &str) -> Option<Self> {
        let mut held = BTreeMap::new();
        for (domain, server, number) in counted(state)?.into_iter().chain(counted(applied)?) {
            let last = held.entry((domain, server)).or_insert(0);
            *last = number.max(*last);
        }
        Some(Self::Maria(held))
    }

    /// Of MySQL: `gtid_executed`, or `gtid_purged`.
    pub(super) fn mysql(text: &str) -> Option<Self> {
        sets(text).map(Self::Mysql)
    }

    /// What of it is not in a position; of MySQL only, where a server says what it has removed.
    pub(super) fn beyond(&self, position: &Gtids) -> Vec<String> {
        match (self, position) {
            (Self::Mysql(held), Gtids::Mysql(sets)) => {
                Gtids::Mysql(held.clone()).lacking(&Self::Mysql(sets.clone()))
            }
            _ => Vec::new(),
        }
    }
}

/// `gtid_owned`: transactions that are being committed, each with the threads that do it.
pub(super) fn owned(text: &str) -> Option<Gtids> {
    let plain: Vec<String> = text
        .split(',')
        .map(|set| {
            let parts = set.trim().split(':');
            let parts = parts.map(|part| part.split('#').next().unwrap_or_default());
            parts.collect::<Vec<_>>().join(":")
        })
        .collect();
    Gtids::parse(Flavour::Mysql, &plain.join(","))
}

/// The body of MySQL's `PREVIOUS_GTIDS_LOG_EVENT`: all that is in the files before. `None` for one
/// with tags, too.
pub(super) fn previous(data: &[u8]) -> Option<Gtids> {
    let mut left = Reader(data);
    let mut sets: BTreeMap<String, Ranges> = BTreeMap::new();
    let count = left.low(8)?;
    // The upper byte is the format; tags have one of their own.
    if count >> 56 != 0 {
        return None;
    }
    for _ in 0..count {
        let uuid: [u8; 16] = left.take(16)?.try_into().ok()?;
        let name = String::from_utf8_lossy(&plain(uuid)).into_owned();
        for _ in 0..left.low(8)? {
            let (first, end) = (left.low(8)?, left.low(8)?);
            if first == 0 || end <= first {
                return None;
            }
            put(sets.entry(name.clone()).or_default(), first, end - 1);
        }
    }
    Some(Gtids::Mysql(sets))
}

/// `0-7-100,1-2-5`.
fn counted(text: &str) -> Option<Vec<(u32, u32, u64)>> {
    let parts = text.split(',').map(str::trim).filter(|one| !one.is_empty());
    let one = |part: &str| {
        let mut numbers = part.split('-');
        let (domain, server) = (numbers.next()?, numbers.next()?);
        let found = (
            domain.parse().ok()?,
            server.parse().ok()?,
            numbers.next()?.parse().ok()?,
        );
        numbers.next().is_none().then_some(found)
    };
    parts.map(one).collect()
}

/// `UUID:1-5:7,UUID:tag:1-3`, where a tag goes for what follows it.
fn sets(text: &str) -> Option<BTreeMap<String, Ranges>> {
    let mut found: BTreeMap<String, Ranges> = BTreeMap::new();
    for set in text.split(',').map(str::trim).filter(|set| !set.is_empty()) {
        let mut parts = set.split(':').map(str::trim);
        let uuid = parts.next()?.to_ascii_lowercase();
        if uuid.len() != 36 || !uuid.chars().all(|c| c.is_ascii_hexdigit() || c == '-') {
            return None;
        }
        let mut name = uuid.clone();
        for part in parts {
            if part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
                name = format!("{uuid}:{}", part.to_ascii_lowercase());
                continue;
            }
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            if first == 0 || last < first {
                return None;
            }
            put(found.entry(name.clone()).or_default(), first, last);
        }
    }
    Some(found)
}

/// Puts a range among others, and joins those that touch.
fn put(ranges: &mut Ranges, first: u64, last: u64) {
    // Most often it goes on where the last one ends.
    match ranges.last_mut() {
        None => return ranges.push((first, last)),
        Some(end) if end.1.checked_add(1) == Some(first) => {
            end.1 = last;
            return;
        }
        Some(end) if end.1 < first => return ranges.push((first, last)),
        Some(_) => {}
    }
    ranges.push((first, last));
    ranges.sort_unstable();
    let mut joined = Ranges::with_capacity(ranges.len());
    for &(first, last) in ranges.iter() {
        match joined.last_mut() {
            Some(end) if first <= end.1.saturating_add(1) => end.1 = end.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    *ranges = joined;
}

/// What of these is in none of those.
fn without(ranges: &Ranges, held: &Ranges) -> Ranges {
    let mut left = Ranges::new();
    for &(first, last) in ranges {
        let mut from = Some(first);
        for &(begin, end) in held.iter().filter(|(b, e)| *e >= first && *b <= last) {
            match from {
                Some(at) if begin > at => left.push((at, begin - 1)),
                _ => {}
            }
            from = from.and_then(|at| end.checked_add(1).map(|next| next.max(at)));
        }
        if let Some(at) = from.filter(|at| *at <= last) {
            left.push((at, last));
        }
    }
    left
}

fn span(first: &str, last: &str) -> String {
    if first == last {
        first.to_owned()
    } else {
        format!("{first} to {last}")
    }
}

fn one_set(name: &str, ranges: &Ranges) -> String {
    let mut text = name.to_owned();
    for &(first, last) in ranges {
        text.push(':');
        text.push_str(&first.to_string());
        if last > first {
            text.push('-');
            text.push_str(&last.to_string());
        }
    }
    text
}

/// As MySQL writes a server's name. Once a transaction, so not on the heap.
fn plain(uuid: [u8; 16]) -> [u8; 36] {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    let mut text = [b'-'; 36];
    let mut at = 0;
    for (number, byte) in uuid.into_iter().enumerate() {
        if [4, 6, 8, 10].contains(&number) {
            at += 1;
        }
        text[at] = DIGITS[usize::from(byte >> 4)];
        text[at + 1] = DIGITS[usize::from(byte & 15)];
        at += 2;
    }
    text
}

#[cfg(test)]
mod tests {
    use mysql_async::Sid;
    use proptest::prelude::*;

    use super::*;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const B: &str = "4350f323-7565-4e59-8763-4b1b83a0ce0e";

    fn mysql(text: &str) -> Gtids {
        Gtids::parse(Flavour::Mysql, text).unwrap()
    }

    fn maria(text: &str) -> Gtids {
        Gtids::parse(Flavour::Maria, text).unwrap()
    }

    #[test]
    fn a_position_of_mariadb_is_the_last_of_each_domain() {
        let mut at = maria("0-7-100, 1-2-5");
        assert_eq!(at.to_string(), "0-7-100,1-2-5");
        let next = Named::Counted {
            domain: 0,
            number: 101,
        };
        assert!(at.take(next, 8));
        assert_eq!(at.to_string(), "0-8-101,1-2-5");
        // The replica that took over has all up to 100 of the server before it.
        let held = Held::maria("0-7-100,0-8-140,1-2-4", "1-2-5").unwrap();
        assert!(at.lacking(&held).is_empty());
        assert_eq!(
            maria("0-7-103,1-2-5,9-9-1").lacking(&held),
            ["0-7-101 to 0-7-103", "9-9-1"]
        );
        assert!(maria("").is_empty());
        for bad in ["0-7", "0-7-1-2", "a-b-c", "0-7--1", "0-7-100;1-2-5"] {
            assert_eq!(Gtids::parse(Flavour::Maria, bad), None, "{bad}");
        }
    }

    #[test]
    fn a_position_of_mysql_is_a_set() {
        // As the manual writes them.
        let text = format!("{A}:1-3:11:47-49,\n{B}:1-19");
        let mut at = mysql(&text);
        assert_eq!(at.to_string(), text.replace('\n', ""));
        let uuid = uuid_of(A);
        assert!(at.take(Named::Unique { uuid, number: 50 }, 0));
        assert!(at.take(Named::Unique { uuid, number: 4 }, 0));
        assert_eq!(at.to_string(), format!("{A}:1-4:11:47-50,{B}:1-19"));
        assert!(!at.take(Named::Unknown, 0));
        let held = Held::mysql(&format!("{A}:1-48,{B}:1-20")).unwrap();
        assert_eq!(at.lacking(&held), [format!("{A}:49 to {A}:50")]);
        // Removed before it was read.
        assert_eq!(held.beyond(&at).len(), 3, "{:?}", held.beyond(&at));
        let removed = Held::mysql(&format!("{A}:1-3")).unwrap();
        assert!(removed.beyond(&at).is_empty());
        let tagged = mysql(&format!("{A}:1-3:nightly:1-9"));
        assert_eq!(tagged.to_string(), format!("{A}:1-3,{A}:nightly:1-9"));
        assert_eq!(
            tagged.lacking(&held),
            [format!("{A}:nightly:1 to {A}:nightly:9")]
        );
        for bad in [
            ":1",
            "x:1",
            &format!("{A}:0"),
            &format!("{A}:5-3"),
            &format!("{A}:1-b"),
        ] {
            assert_eq!(Gtids::parse(Flavour::Mysql, bad), None, "{bad}");
        }
    }

    #[test]
    fn commits_under_way_are_counted_in() {
        let mut at = mysql(&format!("{A}:1-9"));
        at.join(owned(&format!("{A}:10#13:12#14,\n{B}:3#15")).unwrap());
        assert_eq!(at.to_string(), format!("{A}:1-10:12,{B}:3"));
        assert!(owned("").unwrap().is_empty());
    }

    fn uuid_of(text: &str) -> [u8; 16] {
        format!("{text}:1").parse::<Sid<'_>>().unwrap().uuid()
    }

    /// As documented: so many servers, and of each its name and ranges that end before their second
    /// number.
    #[test]
    fn the_sets_before_a_file() {
        let mut bytes = 1_u64.to_le_bytes().to_vec();
        bytes.extend(uuid_of(A));
        for number in [2_u64, 1, 24, 30, 31] {
            bytes.extend(number.to_le_bytes());
        }
        let found = previous(&bytes).unwrap();
        assert_eq!(found.to_string(), format!("{A}:1-23:30"));
        for cut in 0..bytes.len() {
            assert_eq!(previous(&bytes[..cut]), None, "{cut}");
        }
        assert!(previous(&0_u64.to_le_bytes()).unwrap().is_empty());
        let tagged = (1_u64 << 56 | 1 << 8 | 1).to_le_bytes();
        assert_eq!(previous(&tagged), None);
    }

    /// What goes up with `COM_BINLOG_DUMP_GTID`: as many servers, and of each what the event above has.
    #[test]
    fn what_a_server_is_asked_with() {
        use mysql_async::GnoInterval;
        let sets = mysql(&format!("{A}:1-23:30,{B}:7")).by_server();
        let sids: Vec<Sid<'_>> = sets.iter().map(|set| set.parse().unwrap()).collect();
        assert_eq!(sids.len(), 2);
        assert_eq!(sids[0].uuid(), uuid_of(A));
        let ranges = [GnoInterval::new(1, 24), GnoInterval::new(30, 31)];
        assert_eq!(sids[0].intervals(), ranges);
        assert_eq!(sids[1].intervals(), [GnoInterval::new(7, 8)]);
    }

    proptest! {
        /// Whatever order they come in, a set is one set, and has what was put into it and no more.
        #[test]
        fn sets_are_sets(numbers in prop::collection::vec(1_u64..60, 1..50)) {
            let uuid = uuid_of(A);
            let mut at = mysql("");
            for &number in &numbers {
                at.take(Named::Unique { uuid, number }, 0);
            }
            let again = mysql(&at.to_string());
            prop_assert_eq!(&at, &again);
            for number in 1..60 {
                let one = mysql(&format!("{A}:{number}"));
                let held = Held::mysql(&at.to_string()).unwrap();
                prop_assert_eq!(one.lacking(&held).is_empty(), numbers.contains(&number));
            }
        }
    }
}
