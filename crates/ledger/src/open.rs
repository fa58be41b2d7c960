//! Open usage for people, slot by slot, with what sealing would make of it: the slot is read and sealed by the
//! functions that seal it at the hour's end, and nothing is written.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::amount::amount;
use super::rows::Slot;
use super::upkeep::Budget;
use super::view::{From, IS_CUSTOMER, Looked, OpenSlot, Piece};
use super::{Database, Ledger, LedgerError, claim, links, remainders, rules, slots};
use tollgate_marketplace::Hour;
use tollgate_metering::aggregation::Rule;
use tollgate_metering::seal;

impl Ledger {
    /// Usage that is not sealed, as whole slots with at most `limit` sets of tags together; the first slot may have
    /// more by itself. They come in the order in which they were made. The piece is shorter if the next slot would
    /// delay an acknowledgement.
    pub fn open_slots(
        &self,
        looked: &Looked,
        from: &From,
        limit: usize,
    ) -> Result<Piece<OpenSlot, From>, LedgerError> {
        self.read_open(Some(&self.settings.pod), looked, from, limit)
    }
}

impl Database {
    /// [`Ledger::open_slots`] as this pod would seal them; for `None`, as the pod that each belongs to.
    pub fn read_open(
        &self,
        pod: Option<&str>,
        looked: &Looked,
        from: &From,
        limit: usize,
    ) -> Result<Piece<OpenSlot, From>, LedgerError> {
        // A key is from another engine.
        let first = match from {
            From::Slot(slot) => *slot,
            From::Start | From::Key(_) => i64::MIN,
        };
        let sql = format!(
            "SELECT id, tagged, (?2 IS NULL OR {IS_CUSTOMER}) AND (?3 IS NULL OR dimension = ?3)
                 AND (?4 IS NULL OR hour = ?4)
             FROM slots WHERE id >= ?1 ORDER BY id"
        );
        let hour = looked.hour.map(Hour::number);
        self.reading(|connection| {
            let hours = open_hours(connection)?;
            let (mut budget, mut found, mut sets) = (Budget::new(), Vec::new(), 0);
            let mut statement = connection.prepare_cached(&sql)?;
            let mut rows = statement.query(params![first, looked.customer, looked.dimension, hour])?;
            while let Some(row) = rows.next()? {
                let id = row.get(0)?;
                let tagged: i64 = row.get(1)?;
                // With the untagged share.
                let more = usize::try_from(tagged).unwrap_or_default() + 1;
                let is_wanted: bool = row.get(2)?;
                if sets >= limit || is_wanted && sets > 0 && sets + more > limit || budget.is_spent() {
                    return Ok(Piece { rows: found, next: Some(From::Slot(id)) });
                }
                budget.spend(1);
                if is_wanted {
                    let open = shown(connection, id, pod, &hours)?;
                    budget.spend(8 + 2 * open.shares.len());
                    sets += open.shares.len();
                    found.push(open);
                }
            }
            Ok(Piece { rows: found, next: None })
        })
    }
}

/// The hours of all slots, in their order. They are few.
fn open_hours(connection: &Connection) -> rusqlite::Result<Vec<i64>> {
    let mut after = connection.prepare_cached("SELECT min(hour) FROM slots WHERE hour > ?1")?;
    let (mut hours, mut last) = (Vec::new(), i64::MIN);
    while let Some(hour) = after.query_row([last], |row| row.get::<_, Option<i64>>(0))? {
        hours.push(hour);
        last = hour;
    }
    Ok(hours)
}

/// A slot as this pod, or its own, would seal it.
fn shown(connection: &Connection, id: i64, pod: Option<&str>, hours: &[i64]) -> rusqlite::Result<OpenSlot> {
    let open = slots::read(connection, id)?;
    let moves = pod.is_some_and(|pod| pod != open.slot.pod) || has_record(connection, &open.slot)?;
    let kept = if moves { 0 } else { kept(connection, &open.slot, &open.rule, hours)? };
    let sealed = seal::seal(open.slot.hour, &open.sum, &open.rule, kept, open.sum.first_at);
    let is_needless = sealed.is_needless && !links::lead_to(connection, id)?;
    Ok(OpenSlot {
        hour: open.slot.hour,
        customer: open.slot.customer,
        dimension: open.slot.dimension,
        late_from: open.past.late_from,
        rule: open.rule,
        carried: open.carried,
        kept,
        sealed: Some(sealed).filter(|_| !moves && !is_needless),
        shares: open.sum.shares,
    })
}

/// What earlier hours leave to a slot: what the sealed ones left, and what the open ones would leave if each closed in
/// its turn.
fn kept(connection: &Connection, slot: &Slot, rule: &Rule, hours: &[i64]) -> rusqlite::Result<i128> {
    let mut kept = remainders::kept(connection, slot, rule.scale)?;
    for hour in hours.iter().take_while(|hour| **hour < slot.hour.number()) {
        let earlier = Slot { hour: Hour::from_number(*hour), ..slot.clone() };
        let Some((total, earlier_rule)) = total(connection, &earlier)? else { continue };
        // Another scale has a remainder of its own.
        if earlier_rule.scale == rule.scale && !has_record(connection, &earlier)? {
            kept = earlier_rule.send(total + kept).kept(false);
        }
    }
    Ok(kept)
}

/// The total and the rule of this slot, if it is open.
fn total(connection: &Connection, slot: &Slot) -> rusqlite::Result<Option<(i128, Rule)>> {
    connection
        .prepare_cached(
            "SELECT total, aggregation FROM slots WHERE hour = ?1 AND pod = ?2 AND customer = ?3 AND dimension = ?4",
        )?
        .query_row(params![slot.hour.number(), slot.pod, slot.customer, slot.dimension], |row| {
            Ok((amount(row, 0)?, rules::of(row.get_ref(1)?.as_str()?)?))
        })
        .optional()
}

/// Whether AWS has or gets another value for the slot's hour, so that its usage will be carried to a later one.
fn has_record(connection: &Connection, slot: &Slot) -> rusqlite::Result<bool> {
    Ok(claim::unclaimed(connection, slot)? != slot.hour)
}
