//! `tollgate probe live|startup|ready`: an exec probe without a shell.
//!
//! Exit code 0 if the answer is yes (`ready` also prints a line), else 1 and one line of at most 512 bytes on standard
//! output, which `kubectl describe pod` shows for a failed exec probe.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use hyper::header::{CONTENT_TYPE, HeaderName, SERVER};
use hyper::{Response, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use crate::app;
use crate::cli::screen::print;
use crate::config::{self, Flags, Installation, ProcessEnvironment};
use crate::entitlement::{self, State};
use crate::exit::Exit;
use crate::program;
use tollgate_http::Address;
use tollgate_http::client::{Ask, ClientError, ask};
use tollgate_time::Timestamp;

/// Below the kubelet's default probe timeout of one second, so that the operator reads our line instead of "timed out".
const ANSWER_TIMEOUT: Duration = Duration::from_millis(800);

/// Which probe of the sidecar to ask.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ProbeKind {
    /// Does the process work?
    Live,
    /// Was the gate ever open?
    Startup,
    /// Is the gate open now?
    Ready,
}

impl ProbeKind {
    const fn path(self) -> &'static str {
        match self {
            // `/livez` answers only "ok", as other servers do, so it would not show that tollgate answers.
            Self::Live => "/entitlement",
            Self::Startup => "/startupz",
            Self::Ready => "/readyz",
        }
    }
}

/// Arguments of `probe`.
#[derive(Debug, Args)]
#[command(mut_args(|arg| { let read = READ.contains(&arg.get_id().as_str()); arg.hide(!read) }))]
pub struct ProbeArgs {
    /// What to ask the sidecar
    question: ProbeKind,
    /// Print the whole entitlement document instead of one line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags,
}

/// The settings that `probe` and `await` read, and their own arguments: their help lists these.
pub(super) const READ: [&str; 7] =
    ["question", "json", "timeout", "refused_after", "command", "config", "probe_addr"];

/// tollgate's own document; a document without one of the required members is not tollgate's.
#[derive(Deserialize)]
struct Shown {
    state: String,
    gate: String,
    mode: String,
    /// The product code; in mode `contract` the product ID.
    #[serde(rename = "product_code", alias = "product_id")]
    product: String,
    version: String,
    pod: Option<String>,
    next_attempt_at: Option<String>,
    since: Option<String>,
    /// Since 0.2.0.
    now: Option<String>,
    reason: Option<ShownReason>,
}

/// Why the gate is shut.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct ShownReason {
    pub(super) code: String,
    message: String,
    remedy: String,
}

/// The line about a gate that counts as open.
pub(super) fn gate_is_open() -> String {
    format!("the gate is open{}", program::mark())
}

impl ShownReason {
    pub(super) fn new(code: &str, message: &str, remedy: &str) -> Self {
        let [code, message, remedy] = [code, message, remedy].map(str::to_owned);
        Self { code, message, remedy }
    }
}

/// Asks the sidecar and prints what the operator should read.
pub fn run(args: &ProbeArgs) -> Exit {
    let gate = match config::load_probe(&args.flags, &ProcessEnvironment, &Installation::compiled_in()) {
        Ok(probe) => Gate::of(&probe),
        Err(faults) => {
            return print(&faults.summary(), Exit::NotOpen);
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return print(&format!("unreachable: Internal: cannot start a runtime: {error}."), Exit::NotOpen);
        }
    };
    let (answer, said) = runtime.block_on(gate.ask(args.question));
    let (exit, line) = match said {
        Ok(()) => (Exit::Done, matches!(args.question, ProbeKind::Ready).then(gate_is_open)),
        Err(shut) => (Exit::NotOpen, Some(shut.line)),
    };
    match (args.json.then_some(answer).flatten(), line) {
        (Some(answer), _) => print(&String::from_utf8_lossy(answer.body()), exit),
        (None, Some(line)) => print(&line, exit),
        (None, None) => exit,
    }
}

/// The answer about a gate that does not count as open.
#[derive(Debug, Clone)]
pub(super) struct Shut {
    /// The reason alone, without the parts of the line that change with every attempt.
    pub(super) reason: Option<ShownReason>,
    /// The line to show.
    pub(super) line: String,
    /// Set if the gate stays shut until somebody acts.
    pub(super) refusal: Option<Refusal>,
}

/// A refusal that the sidecar reports.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refusal {
    /// How a process ends that gives up because of it.
    pub(super) exit: Exit,
    /// How long the sidecar has been in this state.
    pub(super) age: Duration,
}

/// The gate to ask about.
#[derive(Debug)]
pub(super) struct Gate {
    address: Address,
    /// The pod that the answer must name, if it is known.
    pod_uid: Option<String>,
}

impl Gate {
    /// The gate of this pod.
    pub(super) fn of(probe: &config::Probe) -> Self {
        Self { address: app::address(&probe.addr), pod_uid: probe.pod_uid.clone() }
    }

    /// `Ok` if the gate is open; otherwise the answer.
    pub(super) async fn ready(&self) -> Result<(), Shut> {
        self.ask(ProbeKind::Ready).await.1
    }

    /// A page of the probe server; `Err` is the line to show instead.
    pub(super) async fn get(&self, path: &str, timeout: Duration) -> Result<Response<Bytes>, String> {
        let answer = request(&self.address, path, timeout).await;
        answer.map_err(|error| unreachable(&self.address, &error).line)
    }

    /// tollgate's own document about this pod, whole; `Err` is the line to show instead.
    pub(super) async fn entitlement(&self, timeout: Duration) -> Result<Value, String> {
        let answer = self.get("/entitlement", timeout).await?;
        own_document(&answer, self).map_err(|shut| shut.line)?;
        serde_json::from_slice(answer.body()).map_err(|_| stranger(self, &answer).line)
    }

    /// The answer, if there is one, and what it means.
    async fn ask(&self, asked: ProbeKind) -> (Option<Response<Bytes>>, Result<(), Shut>) {
        match request(&self.address, asked.path(), ANSWER_TIMEOUT).await {
            Ok(answer) => {
                let said = judge(asked, &answer, self);
                (Some(answer), said)
            }
            Err(error) => (None, Err(unreachable(&self.address, &error))),
        }
    }
}

/// Only tollgate's own document counts, and only about this pod: any other answer on the address proves nothing.
fn own_document(answer: &Response<Bytes>, gate: &Gate) -> Result<Shown, Shut> {
    let shown = serde_json::from_slice::<Shown>(answer.body()).ok().filter(Shown::agrees);
    let shown = shown.ok_or_else(|| stranger(gate, answer))?;
    if gate.pod_uid.is_some() && shown.pod != gate.pod_uid {
        return Err(other_pod(gate, &shown));
    }
    Ok(shown)
}

fn judge(asked: ProbeKind, answer: &Response<Bytes>, gate: &Gate) -> Result<(), Shut> {
    let ok = answer.status() == StatusCode::OK;
    let shown = own_document(answer, gate)?;
    let yes = match asked {
        ProbeKind::Live => true,
        // The gate was open once; it may be shut now.
        ProbeKind::Startup => ok,
        ProbeKind::Ready => ok && shown.gate == "open",
    };
    if yes { Ok(()) } else { Err(shown.shut()) }
}

async fn request(address: &Address, path: &str, timeout: Duration) -> Result<Response<Bytes>, ClientError> {
    let targets = reachable_at(address);
    let mut result = ask(&targets[0], Ask::get(path), timeout).await;
    if let (Err(ClientError::Connect { .. }), Some(second)) = (&result, targets.get(1)) {
        result = ask(second, Ask::get(path), timeout).await;
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

impl Shown {
    /// Whether the gate is what the state implies. A state that this version does not know implies a shut gate.
    fn agrees(&self) -> bool {
        let open = State::named(&self.state).is_some_and(State::gate_open);
        self.gate == if open { "open" } else { "shut" }
    }

    fn shut(&self) -> Shut {
        let reason = self.reason.as_ref().map(|r| (r.code.as_str(), r.message.as_str(), r.remedy.as_str()));
        Shut {
            reason: self.reason.clone(),
            line: entitlement::line(&self.state, reason, self.next_attempt_at.as_deref()),
            refusal: State::named(&self.state).filter(|state| state.is_refusal()).and_then(|state| {
                // Both times are by the sidecar's own clock, which may differ from this process's.
                let [now, since] = [&self.now, &self.since].map(|at| Timestamp::parse(at.as_ref()?));
                Some(Refusal { exit: state.exit(), age: now?.since(since?) })
            }),
        }
    }
}

/// Longest part of another program's header that is shown.
const HEADER_SHOWN: usize = 40;

/// An answer from which the gate's state is not known, or no answer.
fn unheard(code: &'static str, message: &str, remedy: &str) -> Shut {
    let line = entitlement::line("unreachable", Some((code, message, remedy)), None);
    Shut { reason: Some(ShownReason::new(code, message, remedy)), line, refusal: None }
}

fn stranger(gate: &Gate, answer: &Response<Bytes>) -> Shut {
    let header = |name: HeaderName| {
        let text = answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("none");
        text.chars().take(HEADER_SHOWN).collect::<String>()
    };
    let message = format!(
        "Something that is not tollgate answers on {}: HTTP {}, Server {}, Content-Type {}.",
        gate.address,
        answer.status().as_u16(),
        header(SERVER),
        header(CONTENT_TYPE)
    );
    let remedy = "Check probe_addr against the ports of the pod's other containers.";
    unheard("NotTollgate", &message, remedy)
}

fn other_pod(gate: &Gate, shown: &Shown) -> Shut {
    let message = format!(
        "The tollgate {} of pod {} answers on {} (mode {}, product {}), and this is pod {}.",
        shown.version,
        shown.pod.as_deref().unwrap_or("unknown"),
        gate.address,
        shown.mode,
        shown.product,
        gate.pod_uid.as_deref().unwrap_or_default(),
    );
    let remedy = "Give both containers the same TOLLGATE_POD_UID (metadata.uid), and check probe_addr on host \
                  networks.";
    unheard("AnotherPod", &message, remedy)
}

fn unreachable(address: &Address, error: &ClientError) -> Shut {
    let message = format!("tollgate does not answer on {address} ({error}).");
    let remedy = "Check that its container runs (its log names what it could not start with) and that probe_addr is \
                  the same for both.";
    unheard("ProbeUnreachable", &message, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Response<Bytes> {
        Response::builder()
            .status(status)
            .header("server", "nginx")
            .body(Bytes::from(body.to_owned()))
            .unwrap()
    }

    fn document(state: &str, gate: &str, pod: &str) -> String {
        format!(
            r#"{{"state":"{state}","gate":"{gate}","mode":"hourly","product_code":"p","version":"1","pod":{pod}}}"#
        )
    }

    #[test]
    fn only_tollgates_own_word_about_this_pod_opens() {
        let gate = |pod: Option<&str>| Gate {
            address: Address::Tcp("127.0.0.1:1".parse().unwrap()),
            pod_uid: pod.map(ToOwned::to_owned),
        };
        let open = document("entitled", "open", "\"a\"");
        let anonymous = document("entitled", "open", "null");
        let shut = document("denied", "shut", "\"a\"");
        for (asked, status, body, pod, said) in [
            (ProbeKind::Ready, 200, open.as_str(), None, ""),
            (ProbeKind::Ready, 200, &open, Some("a"), ""),
            (ProbeKind::Ready, 200, &open, Some("b"), "AnotherPod"),
            (ProbeKind::Ready, 200, &anonymous, None, ""),
            (ProbeKind::Ready, 200, &anonymous, Some("a"), "AnotherPod"),
            (ProbeKind::Ready, 200, &shut, Some("a"), "denied: "),
            (ProbeKind::Ready, 503, &open, None, "entitled: "),
            (ProbeKind::Ready, 200, "<html>", None, "HTTP 200, Server nginx, Content-Type none"),
            (ProbeKind::Ready, 200, "{}", None, "NotTollgate"),
            (ProbeKind::Ready, 200, r#"{"gate":"open"}"#, None, "NotTollgate"),
            (ProbeKind::Ready, 200, "", None, "NotTollgate"),
            (ProbeKind::Ready, 404, "no", None, "HTTP 404"),
            (ProbeKind::Startup, 200, &shut, Some("a"), ""),
            (ProbeKind::Startup, 200, &shut, Some("b"), "AnotherPod"),
            (ProbeKind::Startup, 503, &shut, None, "denied: "),
            (ProbeKind::Startup, 200, "ok", None, "NotTollgate"),
            (ProbeKind::Live, 200, "ok\n", Some("a"), "NotTollgate"),
            (ProbeKind::Live, 403, &shut, Some("a"), ""),
            (ProbeKind::Live, 200, &open, Some("b"), "AnotherPod"),
            (ProbeKind::Live, 200, &document("denied", "open", "\"a\""), Some("a"), "NotTollgate"),
            (ProbeKind::Ready, 200, &document("denied", "open", "\"a\""), Some("a"), "NotTollgate"),
            (ProbeKind::Startup, 200, &document("denied", "open", "\"a\""), Some("a"), "NotTollgate"),
            (ProbeKind::Ready, 200, &document("sold_out", "open", "\"a\""), Some("a"), "NotTollgate"),
            (ProbeKind::Live, 200, "<html>", None, "NotTollgate"),
            (ProbeKind::Live, 500, "ok", None, "NotTollgate"),
        ] {
            match judge(asked, &answer(status, body), &gate(pod)) {
                Ok(()) => assert_eq!(said, "", "{asked:?} {status} {body}"),
                Err(Shut { line, .. }) => {
                    assert!(!said.is_empty() && line.contains(said), "{asked:?} {status} {body}: {line}");
                    assert!(line.len() <= entitlement::LINE_BYTES_MAX, "{line}");
                }
            }
        }
    }
}
