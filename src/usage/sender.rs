//! Sends sealed records until AWS has answered. It performs what `policy` decides and keeps nothing in memory that the
//! ledger does not hold: kill it at any moment and the next one goes on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::clock::{self, Timestamp, WallClock};
use crate::entitlement::word::Tell;
use crate::marketplace::{
    BatchMeterUsage, BoxFuture, Fault, FaultClass, FaultCode, MeterUsage, Metering, ProductCode,
    RecordStatus, Signing, UsageRecord,
};
use crate::metrics::{LedgerFigures, Metrics};
use crate::registration::schedule::{self, Draw};
use crate::usage::batch;
use crate::usage::event::Customer;
use crate::usage::ledger::writer::Writer;
use crate::usage::ledger::{Answered, LedgerError, Record};
use crate::usage::policy::{self, Policy, Todo};

/// Calls are at least so far apart: AWS takes ten a second for each account and region.
const CALL_EVERY: Duration = Duration::from_millis(110);

/// Hours are looked at so often; a jump of the clock is looked at at once.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// After a fault of the disk.
const DISK_PAUSE: Duration = Duration::from_secs(5);

/// Unsent records looked at in one go, without their allocations: a pod's whole window with 150 dimensions.
const RECORDS_AT_ONCE: usize = 1000;

/// An order to send what there is until a deadline, with an answer when that is done.
#[derive(Debug)]
pub struct Flush {
    /// Seal the open hour first.
    pub seal_open_hour: bool,
    /// No new attempt after it.
    pub until: Instant,
    /// Answered at the end.
    pub done: oneshot::Sender<()>,
}

/// Which operation takes the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlet {
    /// One record a call, of this pod's own account.
    MeterUsage,
    /// 25 records a call, of the seller's customers.
    BatchMeterUsage,
}

/// What the sender needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The product whose usage it is.
    pub product_code: ProductCode,
    /// Where it goes.
    pub outlet: Outlet,
    /// When, and what answers mean.
    pub policy: Policy,
}

/// The sender's surroundings.
pub struct Sender {
    settings: Settings,
    metering: Arc<dyn Metering>,
    writer: Writer,
    clock: WallClock,
    metrics: Arc<Metrics>,
    tell: Tell,
    flushes: mpsc::Receiver<Flush>,
    random: SystemRandom,
    /// Faults that concern every record began here.
    failing_since: Option<Instant>,
    pause_until: Option<Instant>,
    /// How the next call is signed: after a fault of access with new credentials, and once with AWS's clock.
    signing: Signing,
    tried_clock_offset: bool,
    /// No attempt begins after it.
    until: Option<Instant>,
    /// Records whose half-time alarm was given.
    alarmed: BTreeSet<i64>,
}

/// How a look goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Haste {
    /// Closed hours, each record after its phase.
    Calm,
    /// Closed hours at once.
    Hurry,
    /// The open hour too.
    Last,
}

impl Sender {
    /// Joins the parts; nothing is sent yet.
    #[must_use]
    pub fn new(
        settings: Settings,
        metering: Arc<dyn Metering>,
        writer: Writer,
        clock: WallClock,
        metrics: Arc<Metrics>,
        tell: Tell,
        flushes: mpsc::Receiver<Flush>,
    ) -> Self {
        Self {
            settings,
            metering,
            writer,
            clock,
            metrics,
            tell,
            flushes,
            random: SystemRandom::new(),
            failing_since: None,
            pause_until: None,
            signing: Signing::default(),
            tried_clock_offset: false,
            until: None,
            alarmed: BTreeSet::new(),
        }
    }

    /// Runs until it is dropped; ends only when the ledger fails.
    pub async fn run(mut self) -> LedgerError {
        let mut jumps = self.clock.jumps();
        loop {
            match self.look(Haste::Calm).await {
                Ok(_) => {}
                // A disk that is full or slow may recover; what was not noted is in doubt, and that is on disk.
                Err(LedgerError::Io(error)) => {
                    tracing::error!(error, "the ledger cannot be written; it is tried again");
                    tokio::time::sleep(DISK_PAUSE).await;
                }
                Err(error) => return error,
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = jumps.changed() => {}
                Some(flush) = self.flushes.recv() => {
                    let flushed = self.flush(&flush).await;
                    self.until = None;
                    if let Err(error) = flushed {
                        return error;
                    }
                    let _ = flush.done.send(());
                }
            }
        }
    }

    /// Sends until nothing is left, or nothing more can be done in time.
    async fn flush(&mut self, flush: &Flush) -> Result<(), LedgerError> {
        let mut haste = if flush.seal_open_hour { Haste::Last } else { Haste::Hurry };
        self.pause_until = None;
        // The process ends then, and what is under way would be in doubt.
        self.until = Some(flush.until);
        loop {
            let left = self.look(haste).await?;
            // Sealed once: usage that comes during the flush counts to the next hour.
            haste = Haste::Hurry;
            let pause = self.pause_until.unwrap_or_else(|| clock::monotonic() + CALL_EVERY);
            if left == 0 || pause >= flush.until {
                return Ok(());
            }
            tokio::time::sleep_until(pause).await;
        }
    }

    /// Seals what is due and sends what can be sent; returns how many records could still be sent in this haste.
    async fn look(&mut self, haste: Haste) -> Result<usize, LedgerError> {
        let now = self.clock.now();
        let (mut sealed, mut open_hour) = (0, haste == Haste::Last);
        // In pieces, between which acknowledgements are given.
        loop {
            let sealing = self
                .writer
                .with(move |ledger| if open_hour { ledger.seal_now(now) } else { ledger.seal_closed(now) })
                .await?;
            sealed += sealing.made;
            if !sealing.more {
                break;
            }
            open_hour = false;
        }
        if sealed > 0 {
            tracing::info!(records = sealed, "hours sealed");
        }
        // Before an alarm, so that whoever hears it finds the figures.
        self.show().await?;
        let due = self.due(now, haste).await?;
        let paused = self.pause_until.is_some_and(|until| clock::monotonic() < until);
        let left = if paused { due.len() } else { self.send_all(due, haste).await? };
        self.show().await?;
        Ok(left)
    }

    /// The records that can be sent now, oldest first; those whose window is over are noted.
    async fn due(&mut self, now: Timestamp, haste: Haste) -> Result<Vec<Record>, LedgerError> {
        let (mut due, mut last, mut alarming) = (Vec::new(), None, BTreeSet::new());
        // All are looked at, and not the first thousand: those that wait must not hide others.
        loop {
            let page = self.writer.with(move |ledger| ledger.unsent_after(last, RECORDS_AT_ONCE)).await?;
            for record in &page {
                if now >= self.settings.policy.alarm_at(record) {
                    alarming.insert(record.id);
                    self.alarm(record);
                }
                match self.settings.policy.todo(record, now, haste != Haste::Calm) {
                    Todo::WaitUntil(_) => {}
                    Todo::Give(answered) => self.note(record, answered).await?,
                    Todo::Send if due.len() < RECORDS_AT_ONCE => due.push(record.clone()),
                    Todo::Send => {}
                }
            }
            match page.last() {
                Some(record) if page.len() == RECORDS_AT_ONCE => last = Some((record.hour, record.id)),
                _ => break,
            }
        }
        self.alarmed = alarming;
        Ok(due)
    }

    /// Backlog, dead letters and size, for the metrics.
    async fn show(&self) -> Result<(), LedgerError> {
        let summary = self.writer.with(|ledger| ledger.summary()).await?;
        let window = self.settings.policy.window;
        self.metrics.ledger(LedgerFigures {
            unsent: summary.unsent,
            oldest_unsent: summary.oldest_unsent.map(|at| (at, window.closes(at))),
            dead: summary.dead,
            bytes: summary.bytes,
        });
        Ok(())
    }

    /// Half of AWS's window has passed and a record is not sent: somebody should look while there is time.
    fn alarm(&self, record: &Record) {
        if !self.alarmed.contains(&record.id) {
            let closes = self.settings.policy.window.closes(record.timestamp);
            tracing::error!(
                record = record.id, dimension = record.dimension, hour = %record.hour, code = record.code,
                window_closes = %closes,
                "a record is unsent after half of AWS's window; find out why before the window closes"
            );
        }
    }

    /// Sends until a fault that concerns every record, the end of the time, or an order to flush; returns how many were
    /// left.
    async fn send_all(&mut self, mut due: Vec<Record>, haste: Haste) -> Result<usize, LedgerError> {
        while !due.is_empty() {
            let ordered = haste == Haste::Calm && !self.flushes.is_empty();
            if ordered || self.is_over() {
                return Ok(due.len());
            }
            let (ids, go_on) = match self.settings.outlet {
                Outlet::MeterUsage => {
                    let id = due[0].id;
                    let Some(record) = self.load(id).await? else { return Ok(0) };
                    (vec![id], self.send(&record).await?)
                }
                Outlet::BatchMeterUsage => {
                    let mut records = Vec::new();
                    for light in batch::next(&due) {
                        records.extend(self.load(light.id).await?);
                    }
                    // Again, now that the allocations count.
                    let chosen: Vec<Record> = batch::next(&records).into_iter().cloned().collect();
                    (chosen.iter().map(|record| record.id).collect(), self.send_batch(chosen).await?)
                }
            };
            due.retain(|record| !ids.contains(&record.id));
            if !go_on {
                return Ok(due.len() + ids.len());
            }
            tokio::time::sleep(CALL_EVERY).await;
        }
        Ok(0)
    }

    fn is_over(&self) -> bool {
        self.until.is_some_and(|until| clock::monotonic() >= until)
    }

    async fn load(&self, id: i64) -> Result<Option<Record>, LedgerError> {
        self.writer.with(move |ledger| ledger.record(id)).await
    }

    /// Sends one record; `false` when the others would fare no better now.
    async fn send(&mut self, record: &Record) -> Result<bool, LedgerError> {
        let (id, now) = (record.id, self.clock.now());
        self.writer.with(move |ledger| ledger.attempt(&[id], now)).await?;
        let request = MeterUsage {
            product_code: self.settings.product_code.clone(),
            dimension: record.dimension.clone(),
            timestamp: record.timestamp,
            quantity: record.quantity,
            decimal: record.decimal,
            allocations: record.allocations.clone(),
            client_token: record.client_token.clone(),
            dry_run: false,
        };
        match self.metering.meter_usage(request, self.signing).await {
            Ok(metered) => {
                self.heard(None, metered.emulated);
                self.note(record, Answered::Accepted(metered.metering_record_id)).await?;
                Ok(true)
            }
            Err(fault) => {
                if fault.class == FaultClass::Denied {
                    self.heard(Some(fault.code.clone()), fault.emulated);
                }
                let answered = self.settings.policy.judge(record.in_doubt, &fault);
                let go_on = self.go_on_after(&fault);
                self.note(record, answered).await?;
                Ok(go_on)
            }
        }
    }

    /// Sends records in one call; where AWS rejects the call for what is in it, in halves, until it is one record's.
    fn send_batch(&mut self, records: Vec<Record>) -> BoxFuture<'_, Result<bool, LedgerError>> {
        Box::pin(async move {
            let (ids, now): (Vec<i64>, _) =
                (records.iter().map(|record| record.id).collect(), self.clock.now());
            self.writer.with(move |ledger| ledger.attempt(&ids, now)).await?;
            let licensed = records.iter().any(|record| is_licensed(&record.customer));
            let request = BatchMeterUsage {
                // Under Concurrent Agreements the licence names the product.
                product_code: (!licensed).then(|| self.settings.product_code.clone()),
                records: records.iter().map(usage_record).collect(),
            };
            match self.metering.batch_meter_usage(request, self.signing).await {
                Ok(metered) => {
                    self.heard(None, metered.emulated);
                    for (record, status) in records.iter().zip(metered.statuses) {
                        self.note(record, answered(status)).await?;
                    }
                    Ok(true)
                }
                Err(fault) => {
                    if policy::concerns_the_record(&fault) && records.len() > 1 {
                        return self.send_halves(records, &fault).await;
                    }
                    let policy = &self.settings.policy;
                    let judged: Vec<Answered> =
                        records.iter().map(|record| policy.judge(record.in_doubt, &fault)).collect();
                    let go_on = self.go_on_after(&fault);
                    for (record, answered) in records.iter().zip(judged) {
                        self.note(record, answered).await?;
                    }
                    Ok(go_on)
                }
            }
        })
    }

    async fn send_halves(&mut self, records: Vec<Record>, fault: &Fault) -> Result<bool, LedgerError> {
        tracing::warn!(code = %fault.code, records = records.len(), "AWS rejects a batch for one of its records");
        for record in &records {
            // The whole call was refused: whatever was in doubt before still is, and nothing was added to it.
            self.note(record, Answered::Refused(fault.code.as_str().to_owned())).await?;
        }
        let mut first = records;
        let second = first.split_off(first.len() / 2);
        for half in [first, second] {
            tokio::time::sleep(CALL_EVERY).await;
            if self.is_over() || !self.send_batch(half).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// AWS answered about the entitlement; only who reports for itself hears of its own.
    fn heard(&mut self, refusal: Option<FaultCode>, emulated: bool) {
        if refusal.is_none() {
            self.failing_since = None;
            self.pause_until = None;
            self.signing.reload_credentials = false;
            self.tried_clock_offset = false;
        }
        self.tell.send_if_modified(|word| {
            let before = word.clone();
            word.refusal = refusal;
            word.emulated |= emulated;
            before != *word
        });
    }

    /// A record's own fault concerns no other record; everything else pauses the sending.
    fn go_on_after(&mut self, fault: &Fault) -> bool {
        tracing::debug!(code = %fault.code, detail = fault.detail, "records not taken");
        if policy::concerns_the_record(fault) {
            return true;
        }
        if matches!(fault.class, FaultClass::Access | FaultClass::ExpiredSession) {
            self.signing.reload_credentials = true;
            if fault.clock_is_off() && !self.tried_clock_offset {
                // The next call is signed by AWS's clock. It is made at once, as the registration's is.
                self.tried_clock_offset = true;
                return false;
            }
        } else {
            self.signing.reload_credentials = false;
        }
        let now = clock::monotonic();
        let waited = now.duration_since(*self.failing_since.get_or_insert(now));
        let mut bytes = [0; 8];
        let draw = self
            .random
            .fill(&mut bytes)
            .map_or(Draw::MIDDLE, |()| Draw::from_bits(u64::from_ne_bytes(bytes)));
        let pause = match fault.class {
            FaultClass::Denied | FaultClass::Misconfigured => schedule::refused(draw),
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
            Answered::Accepted(_) => tracing::info!(
                record = id, dimension = record.dimension, hour = %record.hour, quantity = %record.quantity,
                "usage billed"
            ),
            Answered::Dead(code) => tracing::error!(
                record = id, dimension = record.dimension, hour = %record.hour, code,
                "a record will not be billed and is a dead letter; see `tollgate ledger dead-letters`"
            ),
            Answered::Carry(code) => tracing::warn!(
                record = id, dimension = record.dimension, hour = %record.hour, code,
                "a record missed its window and counts to the current hour"
            ),
            Answered::Refused(code) | Answered::Unknown(code) => tracing::warn!(
                record = id, dimension = record.dimension, hour = %record.hour, code,
                in_doubt = matches!(answered, Answered::Unknown(_)),
                "AWS has not taken the record; it is kept"
            ),
        }
        self.writer.with(move |ledger| ledger.answered(id, &answered, now)).await
    }
}

const fn is_licensed(customer: &Customer) -> bool {
    matches!(customer, Customer::Account { license_arn: Some(_), .. })
}

fn usage_record(record: &Record) -> UsageRecord {
    let (customer_identifier, customer_account_id, license_arn) = match record.customer.clone() {
        Customer::Own => (None, None, None),
        Customer::Identifier(identifier) => (Some(identifier), None, None),
        Customer::Account { account_id, license_arn } => (None, Some(account_id), license_arn),
    };
    UsageRecord {
        customer_identifier,
        customer_account_id,
        license_arn,
        dimension: record.dimension.clone(),
        timestamp: record.timestamp,
        quantity: record.quantity,
        decimal: record.decimal,
        allocations: record.allocations.clone(),
    }
}

fn answered(status: RecordStatus) -> Answered {
    match status {
        RecordStatus::Success(id) => Answered::Accepted(id),
        RecordStatus::CustomerNotSubscribed => Answered::Refused("CustomerNotSubscribed".to_owned()),
        // Another writer reports for this customer, or did.
        RecordStatus::DuplicateRecord => Answered::Dead("DuplicateRecord".to_owned()),
        RecordStatus::Unprocessed => Answered::Refused("Unprocessed".to_owned()),
        RecordStatus::Unanswered => Answered::Unknown(policy::UNANSWERED.to_owned()),
    }
}

#[cfg(test)]
mod tests;
