//! What people do to records.
