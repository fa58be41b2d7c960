//! The model test of SQLite's ledger, in both modes.

use std::sync::Arc;

use tokio::runtime::Builder;

use super::*;
use crate::store::Store;
use crate::testing::model::{self, Engine, Steps, drive, steps};
use crate::writer::Writer;
use tollgate_clock::WallClock;
use tollgate_marketplace::service::BoxFuture;

/// One process.
struct Process {
    folder: tempfile::TempDir,
    clock: WallClock,
    writer: Option<Writer>,
    /// Mode `saas`: customers, and no pod.
    by_seller: bool,
    restarts: usize,
}

impl Process {
    fn new(by_seller: bool) -> Self {
        let mut process =
            Self { folder: folder(), clock: WallClock::fixed(START), writer: None, by_seller, restarts: 0 };
        process.open();
        process
    }

    fn open(&mut self) {
        let pods = ["pod-1", "pod-2"];
        let pod = if self.by_seller { "" } else { pods[self.restarts % pods.len()] };
        let settings = LedgerSettings { rules: model::rules(), ..settings(pod) };
        let ledger = Ledger::open(self.folder.path(), settings).unwrap();
        self.writer = Some(Writer::inline(ledger, self.clock.clone()));
    }

    fn writer(&self) -> &Writer {
        self.writer.as_ref().unwrap()
    }
}

impl Engine for Process {
    fn stores(&self) -> Vec<Arc<dyn Store>> {
        vec![Arc::new(self.writer().clone())]
    }

    fn customers(&self) -> Vec<Customer> {
        if !self.by_seller {
            return vec![Customer::Own];
        }
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
        model::rules()
    }

    fn restart(&mut self, _: usize) -> BoxFuture<'_, ()> {
        self.restarts += 1;
        self.writer = None;
        self.open();
        Box::pin(std::future::ready(()))
    }

    fn set_time(&mut self, now: Timestamp) -> BoxFuture<'_, ()> {
        self.clock.follow(now);
        Box::pin(std::future::ready(()))
    }

    fn check(&mut self) -> BoxFuture<'_, Result<(), LedgerError>> {
        let writer = self.writer().clone();
        Box::pin(async move { writer.with(|ledger| ledger.check_balance()).await })
    }
}

fn run(by_seller: bool, steps: Steps) -> Result<(), TestCaseError> {
    let runtime = Builder::new_current_thread().build().unwrap();
    runtime.block_on(drive(&mut Process::new(by_seller), steps))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_ledger_of_a_pod_keeps_every_balance(steps in steps()) {
        run(false, steps)?;
    }

    #[test]
    fn the_ledger_of_a_seller_keeps_every_balance(steps in steps()) {
        run(true, steps)?;
    }
}
