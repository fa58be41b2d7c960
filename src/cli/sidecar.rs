//! Requests of commands to the running sidecar, over its application server.

use std::time::Duration;

use bytes::Bytes;
use hyper::{Response, StatusCode};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use crate::app::address;
use crate::config::App;
use crate::exit::Exit;
use tollgate_http::Address;
use tollgate_http::client::{Ask, ClientError, ask};

/// Why a command fails: the exit code and the text to print.
pub(in crate::cli) type Complaint = (Exit, String);

/// Enough to read a page of records from a slow disk.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// The sidecar's address, and the token for it.
pub(in crate::cli) struct Sidecar {
    runtime: Runtime,
    address: Address,
    authorization: Option<String>,
}

impl Sidecar {
    /// The sidecar that listens on `app_addr`.
    pub(in crate::cli) fn at(app: &App) -> Result<Self, Complaint> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| (Exit::Internal, format!("cannot start a runtime: {error}")))?;
        let authorization = app.token.as_ref().map(|token| format!("Bearer {}", token.expose()));
        Ok(Self { runtime, address: address(&app.addr), authorization })
    }

    /// Whether a sidecar runs there; an answer of another program is an error.
    pub(in crate::cli) fn runs(&self) -> Result<bool, Complaint> {
        match self.ask(Ask::get("/v1/entitlement")) {
            // tollgate's own document, or its refusal of a request without its token.
            Ok(answer) if speaks_as_tollgate(&answer) => Ok(true),
            Ok(answer) => Err(stranger(answer.status())),
            Err(ClientError::Connect { .. }) => Ok(false),
            Err(error) => Err(unanswered(&error)),
        }
    }

    /// The text for a sidecar that does not run.
    pub(in crate::cli) fn absence(&self) -> String {
        format!("no sidecar answers at app_addr {}", self.address)
    }

    /// Its runtime, for other work once it is known not to run.
    pub(in crate::cli) fn into_runtime(self) -> Runtime {
        self.runtime
    }

    /// Its runtime, for requests to others.
    pub(in crate::cli) const fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// The answer to a request, whatever its status.
    pub(in crate::cli) fn ask(&self, question: Ask<'_>) -> Result<Response<Bytes>, ClientError> {
        let question = Ask { authorization: self.authorization.as_deref(), ..question };
        self.runtime.block_on(ask(&self.address, question, ANSWER_TIMEOUT))
    }

    /// The document at `path`.
    pub(in crate::cli) fn get(&self, path: &str) -> Result<Value, Complaint> {
        read(&self.ask(Ask::get(path)).map_err(|error| unanswered(&error))?)
    }
}

/// The document of a successful answer; of another answer the detail of its problem, as an error.
pub(in crate::cli) fn read(answer: &Response<Bytes>) -> Result<Value, Complaint> {
    let document: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
    let exit = match answer.status() {
        StatusCode::OK => return Ok(document),
        status if document["detail"].is_null() => return Err(stranger(status)),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Exit::Config,
        status if status.is_client_error() => Exit::Usage,
        _ => Exit::Io,
    };
    Err((exit, format!("{}: {}", answer.status(), document["detail"].as_str().unwrap_or_default())))
}

fn speaks_as_tollgate(answer: &Response<Bytes>) -> bool {
    let document: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
    document["gate"].is_string() || document["code"].is_string() && document["detail"].is_string()
}

fn stranger(status: StatusCode) -> Complaint {
    let text = format!(
        "app_addr: {status}: something other than tollgate answers there; give the sidecar's address with --app-addr"
    );
    (Exit::Unavailable, text)
}

/// Whether the answer is a problem document with this code.
pub(in crate::cli) fn says(answer: &Response<Bytes>, code: &str) -> bool {
    let document: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
    !answer.status().is_success() && document["code"] == code
}

pub(in crate::cli) fn unanswered(error: &ClientError) -> Complaint {
    (Exit::Unavailable, format!("app_addr: {error}"))
}
