//! Custom usage: intake, ledger, sealing, sending.
