//! What tests of the ledger, and of what uses it, begin with.

use std::time::Duration;

use crate::{Ledger, LedgerError, Settings};
use tollgate_time::Timestamp;

/// 2026-11-24T08:00:00Z, the start of an hour.
pub const START: Timestamp = Timestamp::from_unix_seconds(1_795_507_200);

/// How long an hour takes its own late events.
pub const SETTLE: Duration = Duration::from_secs(120);

/// In memory where the system has such a place: no test here is about the disk's time.
#[must_use]
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder can be made")
}

/// Of a pod that meters the product of the examples.
#[must_use]
pub fn settings(pod: &str) -> Settings {
    Settings {
        product: "demometered".to_owned(),
        pod: pod.to_owned(),
        settle: SETTLE,
        bytes_max: 1 << 30,
        started_at: START,
        zero_dimensions: Vec::new(),
        aws_door: false,
        idempotency_window: Duration::from_secs(48 * 3600),
    }
}

/// Has the ledger refuse every write, as a disk that is full does, or take them again.
pub fn refuse_writes(ledger: &mut Ledger, refuse: bool) -> Result<(), LedgerError> {
    ledger.reading(|connection| connection.pragma_update(None, "query_only", refuse))
}
