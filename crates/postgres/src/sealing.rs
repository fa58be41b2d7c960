//! Closes hours and seals their usage into records.
//!
//! - An hour is closed for everybody under its exclusive lock, which waits for the groups of events that were begun
//!   before. From then on nothing is added to it.
//! - Closed slots are sealed in their order, a piece in each transaction, so that no acknowledgement waits long for
//!   one.
//! - A slot that cannot be sealed stays, and the others are sealed. It is tried again when the next hour closes.
//! - A slot is sealed by the rule with which its hour began, together with what stays of the hours before.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use crate::carrying::{self, Addition, Columns, IfOtherForm, Slot};
use crate::connect::{Failed, Transaction};
use crate::lease::{Leader, Leading};
use crate::open_slots::OpenSlot;
use crate::rules::{self, Changes, Kept, KeptKey};
use crate::schema::LOCKS;
use tollgate_clock as clock;
use tollgate_ledger::{HoursAt, LedgerError, Sealing, lifecycle, stored};
use tollgate_marketplace::{Customer, Hour, TagSet};
use tollgate_metering::aggregation::Change;
use tollgate_metering::seal;

/// Most slots of a piece. The next piece is smaller if one took too long, or if a slot in it cannot be sealed.
const SLOTS_MAX: usize = 250;

/// The fewest slots to which a slow piece makes the next one: the transaction itself takes time too.
const SLOTS_SLOW: usize = 50;

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
pub(crate) enum Kind {
    /// Those of closed hours, when another hour was closed.
    Closed,
    /// Those that a flush closed before the end of their hour, when a flush was done.
    Early,
    /// Those that a clock that was ahead put into an hour to come, in each hour.
    Ahead,
}

/// One pass over the slots of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) kind: Kind,
    /// What is current: the closed hour, the version, or the hour.
    current: i64,
    /// The slot after which the next piece begins.
    pub(crate) after: Slot,
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

/// A slot that is sealed.
struct SealedSlot<'a> {
    open: &'a OpenSlot,
    made: seal::Sealed,
    /// What rounding added, less the credit that was used.
    rounded: i128,
}

/// Usage of a slot that is carried to an hour.
struct Carried<'a> {
    open: &'a OpenSlot,
    hour: Hour,
    /// In the unit of the slot's rule.
    shares: &'a BTreeMap<TagSet, i128>,
    late_from: Option<Hour>,
}

/// Records as columns, without their slots.
#[derive(Default)]
struct RecordColumns {
    micros: Vec<i64>,
    decimal: Vec<bool>,
    allocations: Vec<String>,
    counts: Vec<i32>,
    timestamps: Vec<i64>,
    tokens: Vec<String>,
    late_from: Vec<Option<i64>>,
    raw: Vec<Option<String>>,
    rounded: Vec<Option<String>>,
}

impl RecordColumns {
    fn push(&mut self, slot: &SealedSlot<'_>) -> Result<(), Failed> {
        let SealedSlot { open, made: seal::Sealed { usage, sent, .. }, rounded } = slot;
        let other = |amount: i128, unless: i128| (amount != unless).then(|| amount.to_string());
        self.micros.push(i64::try_from(usage.quantity.micros()).unwrap_or(i64::MAX));
        self.decimal.push(usage.decimal);
        self.allocations.push(stored::text(&usage.allocations));
        self.counts.push(i32::try_from(usage.allocations.len()).unwrap_or(i32::MAX));
        self.timestamps.push(usage.timestamp.unix_millis());
        self.tokens.push(client_token()?);
        self.late_from.push(open.late_from.map(Hour::number));
        self.raw.push(other(sent.raw, sent.micros));
        self.rounded.push(other(*rounded, 0));
        Ok(())
    }
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
        let began = rules::began(&self.transaction, self.rules, slots.iter().map(|open| &open.slot)).await?;
        slots.iter_mut().for_each(|open| open.began_with(began.with(&open.slot)));
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
        Ok(Piece { made: self.seal_slots(run.kind, hours, &sealed).await?, last })
    }

    /// Makes a record of each slot; returns how many. None is made if all of a slot's usage stays for the next hour,
    /// unless another record's quantity is in it, whose link needs one. What exceeds AWS's maximum counts to the
    /// current hour.
    async fn seal_slots(&self, kind: Kind, hours: HoursAt, slots: &[OpenSlot]) -> Result<usize, Failed> {
        if slots.is_empty() {
            return Ok(0);
        }
        let columns: Columns<'_> = slots.iter().map(|open| &open.slot).collect();
        let keys = slots.iter().map(|open| KeptKey::of(&open.slot, &open.rule));
        let (early, kept) = tokio::join!(biased;
            carrying::flushed_in_time(&self.transaction, &columns),
            Kept::read(&self.transaction, keys));
        let (early, mut kept, mut changes) = (early?, kept?, Changes::default());
        let mut sealed = Vec::with_capacity(slots.len());
        for (place, open) in slots.iter().enumerate() {
            let key = KeptKey::of(&open.slot, &open.rule);
            let before = kept.get(&key);
            let made = seal::seal(open.slot.hour, &open.sum, &open.rule, before, self.now);
            kept.set(key, made.sent.kept(early.contains(&place)));
            let rounded = Change::of(before, &made.sent).rounded_up;
            changes.accept(&open.slot, open.peak.unwrap_or_default());
            changes.round_up(&open.slot, rounded);
            sealed.push(SealedSlot { open, made, rounded });
        }
        let due_at = if kind == Kind::Early { lifecycle::FIRST } else { 0 };
        let (needless, mut reported): (Vec<&SealedSlot<'_>>, Vec<&SealedSlot<'_>>) =
            sealed.iter().partition(|slot| slot.made.is_needless);
        let columns: Columns<'_> = needless.iter().map(|slot| &slot.open.slot).collect();
        let led_to = led_to(&self.transaction, &columns).await?;
        reported.extend(led_to.iter().filter_map(|place| needless.get(*place)));
        let columns: Columns<'_> = reported.iter().map(|slot| &slot.open.slot).collect();
        let (removed, made, linked) = tokio::join!(biased;
            self.remove(slots),
            self.insert(&columns, &reported, due_at),
            self.link_sealed(&columns));
        removed?;
        made?;
        linked?;
        let rests: Vec<&SealedSlot<'_>> = sealed.iter().filter(|slot| !slot.made.rest.is_empty()).collect();
        let targets =
            rests.iter().map(|slot| Slot { hour: hours.current, ..slot.open.slot.clone() }).collect();
        let placed = carrying::place(&self.transaction, targets, IfOtherForm::GoOn).await?;
        let carried = rests.into_iter().zip(placed).filter_map(|(slot, hour)| {
            let SealedSlot { open, made, .. } = slot;
            let late_from = Some(open.slot.hour);
            Some(Carried { open, hour: hour?, shares: &made.rest, late_from })
        });
        self.add_carried(carried.collect(), &mut changes).await?;
        changes.write(&self.transaction).await?;
        kept.write(&self.transaction).await?;
        Ok(reported.len())
    }

    async fn insert(
        &self,
        slots: &Columns<'_>,
        sealed: &[&SealedSlot<'_>],
        due_at: i64,
    ) -> Result<(), Failed> {
        const INSERT: &str = "INSERT INTO tollgate.records (hour, customer, dimension, micros, decimal, allocations,
                allocation_count, timestamp, client_token, late_from, raw, rounded, state, sealed_at, updated_at, due_at)
            SELECT hour, customer, dimension, micros, decimal, allocations, allocation_count, timestamp, client_token,
                late_from, raw::numeric, rounded::numeric, 'sealed', $13, $13, $14
            FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::boolean[], $6::text[], $7::int[],
                $8::bigint[], $9::text[], $10::bigint[], $11::text[], $12::text[]) AS sealed (hour, customer, dimension,
                micros, decimal, allocations, allocation_count, timestamp, client_token, late_from, raw, rounded)";
        let mut rows = RecordColumns::default();
        for slot in sealed {
            rows.push(slot)?;
        }
        let made = self
            .execute(
                INSERT,
                &[
                    (&slots.hours, Type::INT8_ARRAY),
                    (&slots.customers, Type::TEXT_ARRAY),
                    (&slots.dimensions, Type::TEXT_ARRAY),
                    (&rows.micros, Type::INT8_ARRAY),
                    (&rows.decimal, Type::BOOL_ARRAY),
                    (&rows.allocations, Type::TEXT_ARRAY),
                    (&rows.counts, Type::INT4_ARRAY),
                    (&rows.timestamps, Type::INT8_ARRAY),
                    (&rows.tokens, Type::TEXT_ARRAY),
                    (&rows.late_from, Type::INT8_ARRAY),
                    (&rows.raw, Type::TEXT_ARRAY),
                    (&rows.rounded, Type::TEXT_ARRAY),
                    (&self.now.unix_millis(), Type::INT8),
                    (&due_at, Type::INT8),
                ],
            )
            .await?;
        same(made, sealed.len())
    }

    /// Adds usage to later hours, in the units of their rules.
    async fn add_carried(&self, carried: Vec<Carried<'_>>, changes: &mut Changes) -> Result<(), Failed> {
        if carried.is_empty() {
            return Ok(());
        }
        let targets: Vec<Slot> =
            carried.iter().map(|one| Slot { hour: one.hour, ..one.open.slot.clone() }).collect();
        let began = rules::begin(&self.transaction, self.rules, &targets).await?;
        let mut additions = Vec::with_capacity(carried.len());
        for (Carried { open, shares, late_from, .. }, slot) in carried.into_iter().zip(targets) {
            let (parts, change) = carrying::converted(&open.rule, &began.require(&slot)?, shares);
            changes.accept(&slot, change);
            additions.push(Addition { slot, parts, first_at: self.now, late_from });
        }
        carrying::add(&self.transaction, additions).await
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
        let mut changes = Changes::default();
        let moved = |(open, hour): (_, Hour)| {
            let open: &OpenSlot = open;
            // What counts in the other hour is no maximum any more.
            changes.accept(&open.slot, open.peak.unwrap_or_default());
            // If the slot's hour is later, a clock that was ahead put the usage there: it did not come from that hour.
            let earlier = (open.slot.hour < hour).then_some(open.slot.hour);
            let late_from = [earlier, open.late_from].into_iter().flatten().min();
            Carried { open, hour, shares: &open.sum.shares, late_from }
        };
        let carried = carried.into_iter().map(moved).collect();
        self.add_carried(carried, &mut changes).await?;
        changes.write(&self.transaction).await
    }

    /// Deletes exactly the rows that were read. They are locked, so they did not move.
    async fn remove(&self, slots: impl IntoIterator<Item = &OpenSlot>) -> Result<(), Failed> {
        let rows: Vec<&str> =
            slots.into_iter().flat_map(|open| open.rows.iter().map(String::as_str)).collect();
        let sql = "DELETE FROM tollgate.sums WHERE ctid = ANY($1::tid[])";
        same(self.execute(sql, &[(&rows, Type::TEXT_ARRAY)]).await?, rows.len())
    }
}

/// The places of those slots to which a record's quantity was added.
pub(crate) async fn led_to(
    transaction: &Transaction<'_>,
    slots: &Columns<'_>,
) -> Result<BTreeSet<usize>, Failed> {
    const LED_TO: &str = "SELECT slot.place
        FROM unnest($1::bigint[], $2::text[], $3::text[]) WITH ORDINALITY AS slot (hour, customer, dimension, place)
            JOIN tollgate.links USING (hour, customer, dimension) WHERE links.target IS NULL";
    if slots.hours.is_empty() {
        return Ok(BTreeSet::new());
    }
    let params = [
        (&slots.hours as _, Type::INT8_ARRAY),
        (&slots.customers as _, Type::TEXT_ARRAY),
        (&slots.dimensions as _, Type::TEXT_ARRAY),
    ];
    let rows = transaction.query(LED_TO, &params).await?;
    Ok(rows.iter().filter_map(|row| usize::try_from(row.get::<_, i64>(0) - 1).ok()).collect())
}

/// The usage that flushes had closed up to this version is sealed. Afterwards the transaction takes no other lock: a
/// flush holds an hour's lock while it changes the row.
const FLUSHED: &str = "UPDATE tollgate.ledger SET flushed = $1 WHERE flushed < $1";

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

pub(crate) fn odd(text: &str) -> Failed {
    Failed { text: text.to_owned(), code: None, broken: false }
}
