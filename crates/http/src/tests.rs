//! The shell with real sockets on loopback: keep-alive, limits, closing the oldest idle connection, drain.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::client::{Ask, ask};
use super::*;

const LIMITS: Limits = Limits {
    connections_max: 2,
    header_timeout: Duration::from_secs(5),
    header_bytes_max: 8192,
    request_timeout: Duration::from_secs(5),
    drain_timeout: Duration::from_secs(5),
    reset_when_abandoned: false,
};

#[derive(Clone)]
struct Echo;

impl Handler for Echo {
    async fn handle(&self, request: Request<Incoming>) -> Result<Response<Body>, Abandoned> {
        match request.uri().path() {
            "/abandon" => Err(Abandoned),
            "/hang" => std::future::pending().await,
            _ => Ok(match BodyBudget::new(1 << 10).read(request.into_body(), 4).await {
                Ok(bytes) => text(StatusCode::OK, bytes.to_vec()),
                Err(_) => text(StatusCode::PAYLOAD_TOO_LARGE, ""),
            }),
        }
    }
}

struct Running {
    addr: SocketAddr,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

fn start(limits: Limits) -> Running {
    let listener = Listener::bind(&Address::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
    let Address::Tcp(addr) = listener.local_address().unwrap() else { panic!("bound over IP") };
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(serve(listener, limits, Echo, stopped));
    Running { addr, stop, task }
}

async fn post(
    running: &Running,
    path: &str,
    body: &'static str,
) -> Result<Response<Bytes>, client::ClientError> {
    ask(&Address::Tcp(running.addr), Ask::post(path, body), Duration::from_secs(5)).await
}

#[tokio::test]
async fn bodies_are_read_up_to_the_limit() {
    let running = start(LIMITS);
    assert_eq!(&post(&running, "/", "1234").await.unwrap().into_body()[..], b"1234");
    assert_eq!(post(&running, "/", "12345").await.unwrap().status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn the_oldest_idle_connection_gives_way() {
    let running = start(LIMITS);
    let mut idle = Vec::new();
    for _ in 0..LIMITS.connections_max {
        let mut stream = TcpStream::connect(running.addr).await.unwrap();
        // One answered request each proves that the server has accepted the connection.
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        idle.push(stream);
    }
    assert_eq!(post(&running, "/", "ok").await.unwrap().status(), StatusCode::OK);
    let mut rest = Vec::new();
    idle[0].read_to_end(&mut rest).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_that_hangs_is_answered_408() {
    let running = start(LIMITS);
    assert_eq!(post(&running, "/hang", "").await.map(|a| a.status()).ok(), None, "the client gives up first");
    let patient = ask(&Address::Tcp(running.addr), Ask::get("/hang"), Duration::from_secs(60)).await.unwrap();
    assert_eq!(patient.status(), StatusCode::REQUEST_TIMEOUT);
}

#[tokio::test]
async fn an_abandoned_request_gets_no_answer() {
    let running = start(LIMITS);
    assert!(matches!(post(&running, "/abandon", "").await, Err(client::ClientError::Protocol { .. })));
}

#[tokio::test]
async fn draining_answers_what_is_in_flight_and_then_ends() {
    let running = start(LIMITS);
    let mut stream = TcpStream::connect(running.addr).await.unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nh").await.unwrap();
    // The second connection is accepted after the first: when it is answered, the first is being served.
    assert_eq!(post(&running, "/", "ok").await.unwrap().status(), StatusCode::OK);
    running.stop.send_replace(true);
    stream.write_all(b"i").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hi"), "{answer}");
    running.task.await.unwrap();
}

#[tokio::test]
async fn a_stale_unix_socket_is_taken_over_and_a_live_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "std leaves the file behind");
    let address = Address::Unix(path.clone());
    let live = Listener::bind(&address).unwrap();
    assert_eq!(Listener::bind(&address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    drop(live);
    assert!(!path.exists());
}

/// A new connection with a request; waits for the answer if `answered`.
async fn connected(running: &Running, request: &str, answered: bool) -> TcpStream {
    let mut stream = TcpStream::connect(running.addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    if answered {
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
    }
    stream
}

const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";

#[tokio::test]
async fn a_request_that_is_served_never_gives_way_to_idle_connections() {
    let running = start(LIMITS);
    // The oldest connection: its body is not complete.
    let mut served =
        connected(&running, "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nh", false).await;
    for _ in 0..20 {
        // Each displaces the one before, which is idle by then.
        drop(connected(&running, GET, true).await);
        let _idle = connected(&running, GET, true).await;
    }
    served.write_all(b"i").await.unwrap();
    let mut answer = [0; 12];
    served.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}

#[tokio::test]
async fn where_each_connection_serves_a_request_the_next_one_waits() {
    let running = start(LIMITS);
    let half = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nh";
    let mut first = connected(&running, half, false).await;
    let mut second = connected(&running, half, false).await;
    let waiting = tokio::spawn({
        let addr = running.addr;
        async move { ask(&Address::Tcp(addr), Ask::post("/", "ok"), Duration::from_secs(5)).await }
    });
    for stream in [&mut first, &mut second] {
        stream.write_all(b"i").await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
    }
    assert_eq!(waiting.await.unwrap().unwrap().status(), StatusCode::OK);
}

/// A server's table with 3,000 connections that have ended by `end`, 16 at a time.
async fn after_3000_connections(
    limits: Limits,
    end: impl AsyncFn(&mut tokio::io::DuplexStream),
) -> (usize, usize) {
    let connections = Connections::new(limits, Arc::new(Echo));
    for _ in 0..3000 / 16 + 1 {
        let mut clients = Vec::new();
        for _ in 0..16 {
            let (client, server) = tokio::io::duplex(1024);
            connections.start(Accepted { stream: Box::new(server), socket: None });
            clients.push(client);
        }
        for client in &mut clients {
            end(client).await;
        }
        drop(clients);
        connections.table.emptied().await;
    }
    connections.table.size()
}

#[tokio::test]
async fn nothing_is_kept_of_connections_that_have_ended() {
    let many = Limits { connections_max: 1000, ..LIMITS };
    assert_eq!(after_3000_connections(many, async |_| {}).await, (0, 0), "closed by the client");
    let answered = async |client: &mut tokio::io::DuplexStream| {
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        client.read_to_end(&mut Vec::new()).await.unwrap();
    };
    assert_eq!(after_3000_connections(many, answered).await, (0, 0), "closed by the server");
    let abandoned = async |client: &mut tokio::io::DuplexStream| {
        client.write_all(b"GET /abandon HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        client.read_to_end(&mut Vec::new()).await.unwrap();
    };
    assert_eq!(after_3000_connections(many, abandoned).await, (0, 0), "abandoned");
    // With room for two of 16, most are displaced.
    assert_eq!(after_3000_connections(LIMITS, async |_| {}).await, (0, 0), "displaced");
}

#[tokio::test]
async fn a_client_that_sends_its_headers_slowly_is_cut_at_the_limit() {
    let running = start(LIMITS);
    let mut slow = connected(&running, GET, true).await;
    tokio::time::pause();
    slow.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nx-slow: ").await.unwrap();
    let mut rest = Vec::new();
    let early = tokio::time::timeout(LIMITS.header_timeout / 5, slow.read_to_end(&mut rest)).await;
    assert!(early.is_err(), "it has its time");
    let late = tokio::time::timeout(LIMITS.header_timeout, slow.read_to_end(&mut rest)).await;
    assert!(late.is_ok(), "and not more");
    assert!(!rest.starts_with(b"HTTP/1.1"), "the rest is that of the first answer");
}

#[tokio::test]
async fn a_connection_that_is_busy_after_the_drain_is_cut() {
    let mut running = start(Limits { request_timeout: Duration::from_secs(60), ..LIMITS });
    let mut busy = connected(&running, "GET /hang HTTP/1.1\r\nhost: x\r\n\r\n", false).await;
    // The second connection is accepted after the first: when it is answered, the first is being served.
    drop(connected(&running, GET, true).await);
    tokio::time::pause();
    running.stop.send_replace(true);
    let early = tokio::time::timeout(LIMITS.drain_timeout / 2, &mut running.task).await;
    assert!(early.is_err(), "it has its time");
    running.task.await.unwrap();
    assert_eq!(busy.read(&mut [0]).await.unwrap_or(0), 0, "no answer");
}

#[tokio::test]
async fn answers_are_not_held_back_to_be_joined() {
    let listener = Listener::bind(&Address::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
    let (Address::Tcp(addr), Listener::Tcp(inner)) = (listener.local_address().unwrap(), &listener) else {
        panic!("bound over IP")
    };
    let _client = TcpStream::connect(addr).await.unwrap();
    assert!(inner.accept().await.unwrap().0.nodelay().unwrap(), "as the listener's option says");
}
