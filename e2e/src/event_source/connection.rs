//! Connections to a server, over HTTP/1.1 or HTTP/2.

use std::{net::SocketAddr, sync::Arc};

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
use tokio::{net::TcpStream, sync::Mutex, task::JoinHandle};

/// A connection, which is closed when its last handle is dropped.
#[derive(Debug)]
pub struct Connection {
    address: SocketAddr,
    sender: Sender,
    task: Arc<Task>,
}

/// A task that is aborted when it is dropped.
#[derive(Debug)]
struct Task(JoinHandle<()>);

/// The HTTP version of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Http1,
    Http2,
}

/// Transport between a client and its server. Several clients over HTTP/2 may share its connection.
#[derive(Debug)]
pub struct Entrance {
    version: Version,
    addresses: Vec<SocketAddr>,
    shared: Mutex<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The index of the address for the next connection.
    next: usize,
    connection: Option<Connection>,
}

/// The reason why there is no response.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

impl Entrance {
    /// Returns an entrance whose connections have these addresses, in turn.
    pub fn new(version: Version, addresses: &[SocketAddr], first: usize) -> Arc<Self> {
        let shared = Shared {
            next: first,
            connection: None,
        };
        Arc::new(Self {
            version,
            addresses: addresses.to_vec(),
            shared: Mutex::new(shared),
        })
    }

    /// Requests an event stream. Returns the connection too, which the stream needs.
    pub(super) async fn get(
        &self,
        path: &str,
        last_event_id: &str,
    ) -> Result<(Response<Incoming>, Connection), Error> {
        let (mut connection, is_new) = self.connect().await?;
        match connection.get(path, last_event_id).await {
            Ok(response) => Ok((response, connection)),
            Err(error) if is_new => Err(error),
            // The server has ended the connection, for new streams at least.
            Err(_) => {
                self.shared.lock().await.connection = None;
                let (mut connection, _) = self.connect().await?;
                let response = connection.get(path, last_event_id).await?;
                Ok((response, connection))
            }
        }
    }

    /// Returns a connection, with `true` if this call has opened the connection.
    async fn connect(&self) -> Result<(Connection, bool), Error> {
        let mut shared = self.shared.lock().await;
        if let Some(connection) = shared.connection.as_ref().and_then(Connection::share) {
            return Ok((connection, false));
        }
        let address = self.addresses[shared.next % self.addresses.len()];
        shared.next += 1;
        let connection = Connection::open(address, self.version).await?;
        shared.connection = connection.share();
        Ok((connection, true))
    }
}

impl Connection {
    /// Connects to this server.
    ///
    /// # Errors
    ///
    /// Fails if the connection or its handshake fails.
    pub async fn open(address: SocketAddr, version: Version) -> Result<Self, Error> {
        Self::handshake(TcpStream::connect(address).await?, version).await
    }

    /// Performs the handshake over this socket.
    ///
    /// # Errors
    ///
    /// Fails if the handshake fails.
    pub async fn handshake(stream: TcpStream, version: Version) -> Result<Self, Error> {
        let address = stream.peer_addr()?;
        let stream = TokioIo::new(stream);
        // The body that is read from the connection returns the errors of the connection.
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
            task: Arc::new(Task(task)),
        })
    }

    /// Returns a second handle of the connection, for another stream. HTTP/1.1 has one stream for each connection.
    fn share(&self) -> Option<Self> {
        match &self.sender {
            Sender::Http1(_) => None,
            Sender::Http2(sender) => Some(Self {
                address: self.address,
                sender: Sender::Http2(sender.clone()),
                task: Arc::clone(&self.task),
            }),
        }
    }

    /// Requests an event stream, from after the event with this ID unless the ID is empty.
    ///
    /// # Errors
    ///
    /// Fails if the connection ends before the head of the response has arrived.
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

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
