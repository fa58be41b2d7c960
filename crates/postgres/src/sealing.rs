//! Closes hours and seals their usage into records.
//!
//! - An hour is closed for everybody under its exclusive lock, which waits for the groups of events that were begun
//!   before. From then on nothing is added to it.
//! - Closed slots are sealed in their order, a piece in each transaction, so that no acknowledgement waits long for
//!   one.
//! - A slot that cannot be sealed stays, and the others are sealed. It is tried again when the next hour closes.

use std::collections::BTreeMap;
use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use crate::carrying::{self, Addition, Columns, IfOtherForm, Slot};
use crate::connect::Failed;
use crate::lease::{Leader, Leading};
use crate::schema::LOCKS;
use tollgate_clock as clock;
use tollgate_ledger::{HoursAt, LedgerError, Sealing, TAG_BYTES_MAX, TAGGED_SETS_MAX, lifecycle, stored};
use tollgate_marketplace::{Customer, Hour, HourUsage, TagSet};
use tollgate_metering::seal::{self, Sum};
use tollgate_time::Timestamp;

/// Most slots of a piece. The next piece is smaller if one took too long, or if a slot in it cannot be sealed.
const SLOTS_MAX: usize = 250;

/// The fewest slots to which a slow piece makes the next one: the transaction itself takes time too.
const SLOTS_SLOW: usize = 50;

/// Rows that are read for a piece. A slot with more is a piece of its own.
const ROWS_MAX: i64 = 750;

/// How long a piece may take; requests for the same disk wait as long.
const PIECE_TIME: Duration = Duration::from_millis(25);

/// Most hours that are closed at once: each needs a lock.
const HOURS_MAX: i64 = 500;

/// How long closing waits for an hour's lock: meanwhile new groups of events wait too. The wait doubles with each
/// attempt, up to a second.
const LOCK_WAIT: Duration = Duration::from_millis(75);

/// The pause between two attempts.
const LOCK_PAUSE: Duration = Duration::from_millis(500);

/// With each hour that closes, the hour before which keys are forgotten moves by at most this much: a clock that is
/// wrong for a moment closes hours, and must not forget every key.
const FORGOTTEN_STEP: i64 = 6;

/// How far sealing is.
#[derive(Debug)]
pub(crate) struct Progress {
    /// For each kind of slots: what was current when all of them were done.
    done: [Option<i64>; 3],
    /// For each kind of slots: the pass that is under way.
    runs: [Option<Run>; 3],
    /// The latest piece was one of a flush.
    was_early: bool,
    slots_max: usize,
    /// Attempts to close an hour that did not get its lock.
    attempts: u32,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            done: [None; 3],
            runs: [const { None }; 3],
            was_early: false,
            slots_max: SLOTS_MAX,
            attempts: 0,
        }
    }
}

/// Which slots are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Those of closed hours, when another hour was closed.
    Closed,
    /// Those that a flush closed before the end of their hour, when a flush was done.
    Early,
    /// Those that a clock that was ahead put into an hour to come, in each hour.
    Ahead,
}

/// One pass over the slots of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    kind: Kind,
    /// What is current: the closed hour, the version, or the hour.
    current: i64,
    /// The slot after which the next piece begins.
    after: Slot,
}

impl Progress {
    /// The pass of the next piece. `current`: what is current for each kind. Somebody waits for a flush, so it goes
    /// before the end of an hour, but not always.
    fn run(&self, current: [i64; 3]) -> Option<Run> {
        let kinds = if self.was_early {
            [Kind::Closed, Kind::Early, Kind::Ahead]
        } else {
            [Kind::Early, Kind::Closed, Kind::Ahead]
        };
        kinds.into_iter().find_map(|kind| {
            let current = current[kind as usize];
            let begins = || {
                let hour = Hour::from_number(i64::MIN);
                let after = Slot { hour, customer: String::new(), dimension: String::new() };
                (self.done[kind as usize] != Some(current)).then_some(Run { kind, current, after })
            };
            self.runs[kind as usize].clone().or_else(begins)
        })
    }

    /// The next piece begins after `last`; `None` if there is no other.
    fn advance(&mut self, run: &Run, last: Option<Slot>) {
        self.was_early = run.kind == Kind::Early;
        if last.is_none() {
            self.done[run.kind as usize] = Some(run.current);
        }
        self.runs[run.kind as usize] = last.map(|after| Run { after, ..run.clone() });
    }

    /// A piece took this long.
    fn took(&mut self, time: Duration) {
        self.slots_max = if time > PIECE_TIME {
            (self.slots_max / 2).max(SLOTS_SLOW.min(self.slots_max))
        } else {
            (self.slots_max * 2).min(SLOTS_MAX)
        };
    }
}

/// Open usage with all its shares.
#[derive(Debug)]
struct OpenSlot {
    slot: Slot,
    sum: Sum,
    late_from: Option<Hour>,
    /// Where its rows are.
    rows: Vec<String>,
    tag_bytes: usize,
    /// Why it cannot be sealed.
    fault: Option<String>,
}

/// What a piece did.
#[derive(Debug)]
struct Piece {
    made: usize,
    /// The slot after which the next piece begins; `None` if there is no other.
    last: Option<Slot>,
}

impl Leader {
    /// Closes every hour whose time has come, and seals some of its slots; call again while there is more. A replica
    /// that stops seals nothing early: the other replicas still count usage to the open hour.
    pub(crate) async fn seal(&self) -> Result<Sealing, LedgerError> {
        let mut progress = self.progress.lock().await;
        let leading = self.leading().await?;
        let hours = HoursAt::new(Some(leading.closed), self.settings.settle, leading.now);
        if hours.closed != leading.closed {
            return self.close(leading, hours, &mut progress).await;
        }
        let current = [hours.closed.number(), leading.version, hours.current.number()];
        let Some(run) = progress.run(current) else {
            leading.rollback().await?;
            return Ok(Sealing::default());
        };
        let (began, mut tried) = (clock::monotonic(), None);
        match leading.piece(&run, hours, progress.slots_max, &mut tried).await {
            Ok(Piece { made, last }) => {
                if run.kind == Kind::Early && last.is_none() {
                    leading.execute(FLUSHED, &[(&run.current, Type::INT8)]).await?;
                }
                leading.commit_as("seal").await?;
                progress.took(clock::monotonic().duration_since(began));
                progress.advance(&run, last);
                Ok(Sealing { made, more: progress.run(current).is_some() })
            }
            Err(failed) if is_about_content(&failed) => {
                leading.rollback().await?;
                match tried.filter(|_| progress.slots_max == 1) {
                    Some(slot) => {
                        cannot_seal(&slot, &failed.text);
                        progress.advance(&run, Some(slot));
                    }
                    None => progress.slots_max = (progress.slots_max / 2).max(1),
                }
                Ok(Sealing { made: 0, more: true })
            }
            Err(failed) => {
                if failed.code == Some(SqlState::QUERY_CANCELED) {
                    // A statement took too long: a smaller piece may not.
                    progress.slots_max = (progress.slots_max / 2).max(1);
                }
                Err(failed.into())
            }
        }
    }

    /// Closes the hours up to `hours.closed`, or opens hours again that a clock which was ahead had closed.
    async fn close(
        &self,
        leading: Leading<'_>,
        hours: HoursAt,
        progress: &mut Progress,
    ) -> Result<Sealing, LedgerError> {
        let latest = leading.closed.number() + HOURS_MAX;
        let closed = hours.closed.min(Hour::from_number(latest));
        if closed < leading.closed {
            tracing::warn!(event = "clock_went_back", closed = %closed, "the clock went back: hours that it had closed are open again");
        } else {
            let wait = LOCK_WAIT.saturating_mul(1 << progress.attempts.min(4)).min(2 * LOCK_PAUSE);
            match leading.lock_hours(closed, wait).await {
                Ok(()) => progress.attempts = 0,
                Err(failed) if failed.code == Some(SqlState::LOCK_NOT_AVAILABLE) => {
                    leading.rollback().await?;
                    progress.attempts += 1;
                    tokio::time::sleep(LOCK_PAUSE).await;
                    return Ok(Sealing { made: 0, more: true });
                }
                Err(failed) => return Err(failed.into()),
            }
        }
        let window =
            i64::try_from(self.settings.idempotency_window.as_secs().div_ceil(3600)).unwrap_or(i64::MAX);
        let forget = (closed == hours.closed).then(|| hours.present.number().saturating_sub(window));
        leading
            .execute(
                "UPDATE tollgate.ledger SET closed = $1, version = version + 1, forgotten = CASE
                     WHEN $2 IS NULL OR forgotten IS NULL THEN coalesce($2, forgotten)
                     ELSE greatest(forgotten - $3, least(forgotten + $3, $2)) END",
                &[(&closed.number(), Type::INT8), (&forget, Type::INT8), (&FORGOTTEN_STEP, Type::INT8)],
            )
            .await?;
        leading.commit_as("close").await?;
        Ok(Sealing { made: 0, more: true })
    }
}

impl Leading<'_> {
    /// Waits for the groups of events that count to an hour after the closed one, up to `last`.
    async fn lock_hours(&self, last: Hour, wait: Duration) -> Result<(), Failed> {
        let number = |hour: Hour| i32::try_from(hour.number()).unwrap_or(i32::MAX);
        let set = format!("SET LOCAL lock_timeout = '{}ms'", wait.as_millis());
        let params = [
            (&LOCKS as _, Type::INT4),
            (&number(self.closed.next()) as _, Type::INT4),
            (&number(last) as _, Type::INT4),
        ];
        let lock = "SELECT pg_advisory_xact_lock($1, hour) FROM generate_series($2::int, $3::int) AS hour ORDER BY hour";
        let (set, locked) = tokio::join!(biased; self.transaction.batch(&set), self.query(lock, &params));
        set.and(locked.map(|_| ()))
    }

    /// Seals the next slots of a pass, or carries them. `tried` is the last slot, also if it fails.
    async fn piece(
        &self,
        run: &Run,
        hours: HoursAt,
        slots_max: usize,
        tried: &mut Option<Slot>,
    ) -> Result<Piece, Failed> {
        let (mut slots, is_all) = self.open_slots(run, hours, slots_max).await?;
        *tried = slots.last().map(|open| open.slot.clone());
        let last = tried.clone().filter(|_| !is_all);
        slots.retain(|open| {
            if let Some(fault) = &open.fault {
                cannot_seal(&open.slot, fault);
            }
            open.fault.is_none()
        });
        let taken = if run.kind == Kind::Ahead {
            (0..slots.len()).collect()
        } else {
            let columns: Columns<'_> = slots.iter().map(|open| &open.slot).collect();
            carrying::taken(&self.transaction, &columns).await?
        };
        let mut places = 0..;
        let (carried, sealed): (Vec<OpenSlot>, Vec<OpenSlot>) =
            slots.into_iter().partition(|_| places.next().is_some_and(|place| taken.contains(&place)));
        self.carry_slots(run.kind, hours, &carried).await?;
        self.seal_slots(run.kind, hours, &sealed).await?;
        Ok(Piece { made: sealed.len(), last })
    }

    /// The next slots of a pass, and whether they are the last ones.
    async fn open_slots(
        &self,
        run: &Run,
        hours: HoursAt,
        slots_max: usize,
    ) -> Result<(Vec<OpenSlot>, bool), Failed> {
        let (sql, bound) = match run.kind {
            Kind::Closed => (CLOSED_ROWS, hours.closed),
            Kind::Early => (EARLY_ROWS, hours.closed),
            Kind::Ahead => (AHEAD_ROWS, hours.farthest(self.latest_early(hours).await?)),
        };
        let after = &run.after;
        let params = [
            (&after.hour.number() as _, Type::INT8),
            (&after.customer as _, Type::TEXT),
            (&after.dimension as _, Type::TEXT),
            (&bound.number() as _, Type::INT8),
            (&ROWS_MAX as _, Type::INT8),
        ];
        let rows = self.query(sql, &params).await?;
        let mut slots: Vec<OpenSlot> = Vec::new();
        for row in &rows {
            match slots.last_mut().filter(|open| open.slot == slot(row)) {
                Some(open) => open.add(row),
                None => slots.push(OpenSlot::of(row)),
            }
        }
        let mut is_all = i64::try_from(rows.len()).is_ok_and(|rows| rows < ROWS_MAX);
        drop(rows);
        // The last slot may have more rows.
        if !is_all && slots.len() > 1 {
            slots.pop();
        } else if !is_all && let Some(open) = slots.pop() {
            slots.push(self.whole(open.slot).await?);
        }
        is_all &= slots.len() <= slots_max;
        slots.truncate(slots_max);
        Ok((slots, is_all))
    }

    /// A slot with many rows.
    async fn whole(&self, slot: Slot) -> Result<OpenSlot, Failed> {
        const PAGE: &str =
            "SELECT ctid::text, hour, customer, dimension, tags, (amount + additive)::text, first_at,
                late_from, writer, tags_key FROM tollgate.sums
            WHERE hour = $1 AND customer = $2 AND dimension = $3 AND (writer, tags_key) > ($4, $5)
            ORDER BY writer, tags_key LIMIT $6 FOR UPDATE";
        let (mut after, mut whole): ((i64, Vec<u8>), Option<OpenSlot>) = ((i64::MIN, Vec::new()), None);
        loop {
            let params = [
                (&slot.hour.number() as _, Type::INT8),
                (&slot.customer as _, Type::TEXT),
                (&slot.dimension as _, Type::TEXT),
                (&after.0 as _, Type::INT8),
                (&after.1 as _, Type::BYTEA),
                (&ROWS_MAX as _, Type::INT8),
            ];
            let page = self.query(PAGE, &params).await?;
            for row in &page {
                match &mut whole {
                    Some(open) => open.add(row),
                    None => whole = Some(OpenSlot::of(row)),
                }
            }
            match (page.last(), whole) {
                (Some(row), some) => {
                    after = (row.get(8), row.get(9));
                    whole = some;
                }
                (None, Some(open)) => return Ok(open),
                (None, None) => return Err(odd("a slot's rows are gone")),
            }
        }
    }

    /// The latest hour with slots that were sealed before its end, as far as the clock makes it credible.
    async fn latest_early(&self, hours: HoursAt) -> Result<Option<Hour>, Failed> {
        let sql = "SELECT max(hour) FROM tollgate.closed_early WHERE hour <= $1";
        let rows = self.query(sql, &[(&hours.present.next().number(), Type::INT8)]).await?;
        Ok(rows.first().and_then(|row| row.get(0)).map(Hour::from_number))
    }

    /// Makes a record of each slot. What exceeds AWS's maximum counts to the current hour.
    async fn seal_slots(&self, kind: Kind, hours: HoursAt, slots: &[OpenSlot]) -> Result<(), Failed> {
        if slots.is_empty() {
            return Ok(());
        }
        let sealed: Vec<seal::Sealed> =
            slots.iter().map(|open| seal::seal(open.slot.hour, &open.sum, self.now)).collect();
        let columns: Columns<'_> = slots.iter().map(|open| &open.slot).collect();
        let usages: Vec<&HourUsage> = sealed.iter().map(|sealed| &sealed.usage).collect();
        let late_from: Vec<Option<i64>> = slots.iter().map(|open| open.late_from.map(Hour::number)).collect();
        let due_at = if kind == Kind::Early { lifecycle::FIRST } else { 0 };
        let (removed, made, linked) = tokio::join!(biased;
            self.remove(slots),
            self.insert(&columns, &usages, &late_from, due_at),
            self.link_sealed(&columns));
        removed?;
        made?;
        linked?;
        let (mut rests, mut targets) = (Vec::new(), Vec::new());
        for (open, sealed) in slots.iter().zip(&sealed).filter(|(_, sealed)| !sealed.rest.is_empty()) {
            targets.push(Slot { hour: hours.current, ..open.slot.clone() });
            rests.push((open.slot.hour, &sealed.rest));
        }
        let placed = carrying::place(&self.transaction, targets.clone(), IfOtherForm::GoOn).await?;
        let additions =
            targets.into_iter().zip(placed).zip(rests).filter_map(|((target, hour), (from, rest))| {
                let slot = Slot { hour: hour?, ..target };
                Some(Addition { slot, parts: parts(rest), first_at: self.now, late_from: Some(from) })
            });
        carrying::add(&self.transaction, additions.collect()).await
    }

    async fn insert(
        &self,
        slots: &Columns<'_>,
        usages: &[&HourUsage],
        late_from: &[Option<i64>],
        due_at: i64,
    ) -> Result<(), Failed> {
        const INSERT: &str = "INSERT INTO tollgate.records (hour, customer, dimension, micros, decimal, allocations,
                allocation_count, timestamp, client_token, late_from, state, sealed_at, updated_at, due_at)
            SELECT hour, customer, dimension, micros, decimal, allocations, allocation_count, timestamp, client_token,
                late_from, 'sealed', $11, $11, $12
            FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::boolean[], $6::text[], $7::int[],
                $8::bigint[], $9::text[], $10::bigint[]) AS sealed (hour, customer, dimension, micros, decimal, allocations,
                allocation_count, timestamp, client_token, late_from)";
        let micros: Vec<i64> =
            usages.iter().map(|usage| i64::try_from(usage.quantity.micros()).unwrap_or(i64::MAX)).collect();
        let decimal: Vec<bool> = usages.iter().map(|usage| usage.decimal).collect();
        let allocations: Vec<String> = usages.iter().map(|usage| stored::text(&usage.allocations)).collect();
        let counts: Vec<i32> =
            usages.iter().map(|usage| i32::try_from(usage.allocations.len()).unwrap_or(i32::MAX)).collect();
        let timestamps: Vec<i64> = usages.iter().map(|usage| usage.timestamp.unix_millis()).collect();
        let tokens: Vec<String> = usages.iter().map(|_| client_token()).collect::<Result<_, _>>()?;
        let made = self
            .execute(
                INSERT,
                &[
                    (&slots.hours, Type::INT8_ARRAY),
                    (&slots.customers, Type::TEXT_ARRAY),
                    (&slots.dimensions, Type::TEXT_ARRAY),
                    (&micros, Type::INT8_ARRAY),
                    (&decimal, Type::BOOL_ARRAY),
                    (&allocations, Type::TEXT_ARRAY),
                    (&counts, Type::INT4_ARRAY),
                    (&timestamps, Type::INT8_ARRAY),
                    (&tokens, Type::TEXT_ARRAY),
                    (&late_from, Type::INT8_ARRAY),
                    (&self.now.unix_millis(), Type::INT8),
                    (&due_at, Type::INT8),
                ],
            )
            .await?;
        same(made, usages.len())
    }

    /// Notes into which records the slots were sealed whose usage came from other records.
    async fn link_sealed(&self, slots: &Columns<'_>) -> Result<(), Failed> {
        const LINK: &str = "UPDATE tollgate.links SET target = records.id
            FROM unnest($1::bigint[], $2::text[], $3::text[]) AS slot (hour, customer, dimension)
                JOIN tollgate.records USING (customer, dimension, hour)
            WHERE links.target IS NULL AND links.hour = slot.hour AND links.customer = slot.customer
                AND links.dimension = slot.dimension";
        self.execute(
            LINK,
            &[
                (&slots.hours, Type::INT8_ARRAY),
                (&slots.customers, Type::TEXT_ARRAY),
                (&slots.dimensions, Type::TEXT_ARRAY),
            ],
        )
        .await
        .map(|_| ())
    }

    /// Carries slots, as usage of now, to the current hour or the first one after it that takes their usage.
    async fn carry_slots(&self, kind: Kind, hours: HoursAt, slots: &[OpenSlot]) -> Result<(), Failed> {
        let targets: Vec<Slot> =
            slots.iter().map(|open| Slot { hour: hours.current, ..open.slot.clone() }).collect();
        let placed = carrying::place(&self.transaction, targets, IfOtherForm::GoOn).await?;
        let mut carried = Vec::new();
        for (open, hour) in slots.iter().zip(placed) {
            // A slot of an hour to come waits for it if every earlier hour has another form.
            carried.extend(
                hour.filter(|hour| kind != Kind::Ahead || *hour < open.slot.hour).map(|hour| (open, hour)),
            );
        }
        if carried.is_empty() {
            return Ok(());
        }
        self.remove(carried.iter().map(|(open, _)| *open)).await?;
        let moved: Vec<i64> = carried.iter().map(|(_, hour)| hour.number()).collect();
        let from: Columns<'_> = carried.iter().map(|(open, _)| &open.slot).collect();
        self.execute(
            "UPDATE tollgate.links SET hour = slot.moved
             FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[]) AS slot (hour, customer, dimension, moved)
             WHERE links.target IS NULL AND links.hour = slot.hour AND links.customer = slot.customer
                 AND links.dimension = slot.dimension",
            &[
                (&from.hours, Type::INT8_ARRAY),
                (&from.customers, Type::TEXT_ARRAY),
                (&from.dimensions, Type::TEXT_ARRAY),
                (&moved, Type::INT8_ARRAY),
            ],
        )
        .await?;
        let addition = |(open, hour): &(&OpenSlot, Hour)| {
            // If the slot's hour is later, a clock that was ahead put the usage there: it did not come from that hour.
            let earlier = (open.slot.hour < *hour).then_some(open.slot.hour);
            Addition {
                slot: Slot { hour: *hour, ..open.slot.clone() },
                parts: parts(&open.sum.shares),
                first_at: self.now,
                late_from: [earlier, open.late_from].into_iter().flatten().min(),
            }
        };
        carrying::add(&self.transaction, carried.iter().map(addition).collect()).await
    }

    /// Deletes exactly the rows that were read. They are locked, so they did not move.
    async fn remove(&self, slots: impl IntoIterator<Item = &OpenSlot>) -> Result<(), Failed> {
        let rows: Vec<&str> =
            slots.into_iter().flat_map(|open| open.rows.iter().map(String::as_str)).collect();
        let sql = "DELETE FROM tollgate.sums WHERE ctid = ANY($1::tid[])";
        same(self.execute(sql, &[(&rows, Type::TEXT_ARRAY)]).await?, rows.len())
    }
}

impl OpenSlot {
    /// Begins with a slot's first row.
    fn of(row: &Row) -> Self {
        let slot = slot(row);
        let known = Customer::from_canonical(&slot.customer);
        let mut open = Self {
            fault: known.is_none().then(|| "its customer cannot be read".to_owned()),
            slot,
            sum: Sum { shares: BTreeMap::new(), first_at: Timestamp::from_unix_millis(row.get(6)) },
            late_from: None,
            rows: Vec::new(),
            tag_bytes: 0,
        };
        open.add(row);
        open
    }

    /// Adds another row of the slot. Several replicas may have counted more sets of tags than AWS takes: usage of the
    /// others counts as untagged.
    fn add(&mut self, row: &Row) {
        self.rows.push(row.get(0));
        let (tags, amount): (&str, &str) = (row.get(4), row.get(5));
        let (Ok(tags), Ok(amount)) = (serde_json::from_str::<TagSet>(tags), amount.parse::<i128>()) else {
            self.fault = Some("its tags or its amount cannot be read".to_owned());
            return;
        };
        let first_at = Timestamp::from_unix_millis(row.get(6));
        let late_from: Option<i64> = row.get(7);
        self.sum.first_at = self.sum.first_at.min(first_at);
        self.late_from = [self.late_from, late_from.map(Hour::from_number)].into_iter().flatten().min();
        let tags = self.room_for(tags);
        *self.sum.shares.entry(tags).or_default() += amount;
    }

    /// The tags if there is room for them, else none.
    fn room_for(&mut self, tags: TagSet) -> TagSet {
        let untagged = TagSet::default();
        if tags == untagged || self.sum.shares.contains_key(&tags) {
            return tags;
        }
        let sets = self.sum.shares.len() - usize::from(self.sum.shares.contains_key(&untagged));
        let bytes = self.tag_bytes + tags.request_bytes();
        if sets >= TAGGED_SETS_MAX || bytes > TAG_BYTES_MAX {
            return untagged;
        }
        self.tag_bytes = bytes;
        tags
    }
}

/// The usage that flushes had closed up to this version is sealed. Afterwards the transaction takes no other lock: a
/// flush holds an hour's lock while it changes the row.
const FLUSHED: &str = "UPDATE tollgate.ledger SET flushed = $1 WHERE flushed < $1";

/// The rows of slots after a slot, up to an hour. Rows of one slot are together.
const CLOSED_ROWS: &str =
    "SELECT ctid::text, hour, customer, dimension, tags, (amount + additive)::text, first_at,
        late_from FROM tollgate.sums
    WHERE (hour, customer, dimension) > ($1, $2, $3) AND hour <= $4
    ORDER BY hour, customer, dimension, writer, tags_key LIMIT $5 FOR UPDATE";

/// The same after an hour.
const AHEAD_ROWS: &str =
    "SELECT ctid::text, hour, customer, dimension, tags, (amount + additive)::text, first_at,
        late_from FROM tollgate.sums
    WHERE (hour, customer, dimension) > ($1, $2, $3) AND hour > $4
    ORDER BY hour, customer, dimension, writer, tags_key LIMIT $5 FOR UPDATE";

/// The same for customers whose hours were closed before their end.
const EARLY_ROWS: &str = "SELECT open.ctid::text, open.hour, open.customer, open.dimension, open.tags,
        (open.amount + open.additive)::text, open.first_at, open.late_from
    FROM tollgate.closed_early AS early,
        LATERAL (SELECT ctid, * FROM tollgate.sums
                 WHERE sums.hour = early.hour AND sums.customer = early.customer FOR UPDATE) AS open
    WHERE (open.hour, open.customer, open.dimension) > ($1, $2, $3) AND early.hour > $4
    ORDER BY open.hour, open.customer, open.dimension, open.writer, open.tags_key LIMIT $5";

fn slot(row: &Row) -> Slot {
    Slot { hour: Hour::from_number(row.get(1)), customer: row.get(2), dimension: row.get(3) }
}

fn parts(shares: &BTreeMap<TagSet, i128>) -> Vec<(String, i128)> {
    shares.iter().map(|(tags, amount)| (tags.canonical(), *amount)).collect()
}

/// 128 random bits, so that AWS deduplicates the record's attempts.
fn client_token() -> Result<String, Failed> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| odd("there are no random bytes"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whether the statement failed because of what it was to write, so that it would fail again.
fn is_about_content(failed: &Failed) -> bool {
    // Data exceptions and integrity constraints.
    failed.code.as_ref().is_some_and(|code| code.code().starts_with("22") || code.code().starts_with("23"))
}

fn cannot_seal(slot: &Slot, error: &str) {
    let Slot { hour, customer, dimension } = slot;
    tracing::error!(event = "slot_not_sealed", %hour, customer = Customer::shown(customer), dimension, error, "usage of this hour cannot be sealed; it is kept, and tried again when the next hour closes");
}

fn same(changed: u64, expected: usize) -> Result<(), Failed> {
    if u64::try_from(expected).is_ok_and(|expected| expected == changed) {
        return Ok(());
    }
    Err(odd("rows that this replica holds were changed by another program"))
}

fn odd(text: &str) -> Failed {
    Failed { text: text.to_owned(), code: None, broken: false }
}
