//! PostgreSQL as the engine of a program: what `tollgate-saas` gives to the sidecar's code.

use std::path::PathBuf;
use std::sync::Arc;

use crate::checks::{self, Seen};
use crate::connect::{Connector, Link};
use crate::dsn;
use crate::moving::{Destination, MoveError, move_ledger};
use crate::store::Replica;
use crate::{LeaseTimes, PostgresLedger, PostgresSettings};
use tollgate_clock::WallClock;
use tollgate_ledger::engine::{Engine, Examined, Grade, MoveFuture, Moved};
use tollgate_ledger::store::{Store, StoreFuture, View};
use tollgate_ledger::writer::Observer;
use tollgate_ledger::{LedgerError, LedgerSettings};
use tollgate_marketplace::service::BoxFuture;

/// Lines about a move come at most after this many rows.
const SAID_EVERY: u64 = 100_000;

/// PostgreSQL.
#[derive(Debug, Clone, Copy)]
pub struct Postgres;

/// This replica's name, for people: in Kubernetes the pod's.
fn name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn settings(url_file: PathBuf, ledger: LedgerSettings) -> PostgresSettings {
    PostgresSettings { url_file, ca_bundle: None, name: name(), ledger, lease: LeaseTimes::default() }
}

impl Engine for Postgres {
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
        Arc::new(Replica::start(self::settings(url_file, settings), clock, observer))
    }

    fn look(&self, url_file: PathBuf, to_repair: Option<LedgerSettings>) -> StoreFuture<'_, Box<dyn View>> {
        Box::pin(async move {
            let link = match to_repair {
                Some(ledger) => Link::new(Arc::new(settings(url_file, ledger).connector())),
                None => Link::looking(Arc::new(Connector::to_look(url_file))),
            };
            let ledger = PostgresLedger::new(link);
            ledger.now().await.map_err(LedgerError::from)?;
            Ok(Box::new(ledger) as Box<dyn View>)
        })
    }

    fn examine(&self, url_file: PathBuf, ledger: LedgerSettings) -> BoxFuture<'_, Vec<Examined>> {
        Box::pin(async move {
            let seen = checks::examine(&settings(url_file, ledger)).await;
            seen.into_iter()
                .map(|Seen { check, grade, seen, remedy }| Examined {
                    check,
                    grade: match grade {
                        checks::Grade::Good => Grade::Ok,
                        checks::Grade::Warning => Grade::Warning,
                        checks::Grade::Fault => Grade::Fault,
                    },
                    seen,
                    remedy: remedy.to_owned(),
                })
                .collect()
        })
    }

    fn take_over<'a>(
        &'a self,
        folder: PathBuf,
        url: String,
        said: &'a mut dyn FnMut(String),
    ) -> MoveFuture<'a> {
        Box::pin(async move {
            let mut next = 0;
            let progress = |part: &'static str, rows: u64| {
                if rows >= next || rows == 0 {
                    said(format!("{part}: {rows} rows"));
                    next = rows + SAID_EVERY;
                }
            };
            let moved = move_ledger(&folder, Destination::url(url, None), progress).await;
            let moved = moved.map_err(|error| match error {
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
