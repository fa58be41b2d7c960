//! `tollgate config init [DIR]`: writes the first files of a seller.
//!
//! Nothing is overwritten: all names are checked before the first file is written, and each file is created as new.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use crate::config::{Mode, SELLER_FILE};
use crate::exit::Exit;
use tollgate_disk::{Links, describe, read_regular};
use tollgate_marketplace::{ProductCode, ProductId};
use tollgate_receipt::{PEM_BYTES_MAX, PublicKey};

/// `tollgate config init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The folder to write to; made if it is missing.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// How the product is priced.
    #[arg(long, value_name = "MODE", default_value_t = Mode::Hourly)]
    mode: Mode,
    /// The product code, to be written into the seller's file.
    #[arg(long, value_name = "CODE")]
    product_code: Option<ProductCode>,
    /// In mode contract, the product ID, in place of the product code.
    #[arg(long, value_name = "ID")]
    product_id: Option<ProductId>,
    /// The product's public key (PEM), to be copied to keys/1.pem.
    #[arg(long, value_name = "FILE")]
    public_key: Option<PathBuf>,
    /// The image of tollgate to build from.
    #[arg(long, value_name = "IMAGE", default_value = concat!("tollgate:", env!("CARGO_PKG_VERSION")))]
    image: String,
}

impl InitArgs {
    /// How AWS names the product in this mode: the setting, and its value where it was given.
    fn name(&self) -> (&'static str, Option<&str>) {
        if self.mode.asks_license_manager() {
            ("product_id", self.product_id.as_ref().map(ProductId::as_str))
        } else {
            ("product_code", self.product_code.as_ref().map(ProductCode::as_str))
        }
    }

    /// Refuses a flag that means nothing in this mode: either the flag or the mode is a mistake.
    fn check(&self) -> Result<(), InitError> {
        if self.mode.asks_license_manager() && self.product_code.is_some() {
            return Err(InitError::Flag("mode contract names the product by its ID; use --product-id"));
        }
        if self.mode.asks_license_manager() && self.public_key.is_some() {
            return Err(InitError::Flag("mode contract has no public key; leave --public-key out"));
        }
        if !self.mode.asks_license_manager() && self.product_id.is_some() {
            return Err(InitError::Flag("--product-id is for mode contract; use --product-code"));
        }
        Ok(())
    }

    fn has_keys(&self) -> bool {
        self.mode.is_signed() || self.public_key.is_some()
    }
}

pub(super) fn run(args: &InitArgs, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<Exit> {
    match write_files(args) {
        Ok(names) => {
            for name in names {
                writeln!(out, "wrote {}", args.dir.join(name).display())?;
            }
            write!(out, "{}", next_steps(args))?;
            Ok(Exit::Done)
        }
        Err(problem) => {
            writeln!(err, "config init: {problem}")?;
            Ok(Exit::Usage)
        }
    }
}

/// Why nothing was written, or not everything.
#[derive(Debug, thiserror::Error)]
enum InitError {
    #[error("{} exists already and is not overwritten; name another folder or remove it", .0.display())]
    Exists(PathBuf),
    #[error("{} cannot be written: {source}; name another folder", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} is not usable as public key: {problem}", path.display())]
    Key { path: PathBuf, problem: String },
    #[error("{0}")]
    Flag(&'static str),
}

fn write_files(args: &InitArgs) -> Result<Vec<&'static str>, InitError> {
    args.check()?;
    let mut files = vec![
        ("seller.toml", seller_file(args)),
        ("Dockerfile", dockerfile(args)),
        ("values.yaml", values(args)),
    ];
    if let Some(path) = &args.public_key {
        files.push(("keys/1.pem", read_key(path)?));
    } else if args.mode.is_signed() {
        files.push(("keys/README", KEYS_README.to_owned()));
    }
    for (name, _) in &files {
        let path = args.dir.join(name);
        if path.symlink_metadata().is_ok() {
            return Err(InitError::Exists(path));
        }
    }
    let folder = if args.has_keys() { args.dir.join("keys") } else { args.dir.clone() };
    fs::create_dir_all(&folder).map_err(|source| InitError::Write { path: folder, source })?;
    for (name, text) in &files {
        let path = args.dir.join(name);
        write_new(&path, text).map_err(|source| InitError::Write { path, source })?;
    }
    Ok(files.iter().map(|(name, _)| *name).collect())
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    fs::OpenOptions::new().write(true).create_new(true).open(path)?.write_all(text.as_bytes())
}

fn read_key(path: &Path) -> Result<String, InitError> {
    let refused = |problem: String| InitError::Key { path: path.to_owned(), problem };
    let pem = read_regular(path, PEM_BYTES_MAX, Links::Follow).map_err(|error| refused(describe(&error)))?;
    PublicKey::from_pem(&pem).map_err(|error| refused(error.to_string()))?;
    String::from_utf8(pem).map_err(|_| refused("it is not text".to_owned()))
}

fn seller_file(args: &InitArgs) -> String {
    let (mode, (setting, name)) = (args.mode, args.name());
    let name = name.unwrap_or_default();
    // Neither name holds a character that TOML would have to escape.
    let mut text = format!(
        "# The seller's file. Where it exists, every setting comes from it or from its default, except the operator's own\n\
         # (docs/CONFIGURATION.md, column owner). operator_settings = [\"settle\"] would hand one to the operator.\n\
         \n\
         # How the product is priced: hourly, metered, contract or saas.\n\
         mode = \"{mode}\"\n\
         \n\
         # From the product's page in the AWS Marketplace Management Portal.\n\
         {setting} = \"{name}\"\n"
    );
    if args.has_keys() {
        text.push_str(SELLERS_KEYS);
    }
    if args.mode.has_ledger() {
        text.push_str(SELLERS_DIMENSIONS);
    }
    if args.mode.meters_own_pod() {
        text.push_str(SELLERS_ENTITLEMENT);
        text.push_str(SELLERS_UNSENT);
    }
    text.push_str(if mode.asks_license_manager() { SELLERS_CONTRACT } else { SELLERS_GRACE });
    if args.mode.has_ledger() {
        text.push_str(SELLERS_RULES);
    }
    if args.mode.meters_own_pod() {
        text.push_str(SELLERS_HEARTBEAT);
    }
    text
}

const SELLERS_CONTRACT: &str = "
# check proves the license and holds nothing; floating holds seats_per_pod of each counted entitlement while a pod lives.
license_model = \"check\"
# seats_per_pod = 1

# What the license must hold, by the names of the product's dimensions: without it, whatever the license holds.
# entitlements = [\"users:Count:10\", \"premium:None\"]

# How long after its end a license still opens the gate: renewals are signed late.
license_end_grace = \"72h\"

# How long the gate may stay open while License Manager cannot be reached, counted from the pod's last granted round.
grace_period = \"24h\"
";

const SELLERS_KEYS: &str = "
# The product's public keys, one <version>.pem for each; the path is relative to this file.
public_keys = \"keys\"
";

const SELLERS_DIMENSIONS: &str = "
# The usage dimensions of the product, by their API names; usage of another dimension is rejected.
dimensions = []
";

/// At the end of the file, because in TOML each key below a table belongs to it.
const SELLERS_RULES: &str = "
# How the events of a dimension become the quantity that AWS bills; without such a table they are added. These tables
# stay at the end of this file: in TOML each key below [dimension.NAME] belongs to it.
# By the largest value that was reported in an hour:
# [dimension.seats]
# aggregation = \"max\"
# per_pod = true
# By the gigabyte, where events count bytes:
# [dimension.storage]
# scale = \"bytes:GB\"
# rounding = { mode = \"none\" }
";

const SELLERS_HEARTBEAT: &str = "\
# By the hour in which the gate of a pod is open, without events:
# [dimension.node_hours]
# heartbeat = 1
# rounding = { mode = \"up\", digits = 0 }
";

const SELLERS_ENTITLEMENT: &str = "
# One more dimension of the listing, at price 0: only with it does the gate stay shut for a buyer who is not subscribed.
# entitlement_dimension = \"entitled\"
";

const SELLERS_UNSENT: &str = "
# When usage stays unbilled because AWS refuses it or does not answer: keep the gate open, or close-after:<duration>,
# at least 2h. `tollgate config check` warns until one is stated.
# on_unsent = \"close-after:6h\"
# The same when the subscription ends: without it the gate of a pod whose account is not subscribed stays open.
# on_lapse = \"close-after:6h\"
";

const SELLERS_GRACE: &str = "
# How long the gate may stay open while AWS cannot be reached, counted from the first failed attempt.
grace_period = \"0s\"
";

/// At most three lines: everything else is in the image that it builds from.
fn dockerfile(args: &InitArgs) -> String {
    let folder = Path::new(SELLER_FILE).parent().unwrap_or_else(|| Path::new("/")).display();
    let keys = if args.has_keys() { format!("COPY keys/ {folder}/keys/\n") } else { String::new() };
    format!("FROM {}\n{keys}COPY seller.toml {SELLER_FILE}\n", args.image)
}

fn values(args: &InitArgs) -> String {
    let volume = if args.mode.has_ledger() {
        format!("  mode: {}\n{VALUES_STATE}", args.mode)
    } else if args.mode.asks_license_manager() {
        format!("  mode: {}\n{VALUES_CONTRACT}", args.mode)
    } else {
        String::new()
    };
    format!("{VALUES}{volume}")
}

const VALUES: &str = "\
# The block for the values of a chart that uses the tollgate library chart. Mode, product code and keys are sealed into
# the image; the image's address is not. A product priced by use also states mode and state.type, because the chart
# chooses the volume of the usage ledger by them. A contract product also states its mode.
tollgate:
  image:
    # The repository that you push the image of the Dockerfile to: its host, then its path.
    registry: \"\"
    repository: \"\"
    tag: \"\"
";

/// The chart refuses an empty name, so an operator cannot install this file unchanged.
const VALUES_STATE: &str = "  \
  state:
    # Keeps the usage that AWS has not accepted yet. A claim outlives the pod; with emptyDir that usage is lost when the
    # pod is deleted.
    type: persistentVolumeClaim
    # Fill in: the name of your PersistentVolumeClaim in the namespace of the pod. The chart refuses an empty name. Only
    # one pod can use the claim at a time.
    claimName: \"\"
";

/// The chart decides how pods are replaced, and it cannot read what is sealed into the image.
const VALUES_CONTRACT: &str = "  \
  # Where seller.toml has license_model = \"floating\": an update then ends old pods before it starts new ones, which
  # would wait for their seats.
  # licenseModel: floating
";

const KEYS_README: &str = "\
Put the product's public key here as 1.pem (the file begins with BEGIN PUBLIC KEY). The AWS Marketplace Management
Portal shows it when the product is created. Further versions are 2.pem, 3.pem, and so on.
";

fn next_steps(args: &InitArgs) -> String {
    let mut steps = Vec::new();
    let (setting, name) = args.name();
    if name.is_none() {
        steps.push(format!("set {setting} in seller.toml"));
    }
    if args.mode.asks_license_manager() {
        steps.push("decide license_model and entitlements in seller.toml".to_owned());
    }
    if args.mode.has_ledger() {
        steps.push(
            "name the product's dimensions in seller.toml, and decide how each is billed ([dimension.NAME])"
                .to_owned(),
        );
    }
    if args.mode.meters_own_pod() {
        steps.push(
            "decide entitlement_dimension in seller.toml: without it the gate opens for buyers who are not subscribed too"
                .to_owned(),
        );
        steps.push("decide on_unsent in seller.toml: keep, or close-after:<duration>".to_owned());
    }
    if args.mode.is_signed() && args.public_key.is_none() {
        steps.push("put the product's public key into keys/1.pem".to_owned());
    }
    let dir = args.dir.display();
    let file = args.dir.join("seller.toml");
    steps.push(format!("check it: tollgate config check --seller-file {}", file.display()));
    steps.push(format!("build the image: docker build -t <your repository> {dir}"));
    steps.push("set tollgate.image in values.yaml to that repository and tag".to_owned());
    if args.mode.has_ledger() {
        steps.push("set tollgate.state.claimName in values.yaml to your PersistentVolumeClaim".to_owned());
    }
    steps.iter().enumerate().map(|(index, step)| format!("next {}. {step}\n", index + 1)).collect()
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches as _};

    use super::*;
    use crate::config::{Flags, Installation, MapEnvironment, Role, load};

    fn init(args: &[&str]) -> (Exit, String, String) {
        let matches =
            InitArgs::augment_args(Command::new("init")).get_matches_from([&["init"], args].concat());
        let args = InitArgs::from_arg_matches(&matches).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let exit = run(&args, &mut out, &mut err).unwrap();
        (exit, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    /// Loads what was written as the image would hold it.
    fn load_written(dir: &Path) -> Result<crate::config::Loaded, crate::config::Faults> {
        let installed = Installation {
            seller_file: dir.join("seller.toml"),
            default_file: dir.join("none.toml"),
            ..Installation::compiled_in()
        };
        load(&Flags::default(), &MapEnvironment::default(), &installed, Role::Inspect)
    }

    #[test]
    fn what_is_written_is_a_valid_sealed_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("given.pem");
        fs::write(&key, crate::config::TEST_KEY_PEM).unwrap();
        let target = dir.path().join("new");
        let (exit, out, err) = init(&[
            target.to_str().unwrap(),
            "--product-code",
            "demohourly",
            "--public-key",
            key.to_str().unwrap(),
        ]);
        assert_eq!((exit, err.as_str()), (Exit::Done, ""));
        assert_eq!(out.lines().filter(|line| line.starts_with("wrote ")).count(), 4);
        let loaded = load_written(&target).unwrap();
        assert!(loaded.config.aws.sealed);
        assert_eq!(loaded.config.product.name(), "demohourly");
        let dockerfile = fs::read_to_string(target.join("Dockerfile")).unwrap();
        assert_eq!(dockerfile.lines().count(), 3);
        assert!(dockerfile.ends_with("COPY seller.toml /usr/share/tollgate/seller.toml\n"));
    }

    #[test]
    fn what_is_left_to_do_is_a_fault_with_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(init(&[dir.path().to_str().unwrap()]).0, Exit::Done);
        let faults = load_written(dir.path()).unwrap_err().to_string();
        assert_eq!(faults.lines().count(), 2, "{faults}");
        assert!(faults.contains("product_code") && faults.contains("1.pem"), "{faults}");
    }

    #[test]
    fn each_mode_gets_what_it_needs() {
        for (mode, files) in [("metered", 3), ("saas", 3)] {
            let dir = tempfile::tempdir().unwrap();
            let (exit, out, err) =
                init(&[dir.path().to_str().unwrap(), "--mode", mode, "--product-code", "demo"]);
            assert_eq!((exit, err.as_str()), (Exit::Done, ""));
            assert_eq!(out.lines().filter(|line| line.starts_with("wrote ")).count(), files, "{out}");
            let faults = load_written(dir.path()).unwrap_err().to_string();
            assert!(faults.starts_with("dimensions") && faults.lines().count() == 1, "{faults}");
            let file = dir.path().join("seller.toml");
            let text = fs::read_to_string(&file).unwrap();
            assert_eq!(text.contains("on_unsent"), mode == "metered");
            let values = fs::read_to_string(dir.path().join("values.yaml")).unwrap();
            assert!(
                values.contains("type: persistentVolumeClaim") && values.contains("registry: \"\""),
                "{values}"
            );
            assert!(values.contains("# Fill in: the name of your PersistentVolumeClaim"), "{values}");
            assert!(out.contains("set tollgate.state.claimName in values.yaml to your"), "{out}");
            assert!(
                out.contains(&format!("docker build -t <your repository> {}\n", dir.path().display())),
                "{out}"
            );
            assert!(out.contains(&format!("config check --seller-file {}", file.display())), "{out}");
            fs::write(&file, text.replace("dimensions = []", "dimensions = [\"requests\"]")).unwrap();
            let state = format!("{}/state", dir.path().display());
            let flags = Flags::default().with(crate::config::setting::Setting::StateDir, state);
            let installed = Installation { seller_file: file, ..Installation::compiled_in() };
            let load = || load(&flags, &MapEnvironment::default(), &installed, Role::Inspect).unwrap();
            if mode == "metered" {
                assert!(
                    load().warnings[0].starts_with("on_unsent is not stated")
                        && out.contains("decide entitlement_dimension")
                        && out.contains("on_unsent")
                );
                let text = fs::read_to_string(&installed.seller_file).unwrap();
                let text = text.replace("# on_", "on_").replace("# entitlement_", "entitlement_");
                fs::write(&installed.seller_file, text).unwrap();
            }
            let loaded = load();
            assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
            // Every table that a seller may uncomment is valid.
            let text = fs::read_to_string(&installed.seller_file).unwrap();
            let dimensions = ["\"seats\", \"storage\"", "\"seats\", \"storage\", \"node_hours\""];
            let dimensions = dimensions[usize::from(mode == "metered")];
            let members = ["[dimension", "aggregation", "per_pod", "scale", "rounding", "heartbeat"];
            let lines = text.lines().map(|line| match line.strip_prefix("# ") {
                Some(rest) if members.iter().any(|member| rest.starts_with(member)) => rest,
                _ => line,
            });
            let text: String = lines.map(|line| format!("{line}\n")).collect();
            fs::write(&installed.seller_file, text.replace("\"requests\"", dimensions)).unwrap();
            let names: Vec<String> = load().config.usage.metered.into_iter().map(|one| one.name).collect();
            let expected = if mode == "metered" {
                &["node_hours", "seats", "storage"][..]
            } else {
                &["seats", "storage"]
            };
            assert_eq!(names, expected);
            let entitled = loaded.config.product.entitlement_dimension.as_deref();
            assert_eq!(entitled, (mode == "metered").then_some("entitled"));
            assert!(!fs::read_to_string(dir.path().join("Dockerfile")).unwrap().contains("keys"));
        }
    }

    #[test]
    fn a_contract_product_is_named_by_its_id() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().to_str().unwrap();
        for (flags, said) in [
            (&["--product-code", "demo"][..], "use --product-id"),
            (&["--public-key", "k.pem"], "leave --public-key out"),
        ] {
            let (exit, _, err) = init(&[&[folder, "--mode", "contract"], flags].concat());
            assert_eq!(exit, Exit::Usage);
            assert!(err.contains(said), "{err}");
        }
        let (exit, _, err) = init(&[folder, "--product-id", "prod-demo"]);
        assert!(exit == Exit::Usage && err.contains("use --product-code"), "{err}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

        let (exit, out, err) = init(&[folder, "--mode", "contract"]);
        assert_eq!((exit, err.as_str()), (Exit::Done, ""));
        assert!(out.contains("next 1. set product_id in seller.toml\n"), "{out}");
        let faults = load_written(dir.path()).unwrap_err().to_string();
        assert!(faults.starts_with("product_id") && faults.lines().count() == 1, "{faults}");
        let values = fs::read_to_string(dir.path().join("values.yaml")).unwrap();
        assert!(
            values.contains("\n  mode: contract\n") && values.ends_with("\n  # licenseModel: floating\n"),
            "{values}"
        );

        let file = dir.path().join("seller.toml");
        let text = fs::read_to_string(&file).unwrap();
        // Every line that a seller may uncomment is valid too.
        let all = text.replace("product_id = \"\"", "product_id = \"prod-demo\"");
        let all = all.replace("\"check\"", "\"floating\"").replace("\n# entitle", "\nentitle");
        fs::write(&file, all.replace("\n# seats", "\nseats")).unwrap();
        let loaded =
            crate::config::load_sellers_file(&Flags::default(), &file, &Installation::compiled_in()).unwrap();
        assert_eq!(loaded.warnings, [""; 0]);
        assert_eq!(loaded.config.product.name(), "prod-demo");
        assert_eq!(loaded.config.license.entitlements.len(), 2);
    }

    #[test]
    fn nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("values.yaml"), "mine").unwrap();
        let (exit, _, err) = init(&[dir.path().to_str().unwrap()]);
        assert_eq!(exit, Exit::Usage);
        assert!(err.contains("values.yaml exists already"), "{err}");
        assert_eq!(fs::read_to_string(dir.path().join("values.yaml")).unwrap(), "mine");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_wrong_key_is_refused_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("k");
        fs::write(&key, "no key").unwrap();
        let target = dir.path().join("new");
        let (exit, _, err) = init(&[target.to_str().unwrap(), "--public-key", key.to_str().unwrap()]);
        assert_eq!(exit, Exit::Usage, "{err}");
        assert!(!target.exists());
    }
}
