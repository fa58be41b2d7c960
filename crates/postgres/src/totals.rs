//! The balance of the ledger.
