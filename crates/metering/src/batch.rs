//! What AWS accepts in one `BatchMeterUsage` call. Pure.
//!
//! AWS accepts 25 records of less than 1 MB in all. It rejects the whole call if integers and decimals, or legacy
//! customers and licenses, are mixed (AWS Marketplace API reference, BatchMeterUsage). `queue` chooses the records;
//! their size is known when they have been read.

use crate::record::Whole;
use tollgate_marketplace::Customer;
use tollgate_marketplace::operation::{ESCAPED, RECORD_BYTES};

/// Most records of a call.
pub const RECORDS_MAX: usize = 25;

/// Less than AWS's 1 MB, so that the rest of the request fits too.
pub const BYTES_MAX: usize = 900_000;

/// A filter that decides by size whether the next record still fits into the call; the first one always does.
pub fn fits() -> impl FnMut(&Whole) -> bool {
    let mut bytes = 0;
    move |whole| {
        let fits = bytes == 0 || bytes + size(whole) <= BYTES_MAX;
        bytes += if fits { size(whole) } else { 0 };
        fits
    }
}

/// How the customer is named; AWS accepts one form per call.
#[must_use]
pub const fn form(customer: &Customer) -> u8 {
    match customer {
        Customer::Own => 0,
        Customer::Identifier(_) => 1,
        Customer::Account { license_arn: None, .. } => 2,
        Customer::Account { license_arn: Some(_), .. } => 3,
    }
}

/// An upper bound of a record's size in the body; a test of the AWS client compares it with the bytes that are sent.
#[must_use]
pub fn size(whole: &Whole) -> usize {
    let Whole { record, allocations } = whole;
    let parts: usize = allocations.iter().map(|allocation| allocation.tags.request_bytes()).sum();
    RECORD_BYTES + ESCAPED * (record.dimension.len() + record.customer.canonical().len()) + parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Record;
    use tollgate_marketplace::Quantity;
    use tollgate_time::Timestamp;

    fn record(id: i64, account: &str, dimension: &str, licensed: bool, decimal: bool) -> Whole {
        let record = Record {
            id,
            customer: Customer::Account {
                account_id: account.to_owned(),
                license_arn: licensed.then(|| "arn:aws:license-manager::1:license:l".to_owned()),
            },
            dimension: dimension.to_owned(),
            decimal,
            ..Record::sample(Timestamp::from_unix_seconds(1_795_507_200))
        };
        Whole { record, allocations: Vec::new() }
    }

    fn ids(records: &[Whole]) -> Vec<i64> {
        let mut fits = fits();
        records.iter().filter(|whole| fits(whole)).map(|whole| whole.record.id).collect()
    }

    #[test]
    fn the_largest_record_that_is_ever_sealed_fits_into_a_call() {
        use tollgate_marketplace::allocation::ALLOCATIONS_BYTES_MAX;
        let texts = record(1, &"1".repeat(1200), &"\u{1}".repeat(255), true, true);
        assert!(size(&texts) + ALLOCATIONS_BYTES_MAX < BYTES_MAX, "{}", size(&texts));
    }

    #[test]
    fn a_call_stays_below_a_megabyte_but_holds_one_record_at_least() {
        let mut large = record(1, "1", "a", true, false);
        let tags = |index: usize| {
            let map =
                (0..5).map(|tag| (format!("{tag}{}", "k".repeat(90)), format!("{index}{}", "v".repeat(250))));
            tollgate_marketplace::TagSet::try_from(map.collect::<std::collections::BTreeMap<_, _>>()).unwrap()
        };
        let allocation =
            |index| tollgate_marketplace::Allocation { tags: tags(index), quantity: Quantity::ZERO };
        large.allocations = (0..200).map(allocation).collect();
        let records = [(1, "a"), (2, "b"), (3, "c")].map(|(id, dimension)| Whole {
            allocations: large.allocations.clone(),
            ..record(id, "1", dimension, true, false)
        });
        let chosen = ids(&records);
        assert!(!chosen.is_empty() && chosen.len() < 3, "{chosen:?}");
    }
}
