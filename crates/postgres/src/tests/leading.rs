//! Which replica seals and sends: the lease, and what a replica that lost it does.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::steps::*;
use super::*;
use crate::lease::{Leader, LeaseTimes};
use tollgate_clock as clock;
use tollgate_metering::record::Answered;

/// Long enough for everything that is expected to happen.
const SOON: Duration = Duration::from_secs(30);

/// Longer than an unrenewed lease lasts.
const LONGER: Duration = Duration::from_secs(7);

/// Passes a replica's connections on to the server, and can hold back what the replica writes: as if the replica was
/// paused, or the network cut.
struct Passage {
    port: u16,
    /// How many more writes pass; negative when one was held back.
    left: Arc<AtomicI64>,
    open: watch::Sender<bool>,
    /// Names the database at this port.
    url: tempfile::NamedTempFile,
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
        Self { port, left, open, url: tempfile::NamedTempFile::new().unwrap(), task }
    }

    /// Holds back the write after this many.
    fn hold_after(&self, writes: i64) {
        self.open.send_replace(false);
        self.left.store(writes, Ordering::SeqCst);
    }

    /// Whether something is held back.
    fn holds(&self) -> bool {
        self.left.load(Ordering::SeqCst) < 0
    }

    /// Lets everything pass.
    fn release(&self) {
        self.left.store(i64::MAX, Ordering::SeqCst);
        self.open.send_replace(true);
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
    let leader = at_port(ledger, passage.port, passage.url.path(), times);
    leader.lead().await.unwrap();
    (passage, leader)
}

/// A replica that connects to another port; `url` is a file for it.
fn at_port(ledger: &Ledger, port: u16, url: &Path, times: LeaseTimes) -> Arc<Leader> {
    let direct = format!(":{}/", ledger.server.port());
    fs::write(url, ledger.url().replace(&direct, &format!(":{port}/"))).unwrap();
    let connector = Connector { dsn: Source::File(url.to_owned()), ..Connector::clone(&connector(ledger)) };
    replica(Arc::new(connector), times)
}

#[tokio::test]
async fn one_replica_leads_and_another_takes_over_when_it_leaves() {
    let ledger = Ledger::make().await;
    let (first, second) = (ledger.replica(QUICK), ledger.replica(QUICK));
    assert!(matches!(first.seal().await, Err(LedgerError::NotLeading)), "it did not wait for its turn");
    first.lead().await.unwrap();
    let mut waiting = Box::pin(second.lead());
    assert!(timeout(LONGER, &mut waiting).await.is_err(), "the first one renews its lease");
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
    assert!(timeout(LONGER, waiting.join_next()).await.is_err());
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
    let (first, second) = (ledger.leader().await, ledger.replica(QUICK));
    let sealed = ledger.sealed(&first, EIGHT, 2).await;
    first.begin(&sealed[..1], None, START).await.unwrap();
    ledger.pause(&first).await;
    second.lead().await.unwrap();
    let open = "SELECT in_doubt, attempting, attempts FROM tollgate.records ORDER BY customer";
    assert_eq!(ledger.run(open).await, [["t", "f", "1"], ["f", "f", "0"]]);
    assert_eq!(second.doubtful(9).await.unwrap().len(), 1);
}

/// In transaction mode, where each transaction may have another session.
#[tokio::test]
async fn replicas_lead_through_a_pooler() {
    let ledger = Ledger::make().await;
    let bouncer = ledger.server.0.bouncer();
    let urls = [(); 2].map(|()| tempfile::NamedTempFile::new().unwrap());
    let [first, second] = [0, 1].map(|replica| at_port(&ledger, bouncer.port, urls[replica].path(), QUICK));
    first.lead().await.unwrap();
    let sealed = ledger.sealed(&first, EIGHT, 40).await;
    let begun = first.begin(&sealed[..25], None, START).await.unwrap();
    first
        .answered_all(ids(&begun)[..20].iter().map(|id| accepted(*id)).collect(), None, START)
        .await
        .unwrap();
    first.leave().await;
    second.lead().await.unwrap();
    assert_eq!(second.doubtful(99).await.unwrap().len(), 5);
    let carried = |id: &i64| noted(*id, Answered::Carry("expired".to_owned()));
    second.answered_all(sealed[25..].iter().map(carried).collect(), None, START).await.unwrap();
    assert!(matches!(first.seal().await, Err(LedgerError::NotLeading)));
    ledger.set_clock(at(EIGHT.next().next(), 3)).await;
    assert_eq!(seal_all(&second).await, 15);
    ledger.check_balance().await;
}

/// As while a password is rotated: the file names the new one later than the database.
#[tokio::test]
async fn a_replica_waits_through_what_a_person_changes() {
    let ledger = Ledger::make().await;
    let (leader, other) = (ledger.leader().await, ledger.replica(QUICK));
    let url = fs::read_to_string(ledger.url_file()).unwrap();
    fs::write(ledger.url_file(), url.replace("sslmode=disable", "sslmode=odd")).unwrap();
    leader.disconnect().await;
    assert!(matches!(leader.seal().await, Err(LedgerError::Io(_))));
    leader.leave().await;
    let mut waiting = Box::pin(other.lead());
    assert!(timeout(QUICK.renew_every, &mut waiting).await.is_err());
    fs::write(ledger.url_file(), url).unwrap();
    timeout(SOON, waiting).await.unwrap().unwrap();
    other.seal().await.unwrap();
}

/// Neither a replica's clock nor the ledger's decides about the lease: only the time that passes in the database.
#[tokio::test]
async fn a_clock_that_is_off_changes_no_lease() {
    let ledger = Ledger::make().await;
    let (first, second) = (ledger.replica(QUICK), ledger.replica(QUICK));
    first.lead().await.unwrap();
    for minutes in [600, 10] {
        ledger.set_clock(START.plus(Duration::from_secs(60 * minutes))).await;
        assert!(timeout(LONGER, second.lead()).await.is_err());
        first.seal().await.unwrap();
    }
    assert_eq!(ledger.one("SELECT epoch FROM tollgate.lease").await, "1");
}

/// As after a failover to a machine whose clock is behind: the lease of a replica that is gone seems to last.
#[tokio::test]
async fn a_replica_that_is_gone_is_replaced_although_the_databases_clock_was_set_back() {
    let ledger = Ledger::make().await;
    let (first, second) = (ledger.leader().await, ledger.replica(QUICK));
    first.pause().await;
    ledger.run("UPDATE tollgate.lease SET expires_at = clock_timestamp() + interval '10 min'").await;
    timeout(Duration::from_secs(15), second.lead()).await.expect("it does not wait for that clock").unwrap();
    assert!(matches!(first.seal().await, Err(LedgerError::NotLeading)));
    second.seal().await.unwrap();
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

/// A replica is paused for longer than the lease, at each write of each of its steps, and goes on when another one
/// leads: nothing that it writes then takes effect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_paused_writes_nothing_after_another_one_leads() {
    // More than each step's writes: its transaction's beginning, the lease, its own statements, and the commit.
    let steps = [
        (Step::Begin, 6),
        (Step::Answer, 6),
        (Step::Carry, 18),
        (Step::Seal, 9),
        (Step::Defer, 5),
        (Step::Release, 5),
    ];
    // Each waits most of its time for the server.
    let turns = Arc::new(Semaphore::new(16));
    let mut scenes = tokio::task::JoinSet::new();
    for (place, (step, most)) in steps.into_iter().enumerate() {
        for writes in 0..=most {
            let turns = Arc::clone(&turns);
            scenes.spawn(async move {
                let _turn = turns.acquire_owned().await.unwrap();
                (place, writes, paused_at(step, writes).await)
            });
        }
    }
    let mut paused = steps.map(|(_, most)| vec![false; most + 1]);
    while let Some(scene) = scenes.join_next().await {
        let (place, writes, was_paused) = scene.unwrap();
        paused[place][writes] = was_paused;
    }
    for ((step, _), paused) in steps.iter().zip(paused) {
        let writes = paused.iter().take_while(|paused| **paused).count();
        assert!(writes >= 4 && paused[writes..].iter().all(|paused| !paused), "{step:?}: {paused:?}");
        assert!(paused.contains(&false), "{step:?} has more writes");
    }
}

/// Pauses a replica after some writes of a step; `false` if the step has no more.
async fn paused_at(step: Step, writes: usize) -> bool {
    let ledger = Ledger::make().await;
    let (passage, first) = behind(&ledger, LeaseTimes::default()).await;
    let sealed = ledger.sealed(&first, EIGHT, 2).await;
    ledger.run("UPDATE tollgate.records SET due_at = 9000000000000000").await;
    let nine = EIGHT.next();
    ledger.count(nine, 5, 1, "{}", 7).await;
    ledger.set_clock(at(nine.next(), 3)).await;
    // The hour is closed, and its slot is not sealed.
    assert!(first.seal().await.unwrap().more);
    ledger.pause(&first).await;
    passage.hold_after(i64::try_from(writes).unwrap());
    let running = Arc::clone(&first);
    let mut running = tokio::spawn(async move { step.run(&running, sealed[0]).await });
    // If the replica is silent in a transaction, the server ends that after five seconds.
    let second = ledger.replica(QUICK);
    let early = tokio::select! {
        done = &mut running => Some(done.unwrap()),
        taken = second.lead() => taken.map(|()| None).unwrap(),
    };
    if let Some(done) = &early {
        if !passage.holds() {
            passage.release();
            done.as_ref().unwrap();
            return false;
        }
        timeout(SOON, second.lead()).await.unwrap().unwrap();
    }
    let before = state(&ledger).await;
    passage.release();
    let done = match early {
        Some(done) => done,
        None => timeout(SOON, running).await.unwrap().unwrap(),
    };
    assert!(done.is_err(), "{step:?} after {writes} writes");
    assert!(matches!(first.seal().await, Err(LedgerError::NotLeading)));
    assert_eq!(state(&ledger).await, before, "{step:?} after {writes} writes");
    ledger.check_balance().await;
    true
}

/// Everything that the holder writes.
async fn state(ledger: &Ledger) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    let usage = ["ledger", "sums", "rules", "remainders", "accepted"];
    let records = ["records", "settled", "outcome", "daily", "links", "forms", "lease"];
    for table in usage.into_iter().chain(records) {
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
    // After the lease's row was locked.
    passage.hold_after(2);
    let cut = clock::monotonic();
    let running = first.begin(&sealed, None, START);
    let (begun, taken) = tokio::join!(timeout(SOON, running), timeout(SOON, second.lead()));
    assert!(begun.unwrap().is_err());
    taken.unwrap().unwrap();
    let took = clock::monotonic().duration_since(cut);
    assert!(took < Duration::from_secs(15), "{took:?}");
    println!("another replica led {took:?} after the first one was cut off");
}
