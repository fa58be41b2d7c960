//! Connections that break: nothing counts twice, nothing is acknowledged that is not committed.

use tokio::sync::watch;

use super::bench::*;
use super::proxy::{Loss, Lost, behind, proxied};

/// With keys and without.
pub(super) fn both() -> Vec<Event> {
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

/// The database goes away between the commit and its answer, and comes back soon.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_unknown_fate_waits_for_the_database_and_others_fail_meanwhile() {
    let bench = Bench::new().await;
    let (proxy, replica) = behind(&bench).await;
    proxy.lose(Loss::Take { what: Lost::Answer, then_all: true });
    let (tell, mut told) = watch::channel(());
    let (waiting, freed) = (replica.clone(), Freed(tell));
    let waiting = tokio::spawn(async move { waiting.take(both(), Box::new(freed)).await });
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
