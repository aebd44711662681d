//! The server, from its start to the end of its drain, and an account of its streams.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Path, Request},
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};
use testkit::listener::MapSocket;
use tokio::{net::TcpSocket, task::JoinHandle};
use tower::util::MapRequestLayer;
use tower_sse_completion::{Shutdown, SseCompletionLayer};

use crate::streams::{Kind, frames};

const AGES: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(180)];
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// A running server.
pub struct Site {
    pub shutdown: Shutdown,
    pub account: Arc<Account>,
    server: JoinHandle<io::Result<()>>,
}

/// An account of the streams of a server.
#[derive(Debug, Default)]
pub struct Account {
    /// Streams that are not freed.
    open: AtomicUsize,
    /// Streams that were polled and not reported exactly once, or reported without having been polled more than once.
    misreported: AtomicUsize,
    endings: Mutex<BTreeMap<&'static str, usize>>,
}

/// The entry of one stream, which its upstream and its observer share.
#[derive(Debug)]
pub struct Entry {
    account: Arc<Account>,
    polled: AtomicBool,
    reports: AtomicUsize,
}

impl Site {
    /// Starts a server at this address.
    ///
    /// # Errors
    ///
    /// Fails if the address cannot be bound.
    pub fn start(address: SocketAddr) -> io::Result<(Self, SocketAddr)> {
        let socket = TcpSocket::new_v4()?;
        // The buffers of clients that do not read are soon full.
        socket.set_send_buffer_size(16 * 1024)?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(4096)?;
        let address = listener.local_addr()?;

        let shutdown = Shutdown::new();
        let account = Arc::<Account>::default();
        let layer = SseCompletionLayer::new()
            .shutdown(&shutdown)
            .end_on_drain(|request| request.uri.path() != Kind::Completes.path())
            .max_age_between(AGES[0]..=AGES[1])
            .idle_timeout(IDLE_TIMEOUT)
            .keep_alive(KEEP_ALIVE)
            .on_end_with(|request| {
                let entry = request.extensions.get::<Arc<Entry>>().cloned();
                move |report| {
                    if let Some(entry) = entry {
                        entry.reported(report.ending().as_str());
                    }
                }
            });
        let enter = {
            let account = Arc::clone(&account);
            MapRequestLayer::new(move |mut request: Request| {
                request.extensions_mut().insert(Entry::new(&account));
                request
            })
        };
        let app = Router::new()
            .route("/{kind}", get(events))
            .layer(layer)
            .layer(enter);
        let draining = shutdown.draining();
        let sockets = shutdown.clone();
        let listener = MapSocket::new(listener, move |socket| {
            sockets.connection(socket).write_timeout(WRITE_TIMEOUT)
        });
        let server = async move {
            axum::serve(listener, app)
                .with_graceful_shutdown(draining)
                .await
        };
        let site = Self {
            shutdown,
            account,
            server: tokio::spawn(server),
        };
        Ok((site, address))
    }

    /// Returns when the server has ended, after its drain.
    ///
    /// # Errors
    ///
    /// Fails if the server has failed.
    pub async fn ended(self) -> io::Result<()> {
        self.server.await?
    }
}

async fn events(Path(kind): Path<Kind>, Extension(entry): Extension<Arc<Entry>>) -> Response {
    let body = Body::from_stream(frames(kind, move || entry.polled()));
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}

impl Account {
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub fn misreported(&self) -> usize {
        self.misreported.load(Ordering::Relaxed)
    }

    /// Returns the number of streams that have been reported, by ending.
    pub fn endings(&self) -> BTreeMap<&'static str, usize> {
        let endings = self.endings.lock();
        endings.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Entry {
    fn new(account: &Arc<Account>) -> Arc<Self> {
        account.open.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self {
            account: Arc::clone(account),
            polled: AtomicBool::new(false),
            reports: AtomicUsize::new(0),
        })
    }

    fn polled(&self) {
        self.polled.store(true, Ordering::Relaxed);
    }

    fn reported(&self, ending: &'static str) {
        self.reports.fetch_add(1, Ordering::Relaxed);
        let endings = self.account.endings.lock();
        *endings
            .unwrap_or_else(PoisonError::into_inner)
            .entry(ending)
            .or_default() += 1;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let is_right = match self.reports.load(Ordering::Relaxed) {
            // A body that was never polled is not reported.
            0 => !self.polled.load(Ordering::Relaxed),
            reports => reports == 1,
        };
        self.account
            .misreported
            .fetch_add(usize::from(!is_right), Ordering::Relaxed);
        self.account.open.fetch_sub(1, Ordering::Relaxed);
    }
}
