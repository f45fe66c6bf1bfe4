//! Request ids, and where a request stands in a distributed trace: W3C Trace Context and B3, in
//! and out. Reading is pure; what is malformed counts as absent.

use std::cell::Cell;
use std::fmt::Write as _;
use std::hash::{BuildHasher, Hasher, RandomState};

use http::{HeaderMap, HeaderName, HeaderValue};

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const PARENT: HeaderName = HeaderName::from_static("traceparent");
const STATE: HeaderName = HeaderName::from_static("tracestate");
const B3: HeaderName = HeaderName::from_static("b3");
const B3_TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
const B3_SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
const B3_PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// A longer id is somebody's mistake, or worse.
const ID_MAX: usize = 128;

/// What the proxy adds to requests so that they can be found again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TraceSettings {
    /// Every request and answer has an `x-request-id`.
    pub request_id: bool,
    /// The proxy is a span of its own in the traces that pass through it.
    pub span: bool,
    /// A request without a trace begins one; only with `span`.
    pub start: bool,
    /// Who is told in `Server-Timing` where the time of a request went.
    pub server_timing: Option<Timing>,
}

impl TraceSettings {
    /// Whether the proxy says this field of a request.
    pub(crate) fn says(self, name: &HeaderName) -> bool {
        const SPAN: [HeaderName; 8] = [
            PARENT, STATE, B3, B3_TRACE, B3_SPAN, B3_PARENT, B3_SAMPLED, B3_FLAGS,
        ];
        self.request_id && *name == REQUEST_ID || self.span && SPAN.contains(name)
    }
}

/// Who is told of times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timing {
    /// Who sends the override secret.
    Testers,
    Everybody,
}

/// Ids that differ; not to be guessed at is not asked of them.
#[derive(Debug)]
pub(crate) struct Dice(Cell<u64>);

impl Default for Dice {
    fn default() -> Self {
        Self(Cell::new(RandomState::new().build_hasher().finish()))
    }
}

impl Dice {
    /// SplitMix64: every 64-bit number once in its period. Zero is no id in a trace.
    pub(crate) fn next(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).max(1)
    }
}

/// Whether a client's id is taken over: what is printed in logs without harm.
fn is_id(value: &[u8]) -> bool {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_.:=+/@".contains(b);
    (1..=ID_MAX).contains(&value.len()) && value.iter().all(plain)
}

fn value(text: &str) -> HeaderValue {
    // Hexadecimal digits and dashes.
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("0"))
}

/// The request's id: the client's where it has a good one, else a new one. It stands in the
/// fields afterwards, once.
pub(crate) fn identify(fields: &mut HeaderMap, dice: &Dice) -> HeaderValue {
    let mut given = fields.get_all(&REQUEST_ID).iter();
    let id = match (given.next(), given.next()) {
        (Some(id), None) if is_id(id.as_bytes()) => return id.clone(),
        _ => value(&format!("{:016x}{:016x}", dice.next(), dice.next())),
    };
    fields.insert(REQUEST_ID, id.clone());
    id
}

/// The proxy's own span of a trace that is told of.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    pub(crate) trace: u128,
    pub(crate) id: u64,
    /// `None` where the trace begins here.
    pub(crate) parent: Option<u64>,
    pub(crate) state: Option<HeaderValue>,
}

/// Of the traces for which nobody has decided it before, how many are told of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share(u64);

impl Share {
    /// Of all, 0.0 to 1.0.
    // A cast to a whole number keeps within its bounds.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )]
    pub(crate) fn new(share: f64) -> Self {
        Self((share.clamp(0.0, 1.0) * u64::MAX as f64) as u64)
    }

    /// By the trace's id, so that whoever else decides so takes the same ones.
    fn takes(self, trace: u128) -> bool {
        // The lower half is the one that is random wherever ids come from.
        #[allow(clippy::cast_possible_truncation)]
        let dice = trace as u64;
        dice < self.0 || self.0 == u64::MAX
    }
}

/// Makes the proxy the parent of what follows, in each form that the request came with. Where spans
/// are told of (`share`): the proxy's own, if this trace is one of those.
pub(crate) fn continue_trace(
    fields: &mut HeaderMap,
    start: bool,
    dice: &Dice,
    share: Option<Share>,
) -> Option<Span> {
    let came = share.and_then(|share| Some((share, came(fields)?)));
    let span = dice.next();
    let known = w3c(fields, span) | b3_single(fields, span, None) | b3_multi(fields, span, None);
    if let Some((share, came)) = came {
        let taken = came.sampled.unwrap_or_else(|| share.takes(came.trace));
        return taken.then(|| Span {
            trace: came.trace,
            id: span,
            parent: Some(came.span),
            state: fields.get(&STATE).cloned(),
        });
    }
    if known || !start {
        return None;
    }
    // A state without its parent belongs to nothing (Trace Context, section 3.3).
    fields.remove(STATE);
    let (high, low) = (dice.next(), dice.next());
    let trace = u128::from(high) << 64 | u128::from(low);
    let taken = share.is_none_or(|share| share.takes(trace));
    let flags = u8::from(taken);
    let text = format!("00-{trace:032x}-{span:016x}-{flags:02x}");
    fields.insert(PARENT, value(&text));
    (taken && share.is_some()).then_some(Span {
        trace,
        id: span,
        parent: None,
        state: None,
    })
}

/// Makes a span below the proxy's own the parent of what follows.
pub(crate) fn hand_on(fields: &mut HeaderMap, own: u64, below: u64) {
    w3c(fields, below);
    b3_single(fields, below, Some(own));
    b3_multi(fields, below, Some(own));
}

/// Where a request comes from.
struct Came {
    trace: u128,
    span: u64,
    /// `None`: that is left to whoever comes next (B3).
    sampled: Option<bool>,
}

/// W3C's form first, where there are several.
fn came(fields: &HeaderMap) -> Option<Came> {
    let of = |trace, span, sampled| {
        Some(Came {
            trace: u128::from_str_radix(trace, 16).ok()?,
            span: u64::from_str_radix(span, 16).ok()?,
            sampled,
        })
    };
    if let Some(parent) = only(fields, &PARENT).and_then(parent) {
        let sampled = flags_of(parent.flags) & 1 == 1;
        return of(parent.trace, parent.span, Some(sampled));
    }
    if let Some(single) = only(fields, &B3).and_then(single) {
        return of(
            single.trace,
            single.span,
            single.sampled.map(|word| word != "0"),
        );
    }
    let (trace, span) = multi(fields)?;
    let sampled = match (only(fields, &B3_FLAGS), only(fields, &B3_SAMPLED)) {
        (Some("1"), _) => Some(true),
        // Some write the words that others once did.
        (_, Some(word)) => Some(matches!(word, "1" | "true")),
        _ => None,
    };
    of(trace, span, sampled)
}

fn only<'a>(fields: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut all = fields.get_all(name).iter();
    match (all.next(), all.next()) {
        (Some(one), None) => one.to_str().ok(),
        _ => None,
    }
}

/// Hexadecimal digits, not all of them zero.
fn is_number(text: &str, lengths: &[usize]) -> bool {
    let digits = text.bytes().all(|b| b.is_ascii_hexdigit());
    lengths.contains(&text.len()) && digits && text.bytes().any(|b| b != b'0')
}

fn is_low(text: &str) -> bool {
    !text.bytes().any(|b| b.is_ascii_uppercase())
}

/// A `traceparent`, as far as version 00 has it.
struct Parent<'a> {
    trace: &'a str,
    span: &'a str,
    flags: &'a str,
}

fn parent(text: &str) -> Option<Parent<'_>> {
    let mut parts = text.split('-');
    let (version, trace) = (parts.next()?, parts.next()?);
    let (span, flags) = (parts.next()?, parts.next()?);
    let hex = |text: &str| text.len() == 2 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let future = version != "00";
    let good = hex(version)
        && version != "ff"
        && is_number(trace, &[32])
        && is_number(span, &[16])
        && hex(flags)
        && is_low(text)
        && (future || parts.next().is_none());
    good.then_some(Parent { trace, span, flags })
}

fn flags_of(text: &str) -> u8 {
    // Of a later version no more than this one knows is passed on: sampled, and random.
    u8::from_str_radix(text, 16).unwrap_or(0) & 3
}

fn w3c(fields: &mut HeaderMap, span: u64) -> bool {
    let Some(Parent { trace, flags, .. }) = only(fields, &PARENT).and_then(parent) else {
        return false;
    };
    let text = format!("00-{trace}-{span:016x}-{:02x}", flags_of(flags));
    fields.insert(PARENT, value(&text));
    true
}

/// `TRACE-SPAN[-SAMPLED[-PARENT]]`.
struct Single<'a> {
    trace: &'a str,
    span: &'a str,
    sampled: Option<&'a str>,
}

fn single(text: &str) -> Option<Single<'_>> {
    let mut parts = text.split('-');
    let (trace, span) = (parts.next()?, parts.next()?);
    let (sampled, old) = (parts.next(), parts.next());
    let good = is_number(trace, &[16, 32])
        && is_number(span, &[16])
        && sampled.is_none_or(|word| matches!(word, "0" | "1" | "d"))
        && old.is_none_or(|old| is_number(old, &[16]))
        && parts.next().is_none();
    good.then_some(Single {
        trace,
        span,
        sampled,
    })
}

/// `own`: the parent, where it is not the span that the field names.
fn b3_single(fields: &mut HeaderMap, span: u64, own: Option<u64>) -> bool {
    let Some(text) = only(fields, &B3) else {
        return false;
    };
    // A decision not to trace is one: nobody starts a trace against it. It passes as it is.
    if matches!(text, "0" | "1" | "d") {
        return true;
    }
    let Some(found) = single(text) else {
        return false;
    };
    let mut next = format!("{}-{span:016x}", found.trace);
    if let Some(sampled) = found.sampled {
        // A string takes whatever is written.
        let _ = match own {
            None => write!(next, "-{sampled}-{}", found.span),
            Some(own) => write!(next, "-{sampled}-{own:016x}"),
        };
    }
    fields.insert(B3, value(&next));
    true
}

/// The trace and the span of the fields of their own.
fn multi(fields: &HeaderMap) -> Option<(&str, &str)> {
    let trace = only(fields, &B3_TRACE)?;
    let span = only(fields, &B3_SPAN).filter(|text| is_number(text, &[16]))?;
    is_number(trace, &[16, 32]).then_some((trace, span))
}

fn b3_multi(fields: &mut HeaderMap, span: u64, own: Option<u64>) -> bool {
    if only(fields, &B3_TRACE).is_none() {
        return fields.get(&B3_SAMPLED).is_some_and(|word| word == "0");
    }
    let Some((_, before)) = multi(fields) else {
        return false;
    };
    let before = match own {
        None => value(before),
        Some(own) => value(&format!("{own:016x}")),
    };
    fields.insert(B3_PARENT, before);
    fields.insert(B3_SPAN, value(&format!("{span:016x}")));
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn fields(all: &[(&str, &str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in all {
            let name: HeaderName = name.parse().unwrap();
            fields.append(name, value.parse().unwrap());
        }
        fields
    }

    #[test]
    fn a_good_id_is_kept_and_every_other_one_replaced() {
        let dice = Dice::default();
        let mut good = fields(&[("x-request-id", "a1-B2_c.3")]);
        assert_eq!(identify(&mut good, &dice), "a1-B2_c.3");
        let long = "a".repeat(129);
        for bad in ["", "a b", "a\"b", "a\\n", &long] {
            let mut fields = fields(&[("x-request-id", bad)]);
            let id = identify(&mut fields, &dice);
            assert_eq!(id.len(), 32, "{bad}");
            assert_eq!(fields.get(REQUEST_ID), Some(&id));
        }
        let mut two = fields(&[("x-request-id", "a"), ("x-request-id", "b")]);
        let id = identify(&mut two, &dice);
        assert_eq!(two.get_all(REQUEST_ID).iter().collect::<Vec<_>>(), [id]);
        let mut none = HeaderMap::new();
        assert_ne!(
            identify(&mut none, &dice),
            identify(&mut HeaderMap::new(), &dice)
        );
    }

    #[test]
    fn only_what_the_standard_allows_is_a_parent() {
        for (text, good) in [
            (format!("00-{TRACE}-{SPAN}-01"), true),
            (format!("cc-{TRACE}-{SPAN}-01-later"), true),
            (format!("00-{TRACE}-{SPAN}-01-later"), false),
            (format!("ff-{TRACE}-{SPAN}-01"), false),
            (format!("00-{}-{SPAN}-01", TRACE.to_uppercase()), false),
            (format!("00-{}-{SPAN}-01", "0".repeat(32)), false),
            (format!("00-{TRACE}-{}-01", "0".repeat(16)), false),
            (format!("00-{TRACE}-{SPAN}"), false),
            (format!("00-{TRACE}-{SPAN}-1"), false),
        ] {
            assert_eq!(parent(&text).is_some(), good, "{text}");
        }
    }

    #[test]
    fn each_form_gets_the_same_new_parent() {
        let single = format!("{TRACE}-{SPAN}-1");
        let mut fields = fields(&[
            ("traceparent", &format!("00-{TRACE}-{SPAN}-01")),
            ("tracestate", "a=1"),
            ("b3", &single),
            ("x-b3-traceid", TRACE),
            ("x-b3-spanid", SPAN),
        ]);
        continue_trace(&mut fields, false, &Dice::default(), None);
        let span = fields["x-b3-spanid"].to_str().unwrap().to_owned();
        assert!(is_number(&span, &[16]) && span != SPAN);
        assert_eq!(fields[PARENT], format!("00-{TRACE}-{span}-01"));
        assert_eq!(fields[B3], format!("{TRACE}-{span}-1-{SPAN}"));
        assert_eq!(
            (&fields[B3_PARENT], &fields[STATE]),
            (&value(SPAN), &value("a=1"))
        );
    }

    #[test]
    fn a_trace_is_begun_where_there_is_none() {
        let dice = Dice::default();
        let begun = |all: &[(&str, &str)], start| {
            let mut fields = fields(all);
            continue_trace(&mut fields, start, &dice, None);
            fields
        };
        assert!(begun(&[], false).is_empty());
        let fresh = begun(&[("traceparent", "00-1-2-3"), ("tracestate", "a=1")], true);
        assert!(parent(fresh[PARENT].to_str().unwrap()).is_some());
        assert!(!fresh.contains_key(STATE));
        for told in [[("b3", "0")], [("x-b3-sampled", "0")]] {
            assert!(!begun(&told, true).contains_key(PARENT), "{told:?}");
        }
    }

    #[test]
    fn who_was_asked_before_decides_what_is_told_of() {
        let w3c = |flags: &str| format!("00-{TRACE}-{SPAN}-{flags}");
        let b3 = |more: &str| format!("{TRACE}-{SPAN}{more}");
        let ids = |more: &[(&str, &str)]| {
            let ids = [("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN)];
            fields(&[&ids, more].concat())
        };
        let told = |mut fields: HeaderMap, share| {
            let share = Some(Share::new(share));
            let span = continue_trace(&mut fields, false, &Dice::default(), share)?;
            let expected = u128::from_str_radix(TRACE, 16).unwrap();
            let parent = u64::from_str_radix(SPAN, 16).unwrap();
            assert_eq!((span.trace, span.parent), (expected, Some(parent)));
            Some(span)
        };
        let told = |fields, share| told(fields, share).is_some();
        for share in [0.0, 1.0] {
            // W3C's word counts before that of B3.
            let both = |flags, word| fields(&[("traceparent", &*w3c(flags)), ("b3", &*b3(word))]);
            assert!(told(both("01", "-0"), share) && !told(both("00", "-1"), share));
            assert!(told(fields(&[("b3", &b3("-1"))]), share));
            assert!(told(fields(&[("b3", &b3("-d"))]), share));
            assert!(!told(fields(&[("b3", &b3("-0"))]), share));
            assert!(told(ids(&[("x-b3-sampled", "1")]), share));
            assert!(told(ids(&[("x-b3-flags", "1")]), share));
            assert!(!told(ids(&[("x-b3-sampled", "0")]), share));
            // Left to us.
            let ours = share > 0.5;
            assert_eq!(told(fields(&[("b3", &b3(""))]), share), ours);
            assert_eq!(told(ids(&[]), share), ours);
            assert!(!told(fields(&[("b3", "1")]), share), "it names no trace");
        }
    }

    #[test]
    fn a_share_of_the_traces_that_begin_here_is_told_of() {
        let dice = Dice::default();
        for (share, within) in [(0.0, 0..=0), (0.1, 800..=1_200), (1.0, 10_000..=10_000)] {
            let share = Some(Share::new(share));
            let told = (0..10_000).filter(|_| {
                let mut fields = HeaderMap::new();
                let span = continue_trace(&mut fields, true, &dice, share);
                let flag = if span.is_some() { "-01" } else { "-00" };
                assert!(fields[PARENT].to_str().unwrap().ends_with(flag));
                assert!(span.as_ref().is_none_or(|span| span.parent.is_none()));
                span.is_some()
            });
            assert!(within.contains(&told.count()));
        }
    }

    #[test]
    fn every_try_has_the_proxys_own_span_as_its_parent() {
        let mut fields = fields(&[
            ("traceparent", &format!("00-{TRACE}-{SPAN}-01")),
            ("b3", &format!("{TRACE}-{SPAN}-1")),
            ("x-b3-traceid", TRACE),
            ("x-b3-spanid", SPAN),
        ]);
        let share = Some(Share::new(1.0));
        let own = continue_trace(&mut fields, false, &Dice::default(), share);
        let own = own.unwrap().id;
        for below in [7, 8] {
            hand_on(&mut fields, own, below);
            assert_eq!(fields[PARENT], format!("00-{TRACE}-{below:016x}-01"));
            assert_eq!(fields[B3], format!("{TRACE}-{below:016x}-1-{own:016x}"));
            assert_eq!(fields[B3_SPAN], format!("{below:016x}"));
            assert_eq!(fields[B3_PARENT], format!("{own:016x}"));
        }
    }

    proptest! {
        #[test]
        fn nothing_that_clients_send_is_too_much(
            all in prop::collection::vec((0..6_usize, prop::collection::vec(any::<u8>(), 0..80)), 0..6),
            words in prop::collection::vec("[0-9a-fA-F-]{0,60}", 0..4),
        ) {
            let names = [REQUEST_ID, PARENT, STATE, B3, B3_TRACE, B3_SPAN];
            let mut fields = HeaderMap::new();
            let bytes = all.into_iter().chain(words.into_iter().zip(1..).map(|(w, n)| (n, w.into_bytes())));
            for (name, bytes) in bytes {
                if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                    fields.append(&names[name], value);
                }
            }
            let dice = Dice::default();
            prop_assert!(is_id(identify(&mut fields, &dice).as_bytes()));
            let _ = continue_trace(&mut fields, true, &dice, Some(Share::new(0.5)));
            let known = only(&fields, &PARENT).and_then(parent).is_some()
                || fields.contains_key(B3) || fields.contains_key(B3_TRACE);
            prop_assert!(known);
        }
    }
}
