//! The model test of `tollgate-ledger` on this engine: two replicas on one database.

use proptest::prelude::*;
use tokio::runtime::Builder;

use super::bench::{Bench, Unobserved};
use super::steps::OUT_OF_BALANCE;
use super::*;
use crate::{LeaseTimes, PostgresSettings, PostgresStore};
use tollgate_ledger::LedgerSettings;
use tollgate_ledger::store::Store;
use tollgate_ledger::testing::model::{Engine, Steps, drive, rules, steps};
use tollgate_ledger::testing::settings;
use tollgate_marketplace::Customer;
use tollgate_marketplace::service::BoxFuture;
use tollgate_metering::aggregation::Rules;

const REPLICAS: usize = 2;

struct Replicas {
    bench: Bench,
    ledgers: Vec<PostgresStore>,
    rules: Rules,
}

impl Replicas {
    async fn new(rules: Rules) -> Self {
        let mut replicas = Self { bench: Bench::new().await, ledgers: Vec::new(), rules };
        for number in 0..REPLICAS {
            replicas.ledgers.push(replicas.start(number));
        }
        replicas
    }

    fn start(&self, number: usize) -> PostgresStore {
        let settings = PostgresSettings {
            url_file: self.bench.database.url_file(),
            name: name(number),
            ledger: LedgerSettings { rules: self.rules.clone(), ..settings("") },
            lease: LeaseTimes { look_every: Duration::from_millis(20), ..LeaseTimes::default() },
        };
        PostgresStore::start(&settings, WallClock::fixed(START), Box::new(Unobserved))
    }
}

fn name(number: usize) -> String {
    format!("replica-{number}")
}

/// Sums of days that are not the sums of all time; and
/// records that are settled and unsettled.
const CHECK: &str =
    "SELECT 'days', customer, dimension, sum(billed)::text || ' ' || sum(discarded)::text FROM (
        SELECT customer, dimension, billed, discarded FROM tollgate.outcome
        UNION ALL SELECT customer, dimension, -billed, -discarded FROM tollgate.daily) AS part
    GROUP BY customer, dimension HAVING sum(billed) <> 0 OR sum(discarded) <> 0
    UNION ALL SELECT 'twice', customer, dimension, hour::text FROM tollgate.records
        JOIN tollgate.settled USING (customer, dimension, hour)
    UNION ALL SELECT 'misplaced', customer, dimension, state FROM tollgate.records
        WHERE state NOT IN ('sealed', 'dead') AND NOT unconfirmed";

impl Engine for Replicas {
    fn stores(&self) -> Vec<Arc<dyn Store>> {
        self.ledgers.iter().map(|ledger| Arc::new(ledger.clone()) as Arc<dyn Store>).collect()
    }

    fn customers(&self) -> Vec<Customer> {
        let account = |account_id: &str, license: Option<&str>| Customer::Account {
            account_id: account_id.to_owned(),
            license_arn: license.map(str::to_owned),
        };
        let license = "arn:aws:license-manager::111122223333:license:l-demo";
        vec![
            account("111122223333", None),
            account("444455556666", Some(license)),
            Customer::Identifier("id-7".to_owned()),
        ]
    }

    fn rules(&self) -> Rules {
        self.rules.clone()
    }

    fn restart(&mut self, process: usize) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.ledgers[process] = self.start(process);
            // Its lease expires, which would take some seconds.
            let sql = format!(
                "UPDATE tollgate.lease SET expires_at = '-infinity' FROM tollgate.writers
                 WHERE writers.id = lease.holder AND writers.name = '{}'",
                name(process)
            );
            self.bench.run(&sql).await;
            self.ledgers[process].ready().await.unwrap();
        })
    }

    fn set_time(&mut self, now: Timestamp) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.bench.at(now).await;
            for ledger in &self.ledgers {
                // Its clock follows the database's.
                ledger.ready().await.unwrap();
            }
        })
    }

    fn check(&mut self) -> BoxFuture<'_, Result<(), LedgerError>> {
        Box::pin(async {
            let mut odd = self.bench.run(OUT_OF_BALANCE).await;
            odd.extend(self.bench.run(CHECK).await);
            if odd.is_empty() { Ok(()) } else { Err(LedgerError::Io(format!("the rows are odd: {odd:?}"))) }
        })
    }
}

fn run(steps: Steps, rules: Rules) -> Result<(), TestCaseError> {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { drive(&mut Replicas::new(rules).await, steps).await })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 50, ..ProptestConfig::default() })]

    #[test]
    fn two_replicas_keep_every_balance(steps in steps()) {
        run(steps, Rules::default())?;
    }

    #[test]
    fn two_replicas_keep_every_balance_by_every_rule(steps in steps()) {
        run(steps, rules())?;
    }
}
