//! The rules with which hours began, and what stays of sealed hours for the next one.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::types::Type;

use crate::carrying::Slot;
use crate::connect::{Failed, Transaction};
use crate::schema::NO_WRITER;
use tollgate_marketplace::Hour;
use tollgate_metering::aggregation::{Rule, Rules};

/// Reads a rule's text.
pub(crate) fn read(text: &str) -> Result<Rule, Failed> {
    text.parse().map_err(|_| Failed {
        text: format!("an hour began with the rule {text:?}, which this program does not know"),
        code: None,
        broken: false,
    })
}

/// The rules with which the hours of some slots began.
#[derive(Debug)]
pub(crate) struct Began<'a> {
    noted: BTreeMap<(Hour, String), Option<Rule>>,
    configured: &'a Rules,
}

impl Began<'_> {
    /// The rule of a slot; `None` if its text cannot be read. An hour without a noted rule has the configured one.
    pub(crate) fn with(&self, slot: &Slot) -> Option<Rule> {
        let key = (slot.hour, slot.dimension.clone());
        self.noted.get(&key).copied().unwrap_or_else(|| Some(*self.configured.of(&slot.dimension)))
    }

    /// The same, where an unreadable rule stops the transaction.
    pub(crate) fn require(&self, slot: &Slot) -> Result<Rule, Failed> {
        self.with(slot).ok_or_else(|| Failed {
            text: format!("the hour {} began with a rule that this program does not know", slot.hour),
            code: None,
            broken: false,
        })
    }
}

const READ: &str = "SELECT rules.hour, rules.dimension, rules.rule
    FROM unnest($1::bigint[], $2::text[]) AS wanted (hour, dimension) JOIN tollgate.rules USING (hour, dimension)";

const NOTE: &str = "INSERT INTO tollgate.rules (hour, dimension, rule)
    SELECT hour, dimension, rule FROM unnest($1::bigint[], $2::text[], $3::text[]) AS ours (hour, dimension, rule)
    ON CONFLICT (hour, dimension) DO NOTHING";

/// The hours and dimensions of slots, each once and in their order.
fn columns<'a>(slots: impl IntoIterator<Item = &'a Slot>) -> (Vec<i64>, Vec<&'a str>) {
    let wanted: BTreeSet<(i64, &str)> =
        slots.into_iter().map(|slot| (slot.hour.number(), slot.dimension.as_str())).collect();
    wanted.into_iter().unzip()
}

/// Reads the rules of slots.
pub(crate) async fn began<'a, 'b>(
    transaction: &Transaction<'_>,
    configured: &'a Rules,
    slots: impl IntoIterator<Item = &'b Slot>,
) -> Result<Began<'a>, Failed> {
    let (hours, dimensions) = columns(slots);
    let mut began = Began { noted: BTreeMap::new(), configured };
    if !hours.is_empty() {
        let rows =
            transaction.query(READ, &[(&hours, Type::INT8_ARRAY), (&dimensions, Type::TEXT_ARRAY)]).await?;
        let noted = |row: &tokio_postgres::Row| {
            ((Hour::from_number(row.get(0)), row.get(1)), row.get::<_, &str>(2).parse().ok())
        };
        began.noted = rows.iter().map(noted).collect();
    }
    Ok(began)
}

/// Notes the configured rules for slots of open hours that usage is carried to, where the hour has none yet; returns
/// those that it has then.
pub(crate) async fn begin<'a>(
    transaction: &Transaction<'_>,
    configured: &'a Rules,
    slots: &[Slot],
) -> Result<Began<'a>, Failed> {
    let (hours, dimensions) = columns(slots);
    if !hours.is_empty() {
        let rules: Vec<String> =
            dimensions.iter().map(|dimension| configured.of(dimension).to_string()).collect();
        let params = [
            (&hours as _, Type::INT8_ARRAY),
            (&dimensions as _, Type::TEXT_ARRAY),
            (&rules as _, Type::TEXT_ARRAY),
        ];
        transaction.execute(NOTE, &params).await?;
    }
    began(transaction, configured, slots).await
}

/// Whose hours something stays of: a customer, a dimension, and a scale in millionths.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KeptKey {
    customer: String,
    dimension: String,
    scale: u128,
}

impl KeptKey {
    pub(crate) fn of(slot: &Slot, rule: &Rule) -> Self {
        Self {
            customer: slot.customer.clone(),
            dimension: slot.dimension.clone(),
            scale: rule.scale.micros(),
        }
    }
}

/// What stays of sealed hours (`Sent::kept`), while slots are sealed one after the other.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    held: BTreeMap<KeptKey, i128>,
    changed: BTreeSet<KeptKey>,
}

const READ_KEPT: &str = "SELECT place, amount::text
    FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS wanted (customer, dimension, scale, place)
    JOIN tollgate.remainders ON remainders.customer = wanted.customer AND remainders.dimension = wanted.dimension
        AND remainders.scale = wanted.scale::numeric";

const KEEP: &str = "INSERT INTO tollgate.remainders (customer, dimension, scale, amount)
    SELECT customer, dimension, scale::numeric, amount::numeric
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS kept (customer, dimension, scale, amount)
    ON CONFLICT (customer, dimension, scale) DO UPDATE SET amount = excluded.amount";

const USE_UP: &str = "DELETE FROM tollgate.remainders
    USING unnest($1::text[], $2::text[], $3::text[]) AS gone (customer, dimension, scale)
    WHERE remainders.customer = gone.customer AND remainders.dimension = gone.dimension
        AND remainders.scale = gone.scale::numeric";

/// Keys as columns.
struct KeptColumns<'a> {
    customers: Vec<&'a str>,
    dimensions: Vec<&'a str>,
    scales: Vec<String>,
}

impl<'a> FromIterator<&'a KeptKey> for KeptColumns<'a> {
    fn from_iter<T: IntoIterator<Item = &'a KeptKey>>(keys: T) -> Self {
        let mut columns = Self { customers: Vec::new(), dimensions: Vec::new(), scales: Vec::new() };
        for key in keys {
            columns.customers.push(&key.customer);
            columns.dimensions.push(&key.dimension);
            columns.scales.push(key.scale.to_string());
        }
        columns
    }
}

impl Kept {
    /// Reads what stays of earlier hours.
    pub(crate) async fn read(
        transaction: &Transaction<'_>,
        keys: impl IntoIterator<Item = KeptKey>,
    ) -> Result<Self, Failed> {
        let mut kept = Self { held: keys.into_iter().map(|key| (key, 0)).collect(), ..Self::default() };
        if kept.held.is_empty() {
            return Ok(kept);
        }
        let columns: KeptColumns<'_> = kept.held.keys().collect();
        let params = [
            (&columns.customers as _, Type::TEXT_ARRAY),
            (&columns.dimensions as _, Type::TEXT_ARRAY),
            (&columns.scales as _, Type::TEXT_ARRAY),
        ];
        let rows = transaction.query(READ_KEPT, &params).await?;
        let mut found = BTreeMap::new();
        for row in &rows {
            let amount: i128 = row.get::<_, &str>(1).parse().map_err(|_| Failed {
                text: "a remainder is no amount: it was changed by another program".to_owned(),
                code: None,
                broken: false,
            })?;
            found.insert(row.get::<_, i64>(0), amount);
        }
        for (amount, place) in kept.held.values_mut().zip(1..) {
            *amount = found.get(&place).copied().unwrap_or_default();
        }
        Ok(kept)
    }

    /// What stays now.
    pub(crate) fn get(&self, key: &KeptKey) -> i128 {
        self.held.get(key).copied().unwrap_or_default()
    }

    /// From now on this stays.
    pub(crate) fn set(&mut self, key: KeptKey, amount: i128) {
        if self.get(&key) != amount {
            self.held.insert(key.clone(), amount);
            self.changed.insert(key);
        }
    }

    /// Writes what changed.
    pub(crate) async fn write(&self, transaction: &Transaction<'_>) -> Result<(), Failed> {
        let (gone, kept): (Vec<&KeptKey>, Vec<&KeptKey>) =
            self.changed.iter().partition(|key| self.get(key) == 0);
        if !kept.is_empty() {
            let columns: KeptColumns<'_> = kept.iter().copied().collect();
            let amounts: Vec<String> = kept.iter().map(|key| self.get(key).to_string()).collect();
            let params = [
                (&columns.customers as _, Type::TEXT_ARRAY),
                (&columns.dimensions as _, Type::TEXT_ARRAY),
                (&columns.scales as _, Type::TEXT_ARRAY),
                (&amounts as _, Type::TEXT_ARRAY),
            ];
            transaction.execute(KEEP, &params).await?;
        }
        if !gone.is_empty() {
            let columns: KeptColumns<'_> = gone.into_iter().collect();
            let params = [
                (&columns.customers as _, Type::TEXT_ARRAY),
                (&columns.dimensions as _, Type::TEXT_ARRAY),
                (&columns.scales as _, Type::TEXT_ARRAY),
            ];
            transaction.execute(USE_UP, &params).await?;
        }
        Ok(())
    }
}

/// Changes of the amounts of customers and dimensions that are in no slot and no record.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    accepted: BTreeMap<(String, String), i128>,
    rounded_up: BTreeMap<(String, String), i128>,
}

const ACCEPT: &str = "INSERT INTO tollgate.accepted AS held (customer, dimension, writer, amount)
    SELECT customer, dimension, $4, amount::numeric
    FROM unnest($1::text[], $2::text[], $3::text[]) AS added (customer, dimension, amount)
    ON CONFLICT (customer, dimension, writer) DO UPDATE SET amount = held.amount + excluded.amount";

const ROUND_UP: &str = "INSERT INTO tollgate.outcome AS held (customer, dimension, rounded_up)
    SELECT customer, dimension, amount::numeric
    FROM unnest($1::text[], $2::text[], $3::text[]) AS added (customer, dimension, amount)
    ON CONFLICT (customer, dimension) DO UPDATE SET rounded_up = held.rounded_up + excluded.rounded_up";

impl Changes {
    /// Of what acknowledged usage added to its slots.
    pub(crate) fn accept(&mut self, slot: &Slot, amount: i128) {
        add(&mut self.accepted, slot, amount);
    }

    /// Of what rounding added.
    pub(crate) fn round_up(&mut self, slot: &Slot, amount: i128) {
        add(&mut self.rounded_up, slot, amount);
    }

    /// Writes them.
    pub(crate) async fn write(self, transaction: &Transaction<'_>) -> Result<(), Failed> {
        if let Some((customers, dimensions, amounts)) = rows(&self.accepted) {
            let params = [
                (&customers as _, Type::TEXT_ARRAY),
                (&dimensions as _, Type::TEXT_ARRAY),
                (&amounts as _, Type::TEXT_ARRAY),
                (&NO_WRITER as _, Type::INT8),
            ];
            transaction.execute(ACCEPT, &params).await?;
        }
        if let Some((customers, dimensions, amounts)) = rows(&self.rounded_up) {
            let params = [
                (&customers as _, Type::TEXT_ARRAY),
                (&dimensions as _, Type::TEXT_ARRAY),
                (&amounts as _, Type::TEXT_ARRAY),
            ];
            transaction.execute(ROUND_UP, &params).await?;
        }
        Ok(())
    }
}

fn add(amounts: &mut BTreeMap<(String, String), i128>, slot: &Slot, amount: i128) {
    if amount != 0 {
        *amounts.entry((slot.customer.clone(), slot.dimension.clone())).or_default() += amount;
    }
}

/// The amounts as columns, in the order in which every transaction locks their rows; `None` if there are none.
fn rows(amounts: &BTreeMap<(String, String), i128>) -> Option<(Vec<&str>, Vec<&str>, Vec<String>)> {
    let changed: Vec<_> = amounts.iter().filter(|(_, amount)| **amount != 0).collect();
    if changed.is_empty() {
        return None;
    }
    let mut columns = (Vec::new(), Vec::new(), Vec::new());
    for ((customer, dimension), amount) in changed {
        columns.0.push(customer.as_str());
        columns.1.push(dimension.as_str());
        columns.2.push(amount.to_string());
    }
    Some(columns)
}
