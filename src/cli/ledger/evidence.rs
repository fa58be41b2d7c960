//! `tollgate ledger reconcile --cloudtrail FILE…` and `--emulator URL`: decides records in doubt by AWS's own log.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::source::Source;
use super::table::table;
use crate::api::listing::Listing;
use crate::api::repair::{Action, RepairRequest};
use crate::cli::screen::Screen;
use crate::cli::sidecar::Complaint;
use crate::evidence::{Doubt, Evidence, Verdict, cloudtrail};
use crate::exit::Exit;
use tollgate_http::client;
use tollgate_ledger::repair::Repaired;
use tollgate_ledger::view::{Looked, ShownState};
use tollgate_marketplace::Customer;
use tollgate_time::Timestamp;

/// Where AWS's reports are read.
#[derive(Debug, clap::Args)]
pub(super) struct Witness {
    /// Decide records in doubt or unconfirmed by these files of CloudTrail, from the console, `lookup-events` or S3; -
    /// is standard input
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "emulator")]
    cloudtrail: Vec<String>,
    /// The same by the bill of the emulator at this URL
    #[arg(long, value_name = "URL")]
    emulator: Option<String>,
    /// Confirm the records that were billed (needs ledger_repair); without it nothing changes
    #[arg(long)]
    apply: bool,
}

impl Witness {
    pub(super) const fn is_given(&self) -> bool {
        !self.cloudtrail.is_empty() || self.emulator.is_some()
    }

    pub(super) const fn applies(&self) -> bool {
        self.apply && self.is_given()
    }

    /// What the log says about these records.
    fn read(&self, source: &Source, product_code: &str, doubts: &[Doubt]) -> Result<Evidence, Complaint> {
        if let Some(url) = &self.emulator {
            let bill = bill(url, source, product_code, doubts);
            return bill.map_err(|text| (Exit::Unavailable, format!("--emulator: {text}")));
        }
        let mut evidence = Evidence::about(doubts);
        for name in &self.cloudtrail {
            let failed = |text: String| (Exit::Usage, format!("--cloudtrail {name}: {text}"));
            let mut reader: Box<dyn Read> = if name == "-" {
                Box::new(io::stdin().lock())
            } else {
                Box::new(File::open(Path::new(name)).map_err(|error| failed(error.to_string()))?)
            };
            // A pipe may hand over less than was asked for.
            let mut start = Vec::new();
            let read = reader.by_ref().take(GZIP.len() as u64).read_to_end(&mut start);
            read.map_err(|error| failed(error.to_string()))?;
            if start == GZIP {
                let text = "is compressed; use gunzip -c FILE… | tollgate ledger reconcile --cloudtrail -";
                return Err(failed(text.to_owned()));
            }
            let whole = BufReader::new(start.as_slice().chain(reader));
            cloudtrail::read(&mut evidence, whole).map_err(|error| failed(error.to_string()))?;
        }
        Ok(evidence)
    }
}

/// The product's records in the emulator's bill, part by part: the whole may have hundreds of megabytes.
fn bill(url: &str, source: &Source, product_code: &str, doubts: &[Doubt]) -> Result<Evidence, String> {
    let (mut evidence, mut from) = (Evidence::of_emulator(doubts), 0);
    let bill = format!("{}/_emulator/ledger?product_code={product_code}", url.trim_end_matches('/'));
    loop {
        let part = format!("{bill}&limit={PART_RECORDS}&from={from}");
        let answer = source.runtime().block_on(client::get_large(&part, ANSWER_TIMEOUT));
        let answer = answer.map_err(|error| error.to_string())?;
        let part: Option<Value> = serde_json::from_slice(answer.body()).ok();
        let part = part.filter(|part| evidence.add_bill(part).is_some());
        let part = part.ok_or_else(|| format!("{url} has no bill of an emulator"))?;
        // An emulator before 0.3.0 answers with the whole bill, and without `next`.
        match part["next"].as_u64() {
            Some(next) if next > from => from = next,
            Some(_) => return Err(format!("{url} has a bill whose parts never end")),
            None => return Ok(evidence),
        }
    }
}

/// Records of a part of the emulator's bill. The emulator ends a part at 1 MiB.
const PART_RECORDS: usize = 1000;

/// The beginning of a gzip file (RFC 1952).
const GZIP: [u8; 2] = [0x1f, 0x8b];

const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

const COLUMNS: &[&str] =
    &["id", "hour", "dimension", "customer", "quantity", "state", "verdict", "event", "repaired"];

/// Judges every record that may have been billed; with `--apply` confirms those that were.
pub(super) fn run(
    witness: &Witness,
    product_code: &str,
    source: &mut Source,
    as_json: bool,
) -> Result<(Exit, String), Complaint> {
    let mut doubts = Vec::new();
    let mut records = Vec::new();
    for record in doubtful(source)? {
        if let Some(doubt) = doubt(source, &record)? {
            doubts.push(doubt);
            records.push(record);
        }
    }
    let evidence = witness.read(source, product_code, &doubts)?;
    let (mut rows, mut failed) = (Vec::new(), false);
    for (record, doubt) in records.iter().zip(&doubts) {
        let verdict = evidence.judge(doubt, product_code);
        let mut repaired = false;
        // A record that is still sent gets AWS's own answer.
        let repairable = record["state"] != ShownState::InDoubt.as_str();
        if witness.apply
            && repairable
            && let Verdict::Billed(report) = &verdict
        {
            let id = report.metering_record_id.as_deref().unwrap_or("none");
            let note = format!("billed by AWS's log: event {}, metering record {id}", report.source);
            let request = RepairRequest { note: Some(note), ..RepairRequest::default() };
            repaired = source.repair(doubt.id, Action::Confirm, &request)? == Repaired::Done;
            failed |= !repaired;
        }
        rows.push(json!({
            "id": doubt.id,
            "hour": record["hour"],
            "dimension": record["dimension"],
            "customer": record["customer"],
            "quantity": record["quantity"],
            "state": record["state"],
            "verdict": verdict.as_str(),
            "event": verdict.report().map(|report| report.source.as_str()),
            "repaired": repaired,
        }));
    }
    let exit = if failed { Exit::Usage } else { Exit::Done };
    if as_json {
        return Ok((exit, format!("{:#}", Value::from(rows))));
    }
    let covered = if evidence.complete {
        "the emulator's bill is complete".to_owned()
    } else if evidence.covered.is_empty() {
        "the log has no events".to_owned()
    } else {
        let of = |(region, (first, last)): (&String, &(Timestamp, Timestamp))| {
            format!("of {region} from {first} to {last}")
        };
        let regions: Vec<String> = evidence.covered.iter().map(of).collect();
        format!("the log has events {}", regions.join(", "))
    };
    let billed = rows.iter().filter(|row| row["verdict"] == "billed").count();
    let next = match (billed, witness.apply) {
        (0, _) => String::new(),
        (_, true) => {
            format!("; records confirmed: {}", rows.iter().filter(|row| row["repaired"] == true).count())
        }
        (billed, false) => format!("; records that were billed: {billed}; confirm them with --apply"),
    };
    Ok((exit, format!("{}\n{covered}{next}", table(COLUMNS, &rows, Screen::of_stdout()))))
}

/// Records that may have been billed, or count as billed without AWS's confirmation.
fn doubtful(source: &Source) -> Result<Vec<Value>, Complaint> {
    let of = |state| Looked { state: Some(state), ..Looked::default() };
    let mut records = Vec::new();
    for state in [ShownState::InDoubt, ShownState::Unconfirmed, ShownState::Dead] {
        let found = source.list(Listing::Records, of(state), |row| row)?;
        // Of dead letters those that were never answered, or whose hour AWS holds.
        records.extend(
            found.into_iter().filter(|row| {
                state != ShownState::Dead || row["in_doubt"] == true || row["code"] == DUPLICATE
            }),
        );
    }
    records.sort_by_key(|record| record["id"].as_i64());
    Ok(records)
}

/// AWS's status for a record whose hour has a value.
const DUPLICATE: &str = "DuplicateRecord";

fn doubt(source: &Source, record: &Value) -> Result<Option<Doubt>, Complaint> {
    let Some(id) = record["id"].as_i64() else { return Ok(None) };
    let whole = source.show(id)?;
    let text = |name: &str| whole[name].as_str().unwrap_or_default();
    let time = |name: &str| Timestamp::parse(text(name));
    let shown = text("customer");
    // Views leave out the space at the end of an account without a license.
    let customer = Customer::from_canonical(shown).or_else(|| Customer::from_canonical(&format!("{shown} ")));
    Ok((|| {
        Some(Doubt {
            id,
            region: whole["region"].as_str().map(ToOwned::to_owned),
            customer: customer?,
            dimension: text("dimension").to_owned(),
            timestamp: time("timestamp")?,
            quantity: text("quantity").parse().ok()?,
            client_token: text("client_token").to_owned(),
            sent: (time("sealed_at")?, time("updated_at")?),
        })
    })())
}
