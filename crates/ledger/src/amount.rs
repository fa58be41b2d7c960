//! Amounts on disk: 128 bits, in millionths of the event's own unit, so that no total overflows.
//!
//! An amount is a BLOB of 16 bytes, big-endian, two's complement; NULL is zero. Two SQL functions, `plus` and `minus`,
//! compute with amounts within a statement. They also accept integers, because the quantities in records are integers.

use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Error, Row};

use super::rows::unreadable;

/// The bytes that are stored.
pub(super) const fn blob(amount: i128) -> [u8; 16] {
    amount.to_be_bytes()
}

/// Reads a column.
pub(super) fn amount(row: &Row<'_>, column: usize) -> rusqlite::Result<i128> {
    of(row.get_ref(column)?).ok_or_else(|| unreadable(column, "an amount that is none"))
}

/// Registers the SQL functions `plus` and `minus`.
pub(super) fn register(connection: &Connection) -> rusqlite::Result<()> {
    // Innocuous, because triggers call them and `trusted_schema` is off.
    let flags =
        FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    let apply = |context: &Context<'_>, operation: fn(i128, i128) -> Option<i128>| {
        let operand = |index| of(context.get_raw(index)).ok_or_else(|| odd("no amount"));
        let result = operation(operand(0)?, operand(1)?).ok_or_else(|| odd("above 128 bits"))?;
        Ok(blob(result))
    };
    connection.create_scalar_function("plus", 2, flags, move |context| apply(context, i128::checked_add))?;
    connection.create_scalar_function("minus", 2, flags, move |context| apply(context, i128::checked_sub))
}

fn of(value: ValueRef<'_>) -> Option<i128> {
    match value {
        ValueRef::Null => Some(0),
        ValueRef::Integer(number) => Some(number.into()),
        ValueRef::Blob(bytes) => bytes.try_into().ok().map(i128::from_be_bytes),
        ValueRef::Real(_) | ValueRef::Text(_) => None,
    }
}

fn odd(what: &'static str) -> Error {
    Error::UserFunctionError(what.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_added_beyond_64_bits_and_below_zero() {
        let connection = Connection::open_in_memory().unwrap();
        register(&connection).unwrap();
        let ask = |sql: &str, left: i128, right: i128| {
            connection.query_row(sql, [blob(left), blob(right)], |row| amount(row, 0))
        };
        let large = i128::from(u64::MAX) * 1000;
        assert_eq!(ask("SELECT plus(?1, ?2)", large, large).unwrap(), 2 * large);
        assert_eq!(ask("SELECT minus(?1, ?2)", 1, large).unwrap(), 1 - large);
        assert!(ask("SELECT plus(?1, ?2)", i128::MAX, 1).is_err(), "never wraps");
        let null: i128 = connection.query_row("SELECT plus(NULL, 7)", [], |row| amount(row, 0)).unwrap();
        assert_eq!(null, 7);
        assert!(connection.query_row("SELECT plus('7', 7)", [], |row| amount(row, 0)).is_err());
        assert!(connection.query_row("SELECT X'07'", [], |row| amount(row, 0)).is_err());
    }
}
