//! The clients, which connect and leave at random.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::http::StatusCode;
use e2e::event_source::{Connection, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use testkit::decoder::Decoder;
use tokio::{
    net::TcpSocket,
    sync::{Semaphore, watch},
    task::JoinSet,
    time,
};

use crate::{
    Failure,
    streams::{Kind, payload, random},
};

/// Maximum number of clients that connect at the same time.
const CONNECTING: usize = 256;

/// The end of a client's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// The client has left.
    Left,
    /// The last event is the close event.
    Closed,
    /// The handler ended its stream after an event.
    Completed,
    /// The handler ended its stream inside an event.
    Truncated,
    /// The handler failed.
    Failed,
    /// The connection was cut.
    Cut,
    /// The server refused the client.
    Refused,
}

/// The clients of one server.
pub struct Clients {
    address: SocketAddr,
    /// Mean time until a client leaves.
    stay: f64,
    tasks: JoinSet<Result<End, Failure>>,
    connecting: Arc<Semaphore>,
    opened: Arc<AtomicUsize>,
    /// Set when the server has ended, for clients that do not read.
    over: watch::Sender<bool>,
    pub ends: BTreeMap<End, usize>,
}

impl Clients {
    pub fn new(address: SocketAddr, stay: f64) -> Self {
        Self {
            address,
            stay,
            tasks: JoinSet::new(),
            connecting: Arc::new(Semaphore::new(CONNECTING)),
            opened: Arc::default(),
            over: watch::Sender::new(false),
            ends: BTreeMap::new(),
        }
    }

    /// Returns the number of responses so far.
    pub fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }

    /// Keeps this number of clients until the next tick.
    ///
    /// # Errors
    ///
    /// Fails if the end of a stream is not one that its kind has, or if the server refuses a client.
    pub async fn keep(&mut self, number: usize, tick: Duration) -> Result<(), Failure> {
        let tick = time::sleep(tick);
        tokio::pin!(tick);
        loop {
            while self.tasks.len() < number {
                self.add();
            }
            tokio::select! {
                Some(ended) = self.tasks.join_next() => {
                    let end = ended??;
                    if end == End::Refused {
                        return Err("a client is refused by a server that has not drained".into());
                    }
                    *self.ends.entry(end).or_default() += 1;
                }
                () = &mut tick => return Ok(()),
            }
        }
    }

    /// Waits for the ends of all streams of a server that has ended.
    ///
    /// # Errors
    ///
    /// Fails if the end of a stream is not one that its kind has.
    pub async fn finish(&mut self) -> Result<(), Failure> {
        self.over.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            *self.ends.entry(ended??).or_default() += 1;
        }
        Ok(())
    }

    fn add(&mut self) {
        let client = Client {
            address: self.address,
            kind: Kind::random(),
            version: match fastrand::u8(0..10) {
                0 => Version::Http2,
                _ => Version::Http1,
            },
            stay: random(self.stay),
            connecting: Arc::clone(&self.connecting),
            opened: Arc::clone(&self.opened),
            over: self.over.subscribe(),
        };
        self.tasks.spawn(client.run());
    }
}

struct Client {
    address: SocketAddr,
    kind: Kind,
    version: Version,
    /// Time until the client leaves.
    stay: Duration,
    connecting: Arc<Semaphore>,
    opened: Arc<AtomicUsize>,
    over: watch::Receiver<bool>,
}

impl Client {
    async fn run(mut self) -> Result<End, Failure> {
        let connecting = Arc::clone(&self.connecting);
        let permit = connecting.acquire().await?;
        let Ok((body, _connection)) = self.open().await else {
            return Ok(End::Refused);
        };
        drop(permit);
        self.opened.fetch_add(1, Ordering::Relaxed);
        let read = async {
            if self.kind == Kind::Flood {
                // The client does not read.
                self.over.wait_for(|over| *over).await?;
                return Ok(End::Left);
            }
            read(body, self.kind).await
        };
        match time::timeout(self.stay, read).await {
            Ok(end) => end,
            Err(_) => Ok(End::Left),
        }
    }

    /// Connects, and returns the body of the response.
    async fn open(&self) -> Result<(Incoming, Connection), Failure> {
        let socket = TcpSocket::new_v4()?;
        if self.kind == Kind::Flood {
            socket.set_recv_buffer_size(4096)?;
        }
        if fastrand::bool() {
            // The connection is reset when the client leaves.
            socket.set_zero_linger()?;
        }
        let stream = socket.connect(self.address).await?;
        let mut connection = Connection::handshake(stream, self.version).await?;
        let response = connection.get(self.kind.path(), "").await?;
        match response.status() {
            StatusCode::OK => Ok((response.into_body(), connection)),
            status => Err(status.to_string().into()),
        }
    }
}

/// Reads a stream to its end.
///
/// # Errors
///
/// Fails if an event is torn, missing or not expected, or if the end of the stream is not one that its kind has.
async fn read(mut body: Incoming, kind: Kind) -> Result<End, Failure> {
    let mut decoder = Decoder::new();
    let (mut received, mut closed) = (0, false);
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return Ok(match kind {
                Kind::Fails => End::Failed,
                _ => End::Cut,
            });
        };
        for event in decoder.feed(frame.data_ref().map_or(&[], |data| data)) {
            let is_close_event = event.event_type == "close";
            let data = match is_close_event {
                true => String::new(),
                false => payload(received + 1),
            };
            let number = received + u64::from(!is_close_event);
            let id = match number {
                0 => String::new(),
                _ => number.to_string(),
            };
            if closed || event.data != data || event.last_event_id != id {
                return Err(format!("{kind:?} sends {event:?} after event {received}").into());
            }
            closed = is_close_event;
            received = number;
        }
    }
    match (closed, decoder.is_pending(), kind) {
        (true, false, _) => Ok(End::Closed),
        (false, false, Kind::Completes) if received > 0 => Ok(End::Completed),
        (false, true, Kind::Truncated) => Ok(End::Truncated),
        end => Err(format!("a stream ends as {end:?} after event {received}").into()),
    }
}
