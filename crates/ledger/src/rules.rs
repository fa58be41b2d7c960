//! The rules by which dimensions are metered, in the ledger.
//!
//! A slot keeps the rule that it began with, whatever is configured later. `meta.rules` has the latest process's rules,
//! for repairs while no process runs.

use std::collections::BTreeMap;

use rusqlite::{Connection, Transaction};

use super::rows::{Slot, unreadable};
use super::{database, meta, set_meta, slots};
use tollgate_metering::aggregation::{Rule, Rules};

/// Key of `meta`: the rules other than the default, as a JSON object.
const RULES: &str = "rules";

/// The first schema whose programs know rules. A program before it would bill by the default.
const MIN_READER: i64 = 4;

/// Notes the rules of this process.
pub(super) fn adopt(transaction: &Transaction<'_>, rules: &Rules) -> rusqlite::Result<()> {
    if read(transaction)? != *rules {
        let texts: BTreeMap<&str, String> =
            rules.iter().map(|(name, rule)| (name, rule.to_string())).collect();
        set_meta(transaction, RULES, &serde_json::to_string(&texts).expect("a map of strings is JSON"))?;
    }
    if !rules.are_default() && database::min_reader(transaction)?.is_some_and(|known| known < MIN_READER) {
        set_meta(transaction, database::MIN_READER, &MIN_READER.to_string())?;
    }
    Ok(())
}

/// The rules of the latest process.
pub(super) fn read(connection: &Connection) -> rusqlite::Result<Rules> {
    let Some(text) = meta(connection, RULES)? else { return Ok(Rules::default()) };
    let texts: BTreeMap<String, String> = super::rows::json(0, &text)?;
    texts.into_iter().map(|(name, text)| Ok((name, of(&text)?))).collect()
}

/// Reads a stored rule.
pub(super) fn of(text: &str) -> rusqlite::Result<Rule> {
    text.parse().map_err(|_| unreadable(0, "a rule that is none"))
}

/// The rule of this slot: the one that it began with, or the configured one if it has not begun.
pub(super) fn of_slot(connection: &Connection, slot: &Slot, rules: &Rules) -> rusqlite::Result<Rule> {
    Ok(slots::rule(connection, slot)?.unwrap_or(*rules.of(&slot.dimension)))
}

/// Whether any slot began with another rule than its dimension has now. Only slots of earlier processes can.
pub(super) fn differ(connection: &Connection, rules: &Rules) -> rusqlite::Result<bool> {
    let mut find = connection.prepare("SELECT DISTINCT dimension, aggregation FROM slots")?;
    let mut rows = find.query([])?;
    while let Some(row) = rows.next()? {
        if of(row.get_ref(1)?.as_str()?)? != *rules.of(row.get_ref(0)?.as_str()?) {
            return Ok(true);
        }
    }
    Ok(false)
}
