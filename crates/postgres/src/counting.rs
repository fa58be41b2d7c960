//! Counts events: one call of the database for each group.
