//! Forgets what is no longer needed, in small pieces, while this replica holds the lease.
//!
//! After each hour that closes, every job runs once. A job takes as many steps as it needs, each a short transaction,
//! and rests after each step for longer than the step took. A job that fails is left until the next hour.
//!
//! Ages are judged by `ledger.forgotten`, which follows the database's time in small steps: a clock that is wrong for a
//! moment forgets nothing early.

use std::sync::Weak;
use std::time::Duration;

use tokio_postgres::types::Type;

use crate::carrying::day;
use crate::connect::{Failed, Param};
use crate::lease::{Leader, Leading};
use crate::schema::NO_WRITER;
use tollgate_clock as clock;
use tollgate_ledger::LedgerError;
use tollgate_marketplace::Hour;

/// How many days settled records are kept, to be compared with AWS's reports.
pub(crate) const SETTLED_DAYS: i32 = 100;

/// How many days the sums of each day are kept.
pub(crate) const DAILY_DAYS: i32 = 400;

/// For how many hours after an hour closed its forms, rules and flushes are remembered: a clock may go back a little.
const HOURS_KEPT: i64 = 2;

/// Days around today for which `settled` has a partition. Records are settled within a day or so, and the next days'
/// partitions are there before they are needed, also if making one fails for hours.
const DAYS: std::ops::RangeInclusive<i32> = -2..=2;

/// Tables that share the keys.
const KEY_TABLES: usize = 16;

/// A pass over the keys is worth its reading when so large a part of the window has passed since the one before.
const KEYS_PART: i64 = 8;

/// Rows that a step deletes, where it finds them by an index.
const STEP_ROWS: i64 = 1000;

/// Pages that a step reads, where it reads all of a table.
const STEP_PAGES: std::ops::RangeInclusive<i64> = 8..=1024;

/// How long a step may take. The next one reads fewer pages if it took longer, and more if it took much less.
const STEP_TIME: Duration = Duration::from_millis(15);

/// The shortest rest after a step.
const REST_MIN: Duration = Duration::from_millis(50);

/// A step's share of the time is one fifth.
const REST_FACTOR: u32 = 4;

/// How often to look whether an hour was closed.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// How long the change of a table waits for its readers. Meanwhile other readers wait too.
const CHANGE_WAIT: &str = "SET LOCAL lock_timeout = '200ms'";

/// How far upkeep is.
#[derive(Debug, Default)]
pub(crate) struct Upkeep {
    /// The closed hour for which the jobs run, or ran.
    round: Option<Hour>,
    /// Jobs that are left.
    jobs: Vec<Job>,
    /// How far the first of them is.
    at: Position,
    /// The pages of the next step.
    pages: i64,
    /// Before which hour the latest complete pass forgot keys.
    keys_passed: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Job {
    MakeDays,
    Forms,
    Rules,
    ClosedEarly,
    Keys,
    Accepted,
    Writers,
    Daily,
    DropDays,
    OtherDays,
    Links,
}

/// In the reverse order.
const JOBS: [Job; 11] = [
    Job::Links,
    Job::OtherDays,
    Job::DropDays,
    Job::Daily,
    Job::Writers,
    Job::Accepted,
    Job::Keys,
    Job::ClosedEarly,
    Job::Rules,
    Job::Forms,
    Job::MakeDays,
];

/// How far a job is that reads all of some tables, or makes some.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Position {
    table: usize,
    page: i64,
}

/// Does upkeep until the lease is lost.
pub(crate) async fn tend(leader: Weak<Leader>) {
    loop {
        let Some(held) = leader.upgrade() else { return };
        let began = clock::monotonic();
        let rest = match held.tend_once().await {
            Ok(true) => REST_MIN.max(clock::monotonic().duration_since(began) * REST_FACTOR),
            Err(LedgerError::NotLeading) => return,
            Ok(false) | Err(_) => LOOK_EVERY,
        };
        drop(held);
        tokio::time::sleep(rest).await;
    }
}

impl Leader {
    /// Does one step; `false` if nothing is left to do in this hour.
    pub(crate) async fn tend_once(&self) -> Result<bool, LedgerError> {
        let mut upkeep = self.upkeep.lock().await;
        let leading = self.leading().await?;
        let window = i64::try_from(self.settings.idempotency_window.as_secs() / 3600).unwrap_or(i64::MAX);
        let ages = leading.ages(window).await?;
        if upkeep.jobs.is_empty() && upkeep.round != Some(leading.closed) {
            upkeep.begin(leading.closed, ages, window);
        }
        let Some(job) = upkeep.jobs.last().copied() else {
            leading.rollback().await?;
            return Ok(false);
        };
        let began = clock::monotonic();
        match leading.step(job, &upkeep, ages).await {
            Ok(next) => {
                leading.commit().await?;
                upkeep.took(clock::monotonic().duration_since(began));
                if job == Job::Keys && next.is_none() {
                    upkeep.keys_passed = Some(ages.keys_before);
                }
                upkeep.finish(next);
            }
            Err(failed) if failed.broken => return Err(failed.into()),
            Err(failed) => {
                leading.rollback().await?;
                tracing::warn!(event = "ledger_upkeep_failed", job = ?job, error = failed.text, "old rows of the ledger were not removed; will retry in the next hour");
                upkeep.finish(None);
            }
        }
        Ok(true)
    }
}

impl Upkeep {
    /// Begins the jobs of an hour.
    fn begin(&mut self, closed: Hour, ages: Ages, window: i64) {
        let keys_due = self.keys_passed.is_none_or(|passed| passed + window / KEYS_PART <= ages.keys_before);
        self.jobs = JOBS.into_iter().filter(|job| *job != Job::Keys || keys_due).collect();
        (self.round, self.at, self.pages) = (Some(closed), Position::default(), *STEP_PAGES.start());
    }

    /// A step took this long.
    fn took(&mut self, time: Duration) {
        let pages = if time > STEP_TIME { self.pages / 2 } else { self.pages * 2 };
        self.pages = pages.clamp(*STEP_PAGES.start(), *STEP_PAGES.end());
    }

    /// A step ended: the job goes on at `next`, or is done.
    fn finish(&mut self, next: Option<Position>) {
        self.at = next.unwrap_or_default();
        if next.is_none() {
            self.jobs.pop();
            // How much a page costs differs between the jobs.
            self.pages = *STEP_PAGES.start();
        }
    }
}

/// What is old.
#[derive(Debug, Clone, Copy)]
struct Ages {
    /// Keys of earlier hours are forgotten.
    keys_before: i64,
    today: i32,
}

impl Leading<'_> {
    /// `window`: hours for which keys are remembered.
    async fn ages(&self, window: i64) -> Result<Ages, Failed> {
        let rows = self.query("SELECT forgotten FROM tollgate.ledger", &[]).await?;
        let forgotten: Option<i64> = rows.first().and_then(|row| row.get(0));
        let present =
            forgotten.map_or(Hour::of(self.now), |hour| Hour::from_number(hour.saturating_add(window)));
        Ok(Ages { keys_before: present.number().saturating_sub(window), today: day(present) })
    }

    /// Does one step of a job; returns where the next one begins, or `None` if the job is done.
    async fn step(&self, job: Job, upkeep: &Upkeep, ages: Ages) -> Result<Option<Position>, Failed> {
        let at = upkeep.at;
        let kept = self.closed.number().saturating_sub(HOURS_KEPT);
        let settled_before = ages.today - SETTLED_DAYS;
        match job {
            Job::MakeDays => self.make_day(at, ages.today).await,
            Job::Forms => self.delete("tollgate.forms", "hour", kept).await,
            Job::Rules => self.forget_rules(kept).await,
            Job::ClosedEarly => self.delete("tollgate.closed_early", "hour", kept).await,
            Job::Keys => self.keys(upkeep, ages.keys_before).await,
            Job::Accepted => self.merge_accepted(at, upkeep.pages).await,
            Job::Writers => self.forget_writers().await,
            Job::Daily => self.delete("tollgate.daily", "day", (ages.today - DAILY_DAYS).into()).await,
            Job::DropDays => self.drop_day(settled_before).await,
            Job::OtherDays => {
                self.delete("tollgate.settled_other", "hour", i64::from(settled_before) * 24).await
            }
            Job::Links => self.links(at, upkeep.pages, i64::from(settled_before) * 24).await,
        }
    }

    /// Deletes some old rows, which an index finds.
    async fn delete(&self, table: &str, column: &str, before: i64) -> Result<Option<Position>, Failed> {
        let sql = format!(
            "DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {table} WHERE {column} < $1 LIMIT $2))"
        );
        let gone = self.execute(&sql, &[(&before, Type::INT8), (&STEP_ROWS, Type::INT8)]).await?;
        Ok(i64::try_from(gone).is_ok_and(|gone| gone == STEP_ROWS).then(Position::default))
    }

    /// Deletes the rules of old hours whose usage is sealed.
    async fn forget_rules(&self, before: i64) -> Result<Option<Position>, Failed> {
        let sql = "DELETE FROM tollgate.rules WHERE hour < $1
            AND NOT EXISTS (SELECT 1 FROM tollgate.sums WHERE sums.hour = rules.hour)";
        self.execute(sql, &[(&before, Type::INT8)]).await?;
        Ok(None)
    }

    /// Deletes old keys of some pages. They have no index by age: it would cost each event as much as the key itself.
    async fn keys(&self, upkeep: &Upkeep, before: i64) -> Result<Option<Position>, Failed> {
        let table = format!("tollgate.keys_{}", upkeep.at.table);
        let sql = |range: &str| format!("DELETE FROM {table} WHERE {range} AND hour < $1");
        let at = self.walk(&table, upkeep.at, upkeep.pages, sql, &[(&before, Type::INT8)]).await?;
        Ok(at
            .or(Some(Position { table: upkeep.at.table + 1, page: 0 }))
            .filter(|next| next.table < KEY_TABLES))
    }

    /// Merges the acknowledged amounts of replicas that are gone into one row for each slot.
    async fn merge_accepted(&self, at: Position, pages: i64) -> Result<Option<Position>, Failed> {
        let sql = |range: &str| {
            format!(
                "WITH gone AS (
                    DELETE FROM tollgate.accepted WHERE {range} AND writer <> $1 AND writer NOT IN (
                        SELECT id FROM tollgate.writers WHERE seen_at > clock_timestamp() - interval '1 hour')
                    RETURNING customer, dimension, amount)
                INSERT INTO tollgate.accepted AS held (customer, dimension, writer, amount)
                SELECT customer, dimension, $1, sum(amount) FROM gone
                GROUP BY customer, dimension ORDER BY customer, dimension
                ON CONFLICT (customer, dimension, writer) DO UPDATE SET amount = held.amount + excluded.amount"
            )
        };
        self.walk("tollgate.accepted", at, pages, sql, &[(&NO_WRITER, Type::INT8)]).await
    }

    /// Forgets replicas that were not seen for a week, and have no usage in open hours.
    async fn forget_writers(&self) -> Result<Option<Position>, Failed> {
        let sql = "SELECT id FROM tollgate.writers WHERE seen_at < clock_timestamp() - interval '7 days'
            AND id <> (SELECT holder FROM tollgate.lease WHERE name = 'sender')";
        let old: Vec<i64> = self.query(sql, &[]).await?.iter().map(|row| row.get(0)).collect();
        if !old.is_empty() {
            let sql = "DELETE FROM tollgate.writers WHERE id = ANY($1) AND id NOT IN (SELECT writer FROM tollgate.sums)";
            self.execute(sql, &[(&old, Type::INT8_ARRAY)]).await?;
        }
        Ok(None)
    }

    /// Makes the partition of a day, if there is none.
    async fn make_day(&self, at: Position, today: i32) -> Result<Option<Position>, Failed> {
        let Some(day) = DAYS.map(|days| today + days).nth(at.table) else { return Ok(None) };
        let sql = "SELECT to_regclass($1) IS NULL AND NOT EXISTS (SELECT 1 FROM tollgate.settled_other WHERE day = $2)";
        let name = partition(day);
        let wanted = self.query(sql, &[(&name, Type::TEXT), (&day, Type::INT4)]).await?;
        if wanted.first().is_some_and(|row| row.get(0)) {
            let next = day + 1;
            self.change(&format!(
                "CREATE TABLE {name} PARTITION OF tollgate.settled FOR VALUES FROM ({day}) TO ({next})"
            ))
            .await?;
        }
        Ok(Some(Position { table: at.table + 1, page: 0 }))
    }

    /// Removes the partition of an old day.
    async fn drop_day(&self, before: i32) -> Result<Option<Position>, Failed> {
        let sql = "SELECT 'tollgate.' || relname FROM pg_catalog.pg_inherits
            JOIN pg_catalog.pg_class ON pg_class.oid = inhrelid WHERE inhparent = 'tollgate.settled'::regclass";
        let names: Vec<String> = self.query(sql, &[]).await?.iter().map(|row| row.get(0)).collect();
        let is_old = |name: &&String| {
            let day = name.strip_prefix(PARTITION).and_then(|day| day.parse::<i32>().ok());
            day.is_some_and(|day| day < before)
        };
        let Some(old) = names.iter().find(is_old) else { return Ok(None) };
        self.change(&format!("DROP TABLE {old}")).await?;
        Ok(Some(Position::default()))
    }

    async fn change(&self, sql: &str) -> Result<(), Failed> {
        self.transaction.batch(&format!("{CHANGE_WAIT}; {sql}")).await
    }

    /// Forgets links into hours whose records are forgotten.
    async fn links(&self, at: Position, pages: i64, before: i64) -> Result<Option<Position>, Failed> {
        let sql = |range: &str| {
            format!("DELETE FROM tollgate.links WHERE {range} AND hour < $1 AND target IS NOT NULL")
        };
        self.walk("tollgate.links", at, pages, sql, &[(&before, Type::INT8)]).await
    }

    /// Runs a statement on some pages of a table; returns the pages after them, if there are any.
    async fn walk(
        &self,
        table: &str,
        at: Position,
        pages: i64,
        sql: impl Fn(&str) -> String,
        params: &[Param<'_>],
    ) -> Result<Option<Position>, Failed> {
        let end = at.page + pages;
        let range = format!("ctid >= '({},0)'::tid AND ctid < '({end},0)'::tid", at.page);
        self.execute(&sql(&range), params).await?;
        let size = format!("SELECT pg_relation_size('{table}') / current_setting('block_size')::bigint");
        let size: i64 = self.query(&size, &[]).await?.first().map_or(0, |row| row.get(0));
        Ok((end < size).then_some(Position { page: end, ..at }))
    }
}

const PARTITION: &str = "tollgate.settled_";

fn partition(day: i32) -> String {
    format!("{PARTITION}{day}")
}
