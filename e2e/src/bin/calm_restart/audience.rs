//! Clients that read, and reconnect when their streams have ended.

use std::{
    collections::BTreeMap,
    error::Error,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::http::{Response, StatusCode};
use e2e::event_source::{Connection, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use testkit::decoder::Decoder;
use tokio::{task::JoinSet, time};

/// Clients that read until the audience is dropped.
#[derive(Debug)]
pub struct Audience {
    record: Arc<Record>,
    /// Aborts its tasks when it is dropped.
    _clients: JoinSet<()>,
}

/// What the clients have seen.
#[derive(Debug, Default)]
struct Record {
    /// The number of clients with an open stream.
    reading: AtomicUsize,
    counts: Mutex<Counts>,
}

/// What the clients of an audience have seen.
#[derive(Debug, Default)]
pub struct Counts {
    /// The number of streams that ended cleanly after their close event.
    pub closed: usize,
    /// The number of other streams, by the cause of their ends.
    pub lost: BTreeMap<String, usize>,
    /// The number of requests without an event stream, by their cause.
    pub refused: BTreeMap<String, usize>,
}

/// The connection of a client, or of several clients over HTTP/2.
#[derive(Debug)]
struct Line {
    version: Version,
    addresses: Vec<SocketAddr>,
    shared: tokio::sync::Mutex<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The index of the address for the next connection.
    next: usize,
    connection: Option<Connection>,
}

/// Streams of a connection over HTTP/2. Each of the proxies permits more of them.
const STREAMS: usize = 50;

/// Time between two attempts of a client to connect.
const PAUSE: Duration = Duration::from_millis(100);

/// The reconnection time of a client that has received none.
const DEFAULT_RETRY: Duration = Duration::from_secs(3);

type Failure = Box<dyn Error + Send + Sync>;

impl Audience {
    /// Starts clients, each with one of these addresses. A client whose connection ends takes the next address.
    pub fn gather(clients: usize, version: Version, addresses: &[SocketAddr]) -> Self {
        let record = Arc::<Record>::default();
        let streams = match version {
            Version::Http1 => 1,
            Version::Http2 => STREAMS,
        };
        let mut tasks = JoinSet::new();
        let mut line = None;
        for client in 0..clients {
            if client % streams == 0 {
                line = Some(Arc::new(Line::new(version, addresses, client / streams)));
            }
            if let Some(line) = &line {
                tasks.spawn(read(Arc::clone(line), Arc::clone(&record)));
            }
        }
        Self {
            record,
            _clients: tasks,
        }
    }

    /// Returns the number of clients with an open stream.
    pub fn reading(&self) -> usize {
        self.record.reading.load(Ordering::SeqCst)
    }

    /// Returns what has been counted since the last call.
    pub fn take_counts(&self) -> Counts {
        std::mem::take(&mut *self.record.counts())
    }

    /// Returns the number of streams that have ended since the last call of [`take_counts`](Self::take_counts).
    pub fn ends(&self) -> usize {
        let counts = self.record.counts();
        counts.closed + counts.lost.values().sum::<usize>()
    }
}

impl Record {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    /// Adds the counts of another part of a run.
    pub fn add(&mut self, other: Self) {
        self.closed += other.closed;
        for (sum, part) in [
            (&mut self.lost, other.lost),
            (&mut self.refused, other.refused),
        ] {
            for (cause, count) in part {
                *sum.entry(cause).or_default() += count;
            }
        }
    }
}

impl Line {
    fn new(version: Version, addresses: &[SocketAddr], number: usize) -> Self {
        let shared = Shared {
            next: number % addresses.len(),
            connection: None,
        };
        Self {
            version,
            addresses: addresses.to_vec(),
            shared: tokio::sync::Mutex::new(shared),
        }
    }

    /// Requests a stream. Returns the connection too, which the stream needs.
    async fn request(&self) -> Result<(Response<Incoming>, Connection), Failure> {
        let (mut connection, is_new) = self.connect().await?;
        match connection.get("/events", "").await {
            Ok(response) => Ok((response, connection)),
            Err(error) if is_new => Err(error),
            // The server has ended the connection, for new streams at least.
            Err(_) => {
                self.shared.lock().await.connection = None;
                let (mut connection, _) = self.connect().await?;
                let response = connection.get("/events", "").await?;
                Ok((response, connection))
            }
        }
    }

    /// Returns a connection, with `true` if this call has opened it.
    async fn connect(&self) -> Result<(Connection, bool), Failure> {
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

async fn read(line: Arc<Line>, record: Arc<Record>) {
    loop {
        let (response, _connection) = loop {
            let cause = match line.request().await {
                Ok(answer) if answer.0.status() == StatusCode::OK => break answer,
                Ok((response, _)) => response.status().to_string(),
                Err(error) => causes(&*error),
            };
            *record.counts().refused.entry(cause).or_default() += 1;
            time::sleep(PAUSE).await;
        };
        record.reading.fetch_add(1, Ordering::SeqCst);
        let (loss, retry) = read_stream(response.into_body()).await;
        record.reading.fetch_sub(1, Ordering::SeqCst);
        {
            let mut counts = record.counts();
            match loss {
                None => counts.closed += 1,
                Some(cause) => *counts.lost.entry(cause).or_default() += 1,
            }
        }
        time::sleep(retry).await;
    }
}

/// Reads a stream to its end. Returns the cause unless the stream ends cleanly after its close event, and the reconnection time.
async fn read_stream(mut body: Incoming) -> (Option<String>, Duration) {
    let mut decoder = Decoder::new();
    let (mut is_closed, mut error) = (false, None);
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => {
                let data = frame.into_data().unwrap_or_default();
                if let Some(last) = decoder.feed(&data).last() {
                    is_closed = last.event_type == "close";
                }
            }
            Err(failed) => {
                error = Some(causes(&failed));
                break;
            }
        }
    }
    let loss = match (is_closed, error) {
        (true, None) => None,
        (false, None) => Some("a clean end".to_owned()),
        (_, Some(error)) => Some(error),
    };
    (loss, decoder.retry().unwrap_or(DEFAULT_RETRY))
}

/// Returns the message of an error, with its causes.
fn causes(error: &dyn Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    message
}
