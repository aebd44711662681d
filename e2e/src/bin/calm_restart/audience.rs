//! Clients that read, and reconnect when their streams have ended.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use e2e::event_source::{ClientEvent, Entrance, EventSource, Version};
use tokio::task::JoinSet;

/// Clients that read until the audience is dropped.
#[derive(Debug)]
pub struct Audience {
    counts: Arc<Counts>,
    /// Aborts its tasks when it is dropped.
    _clients: JoinSet<()>,
}

/// The events of all clients.
#[derive(Debug, Default)]
struct Counts {
    /// The number of clients with an open stream.
    reading: AtomicUsize,
    closed: AtomicUsize,
    lost: AtomicUsize,
    refused: AtomicUsize,
}

/// Streams of a connection over HTTP/2. Each of the proxies permits more of them.
const STREAMS: usize = 50;

impl Audience {
    /// Starts clients, each with one of these addresses. A client whose connection ends takes the next address.
    pub fn gather(clients: usize, version: Version, addresses: &[SocketAddr]) -> Self {
        let counts = Arc::<Counts>::default();
        let streams = match version {
            Version::Http1 => 1,
            Version::Http2 => STREAMS,
        };
        let mut tasks = JoinSet::new();
        for first in (0..clients).step_by(streams) {
            let entrance = Entrance::new(version, addresses, first / streams);
            for _ in first..clients.min(first + streams) {
                let source = EventSource::new(Arc::clone(&entrance), "/events");
                tasks.spawn(read(source, Arc::clone(&counts)));
            }
        }
        Self {
            counts,
            _clients: tasks,
        }
    }

    /// Returns the number of clients with an open stream.
    pub fn reading(&self) -> usize {
        self.counts.reading.load(Ordering::SeqCst)
    }

    /// Returns the number of streams that ended cleanly after their close event.
    pub fn closed(&self) -> usize {
        self.counts.closed.load(Ordering::SeqCst)
    }

    /// Returns the number of streams that ended in another way.
    pub fn lost(&self) -> usize {
        self.counts.lost.load(Ordering::SeqCst)
    }

    /// Returns the number of requests without an event stream.
    pub fn refused(&self) -> usize {
        self.counts.refused.load(Ordering::SeqCst)
    }
}

async fn read(mut source: EventSource, counts: Arc<Counts>) {
    let add = |count: &AtomicUsize| count.fetch_add(1, Ordering::SeqCst);
    let mut is_closed = false;
    loop {
        match source.next().await {
            ClientEvent::Connecting => is_closed = false,
            ClientEvent::Opened(_) => {
                add(&counts.reading);
            }
            ClientEvent::Event(event) => is_closed = event.event_type == "close",
            ClientEvent::Ended { clean } => {
                counts.reading.fetch_sub(1, Ordering::SeqCst);
                add(match clean && is_closed {
                    true => &counts.closed,
                    false => &counts.lost,
                });
            }
            ClientEvent::Unreachable => {
                add(&counts.refused);
            }
            ClientEvent::Failed(_) => {
                add(&counts.refused);
                return;
            }
        }
    }
}
