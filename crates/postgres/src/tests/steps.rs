//! What the tests of sealing and sending share: a ledger whose clock stands, and replicas on it.

use std::fmt::Write as _;
use std::ops::Deref;

use super::*;
use crate::lease::{Leader, LeaderSettings, LeaseTimes};
use crate::schema::tags_key;
use tollgate_metering::aggregation::Rules;
use tollgate_metering::record::{Answered, Noted, Whole};
use tollgate_time::Timestamp;

/// The hour that begins with [`START`].
pub(super) const EIGHT: Hour = Hour::of(START);

pub(super) const DIMENSION: &str = "requests";

/// Times that let tests be quick.
pub(super) const QUICK: LeaseTimes = LeaseTimes {
    lasts: Duration::from_secs(6),
    renew_every: Duration::from_millis(300),
    look_every: Duration::from_millis(50),
};

/// A minute of an hour.
pub(super) fn at(hour: Hour, minute: u64) -> Timestamp {
    hour.start().plus(Duration::from_secs(60 * minute))
}

/// The customer of this number.
pub(super) fn customer(number: usize) -> String {
    format!("account {number:012} ")
}

/// A ledger in which the hour before [`EIGHT`] is closed, and whose clock stands at [`START`].
pub(super) struct Ledger {
    pub(super) database: Database,
}

impl Deref for Ledger {
    type Target = Database;

    fn deref(&self) -> &Database {
        &self.database
    }
}

impl Ledger {
    pub(super) async fn make() -> Self {
        let database = Server::shared().database().await;
        connector(&database).connect().await.unwrap();
        let ledger = Self { database };
        ledger.set_clock(START).await;
        ledger.run(&format!("UPDATE tollgate.ledger SET closed = {}", EIGHT.number() - 1)).await;
        ledger
    }

    pub(super) async fn set_clock(&self, now: Timestamp) {
        let millis = now.unix_millis();
        self.run(&format!(
            "CREATE OR REPLACE FUNCTION tollgate.ledger_now() RETURNS bigint LANGUAGE sql VOLATILE AS 'SELECT {millis}::bigint'"
        ))
        .await;
    }

    /// A replica that holds the lease.
    pub(super) async fn leader(&self) -> Arc<Leader> {
        let leader = self.replica(LeaseTimes::default());
        leader.lead().await.unwrap();
        leader
    }

    pub(super) fn replica(&self, times: LeaseTimes) -> Arc<Leader> {
        replica(connector(&self.database), times)
    }

    /// From now on the replica renews its lease no more, as if it was paused.
    pub(super) async fn pause(&self, leader: &Leader) {
        leader.pause().await;
        self.run("UPDATE tollgate.lease SET expires_at = clock_timestamp() + interval '3 s'").await;
    }

    /// Usage that replica `writer` has counted, in millionths.
    pub(super) async fn count(&self, hour: Hour, customer: usize, writer: i64, tags: &str, amount: i128) {
        self.count_all(&[(hour, customer, writer, tags, amount)]).await;
    }

    pub(super) async fn count_all(&self, usage: &[(Hour, usize, i64, &str, i128)]) {
        let (mut sums, mut accepted) = (String::new(), String::new());
        for (hour, number, writer, tags, amount) in usage {
            let key: String = tags_key(tags).iter().map(|byte| format!("{byte:02x}")).collect();
            let comma = if sums.is_empty() { "" } else { "," };
            let (hour, customer, first_at) = (hour.number(), customer(*number), hour.start().unix_millis());
            let _ = write!(
                sums,
                "{comma}({hour}, '{customer}', '{DIMENSION}', {writer}, '\\x{key}', '{tags}', {amount}, {first_at})"
            );
            let _ = write!(accepted, "{comma}('{customer}', '{DIMENSION}', {writer}, {amount}::numeric)");
        }
        self.run(&format!(
            "INSERT INTO tollgate.sums (hour, customer, dimension, writer, tags_key, tags, amount, first_at) VALUES {sums};
             INSERT INTO tollgate.accepted AS held (customer, dimension, writer, amount)
             SELECT c, d, w, sum(a) FROM (VALUES {accepted}) AS added (c, d, w, a) GROUP BY c, d, w
             ON CONFLICT (customer, dimension, writer) DO UPDATE SET amount = held.amount + excluded.amount"
        ))
        .await;
    }

    /// Records of the given hour, one for each customer, sealed at the end of the hour.
    pub(super) async fn sealed(&self, leader: &Leader, hour: Hour, customers: usize) -> Vec<i64> {
        for number in 0..customers {
            self.count(hour, number, 1, "{}", 1_000_000).await;
        }
        self.set_clock(at(hour.next(), 3)).await;
        seal_all(leader).await;
        let rows = self.run("SELECT id FROM tollgate.records ORDER BY customer").await;
        rows.iter().map(|row| row[0].parse().unwrap()).collect()
    }

    /// One value.
    pub(super) async fn one(&self, sql: &str) -> String {
        self.run(sql).await.remove(0).remove(0)
    }

    pub(super) async fn check_balance(&self) {
        check_balance(&self.database).await;
    }
}

/// Amounts that are in no place or in two, for each customer and dimension. The maximum of an open slot is not in
/// `accepted` yet.
pub(super) const OUT_OF_BALANCE: &str = "WITH held AS (
        SELECT customer, dimension, -amount AS amount FROM tollgate.accepted
        UNION ALL SELECT customer, dimension, billed + discarded - rounded_up FROM tollgate.outcome
        UNION ALL SELECT customer, dimension, amount + additive FROM tollgate.sums
        UNION ALL SELECT customer, dimension, coalesce(raw, micros) FROM tollgate.records
            WHERE state IN ('sealed', 'dead')
        UNION ALL SELECT customer, dimension, amount FROM tollgate.remainders WHERE amount > 0)
    SELECT 'balance', customer, dimension, sum(amount)::text FROM held GROUP BY customer, dimension HAVING sum(amount) <> 0";

/// Each micro-unit that was acknowledged is in exactly one place, for each customer and dimension.
pub(super) async fn check_balance(database: &Database) {
    let odd = database.run(OUT_OF_BALANCE).await;
    assert_eq!(odd, Vec::<Vec<String>>::new(), "not where it was acknowledged");
    let kept = "SELECT (SELECT coalesce(sum(billed), 0) FROM tollgate.daily),
                (SELECT coalesce(sum(billed), 0) FROM tollgate.outcome),
                (SELECT coalesce(sum(coalesce(raw, micros)), 0) FROM tollgate.settled WHERE state = 'accepted')
                    + (SELECT coalesce(sum(coalesce(raw, micros)), 0) FROM tollgate.records WHERE state = 'accepted')";
    let kept = database.run(kept).await.remove(0);
    assert!(kept.iter().all(|sum| *sum == kept[0]), "by day, in all, by record: {kept:?}");
}

/// A replica with this connection.
pub(super) fn replica(connector: Arc<Connector>, times: LeaseTimes) -> Arc<Leader> {
    let settings = LeaderSettings {
        name: "replica".to_owned(),
        times,
        settle: SETTLE,
        idempotency_window: Duration::from_secs(48 * 3600),
        rules: Rules::default(),
    };
    Arc::new(Leader::new(connector, WallClock::system(), settings))
}

/// Seals until nothing is left; returns how many records were made.
pub(super) async fn seal_all(leader: &Leader) -> usize {
    let mut made = 0;
    loop {
        let sealing = leader.seal().await.unwrap();
        made += sealing.made;
        if !sealing.more {
            return made;
        }
    }
}

pub(super) fn noted(id: i64, answered: Answered) -> Noted {
    Noted { id, answered, due_at: None }
}

pub(super) fn accepted(id: i64) -> Noted {
    noted(id, Answered::Accepted(Some(format!("aws-{id}"))))
}

pub(super) fn ids(records: &[Whole]) -> Vec<i64> {
    records.iter().map(|whole| whole.record.id).collect()
}
