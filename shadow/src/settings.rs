//! What the shadow is told at its start.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use http::HeaderName;
use outgrow_rollout::SliceId;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::asking::AskedIds;
use crate::error::Error;
use crate::places::Places;
use crate::rewrite::Rewrites;
use crate::rules::Accepted;

/// All slices.
#[derive(Debug, Clone)]
pub struct ShadowSettings {
    pub slices: Vec<SliceShadow>,
    /// The response header by which a side names its build.
    pub build_header: HeaderName,
    pub limits: Limits,
}

/// One slice.
#[derive(Debug, Clone)]
pub struct SliceShadow {
    pub id: SliceId,
    pub legacy: Places,
    pub extracted: Places,
    /// Whom copies of writes go to, of routes with [`Writes::Sandbox`].
    pub sandbox: Places,
    /// What the copies for each side have of their own.
    pub rewrites: Rewrites,
    /// Share of the requests that is mirrored, 0.0 to 1.0.
    pub sample: f64,
    pub flow: Flow,
    /// Share of the mirrored reads that is asked twice of the legacy side, 0.0 to 1.0.
    pub noise_sample: f64,
    pub rules: Vec<Rule>,
    pub arrays: Vec<ArrayRule>,
    /// Headers that are compared; `None` for the usual ones.
    pub headers: Option<Vec<String>>,
    /// Further names whose values are not kept.
    pub redact: Vec<String>,
    /// How long pairs, and differences that come no more, are kept.
    pub keep: Duration,
    /// The mismatch rate that the plan allows, for what a report says is missing.
    pub mismatch_max: f64,
}

impl SliceShadow {
    /// Of everything that decides whether two answers differ. Evidence of one fingerprint says
    /// nothing under another.
    pub(crate) fn fingerprint(&self) -> u64 {
        let rules = (&self.rules, &self.arrays, &self.headers);
        let mut all = serde_json::to_vec(&rules).unwrap_or_default();
        if self.rewrites != Rewrites::default() {
            // Values do not print; a token may change, and its side is asked the same.
            all.extend(format!("{:?}", self.rewrites).bytes());
        }
        if !self.flow.ids.is_empty() {
            all.extend(format!("{:?}", self.flow.ids).bytes());
        }
        xxh3_64(&all)
    }
}

/// How much of a slice is mirrored at the most.
#[derive(Debug, Clone)]
pub struct Flow {
    /// Whether a client is mirrored always or never, and not each read by chance.
    pub by_client: bool,
    /// Mirrored reads a second.
    pub rate: Option<f64>,
    /// Exchanges that are copied, wait, or are being compared.
    pub waiting: usize,
    /// Bytes of their requests and answers.
    pub memory: usize,
    /// Requests to the sides at the same time; the candidate also has clients to serve.
    pub in_flight: usize,
    /// By the route's label, what is said apart for it.
    pub routes: BTreeMap<String, RouteShadow>,
    /// By the route's label, which parts of its requests are ids that each side gives by itself.
    pub ids: BTreeMap<String, AskedIds>,
}

/// What is said apart for one route.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RouteShadow {
    /// In place of the slice's.
    pub sample: Option<f64>,
    /// Besides the slice's.
    pub rate: Option<f64>,
    /// Besides the slice's.
    pub waiting: Option<usize>,
    /// Bytes of copies in memory, besides the slice's.
    pub memory: Option<usize>,
    /// Which of its POSTs only read.
    pub posts: Option<Posts>,
    /// What becomes of copies of its writes; `None`: there are none.
    pub writes: Option<Writes>,
    /// Whether the legacy side gets dry runs, too, while it is the candidate.
    pub writes_reverse: bool,
}

/// What becomes of the copy of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// The candidate does it, takes it back, and says so.
    DryRun,
    /// An upstream with a store of its own does it.
    Sandbox,
    /// It is recorded, and sent to nobody.
    Record,
}

/// POSTs that change nothing, and may be asked twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Posts {
    /// All of the route: a search, a call of gRPC.
    Reads,
    /// Operations of GraphQL that are queries.
    Graphql,
}

impl Default for Flow {
    fn default() -> Self {
        Self {
            by_client: false,
            rate: None,
            // Some seconds of what `in_flight` requests to a slow candidate can take away.
            waiting: 512,
            // A full queue of answers of usual size; a slice of large answers is shed by this.
            memory: 64 << 20,
            in_flight: 16,
            routes: BTreeMap::new(),
            ids: BTreeMap::new(),
        }
    }
}

/// A difference that is accepted for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    pub path: String,
    pub reason: String,
    /// `YYYY-MM-DD`, the first day on which the rule no longer holds.
    #[serde(default)]
    pub until: Option<String>,
    /// Whom to ask about it.
    #[serde(default)]
    pub owner: Option<String>,
    #[serde(default)]
    pub accept: Accept,
}

impl Rule {
    /// Whether it could be used.
    ///
    /// # Errors
    /// [`Error`] for a bad path, reason, date or matcher.
    pub fn check(&self) -> Result<(), Error> {
        Accepted::new(self).map(|_| ())
    }
}

/// Which differences at or below the path are accepted. Each compares the two differing values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accept {
    #[default]
    Any,
    /// Other values of the same type.
    Type,
    /// Other values, but not a missing or an extra one.
    Presence,
    /// A null on one side that the other side leaves out.
    Null,
    /// The same moment in another time zone or precision (RFC 3339).
    Instant,
    /// Ids that are given anew, each for one old one, in all answers of the slice.
    Renamed,
    /// The same for all rules of this name together, also within URLs: an id in a body, in a link
    /// and in `Location` is one id.
    RenamedAs(String),
    /// Numbers at most `0.01` or `1%` apart, moments at most `2s`.
    Tolerance(String),
    /// Numbers that are equal when rounded to this many places.
    Round(u32),
    /// Both are whole matches.
    Regex(String),
    /// Both are among these.
    OneOf(Vec<serde_json::Value>),
    /// Both begin so.
    Prefix(String),
    /// Both are written so.
    Format(Known),
    /// The legacy value is a key, the extracted one its value.
    Map(BTreeMap<String, String>),
}

/// Ways to write a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Known {
    Uuid,
    Rfc3339,
    Date,
    Email,
    Url,
    Ip,
    Integer,
    Hex,
}

/// How the elements of an array are paired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArrayRule {
    pub path: String,
    pub by: ArrayBy,
}

/// Without a rule, elements are paired by a field that names them, where there is one; else in
/// their order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ArrayBy {
    /// Order means nothing.
    Set,
    /// Equal values of this field make a pair.
    Key(String),
    /// In their order, whatever fields they have.
    Order,
}

/// Bounds of the shadow's work.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a body that are kept; a longer one is not compared.
    pub body: usize,
    /// For a whole answer of a candidate.
    pub timeout: Duration,
    /// How long a differing pair waits for the bridge, each time: three times the lag of a bad
    /// minute, for what is not compared proves nothing.
    pub lag: Duration,
    /// Example pairs kept of one difference.
    pub examples: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 256 * 1024,
            timeout: Duration::from_secs(5),
            lag: Duration::from_secs(15),
            examples: 3,
        }
    }
}

/// How far the bridge has come.
pub trait Freshness: Send + Sync + 'static {
    /// Everything that the writer committed before this is on the other side.
    fn applied_through(&self, slice: &SliceId) -> Option<SystemTime>;
    /// False for a slice without tables, whose answers depend on no bridge.
    fn has_link(&self, slice: &SliceId) -> bool;
}
