//! The text follows the published fact and the clock, and is made once for each fact.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::entitlement::proof::Contract;
use crate::entitlement::{self, Publisher, Rejected, Shown, Standing};
use tollgate_marketplace::FaultClass;

const START: Timestamp = Timestamp::from_unix_seconds(1_795_507_200);

fn published() -> (Publisher, WallClock, Documents) {
    let (publisher, entitlement) = entitlement::channel(START);
    let subject = Subject {
        mode: "hourly",
        product_code: Some("demohourly".parse().unwrap()),
        product_id: None,
        pod: Some("pod \"1\"".to_owned()),
    };
    let clock = WallClock::fixed(START);
    (publisher, clock.clone(), Documents::new(Arc::new(subject), entitlement, clock))
}

fn standing(state: State) -> Standing {
    let reason = Reason::known("NoEntropy", FaultClass::Transient);
    let proof = Arc::new(Proof::License(Contract::of(None, false)));
    match state {
        State::Pending => Standing::Pending(None),
        State::Entitled => Standing::Entitled(proof, None),
        State::Grace => Standing::Grace(reason, START),
        State::Lapsed => Standing::Lapsed(proof, reason),
        State::Denied => Standing::Denied(reason),
        State::Exhausted => Standing::Exhausted(reason),
        State::Unreported => Standing::Unreported(reason),
        State::Misconfigured => Standing::Misconfigured(Rejected::Caller, reason),
        State::Unverified => Standing::Unverified(reason),
        State::Unavailable => Standing::Unavailable(reason),
    }
}

fn fact(standing: Standing) -> Arc<Entitlement> {
    Arc::new(Entitlement::of(standing, Shown::at(START)))
}

fn shown(documents: &Documents) -> Value {
    serde_json::from_str(&documents.latest().at(documents.now())).unwrap()
}

#[test]
fn each_transition_between_states_is_in_the_next_answer() {
    let (publisher, _, documents) = published();
    for before in State::ALL {
        for after in State::ALL {
            for state in [before, after] {
                publisher.send_replace(fact(standing(state)));
                let shown = shown(&documents);
                assert_eq!(shown["state"], state.as_str(), "from {before:?} to {after:?}");
                assert_eq!(shown["gate"], if state.gate_open() { "open" } else { "shut" });
                let code = standing(state).reason().map(|reason| reason.code.as_str().to_owned());
                assert_eq!(shown["reason"]["code"], json!(code));
            }
        }
    }
}

#[test]
fn a_change_of_any_member_of_the_fact_is_in_the_next_answer() {
    let (publisher, _, documents) = published();
    let first = Entitlement::of(standing(State::Entitled), Shown::at(START));
    let later = START.plus(Duration::from_secs(7));
    let changes: [(&str, Entitlement); 7] = [
        ("attempts", Entitlement { attempts: 1, ..first.clone() }),
        ("since", Entitlement { since: later, ..first.clone() }),
        ("next_attempt_at", Entitlement { next_attempt_at: Some(later), ..first.clone() }),
        ("region", Entitlement { region: Some("us-east-1".parse().unwrap()), ..first.clone() }),
        (
            "public_key_version",
            Entitlement { public_key_version: Some("1".parse().unwrap()), ..first.clone() },
        ),
        (
            "public_key_rotation_timestamp",
            Entitlement { public_key_rotation_timestamp: Some(later), ..first.clone() },
        ),
        ("emulated", Entitlement { emulated: true, ..first.clone() }),
    ];
    for (member, changed) in changes {
        publisher.send_replace(Arc::new(first.clone()));
        let before = shown(&documents);
        publisher.send_replace(Arc::new(changed));
        let after = shown(&documents);
        assert_ne!(before[member], after[member], "{member}");
    }
}

#[test]
fn the_text_is_made_once_for_each_fact_and_its_time_is_that_of_the_answer() {
    let (publisher, clock, documents) = published();
    publisher.send_replace(fact(standing(State::Denied)));
    let (first, shared) = (documents.latest(), documents.clone());
    assert!(shown(&documents)["now"] == "2026-11-24T08:00:00Z", "{}", shown(&documents));
    clock.advance(Duration::from_secs(90));
    assert_eq!(shown(&shared)["now"], "2026-11-24T08:01:30Z");
    assert!(Arc::ptr_eq(&first, &shared.latest()), "made for the application's server too");
    // An equal fact is another one: whether it differs is not compared.
    publisher.send_replace(fact(standing(State::Denied)));
    assert!(!Arc::ptr_eq(&first, &documents.latest()));
}

#[test]
fn without_a_signature_token_and_nonce_are_null() {
    let (publisher, _, documents) = published();
    publisher.send_replace(fact(standing(State::Entitled)));
    let mut with_proof: Value =
        serde_json::from_str(&documents.latest().with_proof_at(documents.now())).unwrap();
    let members = with_proof.as_object_mut().unwrap();
    assert_eq!((members.remove("token"), members.remove("nonce")), (Some(Value::Null), Some(Value::Null)));
    assert_eq!(with_proof, shown(&documents), "otherwise the same");
}
