//! PostgreSQL as an engine of `tollgate-saas`.

use std::path::PathBuf;
use std::sync::Arc;

use tollgate_clock::WallClock;
use tollgate_ledger::engine::{Engine, Examined, Grade, Moved};
use tollgate_ledger::store::{Store, StoreFuture, View};
use tollgate_ledger::writer::Observer;
use tollgate_ledger::{LedgerError, LedgerSettings};
use tollgate_marketplace::service::BoxFuture;
use tollgate_time::Timestamp;

use crate::store::PostgresStore;
use crate::{Destination, LeaseTimes, MoveError, PostgresLedger, PostgresSettings, checks, dsn, move_ledger};

/// The engine.
#[derive(Debug, Clone, Default)]
pub struct PostgresEngine {
    /// The replica's name, for people.
    pub name: String,
    /// CA certificates (PEM) to trust instead of the system's, unless the URL names others (`sslrootcert`).
    pub ca_bundle: Option<Vec<u8>>,
}

impl PostgresEngine {
    fn settings(&self, url_file: PathBuf, ledger: LedgerSettings) -> PostgresSettings {
        PostgresSettings {
            url_file,
            ca_bundle: self.ca_bundle.clone(),
            name: self.name.clone(),
            ledger,
            lease: LeaseTimes::default(),
        }
    }
}

/// For commands, which meter nothing: no product.
fn of_a_command() -> LedgerSettings {
    LedgerSettings {
        product: String::new(),
        pod: String::new(),
        settle: std::time::Duration::ZERO,
        bytes_max: u64::MAX,
        started_at: Timestamp::from_unix_millis(0),
        zero_dimensions: Vec::new(),
        aws_door: false,
        idempotency_window: std::time::Duration::ZERO,
    }
}

impl Engine for PostgresEngine {
    fn check_url(&self, url: &str) -> Result<(), String> {
        dsn::parse(url).map(drop).map_err(|error| format!("the URL {error}"))
    }

    fn open(
        &self,
        url_file: PathBuf,
        settings: LedgerSettings,
        clock: WallClock,
        observer: Box<dyn Observer>,
    ) -> Arc<dyn Store> {
        Arc::new(PostgresStore::start(&self.settings(url_file, settings), clock, observer))
    }

    fn look(&self, url_file: PathBuf) -> StoreFuture<'_, Box<dyn View>> {
        Box::pin(async move {
            let ledger = PostgresLedger::of_a_command(&self.settings(url_file, of_a_command()));
            drop(ledger.views.session().await?);
            Ok(Box::new(ledger) as Box<dyn View>)
        })
    }

    fn examine(&self, url_file: PathBuf) -> BoxFuture<'_, Vec<Examined>> {
        Box::pin(async move {
            let seen = checks::examine(&self.settings(url_file, of_a_command())).await;
            let examined = |seen: checks::Seen| Examined {
                check: seen.check,
                grade: match seen.grade {
                    checks::Grade::Good => Grade::Ok,
                    checks::Grade::Warning => Grade::Warning,
                    checks::Grade::Fault => Grade::Fault,
                },
                seen: seen.seen,
                remedy: seen.remedy.to_owned(),
            };
            seen.into_iter().map(examined).collect()
        })
    }

    fn take_over<'a>(
        &'a self,
        folder: PathBuf,
        url: String,
        said: &'a mut (dyn FnMut(String) + Send),
    ) -> StoreFuture<'a, Moved> {
        Box::pin(async move {
            let destination = Destination::url(url, self.ca_bundle.clone());
            let copied = |part: &'static str, rows| said(format!("{part}: {rows} copied"));
            let moved = move_ledger(&folder, destination, copied).await.map_err(|error| match error {
                MoveError::Ledger(error) => error,
                MoveError::Refused(text) => LedgerError::Unusable(text),
            })?;
            let rows = |part: &str| moved.rows.get(part).copied().unwrap_or_default();
            Ok(Moved {
                keys: rows("keys"),
                records: rows("records"),
                totals: moved.totals.into_iter().collect(),
            })
        })
    }
}
