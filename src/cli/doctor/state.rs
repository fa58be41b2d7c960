//! The state folder: its room, and the ledger in it.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::app::address;
use crate::config::Config;
use crate::doctor::Finding;
use crate::doctor::disk::{self, Ledger, Space};
use crate::registration::memory::Store;
use tollgate_http::client::{Ask, ask};
use tollgate_ledger::{Database, FILE_NAME, LedgerError};

/// The running sidecar adds up its ledger.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Room and ledger, as far as the mode has them.
pub(super) async fn examine(config: &Config) -> Vec<Finding> {
    let Some(folder) = config.state.dir.path() else {
        return vec![Finding::warning(
            "state folder",
            "nothing is kept",
            "After a restart while AWS cannot be reached the gate stays shut; mount a volume at state_dir to change that.",
        )];
    };
    let mode = config.product.mode;
    let mut findings = vec![Finding::ok("state folder", format!("{} can be written", folder.display()))];
    if let Some(seen) = Store::new(folder.to_owned()).obstacle() {
        findings.push(Finding::warning(
            "kept registration",
            seen,
            "Remove it: until AWS answers, neither grace nor a kept receipt opens the gate.",
        ));
    }
    if let Some(found) = space(folder) {
        findings.push(disk::space(found, mode, config.usage.ledger_bytes_max));
    }
    if mode.has_ledger() {
        findings.push(disk::ledger(&look(config, folder).await));
    }
    findings
}

/// Of the folder, or of the nearest one above it that exists already.
fn space(folder: &Path) -> Option<Space> {
    let stat = folder.ancestors().find_map(|path| rustix::fs::statvfs(path).ok())?;
    let bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
    // File systems that make inodes as they go say 0 of 0.
    let files = (stat.f_files > 0).then_some(stat.f_favail);
    Some(Space { bytes, files })
}

async fn look(config: &Config, folder: &Path) -> Ledger {
    // A link that leads nowhere is no ledger either, and the sidecar will not make one in its place.
    if folder.join(FILE_NAME).symlink_metadata().is_err() {
        return Ledger::Absent;
    }
    let rows = |ledger: &Database| {
        ledger.check()?;
        let totals = ledger.totals()?;
        Ok(totals.into_iter().map(|(dimension, totals)| (dimension, totals.balances())).collect())
    };
    match Database::inspect(folder).and_then(|ledger| rows(&ledger)) {
        Ok(rows) => Ledger::Read(rows),
        Err(LedgerError::InUse(_)) => held(config).await.map_or(Ledger::InUse, Ledger::Held),
        Err(error @ (LedgerError::Old(_) | LedgerError::Empty(_))) => Ledger::Unread(error.to_string()),
        Err(error @ LedgerError::Damaged { .. }) => Ledger::Damaged(error.to_string()),
        Err(error) => Ledger::Unusable(error.to_string()),
    }
}

/// The balance as the sidecar that holds the ledger says it.
async fn held(config: &Config) -> Option<Vec<(String, bool)>> {
    let authorization = config.app.token.as_ref().map(|token| format!("Bearer {}", token.expose()));
    let question = Ask { authorization: authorization.as_deref(), ..Ask::get("/v1/reconciliation") };
    let answer = ask(&address(&config.app.addr), question, ANSWER_TIMEOUT).await.ok()?;
    let document: Value = serde_json::from_slice(answer.body()).ok()?;
    let row = |row: &Value| Some((row["dimension"].as_str()?.to_owned(), row["balanced"].as_bool()?));
    document["dimensions"].as_array()?.iter().map(row).collect()
}
