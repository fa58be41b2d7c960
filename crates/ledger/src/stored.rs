//! Allocations as an engine stores them: JSON.

use std::borrow::Cow;

use serde::de::Error as _;
use serde::{Deserialize, Serialize};

use tollgate_marketplace::{Allocation, Quantity, TagSet};

/// A record's allocation as it is stored.
#[derive(Serialize, Deserialize)]
struct StoredAllocation<'a> {
    tags: Cow<'a, TagSet>,
    micros: u64,
}

/// The text that is stored.
#[must_use]
pub fn text(allocations: &[Allocation]) -> String {
    let parts: Vec<StoredAllocation<'_>> = allocations
        .iter()
        .map(|part| StoredAllocation { tags: Cow::Borrowed(&part.tags), micros: part.quantity.micros() })
        .collect();
    serde_json::to_string(&parts).expect("maps of strings and numbers are JSON")
}

/// Reads what [`text`] wrote.
pub fn allocations(text: &str) -> Result<Vec<Allocation>, serde_json::Error> {
    let parts: Vec<StoredAllocation<'_>> = serde_json::from_str(text)?;
    let part = |part: StoredAllocation<'_>| {
        let above = || serde_json::Error::custom("an allocation above AWS's maximum");
        let quantity = Quantity::from_micros(part.micros).ok_or_else(above)?;
        Ok(Allocation { tags: part.tags.into_owned(), quantity })
    };
    parts.into_iter().map(part).collect()
}
