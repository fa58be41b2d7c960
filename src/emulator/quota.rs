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

/// Whose calls are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Account {
    id: String,
    region: String,
    operation: Operation,
}

/// Buckets kept; when there are more, all begin anew, full.
const BUCKETS_MAX: usize = 10_000;

/// The buckets.
#[derive(Debug, Default)]
pub(super) struct Quotas(HashMap<Account, Bucket>);

impl Quotas {
    /// Takes one call from the account's quota; `false` is throttled, and takes nothing.
    pub(super) fn take(&mut self, now: Instant, id: &str, region: &str, operation: Operation) -> bool {
        let rate = rate(operation);
        if self.0.len() >= BUCKETS_MAX {
            self.0.clear();
        }
        let account = Account { id: id.to_owned(), region: region.to_owned(), operation };
        let bucket = self.0.entry(account).or_insert(Bucket { tokens: rate, filled_at: now });
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
    fn five_registrations_a_second_for_each_account_and_region() {
        let mut quotas = Quotas::default();
        let start = crate::clock::monotonic();
        let mut served = |account: &str, region: &str, at: Duration| {
            quotas.take(start + at, account, region, Operation::RegisterUsage)
        };
        assert_eq!((0..10).filter(|_| served("a", "us-east-1", Duration::ZERO)).count(), 5);
        assert!(served("b", "us-east-1", Duration::ZERO));
        assert!(served("a", "eu-west-1", Duration::ZERO));
        assert_eq!((0..10).filter(|_| served("a", "us-east-1", Duration::from_secs(1))).count(), 5);
        assert!(!served("a", "us-east-1", Duration::from_millis(1100)));
        assert!(served("a", "us-east-1", Duration::from_millis(1300)));
    }
}
