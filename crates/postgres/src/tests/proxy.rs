//! A connection that breaks where a test wants it to.

use std::sync::Mutex;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use super::bench::*;

/// What happens to the next message of each new kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
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
    /// The next COMMIT that is a message of its own, or the answer to it, is thrown away, and the connection breaks;
    /// then everything passes, or nothing.
    Commit { what: Lost, then_all: bool },
    /// As [`Loss::Commit`], with the next message that calls [`TAKE`].
    Take { what: Lost, then_all: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    Request,
    Answer,
}

/// What the message has that counts a group of events.
const TAKE: &[u8] = b"FROM tollgate.take";

impl Loss {
    /// Whether this message from the client is the one; then what is lost, and what happens afterwards.
    fn of(self, message: &[u8]) -> Option<(Lost, Self)> {
        let after = |then_all| if then_all { Self::All } else { Self::Nothing };
        match self {
            Self::Commit { what, then_all } if message == b"Q\0\0\0\x0bCOMMIT\0" => {
                Some((what, after(then_all)))
            }
            Self::Take { what, then_all } if message.windows(TAKE.len()).any(|part| part == TAKE) => {
                Some((what, after(then_all)))
            }
            _ => None,
        }
    }
}

/// Stands between a replica and the server.
pub(super) struct Proxy {
    port: u16,
    loss: watch::Sender<Loss>,
    delivery: Arc<Notify>,
    delivered: Arc<Notify>,
    /// Connections made so far.
    pub(super) connections: Arc<Mutex<u32>>,
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

    pub(super) fn lose(&self, loss: Loss) {
        self.loss.send_replace(loss);
    }

    /// Lets the message arrive that was held back, and waits until the server has answered it.
    pub(super) async fn deliver(&self) {
        self.delivery.notify_one();
        self.delivered.notified().await;
    }

    pub(super) fn url(&self, database: &Database) -> String {
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
                if let Some((what, after)) = lost.of(&up[..count]) {
                    if what == Lost::Answer {
                        swallow(&up[..count], &mut to_server, &mut from_server).await;
                    }
                    // Before the client can see that the connection broke.
                    loss.send_replace(after);
                    return;
                }
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
                    Loss::Nothing | Loss::Answer | Loss::All | Loss::Commit { .. } | Loss::Take { .. } => {
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

/// Passes a message on, and throws the answer away: all until the server is ready for the next one.
async fn swallow(message: &[u8], to_server: &mut OwnedWriteHalf, from_server: &mut OwnedReadHalf) {
    const READY: &[u8] = b"Z\0\0\0\x05I";
    to_server.write_all(message).await.unwrap();
    let (mut answer, mut part) = (Vec::new(), vec![0; 1 << 16]);
    while !answer.ends_with(READY) {
        match from_server.read(&mut part).await {
            Ok(count @ 1..) => answer.extend_from_slice(&part[..count]),
            _ => return,
        }
    }
}

async fn hold(message: Vec<u8>, to_server: &mut OwnedWriteHalf, delivery: &Notify) {
    delivery.notified().await;
    to_server.write_all(&message).await.unwrap();
}

/// A replica behind a proxy, which has counted one event.
pub(super) async fn behind(bench: &Bench) -> (Proxy, Writer) {
    let (proxy, through) = proxied(bench).await;
    let replica = bench.replica_with("behind", through);
    assert_eq!(one(&replica, event(None, 1, START)).await, Taken::Accepted);
    (proxy, replica)
}

/// A proxy, and a connector that reaches the database through it.
pub(super) async fn proxied(bench: &Bench) -> (Proxy, Arc<Connector>) {
    let proxy = Proxy::start(bench.database.server.port()).await;
    let folder = tempfile::tempdir().unwrap().keep();
    let file = folder.join("url");
    std::fs::write(&file, proxy.url(&bench.database)).unwrap();
    let direct = connector(&bench.database);
    let through = Connector { dsn: Source::File(file), ..(*direct).clone() };
    (proxy, Arc::new(through))
}
