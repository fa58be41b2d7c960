//! Replicas that take usage into a database whose time the test sets.

pub(super) use super::*;
pub(super) use crate::counter::WriterSettings;
pub(super) use crate::writer::Writer;
pub(super) use tollgate_ledger::Taken;
pub(super) use tollgate_ledger::testing::Unobserved;
pub(super) use tollgate_marketplace::{Customer, TagSet};
pub(super) use tollgate_metering::aggregation::Rules;
pub(super) use tollgate_metering::event::Event;

pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// Locks of the database that somebody waits for. Other databases of the server have others.
pub(super) const WAITING: &str = "pg_locks JOIN pg_database ON pg_database.oid = database AND datname = current_database() WHERE NOT granted";

/// A database whose time is set by the test, with a ledger that began a day before [`START`].
pub(super) struct Bench {
    pub(super) database: Database,
}

impl Bench {
    pub(super) async fn new() -> Self {
        Self::on(Server::shared()).await
    }

    pub(super) async fn on(server: Server) -> Self {
        Self::of(server.database().await).await
    }

    pub(super) async fn of(database: Database) -> Self {
        let bench = Self { database };
        connector(&bench.database).connect().await.unwrap();
        bench.at(START).await;
        let closed = Hour::of(START).number() - 2;
        let began = START.minus(24 * HOUR).unix_millis();
        bench.run(&format!("UPDATE tollgate.ledger SET closed = {closed}, started_at = {began}")).await;
        bench
    }

    /// Sets the database's time.
    pub(super) async fn at(&self, now: Timestamp) {
        let sql = format!(
            "CREATE OR REPLACE FUNCTION tollgate.ledger_now() RETURNS bigint LANGUAGE sql VOLATILE AS 'SELECT {}::bigint'",
            now.unix_millis()
        );
        self.run(&sql).await;
    }

    pub(super) async fn run(&self, sql: &str) -> Vec<Vec<String>> {
        self.database.run(sql).await
    }

    /// Closes hours, as the leader does it.
    pub(super) async fn close(&self, hour: Hour) {
        let hour = hour.number();
        self.run(&format!(
            "BEGIN; SELECT pg_advisory_xact_lock({}, {hour}); UPDATE tollgate.ledger SET closed = {hour}, version = version + 1; COMMIT",
            crate::schema::LOCKS
        ))
        .await;
    }

    pub(super) fn replica(&self, name: &str) -> Writer {
        self.replica_with(name, connector(&self.database))
    }

    pub(super) fn replica_with(&self, name: &str, connector: Arc<Connector>) -> Writer {
        Writer::start(connector, writer(name), WallClock::fixed(START), Box::new(Unobserved))
    }

    /// What is acknowledged, and what is open by hour and dimension.
    pub(super) async fn accepted(&self) -> String {
        let accepted = self.run("SELECT coalesce(sum(amount), 0) FROM tollgate.accepted").await;
        let open = self.run("SELECT coalesce(sum(amount + additive), 0) FROM tollgate.sums").await;
        assert_eq!(accepted, open, "what was acknowledged is what is open");
        accepted[0][0].clone()
    }

    /// The open sums of an hour, over all writers.
    pub(super) async fn open(&self, hour: Hour) -> String {
        let sql =
            format!("SELECT coalesce(sum(amount), 0) FROM tollgate.sums WHERE hour = {}", hour.number());
        self.run(&sql).await[0][0].clone()
    }
}

/// A replica that meters every dimension by the default.
pub(super) fn writer(name: &str) -> WriterSettings {
    WriterSettings {
        name: name.to_owned(),
        product: "demometered".to_owned(),
        settle: SETTLE,
        rules: Rules::default(),
    }
}

pub(super) fn event(id: Option<&str>, micros: u64, at: Timestamp) -> Event {
    let mut content = [0; 32];
    content[..8].copy_from_slice(&micros.to_be_bytes());
    Event {
        id: id.map(str::to_owned),
        dimension: "requests".to_owned(),
        quantity: Quantity::from_micros(micros).unwrap().into(),
        at,
        tags: TagSet::default(),
        customer: Customer::Account { account_id: "111122223333".to_owned(), license_arn: None },
        content,
    }
}

pub(super) async fn take(replica: &Writer, events: Vec<Event>) -> Vec<Taken> {
    replica.take(events, Box::new(())).await.unwrap()
}

pub(super) async fn one(replica: &Writer, event: Event) -> Taken {
    take(replica, vec![event]).await[0]
}
