//! The fourth part of the demo: two pods take all ten seats, a third pod waits for some, and a killed pod finds its own
//! again.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::{Child, Command};

use super::{Facts, PATIENCE, Steps, call, child, listening, local, say, wait_until};
use tollgate_http::client::Ask;

/// The seats in the default world's contract, their dimension, and how many each pod takes.
const SEATS: u64 = 10;
const DIMENSION: &str = "users";
const SEATS_PER_POD: &str = "5";

/// Runs this part; its sidecars end with it.
pub(super) async fn tell(facts: &Facts, folder: &Path, steps: &mut Steps) -> io::Result<()> {
    let mut first = Sidecar::start(facts, folder, "demo-seats-1").await?;
    first.wait_for("entitled").await?;
    let mut second = Sidecar::start(facts, folder, "demo-seats-2").await?;
    second.wait_for("entitled").await?;
    steps.say(&format!(
        "a contract product: {SEATS} seats are sold, two pods hold {SEATS_PER_POD} each; {}",
        taken(facts).await?
    ));
    let mut third = Sidecar::start(facts, folder, "demo-seats-3").await?;
    let document = third.wait_for("exhausted").await?;
    let reason = |name: &str| document["reason"][name].as_str().unwrap_or("?").to_owned();
    steps.say(&format!("a third pod waits: {}: {}", reason("code"), reason("message")));
    say(&format!("      {}", reason("remedy")));
    first.stop().await?;
    third.wait_for("entitled").await?;
    steps.say(&format!(
        "the first pod ends and gives its seats back, the third takes them; {}",
        taken(facts).await?
    ));
    let before = checkout_of(facts, "demo-seats-2").await?;
    second.process.kill().await?;
    let mut second = Sidecar::start(facts, folder, "demo-seats-2").await?;
    second.wait_for("entitled").await?;
    if checkout_of(facts, "demo-seats-2").await? != before {
        return Err(io::Error::other("the pod that was killed did not find its seats again"));
    }
    steps.say(&format!(
        "the second pod is killed and starts again: it finds its own seats; {}",
        taken(facts).await?
    ));
    Ok(())
}

/// A sidecar that holds seats, with a folder of its own.
struct Sidecar {
    process: Child,
    probe: SocketAddr,
}

impl Sidecar {
    async fn start(facts: &Facts, folder: &Path, pod: &str) -> io::Result<Self> {
        let state = folder.join(pod);
        std::fs::create_dir_all(&state)?;
        let (process, started) = listening(&mut command(facts, pod, &state)).await?;
        let probe = started.addr("probe_addr")?;
        started.ignore_the_rest();
        Ok(Self { process, probe })
    }

    async fn wait_for(&mut self, state: &str) -> io::Result<Value> {
        wait_until(self.probe, &mut self.process, |document| document["state"] == state).await
    }

    /// Stops it as the kubelet does.
    async fn stop(mut self) -> io::Result<()> {
        let process = self.process.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        kill_process(process.ok_or_else(|| io::Error::other("the sidecar has ended"))?, Signal::TERM)?;
        let status =
            tokio::time::timeout(PATIENCE, self.process.wait()).await.map_err(io::Error::other)??;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("the sidecar ended: {status}"))) }
    }
}

fn command(facts: &Facts, pod: &str, state: &Path) -> Command {
    let mut command = child(&["run"]);
    command
        .env("TOLLGATE_MODE", "contract")
        .env("TOLLGATE_PRODUCT_ID", &facts.product_id)
        .env("TOLLGATE_LICENSE_MODEL", "floating")
        .env("TOLLGATE_ENTITLEMENTS", DIMENSION)
        .env("TOLLGATE_SEATS_PER_POD", SEATS_PER_POD)
        .env("TOLLGATE_ENDPOINT_URL", &facts.endpoint)
        .env("TOLLGATE_CLOCK", &facts.clock)
        .env("TOLLGATE_PROBE_ADDR", local(0))
        .env("TOLLGATE_APP_ADDR", local(0))
        .env("TOLLGATE_STATE_DIR", state)
        .env("TOLLGATE_POD_UID", pod)
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", pod)
        .env("AWS_SECRET_ACCESS_KEY", "demo");
    command
}

/// How many seats License Manager counts as taken; any number but [`SEATS`] ends the demo.
async fn taken(facts: &Facts) -> io::Result<String> {
    let seats = call(facts.address()?, Ask::get("/_emulator/licenses")).await?;
    let row = |row: &&Value| row["name"] == DIMENSION;
    let contracts = seats["licenses"].as_array().map(Vec::as_slice).unwrap_or_default();
    let rows = contracts.iter().flat_map(|contract| contract["entitlements"].as_array()).flatten();
    let held: u64 = rows.filter(row).filter_map(|row| row["held"].as_u64()).sum();
    if held == SEATS {
        Ok(format!("License Manager counts {held} taken"))
    } else {
        Err(io::Error::other(format!("License Manager counts {held} seats taken, not {SEATS}: {seats}")))
    }
}

/// The identifier of a pod's checkout.
async fn checkout_of(facts: &Facts, pod: &str) -> io::Result<Value> {
    let seats = call(facts.address()?, Ask::get("/_emulator/licenses")).await?;
    let checkouts = seats["checkouts"].as_array().map(Vec::as_slice).unwrap_or_default();
    let own = checkouts.iter().find(|checkout| checkout["pod"] == pod);
    own.map(|own| own["checkout"].clone())
        .ok_or_else(|| io::Error::other(format!("{pod} holds no seat: {seats}")))
}
