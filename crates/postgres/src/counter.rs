//! Counts one group at a time: reads what decides where its events count, calls the database, and finds out what became
//! of a call whose answer was lost.
//!
//! If the answer to a commit is lost, the database is asked before anything else is counted: the writer's session ends,
//! so that what is still under way writes nothing, and `last_group` says whether the group was committed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use tollgate_clock::{self as clock, WallClock};
use tollgate_ledger::{Form, LedgerError, Taken};
use tollgate_marketplace::{Hour, TagSet};
use tollgate_metering::aggregation::Rules;
use tollgate_metering::event::Event;
use tollgate_time::Timestamp;

use crate::connect::{Failed, Link, Session};
use crate::counting::{Arrays, Basis, Content, Facts, KeyHash, Keys, Prepared, prepare, unknown};
use crate::memory::{HeldTags, Memory, PlaceKey};
use crate::{lifecycle, rules};

/// For how long a group is tried again because another transaction was in the way.
const CONTENTION_MAX: Duration = Duration::from_secs(8);

/// How often a group is tried again because something changed under it.
const TRIES: u32 = 50;

/// How a replica's writer works.
#[derive(Debug, Clone)]
pub(crate) struct WriterSettings {
    /// The replica's name, for people.
    pub(crate) name: String,
    pub(crate) product: String,
    /// How long after its end an hour still takes its own late events.
    pub(crate) settle: Duration,
    /// By which its events count.
    pub(crate) rules: Rules,
}

/// A group while it is counted.
#[derive(Debug)]
pub(crate) struct Work {
    /// For each event, once it is known.
    taken: Vec<Option<Taken>>,
    whole: bool,
    /// The call whose answer was lost.
    lost: Option<Lost>,
}

/// A call whose answer was lost: it may have been committed.
#[derive(Debug)]
struct Lost {
    number: i64,
    what: What,
}

#[derive(Debug)]
enum What {
    /// The call itself: the keys say what it counted.
    Call(Prepared),
    /// The commit of results that are known.
    Commit(Vec<Option<Taken>>),
}

impl Work {
    pub(crate) fn new(events: usize, whole: bool) -> Self {
        Self { taken: vec![None; events], whole, lost: None }
    }

    /// Whether some of it is counted, or may be.
    pub(crate) fn is_begun(&self) -> bool {
        self.lost.is_some() || self.taken.iter().any(Option::is_some)
    }

    /// Whether its results are of a transaction that was committed: a request that must be whole and is not was rolled
    /// back.
    pub(crate) fn is_committed(&self) -> bool {
        !self.whole || is_whole(&self.taken)
    }

    pub(crate) fn results(self) -> Vec<Taken> {
        self.taken.into_iter().flatten().collect()
    }
}

/// This writer's row in the database.
#[derive(Debug, Clone, Copy)]
struct Identity {
    id: i64,
    session: i64,
    last_group: i64,
}

/// The answer to one call.
enum Answer {
    Counted(Keys),
    /// Nothing was written, and what the counter knew is corrected: try again.
    Again,
}

/// Counts groups with one connection.
#[derive(Debug)]
pub(crate) struct Counter {
    link: Arc<Link>,
    settings: WriterSettings,
    clock: WallClock,
    identity: Option<Identity>,
    facts: Option<Facts>,
    memory: Memory,
    /// The database's time, if the clock was found to be off.
    now: Option<Timestamp>,
    untagged: TagSet,
}

impl Counter {
    pub(crate) fn new(link: Link, settings: WriterSettings, clock: WallClock) -> Self {
        Self {
            link: Arc::new(link),
            settings,
            clock,
            identity: None,
            facts: None,
            memory: Memory::default(),
            now: None,
            untagged: TagSet::default(),
        }
    }

    /// Connects, if there is no connection.
    pub(crate) async fn connect(&self) -> Result<(), LedgerError> {
        drop(self.link.session().await?);
        Ok(())
    }

    /// Counts the events of a group that have no result yet. After an error, `work` says what is known.
    pub(crate) async fn advance(&mut self, events: &[Event], work: &mut Work) -> Result<(), LedgerError> {
        let began = clock::monotonic();
        for _ in 0..TRIES {
            self.resolve(work).await?;
            let open = open(&work.taken);
            if open.is_empty() {
                return Ok(());
            }
            let link = Arc::clone(&self.link);
            let mut held = link.session().await?;
            let session = held.take();
            let tried = match self.learn(&session, events, &open).await {
                Ok(Ready::Refused(error)) => {
                    held.give_back(session);
                    return Err(error);
                }
                Ok(Ready::Yes(prepared)) if work.whole => {
                    self.count_whole(&session, prepared, events, work).await
                }
                Ok(Ready::Yes(prepared)) => self.count(&session, prepared, work).await,
                Err(failed) => Err(failed),
            };
            let Err(failed) = tried else {
                held.give_back(session);
                continue;
            };
            if !failed.broken && !work.whole {
                held.give_back(session);
            }
            drop(held);
            if work.lost.is_some() {
                // Ask at once what became of it.
                continue;
            }
            let again = failed.is_contention() || failed.code == Some(SqlState::UNIQUE_VIOLATION);
            if !again || clock::monotonic().duration_since(began) > CONTENTION_MAX {
                return Err(failed.into());
            }
        }
        Err(LedgerError::Io(format!(
            "{}: the ledger changed too often to count the usage",
            self.settings.name
        )))
    }

    /// Reads what is needed and not known, and decides where the events count.
    async fn learn(&mut self, session: &Session, events: &[Event], open: &[u32]) -> Result<Ready, Failed> {
        if self.identity.is_none() {
            let rows = session
                .query(
                    "INSERT INTO tollgate.writers (name) VALUES ($1) RETURNING id",
                    &[(&self.settings.name, Type::TEXT)],
                )
                .await?;
            self.identity = Some(Identity { id: rows[0].get(0), session: 0, last_group: 0 });
            self.memory.tags = HeldTags::default();
        }
        let facts = match self.facts.take() {
            Some(facts) => self.facts.insert(facts),
            None => match read_facts(session, &self.settings).await? {
                Read::Facts(facts, now) => {
                    self.memory.close(facts.closed);
                    self.now = Some(now);
                    self.facts.insert(facts)
                }
                Read::Refused(error) => return Ok(Ready::Refused(error)),
            },
        };
        let now = self.now.take().unwrap_or_else(|| self.clock.now());
        let WriterSettings { rules, settle, .. } = &self.settings;
        facts.trim();
        self.memory.tags.make_room();
        let needed =
            unknown(events, open, Basis { facts, memory: &self.memory, rules, settle: *settle, now });
        if !needed.identifiers.is_empty() {
            let asked: Vec<String> = needed.identifiers.into_iter().collect();
            let rows = session
                .query(
                    "SELECT identifier, account FROM tollgate.identities WHERE identifier = ANY ($1)",
                    &[(&asked, Type::TEXT_ARRAY)],
                )
                .await?;
            facts.note_identities(asked, rows.iter().map(|row| (row.get(0), row.get(1))).collect());
        }
        if !needed.licenses.is_empty() {
            let asked: Vec<String> = needed.licenses.into_iter().collect();
            let rows = session.query(lifecycle::STATES, &[(&asked, Type::TEXT_ARRAY)]).await?;
            let found = rows.iter().map(|row| (row.get(0), lifecycle::state(row))).collect();
            facts.note_licenses(asked, found);
        }
        if let Some(identity) = self.identity.filter(|_| !needed.places.is_empty()) {
            read_tags(session, identity, needed.places.into_iter().collect(), &mut self.memory).await?;
        }
        let basis = Basis { facts, memory: &self.memory, rules, settle: *settle, now };
        Ok(Ready::Yes(prepare(events, open, basis, &self.untagged)))
    }

    /// Counts events in a transaction of their own.
    async fn count(&mut self, session: &Session, prepared: Prepared, work: &mut Work) -> Result<(), Failed> {
        if prepared.is_empty() {
            note(&mut work.taken, prepared.judge(&Keys::default()));
            return Ok(());
        }
        crate::fail_point::reach("take", "before");
        match self.call(session, &prepared).await {
            Ok(Answer::Counted(keys)) => {
                crate::fail_point::reach("take", "after");
                note(&mut work.taken, prepared.judge(&keys));
                prepared.learn(&keys, &mut self.memory);
                Ok(())
            }
            Ok(Answer::Again) => Ok(()),
            Err(failed) => {
                if failed.is_unknown() {
                    work.lost = Some(Lost { number: self.last_group(), what: What::Call(prepared) });
                }
                Err(failed)
            }
        }
    }

    /// Counts events in one transaction, and rolls it back if one of them cannot be counted.
    async fn count_whole(
        &mut self,
        session: &Session,
        prepared: Prepared,
        events: &[Event],
        work: &mut Work,
    ) -> Result<(), Failed> {
        session.batch(&session.begin_sql()).await?;
        let mut rounds = 0;
        let counted = self.count_rounds(session, prepared, events, &mut rounds).await;
        crate::fail_point::reach("take", "before");
        match counted {
            Ok(Some(taken)) if is_whole(&taken) => match session.batch("COMMIT").await {
                Ok(()) => {
                    crate::fail_point::reach("take", "after");
                    work.taken = taken;
                    Ok(())
                }
                Err(failed) => {
                    if failed.is_unknown() {
                        work.lost = Some(Lost { number: self.last_group(), what: What::Commit(taken) });
                    }
                    self.forget();
                    Err(failed)
                }
            },
            other => {
                if rounds > 0 {
                    // What was learnt in this transaction is not true.
                    self.forget();
                }
                let taken = other?;
                session.batch("ROLLBACK").await?;
                if let Some(taken) = taken {
                    work.taken = taken;
                }
                Ok(())
            }
        }
    }

    /// Counts events in the open transaction, in as many rounds as it takes; `None` if it has to begin again.
    async fn count_rounds(
        &mut self,
        session: &Session,
        mut prepared: Prepared,
        events: &[Event],
        rounds: &mut u32,
    ) -> Result<Option<Vec<Option<Taken>>>, Failed> {
        let mut taken = vec![None; events.len()];
        while *rounds < TRIES {
            let keys = if prepared.is_empty() {
                Keys::default()
            } else {
                match self.call(session, &prepared).await? {
                    Answer::Counted(keys) => keys,
                    Answer::Again => return Ok(None),
                }
            };
            *rounds += 1;
            prepared.learn(&keys, &mut self.memory);
            note(&mut taken, prepared.judge(&keys));
            let open = open(&taken);
            if open.is_empty() {
                return Ok(Some(taken));
            }
            match self.learn(session, events, &open).await? {
                Ready::Yes(next) => prepared = next,
                Ready::Refused(_) => return Ok(None),
            }
        }
        Ok(None)
    }

    fn forget(&mut self) {
        self.facts = None;
        self.memory.forms.clear();
        self.memory.rules.forget();
        self.memory.tags.forget();
    }

    fn last_group(&self) -> i64 {
        self.identity.map_or(0, |identity| identity.last_group)
    }

    /// Calls the database's function.
    async fn call(&mut self, session: &Session, prepared: &Prepared) -> Result<Answer, Failed> {
        let (Some(identity), Some(facts)) = (&mut self.identity, &self.facts) else {
            return Ok(Answer::Again);
        };
        identity.last_group += 1;
        let arrays = prepared.arrays();
        let sent = self.clock.now();
        let row = take(session, *identity, facts.version, self.settings.settle, &arrays).await?;
        let (status, now): (&str, i64) = (row.get(0), row.get(1));
        self.follow(sent, Timestamp::from_unix_millis(now));
        match status {
            "counted" => return Ok(Answer::Counted(keys(&row))),
            "ended" => self.identity = None,
            "rules" => {
                let (hours, dimensions, rules): (Vec<i64>, Vec<String>, Vec<&str>) =
                    (row.get(8), row.get(9), row.get(10));
                for ((hour, dimension), rule) in hours.into_iter().zip(dimensions).zip(rules) {
                    let rule = rules::read(rule)?;
                    self.memory.rules.note(Hour::from_number(hour), dimension, rule);
                }
            }
            "forms" => {
                let (hours, accounts, forms): (Vec<i64>, Vec<String>, Vec<i16>) =
                    (row.get(5), row.get(6), row.get(7));
                for ((hour, account), form) in hours.into_iter().zip(accounts).zip(forms) {
                    self.memory.note_form(Hour::from_number(hour), account, Form::of(i64::from(form)));
                }
            }
            _ => {
                self.facts = None;
                self.now = Some(Timestamp::from_unix_millis(now));
            }
        }
        Ok(Answer::Again)
    }

    /// The clock follows the database's, whose time was read between `sent` and now.
    fn follow(&self, sent: Timestamp, read: Timestamp) {
        let received = self.clock.now();
        if read < sent || read > received {
            self.clock.follow(read.plus(received.since(sent) / 2));
        }
    }

    /// Finds out what became of a call whose answer was lost. On return nothing of it is under way any more.
    pub(crate) async fn resolve(&mut self, work: &mut Work) -> Result<(), LedgerError> {
        let (Some(lost), Some(identity)) = (&work.lost, &mut self.identity) else { return Ok(()) };
        let params = [(&identity.id as _, Type::INT8)];
        // It waits for a transaction that is under way. One that arrives later finds its session ended.
        let ending = self.link.begin().await?;
        let rows = ending
            .query(
                "UPDATE tollgate.writers SET session = session + 1, seen_at = clock_timestamp() WHERE id = $1
                 RETURNING session, last_group",
                &params,
            )
            .await?;
        let Some(row) = rows.first() else {
            let text = "the ledger has no trace of this replica, which was away for too long: usage of its last moments may \
                        have been counted"
                .to_owned();
            ending.rollback().await?;
            (self.identity, work.lost) = (None, None);
            return Err(LedgerError::Uncertain(text));
        };
        let (session, last_group): (i64, i64) = (row.get(0), row.get(1));
        let committed = last_group >= lost.number;
        let known = match &lost.what {
            What::Call(prepared) if committed => {
                known(ending.query(CONTENTS, &[(&prepared.hashes(), Type::BYTEA_ARRAY)]).await?)
            }
            What::Call(_) | What::Commit(_) => HashMap::new(),
        };
        ending.commit_as("resolve").await?;
        identity.session = session;
        identity.last_group = identity.last_group.max(last_group);
        let Some(Lost { what, .. }) = work.lost.take() else { return Ok(()) };
        match what {
            What::Call(prepared) if committed => {
                let keys = prepared.keys_found(known);
                note(&mut work.taken, prepared.judge(&keys));
                prepared.learn(&keys, &mut self.memory);
            }
            What::Commit(taken) if committed => work.taken = taken,
            What::Call(_) | What::Commit(_) => {}
        }
        Ok(())
    }
}

/// Whether every event is in the ledger.
fn is_whole(taken: &[Option<Taken>]) -> bool {
    taken.iter().all(|taken| taken.is_some_and(Taken::is_counted))
}

/// The numbers of the events without a result.
fn open(taken: &[Option<Taken>]) -> Vec<u32> {
    (0..).zip(taken).filter(|(_, taken)| taken.is_none()).map(|(number, _)| number).collect()
}

fn note(all: &mut [Option<Taken>], judged: impl Iterator<Item = (u32, Option<Taken>)>) {
    for (number, taken) in judged {
        all[number as usize] = taken;
    }
}

/// Whether a group can be counted now.
enum Ready {
    Yes(Prepared),
    Refused(LedgerError),
}

/// What the ledger's row says.
enum Read {
    Facts(Facts, Timestamp),
    Refused(LedgerError),
}

async fn read_facts(session: &Session, settings: &WriterSettings) -> Result<Read, Failed> {
    const FACTS: &str =
        "SELECT version, state, product, ledger_id, started_at, closed, tollgate.ledger_now(),
            ARRAY (SELECT early.hour FROM tollgate.closed_early AS early WHERE early.hour > ledger.closed
                ORDER BY early.hour, early.customer),
            ARRAY (SELECT early.customer FROM tollgate.closed_early AS early WHERE early.hour > ledger.closed
                ORDER BY early.hour, early.customer),
            EXISTS (SELECT 1 FROM tollgate.licenses WHERE deprovisioned_at IS NOT NULL)
        FROM tollgate.ledger AS ledger";
    let rows = session.query(FACTS, &[]).await?;
    let name = session.name();
    let Some(row) = rows.first() else {
        return Ok(Read::Refused(LedgerError::Unusable(format!(
            "{name} has a ledger without its first row"
        ))));
    };
    let (state, product): (&str, &str) = (row.get(1), row.get(2));
    if state != "ready" {
        let text =
            format!("{name} receives a ledger that is being moved; it takes usage when the move is done");
        return Ok(Read::Refused(LedgerError::Io(text)));
    }
    if product != settings.product {
        let text = format!(
            "{name} counts usage of product {product} now, and this replica meters {}",
            settings.product
        );
        return Ok(Read::Refused(LedgerError::Unusable(text)));
    }
    let (hours, customers): (Vec<i64>, Vec<String>) = (row.get(7), row.get(8));
    let facts = Facts {
        version: row.get(0),
        ledger_id: row.get(3),
        started_at: Timestamp::from_unix_millis(row.get(4)),
        closed: Hour::from_number(row.get(5)),
        closed_early: hours.into_iter().map(Hour::from_number).zip(customers).collect(),
        identities: HashMap::new(),
        any_ended: row.get(9),
        licenses: HashMap::new(),
    };
    Ok(Read::Facts(facts, Timestamp::from_unix_millis(row.get(6))))
}

/// Reads which tag sets this writer has in these slots.
async fn read_tags(
    session: &Session,
    identity: Identity,
    places: Vec<PlaceKey>,
    memory: &mut Memory,
) -> Result<(), Failed> {
    const TAGS: &str = "SELECT number, tags FROM unnest($1::bigint[], $2::text[], $3::text[]) WITH ORDINALITY
            AS place (hour, customer, dimension, number)
        JOIN tollgate.sums USING (hour, customer, dimension) WHERE writer = $4 AND tags_key <> ''";
    let hours: Vec<i64> = places.iter().map(|place| place.0.number()).collect();
    let customers: Vec<&str> = places.iter().map(|place| place.1.as_str()).collect();
    let dimensions: Vec<&str> = places.iter().map(|place| place.2.as_str()).collect();
    let params = [
        (&hours as _, Type::INT8_ARRAY),
        (&customers as _, Type::TEXT_ARRAY),
        (&dimensions as _, Type::TEXT_ARRAY),
        (&identity.id as _, Type::INT8),
    ];
    let rows = session.query(TAGS, &params).await?;
    let mut found: Vec<Vec<TagSet>> = vec![Vec::new(); places.len()];
    for row in rows {
        let place = usize::try_from(row.get::<_, i64>(0) - 1).ok().and_then(|number| found.get_mut(number));
        if let (Some(place), Ok(tags)) = (place, serde_json::from_str(row.get(1))) {
            place.push(tags);
        }
    }
    for (place, tags) in places.into_iter().zip(found) {
        memory.tags.note(place, &tags);
    }
    Ok(())
}

async fn take(
    session: &Session,
    identity: Identity,
    version: i64,
    settle: Duration,
    arrays: &Arrays<'_>,
) -> Result<Row, Failed> {
    let settle = i64::try_from(settle.as_millis()).unwrap_or(i64::MAX);
    const TAKE: &str = "SELECT status, now, left_hash, known_hash, known_content, form_hour, form_account, form_form,
            rule_hour, rule_dimension, rule_rule
        FROM tollgate.take_1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,
            $21, $22, $23, $24, $25, $26, $27, $28)";
    let params = [
        (&identity.id as _, Type::INT8),
        (&identity.session as _, Type::INT8),
        (&identity.last_group as _, Type::INT8),
        (&version as _, Type::INT8),
        (&arrays.present as _, Type::INT8),
        (&arrays.settling as _, Type::INT8),
        (&settle as _, Type::INT8),
        (&arrays.locks as _, Type::INT4_ARRAY),
        (&arrays.rule_hours as _, Type::INT8_ARRAY),
        (&arrays.rule_dimensions as _, Type::TEXT_ARRAY),
        (&arrays.rule_rules as _, Type::TEXT_ARRAY),
        (&arrays.form_hours as _, Type::INT8_ARRAY),
        (&arrays.form_accounts as _, Type::TEXT_ARRAY),
        (&arrays.form_forms as _, Type::INT2_ARRAY),
        (&arrays.hours as _, Type::INT8_ARRAY),
        (&arrays.customers as _, Type::TEXT_ARRAY),
        (&arrays.dimensions as _, Type::TEXT_ARRAY),
        (&arrays.keys as _, Type::BYTEA_ARRAY),
        (&arrays.tags as _, Type::TEXT_ARRAY),
        (&arrays.forms as _, Type::INT4_ARRAY),
        (&arrays.is_max as _, Type::BOOL_ARRAY),
        (&arrays.hashes as _, Type::BYTEA_ARRAY),
        (&arrays.contents as _, Type::BYTEA_ARRAY),
        (&arrays.slots as _, Type::INT4_ARRAY),
        (&arrays.amounts as _, Type::INT8_ARRAY),
        (&arrays.high as _, Type::INT8_ARRAY),
        (&arrays.first as _, Type::INT8_ARRAY),
        (&arrays.late as _, Type::INT8_ARRAY),
    ];
    let row = session.query(TAKE, &params).await?.into_iter().next();
    row.ok_or_else(|| session.broken("the ledger's function gave no answer"))
}

const CONTENTS: &str = "SELECT hash, content FROM tollgate.keys WHERE hash = ANY ($1)";

fn known(rows: Vec<Row>) -> HashMap<KeyHash, Content> {
    let fixed =
        |row: Row| Some((row.get::<_, &[u8]>(0).try_into().ok()?, row.get::<_, &[u8]>(1).try_into().ok()?));
    rows.into_iter().filter_map(fixed).collect()
}

fn keys(row: &Row) -> Keys {
    let column = |number| row.get::<_, Option<Vec<&[u8]>>>(number).unwrap_or_default();
    let (left, hashes, contents) = (column(2), column(3), column(4));
    let known = hashes.into_iter().zip(contents);
    Keys {
        left: left.into_iter().filter_map(|hash| hash.try_into().ok()).collect(),
        known: known
            .filter_map(|(hash, content)| Some((hash.try_into().ok()?, content.try_into().ok()?)))
            .collect(),
    }
}
