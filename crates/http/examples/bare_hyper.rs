//! The floor of `benches/serving.py`: hyper with the limits of the probe server, and one answer that never changes.
//!
//! Usage: `bare_hyper FILE ADDRESS`. FILE has the answer's body. Its head is that of a probe's answer, so that both
//! servers send as many bytes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

/// As the probe server's, so that hyper keeps the same timers and buffers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_BYTES_MAX: usize = 8192;

#[expect(clippy::disallowed_methods, reason = "a measuring tool, without configuration")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(file), Some(address)) = (arguments.next(), arguments.next()) else {
        return Err("usage: bare_hyper FILE ADDRESS".into());
    };
    let (body, address): (Bytes, SocketAddr) = (std::fs::read(file)?.into(), address.parse()?);
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(body, address))
}

async fn serve(body: Bytes, address: SocketAddr) -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let body = body.clone();
        let service = service_fn(move |_: Request<Incoming>| {
            let answer = answer(body.clone());
            async { Ok::<_, Infallible>(answer) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(HEADER_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        // The client of a connection that breaks knows.
        tokio::spawn(async { drop(connection.await) });
    }
}

fn answer(body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
