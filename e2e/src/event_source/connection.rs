//! One connection to a server, over HTTP/1.1 or HTTP/2.

use std::net::SocketAddr;

use axum::{
    body::Bytes,
    http::{Request, Response, header},
};
use http_body_util::Empty;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, task::JoinHandle};

/// A connection that is closed when this is dropped.
#[derive(Debug)]
pub struct Connection {
    address: SocketAddr,
    sender: Sender,
    task: JoinHandle<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Http1,
    Http2,
}

/// Why there is no answer.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

impl Connection {
    pub async fn open(address: SocketAddr, version: Version) -> Result<Self, Error> {
        let stream = TokioIo::new(TcpStream::connect(address).await?);
        // An error of the connection is an error of the body that is read from it, too.
        let (sender, task) = match version {
            Version::Http1 => {
                let (sender, connection) = http1::handshake(stream).await?;
                let task = tokio::spawn(async { connection.await.unwrap_or_default() });
                (Sender::Http1(sender), task)
            }
            Version::Http2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
                let task = tokio::spawn(async { connection.await.unwrap_or_default() });
                (Sender::Http2(sender), task)
            }
        };
        Ok(Self {
            address,
            sender,
            task,
        })
    }

    /// Asks for an event stream, where one has been before if there is an ID.
    pub async fn get(
        &mut self,
        path: &str,
        last_event_id: &str,
    ) -> Result<Response<Incoming>, Error> {
        let request = match self.sender {
            Sender::Http1(_) => Request::get(path).header(header::HOST, self.address.to_string()),
            Sender::Http2(_) => Request::get(format!("http://{}{path}", self.address)),
        };
        let mut request = request
            .header(header::ACCEPT, "text/event-stream")
            .header(header::CACHE_CONTROL, "no-store");
        if !last_event_id.is_empty() {
            request = request.header("last-event-id", last_event_id);
        }
        let request = request.body(Empty::new())?;
        Ok(match &mut self.sender {
            Sender::Http1(sender) => sender.send_request(request).await?,
            Sender::Http2(sender) => sender.send_request(request).await?,
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}
