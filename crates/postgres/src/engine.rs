//! PostgreSQL as an engine of `tollgate-saas`.

use std::path::PathBuf;
use std::sync::Arc;

use tollgate_clock::WallClock;
use tollgate_ledger::engine::{Engine, Examined, Grade, MoveFuture, Moved};
use tollgate_ledger::store::{Store, StoreFuture, View};
use tollgate_ledger::writer::Observer;
use tollgate_ledger::{LedgerError, LedgerSettings};
use tollgate_marketplace::service::BoxFuture;

use crate::store::PostgresStore;
use crate::{Destination, LeaseTimes, MoveError, PostgresLedger, PostgresSettings, checks, dsn, move_ledger};

/// Lines about a move come at most after this many rows.
const SAID_EVERY: u64 = 100_000;

/// The engine.
#[derive(Debug, Clone, Copy)]
pub struct PostgresEngine;

fn settings(url_file: PathBuf, ledger: LedgerSettings) -> PostgresSettings {
    // For people: in Kubernetes the pod's name.
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    PostgresSettings { url_file, name, ledger, lease: LeaseTimes::default() }
}

impl Engine for PostgresEngine {
    fn check_url(&self, url: &str) -> Result<(), String> {
        dsn::parse(url).map(drop).map_err(|bad| bad.to_string())
    }

    fn open(
        &self,
        url_file: PathBuf,
        settings: LedgerSettings,
        clock: WallClock,
        observer: Box<dyn Observer>,
    ) -> Arc<dyn Store> {
        Arc::new(PostgresStore::start(&self::settings(url_file, settings), clock, observer))
    }

    fn look(&self, url_file: PathBuf, to_repair: Option<LedgerSettings>) -> StoreFuture<'_, Box<dyn View>> {
        Box::pin(async move {
            let ledger = match to_repair {
                Some(ledger) => PostgresLedger::with_clock(&settings(url_file, ledger), WallClock::system()),
                None => PostgresLedger::to_look(url_file),
            };
            drop(ledger.views.session().await?);
            Ok(Box::new(ledger) as Box<dyn View>)
        })
    }

    fn examine(&self, url_file: PathBuf, ledger: LedgerSettings) -> BoxFuture<'_, Vec<Examined>> {
        Box::pin(async move {
            let seen = checks::examine(&settings(url_file, ledger)).await;
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
        said: &'a mut dyn FnMut(String),
    ) -> MoveFuture<'a> {
        Box::pin(async move {
            let destination = Destination::url(url);
            let mut next = 0;
            let copied = |part: &'static str, rows: u64| {
                if rows >= next {
                    said(format!("{part}: {rows} rows"));
                    next = rows + SAID_EVERY;
                }
            };
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
