//! Whether the state folder has free space, and whether the ledger in it is intact.

use super::Finding;
use crate::config::Mode;
use tollgate_ledger::engine::{Examined, Grade};

/// Free space on the volume of the state folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that this user may still write.
    pub bytes: u64,
    /// Files that may still be created; `None` if the file system sets no limit.
    pub files: Option<u64>,
}

/// SQLite writes its log beside the ledger before it writes the ledger; below this a commit may fail.
const BYTES_MIN: u64 = 8 << 20;

/// Enough for what is kept without a ledger (a receipt, or seats): a few kilobytes.
const KEPT_BYTES_MIN: u64 = 64 << 10;

/// Far more than the ledger of one pod takes, with allocations, for all hours in AWS's window.
const BYTES_ADVISED: u64 = 128 << 20;

/// Judges the free space. For a ledger it should be 128 MiB, or `bytes_max` (the setting `ledger_bytes_max`) if that is
/// less.
#[must_use]
pub fn space(space: Space, mode: Mode, bytes_max: u64) -> Finding {
    let check = "free space";
    let seen = format!("{} MiB", space.bytes >> 20);
    let remedy = "Make room on the volume of state_dir, or give it a larger one.";
    if space.files.is_some_and(|files| files < 4) {
        return Finding::fault(
            check,
            "LedgerUnavailable",
            format!("{seen}, but the file system has no free inodes"),
            remedy,
        );
    }
    if !mode.has_ledger() {
        if space.bytes < KEPT_BYTES_MIN {
            return Finding::warning(check, format!("{seen}: nothing can be kept for a restart"), remedy);
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

/// Whether a file could be created and written in the state folder; `problem` says why not.
#[must_use]
pub fn folder(path: &str, problem: Option<&str>, mode: Mode) -> Finding {
    let check = "state folder";
    let Some(problem) = problem else { return Finding::ok(check, format!("{path} can be written")) };
    let seen = format!("{path} cannot be written: {problem}");
    let remedy = "Free space on the volume, or mount one that this user may write to.";
    if mode.has_ledger() {
        return Finding::fault(
            check,
            "LedgerUnavailable",
            format!("{seen}; usage will not be taken"),
            remedy,
        );
    }
    Finding::warning(check, format!("{seen}; nothing is kept over a restart"), remedy)
}

/// How full the ledger is. Above four fifths the alert `TollgateLedgerFilling` warns too.
#[must_use]
pub fn fill(bytes: u64, bytes_max: u64) -> Finding {
    let check = "ledger size";
    let seen = format!("{bytes} of {bytes_max} bytes (ledger_bytes_max)");
    let remedy = "Raise ledger_bytes_max and enlarge the volume, or fix what keeps usage from being sent (docs/SIZING.md).";
    if bytes >= bytes_max {
        Finding::fault(check, "LedgerUnavailable", format!("{seen}: full, usage is refused"), remedy)
    } else if bytes >= bytes_max / 5 * 4 {
        Finding::warning(check, format!("{seen}: nearly full"), remedy)
    } else {
        Finding::ok(check, seen)
    }
}

/// Usage that the running sidecar did not take since it started, by its metrics.
#[must_use]
pub fn not_taken(metrics: &str) -> Finding {
    let check = "usage";
    let count = |line: &str| {
        let (reason, count) =
            line.strip_prefix("tollgate_usage_requests_refused_total{reason=\"")?.split_once("\"} ")?;
        Some((reason.to_owned(), count.trim().parse::<u64>().ok()?)).filter(|(_, count)| *count > 0)
    };
    let refused: Vec<(String, u64)> = metrics.lines().filter_map(count).collect();
    if refused.is_empty() {
        return Finding::ok(check, "the sidecar has refused no request with usage");
    }
    let shown: Vec<String> = refused.iter().map(|(reason, count)| format!("{reason}: {count}")).collect();
    let seen = format!("requests refused since the sidecar started: {}", shown.join(", "));
    let remedy = "Read the sidecar's log, event usage_not_taken; `tollgate explain TollgateUsageRefused` explains \
                  each.";
    Finding::warning(check, seen, remedy)
}

/// The result of reading the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ledger {
    /// There is none yet.
    Absent,
    /// It was read; for each dimension whether it balances.
    Read(Vec<(String, bool)>),
    /// A running sidecar holds it, and answered with its balance.
    Held(Vec<(String, bool)>),
    /// A running process holds it, and does not answer as a sidecar.
    InUse,
    /// It cannot be read before the sidecar has started, but nothing is wrong: it is of an older version, or empty.
    Unread(String),
    /// It is damaged; the text says which file and how.
    Damaged(String),
    /// It cannot be used: of a newer version, another program's, or a link; the text says why and what to do.
    Unusable(String),
}

/// A finding of the engine of a shared ledger.
#[must_use]
pub fn shared_ledger(examined: Examined) -> Finding {
    let Examined { check, grade, seen, remedy } = examined;
    match grade {
        Grade::Ok => Finding::ok(check, seen),
        Grade::Warning => Finding::warning(check, seen, remedy),
        Grade::Fault => Finding::fault(check, "LedgerUnavailable", seen, remedy),
    }
}

/// Judges the ledger, as it was read or as the sidecar that holds it reported.
#[must_use]
pub fn ledger(ledger: &Ledger) -> Finding {
    let check = "ledger";
    let (how, rows) = match ledger {
        Ledger::Absent => return Finding::ok(check, "none yet: the sidecar creates it"),
        Ledger::Unread(why) => return Finding::ok(check, why),
        Ledger::InUse => {
            let remedy =
                "If a sidecar runs, give doctor its app_addr and app_token_file, so that doctor can ask it.";
            return Finding::warning(check, "another process uses it", remedy);
        }
        Ledger::Unusable(why) => {
            let remedy = "The sidecar does not touch such a file, and ends with exit code 74.";
            return Finding::fault(check, "LedgerUnavailable", why, remedy);
        }
        Ledger::Damaged(why) => {
            let remedy = "Keep the file and give it to the seller. The sidecar renames a damaged ledger and starts a new one.";
            return Finding::fault(check, "LedgerDamaged", why, remedy);
        }
        Ledger::Read(rows) => ("its structure is intact", rows),
        Ledger::Held(rows) => ("checked by the running sidecar, which holds it", rows),
    };
    let odd: Vec<&str> =
        rows.iter().filter(|(_, balanced)| !balanced).map(|(name, _)| name.as_str()).collect();
    if odd.is_empty() {
        return Finding::ok(check, format!("{how}; {} dimensions balance", rows.len()));
    }
    let seen = format!(
        "{how}, but accepted + rounded up does not equal billed + pending + dead + discarded + remainder in {}",
        odd.join(", ")
    );
    Finding::fault(check, "LedgerDamaged", seen, "Keep the file and give it to the seller.")
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
    fn a_ledger_that_is_full_is_a_fault_and_one_that_fills_a_warning() {
        for (bytes, verdict) in [
            (0, Verdict::Ok),
            (799, Verdict::Ok),
            (800, Verdict::Warning),
            (999, Verdict::Warning),
            (1000, Verdict::Fault),
            (1001, Verdict::Fault),
        ] {
            assert_eq!(fill(bytes, 1000).verdict, verdict, "{bytes}");
        }
    }

    #[test]
    fn refused_requests_are_read_from_the_metrics() {
        let page = "# TYPE x counter\ntollgate_usage_requests_refused_total{reason=\"busy\"} 0\n\
                    tollgate_usage_requests_refused_total{reason=\"ledger_full\"} 3\n";
        let finding = not_taken(page);
        assert_eq!(finding.verdict, Verdict::Warning);
        assert!(finding.seen.ends_with(": ledger_full: 3"), "{finding:?}");
        assert_eq!(not_taken("").verdict, Verdict::Ok);
    }

    /// If the metric had another name, every refusal would be hidden.
    #[test]
    fn refused_requests_are_found_in_the_page_that_the_sidecar_serves() {
        let metrics = crate::metrics::Metrics::new();
        metrics.usage_request_refused("ledger_full", 3);
        let (_publisher, fact) = crate::entitlement::channel(tollgate_time::Timestamp::from_unix_millis(0));
        let page = metrics.encode(&fact.borrow(), crate::metrics::Format::Text);
        assert!(not_taken(&page).seen.ends_with(": ledger_full: 3"), "{page}");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_never_told_as_one_that_can() {
        assert_eq!(folder("/s", None, Mode::Metered).verdict, Verdict::Ok);
        let full = folder("/s", Some("no space"), Mode::Metered);
        assert_eq!(full.docs.as_deref(), Some("tollgate explain LedgerUnavailable"));
        assert_eq!(folder("/s", Some("no space"), Mode::Hourly).verdict, Verdict::Warning);
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
