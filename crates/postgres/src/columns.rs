//! Reads columns by their names.

use tokio_postgres::Row;
use tokio_postgres::types::FromSqlOwned;

use tollgate_ledger::LedgerError;

/// The error for a value that this crate never writes.
pub(crate) fn unreadable(what: &str) -> LedgerError {
    LedgerError::Unusable(format!(
        "a row holds {what} that this program cannot read; was it changed by hand?"
    ))
}

/// A column of a row.
pub(crate) fn column<T: FromSqlOwned>(row: &Row, name: &str) -> Result<T, LedgerError> {
    row.try_get(name).map_err(|error| unreadable(&format!("{name:?} ({error})")))
}

/// An amount in millionths, read as text: PostgreSQL's `numeric` has no type of Rust's own.
pub(crate) fn amount(row: &Row, name: &str) -> Result<i128, LedgerError> {
    column::<String>(row, name)?.parse().map_err(|_| unreadable("an amount"))
}
