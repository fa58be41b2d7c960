//! The sender's steps: which records are due, which are in doubt, what is sent, what AWS answered.
//!
//! Records that are settled (accepted, carried) move from `records` to `settled` with the answer, so that the sender's
//! queries find only open ones. What AWS accepted is added to `outcome` and `daily` in the same transaction, also if it
//! is unconfirmed.

use std::collections::BTreeSet;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::carrying::{self, Addition, IfOtherForm, Slot};
use crate::connect::{Failed, Param};
use crate::lease::{Leader, Leading};
use crate::rows::{self, BEHIND, COLUMNS};
use crate::rules::{self, Changes};
use tollgate_ledger::{DUE_AHEAD_MAX, HoursAt, LedgerError, OTHER_FORM, is_denial, stored};
use tollgate_marketplace::{Allocation, Hour, Quantity, Region};
use tollgate_metering::batch;
use tollgate_metering::record::{Answered, Due, Noted, RecordState, Whole};
use tollgate_time::Timestamp;

/// The condition where records are looked up by their number. Compared like this, no index of sealed records is used
/// instead, of which every entry would be read.
const IS_SEALED: &str = "records.state || '' = 'sealed'";

/// Records that one step of [`Leader::release`] makes due.
const RELEASED_MAX: usize = 500;

/// Most records that are carried together, and most bytes of their allocations: all of them are in memory.
const CARRIED_MAX: usize = 100;
const CARRIED_BYTES_MAX: i64 = 4 << 20;

impl Leader {
    /// Unsent records that are due, those that have waited longest first.
    pub(crate) async fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<Due>, LedgerError> {
        let (millis, ahead) = (now.unix_millis(), now.plus(DUE_AHEAD_MAX).unix_millis());
        let past = "state = 'sealed' AND due_at <= $2 ORDER BY due_at, id";
        let mut due = self.light(past, limit, &[(&millis, Type::INT8)]).await?;
        let left = limit.saturating_sub(due.len());
        if left > 0 {
            let far = "state = 'sealed' AND due_at > $2 ORDER BY due_at, id";
            due.extend(self.light(far, left, &[(&ahead, Type::INT8)]).await?);
        }
        Ok(due)
    }

    /// Records in doubt, due or not, those that have waited longest first.
    pub(crate) async fn doubtful(&self, limit: usize) -> Result<Vec<Due>, LedgerError> {
        self.light("state = 'sealed' AND in_doubt ORDER BY due_at, id", limit, &[]).await
    }

    /// Unsent records of this and earlier hours, oldest first.
    pub(crate) async fn unsent_up_to(&self, hour: Hour, limit: usize) -> Result<Vec<Due>, LedgerError> {
        let condition = "state = 'sealed' AND hour <= $2 ORDER BY hour, id";
        self.light(condition, limit, &[(&hour.number(), Type::INT8)]).await
    }

    /// How many records of this and earlier hours are unsent.
    pub(crate) async fn count_unsent_up_to(&self, hour: Hour) -> Result<u64, LedgerError> {
        let sql = "SELECT count(*) FROM tollgate.records WHERE state = 'sealed' AND hour <= $1";
        let count: i64 = self.one(sql, &[(&hour.number(), Type::INT8)]).await?.get(0);
        Ok(u64::try_from(count).unwrap_or_default())
    }

    /// When the next unsent record is due.
    pub(crate) async fn next_due(&self) -> Result<Option<Timestamp>, LedgerError> {
        let sql = "SELECT min(due_at) FROM tollgate.records WHERE state = 'sealed'";
        let at: Option<i64> = self.one(sql, &[]).await?.get(0);
        Ok(at.map(Timestamp::from_unix_millis))
    }

    /// Whether AWS's latest answer that accepted or denied usage was a denial.
    pub(crate) async fn is_denied(&self) -> Result<bool, LedgerError> {
        Ok(self.one("SELECT denied FROM tollgate.ledger", &[]).await?.get(0))
    }

    /// Records without their allocations, with the allocations' size. The first parameter is the limit.
    async fn light(
        &self,
        condition: &str,
        limit: usize,
        bounds: &[Param<'_>],
    ) -> Result<Vec<Due>, LedgerError> {
        let sql = format!(
            "SELECT {COLUMNS}, octet_length(allocations) FROM tollgate.records WHERE {condition} LIMIT $1"
        );
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let params: Vec<Param<'_>> =
            std::iter::once((&limit as _, Type::INT8)).chain(bounds.iter().cloned()).collect();
        let due = |row: &Row| {
            let stored_bytes = usize::try_from(row.get::<_, i32>(BEHIND)).unwrap_or_default();
            Ok(Due { record: rows::record(row)?, stored_bytes })
        };
        self.read(&sql, &params).await?.iter().map(due).collect()
    }

    async fn one(&self, sql: &str, params: &[Param<'_>]) -> Result<Row, LedgerError> {
        let none = || LedgerError::Io("the database gave no answer".to_owned());
        self.read(sql, params).await?.into_iter().next().ok_or_else(none)
    }

    /// Makes some waiting records due at once, at most `limit`, those with the earliest due time first. Returns how
    /// many: call again until it returns 0.
    pub(crate) async fn release(&self, now: Timestamp, limit: usize) -> Result<usize, LedgerError> {
        let leading = self.leading().await?;
        let step = i64::try_from(limit.min(RELEASED_MAX)).unwrap_or(i64::MAX);
        let released = leading
            .execute(
                "UPDATE tollgate.records SET due_at = $2 WHERE id = ANY(ARRAY(SELECT id FROM tollgate.records
                     WHERE state = 'sealed' AND due_at > $2 ORDER BY due_at, id LIMIT $1))",
                &[(&step, Type::INT8), (&now.unix_millis(), Type::INT8)],
            )
            .await?;
        leading.commit_as("release").await?;
        Ok(usize::try_from(released).unwrap_or(usize::MAX))
    }

    /// Sets the due times of unsent records.
    pub(crate) async fn defer(&self, until: &[(i64, Timestamp)]) -> Result<(), LedgerError> {
        let ids: Vec<i64> = until.iter().map(|(id, _)| *id).collect();
        let times: Vec<i64> = until.iter().map(|(_, at)| at.unix_millis()).collect();
        let leading = self.leading().await?;
        leading
            .execute(
                &format!(
                    "UPDATE tollgate.records SET due_at = later.due_at
                     FROM unnest($1::bigint[], $2::bigint[]) AS later (id, due_at)
                     WHERE records.id = later.id AND {IS_SEALED}"
                ),
                &[(&ids, Type::INT8_ARRAY), (&times, Type::INT8_ARRAY)],
            )
            .await?;
        Ok(leading.commit_as("defer").await?)
    }

    /// Of these records, reads those that are unsent and fit into one call, and commits that they are about to be sent
    /// to `region`, or to the region of an earlier attempt.
    pub(crate) async fn begin(
        &self,
        ids: &[i64],
        region: Option<&Region>,
        now: Timestamp,
    ) -> Result<Vec<Whole>, LedgerError> {
        let leading = self.leading().await?;
        let sql = format!(
            "SELECT {COLUMNS}, allocations
             FROM unnest($1::bigint[]) WITH ORDINALITY AS wanted (id, place) JOIN tollgate.records USING (id)
             WHERE {IS_SEALED} ORDER BY place"
        );
        let mut fits = batch::fits();
        let mut records = Vec::with_capacity(ids.len());
        for row in leading.query(&sql, &[(&ids, Type::INT8_ARRAY)]).await? {
            let whole = rows::whole(&row)?;
            records.extend(Some(whole).filter(|whole| fits(whole)));
        }
        let chosen: Vec<i64> = records.iter().map(|whole| whole.record.id).collect();
        // If an attempt is still marked as under way, its answer could not be noted.
        leading
            .execute(
                "UPDATE tollgate.records SET in_doubt = in_doubt OR attempting, attempting = true,
                     attempts = attempts + 1, updated_at = $2, region = coalesce(region, $3), epoch = $4
                 WHERE id = ANY($1)",
                &[
                    (&chosen, Type::INT8_ARRAY),
                    (&now.unix_millis(), Type::INT8),
                    (&region.map(Region::as_str), Type::TEXT),
                    (&leading.lease.epoch, Type::INT8),
                ],
            )
            .await?;
        leading.commit_as("attempt").await?;
        for Whole { record, .. } in &mut records {
            record.region = record.region.take().or_else(|| region.cloned());
        }
        Ok(records)
    }

    /// Commits answers or decisions together. `region`: where the calls went, for records that were sent before it was
    /// known.
    pub(crate) async fn answered_all(
        &self,
        mut notes: Vec<Noted>,
        region: Option<&Region>,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let denied = denial(&notes);
        let leading = self.leading().await?;
        let hours = HoursAt::new(Some(leading.closed), self.settings.settle, leading.now);
        let answers = Answers { leading: &leading, hours, region: region.map(Region::as_str), now };
        while !notes.is_empty() {
            // One statement changes a record once.
            let mut ids = BTreeSet::new();
            let (round, later): (Vec<Noted>, Vec<Noted>) =
                notes.into_iter().partition(|noted| ids.insert(noted.id));
            answers.write(round).await?;
            notes = later;
        }
        if let Some(denied) = denied {
            // Most answers do not change it.
            let sql = "UPDATE tollgate.ledger SET denied = $1 WHERE denied <> $1";
            leading.execute(sql, &[(&denied, Type::BOOL)]).await?;
        }
        Ok(leading.commit_as("answer").await?)
    }
}

/// AWS's latest answer that accepted or denied usage: whether it was a denial.
fn denial(notes: &[Noted]) -> Option<bool> {
    notes.iter().rev().find_map(|noted| match &noted.answered {
        Answered::Accepted(_) => Some(false),
        Answered::Refused(code) if is_denial(code) => Some(true),
        _ => None,
    })
}

/// The transaction that notes answers.
struct Answers<'a> {
    leading: &'a Leading<'a>,
    hours: HoursAt,
    region: Option<&'a str>,
    now: Timestamp,
}

/// Records that are settled.
#[derive(Default)]
struct Settled {
    ids: Vec<i64>,
    codes: Vec<Option<String>>,
    record_ids: Vec<Option<String>>,
}

/// Records that stay in `records`.
#[derive(Default)]
struct Changed {
    ids: Vec<i64>,
    states: Vec<&'static str>,
    in_doubt: Vec<bool>,
    codes: Vec<String>,
    due_at: Vec<Option<i64>>,
}

impl Changed {
    fn push(&mut self, id: i64, state: RecordState, code: String, due_at: Option<Timestamp>) {
        self.ids.push(id);
        self.states.push(state.as_str());
        self.in_doubt.push(state.in_doubt());
        self.codes.push(code);
        self.due_at.push(due_at.map(Timestamp::unix_millis));
    }
}

impl Answers<'_> {
    /// Writes notes about different records.
    async fn write(&self, notes: Vec<Noted>) -> Result<(), Failed> {
        let (mut accepted, mut carried, mut changed) = (Settled::default(), Vec::new(), Changed::default());
        for Noted { id, answered, due_at } in notes {
            // A record stays in doubt until an answer is about the record itself: a refused retry proves nothing about
            // the call before.
            let (state, code) = match answered {
                Answered::Accepted(record_id) => {
                    accepted.ids.push(id);
                    accepted.record_ids.push(record_id);
                    accepted.codes.push(None);
                    continue;
                }
                Answered::Carry(code) => {
                    carried.push((id, code));
                    continue;
                }
                Answered::Unconfirmed(code) => (RecordState::Accepted { unconfirmed: true }, code),
                Answered::Refused(code) => (RecordState::Sealed { in_doubt: false }, code),
                Answered::Unknown(code) => (RecordState::Sealed { in_doubt: true }, code),
                Answered::Dead(code) => (RecordState::Dead { in_doubt: false }, code),
            };
            changed.push(id, state, code, due_at);
        }
        self.carry(carried, &mut changed).await?;
        if !accepted.ids.is_empty() {
            self.settle(&accepted, "accepted", "true").await?;
        }
        if !changed.ids.is_empty() {
            self.change(&changed).await?;
        }
        Ok(())
    }

    /// Moves records to `settled`, those that meet the condition.
    async fn settle(&self, settled: &Settled, state: &str, condition: &str) -> Result<(), Failed> {
        let sql = format!(
            "WITH gone AS (
                DELETE FROM tollgate.records
                USING unnest($1::bigint[], $2::text[], $3::text[]) AS noted (id, new_code, new_record_id)
                WHERE records.id = noted.id AND {IS_SEALED} AND {condition}
                RETURNING records.*, new_code, new_record_id),
            kept AS (
                INSERT INTO tollgate.settled (day, id, customer, dimension, hour, micros, decimal, allocations,
                    allocation_count, timestamp, client_token, late_from, state, in_doubt, unconfirmed, attempts, epoch,
                    code, metering_record_id, sealed_at, updated_at, region, raw, rounded)
                SELECT hour / 24, id, customer, dimension, hour, micros, decimal, allocations, allocation_count,
                    timestamp, client_token, late_from, $4, in_doubt, unconfirmed, attempts, epoch, new_code,
                    coalesce(new_record_id, metering_record_id), sealed_at, $5,
                    CASE WHEN attempting THEN coalesce(region, $6) ELSE region END, raw, rounded
                FROM gone),
            billed AS (
                SELECT customer, dimension, hour / 24 AS day, coalesce(raw, micros) AS amount FROM gone
                WHERE $4 = 'accepted')
            {ADD_BILLED}"
        );
        self.leading
            .execute(
                &sql,
                &[
                    (&settled.ids, Type::INT8_ARRAY),
                    (&settled.codes, Type::TEXT_ARRAY),
                    (&settled.record_ids, Type::TEXT_ARRAY),
                    (&state, Type::TEXT),
                    (&self.now.unix_millis(), Type::INT8),
                    (&self.region, Type::TEXT),
                ],
            )
            .await
            .map(|_| ())
    }

    /// Notes answers about records that stay.
    async fn change(&self, changed: &Changed) -> Result<(), Failed> {
        let sql = format!(
            "WITH changed AS (
                UPDATE tollgate.records SET state = noted.state, in_doubt = records.in_doubt OR noted.in_doubt,
                    attempting = false, code = noted.code, updated_at = $6,
                    due_at = coalesce(noted.due_at, records.due_at),
                    unconfirmed = records.unconfirmed OR noted.state = 'accepted',
                    region = CASE WHEN attempting THEN coalesce(region, $7) ELSE region END
                FROM unnest($1::bigint[], $2::text[], $3::boolean[], $4::text[], $5::bigint[])
                    AS noted (id, state, in_doubt, code, due_at)
                WHERE records.id = noted.id AND {IS_SEALED}
                RETURNING records.*),
            billed AS (
                SELECT customer, dimension, hour / 24 AS day, coalesce(raw, micros) AS amount FROM changed
                WHERE state = 'accepted')
            {ADD_BILLED}"
        );
        self.leading
            .execute(
                &sql,
                &[
                    (&changed.ids, Type::INT8_ARRAY),
                    (&changed.states, Type::TEXT_ARRAY),
                    (&changed.in_doubt, Type::BOOL_ARRAY),
                    (&changed.codes, Type::TEXT_ARRAY),
                    (&changed.due_at, Type::INT8_ARRAY),
                    (&self.now.unix_millis(), Type::INT8),
                    (&self.region, Type::TEXT),
                ],
            )
            .await
            .map(|_| ())
    }

    /// Counts the quantities of refused records to the current hour, or the next one without a record of their slot.
    /// Those whose customers have another form there become dead letters.
    ///
    /// AWS refused the latest attempt, but not an earlier one without an answer: a record in doubt is not carried.
    async fn carry(&self, mut carried: Vec<(i64, String)>, changed: &mut Changed) -> Result<(), Failed> {
        const SIZES: &str = "SELECT octet_length(allocations)::bigint
            FROM unnest($1::bigint[]) WITH ORDINALITY AS noted (id, place) LEFT JOIN tollgate.records USING (id)
            ORDER BY place";
        if carried.is_empty() {
            return Ok(());
        }
        let ids: Vec<i64> = carried.iter().map(|(id, _)| *id).collect();
        let sizes: Vec<Option<i64>> = self
            .leading
            .query(SIZES, &[(&ids, Type::INT8_ARRAY)])
            .await?
            .iter()
            .map(|row| row.get(0))
            .collect();
        let mut sizes = sizes.into_iter();
        while !carried.is_empty() {
            let mut bytes = 0;
            let within = |size: &Option<i64>| {
                bytes += size.unwrap_or_default();
                bytes <= CARRIED_BYTES_MAX
            };
            let many = sizes.clone().take(carried.len().min(CARRIED_MAX)).take_while(within).count().max(1);
            sizes.by_ref().take(many).for_each(drop);
            let later = carried.split_off(many.min(carried.len()));
            self.carry_some(std::mem::replace(&mut carried, later), changed).await?;
        }
        Ok(())
    }

    async fn carry_some(&self, carried: Vec<(i64, String)>, changed: &mut Changed) -> Result<(), Failed> {
        let read = format!(
            "SELECT id, customer, dimension, coalesce(late_from, hour), coalesce(raw, micros)::text, allocations, micros
             FROM unnest($1::bigint[]) WITH ORDINALITY AS noted (id, place) JOIN tollgate.records USING (id)
             WHERE {IS_SEALED} AND NOT in_doubt ORDER BY place"
        );
        let ids: Vec<i64> = carried.iter().map(|(id, _)| *id).collect();
        let mut found = Vec::new();
        for row in self.leading.query(&read, &[(&ids, Type::INT8_ARRAY)]).await? {
            let slot = Slot { hour: self.hours.current, customer: row.get(1), dimension: row.get(2) };
            let late_from = Some(Hour::from_number(row.get(3)));
            let record = Refused::read(&row)?;
            // Nothing is added for a report of 0.
            found.extend(
                Some((slot, late_from, record)).filter(|(.., record)| record.quantity != Quantity::ZERO),
            );
        }
        let slots = found.iter().map(|(slot, ..)| slot.clone()).collect();
        let placed = carrying::place(&self.leading.transaction, slots, IfOtherForm::Stop).await?;
        let (mut targets, mut refused, mut other_form) = (Vec::new(), Vec::new(), BTreeSet::new());
        for ((slot, late_from, record), hour) in found.into_iter().zip(placed) {
            let Some(hour) = hour else {
                other_form.insert(record.id);
                continue;
            };
            targets.push(Slot { hour, ..slot });
            refused.push((late_from, record));
        }
        self.add_refused(&targets, refused).await?;
        let mut settled = Settled::default();
        for (id, code) in carried {
            if other_form.contains(&id) {
                changed.push(id, RecordState::Dead { in_doubt: false }, OTHER_FORM.to_owned(), None);
                continue;
            }
            settled.ids.push(id);
            settled.codes.push(Some(code));
            settled.record_ids.push(None);
        }
        self.settle(&settled, "carried", "NOT in_doubt").await
    }

    /// Adds the quantities of refused records to slots, in the units of their rules.
    async fn add_refused(
        &self,
        targets: &[Slot],
        refused: Vec<(Option<Hour>, Refused)>,
    ) -> Result<(), Failed> {
        if refused.is_empty() {
            return Ok(());
        }
        let Leading { transaction, rules, .. } = self.leading;
        let began = rules::begin(transaction, rules, targets).await?;
        let (mut sources, mut additions, mut changes) = (Vec::new(), Vec::new(), Changes::default());
        for (slot, (late_from, record)) in targets.iter().zip(refused) {
            let (parts, sum) =
                carrying::unsealed(&began.require(slot)?, record.quantity, &record.allocations);
            changes.accept(slot, sum - record.raw);
            sources.push(record.id);
            additions.push(Addition { slot: slot.clone(), parts, first_at: self.now, late_from });
        }
        carrying::add(transaction, additions).await?;
        carrying::link(transaction, &sources, &targets.iter().collect()).await?;
        changes.write(transaction).await
    }
}

/// A record whose quantity is carried.
struct Refused {
    id: i64,
    quantity: Quantity,
    /// In the event's own unit, by the rule of its hour.
    raw: i128,
    allocations: Vec<Allocation>,
}

impl Refused {
    fn read(row: &Row) -> Result<Self, Failed> {
        let id: i64 = row.get(0);
        let odd = || Failed {
            text: format!("record {id} cannot be read: it was changed by another program"),
            code: None,
            broken: false,
        };
        Ok(Self {
            id,
            quantity: u64::try_from(row.get::<_, i64>(6))
                .ok()
                .and_then(Quantity::from_micros)
                .ok_or_else(odd)?,
            raw: row.get::<_, &str>(4).parse().map_err(|_| odd())?,
            allocations: stored::allocations(row.get(5)).map_err(|_| odd())?,
        })
    }
}

/// Adds what AWS accepted, the rows of `billed`, to the sums that are kept.
const ADD_BILLED: &str = ", customers AS (
        INSERT INTO tollgate.outcome AS held (customer, dimension, billed)
        SELECT customer, dimension, sum(amount) FROM billed GROUP BY customer, dimension ORDER BY customer, dimension
        ON CONFLICT (customer, dimension) DO UPDATE SET billed = held.billed + excluded.billed)
    INSERT INTO tollgate.daily AS held (day, customer, dimension, billed, discarded, records)
    SELECT day, customer, dimension, sum(amount), 0, count(*) FROM billed
    GROUP BY day, customer, dimension ORDER BY day, customer, dimension
    ON CONFLICT (day, customer, dimension) DO UPDATE SET
        billed = held.billed + excluded.billed, records = held.records + excluded.records";
