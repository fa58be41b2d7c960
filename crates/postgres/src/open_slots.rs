//! Reads open slots for sealing: all rows of a slot, of every writer and every set of tags, as one.

use std::collections::BTreeMap;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::carrying::Slot;
use crate::connect::Failed;
use crate::lease::Leading;
use crate::sealing::{Kind, Run, odd};
use tollgate_ledger::{HoursAt, TAG_BYTES_MAX, TAGGED_SETS_MAX};
use tollgate_marketplace::{Customer, Hour, TagSet};
use tollgate_metering::aggregation::Rule;
use tollgate_metering::seal::Sum;
use tollgate_time::Timestamp;

/// Rows that are read for a piece. A slot with more is a piece of its own.
pub(crate) const ROWS_MAX: i64 = 750;

/// Open usage with all its shares.
#[derive(Debug)]
pub(crate) struct OpenSlot {
    pub(crate) slot: Slot,
    /// With the maximum, once its rule is known.
    pub(crate) sum: Sum,
    /// The largest event of any writer, by a rule of `max`.
    pub(crate) peak: Option<i128>,
    /// The rule with which its hour began.
    pub(crate) rule: Rule,
    pub(crate) late_from: Option<Hour>,
    /// Where its rows are.
    pub(crate) rows: Vec<String>,
    tag_bytes: usize,
    /// Why it cannot be sealed.
    pub(crate) fault: Option<String>,
}

impl Leading<'_> {
    /// The next slots of a pass, and whether they are the last ones.
    pub(crate) async fn open_slots(
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
                late_from, peak::text, writer, tags_key FROM tollgate.sums
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
                    after = (row.get(9), row.get(10));
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
}

impl OpenSlot {
    /// Begins with a slot's first row.
    pub(crate) fn of(row: &Row) -> Self {
        let slot = slot(row);
        let known = Customer::from_canonical(&slot.customer);
        let mut open = Self {
            fault: known.is_none().then(|| "its customer cannot be read".to_owned()),
            slot,
            sum: Sum { shares: BTreeMap::new(), first_at: Timestamp::from_unix_millis(row.get(6)) },
            peak: None,
            rule: Rule::DEFAULT,
            late_from: None,
            rows: Vec::new(),
            tag_bytes: 0,
        };
        open.add(row);
        open
    }

    /// Adds another row of the slot. Several replicas may have counted more sets of tags than AWS takes: usage of the
    /// others counts as untagged.
    pub(crate) fn add(&mut self, row: &Row) {
        self.rows.push(row.get(0));
        let (tags, amount, peak): (&str, &str, Option<&str>) = (row.get(4), row.get(5), row.get(8));
        let peak: Result<Option<i128>, _> = peak.map(str::parse).transpose();
        let (Ok(tags), Ok(amount), Ok(peak)) =
            (serde_json::from_str::<TagSet>(tags), amount.parse::<i128>(), peak)
        else {
            self.fault = Some("its tags or its amount cannot be read".to_owned());
            return;
        };
        let first_at = Timestamp::from_unix_millis(row.get(6));
        let late_from: Option<i64> = row.get(7);
        self.sum.first_at = self.sum.first_at.min(first_at);
        self.late_from = [self.late_from, late_from.map(Hour::from_number)].into_iter().flatten().min();
        self.peak = self.peak.max(peak);
        let tags = self.room_for(tags);
        *self.sum.shares.entry(tags).or_default() += amount;
    }

    /// All rows are read, and this is the rule with which the hour began; `None` if it cannot be read.
    pub(crate) fn began_with(&mut self, rule: Option<Rule>) {
        match rule {
            Some(rule) => self.rule = rule,
            None => self.fault = Some("its rule cannot be read".to_owned()),
        }
        if let Some(peak) = self.peak {
            // A maximum has no tags.
            *self.sum.shares.entry(TagSet::default()).or_default() += peak;
        }
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

/// The rows of slots after a slot, up to an hour. Rows of one slot are together.
const CLOSED_ROWS: &str =
    "SELECT ctid::text, hour, customer, dimension, tags, (amount + additive)::text, first_at,
        late_from, peak::text FROM tollgate.sums
    WHERE (hour, customer, dimension) > ($1, $2, $3) AND hour <= $4
    ORDER BY hour, customer, dimension, writer, tags_key LIMIT $5 FOR UPDATE";

/// The same after an hour.
const AHEAD_ROWS: &str =
    "SELECT ctid::text, hour, customer, dimension, tags, (amount + additive)::text, first_at,
        late_from, peak::text FROM tollgate.sums
    WHERE (hour, customer, dimension) > ($1, $2, $3) AND hour > $4
    ORDER BY hour, customer, dimension, writer, tags_key LIMIT $5 FOR UPDATE";

/// The same for customers whose hours were closed before their end.
const EARLY_ROWS: &str = "SELECT open.ctid::text, open.hour, open.customer, open.dimension, open.tags,
        (open.amount + open.additive)::text, open.first_at, open.late_from, open.peak::text
    FROM tollgate.closed_early AS early,
        LATERAL (SELECT ctid, * FROM tollgate.sums
                 WHERE sums.hour = early.hour AND sums.customer = early.customer FOR UPDATE) AS open
    WHERE (open.hour, open.customer, open.dimension) > ($1, $2, $3) AND early.hour > $4
    ORDER BY open.hour, open.customer, open.dimension, open.writer, open.tags_key LIMIT $5";

/// The slot of a row.
pub(crate) fn slot(row: &Row) -> Slot {
    Slot { hour: Hour::from_number(row.get(1)), customer: row.get(2), dimension: row.get(3) }
}
