//! Compares intake with a bare loop of the same statements, on one server: `cargo bench -p tollgate-postgres --bench
//! take`.
//!
//! - "same": the statements of intake, the function `take_1`, called in a loop on one connection.
//! - "least": one prepared statement that claims the keys and adds to `sums` and `accepted`, and checks nothing: no
//!   closed hours, no forms, no session for lost answers.
//!
//! `take()` runs for a sum and for a maximum. All run in turns, so that other load of the machine meets each; the
//! ratios are those of the medians.
//!
//! `take URL SIZE SECONDS` runs only the loop "same", with groups of 64 requests of SIZE events, on the ledger in the
//! database at URL, and prints events a second: `benches/replicas.py` compares a replica with it.
#![expect(clippy::print_stdout, reason = "this program prints a table")]
#![expect(clippy::unwrap_used, reason = "a measurement that fails ends")]

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Statement};

use tollgate_clock::{WallClock, monotonic};
use tollgate_ledger::store::Store;
use tollgate_ledger::testing::settings;
use tollgate_ledger::writer::Observer;
use tollgate_ledger::{LedgerError, LedgerSettings, Taken};
use tollgate_marketplace::{Customer, Hour, Quantity, TagSet};
use tollgate_metering::event::Event;
use tollgate_postgres::{LeaseTimes, PostgresSettings, PostgresStore};

const CLIENTS: usize = 64;
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_secs(2);

/// The round of a loop on a ledger that others fill too: no other has its number.
const ALONE: usize = 1000;
const CUSTOMERS: u64 = 3;

/// Events of a group, at most.
const GROUP: usize = 4096;

struct Unobserved;

impl Observer for Unobserved {
    fn committed(&mut self, _: Duration) {}
    fn failed(&mut self, error: &LedgerError) {
        println!("{error}");
    }
}

#[expect(clippy::disallowed_methods, reason = "the arguments of a benchmark, not the command line")]
fn main() {
    // As the program has it: one thread.
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        if let [url, size, seconds] = arguments.as_slice() {
            return alone(url, size.parse().unwrap(), Duration::from_secs(seconds.parse().unwrap())).await;
        }
        println!(
            "| events a request | least, events/s | same, events/s | take(), events/s | of least | of same | max, events/s | of the sum |"
        );
        println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
        for size in [1, 100] {
            compare(size).await;
        }
    });
}

async fn alone(url: &str, size: usize, time: Duration) {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    let same = client.prepare(SAME).await.unwrap();
    // Every process makes other keys.
    let round = ALONE + usize::try_from(std::process::id()).unwrap();
    println!("{}", bare_loop(&client, &same, true, size, round, time).await);
}

async fn compare(size: usize) {
    let database = tollgate_postgres_fixture::shared().database();
    let folder = tempfile::tempdir().unwrap();
    let url_file = folder.path().join("url");
    fs::write(&url_file, database.url()).unwrap();
    let settings = PostgresSettings {
        url_file,
        name: "bench".to_owned(),
        ledger: LedgerSettings {
            rules: [("peak".to_owned(), "max 1 none".parse().unwrap())].into_iter().collect(),
            ..settings("")
        },
        lease: LeaseTimes::default(),
    };
    let store: Arc<dyn Store> =
        Arc::new(PostgresStore::start(&settings, WallClock::system(), Box::new(Unobserved)));
    store.ready().await.unwrap();
    let (client, connection) =
        tokio_postgres::connect(&database.url().replace("?sslmode=disable", ""), NoTls).await.unwrap();
    tokio::spawn(connection);
    let least = client.prepare(LEAST).await.unwrap();
    let same = client.prepare(SAME).await.unwrap();
    let (mut leasts, mut sames, mut takes, mut peaks) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let one = bare_loop(&client, &least, false, size, round, ROUND).await;
        let other = bare_loop(&client, &same, true, size, round, ROUND).await;
        let taken = take(&store, "requests", size, round).await;
        let peak = take(&store, "peak", size, round).await;
        // The first is for plans and caches.
        if round > 0 {
            leasts.push(one);
            sames.push(other);
            takes.push(taken);
            peaks.push(peak);
        }
    }
    let [least, same, taken, peak] = [leasts, sames, takes, peaks].map(median);
    println!(
        "| {size} | {least:.0} | {same:.0} | {taken:.0} | {:.2} | {:.2} | {peak:.0} | {:.2} |",
        taken / least,
        taken / same,
        peak / taken
    );
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn customer(number: u64) -> Customer {
    Customer::Account { account_id: format!("{:012}", 111_122_223_333 + number), license_arn: None }
}

/// Requests of 64 clients, each of which sends the next one when the one before is acknowledged.
async fn take(store: &Arc<dyn Store>, dimension: &'static str, size: usize, round: usize) -> f64 {
    let (began, until) = (monotonic(), monotonic() + ROUND);
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let store = Arc::clone(store);
        clients.spawn(async move {
            let mut sent = 0;
            while monotonic() < until {
                let event = |index| {
                    let micros = 1_000_000;
                    let mut content = [0; 32];
                    content[..8].copy_from_slice(&u64::to_be_bytes(micros));
                    Event {
                        id: Some(format!("{dimension}-{round}-{number}-{sent}-{index}")),
                        dimension: dimension.to_owned(),
                        quantity: Quantity::from_micros(micros).unwrap().into(),
                        at: tollgate_clock::system_now(),
                        tags: TagSet::default(),
                        customer: customer(index as u64 % CUSTOMERS),
                        content,
                    }
                };
                let taken = store.take((0..size).map(event).collect(), Box::new(())).await.unwrap();
                assert!(taken.iter().all(|taken| *taken == Taken::Accepted));
                sent += 1;
            }
            sent * size
        });
    }
    let mut events = 0;
    while let Some(sent) = clients.join_next().await {
        events += sent.unwrap();
    }
    rate(events, monotonic().duration_since(began))
}

#[expect(clippy::cast_precision_loss, reason = "a figure to print")]
fn rate(events: usize, time: Duration) -> f64 {
    events as f64 / time.as_secs_f64()
}

const LEAST: &str = "WITH claimed AS (
        INSERT INTO tollgate.keys (hash, content, hour) SELECT hash, content, $3 FROM unnest($1::bytea[], $2::bytea[])
            AS event (hash, content) ON CONFLICT DO NOTHING RETURNING hash),
    slots AS MATERIALIZED (
        SELECT customer, sum(amount) AS amount FROM unnest($1::bytea[], $4::text[], $5::bigint[]) AS event (hash, customer, amount)
            WHERE hash IN (SELECT hash FROM claimed) GROUP BY customer),
    summed AS (
        INSERT INTO tollgate.sums AS sums (hour, customer, dimension, writer, tags_key, tags, amount, first_at)
            SELECT $3, customer, 'requests', 0, '', '{}', amount, 0 FROM slots
            ON CONFLICT (hour, customer, dimension, writer, tags_key) DO UPDATE SET amount = sums.amount + excluded.amount),
    total AS (
        INSERT INTO tollgate.accepted AS accepted (customer, dimension, writer, amount)
            SELECT customer, 'requests', 0, amount FROM slots
            ON CONFLICT (customer, dimension, writer) DO UPDATE SET amount = accepted.amount + excluded.amount)
    SELECT count(*) FROM claimed";

const SAME: &str = "SELECT status FROM tollgate.ledger, tollgate.take_1(
    (SELECT max(id) FROM tollgate.writers WHERE name = 'bare'), 0, $6, version, tollgate.ledger_now() / 3600000,
    (tollgate.ledger_now() - 120000) / 3600000, 120000, ARRAY[0, $3::int],
    '{}', '{}', '{}', '{}', '{}', '{}',
    array_fill($3::bigint, ARRAY[3]), $4, ARRAY['requests', 'requests', 'requests'], array_fill(''::bytea, ARRAY[3]),
    ARRAY['{}', '{}', '{}'], ARRAY[NULL, NULL, NULL]::int[], ARRAY[false, false, false], $1, $2, $5, $7, '{}', $8, $9)";

/// The same requests, as many in one statement as the clients' requests would be.
async fn bare_loop(
    client: &Client,
    statement: &Statement,
    same: bool,
    size: usize,
    round: usize,
    time: Duration,
) -> f64 {
    let group = (CLIENTS * size).min(GROUP / size * size);
    let three: Vec<String> = (0..CUSTOMERS).map(|number| customer(number).canonical()).collect();
    let customers: Vec<&str> = three.iter().cycle().take(group).map(String::as_str).collect();
    let hour = Hour::of(tollgate_clock::system_now()).number();
    let int_hour = i32::try_from(hour).unwrap();
    let slots: Vec<i32> = (1..=3).cycle().take(group).collect();
    let (amounts, first, late) = (vec![1_000_000_i64; group], vec![hour; group], vec![None::<i64>; group]);
    let contents = vec![&b"content."[..]; group];
    if same {
        client.execute("INSERT INTO tollgate.writers (name) VALUES ('bare')", &[]).await.unwrap();
    }
    let (began, until) = (monotonic(), monotonic() + time);
    let (mut events, mut number) = (0, 0_i64);
    while monotonic() < until {
        let mut hashes: Vec<[u8; 16]> = (0..group)
            .map(|index| {
                let name = format!("{same}-{round}-{events}-{index}");
                let mut hash = [0; 16];
                hash.copy_from_slice(
                    &ring::digest::digest(&ring::digest::SHA256, name.as_bytes()).as_ref()[..16],
                );
                hash
            })
            .collect();
        hashes.sort_unstable();
        let hashes: Vec<&[u8]> = hashes.iter().map(|hash| &hash[..]).collect();
        number += 1;
        if same {
            let params: [&(dyn ToSql + Sync); 9] =
                [&hashes, &contents, &int_hour, &three, &slots, &number, &amounts, &first, &late];
            let status: String = client.query_one(statement, &params).await.unwrap().get(0);
            assert_eq!(status, "counted");
        } else {
            let params: [&(dyn ToSql + Sync); 5] = [&hashes, &contents, &hour, &customers, &amounts];
            let claimed: i64 = client.query_one(statement, &params).await.unwrap().get(0);
            assert_eq!(usize::try_from(claimed).unwrap(), group);
        }
        events += group;
    }
    rate(events, monotonic().duration_since(began))
}
