//! Folding: what the write-ahead log holds goes back into the file, between commits and in pieces for which no
//! acknowledgement waits long.
//!
//! Left to itself SQLite folds inside the commit that fills the log, with all that waits for that commit. The ledger's
//! thread folds first: after its commit was told, and before the log is so long that a fold takes long. How long that
//! is depends on the disk, and on whether memory still holds the log's pages, so it follows how long the latest fold
//! took.
//!
//! SQLite's own limit still applies to large writes without the thread, such as an upgrade.

use std::time::Duration;

use tollgate_clock as clock;

use super::{Ledger, LedgerError};

/// How long a fold may take, beside a few commits: with the piece of sealing before it and a commit behind it, on a
/// disk that answers within a millisecond or two, nobody waits 50 ms.
const FOLD_TIME: Duration = Duration::from_millis(10);

/// A fold takes the fsyncs of three commits at least. On a slow disk it may take as long as this many commits, or there
/// would be one with every commit.
const FOLD_COMMITS: u32 = 5;

/// The log is let grow to so many pages of 4 KiB at least.
const PAGES_MIN: u64 = 128;

/// At how many pages of the log the next fold comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Folding {
    at_pages: u64,
    at_most: u64,
}

impl Folding {
    /// SQLite folds by itself at `limit` pages.
    pub(super) const fn below(limit: u64) -> Self {
        let at_most = limit / 2;
        Self { at_pages: if at_most < PAGES_MIN { at_most } else { PAGES_MIN }, at_most }
    }

    /// A fold of this many pages took this time, where a commit takes `commit`.
    fn took(self, pages: u64, took: Duration, commit: Duration) -> Self {
        let aim = FOLD_TIME.max(FOLD_COMMITS * commit).as_micros();
        let fitting = u128::from(pages) * aim / took.as_micros().max(1);
        // One fold says little: the disk may have been busy with something else.
        let (least, most) =
            (PAGES_MIN.max(self.at_pages / 2), self.at_most.min(self.at_pages.saturating_mul(2)));
        let at_pages = u64::try_from(fitting).unwrap_or(u64::MAX).max(least).min(most);
        Self { at_pages, ..self }
    }
}

impl Ledger {
    /// Folds the log, if it is long enough. `commit` is what a commit takes on this disk.
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

    /// Pages of the log that are not folded yet, before what this mode of a checkpoint does.
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
            // A disk that was busy, a fold that found nothing to do: no more than half or twice.
            (400, 900 * MS, MS, 200),
            (400, Duration::ZERO, MS, 800),
            // A slow disk: its fsyncs alone take longer than a fold may elsewhere.
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
