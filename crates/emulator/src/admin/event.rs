//! Orders about lifecycle events: where they are posted, and what happens.

use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answered, Refusal, parse};
use crate::change::Change;
use crate::engine::Engine;
use crate::event::{EventDocument, Target};
use crate::{HEADER, host};
use tollgate_http::client::{Ask, ask_url};

/// The body of `POST /_emulator/event-target`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TargetDocument {
    url: String,
    header: Option<String>,
    value: Option<String>,
}

/// How long an API destination waits for an answer (EventBridge user guide).
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(5);

/// Most bytes of an answer that are shown.
const ANSWER_BYTES_SHOWN: usize = 1000;

/// Sets where events are posted.
pub(super) fn target(engine: &Engine, body: &[u8]) -> Answered {
    let TargetDocument { url, header, value } = parse(body)?;
    let uri = url.parse::<hyper::Uri>().ok().filter(|uri| uri.scheme_str() == Some("http"));
    let ours = uri.as_ref().and_then(hyper::Uri::authority).is_some_and(|at| host::is_private(at.as_str()));
    if !ours {
        let text = "url is http://HOST[:PORT]/PATH, and its host an address, localhost, or a name of a private network";
        return Err(Refusal::Order(text.to_owned()));
    }
    let header = match (header, value) {
        (None, None) => None,
        (Some(name), Some(value)) => {
            if name.parse::<HeaderName>().is_err() || HeaderValue::from_str(&value).is_err() {
                return Err(Refusal::Order("header and value must be those of an HTTP header".to_owned()));
            }
            Some((name, value))
        }
        _ => return Err(Refusal::Order("header and value go together".to_owned())),
    };
    let mut state = engine.state();
    state.events.target = Some(Target { url, header });
    Ok(state.events.json(0))
}

/// Something happens: the world follows, and the event is posted to the target.
pub(super) async fn order(engine: &Engine, body: &[u8]) -> Answered {
    let order: EventDocument = parse(body)?;
    order.check()?;
    let (deliver, times) = (order.deliver, order.times.unwrap_or(1));
    let (event, target) = happen(engine, order)?;
    let mut deliveries = Vec::new();
    if let Some(target) = target.filter(|_| deliver != Some(false)) {
        for _ in 0..times {
            let delivery = post(&target, &event).await;
            engine.state().events.note(&event, std::slice::from_ref(&delivery));
            deliveries.push(delivery);
        }
    }
    Ok(json!({"event": event, "deliveries": deliveries}))
}

/// The event, which is kept, and the target; the world follows the event if it is true.
fn happen(engine: &Engine, mut order: EventDocument) -> Result<(Value, Option<Target>), Refusal> {
    let mut state = engine.state();
    let target = state.events.target.clone();
    if order.deliver == Some(true) && target.is_none() {
        let text = "there is no target; POST /_emulator/event-target sets one";
        return Err(Refusal::Order(text.to_owned()));
    }
    if let Some(id) = &order.resend {
        let event = state.events.find(id).cloned();
        let event = event
            .ok_or_else(|| format!("there is no event {id:?}; GET /_emulator/events lists the latest"))?;
        return Ok((event, target));
    }
    let Some(kind) = order.event else { return Err(Refusal::NotFound) };
    let now = state.clock.now();
    let world = &state.service.world;
    let (account_id, license) = order.license(world)?;
    if let Some(usable) = kind.usable().filter(|_| order.forged.is_none()) {
        let entitlements = order.entitlements.take();
        let customer = world.provisioned(&account_id, &license, usable, entitlements, now)?;
        state.make(&[Change::Customer { account_id: account_id.clone(), customer }])?;
    }
    let event = order.event(&state.service.world, kind, (&account_id, &license), now);
    state.events.note(&event, &[]);
    Ok((event, target))
}

/// Posts the event as an API destination does, once.
async fn post(target: &Target, event: &Value) -> Value {
    let marked = (HEADER, "1");
    let mut headers = vec![marked];
    headers.extend(target.header.as_ref().map(|(name, value)| (name.as_str(), value.as_str())));
    let ask = Ask { headers: &headers, ..Ask::post("/", event.to_string()) };
    match ask_url(&target.url, ask, DELIVERY_TIMEOUT).await {
        Ok(answer) => {
            let bytes = answer.body();
            let shown = bytes.get(..ANSWER_BYTES_SHOWN).unwrap_or(bytes);
            json!({"status": answer.status().as_u16(), "answer": String::from_utf8_lossy(shown)})
        }
        Err(error) => json!({"error": error.to_string()}),
    }
}
