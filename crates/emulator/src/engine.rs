//! The running emulator's state: applies the decisions of the pure parts, under one lock.
//!
//! - A change is in the journal before it is in memory, and in memory before its call is answered.
//! - Nothing here blocks: callers make keys outside the lock.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::Value;

use super::action::Action;
use super::bill::{Bill, request_id};
use super::calls::{Call, Calls};
use super::change::Change;
use super::clock::EmulatedClock;
use super::credentials::{Now, Role, Session, Sessions, id_of};
use super::event::Events;
use super::fault::{FaultKind, Hit, Script};
use super::journal::Journal;
use super::keys::KeyFolder;
use super::license_token::{self, Bad, LicenseToken, Purpose};
use super::operation::{Operation, ServiceError};
use super::quota::Quotas;
use super::reply::Reply;
use super::seats::Checkouts;
use super::service::{Decision, Request, Service, ServiceAnswer};
use super::sigv4::{self, Keyring, Signed, Signer};
use super::sts::{self, AssumeRole, Parameters};
use super::token::{self, Claims};
use super::web_identity::WebIdentity;
use super::wire::{self, Outcome};
use super::world::switches::Switch;
use super::world::{Assumed, Platform, Pricing, Secret, World};
use super::{Facts, Options, StartError, agent};
use tollgate_clock::{monotonic, system_now};
use tollgate_http::Address;

/// The emulator without its server.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) keys: KeyFolder,
    quotas: bool,
    only: Option<(String, Secret)>,
    /// Which web identity tokens are accepted; without it every well-formed one.
    web_identity: Option<WebIdentity>,
    /// The `Authorization` that the agent requires.
    container_token: Option<Secret>,
    seed: u64,
    /// The world at the start, for `reset`.
    first_world: World,
    /// A state folder is configured, but another emulator uses it: this one keeps its state in memory.
    pub(super) forgets: bool,
    state: Mutex<EngineState>,
}

#[derive(Debug)]
pub(super) struct EngineState {
    pub(super) service: Service,
    pub(super) clock: EmulatedClock,
    pub(super) script: Script,
    pub(super) sessions: Sessions,
    pub(super) calls: Calls,
    pub(super) events: Events,
    quotas: Quotas,
    journal: Option<Journal>,
    last_call: u64,
}

/// A call that is being answered.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) number: u64,
    pub(super) action: Action,
    pub(super) signer: Signer,
    pub(super) fault: Option<Hit>,
}

/// The result of a call, before its token is signed.
#[derive(Debug)]
pub(super) enum Decided {
    Done(Outcome),
    Sign { claims: Claims, document: Value },
}

impl Engine {
    pub(super) fn open(world: World, options: Options) -> Result<Self, StartError> {
        let mut service =
            Service { world: world.clone(), bill: Bill::default(), seats: Checkouts::default() };
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
        // A switch given at the start overrides the one in the stored state.
        for (name, answer) in &options.switches {
            service.world.switches.set(name, answer).map_err(StartError::World)?;
        }
        let shared = matches!(journal, Some(None));
        let last_call = service.bill.last_call();
        let state = EngineState {
            service,
            clock,
            script: Script::new(options.seed),
            sessions: Sessions::default(),
            calls: Calls::default(),
            events: Events::default(),
            quotas: Quotas::default(),
            journal: journal.flatten(),
            last_call,
        };
        let keys = options.keys.clone();
        let engine = Self {
            keys: KeyFolder::new(options.keys),
            quotas: options.quotas,
            only: options.credentials.map(|(access_key, secret)| (access_key, Secret(secret))),
            web_identity: options.web_identity,
            container_token: options.container_token.map(Secret),
            seed: options.seed,
            first_world: world,
            forgets: shared,
            state: Mutex::new(state),
        };
        engine.make_keys().map_err(|source| StartError::Keys { folder: keys, source })?;
        Ok(engine)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, EngineState> {
        // A panic while the lock was held would be a bug; its state is still the best there is.
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
            product_id: state
                .service
                .world
                .showpiece_contract()
                .map_or_else(String::new, |(_, contract)| contract.product_id.clone()),
            public_key_version: newest.unwrap_or(1),
            public_keys: self.keys.public_keys(product_code),
            clock: format!("{endpoint}/_emulator/clock"),
            endpoint,
        }
    }

    /// Makes the keys of every product that RegisterUsage serves. The others sign nothing, and making a key takes
    /// seconds.
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

    /// Makes the key that belongs to no product, if a fault needs it.
    pub(super) fn make_stranger(&self) -> io::Result<()> {
        let needed = self.state().script.needs_stranger();
        if needed { self.keys.stranger().map(|_| ()) } else { Ok(()) }
    }

    /// Resets everything to the start, except the keys.
    pub(super) fn reset(&self) -> io::Result<()> {
        let mut state = self.state();
        if let Some(journal) = &mut state.journal {
            journal.clear()?;
        }
        state.service =
            Service { world: self.first_world.clone(), bill: Bill::default(), seats: Checkouts::default() };
        state.clock = EmulatedClock::default();
        state.script = Script::new(self.seed);
        state.sessions = Sessions::default();
        state.calls = Calls::default();
        state.events = Events::default();
        state.quotas = Quotas::default();
        state.last_call = 0;
        Ok(())
    }

    /// The number of a new call.
    pub(super) fn number(&self) -> u64 {
        let mut state = self.state();
        state.last_call += 1;
        state.last_call
    }

    /// Who signed the request.
    pub(super) fn authenticate(&self, signed: Signed<'_>) -> Result<Signer, ServiceError> {
        let state = self.state();
        let keyring =
            Keyring { world: &state.service.world, sessions: &state.sessions, only: self.only.as_ref() };
        sigv4::check(signed, keyring)
    }

    /// Decides a call of metering or License Manager and makes its changes.
    pub(super) fn decide(&self, pending: &Pending, operation: Operation, bytes: &[u8]) -> Decided {
        match self.try_decide(pending, operation, bytes) {
            Ok(ServiceAnswer::Document(document)) => Decided::Done(Ok(document)),
            Ok(ServiceAnswer::Sign { claims, document }) => Decided::Sign { claims, document },
            Err(error) => Decided::Done(Err(error)),
        }
    }

    fn try_decide(
        &self,
        pending: &Pending,
        operation: Operation,
        bytes: &[u8],
    ) -> Result<ServiceAnswer, ServiceError> {
        let kind = pending.fault.as_ref().map(|hit| &hit.kind);
        let mut state = self.state();
        if self.quotas && !state.within_quota(pending, operation) {
            return Err(ServiceError::new(operation.api().throttling(), "Rate exceeded"));
        }
        let body = wire::parse(operation, bytes)?;
        let request = Request {
            operation,
            pod: &pending.signer.pod,
            region: &pending.signer.region,
            body: &body,
            body_bytes: bytes.len(),
            now: state.clock.now(),
            call: pending.number,
            unprocessed: match kind {
                Some(FaultKind::Unprocessed(records)) => *records,
                _ => 0,
            },
            pages: match kind {
                Some(FaultKind::Pages(pages)) => Some(*pages),
                _ => None,
            },
        };
        let Decision { outcome, changes } = state.service.decide(&request);
        state.make(&changes).map_err(|error| {
            ServiceError::new(
                operation.api().internal_error(),
                format!("the emulator cannot keep its state: {error}"),
            )
        })?;
        outcome
    }

    /// Adds the token to the answer, or the bad token that a fault asks for. May make a key, which takes seconds.
    pub(super) fn sign(
        &self,
        claims: &Claims,
        mut document: Value,
        fault: Option<&FaultKind>,
    ) -> io::Result<Value> {
        let key = self.keys.key(&claims.product_code, claims.public_key_version)?;
        let signature = match fault {
            Some(FaultKind::NoSignature) => return Ok(document),
            Some(FaultKind::Token(flaw)) => {
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

    /// Whether the key is in memory, so that signing takes milliseconds.
    pub(super) fn has_key(&self, claims: &Claims) -> bool {
        self.keys.has(&claims.product_code, claims.public_key_version)
    }

    /// STS's `AssumeRoleWithWebIdentity`.
    pub(super) async fn assume_role(
        &self,
        pending: &Pending,
        parameters: &Parameters,
    ) -> Result<Reply, ServiceError> {
        let asked = AssumeRole::parse(parameters)?;
        if asked.token.issuer() == license_token::ISSUER {
            let text = parameters.get("WebIdentityToken");
            let read = LicenseToken::read(text, Purpose::Access, self.present().emulated);
            read.map_err(|bad| match bad {
                Bad::Unknown => ServiceError::new("InvalidIdentityToken", "It is no token of GetAccessToken"),
                Bad::Expired => ServiceError::new("ExpiredTokenException", "Token expired"),
            })?;
        } else if let Some(web_identity) = &self.web_identity {
            web_identity.verify(&asked.token, system_now()).await?;
        }
        let session = self.issue(pending, asked.session_name, asked.role.clone(), asked.duration, None)?;
        Ok(asked.reply(&session, &request_id(pending.number)))
    }

    /// STS's `GetCallerIdentity`.
    pub(super) fn caller_identity(&self, pending: &Pending) -> Reply {
        let state = self.state();
        let Signer { pod, session, .. } = &pending.signer;
        let account_id = state.service.world.pod(pod).account_id;
        // The account is the role's, even if the world gives the pod another one.
        let [arn, user_id] = session.clone().unwrap_or_else(|| {
            [format!("arn:aws:iam::{account_id}:user/{pod}"), format!("AIDA{}", id_of(pod))]
        });
        let account_id = arn.split(':').nth(4).unwrap_or(account_id);
        sts::caller_identity(account_id, &user_id, &arn, &request_id(pending.number))
    }

    /// The agent's credentials, or its description of a task.
    pub(super) fn agent(
        &self,
        pending: &Pending,
        path: &agent::Path,
        authorization: Option<&str>,
    ) -> Result<Reply, ServiceError> {
        path.check()?;
        if path.action == Action::TaskMetadata {
            let state = self.state();
            let pod = state.service.world.pod(&path.task);
            return Ok(path.metadata(&pod, pod.platform == Platform::EcsFargate));
        }
        if let Some(wanted) = &self.container_token
            && authorization != Some(wanted.0.as_str())
        {
            let text =
                "Authorization is not the token that the emulator was started with (--container-token)";
            return Err(ServiceError::new("AccessDenied", text));
        }
        let role = self.task_role(&path.task);
        let lifetime = CONTAINER_CREDENTIALS_LIFETIME;
        let session = self.issue(pending, &path.task, role, lifetime, Some(Platform::Ecs))?;
        Ok(agent::credentials_reply(&session))
    }

    /// The task's role; after an order moved the task to another account, a role of that account.
    fn task_role(&self, task: &str) -> Role {
        let state = self.state();
        let pod = state.service.world.pod(task);
        let role = pod.role_arn.and_then(Role::parse).filter(|role| role.account_id() == pod.account_id);
        role.unwrap_or_else(|| Role::of_task(pod.account_id))
    }

    /// Issues credentials for the pod that asks; from now on its account is the role's.
    fn issue(
        &self,
        pending: &Pending,
        name: &str,
        role: Role,
        lifetime: Duration,
        platform: Option<Platform>,
    ) -> Result<Session, ServiceError> {
        let lifetime = match pending.fault.as_ref().map(|hit| &hit.kind) {
            Some(FaultKind::ShortLived(lifetime)) => *lifetime,
            _ => lifetime,
        };
        let internal = |text: String| ServiceError::new("InternalFailure", text);
        let pod = &pending.signer.pod;
        let mut state = self.state();
        if !state.service.world.role_room(pod) {
            return Err(internal(
                "no more pods can assume a role; POST /_emulator/reset forgets them".to_owned(),
            ));
        }
        let assumed =
            Assumed { role_arn: role.arn().to_owned(), account_id: role.account_id().to_owned(), platform };
        if state.service.world.assumed.get(pod) != Some(&assumed) {
            let change = Change::Assumed { pod: pod.clone(), assumed };
            let made = state.make(&[change]);
            made.map_err(|error| internal(format!("the emulator cannot keep its state: {error}")))?;
        }
        let now = state.present();
        state.sessions.issue(now, pod, name, role, lifetime).map_err(internal)
    }

    /// The fault that hits a call.
    pub(super) fn hit(&self, action: Action, pod: &str) -> Option<Hit> {
        self.state().script.hit(action, pod)
    }

    /// Whether web identity tokens are verified.
    pub(super) const fn verifies_tokens(&self) -> bool {
        self.web_identity.is_some()
    }

    /// Notes a call, with the account and role of its pod.
    pub(super) fn note(&self, mut call: Call) {
        let mut state = self.state();
        call.at = state.clock.now();
        if !call.pod.is_empty() {
            let pod = state.service.world.pod(&call.pod);
            let (account_id, role) = (pod.account_id.into(), pod.role_arn.map(Into::into));
            (call.account_id, call.role) = (account_id, role);
        }
        state.calls.add(call);
    }

    /// The present by both clocks.
    pub(super) fn present(&self) -> Now {
        self.state().present()
    }
}

/// How long a container's credentials are valid (ECS developer guide, "Task IAM role": the agent renews them).
const CONTAINER_CREDENTIALS_LIFETIME: Duration = Duration::from_secs(6 * 3600);

impl EngineState {
    fn present(&self) -> Now {
        Now { system: system_now(), emulated: self.clock.now() }
    }

    /// Makes changes: first in the journal, then in memory.
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

    fn within_quota(&mut self, pending: &Pending, operation: Operation) -> bool {
        let Signer { pod, region, .. } = &pending.signer;
        self.quotas.admit(monotonic(), &self.service.world, pod, region, operation)
    }
}
