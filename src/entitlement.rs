//! The published fact: whether the gate is open, by what proof, and if not, why and what to do.
//!
//! - One writer publishes whole facts on a `watch` channel, so a reader never sees a mixture of two.
//! - [`Standing::Entitled`] holds a [`Proof`], and each kind of proof has one constructor, in [`proof`]: a gate that is
//!   `entitled` without a verified answer does not compile.
//! - This module does not know how the fact was established or who reads it.

pub mod document;
pub mod proof;
pub mod reason;
pub mod refusal_update;

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;

use crate::exit::Exit;
use crate::program;
use tollgate_marketplace::{PublicKeyVersion, Region};
use tollgate_time::Timestamp;

pub use document::{Documents, Subject};
pub use proof::Proof;
pub use reason::Reason;

/// The name of a [`Standing`], as documents, metrics and logs show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// No answer yet.
    Pending,
    /// There is a proof.
    Entitled,
    /// Open while AWS cannot be reached, for the seller's grace period.
    Grace,
    /// The proof has become invalid, and the seller chose to keep the gate open.
    Lapsed,
    /// AWS says no.
    Denied,
    /// All seats of the license are taken.
    Exhausted,
    /// AWS has not accepted the pod's usage for longer than the seller allows.
    Unreported,
    /// AWS rejects the request or the caller.
    Misconfigured,
    /// The answer failed verification: it is not AWS's, or it answers another request.
    Unverified,
    /// No answer for longer than `unavailable_after`.
    Unavailable,
}

impl State {
    /// Every state, in the order of the metric's series.
    pub const ALL: [Self; 10] = [
        Self::Pending,
        Self::Entitled,
        Self::Grace,
        Self::Lapsed,
        Self::Denied,
        Self::Exhausted,
        Self::Unreported,
        Self::Misconfigured,
        Self::Unverified,
        Self::Unavailable,
    ];

    /// The name in documents, metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Entitled => "entitled",
            Self::Grace => "grace",
            Self::Lapsed => "lapsed",
            Self::Denied => "denied",
            Self::Exhausted => "exhausted",
            Self::Unreported => "unreported",
            Self::Misconfigured => "misconfigured",
            Self::Unverified => "unverified",
            Self::Unavailable => "unavailable",
        }
    }

    /// The state with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    /// Whether the gate is open in this state.
    #[must_use]
    pub const fn gate_open(self) -> bool {
        matches!(self, Self::Entitled | Self::Grace | Self::Lapsed)
    }

    /// Whether somebody must act before the gate can open; in the other states it may open by itself. `Exhausted` also
    /// ends when another pod returns its seats.
    #[must_use]
    pub const fn is_refusal(self) -> bool {
        matches!(
            self,
            Self::Denied | Self::Exhausted | Self::Unreported | Self::Misconfigured | Self::Unverified
        )
    }

    /// The exit code of a process that ends in this state.
    #[must_use]
    pub const fn exit(self) -> Exit {
        match self {
            Self::Entitled | Self::Grace | Self::Lapsed => Exit::Done,
            Self::Pending | Self::Unavailable => Exit::Unavailable,
            Self::Denied | Self::Exhausted | Self::Unreported => Exit::NotEntitled,
            Self::Misconfigured => Exit::Config,
            Self::Unverified => Exit::Unverified,
        }
    }
}

/// Whether the request or the caller was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    /// AWS rejects the request itself: repeating it does not help (403).
    Request,
    /// AWS does not accept the caller, or there are no credentials: a retry may succeed once that is corrected (503).
    Caller,
}

/// The state with its proof and its reason. `P` is [`Proof`], or a substitute for it in tests of the machines.
#[derive(Debug)]
pub enum Standing<P = Proof> {
    /// AWS has not answered yet; the reason is the latest fault, if there was one.
    Pending(Option<Reason>),
    /// There is a proof. The reason says what has been wrong since, if anything, such as AWS being unreachable
    /// while a kept receipt is the proof.
    Entitled(Arc<P>, Option<Reason>),
    /// The gate is open until this time although AWS cannot be reached.
    Grace(Reason, Timestamp),
    /// The proof has become invalid, and the gate stays open.
    Lapsed(Arc<P>, Reason),
    /// AWS says that the buyer is not entitled.
    Denied(Reason),
    /// The license is valid, and other pods hold all its seats.
    Exhausted(Reason),
    /// The gate is shut only because AWS does not accept the pod's usage.
    Unreported(Reason),
    /// The request or the caller must be corrected first.
    Misconfigured(Rejected, Reason),
    /// The token failed verification.
    Unverified(Reason),
    /// Transient faults for longer than `unavailable_after`.
    Unavailable(Reason),
}

impl<P> Clone for Standing<P> {
    fn clone(&self) -> Self {
        match self {
            Self::Pending(reason) => Self::Pending(reason.clone()),
            Self::Entitled(proof, reason) => Self::Entitled(Arc::clone(proof), reason.clone()),
            Self::Grace(reason, until) => Self::Grace(reason.clone(), *until),
            Self::Lapsed(proof, reason) => Self::Lapsed(Arc::clone(proof), reason.clone()),
            Self::Denied(reason) => Self::Denied(reason.clone()),
            Self::Exhausted(reason) => Self::Exhausted(reason.clone()),
            Self::Unreported(reason) => Self::Unreported(reason.clone()),
            Self::Misconfigured(rejected, reason) => Self::Misconfigured(*rejected, reason.clone()),
            Self::Unverified(reason) => Self::Unverified(reason.clone()),
            Self::Unavailable(reason) => Self::Unavailable(reason.clone()),
        }
    }
}

impl<P> Standing<P> {
    /// The state's name.
    #[must_use]
    pub const fn state(&self) -> State {
        match self {
            Self::Pending(_) => State::Pending,
            Self::Entitled(..) => State::Entitled,
            Self::Grace(..) => State::Grace,
            Self::Lapsed(..) => State::Lapsed,
            Self::Denied(_) => State::Denied,
            Self::Exhausted(_) => State::Exhausted,
            Self::Unreported(_) => State::Unreported,
            Self::Misconfigured(..) => State::Misconfigured,
            Self::Unverified(_) => State::Unverified,
            Self::Unavailable(_) => State::Unavailable,
        }
    }

    /// Whether the main container may run.
    #[must_use]
    pub const fn gate_open(&self) -> bool {
        self.state().gate_open()
    }

    /// The proof, if there is one.
    #[must_use]
    pub const fn proof(&self) -> Option<&Arc<P>> {
        match self {
            Self::Entitled(proof, _) | Self::Lapsed(proof, _) => Some(proof),
            _ => None,
        }
    }

    /// The reason, if there is one.
    #[must_use]
    pub const fn reason(&self) -> Option<&Reason> {
        match self {
            Self::Pending(reason) | Self::Entitled(_, reason) => reason.as_ref(),
            Self::Grace(reason, _)
            | Self::Lapsed(_, reason)
            | Self::Denied(reason)
            | Self::Exhausted(reason)
            | Self::Unreported(reason)
            | Self::Misconfigured(_, reason)
            | Self::Unverified(reason)
            | Self::Unavailable(reason) => Some(reason),
        }
    }

    /// [`Standing::reason`], to complete it before it is published.
    pub const fn reason_mut(&mut self) -> Option<&mut Reason> {
        match self {
            Self::Pending(reason) | Self::Entitled(_, reason) => reason.as_mut(),
            Self::Grace(reason, _)
            | Self::Lapsed(_, reason)
            | Self::Denied(reason)
            | Self::Exhausted(reason)
            | Self::Unreported(reason)
            | Self::Misconfigured(_, reason)
            | Self::Unverified(reason)
            | Self::Unavailable(reason) => Some(reason),
        }
    }

    /// The exit code of a process that ends in this state.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        self.state().exit()
    }
}

/// The published fact.
#[derive(Debug)]
pub struct Entitlement<P = Proof> {
    /// State, proof and reason.
    pub standing: Standing<P>,
    /// When the current state began.
    pub since: Timestamp,
    /// Whether the gate has been open since the process started.
    pub has_opened: bool,
    /// Attempts so far.
    pub attempts: u64,
    /// When the next attempt is due, if there will be one.
    pub next_attempt_at: Option<Timestamp>,
    /// The public key version of the latest attempt.
    pub public_key_version: Option<PublicKeyVersion>,
    /// The region whose endpoint is called, once known.
    pub region: Option<Region>,
    /// AWS's `PublicKeyRotationTimestamp` for the public key version in use; AWS sends it for a version that it has
    /// rotated.
    pub public_key_rotation_timestamp: Option<Timestamp>,
    /// Whether any answer came from the emulator.
    pub emulated: bool,
}

/// What a machine has published: its state, since when, and whether the gate was ever open.
#[derive(Debug, Clone, Copy)]
pub struct Shown {
    state: State,
    since: Timestamp,
    /// Whether the gate has been open since the process started.
    pub has_opened: bool,
}

impl Shown {
    /// The initial value, when the process starts.
    #[must_use]
    pub const fn at(now: Timestamp) -> Self {
        Self { state: State::Pending, since: now, has_opened: false }
    }

    /// Records a standing, and returns the fact to publish.
    pub fn show<P>(&mut self, standing: Standing<P>, now: Timestamp) -> Entitlement<P> {
        if self.state != standing.state() {
            (self.state, self.since) = (standing.state(), now);
        }
        self.has_opened |= standing.gate_open();
        Entitlement::of(standing, *self)
    }
}

impl<P> Clone for Entitlement<P> {
    fn clone(&self) -> Self {
        Self { standing: self.standing.clone(), region: self.region.clone(), ..*self }
    }
}

impl<P> Entitlement<P> {
    /// The fact before the first answer.
    #[must_use]
    pub const fn initial(now: Timestamp) -> Self {
        Self::of(Standing::Pending(None), Shown::at(now))
    }

    /// A fact from a standing and what was published before; the machine sets the other fields.
    #[must_use]
    pub const fn of(standing: Standing<P>, shown: Shown) -> Self {
        Self {
            standing,
            since: shown.since,
            has_opened: shown.has_opened,
            attempts: 0,
            next_attempt_at: None,
            public_key_version: None,
            region: None,
            public_key_rotation_timestamp: None,
            emulated: false,
        }
    }

    /// Adds what every mode reports: `skew`, by how many seconds AWS's clock is ahead of the node's, and `docs_url`,
    /// where the seller publishes the runbook.
    #[must_use]
    pub fn completed(mut self, skew: Option<i64>, docs_url: Option<&str>) -> Self {
        // Only an open gate without a reason reports the skew; any other reason is more important.
        if let Standing::Entitled(_, reason @ None) = &mut self.standing {
            let skew = skew.filter(|skew| skew.unsigned_abs() >= CLOCK_SKEW_SECONDS_MAX);
            *reason = skew.map(Reason::clock_skew);
        }
        if let (Some(url), Some(reason)) = (docs_url, self.standing.reason_mut()) {
            reason.docs = format!("{url}{}", reason.code);
        }
        self
    }
}

/// With a larger difference, usage may count to the wrong hour, and the computed age of a receipt is wrong.
const CLOCK_SKEW_SECONDS_MAX: u64 = 600;

/// The sender of the fact.
pub type Publisher = watch::Sender<Arc<Entitlement>>;
/// A receiver of the fact.
pub type Watch = watch::Receiver<Arc<Entitlement>>;

/// A channel that holds the initial fact.
#[must_use]
pub fn channel(now: Timestamp) -> (Publisher, Watch) {
    watch::channel(Arc::new(Entitlement::initial(now)))
}

/// Longest line that `probe` prints: what `kubectl describe pod` shows of an exec probe's output without cutting it.
pub const LINE_BYTES_MAX: usize = 512;

/// The code that is printed while the gate is open without a reason.
const GATE_OPEN: &str = "GateOpen";

/// The code, message and remedy that are printed before the first answer.
const NO_ANSWER: (&str, &str, &str) =
    ("NoAnswerYet", "AWS has not answered yet.", "Nothing to do: the call is under way.");

/// The line for operators: `<state>: <reason.code>: <message> <remedy> next try <RFC 3339>`, with the mark of a
/// development build before the next try.
#[must_use]
pub fn line(state: &str, reason: Option<(&str, &str, &str)>, next_attempt_at: Option<&str>) -> String {
    let (code, message, remedy) = reason.unwrap_or(if state == State::Pending.as_str() {
        NO_ANSWER
    } else {
        (GATE_OPEN, "The gate is open.", "Nothing to do.")
    });
    let next = next_attempt_at.map_or_else(String::new, |at| format!(" next try {at}"));
    let next = format!("{}{next}", program::mark());
    let mut line: String = format!("{state}: {code}: {message} {remedy}")
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    // The mark and the time of the next try are kept; the remedy is cut.
    let room = LINE_BYTES_MAX.saturating_sub(next.len());
    if line.len() > room {
        let cut = (0..=room.saturating_sub('…'.len_utf8())).rev().find(|&at| line.is_char_boundary(at));
        line.truncate(cut.unwrap_or(0));
        line.push('…');
    }
    line + &next
}

impl Entitlement {
    /// [`line()`] of this fact.
    #[must_use]
    pub fn line(&self) -> String {
        let reason = self.standing.reason().map(|r| (r.code.as_str(), r.message.as_ref(), r.remedy.as_ref()));
        let next = self.next_attempt_at.map(|at| at.to_string());
        line(self.standing.state().as_str(), reason, next.as_deref())
    }

    /// [`line()`] of this fact for a process that ends: it announces no retry.
    #[must_use]
    pub fn last_line(&self) -> String {
        let reason = self.standing.reason().map(|r| (r.code.as_str(), r.message.as_ref(), r.last_remedy()));
        let reason = match &reason {
            Some((code, message, remedy)) => Some((*code, *message, remedy.as_str())),
            None if self.standing.gate_open() => None,
            None => Some((NO_ANSWER.0, NO_ANSWER.1, reason::START_AGAIN)),
        };
        line(self.standing.state().as_str(), reason, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::mark;

    #[test]
    fn the_line_is_one_line_of_at_most_512_bytes_and_keeps_the_next_try() {
        let long = "ü".repeat(600);
        let shown = line("denied", Some(("Code", "two\nlines", &long)), Some("2026-11-24T08:00:00Z"));
        assert!(shown.len() <= LINE_BYTES_MAX, "{}", shown.len());
        assert!(!shown.contains('\n'));
        assert!(shown.starts_with("denied: Code: two lines ü"));
        assert!(shown.ends_with(&format!("…{} next try 2026-11-24T08:00:00Z", mark())), "{shown}");
    }

    #[test]
    fn without_a_reason_the_line_says_what_the_state_means() {
        let open = "The gate is open. Nothing to do.";
        let pending = "AWS has not answered yet. Nothing to do: the call is under way.";
        assert_eq!(line("entitled", None, None), format!("entitled: GateOpen: {open}{}", mark()));
        assert_eq!(line("pending", None, None), format!("pending: NoAnswerYet: {pending}{}", mark()));
    }
}
