//! Sends sealed records until AWS has answered. It performs what `policy` decides and keeps nothing in memory that the
//! ledger does not hold: kill it at any moment and the next one goes on.

use std::sync::Arc;
use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::clock::{self, WallClock};
use crate::marketplace::{Fault, FaultClass, MeterUsage, Metering, ProductCode, Signing};
use crate::metrics::Metrics;
use crate::registration::schedule::{self, Draw};
use crate::usage::ledger::writer::Writer;
use crate::usage::ledger::{Answered, LedgerError, Record};
use crate::usage::policy::{Policy, Todo};

/// Calls are at least so far apart: AWS takes ten a second for each account and region.
const CALL_EVERY: Duration = Duration::from_millis(110);

/// Hours are looked at so often; a jump of the clock is looked at at once.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Records read at once; the rest waits for the next look.
const RECORDS_AT_ONCE: usize = 100;

/// An order to seal and send what there is, with an answer when that is done.
pub type Flush = oneshot::Sender<()>;

/// The sender's surroundings.
pub struct Sender {
    product_code: ProductCode,
    policy: Policy,
    metering: Arc<dyn Metering>,
    writer: Writer,
    clock: WallClock,
    metrics: Arc<Metrics>,
    flushes: mpsc::Receiver<Flush>,
    random: SystemRandom,
    /// Transient faults in a row began here.
    failing_since: Option<Instant>,
    pause_until: Option<Instant>,
}

impl Sender {
    /// Joins the parts; nothing is sent yet.
    #[must_use]
    pub fn new(
        product_code: ProductCode,
        policy: Policy,
        metering: Arc<dyn Metering>,
        writer: Writer,
        clock: WallClock,
        metrics: Arc<Metrics>,
        flushes: mpsc::Receiver<Flush>,
    ) -> Self {
        Self {
            product_code,
            policy,
            metering,
            writer,
            clock,
            metrics,
            flushes,
            random: SystemRandom::new(),
            failing_since: None,
            pause_until: None,
        }
    }

    /// Runs until it is dropped; ends only when the ledger fails.
    pub async fn run(mut self) -> LedgerError {
        let mut jumps = self.clock.jumps();
        loop {
            if let Err(error) = self.look(false).await {
                return error;
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = jumps.changed() => {}
                Some(done) = self.flushes.recv() => {
                    if let Err(error) = self.look(true).await {
                        return error;
                    }
                    let _ = done.send(());
                }
            }
        }
    }

    /// Seals what is due and sends what can be sent. `hurry` seals the open hour and waits for no phase.
    async fn look(&mut self, hurry: bool) -> Result<(), LedgerError> {
        let now = self.clock.now();
        let sealed = self
            .writer
            .with(move |ledger| if hurry { ledger.seal_now(now) } else { ledger.seal_closed(now) })
            .await?;
        if sealed > 0 {
            tracing::info!(records = sealed, "hours sealed");
        }
        if !hurry && self.pause_until.is_some_and(|until| clock::monotonic() < until) {
            return Ok(());
        }
        let records = self.writer.with(|ledger| ledger.unsent(RECORDS_AT_ONCE)).await?;
        for record in records {
            match self.policy.todo(&record, self.clock.now(), hurry) {
                Todo::WaitUntil(_) => {}
                Todo::Give(answered) => self.note(&record, answered).await?,
                Todo::Send => {
                    let go_on = self.send(&record).await?;
                    if !go_on {
                        break;
                    }
                    tokio::time::sleep(CALL_EVERY).await;
                }
            }
        }
        Ok(())
    }

    /// Sends one record; `false` when the others would fare no better now.
    async fn send(&mut self, record: &Record) -> Result<bool, LedgerError> {
        let (id, now) = (record.id, self.clock.now());
        self.writer.with(move |ledger| ledger.attempt(&[id], now)).await?;
        let request = MeterUsage {
            product_code: self.product_code.clone(),
            dimension: record.dimension.clone(),
            timestamp: record.timestamp,
            quantity: record.quantity,
            decimal: record.decimal,
            allocations: record.allocations.clone(),
            client_token: record.client_token.clone(),
            dry_run: false,
        };
        let signing = Signing { reload_credentials: self.failing_since.is_some(), clock_offset_seconds: 0 };
        match self.metering.meter_usage(request, signing).await {
            Ok(metered) => {
                self.failing_since = None;
                self.pause_until = None;
                self.note(record, Answered::Accepted(metered.metering_record_id)).await?;
                Ok(true)
            }
            Err(fault) => {
                tracing::debug!(code = %fault.code, detail = fault.detail, "record not taken");
                let answered = self.policy.judge(record.in_doubt, &fault);
                self.note(record, answered).await?;
                Ok(self.go_on_after(&fault))
            }
        }
    }

    /// A record's own fault concerns no other record; everything else pauses the sending.
    fn go_on_after(&mut self, fault: &Fault) -> bool {
        if fault.class == FaultClass::Misconfigured {
            return true;
        }
        let now = clock::monotonic();
        let waited = now.duration_since(*self.failing_since.get_or_insert(now));
        let mut bytes = [0; 8];
        let draw = self
            .random
            .fill(&mut bytes)
            .map_or(Draw::MIDDLE, |()| Draw::from_bits(u64::from_ne_bytes(bytes)));
        let pause = match fault.class {
            FaultClass::Denied => schedule::refused(draw),
            _ => schedule::transient(waited, draw),
        };
        self.pause_until = Some(now + pause);
        false
    }

    async fn note(&self, record: &Record, answered: Answered) -> Result<(), LedgerError> {
        let outcome = match &answered {
            Answered::Accepted(_) => "accepted",
            Answered::Refused(_) => "refused",
            Answered::Unknown(_) => "unknown",
            Answered::Carry(_) => "carried",
            Answered::Dead(_) => "dead",
        };
        self.metrics.usage_record(&record.dimension, outcome);
        let (id, now) = (record.id, self.clock.now());
        match &answered {
            Answered::Dead(code) => tracing::error!(
                record = id, dimension = record.dimension, hour = %record.hour, code,
                "a record will not be billed and is a dead letter; see `tollgate ledger dead-letters`"
            ),
            Answered::Carry(code) => tracing::warn!(
                record = id, dimension = record.dimension, hour = %record.hour, code,
                "a record missed its window and counts to the current hour"
            ),
            _ => {}
        }
        self.writer.with(move |ledger| ledger.answered(id, &answered, now)).await
    }
}
