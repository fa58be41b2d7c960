//! How many calls the AWS door forwards: it shares AWS's quotas with other pods of the account and with our own sender.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use crate::api::attestation::Registrations;
use crate::api::rate::{Bucket, Rate};

/// Half of AWS's quota of 10 calls a second for each account and region; the other half is for our own sender. A client
/// that is throttled here retries later, as it would with AWS.
const SHARE: Rate = Rate { burst: 10, every: Duration::from_millis(200) };

/// One bucket for each operation.
#[derive(Debug)]
pub(super) struct Rates {
    registrations: Registrations,
    meter: Mutex<Bucket>,
    batch: Mutex<Bucket>,
    resolve: Mutex<Bucket>,
}

impl Rates {
    pub(super) fn new(registrations: Registrations) -> Self {
        let share = || Mutex::new(Bucket::new(SHARE));
        Self { registrations, meter: share(), batch: share(), resolve: share() }
    }

    /// Takes one call of an operation, or returns how long until one is available.
    pub(super) fn take(&self, operation: &str, now: Instant) -> Result<(), Duration> {
        let bucket = match operation {
            "RegisterUsage" => &*self.registrations,
            "MeterUsage" => &self.meter,
            "BatchMeterUsage" => &self.batch,
            _ => &self.resolve,
        };
        let mut bucket: MutexGuard<'_, Bucket> = bucket.lock().expect("held for arithmetic only");
        bucket.take(now)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::api::attestation::{BURST, registrations};
    use tollgate_clock as clock;

    #[test]
    fn registrations_share_the_limit_of_attestations_and_each_operation_has_its_own() {
        let (shared, now) = (registrations(), clock::monotonic());
        let rates = Rates::new(Arc::clone(&shared));
        shared.lock().unwrap().take(now).unwrap();
        let passed = |operation: &str| (0..100).take_while(|_| rates.take(operation, now).is_ok()).count();
        assert_eq!(passed("RegisterUsage"), BURST as usize - 1);
        assert!(
            shared.lock().unwrap().take(now).is_err(),
            "an attestation has to wait for the door's calls too"
        );
        for operation in ["MeterUsage", "BatchMeterUsage", "ResolveCustomer"] {
            assert_eq!(passed(operation), SHARE.burst as usize, "{operation}");
        }
        assert_eq!(rates.take("MeterUsage", now + SHARE.every), Ok(()));
    }
}
