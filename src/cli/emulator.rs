//! `tollgate emulator`: a local stand-in for AWS's metering and entitlement services, License Manager, STS and
//! the ECS agent.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tokio::sync::watch;

use crate::cli::complain;
use crate::exit::Exit;
use crate::shutdown::Signals;
use tollgate_disk::{Links, describe, read_regular};
use tollgate_emulator::{DEFAULT_WORLD, Emulator, Facts, Jwks, Options, StartError, WebIdentity};
use tollgate_http::Address;
use tollgate_http::client::{Ask, ask};

/// Arguments of `emulator`.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct EmulatorArgs {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8090")]
    addr: SocketAddr,
    /// The folder that keeps keys, bill, world and clock over restarts; without it they are lost when the process ends
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// A separate folder for the signing keys, which several emulators may share [default: --state]
    #[arg(long, value_name = "DIR")]
    keys: Option<PathBuf>,
    /// A file (TOML) with products, customers and pods, instead of the default world
    #[arg(long, value_name = "FILE")]
    world: Option<PathBuf>,
    /// Print the default world, to start your own from, and exit
    #[arg(long)]
    print_world: bool,
    /// Choose how the emulator behaves where AWS's documents are unclear; GET /_emulator/switches lists the switches.
    /// Repeatable
    #[arg(long, value_name = "NAME=ANSWER", value_parser = parse_switch)]
    switch: Vec<(String, String)>,
    /// Throttle as AWS does: 5 RegisterUsage and 10 of each other call a second for each account and region
    #[arg(long)]
    quotas: bool,
    /// The only access key to accept; its signatures are verified against --secret-key
    #[arg(long, value_name = "KEY", requires = "secret_key")]
    access_key: Option<String>,
    /// The secret of --access-key
    #[arg(long, value_name = "SECRET", requires = "access_key")]
    secret_key: Option<String>,
    /// Verify web identity tokens (IRSA) against this JSON Web Key Set, a file or an http:// URL; it is read again
    /// for each token. Without it STS accepts every well-formed token
    #[arg(long, value_name = "FILE|URL", value_parser = Jwks::parse)]
    web_identity_jwks: Option<Jwks>,
    /// The issuer of those tokens [default: any]
    #[arg(long, value_name = "URL", requires = "web_identity_jwks")]
    web_identity_issuer: Option<String>,
    /// The audience of those tokens
    #[arg(long, value_name = "NAME", default_value = "sts.amazonaws.com", requires = "web_identity_jwks")]
    web_identity_audience: String,
    /// The Authorization header that /v2/credentials requires (AWS_CONTAINER_AUTHORIZATION_TOKEN) [default: none]
    #[arg(long, value_name = "TOKEN")]
    container_token: Option<String>,
    /// The seed of random faults: the same seed gives the same faults
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Print one line of JSON when ready, for scripts
    #[arg(long)]
    json: bool,
    /// Ask the emulator at --addr whether it is ready, and exit with 0 or 1; for health checks
    #[arg(long)]
    ready: bool,
}

const AFTER_HELP: &str = "\
Point any AWS SDK at it; every access key is one pod:
  export AWS_ENDPOINT_URL_MARKETPLACE_METERING=http://127.0.0.1:8090
  export AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=pod-1 AWS_SECRET_ACCESS_KEY=any
  aws meteringmarketplace register-usage --product-code demohourly --public-key-version 1
  export AWS_ENDPOINT_URL_LICENSE_MANAGER=http://127.0.0.1:8090
  aws license-manager list-received-licenses

The world without --world: products demohourly (RegisterUsage), demometered (MeterUsage) and demosaas (BatchMeterUsage,
ResolveCustomer), the last two with the dimensions requests and gigabytes; account 111122223333, subscribed, and
444455556666, not subscribed; a license of the contract product prod-democontract with ten seats users (Count) and a
tier premium (None), which 111122223333 received; region us-east-1.

STS (AssumeRoleWithWebIdentity, GetCallerIdentity) and the ECS agent answer on the same port:
  export AWS_ENDPOINT_URL_STS=http://127.0.0.1:8090
  export AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1:8090/v2/credentials/pod-1
  export ECS_CONTAINER_METADATA_URI_V4=http://127.0.0.1:8090/v4/pod-1

Then, in a browser or with curl:
  GET    /                     a page about products, pods, calls and the bill
  GET    /_emulator            every admin path
  GET    /_emulator/ledger     what AWS would bill (?format=csv)
  GET    /_emulator/calls      every request and its answer
  POST   /_emulator/clock      {\"advance\":\"1h\"} or {\"now\":\"2026-11-24T08:00:00Z\"}
  POST   /_emulator/faults     {\"operation\":\"RegisterUsage\",\"fault\":\"throttle\",\"count\":3}
  GET    /_emulator/faults     the rules, and the list of all faults, exceptions and bad tokens
  DELETE /_emulator/faults     remove all faults
  POST   /_emulator/customers  {\"account_id\":\"111122223333\",\"subscribed\":false}
  POST   /_emulator/products   {\"product_code\":\"demohourly\",\"rotate\":true}
  GET    /_emulator/public-keys/demohourly/1.pem   the public key of a product's version
  POST   /_emulator/pods       {\"access_key\":\"pod-2\",\"platform\":\"node-role\"}
  POST   /_emulator/tokens     {\"account_id\":\"111122223333\"}, a registration token for ResolveCustomer
  GET    /_emulator/licenses   contracts, who holds seats and until when, checkouts and check-ins
  POST   /_emulator/licenses   {\"product_id\":\"prod-democontract\",\"received\":\"disabled\"}
  POST   /_emulator/switches   {\"dry_run\":\"exception\"}, where AWS's documents are unclear
  POST   /_emulator/reset      reset everything but the keys

With --json the first line of standard output is {\"endpoint\",\"product_code\",\"product_id\",
\"public_key_version\",\"public_keys\",\"clock\"}; public_keys is a folder of <version>.pem.

Exit codes: 0 ended by a signal, 78 wrong world file, address or folder.";

fn parse_switch(text: &str) -> Result<(String, String), String> {
    let (name, answer) = text.split_once('=').ok_or("it has the form NAME=ANSWER")?;
    Ok((name.trim().to_owned(), answer.trim().to_owned()))
}

/// Largest world file: enough for 100,000 customers with a license each, which is the most that a world has.
const WORLD_BYTES_MAX: usize = 32 << 20;

fn read_world(path: &Path) -> Result<String, String> {
    let read = read_regular(path, WORLD_BYTES_MAX, Links::Follow);
    let seen = match read.map(String::from_utf8) {
        Ok(Ok(text)) => return Ok(text),
        Ok(Err(_)) => "is no UTF-8 text".to_owned(),
        Err(error) => describe(&error),
    };
    Err(format!("cannot read the world file {}: {seen}; name a TOML file of at most 32 MiB", path.display()))
}

/// Serves until a signal.
pub fn run(args: &EmulatorArgs) -> Exit {
    if args.print_world {
        return print_world();
    }
    if args.ready {
        return is_ready(args.addr);
    }
    let world = match args.world.as_deref().map(read_world).transpose() {
        Ok(world) => world,
        Err(text) => return complain(Exit::Config, &text),
    };
    let (keys, _temporary) = match args.keys.as_ref().or(args.state.as_ref()) {
        Some(folder) => (folder.clone(), None),
        None => match tempfile::tempdir() {
            Ok(folder) => (folder.path().to_owned(), Some(folder)),
            Err(error) => {
                return complain(
                    Exit::Config,
                    &format!("cannot make a temporary folder: {error}; set --state"),
                );
            }
        },
    };
    let options = Options {
        address: Address::Tcp(args.addr),
        state: args.state.clone(),
        keys,
        world,
        switches: args.switch.clone(),
        quotas: args.quotas,
        credentials: args.access_key.clone().zip(args.secret_key.clone()),
        web_identity: args.web_identity_jwks.clone().map(|keys| WebIdentity {
            keys,
            issuer: args.web_identity_issuer.clone(),
            audience: args.web_identity_audience.clone(),
        }),
        container_token: args.container_token.clone(),
        seed: args.seed,
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(Exit::Internal, &format!("cannot start a runtime: {error}")),
    };
    runtime.block_on(serve(options, args))
}

/// The emulator is ready if it answers a request for its clock with success.
fn is_ready(addr: SocketAddr) -> Exit {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(Exit::Internal, &format!("cannot start a runtime: {error}")),
    };
    let question = Ask::get("/_emulator/clock");
    match runtime.block_on(ask(&Address::Tcp(addr), question, READY_TIMEOUT)) {
        Ok(answer) if answer.status().is_success() => Exit::Done,
        Ok(answer) => complain(Exit::NotOpen, &format!("{addr} answers {}", answer.status())),
        Err(error) => complain(Exit::NotOpen, &error.to_string()),
    }
}

/// Below the usual timeout of a health check.
const READY_TIMEOUT: Duration = Duration::from_secs(2);

async fn serve(options: Options, args: &EmulatorArgs) -> Exit {
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return complain(Exit::Internal, &format!("cannot install signal handlers: {error}")),
    };
    let emulator = match Emulator::open(options) {
        Ok(emulator) => emulator,
        Err(StartError::World(faults)) => {
            let file =
                args.world.as_ref().map_or_else(|| "--switch".to_owned(), |path| path.display().to_string());
            let told: Vec<String> = faults.lines().map(|fault| format!("{file}: {fault}")).collect();
            return complain(Exit::Config, &told.join("\n"));
        }
        Err(error) => return complain(Exit::Config, &error.to_string()),
    };
    if emulator.forgets() {
        warn("another emulator uses the state folder: this one keeps bill, world and clock in memory only");
    }
    announce(emulator.facts(), args);
    let stop = watch::Sender::new(false);
    let serve = emulator.serve(stop.subscribe());
    tokio::pin!(serve);
    tokio::select! {
        () = &mut serve => return Exit::Internal,
        _ = signals.next() => {}
    }
    stop.send_replace(true);
    serve.await;
    Exit::Done
}

/// Standard output is for the start-up lines.
fn warn(message: &str) {
    complain(Exit::Done, &format!("tollgate emulator: {message}"));
}

fn print_world() -> Exit {
    say(DEFAULT_WORLD);
    Exit::Done
}

fn announce(facts: &Facts, args: &EmulatorArgs) {
    if args.json {
        let line = serde_json::to_string(facts).expect("a struct of strings");
        return say(&format!("{line}\n"));
    }
    let Facts { endpoint, product_code, product_id, public_key_version, public_keys, clock: _ } = facts;
    let tokens = match &args.web_identity_jwks {
        Some(_) => "verifies web identity tokens",
        None => "accepts every well-formed web identity token (--web-identity-jwks verifies them)",
    };
    say(&format!(
        "tollgate emulator: AWS Marketplace metering and entitlement, AWS License Manager at {endpoint}\n  \
         product {product_code} with key version {public_key_version}, contract product {product_id}\n  \
         public keys in {}\n  \
         a page for browsers at {endpoint}/, the admin paths at {endpoint}/_emulator\n  \
         STS too, which {tokens}\n\
         point any AWS SDK at it; every access key is one pod:\n  \
         export AWS_ENDPOINT_URL_MARKETPLACE_METERING={endpoint} AWS_ENDPOINT_URL_LICENSE_MANAGER={endpoint}\n  \
         export AWS_ENDPOINT_URL_MARKETPLACE_ENTITLEMENT_SERVICE={endpoint}\n  \
         export AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=pod-1 AWS_SECRET_ACCESS_KEY=any\n",
        public_keys.display()
    ));
}

/// Writes to standard output, for the person or the script that started it. A reader that stops after the first line
/// does not end the emulator.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
