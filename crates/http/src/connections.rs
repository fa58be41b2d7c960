//! The open connections of a server: each is served in its own task; if there are too many, the oldest idle one is
//! closed.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::joined::Joined;
use super::{Abandoned, Accepted, Body, BodyError, Handler, Limits, stopped};

/// A [`Handler`] without its type, so that hyper's state machine is compiled only once, here, and optimized for speed
/// (see the profiles in `Cargo.toml`), instead of with every server.
pub(super) trait Serve: Send + Sync + 'static {
    fn serve(&self, request: Request<Incoming>) -> Answering<'_>;

    fn too_late(&self) -> Response<Body>;
}

type Answering<'a> = Pin<Box<dyn Future<Output = Result<Response<Body>, Abandoned>> + Send + 'a>>;

impl<H: Handler> Serve for H {
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
    /// Each returns its number.
    pub(super) tasks: JoinSet<u64>,
    /// By number, so in the order of age.
    pub(super) open: BTreeMap<u64, OpenConnection>,
    started: u64,
    /// Notified when a connection becomes idle.
    pub(super) idled: Arc<Notify>,
}

pub(super) struct OpenConnection {
    task: AbortHandle,
    /// Requests being served: one or none in HTTP/1.
    serving: Arc<AtomicUsize>,
}

impl Connections {
    pub(super) fn new(limits: Limits, handler: Arc<dyn Serve>) -> Self {
        let (tasks, idled) = (JoinSet::new(), Arc::new(Notify::new()));
        Self { limits, handler, tasks, open: BTreeMap::new(), started: 0, idled }
    }

    /// Whether another connection can be accepted, if necessary by closing an idle one.
    pub(super) fn has_room(&self) -> bool {
        self.open.len() < self.limits.connections_max || self.oldest_idle().is_some()
    }

    pub(super) fn start(&mut self, accepted: Accepted, stop: watch::Receiver<bool>) {
        if self.open.len() >= self.limits.connections_max {
            self.cut_oldest_idle();
        }
        let number = self.started;
        self.started += 1;
        let serving = Arc::<AtomicUsize>::default();
        let marker = Marker { serving: Arc::clone(&serving), idled: Arc::clone(&self.idled) };
        let connection = serve_connection(accepted, self.limits, Arc::clone(&self.handler), marker, stop);
        let task = self.tasks.spawn(async move {
            connection.await;
            number
        });
        self.open.insert(number, OpenConnection { task, serving });
    }

    /// Removes a connection that has ended; `None` if it was aborted or panicked, so that its number is unknown.
    pub(super) fn forget(&mut self, number: Option<u64>) {
        match number {
            Some(number) => drop(self.open.remove(&number)),
            None => self.open.retain(|_, open| !open.task.is_finished()),
        }
    }

    fn oldest_idle(&self) -> Option<u64> {
        let idle = |open: &OpenConnection| open.serving.load(Ordering::Relaxed) == 0;
        self.open.iter().find(|(_, open)| idle(open)).map(|(number, _)| *number)
    }

    pub(super) fn cut_oldest_idle(&mut self) {
        if let Some(open) = self.oldest_idle().and_then(|number| self.open.remove(&number)) {
            open.task.abort();
        }
    }

    pub(super) async fn drain(mut self) {
        let all_done = async { while self.tasks.join_next().await.is_some() {} };
        // Dropping the set closes connections that are still busy after the limit.
        let _ = tokio::time::timeout(self.limits.drain_timeout, all_done).await;
    }
}

/// Marks a connection as serving a request.
#[derive(Clone)]
struct Marker {
    serving: Arc<AtomicUsize>,
    idled: Arc<Notify>,
}

/// A request that is being served, until the last byte of its answer was given to the connection.
struct Serving(Marker);

impl Marker {
    fn serve(&self) -> Serving {
        self.serving.fetch_add(1, Ordering::Relaxed);
        Serving(self.clone())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.serving.fetch_sub(1, Ordering::Relaxed);
        self.0.idled.notify_one();
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

async fn serve_connection(
    accepted: Accepted,
    limits: Limits,
    handler: Arc<dyn Serve>,
    marker: Marker,
    mut stop: watch::Receiver<bool>,
) {
    let service = service_fn(move |request| {
        let (handler, serving) = (Arc::clone(&handler), marker.serve());
        async move {
            let answer = match tokio::time::timeout(limits.request_timeout, handler.serve(request)).await {
                Ok(answer) => answer,
                Err(_) => Ok(handler.too_late()),
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
    tokio::select! {
        // A peer that went away, sent an invalid request or was too slow affects no other connection.
        ended = connection.as_mut() => {
            if let (Err(_), Some(socket)) = (ended, accepted.socket) {
                // A linger time of zero turns the close into a reset.
                let _ = socket.set_linger(Some(Duration::ZERO));
            }
            return;
        }
        () = stopped(&mut stop) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// hyper refuses a smaller buffer.
const HYPER_BUFFER_MIN: usize = 8192;
