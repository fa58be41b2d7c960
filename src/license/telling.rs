//! Reports the license to operators: metrics, and log lines when the contract ends.

use std::sync::Arc;
use std::time::Duration;

use super::ending::{Ending, Notice};
use super::{Held, Knowledge};
use crate::metrics::{LicenseFigures, Metrics, SeatFigures};
use tollgate_clock::WallClock;
use tollgate_time::Timestamp;

/// A round is overdue this long after its time: enough for two failed attempts and the pauses between them.
const OVERDUE_AFTER: Duration = Duration::from_secs(120);

/// The settings that decide what is reported.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// `renew_every`.
    pub renew_every: Duration,
    /// How long the gate stays open after a granted round, where no seat is held.
    pub grace_period: Duration,
    /// `license_end_grace`.
    pub end_grace: Duration,
}

impl Rule {
    /// When to alert if no round is granted before: after half of the time for which the grant counts, and never
    /// before the next regular round is overdue. Seats are renewed before half of their time has passed; other rounds
    /// have jitter.
    fn alarm(&self, knowledge: &Knowledge) -> Option<Timestamp> {
        let granted = knowledge.granted_at?;
        let with_jitter = self.renew_every.saturating_add(self.renew_every / 4);
        let (from, half, in_time) = match knowledge.held.iter().min_by_key(|held| held.expires) {
            Some(first) => {
                let half = first.expires.since(first.renewed) / 2;
                (first.renewed, half, with_jitter.min(half))
            }
            None => (granted, self.grace_period / 2, with_jitter),
        };
        Some(from.plus(half.max(in_time.saturating_add(OVERDUE_AFTER))))
    }

    fn figures(&self, knowledge: &Knowledge) -> LicenseFigures {
        let counted =
            knowledge.seats().filter(|seats| seats.entitlement.unit.is_none_or(|unit| !unit.is_tier()));
        LicenseFigures {
            seats: counted
                .map(|seats| SeatFigures {
                    dimension: seats.entitlement.name.clone(),
                    max: seats.max,
                    used: seats.used,
                    held: seats.held,
                })
                .collect(),
            end: knowledge.end(),
            granted: knowledge.granted_at,
            alarm: self.alarm(knowledge),
        }
    }
}

/// Updates the metrics and logs notices until the publisher is dropped.
pub async fn follow(mut held: Held, rule: Rule, clock: WallClock, metrics: Arc<Metrics>) {
    let mut ending = Ending::new(rule.end_grace);
    loop {
        let knowledge = Arc::clone(&held.borrow_and_update());
        metrics.license(&rule.figures(&knowledge));
        let end = knowledge.end();
        let (notice, next) = ending.due(end, clock.now());
        if let (Some(notice), Some(end)) = (notice, end) {
            say(notice, end, rule.end_grace, knowledge.chosen.as_deref());
        }
        let next_stage = async {
            match next {
                Some(at) => clock.wait_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = held.changed() => if changed.is_err() { return },
            () = next_stage => {}
        }
    }
}

fn say(notice: Notice, end: Timestamp, grace: Duration, license: Option<&str>) {
    match notice {
        Notice::Ends(left) => {
            let text = format!(
                "The contract ends at {end}, in {}: renew it in AWS Marketplace, Manage subscriptions.",
                days(left)
            );
            tracing::warn!(event = "license_ending", license, ends_at = %end, "{text}");
        }
        Notice::Ended(_) => {
            let shuts = end.plus(grace);
            let text = format!(
                "The contract ended at {end}, and the gate shuts at {shuts}: renew it in AWS Marketplace, Manage \
                 subscriptions."
            );
            tracing::error!(event = "license_ended", license, ends_at = %end, shuts_at = %shuts, "{text}");
        }
    }
}

/// In hours on the last two days; rounded, because a stage is noticed a little after its time.
fn days(left: Duration) -> String {
    let hours = (left.as_secs() + 1800) / 3600;
    if hours < 48 { format!("{hours} h") } else { format!("{} days", hours / 24) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::license::knowledge::{self, HeldSeats};

    fn at(minutes: u64) -> Timestamp {
        Timestamp::from_unix_seconds(1_800_000_000).plus(minutes_of(minutes))
    }

    const fn minutes_of(minutes: u64) -> Duration {
        Duration::from_secs(60 * minutes)
    }

    fn seats(renewed: u64, expires: u64) -> HeldSeats {
        let (name, unit) = ("users".to_owned(), "Count".to_owned());
        HeldSeats { name, unit, quantity: 1, expires: at(expires), renewed: at(renewed) }
    }

    /// Renewals, grace and held seats in minutes; the alarm in minutes after the grant.
    #[test]
    fn the_alarm_is_after_half_of_the_grant_and_never_before_a_round_that_is_in_time() {
        for (renew_every, grace, held, alarm) in [
            (15, 24 * 60, vec![], Some(12 * 60)),
            (16, 20, vec![], Some(22)),
            (16, 0, vec![], Some(22)),
            (15, 24 * 60, vec![seats(0, 60)], Some(30)),
            (15, 24 * 60, vec![seats(0, 20)], Some(12)),
            (60, 24 * 60, vec![seats(0, 60)], Some(32)),
            (15, 24 * 60, vec![seats(5, 65), seats(0, 60)], Some(30)),
        ] {
            let rule = Rule {
                renew_every: minutes_of(renew_every),
                grace_period: minutes_of(grace),
                end_grace: minutes_of(0),
            };
            let knowledge = Knowledge { granted_at: Some(at(0)), held, ..Knowledge::default() };
            assert_eq!(rule.alarm(&knowledge), alarm.map(at), "{renew_every} {grace}");
            assert_eq!(rule.alarm(&Knowledge { granted_at: None, ..knowledge }), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn metrics_follow_what_is_known() {
        let (publisher, held) = knowledge::channel();
        let (clock, metrics) = (WallClock::fixed(at(0)), Arc::new(Metrics::new()));
        let rule =
            Rule { renew_every: minutes_of(15), grace_period: minutes_of(60), end_grace: minutes_of(0) };
        let following = tokio::spawn(follow(held, rule, clock, Arc::clone(&metrics)));
        publisher.send_replace(Arc::new(Knowledge { granted_at: Some(at(0)), ..Knowledge::default() }));
        drop(publisher);
        following.await.unwrap();
        let (_publisher, entitlement) = crate::entitlement::channel(at(0));
        let text = metrics.encode(&entitlement.borrow(), crate::metrics::Format::Text);
        let granted = format!("tollgate_license_granted_timestamp_seconds {}", at(0).unix_seconds());
        assert!(text.lines().any(|line| line == granted), "{text}");
    }
}
