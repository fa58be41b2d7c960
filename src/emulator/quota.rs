//! Call quotas per account and region (AWS Marketplace API reference, metering service quotas): a bucket that holds one
//! second's worth and refills steadily, in real time.

use std::collections::HashMap;

use tokio::time::Instant;

use super::wire::Operation;

/// Calls a second, and the size of the bucket.
const fn rate(operation: Operation) -> f64 {
    match operation {
        Operation::RegisterUsage => 5.0,
        // ResolveCustomer is not on AWS's list; it gets what the other two have.
        Operation::MeterUsage | Operation::BatchMeterUsage | Operation::ResolveCustomer => 10.0,
    }
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled_at: Instant,
}

/// The buckets.
#[derive(Debug, Default)]
pub(super) struct Quotas(HashMap<(String, Operation), Bucket>);

impl Quotas {
    /// Takes one call from the account's quota; `false` is throttled, and takes nothing.
    pub(super) fn take(&mut self, account_id: &str, operation: Operation, now: Instant) -> bool {
        let rate = rate(operation);
        let bucket = self
            .0
            .entry((account_id.to_owned(), operation))
            .or_insert(Bucket { tokens: rate, filled_at: now });
        let elapsed = now.duration_since(bucket.filled_at).as_secs_f64();
        bucket.tokens = elapsed.mul_add(rate, bucket.tokens).min(rate);
        bucket.filled_at = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn five_registrations_a_second_for_each_account() {
        let mut quotas = Quotas::default();
        let start = crate::clock::monotonic();
        let mut served =
            |account: &str, at: Duration| quotas.take(account, Operation::RegisterUsage, start + at);
        assert_eq!((0..10).filter(|_| served("a", Duration::ZERO)).count(), 5);
        assert!(served("b", Duration::ZERO));
        assert_eq!((0..10).filter(|_| served("a", Duration::from_secs(1))).count(), 5);
        assert!(!served("a", Duration::from_millis(1100)));
        assert!(served("a", Duration::from_millis(1300)));
    }
}
