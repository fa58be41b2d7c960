//! Moves a ledger on disk into the database.
