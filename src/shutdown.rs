//! Signals and supervision.
