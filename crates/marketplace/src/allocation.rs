//! Allocations: the split of a record's quantity by tags, for the buyer's cost reports (AWS Marketplace API reference,
//! `UsageAllocation`, `Tag`). Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use super::{Invalid, Quantity};

/// Most allocations of one record (service model).
pub const ALLOCATIONS_MAX: usize = 2500;
/// Most tags of one allocation (service model).
pub const TAGS_MAX: usize = 5;
/// Longest tag key (service model).
pub const TAG_KEY_CHARS_MAX: usize = 100;
/// Longest tag value (service model).
pub const TAG_VALUE_CHARS_MAX: usize = 256;

/// Most bytes of a record's allocations in a request. AWS accepts requests below 1 MB, and 2,500 allocations of five
/// long tags would take five times as much.
pub const ALLOCATIONS_BYTES_MAX: usize = 800_000;

/// An upper bound of the bytes around an allocation's tags, and around a tag's texts: member names, quantity,
/// punctuation. An allocation without tags has no more than this.
pub const PART_BYTES: usize = 80;

/// A set of tags that AWS accepts; the empty set stands for untagged usage. It is small, and its copies share one
/// text: a record may have 2,500 sets, and a map for each would take more than half a KiB.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>")]
pub struct TagSet(Arc<[(Box<str>, Box<str>)]>);

impl TagSet {
    /// The tags, sorted by key.
    pub fn tags(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// An upper bound of the bytes of an allocation with this set in a request; a quote or backslash takes two.
    #[must_use]
    pub fn request_bytes(&self) -> usize {
        let texts = |(key, value): (&str, &str)| PART_BYTES + 2 * (key.len() + value.len());
        PART_BYTES + self.tags().map(texts).sum::<usize>()
    }

    /// The text of this set on disk: JSON with sorted keys.
    #[must_use]
    pub fn canonical(&self) -> String {
        serde_json::to_string(self).expect("a map of strings is JSON")
    }
}

impl Serialize for TagSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.tags())
    }
}

impl TryFrom<BTreeMap<String, String>> for TagSet {
    type Error = Invalid;

    fn try_from(tags: BTreeMap<String, String>) -> Result<Self, Invalid> {
        if tags.len() > TAGS_MAX {
            return Err(Invalid("has more than 5 tags"));
        }
        for (key, value) in &tags {
            if key.is_empty()
                || key.len() > TAG_KEY_CHARS_MAX
                || value.is_empty()
                || value.len() > TAG_VALUE_CHARS_MAX
            {
                return Err(Invalid(
                    "has a tag whose key is not 1 to 100, or whose value is not 1 to 256 characters long",
                ));
            }
            if !key.bytes().chain(value.bytes()).all(allowed) {
                return Err(Invalid(
                    "has a tag with a character that AWS does not accept; it accepts ASCII letters, digits, space, \
                     _ @ \\ and the punctuation from ! to =",
                ));
            }
        }
        let tags = tags.into_iter().map(|(key, value)| (key.into_boxed_str(), value.into_boxed_str()));
        Ok(Self(tags.collect()))
    }
}

/// `[a-zA-Z0-9+ -=._:\/@]`, where ` -=` is the range from space to `=` (service model, `TagKey`, `TagValue`).
const fn allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b' '..=b'=' | b'_' | b'@' | b'\\')
}

/// A part of a record's quantity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    /// The tags.
    pub tags: TagSet,
    /// The part of the record's quantity.
    pub quantity: Quantity,
}

/// Splits a record by tag set; without tags there are no allocations. If there are more sets than AWS accepts in
/// number or in bytes, the largest shares keep their tags and the rest becomes untagged. The sum of the parts is the
/// sum of `shares`.
#[must_use]
pub fn allocate(shares: &BTreeMap<TagSet, Quantity>) -> Vec<Allocation> {
    if shares.keys().all(TagSet::is_empty) {
        return Vec::new();
    }
    let mut tagged: Vec<(&TagSet, Quantity)> = shares
        .iter()
        .filter(|(tags, _)| !tags.is_empty())
        .map(|(tags, quantity)| (tags, *quantity))
        .collect();
    let mut untagged = shares.get(&TagSet::default()).copied().unwrap_or_default();
    let room = if untagged == Quantity::ZERO && tagged.len() <= ALLOCATIONS_MAX {
        ALLOCATIONS_MAX
    } else {
        ALLOCATIONS_MAX - 1
    };
    let bytes: usize = tagged.iter().map(|(tags, _)| tags.request_bytes()).sum();
    if tagged.len() > room || bytes > ALLOCATIONS_BYTES_MAX {
        // Equal shares are ordered by their tags, so that a retry splits the same way.
        tagged.sort_by_key(|(tags, quantity)| (std::cmp::Reverse(*quantity), *tags));
        let mut bytes = PART_BYTES;
        let fitting = tagged.iter().take_while(|(tags, _)| {
            bytes += tags.request_bytes();
            bytes <= ALLOCATIONS_BYTES_MAX
        });
        let room = fitting.count().min(room);
        for (_, quantity) in tagged.drain(room..) {
            untagged = untagged.checked_add(quantity).unwrap_or(Quantity::MAX);
        }
        tagged.sort();
    }
    let mut allocations: Vec<Allocation> =
        tagged.into_iter().map(|(tags, quantity)| Allocation { tags: tags.clone(), quantity }).collect();
    if untagged != Quantity::ZERO {
        allocations.push(Allocation { tags: TagSet::default(), quantity: untagged });
    }
    allocations
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tags(pairs: &[(&str, &str)]) -> Result<TagSet, Invalid> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect::<BTreeMap<_, _>>()
            .try_into()
    }

    #[test]
    fn awss_bounds_of_tags() {
        assert!(tags(&[("team", "a b+c-d=e._:/@1")]).is_ok());
        assert!(tags(&[(&"k".repeat(100), &"v".repeat(256))]).is_ok());
        let six: Vec<(String, &str)> = (0..6).map(|i| (i.to_string(), "v")).collect();
        let six: Vec<(&str, &str)> = six.iter().map(|(key, value)| (key.as_str(), *value)).collect();
        for bad in [&[("", "v")][..], &[("k", "")], &[("k", "ü")], &[("k", "a~b")], &[("k", "a\nb")], &six] {
            assert!(tags(bad).is_err(), "{bad:?}");
        }
        assert!(tags(&[(&"k".repeat(101), "v")]).is_err() && tags(&[("k", &"v".repeat(257))]).is_err());
    }

    #[test]
    fn untagged_usage_has_no_allocations() {
        let shares = BTreeMap::from([(TagSet::default(), "5".parse().unwrap())]);
        assert!(allocate(&shares).is_empty());
    }

    #[test]
    fn tags_beyond_a_megabyte_go_untagged_and_the_largest_shares_keep_theirs() {
        let long = |index: u32| {
            let tag =
                |tag: u32| (format!("{tag}{}", "k".repeat(99)), format!("{index:06}{}", "\\".repeat(250)));
            TagSet::try_from((0..5).map(tag).collect::<BTreeMap<_, _>>()).unwrap()
        };
        let share = |index: u32| (long(index), Quantity::from_micros(u64::from(index) + 1).unwrap());
        let shares: BTreeMap<TagSet, Quantity> = (0..2500).map(share).collect();
        let split = allocate(&shares);
        let bytes: usize = split.iter().map(|part| part.tags.request_bytes()).sum();
        assert!(bytes <= ALLOCATIONS_BYTES_MAX && bytes > ALLOCATIONS_BYTES_MAX * 9 / 10, "{bytes}");
        let sum: u64 = split.iter().map(|part| part.quantity.micros()).sum();
        assert_eq!(sum, (1..=2500).sum::<u64>());
        assert!(
            split.iter().any(|part| part.tags == long(2499))
                && !split.iter().any(|part| part.tags == long(0))
        );
        assert_eq!(split, allocate(&shares), "the same again");
    }

    fn shares() -> impl Strategy<Value = BTreeMap<TagSet, Quantity>> {
        let share = (0..4000_u32, 1..1_000_000_u64);
        prop::collection::vec(share, 0..3000).prop_map(|shares| {
            let mut map = BTreeMap::new();
            for (tag, micros) in shares {
                let set =
                    if tag == 0 { TagSet::default() } else { tags(&[("t", &tag.to_string())]).unwrap() };
                map.insert(set, Quantity::from_micros(micros).unwrap());
            }
            map
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// The sum is kept, tag sets are unique, there are at most 2,500, and only whole shares lose their tags.
        #[test]
        fn what_is_split_is_what_was_there(shares in shares()) {
            let split = allocate(&shares);
            let total = |quantities: &mut dyn Iterator<Item = Quantity>| quantities.map(Quantity::micros).sum::<u64>();
            if !split.is_empty() {
                prop_assert_eq!(total(&mut split.iter().map(|a| a.quantity)), total(&mut shares.values().copied()));
            }
            prop_assert!(split.len() <= ALLOCATIONS_MAX);
            let unique: std::collections::BTreeSet<_> = split.iter().map(|a| &a.tags).collect();
            prop_assert_eq!(unique.len(), split.len());
            for allocation in split.iter().filter(|a| !a.tags.is_empty()) {
                prop_assert_eq!(shares.get(&allocation.tags), Some(&allocation.quantity));
            }
        }
    }
}
