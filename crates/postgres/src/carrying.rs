//! Carries usage to a later hour: finds the hour, and adds the usage to it, in the unit of the rule with which that
//! hour began.
//!
//! The holder of the lease does this, and a repair may. Both add to rows of [`NO_WRITER`], so that they never wait for
//! intake.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::types::Type;

use crate::connect::{Failed, Transaction};
use crate::schema::{LOCKS, NO_WRITER, tags_key};
use tollgate_ledger::{AHEAD_HOURS_MAX, Form};
use tollgate_marketplace::{Allocation, Customer, Hour, Quantity, TagSet};
use tollgate_metering::aggregation::Rule;
use tollgate_metering::seal;
use tollgate_time::Timestamp;

/// Open usage of one customer and dimension, in the order in which it is sealed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot {
    pub(crate) hour: Hour,
    pub(crate) customer: String,
    pub(crate) dimension: String,
}

/// What is added to a slot.
#[derive(Debug)]
pub(crate) struct Addition {
    pub(crate) slot: Slot,
    /// Amounts by the canonical text of their tags, in the unit of the slot's rule.
    pub(crate) parts: Vec<(String, i128)>,
    pub(crate) first_at: Timestamp,
    pub(crate) late_from: Option<Hour>,
}

/// What to do if the customer's account is reported in another form in the first hour without a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IfOtherForm {
    /// Look for a later hour.
    GoOn,
    /// Carry nothing.
    Stop,
}

/// Slots as columns.
#[derive(Debug, Default)]
pub(crate) struct Columns<'a> {
    pub(crate) hours: Vec<i64>,
    pub(crate) customers: Vec<&'a str>,
    pub(crate) dimensions: Vec<&'a str>,
}

impl<'a> FromIterator<&'a Slot> for Columns<'a> {
    fn from_iter<T: IntoIterator<Item = &'a Slot>>(slots: T) -> Self {
        let mut columns = Self::default();
        for slot in slots {
            columns.hours.push(slot.hour.number());
            columns.customers.push(&slot.customer);
            columns.dimensions.push(&slot.dimension);
        }
        columns
    }
}

impl Columns<'_> {
    /// The day of the earliest hour and that of the latest one: settled records of other days need not be looked at.
    fn days(&self) -> (i32, i32) {
        let day = |hour: Option<&i64>| hour.map_or(0, |hour| day(Hour::from_number(*hour)));
        (day(self.hours.iter().min()), day(self.hours.iter().max()))
    }
}

/// The day of an hour.
pub(crate) fn day(hour: Hour) -> i32 {
    i32::try_from(hour.number().div_euclid(24)).unwrap_or(i32::MAX)
}

/// Which of these slots take no usage: AWS has, or will get, a record of them. `LIMIT` makes the database look each one
/// up, whatever it expects to find.
const TAKEN: &str = "SELECT slot.place FROM
    unnest($1::bigint[], $2::text[], $3::text[]) WITH ORDINALITY AS slot (hour, customer, dimension, place),
    LATERAL (
        (SELECT 1 FROM tollgate.records
         WHERE records.customer = slot.customer AND records.dimension = slot.dimension AND records.hour = slot.hour)
        UNION ALL
        (SELECT 1 FROM tollgate.settled
         WHERE settled.day BETWEEN $4 AND $5 AND settled.day = slot.hour / 24 AND settled.customer = slot.customer
             AND settled.dimension = slot.dimension AND settled.hour = slot.hour)
        LIMIT 1) AS record";

/// The places of those slots that have a record.
pub(crate) async fn taken(
    transaction: &Transaction<'_>,
    slots: &Columns<'_>,
) -> Result<BTreeSet<usize>, Failed> {
    let (first, last) = slots.days();
    let rows = transaction
        .query(
            TAKEN,
            &[
                (&slots.hours, Type::INT8_ARRAY),
                (&slots.customers, Type::TEXT_ARRAY),
                (&slots.dimensions, Type::TEXT_ARRAY),
                (&first, Type::INT4),
                (&last, Type::INT4),
            ],
        )
        .await?;
    Ok(rows.iter().filter_map(|row| usize::try_from(row.get::<_, i64>(0) - 1).ok()).collect())
}

/// Locks hours so that none is closed, for anybody, before the transaction ends.
const LOCK: &str =
    "SELECT pg_advisory_xact_lock_shared($1, hour) FROM unnest($2::int[]) AS hour ORDER BY hour";

/// Which of these customers' hours a flush closed, and whether it came before the clock closed them.
const CLOSED_EARLY: &str = "SELECT slot.place FROM
    unnest($1::bigint[], $2::text[]) WITH ORDINALITY AS slot (hour, customer, place)
    JOIN tollgate.closed_early USING (hour, customer) WHERE in_time OR NOT $3";

/// The places of those slots whose hour a flush closed: they take no usage.
async fn closed_early(transaction: &Transaction<'_>, slots: &Columns<'_>) -> Result<BTreeSet<usize>, Failed> {
    flushed(transaction, slots, false).await
}

/// The places of those slots whose hour a flush closed before the clock did, at its end and `settle`: later usage of
/// the hour would have counted to them, and counts to the next hour instead.
pub(crate) async fn flushed_in_time(
    transaction: &Transaction<'_>,
    slots: &Columns<'_>,
) -> Result<BTreeSet<usize>, Failed> {
    flushed(transaction, slots, true).await
}

async fn flushed(
    transaction: &Transaction<'_>,
    slots: &Columns<'_>,
    only_in_time: bool,
) -> Result<BTreeSet<usize>, Failed> {
    let params = [
        (&slots.hours as _, Type::INT8_ARRAY),
        (&slots.customers as _, Type::TEXT_ARRAY),
        (&only_in_time as _, Type::BOOL),
    ];
    let rows = transaction.query(CLOSED_EARLY, &params).await?;
    Ok(rows.iter().filter_map(|row| usize::try_from(row.get::<_, i64>(0) - 1).ok()).collect())
}

/// For each slot the first hour from its own on that takes its usage; `None` if that hour has another form of the
/// customer, and `otherwise` is [`IfOtherForm::Stop`]. Until the transaction ends, those hours stay open.
pub(crate) async fn place(
    transaction: &Transaction<'_>,
    mut slots: Vec<Slot>,
    otherwise: IfOtherForm,
) -> Result<Vec<Option<Hour>>, Failed> {
    let last: Vec<i64> = slots.iter().map(|slot| slot.hour.number() + AHEAD_HOURS_MAX).collect();
    let forms = forms(transaction, &slots).await?;
    let mut placed = vec![None; slots.len()];
    let mut searching: Vec<usize> = (0..slots.len()).collect();
    while !searching.is_empty() {
        let columns: Columns<'_> = searching.iter().map(|at| &slots[*at]).collect();
        let hours: BTreeSet<i32> =
            columns.hours.iter().filter_map(|hour| i32::try_from(*hour).ok()).collect();
        let hours: Vec<i32> = hours.into_iter().collect();
        transaction.query(LOCK, &[(&LOCKS, Type::INT4), (&hours, Type::INT4_ARRAY)]).await?;
        let mut closed = taken(transaction, &columns).await?;
        closed.extend(closed_early(transaction, &columns).await?);
        let open: Vec<usize> = (0..searching.len())
            .filter(|place| !closed.contains(place))
            .map(|place| searching[place])
            .collect();
        let wanted = open.iter().filter_map(|at| {
            let (account, form) = forms[*at].as_ref()?;
            Some((slots[*at].hour, account.as_str(), *form as i16))
        });
        let held = take_forms(transaction, wanted).await?;
        let mut next = Vec::new();
        for (place, at) in searching.iter().enumerate() {
            let (slot, last) = (&slots[*at], last[*at]);
            let fits = forms[*at].as_ref().is_none_or(|(account, form)| {
                held.get(&(slot.hour, account.clone())).is_none_or(|held| *held == *form as i16)
            });
            if closed.contains(&place)
                || (!fits && otherwise == IfOtherForm::GoOn && slot.hour.number() < last)
            {
                next.push(*at);
            } else if fits || otherwise == IfOtherForm::GoOn {
                placed[*at] = Some(slot.hour);
            }
        }
        for at in &next {
            slots[*at].hour = slots[*at].hour.next();
        }
        searching = next;
    }
    Ok(placed)
}

/// The account and the form of each slot's customer.
async fn forms(transaction: &Transaction<'_>, slots: &[Slot]) -> Result<Vec<Option<(String, Form)>>, Failed> {
    let customers: Vec<Option<Customer>> =
        slots.iter().map(|slot| Customer::from_canonical(&slot.customer)).collect();
    let legacy = |customer: &Option<Customer>| match customer {
        Some(Customer::Identifier(identifier)) => Some(identifier.clone()),
        _ => None,
    };
    let identifiers: BTreeSet<String> = customers.iter().filter_map(legacy).collect();
    let mut accounts: BTreeMap<String, String> = BTreeMap::new();
    if !identifiers.is_empty() {
        let identifiers: Vec<String> = identifiers.into_iter().collect();
        let sql = "SELECT identifier, account FROM tollgate.identities WHERE identifier = ANY($1)";
        let rows = transaction.query(sql, &[(&identifiers, Type::TEXT_ARRAY)]).await?;
        accounts.extend(rows.iter().map(|row| (row.get(0), row.get(1))));
    }
    let named = |customer: &Option<Customer>| {
        let account = legacy(customer).and_then(|identifier| accounts.get(&identifier));
        Form::named(customer.as_ref()?, account.map(String::as_str))
    };
    Ok(customers.iter().map(named).collect())
}

const SET_FORMS: &str = "INSERT INTO tollgate.forms (hour, account, form)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::smallint[]) AS form (hour, account, form)
    ORDER BY hour, account COLLATE \"C\"
    ON CONFLICT (hour, account) DO NOTHING";

const FORMS: &str = "SELECT forms.hour, forms.account, forms.form FROM
    unnest($1::bigint[], $2::text[]) AS form (hour, account) JOIN tollgate.forms USING (hour, account)";

/// Sets the accounts' forms in these hours where none is set, and returns those that are set then. An account that
/// wants two forms in one hour gets the first.
async fn take_forms(
    transaction: &Transaction<'_>,
    wanted: impl Iterator<Item = (Hour, &str, i16)>,
) -> Result<BTreeMap<(Hour, String), i16>, Failed> {
    let mut first: BTreeMap<(Hour, &str), i16> = BTreeMap::new();
    for (hour, account, form) in wanted {
        first.entry((hour, account)).or_insert(form);
    }
    if first.is_empty() {
        return Ok(BTreeMap::new());
    }
    let hours: Vec<i64> = first.keys().map(|(hour, _)| hour.number()).collect();
    let accounts: Vec<&str> = first.keys().map(|(_, account)| *account).collect();
    let forms: Vec<i16> = first.values().copied().collect();
    transaction
        .execute(
            SET_FORMS,
            &[(&hours, Type::INT8_ARRAY), (&accounts, Type::TEXT_ARRAY), (&forms, Type::INT2_ARRAY)],
        )
        .await?;
    let rows = transaction.query(FORMS, &[(&hours, Type::INT8_ARRAY), (&accounts, Type::TEXT_ARRAY)]).await?;
    Ok(rows.iter().map(|row| ((Hour::from_number(row.get(0)), row.get(1)), row.get(2))).collect())
}

/// `least` ignores NULL.
const ADD: &str = "INSERT INTO tollgate.sums AS sums
        (hour, customer, dimension, writer, tags_key, tags, amount, additive, first_at, late_from)
    SELECT hour, customer, dimension, $8, tags_key, tags, 0, amount::numeric, first_at, late_from
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bytea[], $5::text[], $6::text[], $7::bigint[], $9::bigint[])
        AS added (hour, customer, dimension, tags_key, tags, amount, first_at, late_from)
    ORDER BY hour, customer COLLATE \"C\", dimension COLLATE \"C\", tags_key
    ON CONFLICT (hour, customer, dimension, writer, tags_key) DO UPDATE SET
        additive = sums.additive + excluded.additive, first_at = least(sums.first_at, excluded.first_at),
        late_from = least(sums.late_from, excluded.late_from)";

/// Adds usage to open slots.
pub(crate) async fn add(transaction: &Transaction<'_>, additions: Vec<Addition>) -> Result<(), Failed> {
    struct Sum {
        amount: i128,
        first_at: i64,
        late_from: Option<i64>,
    }
    // One statement must not change a row twice.
    let mut sums: BTreeMap<(Slot, String), Sum> = BTreeMap::new();
    for Addition { slot, parts, first_at, late_from } in additions {
        let (first_at, late_from) = (first_at.unix_millis(), late_from.map(Hour::number));
        for (tags, amount) in parts {
            let sum = sums.entry((slot.clone(), tags)).or_insert(Sum { amount: 0, first_at, late_from });
            sum.amount += amount;
            sum.first_at = sum.first_at.min(first_at);
            sum.late_from = [sum.late_from, late_from].into_iter().flatten().min();
        }
    }
    if sums.is_empty() {
        return Ok(());
    }
    let columns: Columns<'_> = sums.keys().map(|(slot, _)| slot).collect();
    let tags: Vec<&str> = sums.keys().map(|(_, tags)| tags.as_str()).collect();
    let tags_keys: Vec<Vec<u8>> = tags.iter().map(|tags| tags_key(tags)).collect();
    let amounts: Vec<String> = sums.values().map(|sum| sum.amount.to_string()).collect();
    let first_at: Vec<i64> = sums.values().map(|sum| sum.first_at).collect();
    let late_from: Vec<Option<i64>> = sums.values().map(|sum| sum.late_from).collect();
    transaction
        .execute(
            ADD,
            &[
                (&columns.hours, Type::INT8_ARRAY),
                (&columns.customers, Type::TEXT_ARRAY),
                (&columns.dimensions, Type::TEXT_ARRAY),
                (&tags_keys, Type::BYTEA_ARRAY),
                (&tags, Type::TEXT_ARRAY),
                (&amounts, Type::TEXT_ARRAY),
                (&first_at, Type::INT8_ARRAY),
                (&NO_WRITER, Type::INT8),
                (&late_from, Type::INT8_ARRAY),
            ],
        )
        .await
        .map(|_| ())
}

/// Notes that records' quantities were added to slots.
pub(crate) async fn link(
    transaction: &Transaction<'_>,
    sources: &[i64],
    slots: &Columns<'_>,
) -> Result<(), Failed> {
    const LINK: &str = "INSERT INTO tollgate.links (source, hour, customer, dimension)
        SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[])";
    transaction
        .execute(
            LINK,
            &[
                (&sources, Type::INT8_ARRAY),
                (&slots.hours, Type::INT8_ARRAY),
                (&slots.customers, Type::TEXT_ARRAY),
                (&slots.dimensions, Type::TEXT_ARRAY),
            ],
        )
        .await
        .map(|_| ())
}

/// The parts of a record's quantity in the unit of a rule, by the canonical text of their tags, and their sum.
pub(crate) fn unsealed(
    rule: &Rule,
    quantity: Quantity,
    allocations: &[Allocation],
) -> (Vec<(String, i128)>, i128) {
    let parts: Vec<(String, i128)> = seal::unsealed(rule, quantity, allocations)
        .into_iter()
        .map(|(tags, amount)| (tags.canonical(), amount))
        .collect();
    let sum = parts.iter().map(|(_, amount)| amount).sum();
    (parts, sum)
}

/// Amounts by tags in the unit of another rule, each rounded down; and what that changed their sum by.
pub(crate) fn converted(
    from: &Rule,
    to: &Rule,
    shares: &BTreeMap<TagSet, i128>,
) -> (Vec<(String, i128)>, i128) {
    let parts: Vec<(String, i128)> =
        shares.iter().map(|(tags, amount)| (tags.canonical(), from.converted(*amount, to))).collect();
    let change = parts.iter().map(|(_, amount)| amount).sum::<i128>() - shares.values().sum::<i128>();
    (parts, change)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::UNTAGGED;

    fn tags(team: &str) -> TagSet {
        BTreeMap::from([("team".to_owned(), team.to_owned())]).try_into().unwrap()
    }

    #[test]
    fn what_a_new_unit_cuts_off_is_told() {
        let [by_the_thousand, as_it_is] = ["sum 1000 none", "sum"].map(|rule| rule.parse::<Rule>().unwrap());
        let shares = BTreeMap::from([(tags("a"), 1999), (TagSet::default(), 5_000)]);
        let (parts, change) = converted(&by_the_thousand, &as_it_is, &shares);
        assert_eq!(parts, [(UNTAGGED.to_owned(), 5), (tags("a").canonical(), 1)]);
        assert_eq!(change, 6 - 6999);
        assert_eq!(converted(&as_it_is, &as_it_is, &shares).1, 0);
    }
}
