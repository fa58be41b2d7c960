//! The open connections of a server: each is served in its own task; if there are too many, the oldest idle one is
//! closed.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Notify;
use tokio::time::error::Elapsed;

use super::joined::Joined;
use super::{Abandoned, Accepted, Body, BodyError, Handler, Limits};

/// A [`Handler`] without its type, so that hyper's state machine is compiled only once, here, and optimized for speed
/// (see the profiles in `Cargo.toml`), instead of with every server.
pub(super) trait Serve: Send + Sync + 'static {
    fn at_once(&self, request: &Request<Incoming>) -> Option<Response<Body>>;

    fn serve(&self, request: Request<Incoming>) -> Answering<'_>;

    fn too_late(&self) -> Response<Body>;
}

type Answering<'a> = Pin<Box<dyn Future<Output = Result<Response<Body>, Abandoned>> + Send + 'a>>;

impl<H: Handler> Serve for H {
    fn at_once(&self, request: &Request<Incoming>) -> Option<Response<Body>> {
        Handler::at_once(self, request)
    }

    fn serve(&self, request: Request<Incoming>) -> Answering<'_> {
        Box::pin(self.handle(request))
    }

    fn too_late(&self) -> Response<Body> {
        Handler::too_late(self)
    }
}

pub(super) struct Connections {
    pub(super) limits: Limits,
    handler: Arc<dyn Serve>,
    pub(super) table: Arc<Table>,
}

/// The open connections. A row cannot outlive its connection: the connection's task owns the [`Seat`] that removes it,
/// and is dropped however it ends.
#[derive(Default)]
pub(super) struct Table {
    rows: Mutex<Rows>,
    /// Notified when a connection becomes idle or has ended.
    pub(super) changed: Notify,
}

#[derive(Default)]
struct Rows {
    /// By number, so in the order of age; without those that were told to close.
    open: BTreeMap<u64, Arc<Connection>>,
    /// The number of the next connection.
    next: u64,
    /// Connections whose task has not ended.
    tasks: usize,
}

/// One connection, as its task and the server see it.
struct Connection {
    number: u64,
    table: Arc<Table>,
    /// Requests being served: one or none in HTTP/1.
    serving: AtomicUsize,
    /// Whether `told` means to close at once; otherwise it means to close when the request is answered.
    closes: AtomicBool,
    told: Notify,
}

/// A connection's row in the table, removed on drop.
struct Seat(Arc<Connection>);

impl Drop for Seat {
    fn drop(&mut self) {
        let mut rows = self.0.table.rows();
        rows.open.remove(&self.0.number);
        rows.tasks -= 1;
        drop(rows);
        self.0.table.changed.notify_one();
    }
}

impl Table {
    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>) -> Seat {
        let mut rows = self.rows();
        let connection = Arc::new(Connection {
            number: rows.next,
            table: Arc::clone(self),
            serving: AtomicUsize::new(0),
            closes: AtomicBool::new(false),
            told: Notify::new(),
        });
        rows.next += 1;
        rows.tasks += 1;
        rows.open.insert(connection.number, Arc::clone(&connection));
        Seat(connection)
    }

    /// Rows, and connections whose task has not ended.
    pub(super) fn size(&self) -> (usize, usize) {
        let rows = self.rows();
        (rows.open.len(), rows.tasks)
    }

    /// Waits until the task of every connection has ended.
    pub(super) async fn emptied(&self) {
        while self.size().1 > 0 {
            self.changed.notified().await;
        }
    }
}

impl Rows {
    fn oldest_idle(&self) -> Option<&Arc<Connection>> {
        self.open.values().find(|open| open.serving.load(Ordering::Relaxed) == 0)
    }

    fn close_oldest_idle(&mut self) {
        if let Some(number) = self.oldest_idle().map(|idle| idle.number) {
            self.open.remove(&number).into_iter().for_each(|idle| idle.close());
        }
    }
}

impl Connection {
    fn close(&self) {
        self.closes.store(true, Ordering::Relaxed);
        self.told.notify_one();
    }
}

impl Connections {
    pub(super) fn new(limits: Limits, handler: Arc<dyn Serve>) -> Self {
        Self { limits, handler, table: Arc::default() }
    }

    /// Whether another connection can be accepted, if necessary by closing an idle one.
    pub(super) fn has_room(&self) -> bool {
        let rows = self.table.rows();
        rows.open.len() < self.limits.connections_max || rows.oldest_idle().is_some()
    }

    pub(super) fn start(&self, accepted: Accepted) {
        if self.table.size().0 >= self.limits.connections_max {
            self.close_oldest_idle();
        }
        tokio::spawn(serve_connection(accepted, self.limits, Arc::clone(&self.handler), self.table.enter()));
    }

    pub(super) fn close_oldest_idle(&self) {
        self.table.rows().close_oldest_idle();
    }

    /// Lets each connection answer its request; closes those that are still busy after the limit.
    pub(super) async fn drain(self) {
        self.table.rows().open.values().for_each(|open| open.told.notify_one());
        if tokio::time::timeout(self.limits.drain_timeout, self.table.emptied()).await.is_err() {
            self.table.rows().open.values().for_each(|open| open.close());
            self.table.emptied().await;
        }
    }
}

/// No connection outlives its server.
impl Drop for Connections {
    fn drop(&mut self) {
        self.table.rows().open.values().for_each(|open| open.close());
    }
}

/// A request that is being served, until the last byte of its answer was given to the connection.
struct Serving(Arc<Connection>);

impl Serving {
    fn of(connection: &Arc<Connection>) -> Self {
        connection.serving.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(connection))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.serving.fetch_sub(1, Ordering::Relaxed);
        self.0.table.changed.notify_one();
    }
}

/// An answer's body, which marks its connection as busy.
struct Served {
    body: Body,
    _serving: Serving,
}

impl hyper::body::Body for Served {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A request, or its answer if that waits for nothing.
enum Asked {
    Answered(Response<Body>),
    Asks(Arc<dyn Serve>, Request<Incoming>),
}

async fn serve_connection(accepted: Accepted, limits: Limits, handler: Arc<dyn Serve>, seat: Seat) {
    let seated = Arc::clone(&seat.0);
    let service = service_fn(move |request| {
        let serving = Serving::of(&seated);
        let asked = match handler.at_once(&request) {
            // hyper reads on before it polls the answer. As long as the request exists, that takes another buffer.
            Some(answer) => Asked::Answered(answer),
            None => Asked::Asks(Arc::clone(&handler), request),
        };
        async move {
            let answer = match asked {
                Asked::Answered(answer) => Ok(answer),
                Asked::Asks(handler, request) => {
                    let answer = in_time(limits.request_timeout, handler.serve(request)).await;
                    answer.unwrap_or_else(|_| Ok(handler.too_late()))
                }
            };
            answer.map(|answer| answer.map(|body| Served { body, _serving: serving }))
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.header_bytes_max.max(HYPER_BUFFER_MIN))
        .serve_connection(TokioIo::new(Joined(accepted.stream)), service);
    tokio::pin!(connection);
    loop {
        tokio::select! {
            // A connection that was told to close must not begin another request.
            biased;
            () = seat.0.told.notified() => match seat.0.closes.load(Ordering::Relaxed) {
                true => return,
                false => connection.as_mut().graceful_shutdown(),
            },
            // A peer that went away, sent an invalid request or was too slow affects no other connection.
            ended = connection.as_mut() => {
                if let (Err(_), Some(socket)) = (ended, accepted.socket) {
                    // A linger time of zero turns the close into a reset.
                    let _ = socket.set_linger(Some(Duration::ZERO));
                }
                return;
            }
        }
    }
}

/// What `answering` returns within `limit`; an answer that waits for nothing needs no timer.
async fn in_time<T>(
    limit: Duration,
    mut answering: Pin<Box<dyn Future<Output = T> + Send + '_>>,
) -> Result<T, Elapsed> {
    match std::future::poll_fn(|context| Poll::Ready(answering.as_mut().poll(context))).await {
        Poll::Ready(answer) => Ok(answer),
        Poll::Pending => tokio::time::timeout(limit, answering).await,
    }
}

/// hyper refuses a smaller buffer.
const HYPER_BUFFER_MIN: usize = 8192;
