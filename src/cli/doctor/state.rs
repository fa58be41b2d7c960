//! Checks the state folder: its free space, and the ledger in it.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::app::{address, shared_ledger};
use crate::config::{Config, Disk, LicenseModel};
use crate::doctor::Finding;
use crate::doctor::disk::{self, Ledger, Space};
use crate::engine;
use crate::license;
use crate::registration::memory::Store;
use tollgate_clock as clock;
use tollgate_disk::describe;
use tollgate_http::client::{Ask, ask};
use tollgate_ledger::{Database, FILE_NAME, LedgerError};

/// Enough for the running sidecar to sum up its ledger.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Findings about the folder, its free space, and the ledger in modes that have one; or about a shared ledger.
pub(super) async fn examine(config: &Config, writable: &dyn Disk) -> Vec<Finding> {
    let mode = config.product.mode;
    let holds_seats = mode.asks_license_manager() && config.license.model == LicenseModel::Floating;
    if let Some((url_file, engine)) = config.state.url_file.clone().zip(engine::installed())
        && let Some(settings) = shared_ledger(config, clock::system_now())
    {
        return engine.examine(url_file, settings).await.into_iter().map(disk::shared_ledger).collect();
    }
    let Some(folder) = config.state.dir.path() else {
        let remedy = if holds_seats {
            "A container that restarts loses its seats until their checkout ends; mount a volume at state_dir to change \
             that."
        } else {
            "After a restart while AWS cannot be reached the gate stays shut; mount a volume at state_dir to change \
             that."
        };
        return vec![Finding::warning("state folder", "nothing is kept", remedy)];
    };
    let wrote = writable.try_write(folder, false).map_err(|error| describe(&error));
    let mut findings = vec![disk::folder(&folder.display().to_string(), wrote.err().as_deref(), mode)];
    let (check, obstacle, remedy) = if mode.asks_license_manager() {
        let obstacle = license::memory::Store::new(folder.to_owned()).obstacle();
        (
            "kept license",
            obstacle,
            "Remove it: seats that it held end with their checkout, and grace begins anew.",
        )
    } else {
        let obstacle = Store::new(folder.to_owned()).obstacle();
        let remedy = "Remove it: until AWS answers, neither grace nor a kept receipt opens the gate.";
        ("kept registration", obstacle, remedy)
    };
    findings.extend(obstacle.map(|seen| Finding::warning(check, seen, remedy)));
    if let Some(found) = space(folder) {
        findings.push(disk::space(found, mode, config.usage.ledger_bytes_max));
    }
    if mode.has_ledger() {
        let (ledger, bytes) = look(config, folder).await;
        findings.push(disk::ledger(&ledger));
        findings.extend(bytes.map(|bytes| disk::fill(bytes, config.usage.ledger_bytes_max)));
    }
    findings
}

/// Free space of the folder, or of its nearest ancestor that exists.
fn space(folder: &Path) -> Option<Space> {
    let stat = folder.ancestors().find_map(|path| rustix::fs::statvfs(path).ok())?;
    let bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
    // File systems that create inodes on demand report 0 of 0.
    let files = (stat.f_files > 0).then_some(stat.f_favail);
    Some(Space { bytes, files })
}

/// The ledger, and how many bytes of `ledger_bytes_max` it takes, if that is known.
async fn look(config: &Config, folder: &Path) -> (Ledger, Option<u64>) {
    // A link whose target is missing is not an absent ledger: the sidecar will not create a ledger in its place.
    if folder.join(FILE_NAME).symlink_metadata().is_err() {
        return (Ledger::Absent, None);
    }
    let rows = |ledger: &Database| {
        ledger.check()?;
        let totals = ledger.totals()?;
        let rows = totals.into_iter().map(|(dimension, totals)| (dimension, totals.balances())).collect();
        Ok((rows, ledger.summary()?.bytes))
    };
    let ledger = match Database::inspect(folder).and_then(|ledger| rows(&ledger)) {
        Ok((rows, bytes)) => return (Ledger::Read(rows), Some(bytes)),
        Err(LedgerError::InUse(_)) => {
            return match held(config).await {
                Some((rows, bytes)) => (Ledger::Held(rows), bytes),
                None => (Ledger::InUse, None),
            };
        }
        Err(error @ (LedgerError::Old(_) | LedgerError::Empty(_))) => Ledger::Unread(error.to_string()),
        Err(error @ LedgerError::Damaged { .. }) => Ledger::Damaged(error.to_string()),
        Err(error) => Ledger::Unusable(error.to_string()),
    };
    (ledger, None)
}

/// The balance and the ledger's bytes, from the sidecar that holds the ledger.
async fn held(config: &Config) -> Option<(Vec<(String, bool)>, Option<u64>)> {
    let authorization = config.app.token.as_ref().map(|token| format!("Bearer {}", token.expose()));
    let question = Ask { authorization: authorization.as_deref(), ..Ask::get("/v1/reconciliation") };
    let answer = ask(&address(&config.app.addr), question, ANSWER_TIMEOUT).await.ok()?;
    let document: Value = serde_json::from_slice(answer.body()).ok()?;
    let row = |row: &Value| Some((row["dimension"].as_str()?.to_owned(), row["balanced"].as_bool()?));
    let rows = document["dimensions"].as_array()?.iter().map(row).collect::<Option<_>>()?;
    Some((rows, document["backlog"]["ledger_bytes"].as_u64()))
}
