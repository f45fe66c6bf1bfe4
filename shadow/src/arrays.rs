//! Which element of one array belongs to which of the other. Pure, and bounded in work.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::ops::Range;

use crate::json::Json;
use crate::settings::ArrayBy;

/// Steps of alignment for one pair of documents: some ten milliseconds. What is left then is
/// paired by position, and said so.
pub(crate) const WORK_MAX: usize = 2_000_000;

/// Elements between two common ones are paired by likeness up to this many comparisons; a gap of
/// 64 by 64 is far more than a page that changes in passing.
const GAP_MAX: usize = 4_096;

/// Objects with this many members and none in common are two things, not one that changed.
const STRANGERS_MIN: usize = 3;

/// Fields that name an element, the likeliest first, where no rule says which.
pub(crate) const KEYS: [&str; 10] = [
    "id", "uuid", "_id", "key", "sku", "code", "slug", "number", "name", "href",
];

/// How two arrays belong together. Indices of each side.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Pairing {
    /// Elements that are to be compared; equal ones may be left out.
    pub(crate) pairs: Vec<(usize, usize)>,
    pub(crate) missing: Vec<usize>,
    pub(crate) extra: Vec<usize>,
    /// Where common elements come in another order: the legacy indices in the extracted order.
    pub(crate) order: Option<Vec<usize>>,
    /// The budget was used up: elements were paired by position.
    pub(crate) by_position: bool,
}

/// Pairs two arrays. `work` is what may still be spent.
pub(crate) fn pair(
    legacy: &[Json],
    extracted: &[Json],
    by: Option<&ArrayBy>,
    work: &mut usize,
) -> Pairing {
    match by {
        Some(ArrayBy::Set) => set(legacy, extracted),
        Some(ArrayBy::Key(key)) => keyed(legacy, extracted, key),
        Some(ArrayBy::Order) => ordered(legacy, extracted, work),
        None => match inferred(legacy, extracted) {
            Some(key) => keyed(legacy, extracted, key),
            None => ordered(legacy, extracted, work),
        },
    }
}

/// Adds the elements that a pairing leaves out because they are equal. Of a set those that come more
/// than once stay out: nobody can say which of them belong together.
pub(crate) fn complete(pairing: &mut Pairing, legacy: &[Json], extracted: &[Json], is_set: bool) {
    let rest = |all: &[Json], listed: HashSet<usize>| {
        let mut rest: Vec<usize> = (0..all.len()).filter(|at| !listed.contains(at)).collect();
        rest.sort_by(|a, b| all[*a].cmp(&all[*b]));
        rest
    };
    let ours = pairing.pairs.iter().map(|(index, _)| *index);
    let ours = rest(
        legacy,
        ours.chain(pairing.missing.iter().copied()).collect(),
    );
    let theirs = pairing.pairs.iter().map(|(_, partner)| *partner);
    let theirs = rest(
        extracted,
        theirs.chain(pairing.extra.iter().copied()).collect(),
    );
    for alike in ours.chunk_by(|a, b| legacy[*a] == legacy[*b]) {
        if !is_set || alike.len() == 1 {
            let from = ours.partition_point(|index| legacy[*index] < legacy[alike[0]]);
            let partners = theirs.iter().skip(from);
            pairing
                .pairs
                .extend(alike.iter().copied().zip(partners.copied()));
        }
    }
    pairing.pairs.sort_unstable();
}

/// Takes pairs apart that are two things.
pub(crate) fn part_strangers(pairing: &mut Pairing, legacy: &[Json], extracted: &[Json]) {
    let (missing, extra) = (&mut pairing.missing, &mut pairing.extra);
    pairing.pairs.retain(|(index, partner)| {
        let are_one = !strangers(&legacy[*index], &extracted[*partner]);
        if !are_one {
            missing.push(*index);
            extra.push(*partner);
        }
        are_one
    });
    missing.sort_unstable();
    extra.sort_unstable();
}

/// Whether two of these are equal.
pub(crate) fn have_twice(all: &[Json]) -> bool {
    let mut seen = BTreeSet::new();
    !all.iter().all(|element| seen.insert(element))
}

/// As multisets: both sorted, then merged.
fn set(legacy: &[Json], extracted: &[Json]) -> Pairing {
    let sorted = |all: &[Json]| {
        let mut order: Vec<usize> = (0..all.len()).collect();
        order.sort_by(|a, b| all[*a].cmp(&all[*b]));
        order
    };
    let (ours, theirs) = (sorted(legacy), sorted(extracted));
    let (mut a, mut b) = (ours.iter().peekable(), theirs.iter().peekable());
    let mut found = Pairing::default();
    loop {
        let order = match (a.peek(), b.peek()) {
            (None, None) => break,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(x), Some(y)) => legacy[**x].cmp(&extracted[**y]),
        };
        let ours = if order.is_le() { a.next() } else { None };
        let theirs = if order.is_ge() { b.next() } else { None };
        match (ours, theirs) {
            (Some(index), None) => found.missing.push(*index),
            (None, Some(index)) => found.extra.push(*index),
            _ => {}
        }
    }
    found.missing.sort_unstable();
    found.extra.sort_unstable();
    found
}

/// Elements with the same key are a pair, those without one in their order.
fn keyed(legacy: &[Json], extracted: &[Json], key: &str) -> Pairing {
    let mut theirs: BTreeMap<Option<&Json>, VecDeque<usize>> = BTreeMap::new();
    for (index, element) in extracted.iter().enumerate() {
        theirs.entry(element.get(key)).or_default().push_back(index);
    }
    let mut found = Pairing::default();
    for (index, element) in legacy.iter().enumerate() {
        let partner = theirs.get_mut(&element.get(key));
        match partner.and_then(VecDeque::pop_front) {
            Some(partner) => found.pairs.push((index, partner)),
            None => found.missing.push(index),
        }
    }
    found.extra = theirs.into_values().flatten().collect();
    found.extra.sort_unstable();
    found.order = order(&found.pairs);
    found
}

/// The legacy indices in the extracted order, where that is another one.
pub(crate) fn order(pairs: &[(usize, usize)]) -> Option<Vec<usize>> {
    if pairs.is_sorted_by_key(|(_, partner)| *partner) {
        return None;
    }
    let mut common = pairs.to_vec();
    common.sort_unstable_by_key(|(_, partner)| *partner);
    Some(common.into_iter().map(|(index, _)| index).collect())
}

/// The field that names the elements of both arrays: each element has it, no two of a side share
/// it, and at least half of the shorter side is known to the other by it.
fn inferred(legacy: &[Json], extracted: &[Json]) -> Option<&'static str> {
    if legacy.len() < 2 && extracted.len() < 2 {
        return None;
    }
    let keys = |all: &[Json], name: &str| {
        let mut found = BTreeSet::new();
        for element in all {
            let key = element.get(name)?;
            let plain = matches!(key, Json::Number(_) | Json::String(_));
            if !plain || !found.insert(key.clone()) {
                return None;
            }
        }
        Some(found)
    };
    KEYS.into_iter().find(|name| {
        let Some(ours) = keys(legacy, name) else {
            return false;
        };
        let Some(theirs) = keys(extracted, name) else {
            return false;
        };
        ours.intersection(&theirs).count() * 2 >= ours.len().min(theirs.len()).max(1)
    })
}

/// What names this element, where anything does.
pub(crate) fn name(element: &Json) -> Option<&Json> {
    KEYS.into_iter().find_map(|key| element.get(key))
}

/// In order: the longest common run of elements stays, what lies between is paired by likeness.
fn ordered(legacy: &[Json], extracted: &[Json], work: &mut usize) -> Pairing {
    let pairs = || legacy.iter().zip(extracted);
    let start = pairs().take_while(|(a, b)| a == b).count();
    let back = legacy[start..].iter().rev();
    let end = back.zip(extracted[start..].iter().rev());
    let end = end.take_while(|(a, b)| a == b).count();
    let ours = start..legacy.len() - end;
    let theirs = start..extracted.len() - end;
    let mut found = Pairing::default();
    let anchors = anchors(legacy, extracted, ours.clone(), theirs.clone(), work);
    found.by_position = anchors.is_none();
    let (mut a, mut b) = (ours.start, theirs.start);
    let last = (ours.end, theirs.end);
    for (i, j) in anchors.unwrap_or_default().into_iter().chain([last]) {
        gap(legacy, extracted, (a..i, b..j), work, &mut found);
        (a, b) = (i + 1, j + 1);
    }
    found
}

/// Equal elements of a longest common subsequence. `None` when that costs too much.
fn anchors(
    legacy: &[Json],
    extracted: &[Json],
    ours: Range<usize>,
    theirs: Range<usize>,
    work: &mut usize,
) -> Option<Vec<(usize, usize)>> {
    let mut sides: BTreeMap<&Json, (u32, bool, bool)> = BTreeMap::new();
    for (all, range, is_legacy) in [
        (legacy, ours.clone(), true),
        (extracted, theirs.clone(), false),
    ] {
        for element in &all[range] {
            let next = u32::try_from(sides.len()).ok()?;
            let seen = sides.entry(element).or_insert((next, false, false));
            seen.1 |= is_legacy;
            seen.2 |= !is_legacy;
        }
    }
    // Only what both sides have can be common; the rest would make the search quadratic.
    let common = |all: &[Json], range: Range<usize>| -> Vec<(u32, usize)> {
        let both = |index: usize| match sides.get(&all[index]) {
            Some((id, true, true)) => Some((*id, index)),
            _ => None,
        };
        range.filter_map(both).collect()
    };
    let (a, b) = (common(legacy, ours), common(extracted, theirs));
    let ids = |all: &[(u32, usize)]| all.iter().map(|(id, _)| *id).collect::<Vec<_>>();
    let found = common_run(&ids(&a), &ids(&b), work)?;
    Some(found.into_iter().map(|(i, j)| (a[i].1, b[j].1)).collect())
}

/// A longest common subsequence (Myers, "An O(ND) Difference Algorithm", 1986), as index pairs.
/// `None` when the work is used up.
fn common_run(a: &[u32], b: &[u32], work: &mut usize) -> Option<Vec<(usize, usize)>> {
    let (n, m) = (signed(a.len()), signed(b.len()));
    let most = n + m;
    // Furthest `x` on each diagonal `x - y`, shifted so that the index is not negative.
    let shift = most + 1;
    let at = |k: isize| usize::try_from(k + shift).unwrap_or(0);
    let mut furthest = vec![0isize; at(most) + 2];
    let mut rounds: Vec<Vec<isize>> = Vec::new();
    for d in 0..=most {
        let mut k = -d;
        while k <= d {
            let down = k == -d || (k != d && furthest[at(k - 1)] < furthest[at(k + 1)]);
            let mut x = if down {
                furthest[at(k + 1)]
            } else {
                furthest[at(k - 1)] + 1
            };
            let begun = x;
            while x < n && x - k < m && a.get(index(x)) == b.get(index(x - k)) {
                x += 1;
            }
            *work = work.checked_sub(2 + index(x - begun))?;
            furthest[at(k)] = x;
            if x >= n && x - k >= m {
                return Some(walk_back(&rounds, (n, m)));
            }
            k += 2;
        }
        rounds.push(furthest[at(-d)..=at(d)].to_vec());
    }
    Some(Vec::new())
}

/// The way back from the end through the rounds of the search.
fn walk_back(rounds: &[Vec<isize>], end: (isize, isize)) -> Vec<(usize, usize)> {
    let (mut x, mut y) = end;
    let mut found = Vec::new();
    for (round, before) in rounds.iter().enumerate().rev() {
        let (last, d) = (signed(round), signed(round) + 1);
        let k = x - y;
        let seen = |k: isize| before.get(index(k + last)).copied().unwrap_or(-1);
        let down = k == -d || (k != d && seen(k - 1) < seen(k + 1));
        let k = if down { k + 1 } else { k - 1 };
        let from = (seen(k), seen(k) - k);
        while x > from.0 && y > from.1 {
            (x, y) = (x - 1, y - 1);
            found.push((index(x), index(y)));
        }
        (x, y) = from;
    }
    while x > 0 && y > 0 {
        (x, y) = (x - 1, y - 1);
        found.push((index(x), index(y)));
    }
    found.reverse();
    found
}

/// Lengths of slices fit.
fn signed(length: usize) -> isize {
    isize::try_from(length).unwrap_or(isize::MAX)
}

fn index(place: isize) -> usize {
    usize::try_from(place).unwrap_or(0)
}

/// Pairs what lies between two common elements.
fn gap(
    legacy: &[Json],
    extracted: &[Json],
    (ours, theirs): (Range<usize>, Range<usize>),
    work: &mut usize,
    found: &mut Pairing,
) {
    let cells = ours.len().saturating_mul(theirs.len());
    let cost = cells.saturating_mul(8);
    if cells > 1 && cells <= GAP_MAX && cost <= *work {
        *work -= cost;
        return by_likeness(legacy, extracted, (ours, theirs), found);
    }
    let both = ours.len().min(theirs.len());
    for (i, j) in ours.clone().zip(theirs.clone()) {
        if ours.len() != theirs.len() || !strangers(&legacy[i], &extracted[j]) {
            found.pairs.push((i, j));
        } else {
            found.missing.push(i);
            found.extra.push(j);
        }
    }
    found.by_position |= both > 0 && ours.len() != theirs.len();
    found.missing.extend(ours.skip(both));
    found.extra.extend(theirs.skip(both));
}

/// The pairing with the most in common, in order.
fn by_likeness(
    legacy: &[Json],
    extracted: &[Json],
    (ours, theirs): (Range<usize>, Range<usize>),
    found: &mut Pairing,
) {
    let width = theirs.len() + 1;
    let mut best = vec![0usize; (ours.len() + 1) * width];
    let like = |i: usize, j: usize| likeness(&legacy[ours.start + i], &extracted[theirs.start + j]);
    let mut likes = vec![0usize; ours.len() * theirs.len()];
    for i in (0..ours.len()).rev() {
        for j in (0..theirs.len()).rev() {
            let like = like(i, j);
            likes[i * theirs.len() + j] = like;
            let pair = best[(i + 1) * width + j + 1] + like;
            let skip = best[(i + 1) * width + j].max(best[i * width + j + 1]);
            best[i * width + j] = pair.max(skip);
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < ours.len() && j < theirs.len() {
        let here = best[i * width + j];
        let like = likes[i * theirs.len() + j];
        if like > 0 && here == best[(i + 1) * width + j + 1] + like {
            found.pairs.push((ours.start + i, theirs.start + j));
            (i, j) = (i + 1, j + 1);
        } else if here == best[(i + 1) * width + j] {
            found.missing.push(ours.start + i);
            i += 1;
        } else {
            found.extra.push(theirs.start + j);
            j += 1;
        }
    }
    found.missing.extend(ours.skip(i));
    found.extra.extend(theirs.skip(j));
}

/// How much two elements have in common; 0 for those that are no pair.
fn likeness(a: &Json, b: &Json) -> usize {
    match (a, b) {
        (Json::Object(_), Json::Object(_)) if strangers(a, b) => 0,
        (Json::Object(ours), Json::Object(theirs)) => 1 + 2 * shared(ours, theirs),
        _ => 1,
    }
}

/// Whether two objects are two things, and not one that changed.
pub(crate) fn strangers(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Object(ours), Json::Object(theirs)) => {
            ours.len().min(theirs.len()) >= STRANGERS_MIN && shared(ours, theirs) == 0
        }
        _ => false,
    }
}

/// Members that are equal on both sides; both are sorted by name.
fn shared(ours: &[(String, Json)], theirs: &[(String, Json)]) -> usize {
    let (mut a, mut b) = (ours.iter().peekable(), theirs.iter().peekable());
    let mut count = 0;
    while let (Some((name, value)), Some((other, extracted))) = (a.peek(), b.peek()) {
        match name.cmp(other) {
            std::cmp::Ordering::Less => _ = a.next(),
            std::cmp::Ordering::Greater => _ = b.next(),
            std::cmp::Ordering::Equal => {
                count += usize::from(value == extracted);
                (_, _) = (a.next(), b.next());
            }
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The textbook table, which is quadratic and easy to believe.
    fn longest(a: &[u32], b: &[u32]) -> usize {
        let mut row = vec![0; b.len() + 1];
        for x in a {
            let mut corner = 0;
            for (j, y) in b.iter().enumerate() {
                let above = row[j + 1];
                row[j + 1] = if x == y {
                    corner + 1
                } else {
                    above.max(row[j])
                };
                corner = above;
            }
        }
        row[b.len()]
    }

    proptest! {
        #[test]
        fn the_common_run_is_common_and_the_longest(
            a in prop::collection::vec(0u32..4, 0..30),
            b in prop::collection::vec(0u32..4, 0..30),
        ) {
            let run = common_run(&a, &b, &mut 1_000_000).unwrap();
            prop_assert!(run.iter().all(|(i, j)| a[*i] == b[*j]));
            prop_assert!(run.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 < w[1].1));
            prop_assert_eq!(run.len(), longest(&a, &b));
        }

        #[test]
        fn every_element_has_one_place(
            a in prop::collection::vec(0u32..6, 0..30),
            b in prop::collection::vec(0u32..6, 0..30),
            work in 0usize..5_000,
        ) {
            let json = |all: &[u32]| all.iter().map(|n| Json::String(n.to_string())).collect::<Vec<_>>();
            let (x, y) = (json(&a), json(&b));
            let found = ordered(&x, &y, &mut { work });
            let mut ours: Vec<usize> = found.pairs.iter().map(|(i, _)| *i).chain(found.missing).collect();
            let mut theirs: Vec<usize> = found.pairs.iter().map(|(_, j)| *j).chain(found.extra).collect();
            ours.sort_unstable();
            theirs.sort_unstable();
            prop_assert!(ours.windows(2).all(|w| w[0] < w[1]) && ours.iter().all(|i| *i < a.len()));
            prop_assert!(theirs.windows(2).all(|w| w[0] < w[1]) && theirs.iter().all(|j| *j < b.len()));
            prop_assert_eq!(a.len() - ours.len(), b.len() - theirs.len(), "the rest is equal");
        }
    }

    #[test]
    fn a_key_is_inferred_where_it_names_the_elements() {
        let json = |text: &str| match crate::json::parse(text.as_bytes()) {
            Some(Json::Array(all)) => all,
            other => panic!("{other:?}"),
        };
        for (a, b, key) in [
            (
                r#"[{"id":1},{"id":2}]"#,
                r#"[{"id":2},{"id":3}]"#,
                Some("id"),
            ),
            (r#"[{"id":1},{"id":2}]"#, r#"[{"id":3},{"id":4}]"#, None),
            (r#"[{"id":1},{"id":1}]"#, r#"[{"id":1},{"id":1}]"#, None),
            (r#"[{"id":null},{"id":2}]"#, r#"[{"id":2}]"#, None),
            (
                r#"[{"id":1,"sku":"a"},{"id":1,"sku":"b"}]"#,
                r#"[{"id":1,"sku":"a"}]"#,
                Some("sku"),
            ),
            (r#"[{"id":1}]"#, r#"[{"id":1}]"#, None),
            ("[1,2]", "[2,3]", None),
        ] {
            assert_eq!(inferred(&json(a), &json(b)), key, "{a} {b}");
        }
    }

    #[test]
    fn an_alternating_flood_stays_within_its_budget_and_says_so() {
        let flood = |step: usize| -> Vec<Json> {
            (0..100_000)
                .map(|n| Json::Bool((n * n / step).is_multiple_of(3)))
                .collect()
        };
        let mut work = WORK_MAX;
        let found = pair(&flood(5), &flood(7), None, &mut work);
        assert!(found.by_position && work < WORK_MAX);
    }
}
