//! The settings of custom metering, and the floors that keep an operator's value from cutting off what is paid.

use std::time::Duration;

use super::parse::{self, Problem};
use super::reader::Reader;
use super::setting::Setting;
use super::{Mode, Usage};

/// Two hours are open while one settles; a third would never close in order.
const SETTLE_MAX: Duration = Duration::from_secs(59 * 60);

/// Kubernetes and ECS end a process long before this.
const STOP_MAX: Duration = Duration::from_secs(60 * 60);

/// Least that an operator may set beside a seller's file: less leaves no time to send the open hour.
const SHUTDOWN_GRACE_FLOOR: Duration = Duration::from_secs(5);

/// Least that an operator may set beside a seller's file: a smaller ledger is full, and refuses usage, at once.
const LEDGER_BYTES_FLOOR: u64 = 16 * 1024 * 1024;

/// An event may be half as old as this: less would reject events of the hour that is open.
const IDEMPOTENCY_WINDOW_MIN: Duration = Duration::from_secs(2 * 60 * 60);

/// Each remembered `id` takes space in the ledger.
const IDEMPOTENCY_WINDOW_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Reads all of it.
pub(super) fn read(reader: &mut Reader<'_>, mode: Option<Mode>) -> Option<Usage> {
    let settle = reader.read(Setting::Settle, |text| parse::duration_at_most(text, SETTLE_MAX, "59m"));
    let on_expired = reader.read(Setting::OnExpired, parse::on_expired);
    let on_zero_hour = reader.read(Setting::OnZeroHour, parse::on_zero_hour);
    let on_unsent = reader.read(Setting::OnUnsent, parse::on_unsent);
    let idempotency_window = reader.read(Setting::IdempotencyWindow, idempotency_window);
    let strict_usage = reader.read(Setting::StrictUsage, parse::switch);
    let ledger_repair = reader.given(Setting::LedgerRepair, parse::switch);
    // Who may write records off must not be who pays for them.
    let ledger_repair_default = mode == Some(Mode::Saas) || !reader.resolution.sealed();
    let seal_on_shutdown = reader.read(Setting::SealOnShutdown, parse::switch);
    let command_grace = reader.read(Setting::CommandGrace, stop);
    let (drain_quiet, shutdown_grace) = shutdown(reader);
    let ledger_bytes_max = ledger_bytes_max(reader);
    if mode.is_some_and(|mode| mode != Mode::Metered) {
        reader.warn_unused(Setting::OnUnsent, "it is for mode metered");
    }
    Some(Usage {
        settle: settle?,
        on_expired: on_expired?,
        on_zero_hour: on_zero_hour?,
        on_unsent: on_unsent?,
        idempotency_window: idempotency_window?,
        strict_usage: strict_usage?,
        ledger_repair: ledger_repair?.unwrap_or(ledger_repair_default),
        seal_on_shutdown: seal_on_shutdown?,
        command_grace: command_grace?,
        drain_quiet: drain_quiet?,
        shutdown_grace: shutdown_grace?,
        ledger_bytes_max: ledger_bytes_max?,
    })
}

fn stop(text: &str) -> Result<Duration, Problem> {
    parse::duration_at_most(text, STOP_MAX, "1h")
}

/// `drain_quiet` and `shutdown_grace`, which count from the same moment: together they must leave time to send.
fn shutdown(reader: &mut Reader<'_>) -> (Option<Duration>, Option<Duration>) {
    let quiet = reader.read(Setting::DrainQuiet, stop);
    let grace = reader.read(Setting::ShutdownGrace, stop);
    let (Some(quiet), Some(grace)) = (quiet, grace) else { return (quiet, grace) };
    if grace < SHUTDOWN_GRACE_FLOOR && reader.resolution.is_operators_own(Setting::ShutdownGrace) {
        reader.fault(Setting::ShutdownGrace, "is below 5s, the least beside a seller's file; choose more");
        return (Some(quiet), None);
    }
    if quiet >= grace && reader.is_given(Setting::DrainQuiet) {
        let problem = format!("leaves nothing of shutdown_grace ({grace:?}) to send usage; choose less");
        reader.fault(Setting::DrainQuiet, problem);
        return (None, Some(grace));
    }
    (Some(quiet), Some(grace))
}

fn ledger_bytes_max(reader: &mut Reader<'_>) -> Option<u64> {
    let bytes = reader.read(Setting::LedgerBytesMax, parse::size)?;
    if bytes < LEDGER_BYTES_FLOOR && reader.resolution.is_operators_own(Setting::LedgerBytesMax) {
        reader
            .fault(Setting::LedgerBytesMax, "is below 16MiB, the least beside a seller's file; choose more");
        return None;
    }
    Some(bytes)
}

fn idempotency_window(text: &str) -> Result<Duration, Problem> {
    let window = parse::duration_at_most(text, IDEMPOTENCY_WINDOW_MAX, "30d")?;
    if window < IDEMPOTENCY_WINDOW_MIN { Err("is shorter than 2h; choose more".into()) } else { Ok(window) }
}
