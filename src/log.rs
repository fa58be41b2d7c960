//! Log output: one line for each change of state and a summary every five minutes; single attempts only at `debug`.
//!
//! Lines go to standard error: standard output belongs to the command of `exec` and to commands that print data.
//! Tokens, nonces and keys are never logged, whatever the filter says: libraries log whole requests and answers at
//! `trace`, so their `trace` lines are always dropped. AWS's texts about accounts and roles appear at `debug` only.

pub mod limited;
mod text;

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use tracing::{Level, Metadata};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{FilterExt as _, LevelFilter, Targets, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::entitlement::{Entitlement, Standing, Watch};
use crate::program;
use tollgate_marketplace::Region;

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line.
    Json,
    /// Text for people.
    Text,
}

impl Format {
    /// Text on a terminal, JSON elsewhere.
    #[must_use]
    pub fn default_for_stderr() -> Self {
        if std::io::stderr().is_terminal() { Self::Text } else { Self::Json }
    }
}

/// Libraries that log AWS's texts, with account and role, above `debug`: off unless the filter names them.
const QUIET: [&str; 6] =
    ["aws_config", "aws_runtime", "aws_smithy_runtime", "aws_sdk_sts", "hyper_rustls", "hyper_util"];

/// Checks a filter such as `info,tollgate::registration=debug`.
///
/// Targets that no directive names are logged from `info` on, unless the filter has a level without a target: a
/// misspelled target must not silence the rest.
pub fn parse_filter(filter: &str) -> Result<Targets, String> {
    let mut parsed: Targets =
        filter.parse().map_err(|error: tracing_subscriber::filter::ParseError| error.to_string())?;
    if !filter.split(',').any(|directive| !directive.contains('=')) {
        parsed = parsed.with_default(LevelFilter::INFO);
    }
    for library in QUIET {
        if !filter.contains(library) {
            parsed = parsed.with_target(library, LevelFilter::OFF);
        }
    }
    Ok(parsed)
}

/// Starts logging; a second call in the same process (tests) changes nothing.
pub fn start(format: Format, colours: bool, filter: Targets) {
    // If the reader of standard error is gone, the sidecar keeps working; an error message about that would have no
    // reader either.
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
    let layer = match format {
        Format::Json => {
            layer.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
        Format::Text => layer.event_format(text::Text { colours }).boxed(),
    };
    let filter = filter.and(filter_fn(holds_no_secret));
    let _ = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
}

fn holds_no_secret(line: &Metadata<'_>) -> bool {
    line.target().starts_with("tollgate") || *line.level() <= Level::DEBUG
}

/// The member that names a line's event, for programs; `docs/LOG.md` lists the events.
const EVENT: &str = "event";

/// How often an unchanged state is logged again.
pub const SUMMARY_EVERY: Duration = Duration::from_secs(300);

/// Logs each change of state or reason, and a summary every [`SUMMARY_EVERY`].
pub async fn follow(mut entitlement: Watch) {
    let mut shown = None;
    loop {
        let fact = Arc::clone(&entitlement.borrow_and_update());
        // Compare the whole reason: the same code with another host is a change.
        let key = (fact.standing.state(), fact.standing.reason().cloned());
        if shown.as_ref() != Some(&key) {
            shown = Some(key);
            say(&fact, Telling::Change);
        }
        tokio::select! {
            changed = entitlement.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(SUMMARY_EVERY) => say(&fact, Telling::Summary),
        }
    }
}

/// Why a state is logged.
#[derive(Debug, Clone, Copy)]
enum Telling {
    /// The state or its reason has changed.
    Change,
    /// Nothing has changed for a while.
    Summary,
}

fn say(fact: &Entitlement, telling: Telling) {
    let state = fact.standing.state().as_str();
    let gate = if fact.standing.gate_open() { "open" } else { "shut" };
    let attempts = fact.attempts;
    let emulated = fact.emulated;
    let region = fact.region.as_ref().map(Region::as_str);
    let next = fact.next_attempt_at.map(|at| at.to_string());
    let mut text = sentence(&fact.standing) + program::mark();
    let mut event = "state";
    if matches!(telling, Telling::Summary) {
        event = "summary";
        text = format!("No change: {text}");
    }
    match fact.standing.reason() {
        None => tracing::info!(event, state, gate, attempts, region, emulated, "{text}"),
        Some(reason) => tracing::warn!(
            event, state, gate, attempts, region, emulated,
            code = %reason.code, remedy = %reason.remedy, docs = %reason.docs, next_attempt_at = next, "{text}"
        ),
    }
}

/// Whether the gate is open in this state, and why.
fn sentence<P>(standing: &Standing<P>) -> String {
    match standing {
        Standing::Pending(None) => "The gate is shut: AWS has not answered yet.".to_owned(),
        Standing::Entitled(_, None) => "The gate is open.".to_owned(),
        Standing::Entitled(_, Some(reason)) => format!("The gate stays open: {}", reason.message),
        Standing::Grace(reason, until) => {
            format!("The gate is open for the grace period, until {until}: {}", reason.message)
        }
        Standing::Lapsed(_, reason) => {
            format!("The gate stays open although the entitlement has ended: {}", reason.message)
        }
        Standing::Pending(Some(reason))
        | Standing::Denied(reason)
        | Standing::Exhausted(reason)
        | Standing::Unreported(reason)
        | Standing::Misconfigured(_, reason)
        | Standing::Unverified(reason)
        | Standing::Unavailable(reason) => format!("The gate is shut: {}", reason.message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entitlement::Reason;
    use tollgate_marketplace::FaultClass;

    #[test]
    fn a_filter_that_is_none_is_an_error() {
        assert!(parse_filter("info,tollgate=debug").is_ok());
        assert!(parse_filter("tollgate=loud").is_err());
    }

    #[test]
    fn what_a_filter_does_not_name_is_still_written() {
        let enabled = |filter: &str, target: &str, level: Level| {
            parse_filter(filter).unwrap().would_enable(target, &level)
        };
        assert!(enabled("tollgate::registratoin=debug", "tollgate::usage", Level::WARN));
        assert!(enabled("tollgate::usage=debug", "tollgate::usage", Level::DEBUG));
        assert!(!enabled("error,tollgate::usage=debug", "tollgate::app", Level::WARN));
        assert!(!enabled("off", "tollgate", Level::ERROR));
    }

    #[test]
    fn the_sentence_says_what_the_gate_does_and_why() {
        let reason = || Reason::known("NoEntropy", FaultClass::Transient);
        let message = reason().message;
        for (standing, says) in [
            (Standing::<()>::Pending(None), "The gate is shut: AWS has not answered yet.".to_owned()),
            (Standing::Entitled(Arc::new(()), None), "The gate is open.".to_owned()),
            (Standing::Entitled(Arc::new(()), Some(reason())), format!("The gate stays open: {message}")),
            (Standing::Denied(reason()), format!("The gate is shut: {message}")),
        ] {
            assert_eq!(sentence(&standing), says);
        }
    }

    #[test]
    fn the_sdk_is_quiet_unless_named() {
        let filter = parse_filter("info").unwrap().to_string();
        assert!(filter.contains("aws_config=off"), "{filter}");
        assert!(!parse_filter("aws_config=debug").unwrap().to_string().contains("aws_config=off"));
    }
}
