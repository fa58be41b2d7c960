//! Warns when records are still unsent after half of AWS's window, while there is time to act. One log line for all of
//! them, and rarely: sixty thousand records are one problem.

use std::time::Duration;

use tollgate_ledger::LedgerError;
use tollgate_ledger::store::Store;
use tollgate_metering::policy::SendingPolicy;
use tollgate_time::Timestamp;

/// How often the line is repeated.
const AGAIN_AFTER: Duration = Duration::from_secs(1800);

/// When the line was last logged, since the sender began.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    given_at: Option<Duration>,
}

impl Alarm {
    /// Logs the line if it is due.
    pub(super) async fn look(
        &mut self,
        policy: &SendingPolicy,
        store: &dyn Store,
        now: Timestamp,
        elapsed: Duration,
    ) -> Result<(), LedgerError> {
        let last = policy.alarm_up_to(now);
        let found = store.unsent_up_to(last, 1).await?.pop().map(|due| due.record);
        let Some(oldest) = found.filter(|oldest| policy.alarm_at(oldest.timestamp) <= now) else {
            self.given_at = None;
            return Ok(());
        };
        if self.given_at.is_some_and(|at| elapsed < at + AGAIN_AFTER) {
            return Ok(());
        }
        let records = store.count_unsent_up_to(last).await?;
        self.given_at = Some(elapsed);
        let closes = policy.window.closes(oldest.timestamp);
        tracing::error!(
            event = "records_overdue",
            records, record = oldest.id, dimension = oldest.dimension, hour = %oldest.hour, code = oldest.code,
            window_closes = %closes,
            "records are still unsent after half of AWS's window: find out why before it closes. This line names \
             the oldest"
        );
        Ok(())
    }
}
