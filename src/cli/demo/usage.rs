//! The third part of the demo: usage is reported, an hour passes on the emulator's clock, and the bill equals it.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};
use tokio::process::Child;

use super::{Facts, LOOK_EVERY, PATIENCE, Steps, call, child, listening, local, say};
use tollgate_clock as clock;
use tollgate_http::client::Ask;

/// The usage that the demo reports.
const EVENTS: [(&str, &str); 4] =
    [("requests", "120"), ("gigabytes", "0.75"), ("requests", "30"), ("gigabytes", "1.250001")];

/// Longer than the rest of the hour, its `settle` and the longest delay of a pod.
const AN_HOUR_AND_ALL: &str = "75m";

/// Runs this part; the sidecar ends with it.
pub(super) async fn tell(facts: &Facts, folder: &Path, steps: &mut Steps) -> io::Result<()> {
    let (_sidecar, app) = start(facts, folder).await?;
    steps.say(&format!("a metered product: tollgate run, application at http://{app}"));
    for (dimension, quantity) in EVENTS {
        let event = json!({"dimension": dimension, "quantity": quantity}).to_string();
        let answer = call(app, Ask::post("/v1/usage", event)).await?;
        let status = &answer["results"][0]["status"];
        say(&format!("      POST /v1/usage {quantity} {dimension}: {}", status.as_str().unwrap_or("?")));
    }
    let emulator = facts.address()?;
    let order = json!({"advance": AN_HOUR_AND_ALL}).to_string();
    let now = call(emulator, Ask::post("/_emulator/clock", order)).await?["now"].clone();
    steps.say(&format!("the hour passes: the emulator's clock shows {}", now.as_str().unwrap_or("?")));
    let reconciled = wait_until_billed(app).await?;
    let bill = call(emulator, Ask::get("/_emulator/ledger?product_code=demometered")).await?;
    steps.say("the bill:");
    let empty = Vec::new();
    for row in reconciled["dimensions"].as_array().unwrap_or(&empty) {
        let totals = bill["totals"].as_array().unwrap_or(&empty);
        let billed = totals.iter().find(|total| total["dimension"] == row["dimension"]);
        let billed = billed.map_or(&Value::Null, |total| &total["quantity"]);
        if billed != &row["accepted"] {
            return Err(io::Error::other(format!("the bill is {billed}, acknowledged was {row}")));
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        say(&format!(
            "      {}: acknowledged {}, on AWS's bill {}: equal",
            text(&row["dimension"]),
            text(&row["accepted"]),
            text(billed)
        ));
    }
    Ok(())
}

async fn start(facts: &Facts, folder: &Path) -> io::Result<(Child, SocketAddr)> {
    let state = folder.join("metered");
    std::fs::create_dir(&state)?;
    let mut command = child(&["run"]);
    command
        .env("TOLLGATE_MODE", "metered")
        .env("TOLLGATE_PRODUCT_CODE", "demometered")
        .env("TOLLGATE_DIMENSIONS", "requests,gigabytes")
        .env("TOLLGATE_ENDPOINT_URL", &facts.endpoint)
        .env("TOLLGATE_CLOCK", &facts.clock)
        .env("TOLLGATE_PROBE_ADDR", local(0))
        .env("TOLLGATE_APP_ADDR", local(0))
        .env("TOLLGATE_STATE_DIR", state)
        .env("TOLLGATE_POD_UID", "demo-metered")
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", "demo-metered")
        .env("AWS_SECRET_ACCESS_KEY", "demo");
    let (sidecar, mut started) = listening(&mut command).await?;
    let app = started.addr("app_addr")?;
    let open = async {
        while let Some(line) = started.log.next_line().await? {
            let line: Value = serde_json::from_str(&line).unwrap_or_default();
            if line["event"] == "state" && line["state"] == "entitled" {
                return Ok(());
            }
        }
        Err(io::Error::other("the sidecar for the metered product ended"))
    };
    tokio::time::timeout(PATIENCE, open).await.map_err(io::Error::other)??;
    started.ignore_the_rest();
    Ok((sidecar, app))
}

/// The balance once AWS has accepted all usage.
async fn wait_until_billed(app: SocketAddr) -> io::Result<Value> {
    let started = clock::monotonic();
    loop {
        let balance = call(app, Ask::get("/v1/reconciliation")).await?;
        let rows = balance["dimensions"].as_array().map(Vec::as_slice).unwrap_or_default();
        if !rows.is_empty() && rows.iter().all(|row| row["pending"] == "0") {
            return Ok(balance);
        }
        if clock::monotonic().duration_since(started) > PATIENCE {
            return Err(io::Error::other(format!("usage stays unbilled: {balance}")));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
