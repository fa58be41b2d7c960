//! Orders about contracts, and the list of contracts and checkouts.

use serde::Deserialize;
use serde_json::json;

use super::{Answered, Refusal, parse};
use crate::change::Change;
use crate::engine::{Engine, State};
use crate::license_token::{LicenseToken, Purpose};
use crate::world::document::ContractDocument;
use tollgate_time::Timestamp;

/// The body of `POST /_emulator/refresh-tokens`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RefreshDocument {
    license_arn: Option<String>,
    life: Option<String>,
    #[serde(default)]
    properties: Vec<String>,
}

/// Makes or changes a contract.
pub(super) fn order(engine: &Engine, body: &[u8]) -> Answered {
    let order: ContractDocument = parse(body)?;
    let mut state = engine.state();
    let (license_arn, contract) = state.service.world.ordered_contract(order)?;
    let now = lapsed(&mut state)?;
    let json = state.service.seats.license_json(&license_arn, &contract, now);
    state.make(&[Change::Contract { license_arn, contract }])?;
    Ok(json)
}

/// Contracts and checkouts.
pub(super) fn shown(engine: &Engine, last: usize) -> Answered {
    let mut state = engine.state();
    let now = lapsed(&mut state)?;
    Ok(state.service.seats.json(&state.service.world, now, last))
}

/// Notes the checkouts that have expired, which has to happen before seats are shown; returns the time.
fn lapsed(state: &mut State) -> Result<Timestamp, Refusal> {
    let now = state.clock.now();
    let lapses = state.service.seats.lapses(now);
    state.make(&lapses)?;
    Ok(now)
}

/// Issues a token for `GetAccessToken`.
pub(super) fn refresh_token(engine: &Engine, body: &[u8]) -> Answered {
    let RefreshDocument { license_arn, life, properties } = parse(body)?;
    let state = engine.state();
    let world = &state.service.world;
    let license_arn = match license_arn {
        Some(arn) if world.contracts.contains_key(&arn) => arn,
        Some(arn) => return Err(Refusal::Order(format!("there is no license {arn}"))),
        None => match world.showpiece_contract() {
            Some((arn, _)) => arn.to_owned(),
            None => return Err(Refusal::Order("there is no license".to_owned())),
        },
    };
    let life = match life {
        Some(text) => {
            crate::duration(&text).ok_or_else(|| format!("{text:?} is no duration such as 365d"))?
        }
        None => Purpose::Refresh.lifetime(),
    };
    let account_id = world.contracts.get(&license_arn).map(|contract| contract.account_id.clone());
    let token = LicenseToken {
        license_arn: license_arn.clone(),
        account_id: account_id.unwrap_or_default(),
        properties,
    };
    let refresh_token = token.issue(Purpose::Refresh, state.clock.now(), life);
    Ok(json!({"refresh_token": refresh_token, "license_arn": license_arn}))
}
