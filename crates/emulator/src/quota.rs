//! Call quotas per account and region (AWS Marketplace API reference, metering and entitlement service quotas): a
//! bucket that holds one second's worth and refills steadily, in real time.

use std::collections::HashMap;

use tokio::time::Instant;

use super::operation::{Api, Operation};
use super::world::World;
use super::world::switches::Switch;

/// Calls a second, and by default the size of the bucket.
const fn rate(operation: Operation) -> f64 {
    match operation {
        Operation::RegisterUsage => 5.0,
        // AWS Marketplace API reference, entitlement service quotas.
        Operation::GetEntitlements => 20.0,
        // ResolveCustomer is not in AWS's list; it gets the rate of the other two.
        _ => 10.0,
    }
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled_at: Instant,
}

/// The key of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Account {
    id: String,
    region: String,
    operation: Operation,
}

/// Most buckets; beyond it all are deleted, and new ones are full.
const BUCKETS_MAX: usize = 10_000;

/// The buckets.
#[derive(Debug, Default)]
pub(super) struct Quotas(HashMap<Account, Bucket>);

impl Quotas {
    /// Takes one call from the quota of the account that AWS counts it for: the buyer's, or the seller's for operations
    /// of the seller's own service. `false` means throttled, and takes nothing.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        world: &World,
        pod: &str,
        region: &str,
        operation: Operation,
    ) -> bool {
        // AWS documents no quotas of License Manager's calls.
        let free = operation.api() == Api::LicenseManager
            || (operation == Operation::ResolveCustomer && world.switches.second(Switch::ResolveQuota));
        if free {
            return true;
        }
        let account_id = match operation {
            Operation::BatchMeterUsage | Operation::ResolveCustomer => &world.seller_account_id,
            _ => world.pod(pod).account_id,
        };
        let at_once = if world.switches.second(Switch::QuotaBurst) { 1.0 } else { rate(operation) };
        self.take(now, account_id, region, operation, at_once)
    }

    fn take(&mut self, now: Instant, id: &str, region: &str, operation: Operation, at_once: f64) -> bool {
        let rate = rate(operation);
        if self.0.len() >= BUCKETS_MAX {
            self.0.clear();
        }
        let account = Account { id: id.to_owned(), region: region.to_owned(), operation };
        let bucket = self.0.entry(account).or_insert(Bucket { tokens: at_once, filled_at: now });
        let elapsed = now.duration_since(bucket.filled_at).as_secs_f64();
        bucket.tokens = elapsed.mul_add(rate, bucket.tokens).min(at_once);
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
        let start = tollgate_clock::monotonic();
        let mut served = |account: &str, region: &str, at: Duration| {
            quotas.take(start + at, account, region, Operation::RegisterUsage, 5.0)
        };
        assert_eq!((0..10).filter(|_| served("a", "us-east-1", Duration::ZERO)).count(), 5);
        assert!(served("b", "us-east-1", Duration::ZERO));
        assert!(served("a", "eu-west-1", Duration::ZERO));
        assert_eq!((0..10).filter(|_| served("a", "us-east-1", Duration::from_secs(1))).count(), 5);
        assert!(!served("a", "us-east-1", Duration::from_millis(1100)));
        assert!(served("a", "us-east-1", Duration::from_millis(1300)));
    }

    #[test]
    fn a_pod_uses_its_buyers_quota_and_a_service_its_sellers() {
        let mut world = World::of_default();
        let start = tollgate_clock::monotonic();
        let served = |world: &World, operation| {
            let mut quotas = Quotas::default();
            (0..12).filter(|_| quotas.admit(start, world, "pod", "us-east-1", operation)).count()
        };
        assert_eq!(served(&world, Operation::RegisterUsage), 5);
        for operation in [Operation::MeterUsage, Operation::BatchMeterUsage, Operation::ResolveCustomer] {
            assert_eq!(served(&world, operation), 10, "{operation:?}");
        }
        let mut entitled = Quotas::default();
        assert_eq!(
            (0..25)
                .filter(|_| entitled.admit(start, &world, "pod", "us-east-1", Operation::GetEntitlements))
                .count(),
            20
        );
        let mut quotas = Quotas::default();
        let mut admit = |pod: &str, operation| quotas.admit(start, &world, pod, "us-east-1", operation);
        assert!((0..5).all(|_| admit("pod-1", Operation::RegisterUsage)));
        assert!(!admit("pod-2", Operation::RegisterUsage), "another pod of the same account");
        assert!(admit("pod-1", Operation::MeterUsage), "another operation");
        world.switches.set("quota_burst", "one-call").unwrap();
        assert_eq!(served(&world, Operation::RegisterUsage), 1);
        world.switches.set("resolve_quota", "none").unwrap();
        assert_eq!(served(&world, Operation::ResolveCustomer), 12);
    }
}
