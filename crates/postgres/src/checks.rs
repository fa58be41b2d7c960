//! What `doctor` says about a ledger in PostgreSQL. It changes nothing in the database: it makes no schema and takes no
//! lease.

use std::time::Duration;

use tokio_postgres::Row;

use crate::PostgresSettings;
use crate::columns::column;
use crate::connect::{self, Failed, Fault, Purpose, Session};
use crate::schema::{self, Found, SCHEMA};
use crate::totals::{BALANCE, balance};
use tollgate_clock as clock;
use tollgate_ledger::LedgerError;
use tollgate_time::Timestamp;

/// A larger difference of the clocks is said. The ledger follows the database's clock, so it is no fault.
const CLOCK_DIFFERENCE_MAX: Duration = Duration::from_secs(5);

/// Whether something must be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grade {
    /// Nothing.
    Good,
    /// It works, with a risk or a cost.
    Warning,
    /// Usage is not taken or not sent like this.
    Fault,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What was checked.
    pub check: &'static str,
    /// The result.
    pub grade: Grade,
    /// What was seen.
    pub seen: String,
    /// What to do; may be empty.
    pub remedy: &'static str,
}

impl Seen {
    fn good(check: &'static str, seen: impl Into<String>) -> Self {
        Self { check, grade: Grade::Good, seen: seen.into(), remedy: "" }
    }

    fn warning(check: &'static str, seen: impl Into<String>, remedy: &'static str) -> Self {
        Self { check, grade: Grade::Warning, seen: seen.into(), remedy }
    }

    fn fault(check: &'static str, seen: impl Into<String>, remedy: &'static str) -> Self {
        Self { check, grade: Grade::Fault, seen: seen.into(), remedy }
    }
}

/// Checks the database: that it answers and can keep usage safely, and what its ledger says.
pub async fn examine(settings: &PostgresSettings) -> Vec<Seen> {
    let connector = settings.connector();
    let session = match connector.connect_for(Purpose::Look).await {
        Ok(session) => session,
        Err(fault) => return vec![unreachable(&fault)],
    };
    let mut seen = Vec::new();
    if let Err(error) = look(&session, settings, &mut seen).await {
        seen.push(Seen::fault(
            "ledger_database",
            error.to_string(),
            "Run doctor again; if it stays, see the database's log.",
        ));
    }
    seen
}

fn unreachable(fault: &Fault) -> Seen {
    let remedy = match fault {
        Fault::Lasting(_) => "Correct what it says; until then replicas answer 503 to usage.",
        Fault::Transient(_) => {
            "Check that the database runs and that the network policy lets this pod reach it; until then replicas answer \
             503 to usage."
        }
    };
    Seen::fault("ledger_database", fault.text(), remedy)
}

async fn look(
    session: &Session,
    settings: &PostgresSettings,
    seen: &mut Vec<Seen>,
) -> Result<(), LedgerError> {
    const SERVER: &str = "SELECT current_setting('server_version') AS version,
        current_setting('full_page_writes') = 'on' AS full_page_writes,
        current_setting('synchronous_standby_names') AS synchronous,
        coalesce((SELECT ssl FROM pg_catalog.pg_stat_ssl WHERE pid = pg_backend_pid()), false) AS encrypted,
        (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now,
        has_database_privilege(current_database(), 'CREATE') AS may_create,
        EXISTS (SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = 'tollgate') AS has_schema";
    // Without the right to see more, a role sees only the names of the standbys.
    const STANDBYS: &str = "SELECT coalesce(application_name, '') AS name, sync_state AS state FROM pg_catalog.pg_stat_replication
        WHERE state IS NULL OR state IN ('streaming', 'catchup') ORDER BY pid";
    let before = clock::system_now();
    let rows = session.query(SERVER, &[]).await?;
    let after = clock::system_now();
    let row = first(&rows)?;
    let version: String = column(row, "version")?;
    seen.push(Seen::good(
        "ledger_database",
        format!("{} is PostgreSQL {version}, a primary with fsync on and UTF8", session.name()),
    ));
    seen.push(encryption(settings, column(row, "encrypted")?));
    if !column::<bool>(row, "full_page_writes")? {
        seen.push(Seen::warning(
            "ledger_full_page_writes",
            "full_page_writes is off: a crash can damage the database",
            "Set full_page_writes = on, unless the database's file system writes pages as a whole.",
        ));
    }
    let standbys = session.query(STANDBYS, &[]).await?;
    let standbys = standbys.iter().map(standby).collect::<Result<Vec<_>, _>>()?;
    seen.push(standby_finding(&column::<String>(row, "synchronous")?, &standbys));
    let theirs = Timestamp::from_unix_millis(column(row, "now")?);
    seen.push(clock_finding(before, after, theirs));
    match schema::look(session).await {
        Err(fault) => seen.push(Seen::fault("ledger_schema", fault.text(), "Correct what it says.")),
        Ok(Found::Ledger { schema, .. }) => {
            seen.push(schema_finding(schema));
            ledger(session, settings, seen).await?;
        }
        Ok(Found::Nothing | Found::Foreign) => {
            let may = column::<bool>(row, "may_create")? || column::<bool>(row, "has_schema")?;
            seen.push(if may {
                Seen::good("ledger_schema", "there is no ledger yet: the first replica makes it")
            } else {
                Seen::fault(
                    "ledger_schema",
                    "there is no ledger yet, and this role may not make the schema",
                    "Run CREATE SCHEMA tollgate AUTHORIZATION with this role's name, as the database's owner.",
                )
            });
        }
    }
    Ok(())
}

fn first(rows: &[Row]) -> Result<&Row, Failed> {
    rows.first().ok_or_else(|| Failed {
        text: "the database gave no answer".to_owned(),
        code: None,
        broken: false,
    })
}

fn schema_finding(schema: i32) -> Seen {
    let seen = match schema.cmp(&SCHEMA) {
        std::cmp::Ordering::Less => {
            format!(
                "the ledger has schema {schema}: the first replica of this version upgrades it to {SCHEMA}"
            )
        }
        std::cmp::Ordering::Equal => format!("the ledger has schema {schema}"),
        std::cmp::Ordering::Greater => {
            format!("the ledger has schema {schema} of a newer version, which this one ({SCHEMA}) may use")
        }
    };
    Seen::good("ledger_schema", seen)
}

fn encryption(settings: &PostgresSettings, encrypted: bool) -> Seen {
    let check = "ledger_tls";
    let Ok(dsn) = crate::dsn::Source::File(settings.url_file.clone()).read() else {
        return Seen::warning(check, "the URL changed meanwhile", "Run doctor again.");
    };
    if dsn.is_encrypted() {
        let trusted = connect::trusted(dsn.root_certificates.as_deref());
        return Seen::good(
            check,
            format!(
                "the connection is encrypted, and the server's certificate is of an authority of {trusted}"
            ),
        );
    }
    if dsn.is_local() {
        return Seen::good(check, "the connection stays on this machine and is not encrypted");
    }
    let pooled = if encrypted { "; the pooler's own connection is" } else { "" };
    Seen::warning(
        check,
        format!("the connection is not encrypted (sslmode=disable){pooled}"),
        "Use sslmode=verify-full, unless nobody else can reach the network between.",
    )
}

/// A standby: its name, and how it follows if that can be seen.
fn standby(row: &Row) -> Result<(String, Option<String>), LedgerError> {
    Ok((column(row, "name")?, column(row, "state")?))
}

/// Whether usage that was acknowledged survives a failover.
fn standby_finding(synchronous: &str, standbys: &[(String, Option<String>)]) -> Seen {
    let check = "ledger_standby";
    let remedy = "Set synchronous_standby_names so that a commit waits for a standby, or accept that a failover loses the \
                  usage of the last moments.";
    let names: Vec<&str> = standbys.iter().map(|(name, _)| name.as_str()).collect();
    let is_waited_for =
        |(_, state): &(String, Option<String>)| matches!(state.as_deref(), Some("sync" | "quorum"));
    match (standbys, synchronous.trim()) {
        ([], "") => Seen::good(
            check,
            "no standby streams from it; a provider's storage may replicate below PostgreSQL, which cannot be seen here",
        ),
        ([], _) => Seen::warning(
            check,
            format!(
                "synchronous_standby_names is {synchronous:?}, and no standby is connected: commits may wait for ever"
            ),
            "Start the standby, or correct synchronous_standby_names.",
        ),
        (_, "") => Seen::warning(
            check,
            format!(
                "the standby {} is asynchronous (synchronous_standby_names is empty): a failover to it may lose usage that was \
                 acknowledged",
                names.join(", ")
            ),
            remedy,
        ),
        (all, _) if all.iter().any(is_waited_for) => {
            Seen::good(check, format!("each commit waits for a standby ({synchronous})"))
        }
        (all, _) if all.iter().all(|(_, state)| state.is_none()) => Seen::warning(
            check,
            format!(
                "synchronous_standby_names is {synchronous:?}; this role may not see whether the standby {} is one of them",
                names.join(", ")
            ),
            "Grant this role pg_monitor to have it checked.",
        ),
        _ => Seen::warning(
            check,
            format!(
                "the standby {} is asynchronous: none is named by synchronous_standby_names ({synchronous}); a failover to it \
                 may lose usage that was acknowledged",
                names.join(", ")
            ),
            remedy,
        ),
    }
}

/// The database's time was read between two readings of this machine's.
fn clock_finding(before: Timestamp, after: Timestamp, theirs: Timestamp) -> Seen {
    let check = "ledger_clock";
    let (difference, side) =
        if theirs < before { (before.since(theirs), "behind") } else { (theirs.since(after), "ahead of") };
    if difference <= CLOCK_DIFFERENCE_MAX {
        return Seen::good(
            check,
            format!("the database's clock is within {} s of this machine's", CLOCK_DIFFERENCE_MAX.as_secs()),
        );
    }
    Seen::warning(
        check,
        format!(
            "the database's clock is {} s {side} this machine's; hours are closed by the database's",
            difference.as_secs()
        ),
        "Synchronise the clocks: AWS takes no usage of times to come, and an application's events carry its own time.",
    )
}

/// What the ledger itself says.
async fn ledger(
    session: &Session,
    settings: &PostgresSettings,
    seen: &mut Vec<Seen>,
) -> Result<(), LedgerError> {
    const LEDGER: &str = "SELECT product, state, holder,
        (SELECT name FROM tollgate.writers WHERE writers.id = lease.holder) AS replica, epoch,
        (extract(epoch FROM greatest(expires_at, '2000-01-01') - clock_timestamp()))::bigint AS expires_in,
        (SELECT count(*) FROM tollgate.records WHERE state = 'sealed') AS unsent
        FROM tollgate.ledger, tollgate.lease WHERE lease.name = 'sender'";
    let rows = session.query(LEDGER, &[]).await?;
    let row = first(&rows)?;
    if column::<String>(row, "state")? != "ready" {
        seen.push(Seen::fault(
            "ledger_state",
            "a ledger is being moved into the database: it takes no usage and sends none",
            "Finish the move with tollgate-saas ledger move.",
        ));
    }
    let product: String = column(row, "product")?;
    let wanted = &settings.ledger.product;
    if !wanted.is_empty() && product != *wanted {
        seen.push(Seen::warning(
            "ledger_product",
            format!("the ledger meters product {product}, and product_code is {wanted}"),
            "A replica starts only when AWS has taken all usage of the other product; or use a database of its own.",
        ));
    }
    let holder: Option<i64> = column(row, "holder")?;
    let replica: Option<String> = column(row, "replica")?;
    let (epoch, expires_in): (i64, i64) = (column(row, "epoch")?, column(row, "expires_in")?);
    seen.push(lease_finding(holder.is_some(), replica.as_deref(), epoch, expires_in, column(row, "unsent")?));
    let totals = balance(&session.query(BALANCE, &[]).await?)?;
    let odd: Vec<&str> = totals
        .iter()
        .filter(|(_, totals)| !totals.balances())
        .map(|(dimension, _)| dimension.as_str())
        .collect();
    seen.push(if odd.is_empty() {
        Seen::good(
            "ledger_balance",
            "accepted + rounded up = billed + pending + dead + discarded + remainder in every dimension",
        )
    } else {
        Seen::fault(
            "ledger_balance",
            format!("the ledger does not balance in {}", odd.join(", ")),
            "A fault of tollgate, or rows were changed by hand: send a support bundle.",
        )
    });
    Ok(())
}

fn lease_finding(held: bool, replica: Option<&str>, epoch: i64, expires_in: i64, unsent: i64) -> Seen {
    let check = "ledger_sender";
    let name = replica.unwrap_or("a replica whose name is forgotten");
    if held && expires_in > 0 {
        return Seen::good(
            check,
            format!("{name} seals and sends (term {epoch}, renewed until in {expires_in} s)"),
        );
    }
    let last = if held { format!("; {name} did last") } else { String::new() };
    let waiting = if unsent > 0 { format!("; {unsent} records wait") } else { String::new() };
    let seen = format!("no replica seals and sends now{last}{waiting}");
    if unsent > 0 {
        let remedy = "Start a replica; if one runs, see its log for why it does not take the lease.";
        return Seen::warning(check, seen, remedy);
    }
    Seen::good(check, seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_asynchronous_standby_is_a_warning_that_says_why() {
        let standby = |state: Option<&str>| vec![("replica-1".to_owned(), state.map(str::to_owned))];
        for (names, standbys, grade, part) in [
            ("", vec![], Grade::Good, "no standby"),
            ("", standby(Some("async")), Grade::Warning, "synchronous_standby_names is empty"),
            ("", standby(None), Grade::Warning, "replica-1 is asynchronous"),
            ("ANY 1 (replica-1)", standby(Some("quorum")), Grade::Good, "waits for a standby"),
            ("replica-1", standby(Some("sync")), Grade::Good, "waits for a standby"),
            ("other", standby(Some("async")), Grade::Warning, "none is named"),
            ("replica-1", standby(None), Grade::Warning, "may not see"),
            ("replica-1", vec![], Grade::Warning, "no standby is connected"),
        ] {
            let seen = standby_finding(names, &standbys);
            assert_eq!(seen.grade, grade, "{names:?} {standbys:?}: {seen:?}");
            assert!(seen.seen.contains(part), "{names:?}: {seen:?}");
        }
    }

    #[test]
    fn a_clock_that_differs_is_said_with_its_direction() {
        let at = |seconds: i64| Timestamp::from_unix_seconds(1_795_507_200 + seconds);
        assert_eq!(clock_finding(at(0), at(10), at(5)).grade, Grade::Good);
        for (theirs, part) in [(at(-600), "600 s behind"), (at(611), "610 s ahead of")] {
            let seen = clock_finding(at(0), at(1), theirs);
            assert!(seen.grade == Grade::Warning && seen.seen.contains(part), "{seen:?}");
        }
    }

    #[test]
    fn records_that_nobody_sends_are_a_warning() {
        for (held, expires_in, unsent, grade, part) in [
            (true, 7, 3, Grade::Good, "pod-1 seals and sends"),
            (true, -3, 3, Grade::Warning, "pod-1 did last; 3 records wait"),
            (false, -3, 0, Grade::Good, "no replica"),
        ] {
            let seen = lease_finding(held, Some("pod-1"), 4, expires_in, unsent);
            assert!(seen.grade == grade && seen.seen.contains(part), "{seen:?}");
        }
    }
}
