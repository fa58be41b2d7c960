//! The second part of the demo: a buyer without a subscription. The gate stays shut, and the sidecar says why.

use std::io;

use serde_json::json;

use super::{ANSWER_TIMEOUT, Facts, Steps, call, command_of_sidecar, listening, say, wait_until};
use tollgate_http::Address;
use tollgate_http::client::{Ask, ask};

/// The account of the default world that is subscribed to nothing.
const ACCOUNT: &str = "444455556666";

const POD: &str = "demo-refused";

/// Runs this part; the sidecar ends with it.
pub(super) async fn tell(facts: &Facts, steps: &mut Steps) -> io::Result<()> {
    let order = json!({"access_key": POD, "account_id": ACCOUNT}).to_string();
    call(facts.address()?, Ask::post("/_emulator/pods", order)).await?;
    let (mut sidecar, started) = listening(&mut command_of_sidecar(facts, POD, 0)).await?;
    let probe_addr = started.addr("probe_addr")?;
    started.ignore_the_rest();
    steps.say(&format!("a buyer who is not subscribed: account {ACCOUNT}, probes at http://{probe_addr}"));
    let document = wait_until(probe_addr, &mut sidecar, |document| document["state"] == "denied").await?;
    let ready = ask(&Address::Tcp(probe_addr), Ask::get("/readyz"), ANSWER_TIMEOUT).await;
    let ready = ready.map_err(io::Error::other)?.status();
    if document["gate"] != "shut" || ready.is_success() {
        return Err(io::Error::other(format!("the gate is open to a buyer who was refused: {document}")));
    }
    let reason = |name: &str| document["reason"][name].as_str().unwrap_or("?").to_owned();
    steps.say(&format!("gate shut: /readyz answers {}, the application does not start", ready.as_u16()));
    say(&format!("      {}: {}", reason("code"), reason("message")));
    say(&format!("      {}", reason("remedy")));
    Ok(())
}
