//! Open usage for people, slot by slot, with what sealing would make of it. The rows become slots, and slots records,
//! by the functions that seal them; nothing is written. A piece is read in one snapshot, so that a slot's amounts
//! belong together whatever is counted and sealed meanwhile.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::PostgresLedger;
use crate::carrying::{self, Columns, Slot};
use crate::connect::{Failed, Transaction};
use crate::open_slots::{OpenSlot, ROWS_MAX, slot};
use crate::rules::{self, Kept, KeptKey};
use crate::sealing::led_to;
use crate::view::CUSTOMERS;
use tollgate_ledger::LedgerError;
use tollgate_ledger::view::{self, From, KeyPart, Looked, Piece};
use tollgate_marketplace::{Hour, TagSet};
use tollgate_metering::aggregation::Rules;
use tollgate_metering::seal;

/// The columns of a slot's row, as [`OpenSlot`] reads them; and what was carried or replayed into it.
const ROW: &str =
    "ctid::text, hour, customer, dimension, tags, (amount + additive)::text, first_at, late_from, peak::text,
    additive::text";

/// The place of the last column of [`ROW`].
const ADDITIVE: usize = 9;

/// The statement of the rows of a piece. Its parameters: the three columns of the slot behind which it begins, how many
/// rows it reads; then the customer, the dimension and the hour.
fn rows_sql(looked: &Looked) -> String {
    let mut wanted = String::new();
    if looked.customer.is_some() {
        let _ = write!(wanted, " AND customer = ANY({})", CUSTOMERS.replace("$2", "$5"));
    }
    if looked.dimension.is_some() {
        wanted.push_str(" AND dimension = $6");
    }
    if looked.hour.is_some() {
        wanted.push_str(" AND hour = $7");
    }
    format!(
        "SELECT {ROW} FROM tollgate.sums WHERE (hour, customer, dimension) > ($1, $2, $3){wanted}
         ORDER BY hour, customer, dimension, writer, tags_key LIMIT $4"
    )
}

/// What earlier hours of some slots hold that are open too. The hours of all open usage are few, and each is found by
/// the index.
const EARLIER: &str = "WITH RECURSIVE hours (hour) AS (
        SELECT min(hour) FROM tollgate.sums
        UNION ALL
        SELECT (SELECT min(sums.hour) FROM tollgate.sums WHERE sums.hour > hours.hour)
            FROM hours WHERE hours.hour IS NOT NULL)
    SELECT slot.place, sums.hour, sum(sums.amount + sums.additive)::text, max(sums.peak)::text
    FROM unnest($1::bigint[], $2::text[], $3::text[]) WITH ORDINALITY AS slot (hour, customer, dimension, place)
        JOIN hours ON hours.hour < slot.hour
        JOIN tollgate.sums ON sums.hour = hours.hour AND sums.customer = slot.customer
            AND sums.dimension = slot.dimension
    GROUP BY slot.place, sums.hour ORDER BY slot.place, sums.hour";

/// A slot of a piece.
struct Listed {
    open: OpenSlot,
    carried: i128,
}

/// An earlier slot of the same customer and dimension that is open too.
struct Earlier {
    /// The place of the later slot in the piece.
    place: usize,
    slot: Slot,
    total: i128,
}

/// The slot behind which a piece begins.
fn key(from: &From) -> Slot {
    let read = |from: &From| {
        let From::Key(parts) = from else { return None };
        // A version before had a fourth column, the tags of a row.
        let [KeyPart::Number(hour), KeyPart::Bytes(customer), KeyPart::Bytes(dimension), ..] =
            parts.as_slice()
        else {
            return None;
        };
        let text = |bytes: &Vec<u8>| String::from_utf8(bytes.clone()).ok();
        Some(Slot { hour: Hour::from_number(*hour), customer: text(customer)?, dimension: text(dimension)? })
    };
    // Another engine's place, from before a move, means nothing here.
    let start =
        || Slot { hour: Hour::from_number(i64::MIN), customer: String::new(), dimension: String::new() };
    read(from).unwrap_or_else(start)
}

/// Where the piece behind this slot begins.
fn behind(slot: &Slot) -> From {
    From::Key(vec![
        KeyPart::Number(slot.hour.number()),
        KeyPart::Bytes(slot.customer.clone().into_bytes()),
        KeyPart::Bytes(slot.dimension.clone().into_bytes()),
    ])
}

impl PostgresLedger {
    /// Usage that is not sealed, by hour, customer and dimension.
    pub(crate) async fn read_open_slots(
        &self,
        looked: &Looked,
        from: &From,
        limit: usize,
    ) -> Result<Piece<view::OpenSlot, From>, LedgerError> {
        let transaction = self.views.snapshot().await?;
        let (slots, next) = listed(&transaction, looked, from, limit).await?;
        let rows = foreseen(&transaction, self.leader.rules(), slots).await?;
        transaction.rollback().await?;
        Ok(Piece { rows, next })
    }
}

/// The slots of a piece, and where the next piece begins.
async fn listed(
    transaction: &Transaction<'_>,
    looked: &Looked,
    from: &From,
    limit: usize,
) -> Result<(Vec<Listed>, Option<From>), Failed> {
    let (after, hour) = (key(from), looked.hour.map(Hour::number));
    let params = [
        (&after.hour.number() as _, Type::INT8),
        (&after.customer as _, Type::TEXT),
        (&after.dimension as _, Type::TEXT),
        (&ROWS_MAX as _, Type::INT8),
        (&looked.customer as _, Type::TEXT),
        (&looked.dimension as _, Type::TEXT),
        (&hour as _, Type::INT8),
    ];
    let rows = transaction.query(&rows_sql(looked), &params).await?;
    let mut slots: Vec<Listed> = Vec::new();
    for row in &rows {
        match slots.last_mut().filter(|listed| listed.open.slot == slot(row)) {
            Some(listed) => listed.add(row),
            None => slots.push(Listed::of(row)),
        }
    }
    let mut is_all = i64::try_from(rows.len()).is_ok_and(|rows| rows < ROWS_MAX);
    drop(rows);
    // The last slot may have more rows.
    if !is_all && slots.len() > 1 {
        slots.pop();
    } else if !is_all && let Some(listed) = slots.pop() {
        slots.push(whole(transaction, listed.open.slot).await?);
    }
    let mut sets = 0;
    let fitting = slots.iter().take_while(|listed| {
        let before = sets;
        sets += listed.open.sum.shares.len();
        before == 0 || sets <= limit
    });
    let fitting = fitting.count();
    is_all &= fitting == slots.len();
    slots.truncate(fitting);
    let next = slots.last().filter(|_| !is_all).map(|listed| behind(&listed.open.slot));
    Ok((slots, next))
}

/// A slot with many rows.
async fn whole(transaction: &Transaction<'_>, slot: Slot) -> Result<Listed, Failed> {
    let page = format!(
        "SELECT {ROW}, writer, tags_key FROM tollgate.sums
         WHERE hour = $1 AND customer = $2 AND dimension = $3 AND (writer, tags_key) > ($4, $5)
         ORDER BY writer, tags_key LIMIT $6"
    );
    let (mut after, mut whole): ((i64, Vec<u8>), Option<Listed>) = ((i64::MIN, Vec::new()), None);
    loop {
        let params = [
            (&slot.hour.number() as _, Type::INT8),
            (&slot.customer as _, Type::TEXT),
            (&slot.dimension as _, Type::TEXT),
            (&after.0 as _, Type::INT8),
            (&after.1 as _, Type::BYTEA),
            (&ROWS_MAX as _, Type::INT8),
        ];
        let rows = transaction.query(&page, &params).await?;
        for row in &rows {
            match &mut whole {
                Some(listed) => listed.add(row),
                None => whole = Some(Listed::of(row)),
            }
        }
        match (rows.last(), whole) {
            (Some(row), some) => {
                after = (row.get(ADDITIVE + 1), row.get(ADDITIVE + 2));
                whole = some;
            }
            (None, Some(listed)) => return Ok(listed),
            (None, None) => return Err(unreadable("a slot without rows")),
        }
    }
}

impl Listed {
    fn of(row: &Row) -> Self {
        let mut listed = Self { open: OpenSlot::of(row), carried: 0 };
        listed.carry(row);
        listed
    }

    fn add(&mut self, row: &Row) {
        self.open.add(row);
        self.carry(row);
    }

    /// An amount that cannot be read is a fault of the slot.
    fn carry(&mut self, row: &Row) {
        self.carried += row.get::<_, &str>(ADDITIVE).parse().unwrap_or(0);
    }
}

/// The slots as views show them.
async fn foreseen(
    transaction: &Transaction<'_>,
    rules: &Rules,
    mut slots: Vec<Listed>,
) -> Result<Vec<view::OpenSlot>, Failed> {
    let places: Vec<Slot> = slots.iter().map(|listed| listed.open.slot.clone()).collect();
    let earlier = earlier(transaction, &places).await?;
    let all = || places.iter().chain(earlier.iter().map(|earlier| &earlier.slot));
    let columns: Columns<'_> = all().collect();
    let began = rules::began(transaction, rules, all()).await?;
    // Both with a record already, so that their usage will be carried; and sealed before the clock closes their hour.
    let taken = carrying::taken(transaction, &columns).await?;
    let early = carrying::flushed_in_time(transaction, &columns).await?;
    let led_to = led_to(transaction, &places.iter().collect()).await?;
    slots.iter_mut().for_each(|listed| listed.open.began_with(began.with(&listed.open.slot)));
    let keys = slots.iter().map(|Listed { open, .. }| KeptKey::of(&open.slot, &open.rule));
    let sealed_before = Kept::read(transaction, keys).await?;
    let mut kept: Vec<i128> = slots
        .iter()
        .map(|Listed { open, .. }| sealed_before.get(&KeptKey::of(&open.slot, &open.rule)))
        .collect();
    // They are sealed in this order, each in its turn.
    for (number, Earlier { place, slot, total }) in earlier.iter().enumerate() {
        let number = places.len() + number;
        let scale = slots[*place].open.rule.scale;
        // Another scale has a remainder of its own.
        if let Some(rule) = began.with(slot).filter(|rule| rule.scale == scale && !taken.contains(&number)) {
            kept[*place] = rule.send(total + kept[*place]).kept(early.contains(&number));
        }
    }
    let shown = |(number, Listed { open, carried }): (usize, Listed)| {
        let moves = open.fault.is_some() || taken.contains(&number);
        let kept = if moves { 0 } else { kept[number] };
        let sealed = seal::seal(open.slot.hour, &open.sum, &open.rule, kept, open.sum.first_at);
        view::OpenSlot {
            hour: open.slot.hour,
            customer: open.slot.customer,
            dimension: open.slot.dimension,
            late_from: open.late_from,
            rule: open.rule,
            carried,
            kept,
            sealed: Some(sealed).filter(|sealed| !moves && (!sealed.is_needless || led_to.contains(&number))),
            shares: shares(open.sum.shares),
        }
    };
    Ok(slots.into_iter().enumerate().map(shown).collect())
}

/// Without the untagged share if it is nothing beside others.
fn shares(mut shares: BTreeMap<TagSet, i128>) -> BTreeMap<TagSet, i128> {
    let is_alone = shares.len() == 1;
    shares.retain(|tags, amount| is_alone || !tags.is_empty() || *amount != 0);
    shares
}

/// The earlier open slots of these, in the order in which they will be sealed.
async fn earlier(transaction: &Transaction<'_>, slots: &[Slot]) -> Result<Vec<Earlier>, Failed> {
    if slots.is_empty() {
        return Ok(Vec::new());
    }
    let columns: Columns<'_> = slots.iter().collect();
    let params = [
        (&columns.hours as _, Type::INT8_ARRAY),
        (&columns.customers as _, Type::TEXT_ARRAY),
        (&columns.dimensions as _, Type::TEXT_ARRAY),
    ];
    let rows = transaction.query(EARLIER, &params).await?;
    let read = |row: &Row| {
        let place = usize::try_from(row.get::<_, i64>(0) - 1).ok().filter(|place| *place < slots.len());
        let place = place.ok_or_else(|| unreadable("a slot that was not asked for"))?;
        let amount = |text: &str| text.parse::<i128>().map_err(|_| unreadable("an amount"));
        let peak = row.get::<_, Option<&str>>(3).map(amount).transpose()?;
        let total = amount(row.get(2))? + peak.unwrap_or_default();
        Ok(Earlier {
            place,
            slot: Slot { hour: Hour::from_number(row.get(1)), ..slots[place].clone() },
            total,
        })
    };
    rows.iter().map(read).collect()
}

fn unreadable(what: &str) -> Failed {
    Failed {
        text: format!("the ledger holds {what} that this program cannot read; was it changed by hand?"),
        code: None,
        broken: false,
    }
}
