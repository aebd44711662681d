//! Serves a service over HTTP/1.1 and HTTP/2, and sends requests to it.

use std::{convert::Infallible, future::ready, net::SocketAddr};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tower::{Layer, Service, service_fn, util::BoxCloneService};

use crate::{exchange::event_stream_response, script::Script, wait::within};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A service that can be served, which every suitable service implements.
pub trait HttpService:
    Service<
        Request<Incoming>,
        Response = Response<<Self as HttpService>::Body>,
        Error = Infallible,
        Future: Send,
    > + Clone
    + Send
    + 'static
{
    /// The body of the responses.
    type Body: Body<Error: Into<BoxError>, Data: Send> + Send + 'static;
}

impl<S, B> HttpService for S
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
    B: Body<Error: Into<BoxError>, Data: Send> + Send + 'static,
{
    type Body = B;
}

/// A handler that [`serve_responses`] wraps in a layer.
pub type Handler = BoxCloneService<Request<Incoming>, Response<axum::body::Body>, Infallible>;

/// A version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 without TLS, with prior knowledge.
    Http2,
}

/// All versions that the servers of this crate speak.
pub const VERSIONS: [Version; 2] = [Version::Http1, Version::Http2];

/// Binds a free port of the loopback address.
pub async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

/// Serves this service until the runtime shuts down, and returns its address.
///
/// ```
/// use std::convert::Infallible;
/// use http::{Request, Response};
/// use testkit::{exchange::event_stream_response, server};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let address = server::serve(tower::service_fn(async |_: Request<_>| {
///     Ok::<_, Infallible>(event_stream_response("data: 1\n\n".to_owned()))
/// }))
/// .await;
/// for version in server::VERSIONS {
///     let response = server::request(address, version, "GET", "/").await;
///     assert_eq!(server::receive(response.into_body()).await.text(), "data: 1\n\n");
/// }
/// # }
/// ```
pub async fn serve(service: impl HttpService) -> SocketAddr {
    let (listener, address) = listen().await;
    accept(
        listener,
        auto::Builder::new(TokioExecutor::new()),
        service,
        || (),
    );
    address
}

/// Serves an event stream with each of these upstreams through this layer, and returns the server's address.
pub async fn serve_scripts<L>(
    layer: L,
    upstream: impl Fn() -> Script + Clone + Send + 'static,
) -> SocketAddr
where
    L: Layer<Handler, Service: HttpService>,
{
    let respond = move || event_stream_response(axum::body::Body::new(upstream()));
    serve_responses(layer, respond).await
}

/// Serves the responses of this closure through this layer, and returns the server's address.
pub async fn serve_responses<L>(
    layer: L,
    respond: impl Fn() -> Response<axum::body::Body> + Clone + Send + 'static,
) -> SocketAddr
where
    L: Layer<Handler, Service: HttpService>,
{
    let handler = service_fn(move |_| ready(Ok(respond())));
    serve(layer.layer(BoxCloneService::new(handler))).await
}

/// Serves all connections of a listener. Each connection holds a guard while it is open.
pub(crate) fn accept<G: Send + 'static>(
    listener: TcpListener,
    builder: auto::Builder<TokioExecutor>,
    service: impl HttpService,
    guard: impl Fn() -> G + Send + 'static,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (builder, guard) = (builder.clone(), guard());
            let service = TowerToHyperService::new(service.clone());
            tokio::spawn(async move {
                let _guard = guard;
                // A connection ends with an error if its client leaves early.
                let _ = builder
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    })
}

/// Sends a request without a body, over a new connection.
///
/// The request accepts gzip and trailers.
///
/// # Panics
///
/// Panics unless the server responds.
pub async fn request(
    address: SocketAddr,
    version: Version,
    method: &str,
    path: &str,
) -> Response<Incoming> {
    let request = Request::builder()
        .method(method)
        .uri(format!("http://{address}{path}"))
        .header("accept-encoding", "gzip")
        .header("te", "trailers")
        .body(Empty::<Bytes>::new());
    send(version, request.expect("a valid request")).await
}

/// Sends a request with an absolute URI, over a new connection.
///
/// # Panics
///
/// Panics unless the server responds.
pub async fn send<B>(version: Version, request: Request<B>) -> Response<Incoming>
where
    B: Body<Error: Into<BoxError>, Data: Send> + Send + Unpin + 'static,
{
    let client = Client::builder(TokioExecutor::new())
        .http2_only(version == Version::Http2)
        .build_http();
    within(client.request(request)).await.expect("a response")
}

/// Sends a request line over a connection of its own, and returns everything that the server sends until the
/// connection ends, whether cleanly or not.
pub async fn raw(address: SocketAddr, request_line: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let request =
        format!("{request_line}\r\nhost: localhost\r\nconnection: close\r\nte: trailers\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("a request");
    let mut response = String::new();
    // A truncated response is a result too.
    let _ = within(stream.read_to_string(&mut response)).await;
    response
}

/// The parts of a body that a client has received when the body ends.
#[derive(Debug)]
pub struct Received {
    /// The bytes of all data frames.
    pub bytes: Vec<u8>,
    /// The trailers.
    pub trailers: Option<HeaderMap>,
    /// The error with which the body has failed.
    pub error: Option<hyper::Error>,
}

/// Receives a body to its end.
pub async fn receive(mut body: Incoming) -> Received {
    let mut received = Received {
        bytes: Vec::new(),
        trailers: None,
        error: None,
    };
    while let Some(frame) = within(body.frame()).await {
        match frame.map(|frame| frame.into_data()) {
            Ok(Ok(data)) => received.bytes.extend_from_slice(&data),
            Ok(Err(frame)) => received.trailers = frame.into_trailers().ok(),
            Err(error) => {
                received.error = Some(error);
                break;
            }
        }
    }
    received
}

/// Receives the next data frame of a body.
///
/// # Panics
///
/// Panics unless the next frame is data.
pub async fn next_data(body: &mut Incoming) -> Bytes {
    let frame = within(body.frame()).await.expect("a frame");
    let frame = frame.expect("no error");
    frame.into_data().expect("data")
}

impl Received {
    /// Returns the text of a body that has ended cleanly.
    ///
    /// # Panics
    ///
    /// Panics if the body has failed, or is not UTF-8.
    #[track_caller]
    pub fn text(self) -> String {
        if let Some(error) = self.error {
            panic!("the body failed after {:?}: {error}", self.bytes);
        }
        String::from_utf8(self.bytes).expect("text")
    }
}
