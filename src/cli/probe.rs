//! `tollgate probe live|startup|ready`: an exec probe without a shell.
//!
//! Exit 0 while the gate says so, else 1 and one line of at most 512 bytes on standard output: what
//! `kubectl describe pod` shows of a failed exec probe.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use hyper::{Response, StatusCode};
use serde::Deserialize;

use crate::app;
use crate::config::{self, Flags, Installation, ProcessEnvironment};
use crate::entitlement;
use crate::exit::Exit;
use crate::http::Address;
use crate::http::client::{Ask, ClientError, ask};

/// Below the kubelet's default probe timeout of one second, so that the operator reads our line, not "timed out".
const ANSWER_TIMEOUT: Duration = Duration::from_millis(800);

/// What is asked.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Question {
    /// Does the process work?
    Live,
    /// Was the gate ever open?
    Startup,
    /// Is the gate open now?
    Ready,
}

impl Question {
    const fn path(self) -> &'static str {
        match self {
            Self::Live => "/livez",
            Self::Startup => "/startupz",
            Self::Ready => "/readyz",
        }
    }
}

/// Arguments of `probe`.
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// What to ask the sidecar
    question: Question,
    /// Print the whole entitlement document instead of one line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Deserialize)]
struct Shown {
    state: String,
    next_attempt_at: Option<String>,
    reason: Option<ShownReason>,
}

#[derive(Deserialize)]
struct ShownReason {
    code: String,
    message: String,
    remedy: String,
}

/// Asks the sidecar and prints what the operator should read.
#[expect(clippy::print_stdout, reason = "the line on standard output is the product of this command")]
pub fn run(args: &ProbeArgs) -> Exit {
    let address = match config::load_probe(&args.flags, &ProcessEnvironment, &Installation::compiled_in()) {
        Ok(probe) => app::address(&probe.addr),
        Err(faults) => {
            println!("{}", faults.summary());
            return Exit::NotOpen;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            println!("unreachable: Internal: cannot start a runtime: {error}.");
            return Exit::NotOpen;
        }
    };
    match runtime.block_on(question(&address, args.question)) {
        Ok(answer) => {
            if args.json {
                println!("{}", String::from_utf8_lossy(answer.body()));
            }
            if answer.status() == StatusCode::OK {
                return Exit::Done;
            }
            if !args.json {
                println!("{}", line_of(&answer));
            }
        }
        Err(error) => println!("{}", unreachable_line(&address, &error)),
    }
    Exit::NotOpen
}

/// Whether the gate at `address` is open; `Err` is the line to show otherwise.
pub(super) async fn ready(address: &Address) -> Result<(), String> {
    match question(address, Question::Ready).await {
        Ok(answer) if answer.status() == StatusCode::OK => Ok(()),
        Ok(answer) => Err(line_of(&answer)),
        Err(error) => Err(unreachable_line(address, &error)),
    }
}

async fn question(address: &Address, question: Question) -> Result<Response<Bytes>, ClientError> {
    let targets = reachable_at(address);
    let mut result = ask(&targets[0], Ask::get(question.path()), ANSWER_TIMEOUT).await;
    if let (Err(ClientError::Connect { .. }), Some(second)) = (&result, targets.get(1)) {
        result = ask(second, Ask::get(question.path()), ANSWER_TIMEOUT).await;
    }
    result
}

/// Where a server that listens on `address` is reached from the same pod, in the order to try.
fn reachable_at(address: &Address) -> Vec<Address> {
    let Address::Tcp(addr) = address else { return vec![address.clone()] };
    if !addr.ip().is_unspecified() {
        return vec![address.clone()];
    }
    let at = |ip: IpAddr| Address::Tcp(SocketAddr::new(ip, addr.port()));
    vec![at(Ipv4Addr::LOCALHOST.into()), at(Ipv6Addr::LOCALHOST.into())]
}

fn line_of(answer: &Response<Bytes>) -> String {
    match serde_json::from_slice::<Shown>(answer.body()) {
        Ok(shown) => {
            let reason =
                shown.reason.as_ref().map(|r| (r.code.as_str(), r.message.as_str(), r.remedy.as_str()));
            entitlement::line(&shown.state, reason, shown.next_attempt_at.as_deref())
        }
        Err(_) => entitlement::line(
            "unreachable",
            Some((
                "NotTollgate",
                "Something that is not tollgate answers on the probe address.",
                "Check probe_addr against the ports of the pod's other containers.",
            )),
            None,
        ),
    }
}

fn unreachable_line(address: &Address, error: &ClientError) -> String {
    let message = format!("tollgate does not answer on {address} ({error}).");
    let remedy = "Check that its container runs (its log names what it could not start with) and that probe_addr is \
                  the same for both.";
    entitlement::line("unreachable", Some(("ProbeUnreachable", &message, remedy)), None)
}
