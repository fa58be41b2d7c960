//! Where the ledger is read and repaired: through the sidecar that holds it, or in the file if none runs.

use std::sync::Mutex;

use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::api::listing::Listing;
use crate::api::query::{Query, SHOWN_MAX};
use crate::api::repair::{Action, RepairRejected, RepairRequest, Repairs};
use crate::api::usage::{backlog, balances, shown_whole};
use crate::app::{repairs, shared_ledger};
use crate::cli::sidecar::{Complaint, Sidecar, read, says, unanswered};
use crate::config::{App, Config, LedgerPlace, Mode, State};
use crate::engine;
use crate::exit::Exit;
use tollgate_clock as clock;
use tollgate_http::client::Ask;
use tollgate_ledger::repair::Repaired;
use tollgate_ledger::store::View;
use tollgate_ledger::view::{From, Looked};
use tollgate_ledger::{Database, FILE_NAME, LedgerError, LedgerSettings};
use tollgate_metering::policy::Window;

/// Who holds the ledger.
pub(in crate::cli) enum Source {
    /// The running sidecar, over its app server.
    Sidecar(Sidecar),
    /// No sidecar: the ledger is open here.
    Open { ledger: Box<dyn View>, runtime: Runtime, repairs: Option<Repairs>, window: Window },
}

impl Source {
    /// Opens the ledger for reading.
    pub(in crate::cli) fn find(place: &LedgerPlace) -> Result<Self, Complaint> {
        Self::at(place.mode, &place.app, &place.state, None, None)
    }

    /// Opens the ledger for reading, with a whole configuration.
    pub(super) fn to_read(config: &Config) -> Result<Self, Complaint> {
        Self::at(config.product.mode, &config.app, &config.state, None, None)
    }

    /// Opens the ledger for repairs. They need the whole configuration, which says which of them are allowed.
    pub(super) fn to_repair(config: &Config) -> Result<Self, Complaint> {
        let settings = shared_ledger(config, clock::system_now());
        Self::at(config.product.mode, &config.app, &config.state, Some(repairs(config)), settings)
    }

    fn at(
        mode: Mode,
        app: &App,
        state: &State,
        repairs: Option<Repairs>,
        settings: Option<LedgerSettings>,
    ) -> Result<Self, Complaint> {
        let folder = state.dir.path().map(ToOwned::to_owned).unwrap_or_default();
        let shared = state.url_file.clone().zip(engine::installed());
        let there = shared.is_some() || folder.join(FILE_NAME).symlink_metadata().is_ok();
        // A ledger in the folder can be read even if the settings name no product.
        let read_alone = there && repairs.is_none();
        if !mode.has_ledger() && !read_alone {
            let text = format!(
                "mode: there is no ledger in mode {mode}, which reports no usage; for another product set --mode"
            );
            return Err((Exit::Config, text));
        }
        let sidecar = Sidecar::at(app)?;
        if sidecar.runs()? {
            return Ok(Self::Sidecar(sidecar));
        }
        let nobody = sidecar.absence();
        if !there {
            let text = format!("{nobody}, and there is no ledger in {}", folder.display());
            return Err((Exit::Io, text));
        }
        let by_seller = mode.is_run_by_seller();
        let window = if by_seller { Window::BatchMeterUsage } else { Window::MeterUsage };
        if let Some((url_file, engine)) = shared {
            let runtime = sidecar.into_runtime();
            let ledger = runtime.block_on(engine.look(url_file, settings)).map_err(|error| failed(&error))?;
            return Ok(Self::Open { ledger, runtime, repairs, window });
        }
        let open = if repairs.is_some() { Database::open_existing } else { Database::inspect };
        let ledger = open(&folder).map_err(|error| match error {
            LedgerError::InUse(path) => {
                let text = format!(
                    "{} is in use by a running sidecar, and {nobody}; give the address of its app server with --app-addr \
                     (the sidecar logs it when it starts), and with --app-token-file its token if it has one",
                    path.display()
                );
                (Exit::Io, text)
            }
            error => failed(&error),
        })?;
        Ok(Self::Open {
            ledger: Box::new(Mutex::new(ledger)),
            runtime: sidecar.into_runtime(),
            repairs,
            window,
        })
    }

    /// All rows of a listing, oldest first, each changed by `form`. Only the result of `form` is kept: a row takes
    /// kilobytes, and in a pod this process shares the memory limit of the sidecar.
    pub(super) fn list<T>(
        &self,
        listing: Listing,
        looked: Looked,
        form: impl Fn(Value) -> T,
    ) -> Result<Vec<T>, Complaint> {
        let mut rows = Vec::new();
        let mut next = Some(Query { looked, limit: SHOWN_MAX, after: None });
        while let Some(query) = next {
            let (page, more) = self.page(listing, query)?;
            rows.extend(page.into_iter().map(&form));
            next = more;
        }
        listing.arrange(&mut rows);
        Ok(rows)
    }

    /// A page of rows in the order in which they are read, and the query of the next page.
    fn page(&self, listing: Listing, query: Query) -> Result<(Vec<Value>, Option<Query>), Complaint> {
        let sidecar = match self {
            Self::Open { ledger, runtime, .. } => {
                return runtime.block_on(listing.read(&**ledger, &query)).map_err(|error| failed(&error));
            }
            Self::Sidecar(sidecar) => sidecar,
        };
        let mut document = sidecar.get(&format!("{}?{}", listing.path(), query.write()))?;
        let Value::Array(mut page) = document[listing.member()].take() else { return Ok((Vec::new(), None)) };
        listing.arrange(&mut page);
        let next = match (document["before"].as_i64(), document["after"].as_str().and_then(From::parse)) {
            (Some(id), _) => Some(Query { looked: Looked { before: Some(id), ..query.looked }, ..query }),
            (None, Some(after)) => Some(Query { after: Some(after), ..query }),
            (None, None) => None,
        };
        Ok((page, next))
    }

    /// One record with all its members.
    pub(super) fn show(&self, id: i64) -> Result<Value, Complaint> {
        let none = || (Exit::Usage, format!("there is no record {id}; `tollgate ledger list` shows all"));
        match self {
            Self::Sidecar(sidecar) => {
                let path = format!("/v1/records/{id}");
                let answer = sidecar.ask(Ask::get(&path)).map_err(|error| unanswered(&error))?;
                if says(&answer, "NotFound") { Err(none()) } else { read(&answer) }
            }
            Self::Open { ledger, runtime, .. } => {
                let found = runtime.block_on(ledger.record(id)).map_err(|error| failed(&error))?;
                found.map(|(whole, links)| shown_whole(&whole, &links)).ok_or_else(none)
            }
        }
    }

    /// The balance and the backlog.
    pub(in crate::cli) fn reconciliation(&self) -> Result<Value, Complaint> {
        match self {
            Self::Sidecar(sidecar) => sidecar.get("/v1/reconciliation"),
            Self::Open { ledger, runtime, window, .. } => {
                let totals = runtime.block_on(ledger.totals()).map_err(|error| failed(&error))?;
                let summary = runtime.block_on(ledger.summary()).map_err(|error| failed(&error))?;
                let now = clock::system_now();
                Ok(json!({"dimensions": balances(totals), "backlog": backlog(&summary, *window, now)}))
            }
        }
    }

    /// The runtime for other requests.
    pub(super) const fn runtime(&self) -> &Runtime {
        match self {
            Self::Sidecar(sidecar) => sidecar.runtime(),
            Self::Open { runtime, .. } => runtime,
        }
    }

    /// Repairs one record.
    pub(super) fn repair(
        &mut self,
        id: i64,
        action: Action,
        request: &RepairRequest,
    ) -> Result<Repaired, Complaint> {
        match self {
            Self::Sidecar(sidecar) => {
                let path = format!("/v1/dead-letters/{id}/{}", action.as_str());
                let body = serde_json::to_vec(request).expect("a repair request is an object of strings");
                let answer = sidecar.ask(Ask::post(&path, body)).map_err(|error| unanswered(&error))?;
                let verdicts = [
                    ("NotFound", Repaired::NotFound),
                    ("OtherForm", Repaired::OtherForm),
                    ("InDoubt", Repaired::InDoubt),
                ];
                match verdicts.into_iter().find(|(code, _)| says(&answer, code)) {
                    Some((_, repaired)) => Ok(repaired),
                    None => read(&answer).map(|_| Repaired::Done),
                }
            }
            Self::Open { repairs: None, .. } => {
                Err((Exit::Internal, "the ledger was opened to be read only".to_owned()))
            }
            Self::Open { ledger, runtime, repairs: Some(repairs), .. } => {
                let repair = repairs.read(action, request.clone()).map_err(|rejected| match rejected {
                    RepairRejected::Sealed => (Exit::Config, rejected.to_string()),
                    RepairRejected::Bad(_) => (Exit::Usage, rejected.to_string()),
                })?;
                let repaired = ledger.repair(id, repair, clock::system_now());
                runtime.block_on(repaired).map_err(|error| failed(&error))
            }
        }
    }
}

fn failed(error: &LedgerError) -> Complaint {
    (Exit::Io, error.to_string())
}
