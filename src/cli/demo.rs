//! `tollgate demo`: runs the emulator and sidecars, each in a process of its own, and shows what happens between them.
//!
//! The sidecars are real ones: they are configured by environment variables as in a pod, and call the emulator over
//! HTTP.

mod refusal;
mod seats;
mod usage;

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use crate::cli::complain;
use crate::cli::screen::Screen;
use crate::config::{Environment as _, OWN_PROGRAM, ProcessEnvironment, setting};
use crate::exit::Exit;
use crate::shutdown::Signals;
use tollgate_clock as clock;
use tollgate_http::Address;
use tollgate_http::client::{Ask, ask};

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// End with exit code 0 after the demonstration, instead of staying up
    #[arg(long)]
    once: bool,
}

/// Timeout of each wait: keys are made within seconds even without optimisation, and registration takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// Pause between two requests to the sidecar.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Timeout of one request. It is long, because a busy machine is slow and only a hang should end the demo.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The default probe port, which the documents' curl lines use.
const USUAL_PROBE_PORT: u16 = 19180;

/// Runs the demo, until its end or a signal.
pub fn run(args: &DemoArgs) -> Exit {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(Exit::Internal, &format!("cannot start a runtime: {error}")),
    };
    runtime.block_on(async {
        let mut signals = match Signals::new() {
            Ok(signals) => signals,
            Err(error) => {
                return complain(Exit::Internal, &format!("cannot install signal handlers: {error}"));
            }
        };
        tokio::select! {
            told = tell(args.once) => match told {
                Ok(()) => Exit::Done,
                Err(error) => complain(Exit::Internal, &format!("the demo failed: {error}")),
            },
            _ = signals.next() => Exit::Done,
        }
    })
}

/// What the emulator prints when it is ready.
#[derive(serde::Deserialize)]
struct Facts {
    endpoint: String,
    product_code: String,
    product_id: String,
    public_key_version: i32,
    public_keys: String,
    clock: String,
}

impl Facts {
    fn address(&self) -> io::Result<SocketAddr> {
        self.endpoint.trim_start_matches("http://").parse().map_err(io::Error::other)
    }
}

async fn call(addr: SocketAddr, question: Ask<'_>) -> io::Result<Value> {
    let answer = ask(&Address::Tcp(addr), question, ANSWER_TIMEOUT).await.map_err(io::Error::other)?;
    Ok(serde_json::from_slice(answer.body())?)
}

async fn tell(once: bool) -> io::Result<()> {
    let started = clock::monotonic();
    let mut steps = Steps::default();
    say("tollgate demo: AWS's services (emulated) and the sidecar, each a process of its own");
    steps.say("emulator: making an RSA-3072 key, as large as AWS's …");
    let folder = tempfile::tempdir()?;
    let (_emulator, facts) = start_emulator(folder.path()).await?;
    say(&format!("      ready at {} with product {}", facts.endpoint, facts.product_code));
    let (mut sidecar, probe_addr) = start_sidecar(&facts).await?;
    steps.say(&format!("sidecar: tollgate run, probes at http://{probe_addr}"));
    let document = wait_until_open(probe_addr, &mut sidecar).await?;
    tell_the_call(&facts, &mut steps).await?;
    let text = |name: &str| document[name].as_str().unwrap_or_default().to_owned();
    steps.say(&format!(
        "verified: PS256 signature, product code, nonce and key version, against {}/{}.pem",
        facts.public_keys, facts.public_key_version
    ));
    steps.say(&format!(
        "gate {} at {}: state {}, proof {}, attempts {}, emulated {}",
        text("gate"),
        text("since"),
        text("state"),
        text("proof"),
        document["attempts"],
        document["emulated"]
    ));
    let took = clock::monotonic().duration_since(started);
    say(&format!("The gate is open, {} ms after the demo began.", took.as_millis()));
    refusal::tell(&facts, &mut steps).await?;
    usage::tell(&facts, folder.path(), &mut steps).await?;
    seats::tell(&facts, folder.path(), &mut steps).await?;
    if once {
        return Ok(());
    }
    say("");
    say("The demo keeps running. Try in another terminal, and end it with Ctrl-C:");
    say(&format!("  curl -i http://{probe_addr}/readyz         # what the kubelet asks"));
    say(&format!("  curl -s http://{probe_addr}/entitlement    # state, proof and reason"));
    say(&format!("  curl -s http://{probe_addr}/metrics"));
    say(&format!("  curl -s {}/_emulator/calls       # what AWS would have seen", facts.endpoint));
    say(&format!("  curl -s {}/_emulator/ledger      # what AWS would bill", facts.endpoint));
    say(&format!("  curl -s {}/_emulator/licenses    # who holds which seats", facts.endpoint));
    say(&format!("  {}/                              # the same for a browser", facts.endpoint));
    let status = sidecar.wait().await?;
    Err(io::Error::other(format!("the sidecar ended: {status}")))
}

/// Prints one line. If the reader has gone (`| head`, a closed terminal), the demo ends as by a signal, and its
/// processes end with it.
fn say(line: &str) {
    let text = line.trim_start();
    let indent = line.len() - text.len();
    let line = format!("{:indent$}{}", "", Screen::of_stdout().wrapped(text, indent));
    let mut out = io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM);
    }
}

/// Numbers the steps of the demo.
#[derive(Debug, Default)]
struct Steps(u32);

impl Steps {
    fn say(&mut self, text: &str) {
        self.0 += 1;
        say(&format!("{:>4}. {text}", self.0));
    }
}

/// A child that sees none of the caller's AWS and tollgate settings, and ends with the demo.
fn child(arguments: &[&str]) -> Command {
    let mut command = Command::new(OWN_PROGRAM);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    for name in ProcessEnvironment.names() {
        if name.starts_with(setting::ENV_PREFIX) || name.starts_with("AWS_") {
            command.env_remove(name);
        }
    }
    command
}

async fn start_emulator(folder: &Path) -> io::Result<(Child, Facts)> {
    let state = folder.join("emulator");
    let mut command = child(&["emulator", "--addr", "127.0.0.1:0", "--json"]);
    let mut emulator = command.arg("--state").arg(&state).stdout(Stdio::piped()).spawn()?;
    let stdout = emulator.stdout.take().ok_or_else(|| io::Error::other("the emulator has no output"))?;
    let first = tokio::time::timeout(PATIENCE, BufReader::new(stdout).lines().next_line()).await;
    match first {
        Ok(Ok(Some(line))) => Ok((emulator, serde_json::from_str(&line)?)),
        _ => Err(io::Error::other("the emulator did not start; its own message is above")),
    }
}

/// Starts the sidecar on the default probe port, or on any free port if that one is taken. The sidecar itself tries the
/// port: another process could take a port that was only tested here.
async fn start_sidecar(facts: &Facts) -> io::Result<(Child, SocketAddr)> {
    let usual = listening(&mut command_of_sidecar(facts, "demo-pod", USUAL_PROBE_PORT)).await;
    let (sidecar, started) = match usual {
        Ok(started) => started,
        Err(_) => listening(&mut command_of_sidecar(facts, "demo-pod", 0)).await?,
    };
    let probe_addr = started.addr("probe_addr")?;
    started.ignore_the_rest();
    Ok((sidecar, probe_addr))
}

fn command_of_sidecar(facts: &Facts, pod: &str, probe_port: u16) -> Command {
    let mut command = child(&["run"]);
    command
        .env("TOLLGATE_PRODUCT_CODE", &facts.product_code)
        .env("TOLLGATE_PUBLIC_KEYS", &facts.public_keys)
        .env("TOLLGATE_ENDPOINT_URL", &facts.endpoint)
        .env("TOLLGATE_CLOCK", &facts.clock)
        .env("TOLLGATE_PROBE_ADDR", local(probe_port))
        .env("TOLLGATE_APP_ADDR", local(0))
        .env("TOLLGATE_STATE_DIR", "none")
        .env("TOLLGATE_POD_UID", pod)
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", pod)
        .env("AWS_SECRET_ACCESS_KEY", "demo");
    command
}

fn local(port: u16) -> String {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port)).to_string()
}

/// The line that a sidecar logged when its ports were bound, and the rest of its log.
struct Started {
    line: Value,
    log: Lines<BufReader<ChildStderr>>,
}

impl Started {
    fn addr(&self, name: &str) -> io::Result<SocketAddr> {
        self.line[name].as_str().unwrap_or_default().parse().map_err(io::Error::other)
    }

    /// Reads the rest of the log, because a full pipe would block the sidecar.
    fn ignore_the_rest(mut self) {
        tokio::spawn(async move { while let Ok(Some(_)) = self.log.next_line().await {} });
    }
}

/// Starts a sidecar and waits until its ports are bound.
async fn listening(command: &mut Command) -> io::Result<(Child, Started)> {
    let mut sidecar = command.env("TOLLGATE_LOG_FORMAT", "json").stderr(Stdio::piped()).spawn()?;
    let log = sidecar.stderr.take().ok_or_else(|| io::Error::other("the sidecar has no log"))?;
    let mut log = BufReader::new(log).lines();
    let mut last = String::new();
    let bound = async {
        while let Some(text) = log.next_line().await? {
            let line: Value = serde_json::from_str(&text).unwrap_or_default();
            if line["event"] == "started" {
                return Ok(line);
            }
            last = text;
        }
        Err(io::Error::other(format!("the sidecar ended: {last}")))
    };
    let line = tokio::time::timeout(PATIENCE, bound).await.map_err(io::Error::other)??;
    Ok((sidecar, Started { line, log }))
}

/// The entitlement document once the gate is open, or why it does not open.
async fn wait_until_open(probe_addr: SocketAddr, sidecar: &mut Child) -> io::Result<Value> {
    let mut shown = String::new();
    wait_until(probe_addr, sidecar, |document| {
        let open = document["gate"] == "open";
        let reason = document["reason"]["message"].as_str().unwrap_or("waiting for the first answer");
        if !open && reason != shown {
            say(&format!("      gate shut: {reason} …"));
            reason.clone_into(&mut shown);
        }
        open
    })
    .await
}

/// The entitlement document once it has the expected content.
async fn wait_until(
    probe_addr: SocketAddr,
    sidecar: &mut Child,
    mut fits: impl FnMut(&Value) -> bool,
) -> io::Result<Value> {
    let started = clock::monotonic();
    loop {
        let answer = ask(&Address::Tcp(probe_addr), Ask::get("/entitlement"), ANSWER_TIMEOUT).await;
        let document: Value =
            answer.ok().and_then(|a| serde_json::from_slice(a.body()).ok()).unwrap_or_default();
        if fits(&document) {
            return Ok(document);
        }
        if let Some(status) = sidecar.try_wait()? {
            return Err(io::Error::other(format!("the sidecar ended: {status}")));
        }
        if clock::monotonic().duration_since(started) > PATIENCE {
            return Err(io::Error::other(format!("the gate did not reach the expected state: {document}")));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Prints the call and its answer, as the emulator recorded them.
async fn tell_the_call(facts: &Facts, steps: &mut Steps) -> io::Result<()> {
    let calls = call(facts.address()?, Ask::get("/_emulator/calls")).await?;
    let call = calls["calls"].as_array().and_then(|calls| calls.last()).cloned().unwrap_or_default();
    let nonce = call["request"]["Nonce"].as_str().unwrap_or_default();
    steps.say(&format!(
        "nonce sent: RegisterUsage, product {}, key version {}, nonce {nonce}",
        call["request"]["ProductCode"].as_str().unwrap_or_default(),
        call["request"]["PublicKeyVersion"]
    ));
    let token = call["answer"]["Signature"].as_str().unwrap_or_default();
    let part = |index: usize| {
        let bytes = token.split('.').nth(index).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
        String::from_utf8(bytes.unwrap_or_default()).unwrap_or_default()
    };
    steps.say(&format!("token received: {} bytes, header {}, claims {}", token.len(), part(0), part(1)));
    Ok(())
}
