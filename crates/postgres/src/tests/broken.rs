//! Connections that break: nothing counts twice, nothing is acknowledged that is not committed.

use std::sync::Mutex;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use super::bench::*;

/// What happens to the next message of each new kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// Everything passes.
    Nothing,
    /// The server's next answer is thrown away, and the connection breaks.
    Answer,
    /// The client's next message is thrown away, and the connection breaks.
    Request,
    /// The connection breaks; the client's next message arrives at the server when [`Proxy::deliver`] is called.
    Late,
    /// New connections are refused, old ones are cut.
    All,
}

/// Stands between a replica and the server.
struct Proxy {
    port: u16,
    loss: watch::Sender<Loss>,
    delivery: Arc<Notify>,
    delivered: Arc<Notify>,
    /// Connections made so far.
    connections: Arc<Mutex<u32>>,
}

impl Proxy {
    async fn start(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let proxy = Self {
            port: listener.local_addr().unwrap().port(),
            loss: watch::Sender::new(Loss::Nothing),
            delivery: Arc::default(),
            delivered: Arc::default(),
            connections: Arc::default(),
        };
        let (loss, delivery, delivered, connections) = (
            proxy.loss.clone(),
            Arc::clone(&proxy.delivery),
            Arc::clone(&proxy.delivered),
            Arc::clone(&proxy.connections),
        );
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *loss.borrow() == Loss::All {
                    continue;
                }
                *connections.lock().unwrap() += 1;
                let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                tokio::spawn(pass(
                    client,
                    server,
                    loss.clone(),
                    Arc::clone(&delivery),
                    Arc::clone(&delivered),
                ));
            }
        });
        proxy
    }

    fn lose(&self, loss: Loss) {
        self.loss.send_replace(loss);
    }

    /// Lets the message arrive that was held back, and waits until the server has answered it.
    async fn deliver(&self) {
        self.delivery.notify_one();
        self.delivered.notified().await;
    }

    fn url(&self, database: &Database) -> String {
        database.url().replace(&format!(":{}/", database.server.port()), &format!(":{}/", self.port))
    }
}

async fn pass(
    client: TcpStream,
    server: TcpStream,
    loss: watch::Sender<Loss>,
    delivery: Arc<Notify>,
    delivered: Arc<Notify>,
) {
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let mut cut = loss.subscribe();
    let (mut up, mut down) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            read = from_client.read(&mut up) => {
                let Ok(count @ 1..) = read else { return };
                let lost = *loss.borrow();
                match lost {
                    Loss::Request => {
                        loss.send_replace(Loss::Nothing);
                        return;
                    }
                    Loss::Late => {
                        loss.send_replace(Loss::Nothing);
                        drop((from_client, to_client));
                        hold(up[..count].to_vec(), &mut to_server, &delivery).await;
                        let _ = from_server.read(&mut down).await;
                        delivered.notify_one();
                        return;
                    }
                    Loss::Nothing | Loss::Answer | Loss::All => {
                        if to_server.write_all(&up[..count]).await.is_err() {
                            return;
                        }
                    }
                }
            }
            read = from_server.read(&mut down) => {
                let Ok(count @ 1..) = read else { return };
                if *loss.borrow() == Loss::Answer {
                    loss.send_replace(Loss::Nothing);
                    return;
                }
                if to_client.write_all(&down[..count]).await.is_err() {
                    return;
                }
            }
            () = async { cut.wait_for(|loss| *loss == Loss::All).await.map(drop).unwrap_or_default() } => return,
        }
    }
}

async fn hold(message: Vec<u8>, to_server: &mut OwnedWriteHalf, delivery: &Notify) {
    delivery.notified().await;
    to_server.write_all(&message).await.unwrap();
}

/// A replica behind a proxy, which has counted one event.
async fn behind(bench: &Bench) -> (Proxy, Writer) {
    let (proxy, through) = proxied(bench).await;
    let replica = bench.replica_with("behind", through);
    assert_eq!(one(&replica, event(None, 1, START)).await, Taken::Accepted);
    (proxy, replica)
}

/// A proxy, and a connector that reaches the database through it.
async fn proxied(bench: &Bench) -> (Proxy, Arc<Connector>) {
    let proxy = Proxy::start(bench.database.server.port()).await;
    let folder = tempfile::tempdir().unwrap().keep();
    let file = folder.join("url");
    std::fs::write(&file, proxy.url(&bench.database)).unwrap();
    let direct = connector(&bench.database);
    let through = Connector { dsn: Source::File(file), ..(*direct).clone() };
    (proxy, Arc::new(through))
}

/// With keys and without.
fn both() -> Vec<Event> {
    vec![
        event(Some("a"), 2, START),
        event(None, 4, START),
        event(Some("a"), 2, START),
        event(Some("z"), 0, START),
    ]
}

const TAKEN: [Taken; 4] = [Taken::Accepted, Taken::Accepted, Taken::Duplicate, Taken::Accepted];

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_counts_once_and_is_acknowledged() {
    let bench = Bench::new().await;
    let (proxy, replica) = behind(&bench).await;
    for loss in [Loss::Answer, Loss::Request] {
        bench
            .run("DELETE FROM tollgate.keys; DELETE FROM tollgate.sums; DELETE FROM tollgate.accepted")
            .await;
        proxy.lose(loss);
        assert_eq!(take(&replica, both()).await, TAKEN, "{loss:?}");
        assert_eq!(bench.accepted().await, "6", "{loss:?}");
        assert_eq!(take(&replica, both()).await[0], Taken::Duplicate);
        assert_eq!(bench.accepted().await, "10");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_as_a_whole_counts_once_whatever_is_lost() {
    let bench = Bench::new().await;
    let (proxy, replica) = behind(&bench).await;
    // BEGIN, the call, COMMIT: each answer and each message is lost once.
    for (loss, after) in
        [Loss::Answer, Loss::Request].into_iter().flat_map(|loss| (0..3).map(move |after| (loss, after)))
    {
        bench
            .run("DELETE FROM tollgate.keys; DELETE FROM tollgate.sums; DELETE FROM tollgate.accepted")
            .await;
        let connections = *proxy.connections.lock().unwrap();
        let taking = replica.clone();
        let mut taking = tokio::spawn(async move { taking.take_whole(both(), Box::new(())).await });
        let mut taken = None;
        // The proxy sees no steps; it loses the next message at some moment of the transaction.
        for _ in 0..after {
            tokio::task::yield_now().await;
        }
        proxy.lose(loss);
        while taken.is_none() {
            tokio::select! {
                done = &mut taking => taken = Some(done.unwrap()),
                () = tokio::task::yield_now() => {}
            }
        }
        proxy.lose(Loss::Nothing);
        match taken.unwrap() {
            Ok(taken) => assert_eq!(taken, TAKEN, "{loss:?}"),
            Err(error) => {
                assert!(matches!(error, LedgerError::Io(_)), "{error}");
                assert_eq!(bench.accepted().await, "0", "{loss:?}: it was refused");
                assert!(*proxy.connections.lock().unwrap() >= connections);
                assert_eq!(replica.take_whole(both(), Box::new(())).await.unwrap(), TAKEN);
            }
        }
        assert_eq!(bench.accepted().await, "6", "{loss:?}");
    }
}

/// A message that reaches the server after its client has given up and connected again.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_arrives_after_its_session_ended_writes_nothing() {
    let bench = Bench::new().await;
    let (proxy, replica) = behind(&bench).await;
    proxy.lose(Loss::Late);
    assert_eq!(take(&replica, both()).await, TAKEN);
    proxy.deliver().await;
    assert_eq!(bench.accepted().await, "7");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_database_nothing_is_acknowledged_and_it_comes_back_by_itself() {
    let bench = Bench::new().await;
    let (proxy, through) = proxied(&bench).await;
    let before = tollgate_clock::monotonic();
    proxy.lose(Loss::All);
    // It has no connection yet. On one that is cut, a group may have been sent: that one waits for the database.
    let replica = bench.replica_with("behind", through);
    let mut refused = 0;
    for _ in 0..20 {
        match replica.take(both(), Box::new(())).await {
            Err(error @ LedgerError::Io(_)) => {
                refused += 1;
                assert!(error.to_string().contains("127.0.0.1"), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(replica.failed_since(before).is_some());
    assert_eq!((refused, bench.accepted().await), (20, "0".into()));
    proxy.lose(Loss::Nothing);
    let again = async {
        loop {
            if let Ok(taken) = replica.take(both(), Box::new(())).await {
                return taken;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(10), again).await.unwrap(), TAKEN);
    assert!(replica.failed_since(before).is_none());
    assert_eq!(bench.accepted().await, "6");
}

/// The database goes away between the commit and its answer, and stays away.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_unknown_fate_waits_for_the_database_and_others_fail_meanwhile() {
    let bench = Bench::new().await;
    let (proxy, replica) = behind(&bench).await;
    // The answer is lost, and the next connection is refused: the watcher changes the one into the other.
    let (mut seen, loss) = (proxy.loss.subscribe(), proxy.loss.clone());
    proxy.lose(Loss::Answer);
    let refuse = tokio::spawn(async move {
        seen.wait_for(|loss| *loss == Loss::Nothing).await.unwrap();
        loss.send_replace(Loss::All);
    });
    let (tell, mut told) = watch::channel(());
    let (waiting, freed) = (replica.clone(), Freed(tell));
    let waiting = tokio::spawn(async move { waiting.take(both(), Box::new(freed)).await });
    refuse.await.unwrap();
    assert!(told.changed().await.is_err(), "its memory is free for others");
    assert!(matches!(replica.take(both(), Box::new(())).await, Err(LedgerError::Io(_))));
    assert!(!waiting.is_finished());
    proxy.lose(Loss::Nothing);
    let taken = tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap().unwrap();
    assert_eq!((taken[0], taken[1]), (Taken::Accepted, Taken::Accepted));
    assert_eq!(bench.accepted().await, "7");
}

/// Shows by its end that it was dropped.
struct Freed(#[expect(dead_code, reason = "held until it is dropped")] watch::Sender<()>);

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_and_started_again_has_all_that_was_acknowledged_and_nothing_twice() {
    let bench = Bench::on(Server::own()).await;
    let server = bench.database.server.0;
    let replica = bench.replica("a");
    let mut acknowledged = 0;
    let mut next = 0;
    for round in 0..3 {
        let killing = async {
            while next < (round + 1) * 300 {
                if next == round * 300 + 150 {
                    server.kill();
                    server.start();
                }
                let id = next.to_string();
                // An event without a key is sent once; one with a key until it is acknowledged.
                let request = vec![event(Some(&id), 1, START), event(None, 0, START)];
                match replica.take(request, Box::new(())).await {
                    Ok(taken) => {
                        assert!(matches!(taken[0], Taken::Accepted | Taken::Duplicate));
                        acknowledged += 1;
                        next += 1;
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), killing).await.unwrap();
    }
    assert_eq!((acknowledged, bench.accepted().await), (900, "900".into()));
}
