//! A real server on a loopback address, and real clients.

use std::{convert::Infallible, net::SocketAddr};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower::Service;

/// Serves this service over HTTP/1 and HTTP/2 until the test ends.
pub async fn serve<S, B>(service: S) -> SocketAddr
where
    S: Service<Request<hyper::body::Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    B: http_body::Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>, Data: Send>
        + Send
        + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(service.clone());
            tokio::spawn(async move {
                // An error is how a connection of a client that left ends.
                let _ = auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    address
}

/// Sends this request line over a connection of its own, and returns all that comes back.
pub async fn raw(address: SocketAddr, request_line: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let request =
        format!("{request_line}\r\nhost: localhost\r\nconnection: close\r\nte: trailers\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("a request");
    let mut answer = String::new();
    // A connection that is cut is an answer too.
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Http1,
    Http2,
}

pub const VERSIONS: [Version; 2] = [Version::Http1, Version::Http2];

pub async fn request(
    address: SocketAddr,
    version: Version,
    method: &str,
    path: &str,
) -> Response<hyper::body::Incoming> {
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new())
        .http2_only(version == Version::Http2)
        .build_http();
    let request = Request::builder()
        .method(method)
        .uri(format!("http://{address}{path}"))
        .header("accept-encoding", "gzip")
        .header("te", "trailers")
        .body(Empty::new());
    client
        .request(request.expect("a valid request"))
        .await
        .expect("a response")
}

/// What a client has read when a body ends, and how it ended.
pub struct Received {
    pub bytes: Vec<u8>,
    pub trailers: Option<HeaderMap>,
    pub error: Option<hyper::Error>,
}

pub async fn receive(mut body: hyper::body::Incoming) -> Received {
    let mut received = Received {
        bytes: Vec::new(),
        trailers: None,
        error: None,
    };
    while let Some(frame) = body.frame().await {
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

impl Received {
    /// The text of a body that ended as it should.
    #[track_caller]
    pub fn text(self) -> String {
        if let Some(error) = self.error {
            panic!("the body was cut after {:?}: {error}", self.bytes);
        }
        String::from_utf8(self.bytes).expect("text")
    }
}

/// An event stream response.
pub fn event_stream(body: Body) -> Response<Body> {
    Response::builder()
        .header("content-type", "text/event-stream")
        .body(body)
        .expect("a valid response")
}
