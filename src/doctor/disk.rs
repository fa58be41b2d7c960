//! Whether the state folder has room, and whether the ledger in it is whole.

use super::Finding;
use crate::config::Mode;

/// What is left on the volume of the state folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that this user may still write.
    pub bytes: u64,
    /// Files that may still be made; `None` where the file system sets no limit.
    pub files: Option<u64>,
}

/// SQLite writes its log beside the ledger before it writes the ledger; below this a commit may fail.
const BYTES_MIN: u64 = 8 << 20;

/// Room for a kept receipt, a few kilobytes, in mode `hourly`.
const RECEIPT_BYTES_MIN: u64 = 64 << 10;

/// A ledger of a pod's whole window with allocations is far below this.
const BYTES_ADVISED: u64 = 128 << 20;

/// What the ledger may still grow by is what should be there. `bytes_max` is the setting `ledger_bytes_max`.
#[must_use]
pub fn space(space: Space, mode: Mode, bytes_max: u64) -> Finding {
    let check = "free space";
    let seen = format!("{} MiB", space.bytes >> 20);
    let remedy = "Make room on the volume of state_dir, or give it a larger one.";
    if space.files.is_some_and(|files| files < 4) {
        return Finding::fault(
            check,
            "LedgerUnavailable",
            format!("{seen}, but no more files can be made"),
            remedy,
        );
    }
    if !mode.has_ledger() {
        if space.bytes < RECEIPT_BYTES_MIN {
            return Finding::warning(check, format!("{seen}: no receipt can be kept for a restart"), remedy);
        }
        return Finding::ok(check, seen);
    }
    if space.bytes < BYTES_MIN {
        return Finding::fault(
            check,
            "LedgerUnavailable",
            format!("{seen}: usage will not be taken"),
            remedy,
        );
    }
    if space.bytes < BYTES_ADVISED.min(bytes_max) {
        let seen = format!("{seen}, and the ledger may grow to {} MiB (ledger_bytes_max)", bytes_max >> 20);
        return Finding::warning(check, seen, remedy);
    }
    Finding::ok(check, seen)
}

/// What looking at the ledger showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ledger {
    /// There is none yet.
    Absent,
    /// Read whole; per dimension whether it balances.
    Read(Vec<(String, bool)>),
    /// A running sidecar has it and was asked for its balance.
    Held(Vec<(String, bool)>),
    /// A running process has it and does not answer as a sidecar.
    InUse,
    /// It is as it should be before the sidecar starts, and cannot be read yet: an older one, or an empty file.
    Unread(String),
    /// It is damaged; the text says which file and how.
    Damaged(String),
    /// It cannot be used as it stands: a newer one, another program's, a link; the text says why and what to do.
    Unusable(String),
}

/// The ledger's own word, of whoever holds it.
#[must_use]
pub fn ledger(ledger: &Ledger) -> Finding {
    let check = "ledger";
    let (how, rows) = match ledger {
        Ledger::Absent => return Finding::ok(check, "none yet: the sidecar makes it"),
        Ledger::Unread(why) => return Finding::ok(check, why),
        Ledger::InUse => {
            let remedy =
                "Where a sidecar runs, give doctor its app_addr and app_token_file, so that it can be asked.";
            return Finding::warning(check, "another process has it", remedy);
        }
        Ledger::Unusable(why) => {
            let remedy = "The sidecar leaves such a file as it is, and ends with exit code 74.";
            return Finding::fault(check, "LedgerUnavailable", why, remedy);
        }
        Ledger::Damaged(why) => {
            let remedy =
                "Keep the file and hand it to the seller; the sidecar sets a damaged one aside by itself.";
            return Finding::fault(check, "LedgerDamaged", why, remedy);
        }
        Ledger::Read(rows) => ("its structure is whole", rows),
        Ledger::Held(rows) => ("held by the running sidecar, which answers for it", rows),
    };
    let odd: Vec<&str> =
        rows.iter().filter(|(_, balanced)| !balanced).map(|(name, _)| name.as_str()).collect();
    if odd.is_empty() {
        return Finding::ok(check, format!("{how}; {} dimensions balance", rows.len()));
    }
    let seen = format!("{how}, but accepted is not billed + pending + dead in {}", odd.join(", "));
    Finding::fault(check, "LedgerDamaged", seen, "Keep the file and hand it to the seller.")
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn room_is_judged_by_what_the_mode_writes() {
        for (mib, mode, verdict) in [
            (0, Mode::Hourly, Verdict::Warning),
            (1, Mode::Hourly, Verdict::Ok),
            (7, Mode::Metered, Verdict::Fault),
            (100, Mode::Metered, Verdict::Warning),
            (128, Mode::Saas, Verdict::Ok),
        ] {
            let finding = space(Space { bytes: mib * MIB, files: None }, mode, 1024 * MIB);
            assert_eq!(finding.verdict, verdict, "{mib} {mode}");
        }
        let small = space(Space { bytes: 20 * MIB, files: Some(1000) }, Mode::Metered, 16 * MIB);
        assert_eq!(small.verdict, Verdict::Ok, "there is no more to grow");
        let full = space(Space { bytes: 1024 * MIB, files: Some(0) }, Mode::Metered, MIB);
        assert_eq!(full.docs.as_deref(), Some("tollgate explain LedgerUnavailable"));
    }

    #[test]
    fn a_ledger_is_whole_and_balances_or_it_is_a_fault() {
        let rows = |balanced| vec![("requests".to_owned(), true), ("gigabytes".to_owned(), balanced)];
        for (seen, verdict) in [
            (Ledger::Absent, Verdict::Ok),
            (Ledger::Read(rows(true)), Verdict::Ok),
            (Ledger::Held(rows(true)), Verdict::Ok),
            (Ledger::InUse, Verdict::Warning),
            (Ledger::Unread("x is empty".to_owned()), Verdict::Ok),
            (Ledger::Read(rows(false)), Verdict::Fault),
            (Ledger::Damaged("x: malformed".to_owned()), Verdict::Fault),
            (Ledger::Unusable("x is a symbolic link".to_owned()), Verdict::Fault),
        ] {
            assert_eq!(ledger(&seen).verdict, verdict, "{seen:?}");
        }
        let anchor = |seen: &Ledger| ledger(seen).docs.unwrap();
        assert!(anchor(&Ledger::Damaged(String::new())).ends_with("LedgerDamaged"));
        assert!(
            anchor(&Ledger::Unusable(String::new())).ends_with("LedgerUnavailable"),
            "nothing is damaged"
        );
        assert!(ledger(&Ledger::Held(rows(false))).seen.ends_with("in gigabytes"));
    }
}
