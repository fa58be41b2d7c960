//! Folding: SQLite's checkpoint, which writes the write-ahead log back into the file. It runs between commits, in
//! pieces small enough that no acknowledgement waits long for one.
//!
//! By itself SQLite checkpoints within the commit that fills the log, and every request of that commit waits for it.
//! The ledger's thread does it earlier: after it answered the requests of its commit, and before the log is so long
//! that a checkpoint takes long. How long that is depends on the disk and on whether the log's pages are still in
//! memory, so the limit follows the duration of the latest checkpoint.
//!
//! SQLite's own limit still applies to large writes outside the thread, such as an upgrade.

use std::time::Duration;

use tollgate_clock as clock;

use super::{Ledger, LedgerError};

/// How long a fold may take. Together with the piece of sealing before it and a commit after it, an acknowledgement
/// takes less than 50 ms on a disk whose fsync takes a millisecond or two.
const FOLD_TIME: Duration = Duration::from_millis(10);

/// A fold needs the fsyncs of at least three commits. On a slow disk it may take as long as this many commits;
/// otherwise there would be a fold with every commit.
const FOLD_COMMITS: u32 = 5;

/// The log may always grow to this many pages of 4 KiB.
const PAGES_MIN: u64 = 128;

/// At how many pages of the log the next fold happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Folding {
    at_pages: u64,
    at_most: u64,
}

impl Folding {
    /// `limit` is the number of pages at which SQLite checkpoints by itself.
    pub(super) const fn below(limit: u64) -> Self {
        let at_most = limit / 2;
        Self { at_pages: if at_most < PAGES_MIN { at_most } else { PAGES_MIN }, at_most }
    }

    /// The next limit, after a fold of `pages` took `took`, where a commit takes `commit`.
    fn took(self, pages: u64, took: Duration, commit: Duration) -> Self {
        let aim = FOLD_TIME.max(FOLD_COMMITS * commit).as_micros();
        let fitting = u128::from(pages) * aim / took.as_micros().max(1);
        // One measurement may mislead: the disk may have been busy with something else.
        let (least, most) =
            (PAGES_MIN.max(self.at_pages / 2), self.at_most.min(self.at_pages.saturating_mul(2)));
        let at_pages = u64::try_from(fitting).unwrap_or(u64::MAX).max(least).min(most);
        Self { at_pages, ..self }
    }
}

impl Ledger {
    /// Folds the log if it is long enough. `commit` is how long a commit takes on this disk.
    pub(super) fn fold(&mut self, commit: Duration) -> Result<(), LedgerError> {
        if self.log_pages("NOOP")? < self.folding.at_pages {
            return Ok(());
        }
        let began = clock::monotonic();
        let pages = self.log_pages("PASSIVE")?;
        let took = clock::monotonic().duration_since(began);
        self.folding = self.folding.took(pages, took, commit);
        Ok(())
    }

    /// Pages of the log that were not folded before this call of `wal_checkpoint` in `mode`.
    fn log_pages(&self, mode: &str) -> Result<u64, LedgerError> {
        self.reading(|connection| {
            let sql = format!("PRAGMA wal_checkpoint({mode})");
            connection.prepare_cached(&sql)?.query_row([], |row| {
                let (pages, folded): (i64, i64) = (row.get(1)?, row.get(2)?);
                let left = if mode == "NOOP" { pages - folded } else { pages };
                Ok(u64::try_from(left).unwrap_or_default())
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_fold_comes_as_late_as_it_takes_no_longer_than_it_may() {
        let folding = |at_pages| Folding { at_pages, at_most: 1024 };
        // Pages of the latest fold, its time, a commit's time; when the next one comes.
        for (pages, took, commit, expected) in [
            (400, 5 * MS, MS, 800),
            (400, 10 * MS, MS, 400),
            (400, 15 * MS, MS, 266),
            // A busy disk, or a fold without work: the limit at most halves or doubles.
            (400, 900 * MS, MS, 200),
            (400, Duration::ZERO, MS, 800),
            // A slow disk: its fsyncs alone take longer than `FOLD_TIME`.
            (400, 40 * MS, 8 * MS, 400),
        ] {
            assert_eq!(
                folding(400).took(pages, took, commit),
                folding(expected),
                "{pages} {took:?} {commit:?}"
            );
        }
        assert_eq!(folding(130).took(130, 900 * MS, MS), folding(PAGES_MIN));
        assert_eq!(folding(1000).took(1000, MS, MS), folding(1024));
        let small = Folding::below(16);
        assert_eq!(small.took(8, 900 * MS, MS), small, "a small ledger folds before SQLite does");
    }
}
