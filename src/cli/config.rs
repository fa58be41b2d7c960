//! `tollgate config check|print|init`: checks the configuration, shows it, and writes a seller's first files.
//!
//! Faults go to standard error, and the last line summarises them; data goes to standard output.

mod init;

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

pub use self::init::InitArgs;
use crate::cli::screen::printed;
use crate::config::{self, Environment, Flags, Installation, Report, Role, Row};
use crate::exit::Exit;

/// `tollgate config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check the configuration: print OK, or everything that is wrong with it.
    Check(CheckArgs),
    /// Show each setting, its value and where it comes from. Secrets are not shown.
    Print(ReadArgs),
    /// Write a seller's file, the Dockerfile that seals it into an image, and the values for the Helm chart.
    Init(InitArgs),
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// Check only this seller's file, before it is in an image. Environment variables and other files are ignored.
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    seller_file: Option<PathBuf>,
    #[command(flatten)]
    read: ReadArgs,
}

#[derive(Debug, Args)]
struct ReadArgs {
    /// Write JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags,
}

/// Runs the subcommand.
pub fn run(
    args: &ConfigArgs,
    env: &dyn Environment,
    installed: &Installation<'_>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Exit {
    let written = match &args.command {
        ConfigCommand::Check(args) => check(args, env, installed, out, err),
        ConfigCommand::Print(args) => print(args, env, installed, out, err),
        ConfigCommand::Init(args) => init::run(args, out, err),
    };
    match written {
        Ok(exit) => exit,
        Err(error) => printed(Err(error), Exit::Done),
    }
}

#[derive(Serialize)]
struct Verdict<'a> {
    valid: bool,
    warnings: &'a [String],
    faults: Vec<String>,
}

fn check(
    args: &CheckArgs,
    env: &dyn Environment,
    installed: &Installation<'_>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<Exit> {
    let CheckArgs { seller_file, read: args } = args;
    let loaded = match seller_file {
        Some(file) => config::load_sellers_file(&args.flags, file, installed),
        None => config::load(&args.flags, env, installed, Role::Check),
    };
    let (warnings, faults) = match &loaded {
        Ok(loaded) => (loaded.warnings.as_slice(), None),
        Err(faults) => (&[][..], Some(faults)),
    };
    if args.json {
        let faults = faults.map_or(&[][..], config::Faults::as_slice).iter().map(ToString::to_string);
        let verdict = Verdict { valid: loaded.is_ok(), warnings, faults: faults.collect() };
        write_json(out, &verdict)?;
    }
    for warning in warnings {
        writeln!(err, "warning: {warning}")?;
    }
    match faults {
        None if args.json => Ok(Exit::Done),
        None => writeln!(out, "OK").map(|()| Exit::Done),
        Some(faults) => writeln!(err, "{faults}\n{}", faults.summary()).map(|()| Exit::Config),
    }
}

fn print(
    args: &ReadArgs,
    env: &dyn Environment,
    installed: &Installation<'_>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<Exit> {
    let report = config::report(&args.flags, env, installed);
    if args.json {
        write_json(out, &report)?;
    } else {
        write_table(out, &report.settings)?;
    }
    for warning in &report.warnings {
        writeln!(err, "warning: {warning}")?;
    }
    if report.valid {
        return Ok(Exit::Done);
    }
    write_faults(err, &report).map(|()| Exit::Config)
}

fn write_faults(err: &mut dyn Write, report: &Report) -> io::Result<()> {
    report.faults.iter().try_for_each(|fault| writeln!(err, "{fault}"))?;
    writeln!(err, "{}", report.summary)
}

fn write_json(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// Three columns; the value may be long, so only the name and short values are aligned.
fn write_table(out: &mut dyn Write, rows: &[Row]) -> io::Result<()> {
    const VALUE_WIDTH_MAX: usize = 40;
    let widest = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or(0);
    let names = widest(&mut rows.iter().map(|row| row.name.len()));
    let values = widest(&mut rows.iter().map(|row| row.value.as_ref().map_or(1, |v| v.chars().count())));
    let values = values.min(VALUE_WIDTH_MAX);
    for row in rows {
        let value = row.value.as_deref().unwrap_or("-");
        writeln!(out, "{:names$}  {value:values$}  {}", row.name, row.origin)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches as _};

    use super::*;
    use crate::config::{MapEnvironment, MemoryDisk};

    fn run_with(args: &[&str], env: &MapEnvironment, disk: &MemoryDisk) -> (Exit, String, String) {
        let matches =
            ConfigArgs::augment_args(Command::new("config")).get_matches_from([&["config"], args].concat());
        let args = ConfigArgs::from_arg_matches(&matches).unwrap();
        let installed = Installation { disk, ..Installation::compiled_in() };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let exit = run(&args, env, &installed, &mut out, &mut err);
        (exit, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    fn metered() -> MapEnvironment {
        MapEnvironment::from([
            ("TOLLGATE_MODE", "metered"),
            ("TOLLGATE_PRODUCT_CODE", "demo"),
            ("TOLLGATE_DIMENSIONS", "requests"),
        ])
    }

    #[test]
    fn check_says_ok_or_everything() {
        let disk = MemoryDisk::default();
        assert_eq!(run_with(&["check"], &metered(), &disk), (Exit::Done, "OK\n".into(), String::new()));
        let (exit, out, err) = run_with(&["check", "--region", "mars", "--settle=x"], &metered(), &disk);
        assert_eq!((exit, out.as_str()), (Exit::Config, ""));
        let lines: Vec<&str> = err.lines().collect();
        assert_eq!(lines.len(), 3, "{err}");
        assert!(lines[0].starts_with("region = \"mars\" (flag --region): "), "{err}");
        assert!(lines[1].starts_with("settle = \"x\" (flag --settle): "), "{err}");
        assert!(
            lines[2].starts_with("misconfigured: InvalidConfiguration: region")
                && lines[2].ends_with("(and 1 more)")
        );
    }

    #[test]
    fn a_sellers_file_is_checked_before_there_is_an_image() {
        let seller =
            "mode = 'metered'\nproduct_code = 'demo'\ndimensions = ['a']\noperator_settings = ['settle']\n";
        let disk =
            MemoryDisk::default().with("/gate/seller.toml", seller).with_read_only("/var/lib/tollgate");
        let check = |file: &str, disk: &MemoryDisk| {
            // The environment is ignored, though beside the file in an image it would be refused.
            let env = MapEnvironment::from([("TOLLGATE_MODE", "hourly"), ("AWS_ENDPOINT_URL", "http://x")]);
            run_with(&["check", "--seller-file", file], &env, disk)
        };
        let (exit, out, err) = check("/gate/seller.toml", &disk);
        assert_eq!((exit, out.as_str()), (Exit::Done, "OK\n"), "{err}");
        assert!(err.starts_with("warning: on_unsent is not stated") && err.lines().count() == 1, "{err}");
        let (exit, _, err) = check("/gate/selller.toml", &disk);
        assert!(exit == Exit::Config && err.starts_with("/gate/selller.toml: does not exist"), "{err}");
        let disk = disk.with("/gate/seller.toml", "mode = 'metered'\nprodct_code = 'x'");
        let (exit, _, err) = check("/gate/seller.toml", &disk);
        assert!(exit == Exit::Config && err.contains("did you mean product_code?"), "{err}");
        assert!(err.contains("set it in the seller's file /gate/seller.toml"), "{err}");
    }

    #[test]
    fn check_as_json() {
        let disk = MemoryDisk::default();
        let (exit, out, _) = run_with(&["check", "--json", "--mode", "x"], &metered(), &disk);
        let verdict: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!((exit, &verdict["valid"]), (Exit::Config, &false.into()));
        assert_eq!(verdict["faults"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn print_shows_value_and_origin_and_no_secret() {
        let disk = MemoryDisk::default().with("/t", "0123456789abcdef-the-token\n");
        let env = MapEnvironment::from([
            ("TOLLGATE_MODE", "metered"),
            ("TOLLGATE_PRODUCT_CODE", "demo"),
            ("TOLLGATE_DIMENSIONS", "requests"),
            ("AWS_REGION", "eu-central-1"),
            ("HTTPS_PROXY", "http://user:pass@proxy.example:3128"),
        ]);
        let (exit, out, err) = run_with(&["print", "--app-token-file", "/t"], &env, &disk);
        assert_eq!((exit, err.as_str()), (Exit::Done, ""));
        let line = |name: &str| {
            let line = out.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_default();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(line("product_code"), "product_code demo environment TOLLGATE_PRODUCT_CODE");
        assert_eq!(line("region"), "region eu-central-1 environment AWS_REGION");
        assert_eq!(line("app_token_file"), "app_token_file /t flag --app-token-file");
        assert_eq!(line("settle"), "settle 2m default");
        assert_eq!(line("HTTPS_PROXY"), "HTTPS_PROXY http://…@proxy.example:3128 environment HTTPS_PROXY");
        assert!(!out.contains("the-token") && !out.contains("pass"), "{out}");
    }

    #[test]
    fn print_shows_what_is_wrong_too() {
        let disk = MemoryDisk::default();
        let (exit, out, err) = run_with(&["print", "--json", "--region", "mars"], &metered(), &disk);
        assert_eq!(exit, Exit::Config);
        let report: serde_json::Value = serde_json::from_str(&out).unwrap();
        let region =
            report["settings"].as_array().unwrap().iter().find(|row| row["name"] == "region").unwrap();
        assert_eq!((&region["value"], &region["origin"]), (&"mars".into(), &"flag --region".into()));
        assert_eq!(report["valid"], false);
        assert!(err.lines().last().unwrap().starts_with("misconfigured: InvalidConfiguration: region"));
    }
}
