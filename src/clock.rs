//! The clock: the only place that reads one.
