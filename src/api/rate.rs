//! How often something may happen: a token bucket. Pure: time is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// What a bucket allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many at once, after a quiet time.
    pub burst: u32,
    /// Time until one more is allowed.
    pub every: Duration,
}

/// A token bucket, full at first.
#[derive(Debug)]
pub struct Bucket {
    rate: Rate,
    /// When the bucket is full again; each one that is taken moves it by `every`.
    empty_until: Option<Instant>,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub const fn new(rate: Rate) -> Self {
        Self { rate, empty_until: None }
    }

    /// Takes one, or returns how long until one is available.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let Rate { burst, every } = self.rate;
        let from = self.empty_until.map_or(now, |until| until.max(now));
        let next = from + every;
        let ahead = next.duration_since(now);
        if ahead > every * burst {
            return Err(ahead - every * burst);
        }
        self.empty_until = Some(next);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_one_at_a_time() {
        let rate = Rate { burst: 3, every: Duration::from_secs(60) };
        let (mut bucket, start) = (Bucket::new(rate), tollgate_clock::monotonic());
        for _ in 0..rate.burst {
            assert_eq!(bucket.take(start), Ok(()));
        }
        assert_eq!(bucket.take(start), Err(rate.every));
        let later = start + rate.every;
        assert_eq!((bucket.take(later), bucket.take(later)), (Ok(()), Err(rate.every)));
        let quiet = later + 60 * rate.every;
        let taken = (0..10).filter(|_| bucket.take(quiet).is_ok()).count();
        assert_eq!(taken, 3, "a quiet hour saves up no more than the burst");
    }
}
