//! Repairs of records, over HTTP and from the command line, and who may make them.
//!
//! A replay only counts usage again, so anybody may request it. Confirm, discard and replay to another dimension can
//! take usage off a bill: only the seller may use them, unless `ledger_repair` allows them to the operator.

use hyper::body::Incoming;
use hyper::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::code::Code;
use super::problem;
use super::usage::{TOKEN_BODY_BYTES_MAX, UsagePart, read, starting, unavailable};
use tollgate_http::{self as http, Abandoned, Body, BodyBudget};
use tollgate_ledger::repair::{Note, Repair, Repaired};
use tollgate_metering::event::Rules;

/// Which repairs are allowed.
#[derive(Debug, Clone, Default)]
pub struct Repairs {
    /// `ledger_repair`.
    pub allowed: bool,
    /// `to_dimension` must be a dimension that events may name.
    pub rules: Rules,
}

/// The kind of repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Count the usage to the current hour.
    Replay,
    /// The record was billed.
    Confirm,
    /// The record will not be billed.
    Discard,
}

impl Action {
    /// The last part of its path.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Confirm => "confirm",
            Self::Discard => "discard",
        }
    }

    /// The member of the answer that says that it is done.
    #[must_use]
    pub const fn done(self) -> &'static str {
        match self {
            Self::Replay => "replayed",
            Self::Confirm => "confirmed",
            Self::Discard => "discarded",
        }
    }

    /// A record's number and the action, from `/v1/dead-letters/7/replay`.
    pub(super) fn of(path: &str) -> Option<(&str, Self)> {
        let (id, action) = path.strip_prefix("/v1/dead-letters/")?.split_once('/')?;
        let action =
            [Self::Replay, Self::Confirm, Self::Discard].into_iter().find(|one| one.as_str() == action)?;
        Some((id, action))
    }
}

/// The body of a repair request; for a replay it may be empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepairRequest {
    /// Replay it although it may have been billed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub accept_double_billing: bool,
    /// Count it to another dimension.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_dimension: Option<String>,
    /// Why the record is repaired, for the audit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Why a repair is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RepairRejected {
    /// Only the seller may.
    #[error(
        "confirm, discard and to_dimension change what is billed, so only the seller may use them (ledger_repair is \
         off here); send the record's number to the seller"
    )]
    Sealed,
    /// A member is missing, wrong or not allowed for this action.
    #[error("{0}")]
    Bad(String),
}

impl Repairs {
    /// The repair that the ledger is to make.
    pub fn read(&self, action: Action, request: RepairRequest) -> Result<Repair, RepairRejected> {
        let bad = |text: &str| Err(RepairRejected::Bad(text.to_owned()));
        if !self.allowed && (action != Action::Replay || request.to_dimension.is_some()) {
            return Err(RepairRejected::Sealed);
        }
        let note = request
            .note
            .as_deref()
            .map(Note::new)
            .transpose()
            .map_err(|error| RepairRejected::Bad(error.to_owned()))?;
        match (action, note) {
            (Action::Replay, note) => {
                if let Some(dimension) = &request.to_dimension {
                    self.rules
                        .dimension(dimension)
                        .map_err(|rejected| RepairRejected::Bad(rejected.to_string()))?;
                }
                let RepairRequest { accept_double_billing, to_dimension, .. } = request;
                Ok(Repair::Replay { accept_double_billing, to_dimension, note })
            }
            _ if request.accept_double_billing || request.to_dimension.is_some() => {
                bad("accept_double_billing and to_dimension are for replay only")
            }
            (_, None) => bad("a note is required: it says in the audit why the record is closed"),
            (Action::Confirm, Some(note)) => Ok(Repair::Confirm(note)),
            (Action::Discard, Some(note)) => Ok(Repair::Discard(note)),
        }
    }
}

impl UsagePart {
    /// Repairs one record.
    pub(super) async fn repair(
        &self,
        id: &str,
        action: Action,
        body: Incoming,
        room: &BodyBudget,
    ) -> Result<Response<Body>, Abandoned> {
        let Some(open) = self.ledger.get() else { return Ok(starting()) };
        let bytes = match read(room, body, TOKEN_BODY_BYTES_MAX, "16 KiB").await? {
            Ok(bytes) => bytes,
            Err((rejected, _)) => return Ok(rejected),
        };
        let request =
            if bytes.is_empty() { Ok(RepairRequest::default()) } else { serde_json::from_slice(&bytes) };
        let (Ok(request), Ok(id)) = (request, id.parse::<i64>()) else {
            let detail = "POST /v1/dead-letters/<number>/replay, confirm or discard, with an object of note and, for replay, \
                          accept_double_billing and to_dimension";
            return Ok(problem(StatusCode::BAD_REQUEST, Code::BadRequest, detail));
        };
        let repair = match self.repairs.read(action, request) {
            Ok(repair) => repair,
            Err(rejected @ RepairRejected::Sealed) => {
                return Ok(problem(StatusCode::FORBIDDEN, Code::RepairSealed, &rejected.to_string()));
            }
            Err(rejected) => {
                return Ok(problem(StatusCode::BAD_REQUEST, Code::BadRequest, &rejected.to_string()));
            }
        };
        let now = self.clock.now();
        let repaired = open.store.repair(id, repair, now).await;
        Ok(match repaired {
            Ok(Repaired::Done) => {
                tracing::warn!(
                    event = "record_repaired",
                    record = id,
                    action = action.as_str(),
                    "a record was repaired; see `tollgate ledger audit`"
                );
                http::json(StatusCode::OK, &json!({"id": id, action.done(): true}))
            }
            Ok(Repaired::NotFound) => {
                problem(StatusCode::NOT_FOUND, Code::NotFound, "there is no dead letter of this number")
            }
            Ok(Repaired::OtherForm) => problem(StatusCode::CONFLICT, Code::OtherForm, OTHER_FORM),
            Ok(Repaired::InDoubt) => problem(
                StatusCode::CONFLICT,
                Code::InDoubt,
                "the record may have been billed: AWS never answered, or somebody else reported its hour; compare \
                 with the seller's reports; to replay it anyway send {\"accept_double_billing\": true}",
            ),
            Err(error) => unavailable(&error),
        })
    }
}

/// Why a record is not replayed now.
pub(crate) const OTHER_FORM: &str = "in this hour usage of the account was counted in the other form, by license or without \
                                     it; AWS would bill both, so replay it in an hour without such usage";

#[cfg(test)]
mod tests {
    use super::*;

    fn repairs(allowed: bool) -> Repairs {
        let rules = Rules { dimensions: Some(vec!["requests".to_owned()]), ..Rules::default() };
        Repairs { allowed, rules }
    }

    fn request(text: &str) -> RepairRequest {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn who_may_not_take_usage_off_the_bill_may_only_count_it_again() {
        let read = |action, text| repairs(false).read(action, request(text));
        assert!(read(Action::Replay, r#"{"accept_double_billing":true,"note":"ticket 7"}"#).is_ok());
        for (action, text) in [
            (Action::Confirm, r#"{"note":"paid"}"#),
            (Action::Discard, r#"{"note":"a test"}"#),
            (Action::Discard, "{}"),
            (Action::Replay, r#"{"to_dimension":"requests"}"#),
        ] {
            assert_eq!(read(action, text), Err(RepairRejected::Sealed), "{text}");
        }
    }

    #[test]
    fn an_order_says_what_it_must_and_nothing_else() {
        let read = |action, text| repairs(true).read(action, request(text));
        assert!(read(Action::Confirm, r#"{"note":"paid"}"#).is_ok());
        assert!(read(Action::Replay, r#"{"to_dimension":"requests"}"#).is_ok());
        for (action, text, part) in [
            (Action::Confirm, "{}", "a note is required"),
            (Action::Discard, r#"{"note":" "}"#, "must not be empty"),
            (Action::Discard, r#"{"note":"x","accept_double_billing":true}"#, "for replay only"),
            (Action::Replay, r#"{"to_dimension":"reqests"}"#, "not one of those"),
            (Action::Replay, r#"{"note":"a\nb"}"#, "one line"),
        ] {
            let error = read(action, text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_path_names_a_record_and_what_is_ordered() {
        assert_eq!(Action::of("/v1/dead-letters/7/discard"), Some(("7", Action::Discard)));
        for none in ["/v1/dead-letters/7", "/v1/dead-letters/7/erase", "/v1/records/7/replay"] {
            assert_eq!(Action::of(none), None, "{none}");
        }
    }
}
