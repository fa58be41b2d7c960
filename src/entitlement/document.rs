//! The entitlement document as text: made once for each published fact, not for each request.
//!
//! - Nothing in the text depends on the time of the answer: `now` is added when the document is served.
//! - A text is kept beside the fact that it was made of, and served only while that fact is the published one. So it
//!   cannot be out of date.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde::Serialize;

use super::{Entitlement, Proof, Reason, State, Watch};
use crate::program;
use tollgate_clock::WallClock;
use tollgate_marketplace::{ProductCode, ProductId, PublicKeyVersion, Region};
use tollgate_time::Timestamp;

/// The parts of the entitlement document that never change while the process runs.
#[derive(Debug, Clone)]
pub struct Subject {
    /// `hourly`, `metered`, `contract` or `saas`.
    pub mode: &'static str,
    /// The product code.
    pub product_code: Option<ProductCode>,
    /// The product ID, in mode `contract`.
    pub product_id: Option<ProductId>,
    /// The UID of the pod (`TOLLGATE_POD_UID`), if it is set.
    pub pod: Option<String>,
}

/// The document of the published fact, for servers. Clones share it.
#[derive(Debug, Clone)]
pub struct Documents {
    subject: Arc<Subject>,
    entitlement: Watch,
    /// The clock that `since` is read from; the reader's own clock may differ.
    clock: WallClock,
    latest: Arc<Mutex<Option<Arc<Rendered>>>>,
}

impl Documents {
    /// The documents of `subject`.
    #[must_use]
    pub fn new(subject: Arc<Subject>, entitlement: Watch, clock: WallClock) -> Self {
        Self { subject, entitlement, clock, latest: Arc::default() }
    }

    /// The published fact, with its document.
    pub(crate) fn latest(&self) -> Arc<Rendered> {
        let fact = Arc::clone(&self.entitlement.borrow());
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        match &*latest {
            // The document keeps its fact in memory, so no other fact can have the same address.
            Some(rendered) if Arc::ptr_eq(&rendered.fact, &fact) => Arc::clone(rendered),
            _ => Arc::clone(latest.insert(Arc::new(Rendered::new(&self.subject, fact)))),
        }
    }

    /// The current time.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

/// A fact and the text of its document, which belong together: neither can be changed.
#[derive(Debug)]
pub(crate) struct Rendered {
    fact: Arc<Entitlement>,
    /// JSON without the end of the object.
    text: Box<str>,
    /// The members that show the proof, made when they are first asked for: few applications ask.
    proof: OnceLock<Box<str>>,
}

impl Rendered {
    fn new(subject: &Subject, fact: Arc<Entitlement>) -> Self {
        Self { text: opened(&Document::new(subject, &fact)).into(), fact, proof: OnceLock::new() }
    }

    /// The fact.
    pub(crate) fn fact(&self) -> &Entitlement {
        &self.fact
    }

    /// The document, as served at `now`.
    pub(crate) fn at(&self, now: Timestamp) -> String {
        closed(&[&self.text], now)
    }

    /// The document with AWS's token and the nonce that it answers, as served at `now`.
    pub(crate) fn with_proof_at(&self, now: Timestamp) -> String {
        let proof = self.proof.get_or_init(|| {
            let (token, nonce) = match self.fact.standing.proof().map(AsRef::as_ref) {
                Some(Proof::Receipt(receipt)) => (Some(receipt.token()), Some(receipt.nonce().as_str())),
                Some(Proof::Metered(_) | Proof::Permission(_) | Proof::License(_) | Proof::Seller(_))
                | None => (None, None),
            };
            opened(&SignedMembers { token, nonce }).replacen('{', ",", 1).into()
        });
        closed(&[&self.text, proof], now)
    }
}

/// Both are null where nothing is signed.
#[derive(Serialize)]
struct SignedMembers<'a> {
    token: Option<&'a str>,
    nonce: Option<&'a str>,
}

/// An object in JSON without its last brace.
fn opened(object: &impl Serialize) -> String {
    let mut text =
        serde_json::to_string(object).expect("our own documents have string keys and finite numbers");
    text.pop();
    text
}

/// Joins what [`opened`] made, with `now` as the last member.
fn closed(parts: &[&str], now: Timestamp) -> String {
    const NOW_BYTES: usize = ",\"now\":\"2026-11-24T08:00:00Z\"}".len();
    let mut text = String::with_capacity(parts.iter().map(|part| part.len()).sum::<usize>() + NOW_BYTES);
    for part in parts {
        text.push_str(part);
    }
    // Writing to a string cannot fail.
    let _ = write!(text, ",\"now\":\"{now}\"}}");
    text
}

/// The entitlement document, as every endpoint shows it, without `now`.
#[derive(Debug, Serialize)]
struct Document<'a> {
    state: State,
    gate: &'static str,
    proof: Option<&'static str>,
    mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    product_code: Option<&'a ProductCode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    product_id: Option<&'a ProductId>,
    pod: Option<&'a str>,
    public_key_version: Option<PublicKeyVersion>,
    region: Option<&'a Region>,
    since: Timestamp,
    attempts: u64,
    next_attempt_at: Option<Timestamp>,
    reason: Option<&'a Reason>,
    public_key_rotation_timestamp: Option<Timestamp>,
    emulated: bool,
    version: &'static str,
    build: &'static str,
}

impl<'a> Document<'a> {
    fn new(subject: &'a Subject, entitlement: &'a Entitlement) -> Self {
        let standing = &entitlement.standing;
        Self {
            state: standing.state(),
            gate: if standing.gate_open() { "open" } else { "shut" },
            proof: standing.proof().map(|proof| proof.name()),
            mode: subject.mode,
            product_code: subject.product_code.as_ref(),
            product_id: subject.product_id.as_ref(),
            pod: subject.pod.as_deref(),
            public_key_version: entitlement.public_key_version,
            region: entitlement.region.as_ref(),
            since: entitlement.since,
            attempts: entitlement.attempts,
            next_attempt_at: entitlement.next_attempt_at,
            reason: standing.reason(),
            public_key_rotation_timestamp: entitlement.public_key_rotation_timestamp,
            emulated: entitlement.emulated,
            version: program::VERSION,
            build: program::build(),
        }
    }
}

#[cfg(test)]
mod tests;
