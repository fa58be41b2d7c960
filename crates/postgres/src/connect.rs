//! Connections to the database: reads the DSN anew, checks the server at each connect, and reconnects.
//!
//! A pooler in transaction mode may stand between. So there is no state of a session: no prepared statements, no
//! `LISTEN`, no session locks, and every setting is made with `SET LOCAL`.

use std::future::poll_fn;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};
use tokio_postgres::config::SslMode;
use tokio_postgres::error::{DbError, Severity, SqlState};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls, Row, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use tollgate_clock as clock;
use tollgate_disk::{Links, describe, read_regular};
use tollgate_ledger::LedgerError;
use tollgate_time::Timestamp;

use crate::dsn::{self, CONNECT_TIMEOUT, Dsn, Target};
use crate::{fail_point, schema};

/// The oldest server that is supported: the oldest that the PostgreSQL project maintains.
const SERVER_MIN: u32 = 14;

/// How long any statement may take; then the connection is given up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// The longest and the shortest wait between two attempts to connect.
const BACKOFF: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(2)];

const CERTIFICATES_BYTES_MAX: usize = 4 << 20;

/// A parameter of a statement, with its type: without named statements, the server is not asked for it.
pub(crate) type Param<'a> = (&'a (dyn ToSql + Sync), Type);

/// Where the database is, and what is expected there.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    /// `ledger_url_file`, or where a ledger moves to.
    pub(crate) dsn: dsn::Source,
    pub(crate) facts: schema::Expected,
}

/// An open connection whose server was checked. Dropping it ends the connection.
#[derive(Debug)]
pub(crate) struct Session {
    client: Client,
    driver: AbortHandle,
    /// A commit was told that it did not wait for its standby.
    unreplicated: Arc<AtomicBool>,
    /// `host:port/database`.
    name: String,
    /// The value for `SET LOCAL synchronous_commit`.
    synchronous_commit: &'static str,
}

impl Drop for Session {
    fn drop(&mut self) {
        // The task would wait for outstanding answers, which may never come.
        self.driver.abort();
    }
}

/// Why a connection was not made, or broke off.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// It may work again by itself.
    Transient(String),
    /// A person has to change something.
    Lasting(String),
}

impl Fault {
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Transient(text) | Self::Lasting(text) => text,
        }
    }
}

impl From<Fault> for LedgerError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Transient(text) => Self::Io(text),
            Fault::Lasting(text) => Self::Unusable(text),
        }
    }
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To use the ledger: it is made or upgraded if needed.
    Use,
    /// To look: nothing is changed.
    Look,
}

impl Connector {
    #[cfg(test)]
    pub(crate) async fn connect(&self) -> Result<Session, Fault> {
        self.connect_for(Purpose::Use).await
    }

    /// Connects to the first host of the DSN that can be used.
    pub(crate) async fn connect_for(&self, purpose: Purpose) -> Result<Session, Fault> {
        let in_file = |text: String| Fault::Lasting(format!("{} {text}", self.dsn));
        let dsn = self.dsn.read().map_err(|error| in_file(error.to_string()))?;
        let tls = tls(&dsn).map_err(in_file)?;
        let root_certificates = dsn.root_certificates.as_deref();
        let mut faults = Vec::new();
        for host in &dsn.hosts {
            match self.connect_to(host, tls.clone(), root_certificates, purpose).await {
                Ok(session) => return Ok(session),
                Err(fault) => faults.push(fault),
            }
        }
        let texts: Vec<&str> = faults.iter().map(Fault::text).collect();
        let text = texts.join("; ");
        // With several hosts, one of them may become usable: a standby is promoted.
        let lasting = faults.iter().all(|fault| matches!(fault, Fault::Lasting(_)));
        Err(if lasting { Fault::Lasting(text) } else { Fault::Transient(text) })
    }

    /// Connects to one host and checks it.
    async fn connect_to(
        &self,
        target: &Target,
        tls: Option<MakeRustlsConnect>,
        root_certificates: Option<&Path>,
        purpose: Purpose,
    ) -> Result<Session, Fault> {
        let name = &target.name;
        let limit = target.config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT);
        let late = |_| Fault::Transient(format!("{name} did not answer within {limit:?}"));
        let opened = timeout(limit, open(target, tls)).await.map_err(late)?;
        let Opened { client, driver, unreplicated } =
            opened.map_err(|error| refused(name, &error, root_certificates))?;
        let mut session =
            Session { client, driver, unreplicated, name: name.clone(), synchronous_commit: "on" };
        let checked = async {
            session.check().await?;
            if purpose == Purpose::Use { schema::check(&session, &self.facts).await } else { Ok(()) }
        };
        timeout(ANSWER_TIMEOUT, checked).await.map_err(late)??;
        Ok(session)
    }
}

/// Whose certificates are trusted. `AWS_CA_BUNDLE` is not among them: it is for a proxy that opens TLS to AWS, and in
/// place of the system's authorities it would refuse a database that they vouch for.
pub(crate) fn trusted(root_certificates: Option<&Path>) -> String {
    root_certificates
        .map_or_else(|| "the system".to_owned(), |path| format!("sslrootcert {}", path.display()))
}

/// The TLS settings; `None` if the DSN wants no TLS.
fn tls(dsn: &Dsn) -> Result<Option<MakeRustlsConnect>, String> {
    if dsn.hosts.iter().all(|host| host.config.get_ssl_mode() == SslMode::Disable) {
        return Ok(None);
    }
    let source = trusted(dsn.root_certificates.as_deref());
    let certificates: Vec<CertificateDer<'static>> = match &dsn.root_certificates {
        Some(path) => {
            let pem = read_regular(path, CERTIFICATES_BYTES_MAX, Links::Follow)
                .map_err(|error| format!("names {source}: {}", describe(&error)))?;
            CertificateDer::pem_slice_iter(&pem)
                .collect::<Result<_, _>>()
                .map_err(|_| format!("needs TLS, but {source} holds a PEM block that cannot be read"))?
        }
        None => rustls_native_certs::load_native_certs().certs,
    };
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(certificates);
    if usable == 0 {
        return Err(format!("needs TLS, but {source} has no CA certificate"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Some(MakeRustlsConnect::new(config)))
}

/// A connection, and the task that reads from it.
struct Opened {
    client: Client,
    driver: AbortHandle,
    unreplicated: Arc<AtomicBool>,
}

/// Opens a connection, and starts the task that reads from it.
async fn open(target: &Target, tls: Option<MakeRustlsConnect>) -> Result<Opened, tokio_postgres::Error> {
    let unreplicated = Arc::default();
    let (client, driver) = match tls.filter(|_| target.config.get_ssl_mode() != SslMode::Disable) {
        Some(tls) => {
            let (client, connection) = target.config.connect(tls).await?;
            (client, tokio::spawn(drive(connection, Arc::clone(&unreplicated))).abort_handle())
        }
        None => {
            let (client, connection) = target.config.connect(NoTls).await?;
            (client, tokio::spawn(drive(connection, Arc::clone(&unreplicated))).abort_handle())
        }
    };
    Ok(Opened { client, driver, unreplicated })
}

/// Reads from a connection until it ends.
///
/// If somebody cancels a commit that waits for its synchronous standby (`pg_cancel_backend`), PostgreSQL reports
/// success, and a warning before it: a failover may lose what was committed. The text is translated; the place in the
/// server's source is not.
async fn drive<S, T>(mut connection: Connection<S, T>, unreplicated: Arc<AtomicBool>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        if let AsyncMessage::Notice(notice) = message
            && notice.routine() == Some("SyncRepWaitForLSN")
        {
            unreplicated.store(true, Ordering::Release);
        }
    }
}

/// What an error of a connection attempt means.
fn refused(name: &str, error: &tokio_postgres::Error, root_certificates: Option<&Path>) -> Fault {
    let unknown = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
    if error.code().is_none() && cause::<rustls::Error>(error) == Some(&unknown) {
        let trusted = trusted(root_certificates);
        let text = match root_certificates {
            Some(_) => format!("{name}: its certificate is of no authority in {trusted}"),
            None => format!(
                "{name}: its certificate is of no authority of {trusted}: name its CA certificate by sslrootcert in the URL \
                 (AWS_CA_BUNDLE is for calls to AWS only)"
            ),
        };
        return Fault::Lasting(text);
    }
    let text = format!("{name}: {}", reason(error));
    let code = error.code();
    let lasting = [
        SqlState::INVALID_PASSWORD,
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        SqlState::INVALID_CATALOG_NAME,
        SqlState::INSUFFICIENT_PRIVILEGE,
    ];
    let certificate = || cause::<rustls::Error>(error).is_some();
    if code.is_some_and(|code| lasting.contains(code)) || (code.is_none() && certificate()) {
        return Fault::Lasting(text);
    }
    Fault::Transient(text)
}

/// The most telling text of an error: the server's own, or that of the innermost cause.
fn reason(error: &tokio_postgres::Error) -> String {
    if let Some(error) = error.as_db_error() {
        return format!("the server answered {:?} (SQLSTATE {})", error.message(), error.code().code());
    }
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

/// The cause of this type.
fn cause<'a, E: std::error::Error + 'static>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // An I/O error hides the error that it was made of from `source`, which gives the cause of that.
        let within = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(found) = within.and_then(|within| within.downcast_ref()) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

impl Session {
    /// The server's settings.
    async fn check(&mut self) -> Result<(), Fault> {
        const ASK: &str = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on',
            current_setting('server_encoding'), current_setting('fsync') = 'on',
            current_setting('full_page_writes') = 'on', current_setting('server_version_num')::int,
            current_setting('synchronous_commit') = 'remote_apply'";
        let name = self.name.clone();
        let row = self.query(ASK, &[]).await?.into_iter().next();
        let row =
            row.ok_or_else(|| Fault::Transient(format!("{name} gave no answer to the first question")))?;
        let lasting = |text: String| Err(Fault::Lasting(format!("{name} {text}")));
        let version: i32 = row.get(5);
        let version = u32::try_from(version / 10_000).unwrap_or_default();
        let encoding: &str = row.get(2);
        if version < SERVER_MIN {
            return lasting(format!("is PostgreSQL {version}; use {SERVER_MIN} or newer"));
        }
        if encoding != "UTF8" {
            return lasting(format!("has the encoding {encoding}; create the database with ENCODING 'UTF8'"));
        }
        if !row.get::<_, bool>(3) {
            return lasting(
                "runs with fsync = off, so a crash would lose acknowledged usage; set fsync = on".to_owned(),
            );
        }
        // After a failover it may be the primary.
        if row.get(0) {
            return Err(Fault::Transient(format!(
                "{name} is a standby, which takes no usage; name the primary's host"
            )));
        }
        if row.get(1) {
            return Err(Fault::Transient(format!(
                "{name} is read-only (default_transaction_read_only, or the provider's protection of a full disk)"
            )));
        }
        if !row.get::<_, bool>(4) {
            tracing::warn!(
                event = "ledger_full_page_writes_off",
                database = name,
                "the ledger's database has full_page_writes = off: a crash can damage it unless its file system writes pages as a whole"
            );
        }
        if row.get(6) {
            self.synchronous_commit = "remote_apply";
        }
        Ok(())
    }

    /// `host:port/database`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs one statement outside a transaction, or in the one that is open.
    pub(crate) async fn query(&self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Failed> {
        self.answer(self.client.query_typed(sql, params)).await
    }

    /// Runs a statement without rows; returns how many it changed.
    pub(crate) async fn execute(&self, sql: &str, params: &[Param<'_>]) -> Result<u64, Failed> {
        self.answer(self.client.execute_typed(sql, params)).await
    }

    /// Runs statements without parameters, in one message.
    pub(crate) async fn batch(&self, sql: &str) -> Result<(), Failed> {
        self.simple(sql).await.map(|_| ())
    }

    async fn simple(&self, sql: &str) -> Result<Vec<SimpleQueryMessage>, Failed> {
        self.answer(self.client.simple_query(sql)).await
    }

    /// Waits for the answer to a statement.
    async fn answer<T>(
        &self,
        asked: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Failed> {
        let answered = timeout(ANSWER_TIMEOUT, asked).await.map_err(|_| self.late())?;
        if self.unreplicated.load(Ordering::Acquire) {
            // Whoever asks what became of it commits a transaction of its own, which waits for the standby again.
            return Err(self.broken("a commit was told not to wait for the standby"));
        }
        answered.map_err(|error| self.failed(&error))
    }

    /// The beginning of every transaction. A pooler may give each transaction another session, so the settings are made
    /// in each. It does not say READ WRITE: that would override `default_transaction_read_only`, by which a provider
    /// protects a disk that is full.
    pub(crate) fn begin_sql(&self) -> String {
        format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = {}; SET LOCAL idle_in_transaction_session_timeout = '5s'; \
             SET LOCAL statement_timeout = '10s'; SET LOCAL lock_timeout = '5s'",
            self.synchronous_commit
        )
    }

    fn failed(&self, error: &tokio_postgres::Error) -> Failed {
        let text = format!("{}: {}", self.name, reason(error));
        let fatal =
            |error: &DbError| matches!(error.parsed_severity(), Some(Severity::Fatal | Severity::Panic));
        // A database that has become read-only answers each statement: the next connection asks which one is the
        // primary.
        let unknown = error.as_db_error().is_none_or(fatal);
        let broken =
            unknown || self.client.is_closed() || error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION);
        Failed { text, code: error.code().cloned(), broken }
    }

    /// The connection is of no more use, for this reason.
    pub(crate) fn broken(&self, text: &str) -> Failed {
        Failed { text: format!("{}: {text}", self.name), code: None, broken: true }
    }

    fn late(&self) -> Failed {
        Failed {
            text: format!("{} did not answer within {ANSWER_TIMEOUT:?}", self.name),
            code: None,
            broken: true,
        }
    }
}

/// A statement that failed.
#[derive(Debug, Clone)]
pub(crate) struct Failed {
    pub(crate) text: String,
    /// The server's code; `None` if it did not answer.
    pub(crate) code: Option<SqlState>,
    /// The connection is of no more use.
    pub(crate) broken: bool,
}

impl Failed {
    /// The server did not say that the statement failed: what it was to commit may have been committed.
    pub(crate) fn is_unknown(&self) -> bool {
        self.broken && self.code != Some(SqlState::READ_ONLY_SQL_TRANSACTION)
    }

    /// Another transaction was in the way: try again.
    pub(crate) fn is_contention(&self) -> bool {
        let codes = [
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::LOCK_NOT_AVAILABLE,
        ];
        self.code.as_ref().is_some_and(|code| codes.contains(code))
    }
}

impl From<Failed> for Fault {
    fn from(failed: Failed) -> Self {
        let lasting =
            [SqlState::INSUFFICIENT_PRIVILEGE, SqlState::UNDEFINED_TABLE, SqlState::UNDEFINED_COLUMN];
        if failed.code.as_ref().is_some_and(|code| lasting.contains(code)) {
            return Self::Lasting(failed.text);
        }
        Self::Transient(failed.text)
    }
}

impl From<Failed> for LedgerError {
    fn from(failed: Failed) -> Self {
        Fault::from(failed).into()
    }
}

/// One connection that is made when it is needed, and made again when it broke.
#[derive(Debug)]
pub(crate) struct Link {
    connector: Arc<Connector>,
    purpose: Purpose,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    session: Option<Session>,
    /// The latest attempt to connect failed: when the next may begin, and why it failed.
    waiting: Option<(Instant, Fault)>,
    failures: u32,
}

impl Link {
    pub(crate) fn new(connector: Arc<Connector>) -> Self {
        Self::for_purpose(connector, Purpose::Use)
    }

    /// With [`Purpose::Look`], a ledger that this program can read must be there.
    pub(crate) fn for_purpose(connector: Arc<Connector>, purpose: Purpose) -> Self {
        Self { connector, purpose, state: Mutex::default() }
    }

    async fn connect(&self) -> Result<Session, Fault> {
        let session = self.connector.connect_for(self.purpose).await?;
        if self.purpose == Purpose::Look {
            schema::check_readable(&session).await?;
        }
        Ok(session)
    }

    /// The database's time.
    pub(crate) async fn now(&self) -> Result<Timestamp, Fault> {
        let mut held = self.session().await?;
        let session = held.take();
        let rows = session.query("SELECT tollgate.ledger_now()", &[]).await?;
        held.give_back(session);
        Ok(Timestamp::from_unix_millis(rows.first().map_or(0, |row| row.get(0))))
    }

    /// Waits until another attempt to connect may begin.
    pub(crate) async fn may_try(&self) {
        let waiting = self.state.lock().await.waiting.as_ref().map(|(at, _)| *at);
        if let Some(at) = waiting {
            tokio::time::sleep_until(at).await;
        }
    }

    /// The connection. Until the time of the next attempt it fails at once, with the latest attempt's error.
    pub(crate) async fn session(&self) -> Result<Held<'_>, Fault> {
        let mut state = self.state.lock().await;
        if state.session.as_ref().is_some_and(|session| session.client.is_closed()) {
            state.session = None;
        }
        if state.session.is_none() {
            if let Some((at, fault)) = &state.waiting
                && clock::monotonic() < *at
            {
                return Err(fault.clone());
            }
            match self.connect().await {
                Ok(session) => *state = State { session: Some(session), ..State::default() },
                Err(fault) => {
                    let pause = backoff(state.failures);
                    state.failures = state.failures.saturating_add(1);
                    state.waiting = Some((clock::monotonic() + pause, fault.clone()));
                    return Err(fault);
                }
            }
        }
        Ok(Held(state))
    }

    /// `host:port/database` of the host that is used.
    pub(crate) async fn name(&self) -> Result<String, LedgerError> {
        let mut held = self.session().await?;
        let session = held.take();
        let name = session.name.clone();
        held.give_back(session);
        Ok(name)
    }

    /// Begins a writing transaction.
    pub(crate) async fn begin(&self) -> Result<Transaction<'_>, LedgerError> {
        let mut held = self.session().await?;
        let session = held.take();
        session.batch(&session.begin_sql()).await?;
        Ok(Transaction { held, session, failed: AtomicBool::new(false) })
    }

    /// Begins a reading transaction, all of whose statements see the same rows.
    pub(crate) async fn snapshot(&self) -> Result<Transaction<'_>, LedgerError> {
        let mut held = self.session().await?;
        let session = held.take();
        session.batch(SNAPSHOT).await?;
        Ok(Transaction { held, session, failed: AtomicBool::new(false) })
    }

    /// Runs one statement in a transaction of its own, which gives it a time limit: the server does not notice that
    /// nobody waits for the answer any more. All is sent at once.
    pub(crate) async fn query(&self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, LedgerError> {
        let mut held = self.session().await?;
        let session = held.take();
        let begin = session.begin_sql();
        let (begun, rows, ended) =
            tokio::join!(biased; session.batch(&begin), session.query(sql, params), session.batch("COMMIT"));
        // After a statement that failed, COMMIT rolls back.
        if [begun.as_ref().err(), rows.as_ref().err(), ended.as_ref().err()]
            .iter()
            .flatten()
            .all(|failed| !failed.broken)
        {
            held.give_back(session);
        }
        begun?;
        let rows = rows?;
        ended?;
        Ok(rows)
    }
}

/// The beginning of a reading transaction.
const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL idle_in_transaction_session_timeout = '5s'; \
                        SET LOCAL statement_timeout = '10s'";

/// A pause with full jitter.
fn backoff(failures: u32) -> Duration {
    let [first, longest] = BACKOFF;
    let most = first.saturating_mul(2_u32.saturating_pow(failures.min(16))).min(longest);
    let mut random = [0; 2];
    // Without randomness: the whole pause.
    let part = SystemRandom::new().fill(&mut random).map_or(u16::MAX, |()| u16::from_le_bytes(random));
    most.mul_f64(f64::from(part) / f64::from(u16::MAX))
}

/// The connection while one task uses it.
#[derive(Debug)]
pub(crate) struct Held<'a>(MutexGuard<'a, State>);

impl Held<'_> {
    /// Takes the connection out: unless it is given back, it ends. So a task that is dropped in a transaction leaves
    /// none open.
    pub(crate) fn take(&mut self) -> Session {
        self.0.session.take().expect("`Link::session` put it there")
    }

    pub(crate) fn give_back(&mut self, session: Session) {
        self.0.session = Some(session);
    }
}

/// A transaction. If it is dropped before [`Transaction::commit`], its connection ends, which rolls it back.
#[derive(Debug)]
pub(crate) struct Transaction<'a> {
    held: Held<'a>,
    session: Session,
    /// A statement failed: the server would answer COMMIT with a rollback, and no error.
    failed: AtomicBool,
}

impl Transaction<'_> {
    /// Runs a statement.
    pub(crate) async fn query(&self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Failed> {
        self.noted(self.session.query(sql, params).await)
    }

    /// Runs a statement without rows; returns how many it changed.
    pub(crate) async fn execute(&self, sql: &str, params: &[Param<'_>]) -> Result<u64, Failed> {
        self.noted(self.session.execute(sql, params).await)
    }

    /// Runs statements without parameters.
    pub(crate) async fn batch(&self, sql: &str) -> Result<(), Failed> {
        self.noted(self.session.batch(sql).await)
    }

    fn noted<T>(&self, done: Result<T, Failed>) -> Result<T, Failed> {
        if done.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        done
    }

    /// Commits, at a step that has this name in the kill campaign.
    pub(crate) async fn commit_as(self, step: &str) -> Result<(), Failed> {
        fail_point::reach(step, "before");
        self.commit().await?;
        fail_point::reach(step, "after");
        Ok(())
    }

    /// Commits. An error of the connection does not say that nothing was written: see [`Failed::is_unknown`].
    pub(crate) async fn commit(self) -> Result<(), Failed> {
        if self.failed.load(Ordering::Relaxed) {
            let text = format!(
                "{}: a statement of the transaction failed, so it was rolled back",
                self.session.name
            );
            self.rollback().await?;
            return Err(Failed { text, code: None, broken: false });
        }
        self.end("COMMIT").await
    }

    /// Rolls back.
    pub(crate) async fn rollback(self) -> Result<(), Failed> {
        self.end("ROLLBACK").await
    }

    async fn end(mut self, how: &str) -> Result<(), Failed> {
        let ended = self.session.batch(how).await;
        if ended.is_ok() {
            self.held.give_back(self.session);
        }
        ended
    }
}
