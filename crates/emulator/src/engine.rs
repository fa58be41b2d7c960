//! The running emulator's state: what the pure parts decide becomes so here, under one lock.
//!
//! - A change is in the journal before it is in memory, and in memory before its call is answered.
//! - Nothing here waits: keys are made by whoever calls, outside the lock.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::Value;

use super::bill::Bill;
use super::calls::{Call, Calls};
use super::change::Change;
use super::clock::EmulatedClock;
use super::credentials::Sessions;
use super::fault::{Hit, Kind, Script};
use super::journal::Journal;
use super::keys::KeyFolder;
use super::operation::{Operation, ServiceError};
use super::quota::Quotas;
use super::service::{Answer, Decision, Request, Service};
use super::sigv4::{self, Keyring, Signed, Signer};
use super::token::{self, Claims};
use super::wire::{self, Outcome};
use super::world::switches::Switch;
use super::world::{Pricing, Secret, World};
use super::{Facts, Options, StartError};
use tollgate_clock::monotonic;
use tollgate_http::Address;
use tollgate_time::Timestamp;

/// Everything behind the server.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) keys: KeyFolder,
    quotas: bool,
    only: Option<(String, Secret)>,
    seed: u64,
    /// As it was at the start, for `reset`.
    first_world: World,
    /// A state folder was wanted, but another emulator has it: what happens here is kept in memory.
    pub(super) forgets: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) service: Service,
    pub(super) clock: EmulatedClock,
    pub(super) script: Script,
    pub(super) sessions: Sessions,
    pub(super) calls: Calls,
    quotas: Quotas,
    journal: Option<Journal>,
    last_call: u64,
}

/// A call that is being answered.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) number: u64,
    pub(super) operation: Operation,
    pub(super) signer: Signer,
    pub(super) fault: Option<Hit>,
}

/// What came of a call, before its token is signed.
#[derive(Debug)]
pub(super) enum Decided {
    Done(Outcome),
    Sign { claims: Claims, document: Value },
}

impl Engine {
    pub(super) fn open(world: World, options: Options) -> Result<Self, StartError> {
        let mut service = Service { world: world.clone(), bill: Bill::default() };
        let mut clock = EmulatedClock::default();
        let journal = options.state.as_deref().map(|folder| {
            Journal::open(folder, |change| match change {
                Change::Clock { ahead_millis } => clock.ahead_millis = *ahead_millis,
                change => service.apply(change),
            })
        });
        let journal = journal.transpose().map_err(|source| StartError::State {
            folder: options.state.clone().unwrap_or_default(),
            source,
        })?;
        // Who starts it with a switch wants that answer, whatever was in force when it was last stopped.
        for (name, answer) in &options.switches {
            service.world.switches.set(name, answer).map_err(StartError::World)?;
        }
        let shared = matches!(journal, Some(None));
        let last_call = service.bill.last_call();
        let state = State {
            service,
            clock,
            script: Script::new(options.seed),
            sessions: Sessions::default(),
            calls: Calls::default(),
            quotas: Quotas::default(),
            journal: journal.flatten(),
            last_call,
        };
        let keys = options.keys.clone();
        let engine = Self {
            keys: KeyFolder::new(options.keys),
            quotas: options.quotas,
            only: options.credentials.map(|(access_key, secret)| (access_key, Secret(secret))),
            seed: options.seed,
            first_world: world,
            forgets: shared,
            state: Mutex::new(state),
        };
        engine.make_keys().map_err(|source| StartError::Keys { folder: keys, source })?;
        Ok(engine)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // A panic while it was held would be a bug; the state it left is still the best there is.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn facts(&self, address: &Address) -> Facts {
        let state = self.state();
        let (product_code, newest) = match state.service.world.showpiece() {
            Some((code, product)) => (code, product.keys.last_key_value().map(|(version, _)| *version)),
            None => ("", None),
        };
        let endpoint = format!("http://{address}");
        Facts {
            product_code: product_code.to_owned(),
            public_key_version: newest.unwrap_or(1),
            public_keys: self.keys.public_keys(product_code),
            clock: format!("{endpoint}/_emulator/clock"),
            endpoint,
        }
    }

    /// Makes the keys of every product that RegisterUsage serves; the others sign nothing, and a key costs seconds.
    pub(super) fn make_keys(&self) -> io::Result<()> {
        let wanted: Vec<(String, i32)> = {
            let state = self.state();
            let world = &state.service.world;
            let all = world.switches.second(Switch::PricingMismatch);
            let products =
                world.products.iter().filter(|(_, product)| all || product.pricing == Pricing::Hourly);
            products
                .flat_map(|(code, product)| product.keys.keys().map(|version| (code.clone(), *version)))
                .collect()
        };
        for (code, version) in wanted {
            self.keys.key(&code, version)?;
        }
        Ok(())
    }

    /// Makes the key that no product has, when a fault needs it.
    pub(super) fn make_stranger(&self) -> io::Result<()> {
        let needed = self.state().script.needs_stranger();
        if needed { self.keys.stranger().map(|_| ()) } else { Ok(()) }
    }

    /// Everything as it was at the start; the keys stay.
    pub(super) fn reset(&self) -> io::Result<()> {
        let mut state = self.state();
        if let Some(journal) = &mut state.journal {
            journal.clear()?;
        }
        state.service = Service { world: self.first_world.clone(), bill: Bill::default() };
        state.clock = EmulatedClock::default();
        state.script = Script::new(self.seed);
        state.sessions = Sessions::default();
        state.calls = Calls::default();
        state.quotas = Quotas::default();
        Ok(())
    }

    /// The number of a new call.
    pub(super) fn number(&self) -> u64 {
        let mut state = self.state();
        state.last_call += 1;
        state.last_call
    }

    /// Who signed.
    pub(super) fn authenticate(&self, signed: Signed<'_>) -> Result<Signer, ServiceError> {
        let state = self.state();
        let keyring =
            Keyring { world: &state.service.world, sessions: &state.sessions, only: self.only.as_ref() };
        sigv4::check(signed, keyring)
    }

    /// Decides a call and makes its changes.
    pub(super) fn decide(&self, pending: &Pending, bytes: &[u8]) -> Decided {
        match self.try_decide(pending, bytes) {
            Ok(Answer::Document(document)) => Decided::Done(Ok(document)),
            Ok(Answer::Sign { claims, document }) => Decided::Sign { claims, document },
            Err(error) => Decided::Done(Err(error)),
        }
    }

    fn try_decide(&self, pending: &Pending, bytes: &[u8]) -> Result<Answer, ServiceError> {
        let kind = pending.fault.as_ref().map(|hit| &hit.kind);
        if let Some(Kind::Exception(error)) = kind {
            return Err(error.clone());
        }
        let mut state = self.state();
        if self.quotas && !state.within_quota(pending) {
            return Err(ServiceError::new("ThrottlingException", "Rate exceeded"));
        }
        let body = wire::parse(pending.operation, bytes)?;
        let request = Request {
            operation: pending.operation,
            pod: &pending.signer.pod,
            region: &pending.signer.region,
            body: &body,
            body_bytes: bytes.len(),
            now: state.clock.now(),
            call: pending.number,
            unprocessed: match kind {
                Some(Kind::Unprocessed(records)) => *records,
                _ => 0,
            },
        };
        let Decision { outcome, changes } = state.service.decide(&request);
        state.make(&changes).map_err(|error| {
            ServiceError::new(
                "InternalServiceErrorException",
                format!("the emulator cannot keep its state: {error}"),
            )
        })?;
        outcome
    }

    /// The answer with its token, or with the bad one that a fault asks for. May make a key, which takes seconds.
    pub(super) fn sign(
        &self,
        claims: &Claims,
        mut document: Value,
        fault: Option<&Kind>,
    ) -> io::Result<Value> {
        let key = self.keys.key(&claims.product_code, claims.public_key_version)?;
        let signature = match fault {
            Some(Kind::NoSignature) => return Ok(document),
            Some(Kind::Token(flaw)) => {
                let stranger = if flaw.needs_stranger() { self.keys.stranger()? } else { Arc::clone(&key) };
                flaw.token(claims, &key, &stranger)
            }
            _ => token::token(claims, &key),
        };
        if let Some(members) = document.as_object_mut() {
            members.insert("Signature".to_owned(), Value::String(signature));
        }
        Ok(document)
    }

    /// Whether signing for these claims is a matter of milliseconds.
    pub(super) fn has_key(&self, claims: &Claims) -> bool {
        self.keys.has(&claims.product_code, claims.public_key_version)
    }

    /// Writes a call down.
    pub(super) fn note(&self, call: Call) {
        self.state().calls.add(call);
    }

    pub(super) fn now(&self) -> Timestamp {
        self.state().clock.now()
    }
}

impl State {
    /// Makes changes: in the journal first, then in memory.
    pub(super) fn make(&mut self, changes: &[Change]) -> io::Result<()> {
        if let Some(journal) = &mut self.journal {
            journal.append(changes)?;
        }
        for change in changes {
            match change {
                Change::Clock { ahead_millis } => self.clock.ahead_millis = *ahead_millis,
                change => self.service.apply(change),
            }
        }
        Ok(())
    }

    fn within_quota(&mut self, pending: &Pending) -> bool {
        let Signer { pod, region } = &pending.signer;
        self.quotas.admit(monotonic(), &self.service.world, pod, region, pending.operation)
    }
}
