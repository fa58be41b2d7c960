//! `tollgate emulator`: AWS Marketplace's metering service on a laptop.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use tokio::sync::watch;

use crate::cli::complain;
use crate::emulator::{Emulator, Facts, Options, StartError};
use crate::exit::Exit;
use crate::http::Address;
use crate::shutdown::Signals;

/// Arguments of `emulator`.
#[derive(Debug, Args)]
pub struct EmulatorArgs {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8090")]
    addr: SocketAddr,
    /// The folder that keeps the signing keys; without it they last as long as the process
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Throttle as AWS does: 5 RegisterUsage and 10 of each other call a second for each account
    #[arg(long)]
    quotas: bool,
    /// An access key whose requests are verified against --secret-key; all others are then refused
    #[arg(long, value_name = "KEY", requires = "secret_key")]
    access_key: Option<String>,
    /// The secret of --access-key
    #[arg(long, value_name = "SECRET", requires = "access_key")]
    secret_key: Option<String>,
    /// Makes faults by chance repeatable
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Print one line of JSON when ready, for scripts
    #[arg(long)]
    json: bool,
}

/// Serves until a signal.
pub fn run(args: &EmulatorArgs) -> Exit {
    let (state, _temporary) = match &args.state {
        Some(state) => (state.clone(), None),
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
    let secrets = args.access_key.iter().cloned().zip(args.secret_key.iter().cloned());
    let options = Options {
        address: Address::Tcp(args.addr),
        state,
        quotas: args.quotas,
        secrets: HashMap::from_iter(secrets),
        seed: args.seed,
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(Exit::Internal, &format!("cannot start a runtime: {error}")),
    };
    runtime.block_on(async {
        let (emulator, mut signals) = match open(options) {
            Ok(opened) => opened,
            Err(error) => return complain(Exit::Config, &error.to_string()),
        };
        announce(&emulator.facts(), args.json);
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
    })
}

fn open(options: Options) -> Result<(Emulator, Signals), StartError> {
    let signals = Signals::new()?;
    Ok((Emulator::open(options)?, signals))
}

#[expect(
    clippy::print_stdout,
    reason = "the start-up lines are for the person or the script that started it"
)]
fn announce(facts: &Facts, json: bool) {
    if json {
        println!("{}", serde_json::to_string(facts).expect("a struct of strings"));
        return;
    }
    println!("tollgate emulator: AWS Marketplace metering at {}", facts.endpoint);
    println!("  product {} with key version {}", facts.product_code, facts.public_key_version);
    println!("  public keys in {}", facts.public_keys.display());
    println!("  clock at {}", facts.clock);
    println!("point any AWS SDK at it:");
    println!("  export AWS_ENDPOINT_URL_MARKETPLACE_METERING={}", facts.endpoint);
    println!("  export AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=pod-1 AWS_SECRET_ACCESS_KEY=any");
}
