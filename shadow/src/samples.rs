//! A bounded sample of requests, each with the same chance to be in it, however many came.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::features::Feature;

/// What one request was like.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample {
    pub(crate) features: Arc<[Feature]>,
    /// Hashes of the differences that it has shown.
    pub(crate) symptoms: Vec<u64>,
}

/// Requests that are kept out of all that were offered.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(from = "Packed", into = "Packed")]
pub(crate) struct Samples {
    pub(crate) seen: u64,
    pub(crate) kept: Vec<Sample>,
}

/// Which of `most` kept ones the `count`th one replaces: each is kept with the same probability
/// (Vitter, algorithm R), so that they are not all from the first minute.
pub(crate) fn reservoir(count: u64, most: usize) -> Option<usize> {
    let place = xxh3_64(&count.to_le_bytes()) % count.max(1);
    usize::try_from(place).ok().filter(|place| *place < most)
}

impl Samples {
    /// Offers one; it is only made when it is kept.
    pub(crate) fn offer(&mut self, most: usize, make: impl FnOnce() -> Sample) {
        self.seen += 1;
        if self.kept.len() < most {
            self.kept.push(make());
        } else if let Some(place) = reservoir(self.seen, most)
            && let Some(kept) = self.kept.get_mut(place)
        {
            *kept = make();
        }
    }
}

/// The same for the store: each feature is written once.
#[derive(Debug, Serialize, Deserialize)]
struct Packed {
    seen: u64,
    features: Vec<Feature>,
    kept: Vec<(Vec<usize>, Vec<u64>)>,
}

impl From<Samples> for Packed {
    fn from(samples: Samples) -> Self {
        let mut places = std::collections::HashMap::new();
        let mut features = Vec::new();
        let mut place = |feature: &Feature| {
            *places.entry(feature.clone()).or_insert_with(|| {
                features.push(feature.clone());
                features.len() - 1
            })
        };
        let kept = samples.kept.iter().map(|sample| {
            let places = sample.features.iter().map(&mut place).collect();
            (places, sample.symptoms.clone())
        });
        let kept = kept.collect();
        Self {
            seen: samples.seen,
            features,
            kept,
        }
    }
}

impl From<Packed> for Samples {
    fn from(packed: Packed) -> Self {
        let of = |places: &[usize]| {
            let known = places
                .iter()
                .filter_map(|place| packed.features.get(*place));
            known.cloned().collect()
        };
        let sample = |(places, symptoms): &(Vec<usize>, Vec<u64>)| Sample {
            features: of(places),
            symptoms: symptoms.clone(),
        };
        Self {
            seen: packed.seen,
            kept: packed.kept.iter().map(sample).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::Part;

    #[test]
    fn each_one_has_the_same_chance_and_comes_back_from_the_store() {
        let mut samples = Samples::default();
        for n in 0..1_000u64 {
            let feature = Feature::new(Part::Query, "n", Some((n / 500).to_string()));
            samples.offer(100, || Sample {
                features: [feature].into(),
                symptoms: vec![n],
            });
        }
        let late = samples.kept.iter().filter(|one| one.symptoms[0] >= 500);
        let late = late.count();
        assert!((30..=70).contains(&late), "{late} of the later half");
        let text = serde_json::to_string(&samples).unwrap();
        assert_eq!(text.matches("\"name\"").count(), 2, "{text}");
        let again: Samples = serde_json::from_str(&text).unwrap();
        assert_eq!((again.seen, again.kept.len()), (1_000, 100));
        for (a, b) in samples.kept.iter().zip(&again.kept) {
            assert_eq!((&a.features, &a.symptoms), (&b.features, &b.symptoms));
        }
    }
}
