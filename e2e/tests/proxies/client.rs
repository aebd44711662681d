//! A client that reads the bytes of one stream.

use std::{future::Future, net::SocketAddr, time::Duration};

use axum::http::{HeaderMap, HeaderName, StatusCode};
use e2e::event_source::{Connection, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time;

pub struct Client {
    connection: Connection,
    version: Version,
    pub status: StatusCode,
    headers: HeaderMap,
    body: Incoming,
    read: Vec<u8>,
}

/// The end of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Clean,
    Cut,
}

const LONG: Duration = Duration::from_secs(30);

/// Waits for this future, with a timeout.
pub async fn in_time<F: Future>(what: &str, future: F) -> F::Output {
    time::timeout(LONG, future)
        .await
        .unwrap_or_else(|_| panic!("timed out waiting until {what}"))
}

impl Client {
    pub async fn open(address: SocketAddr, version: Version, path: &str) -> Self {
        let response = async {
            let mut connection = Connection::open(address, version)
                .await
                .expect("a connection");
            let response = connection.get(path, "").await.expect("a response");
            (connection, response)
        };
        let (connection, response) = in_time("a response arrives", response).await;
        let (head, body) = response.into_parts();
        Self {
            connection,
            version,
            status: head.status,
            headers: head.headers,
            body,
            read: Vec::new(),
        }
    }

    pub fn header(&self, name: &HeaderName) -> &str {
        let value = self.headers.get(name).map(|value| value.to_str());
        value.and_then(Result::ok).unwrap_or_default()
    }

    /// Reads until this text has arrived, and discards everything that was read.
    pub async fn until(&mut self, text: &str) {
        let arrived = async {
            while !String::from_utf8_lossy(&self.read).contains(text) {
                assert_eq!(
                    self.read_frame().await,
                    None,
                    "{:?} has no {text:?}",
                    self.read
                );
            }
        };
        in_time(&format!("{text:?} arrives"), arrived).await;
        self.read.clear();
    }

    /// Reads to the end of the stream, and returns everything since the last discard.
    pub async fn end(mut self) -> (String, End) {
        let end = async {
            loop {
                if let Some(end) = self.read_frame().await {
                    break end;
                }
            }
        };
        let end = in_time("the stream ends", end).await;
        if end == End::Clean && self.version == Version::Http1 {
            let encoding = self.header(&HeaderName::from_static("transfer-encoding"));
            assert_eq!(encoding, "chunked", "only a last chunk is a clean end");
        }
        (String::from_utf8(self.read).expect("text"), end)
    }

    /// Leaves like a browser: over HTTP/2 the connection stays open.
    pub fn leave(self) -> Option<Connection> {
        (self.version == Version::Http2).then_some(self.connection)
    }

    async fn read_frame(&mut self) -> Option<End> {
        match self.body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    self.read.extend_from_slice(&data);
                }
                None
            }
            Some(Err(_)) => Some(End::Cut),
            None => Some(End::Clean),
        }
    }
}
