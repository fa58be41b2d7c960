//! Which replica seals and sends: the lease, and what a replica that lost it does.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use super::steps::*;
use super::*;
use crate::lease::{Leader, LeaseTimes};
use tollgate_clock as clock;
use tollgate_ledger::LedgerError;
use tollgate_metering::record::Answered;

/// Long enough for everything that is expected to happen.
const SOON: Duration = Duration::from_secs(30);

/// A replica that does not renew its lease, as if it was paused.
const PAUSED: LeaseTimes = LeaseTimes { renew_every: Duration::from_secs(3600), ..QUICK };

/// Passes a replica's connections on to the server, and can hold back what the replica writes: as if the replica was
/// paused, or the network cut.
struct Passage {
    port: u16,
    /// How many more writes pass; negative when one was held back.
    left: Arc<AtomicI64>,
    open: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Passage {
    async fn make(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let left = Arc::new(AtomicI64::new(i64::MAX));
        let open = watch::Sender::new(true);
        let (passes, opened) = (Arc::clone(&left), open.subscribe());
        let task = tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let far = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await.unwrap();
                tokio::spawn(pass(near, far, Arc::clone(&passes), opened.clone()));
            }
        });
        Self { port, left, open, task }
    }

    /// Holds back the write after this many.
    fn hold_after(&self, writes: i64) {
        self.open.send_replace(false);
        self.left.store(writes, Ordering::SeqCst);
    }

    /// Lets everything pass; returns whether something was held back.
    fn release(&self) -> bool {
        let held = self.left.swap(i64::MAX, Ordering::SeqCst) < 0;
        self.open.send_replace(true);
        held
    }
}

async fn pass(near: TcpStream, far: TcpStream, left: Arc<AtomicI64>, mut open: watch::Receiver<bool>) {
    let ((mut near_in, mut near_out), (mut far_in, mut far_out)) = (near.into_split(), far.into_split());
    let answers = tokio::spawn(async move { tokio::io::copy(&mut far_in, &mut near_out).await });
    let mut bytes = vec![0; 1 << 16];
    while let Ok(length @ 1..) = near_in.read(&mut bytes).await {
        if left.fetch_sub(1, Ordering::SeqCst) <= 0 {
            open.wait_for(|open| *open).await.unwrap();
        }
        if far_out.write_all(&bytes[..length]).await.is_err() {
            break;
        }
    }
    answers.abort();
}

/// A replica whose connections go through a passage.
async fn behind(ledger: &Ledger, times: LeaseTimes) -> (Passage, Arc<Leader>) {
    let passage = Passage::make(ledger.server.port()).await;
    let direct = ledger.server.url(&ledger.name);
    ledger.name_it(&direct.replace(&ledger.server.port().to_string(), &passage.port.to_string()));
    let leader = ledger.replica(times);
    leader.lead().await.unwrap();
    ledger.name_it(&direct);
    (passage, leader)
}

#[tokio::test]
async fn one_replica_leads_and_another_takes_over_when_it_leaves() {
    let ledger = Ledger::make().await;
    let (first, second) = (ledger.replica(QUICK), ledger.replica(QUICK));
    assert!(matches!(first.seal().await, Err(LedgerError::NotLeading)), "it did not wait for its turn");
    first.lead().await.unwrap();
    let mut waiting = Box::pin(second.lead());
    assert!(timeout(QUICK.lasts * 2, &mut waiting).await.is_err(), "the first one renews its lease");
    first.seal().await.unwrap();
    first.leave().await;
    timeout(SOON, waiting).await.unwrap().unwrap();
    second.seal().await.unwrap();
    assert!(matches!(first.seal().await, Err(LedgerError::NotLeading)));
    assert!(timeout(QUICK.lasts, first.lead()).await.is_err(), "a replica that stops leads no more");
    assert_eq!(ledger.one("SELECT epoch FROM tollgate.lease").await, "2");
    let name = "SELECT name FROM tollgate.lease JOIN tollgate.writers ON writers.id = holder";
    assert_eq!(ledger.run("SELECT count(*) FROM tollgate.lease WHERE holder IS NULL").await, [["0"]]);
    assert_eq!(ledger.run(&name.replace("SELECT name", "SELECT writers.name")).await, [["replica"]]);
}

#[tokio::test]
async fn of_many_replicas_that_start_at_once_one_leads() {
    let ledger = Ledger::make().await;
    let replicas: Vec<Arc<Leader>> = (0..6).map(|_| ledger.replica(QUICK)).collect();
    let mut waiting = tokio::task::JoinSet::new();
    for replica in &replicas {
        let replica = Arc::clone(replica);
        waiting.spawn(async move { replica.lead().await });
    }
    waiting.join_next().await.unwrap().unwrap().unwrap();
    assert!(timeout(QUICK.lasts * 2, waiting.join_next()).await.is_err());
    let mut leading = 0;
    for replica in &replicas {
        leading += usize::from(replica.seal().await.is_ok());
    }
    assert_eq!(leading, 1);
}

/// A call whose answer the replica before did not note.
#[tokio::test]
async fn who_takes_over_marks_calls_under_way_as_in_doubt() {
    let ledger = Ledger::make().await;
    let (first, second) = (ledger.replica(PAUSED), ledger.replica(QUICK));
    first.lead().await.unwrap();
    let sealed = ledger.sealed(&first, EIGHT, 2).await;
    first.begin(&sealed[..1], None, START).await.unwrap();
    second.lead().await.unwrap();
    let open = "SELECT in_doubt, attempting, attempts FROM tollgate.records ORDER BY customer";
    assert_eq!(ledger.run(open).await, [["t", "f", "1"], ["f", "f", "0"]]);
    assert_eq!(second.doubtful(9).await.unwrap().len(), 1);
}

/// Neither a replica's clock nor the ledger's decides about the lease: only the time that passes in the database.
#[tokio::test]
async fn a_clock_that_is_off_changes_no_lease() {
    let ledger = Ledger::make().await;
    let (first, second) = (ledger.replica(QUICK), ledger.replica(QUICK));
    first.lead().await.unwrap();
    for minutes in [600, 10] {
        ledger.set_clock(START.plus(Duration::from_secs(60 * minutes))).await;
        assert!(timeout(QUICK.lasts * 2, second.lead()).await.is_err());
        first.seal().await.unwrap();
    }
    assert_eq!(ledger.one("SELECT epoch FROM tollgate.lease").await, "1");
}

/// The steps of the holder that write.
#[derive(Debug, Clone, Copy)]
enum Step {
    Begin,
    Answer,
    Carry,
    Seal,
    Defer,
    Release,
}

impl Step {
    async fn run(self, leader: &Leader, id: i64) -> Result<(), LedgerError> {
        match self {
            Self::Begin => leader.begin(&[id], None, START).await.map(drop),
            Self::Answer => leader.answered_all(vec![accepted(id)], None, START).await,
            Self::Carry => {
                leader.answered_all(vec![noted(id, Answered::Carry("expired".to_owned()))], None, START).await
            }
            Self::Seal => leader.seal().await.map(drop),
            Self::Defer => leader.defer(&[(id, START)]).await,
            Self::Release => leader.release(START, 9).await.map(drop),
        }
    }
}

/// A replica is paused for longer than the lease, at each write of each of its steps, and goes on when another one leads:
/// nothing that it writes then takes effect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_paused_writes_nothing_after_another_one_leads() {
    let mut scenes = tokio::task::JoinSet::new();
    for step in [Step::Begin, Step::Answer, Step::Carry, Step::Seal, Step::Defer, Step::Release] {
        scenes.spawn(async move {
            let mut writes = 0;
            // Until the step is done before its next write would be held back.
            while paused_at(step, writes).await {
                writes += 1;
            }
            (step, writes)
        });
    }
    while let Some(scene) = scenes.join_next().await {
        let (step, writes) = scene.unwrap();
        // At least: the transaction's beginning, the lease, the step's own statement, and the commit.
        assert!(writes >= 4, "{step:?}: {writes}");
    }
}

/// Pauses a replica after some writes of a step; `false` if the step has no more.
async fn paused_at(step: Step, writes: i64) -> bool {
    let ledger = Ledger::make().await;
    let (passage, first) = behind(&ledger, PAUSED).await;
    let sealed = ledger.sealed(&first, EIGHT, 2).await;
    ledger.run("UPDATE tollgate.records SET due_at = 9000000000000000").await;
    let nine = EIGHT.next();
    ledger.count(nine, 5, 1, "{}", 7).await;
    ledger.set_clock(at(nine.next(), 3)).await;
    // The hour is closed, and its slot is not sealed.
    assert!(first.seal().await.unwrap().more);
    first.renew_once().await;
    passage.hold_after(writes);
    let mut running = Box::pin(step.run(&first, sealed[0]));
    let second = ledger.replica(QUICK);
    // The transaction of the first one is ended by the server when it was silent for five seconds.
    let taken = tokio::select! {
        done = &mut running => {
            assert!(!passage.release(), "{step:?} does not end while a write is held back");
            done.unwrap();
            return false;
        }
        taken = timeout(SOON, second.lead()) => taken,
    };
    taken.unwrap().unwrap();
    let before = state(&ledger).await;
    assert!(passage.release());
    let done = timeout(SOON, running).await.unwrap();
    assert!(done.is_err(), "{step:?} after {writes} writes");
    assert!(matches!(first.seal().await, Err(LedgerError::NotLeading)));
    assert_eq!(state(&ledger).await, before, "{step:?} after {writes} writes");
    ledger.check_balance().await;
    true
}

/// Everything that the holder writes.
async fn state(ledger: &Ledger) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for table in ["ledger", "records", "settled", "sums", "outcome", "daily", "links", "forms", "lease"] {
        let expires = if table == "lease" { "- 'expires_at'" } else { "" };
        let rows = format!(
            "SELECT '{table}', to_jsonb(held) {expires} AS row FROM tollgate.{table} AS held ORDER BY row"
        );
        all.extend(ledger.run(&rows).await);
    }
    all
}

/// With the times of a real replica, of which one is cut off in the middle of a step.
#[tokio::test]
async fn a_replica_that_is_cut_off_is_replaced_within_fifteen_seconds() {
    let ledger = Ledger::make().await;
    let (passage, first) = behind(&ledger, LeaseTimes::default()).await;
    let sealed = ledger.sealed(&first, EIGHT, 1).await;
    let second = ledger.replica(LeaseTimes::default());
    first.renew_once().await;
    // After the lease's row was locked.
    passage.hold_after(2);
    let cut = clock::monotonic();
    let running = first.begin(&sealed, None, START);
    let (_, taken) = tokio::join!(timeout(Duration::from_secs(14), running), timeout(SOON, second.lead()));
    taken.unwrap().unwrap();
    let took = clock::monotonic().duration_since(cut);
    assert!(took < Duration::from_secs(15), "{took:?}");
    println!("another replica led {took:?} after the first one was cut off");
}
