//! A server that counts its connections, streams, reports and log events.

use std::{
    cell::Cell,
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    panic,
    sync::{
        Arc, Mutex, MutexGuard, Once, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper_util::{rt::TokioExecutor, server::conn::auto};
use tokio::{
    net::{TcpListener, TcpSocket},
    runtime::Handle,
    task::JoinHandle,
};
use tower::{Layer, service_fn};
use tower_sse_completion::SseCompletionLayer;
use tracing::{Level, Metadata, Subscriber, span};

use crate::{
    exchange::event_stream_response,
    script::{Log, Script},
    server::accept,
    wait::until,
};

/// The number of streams for each ending, with a close event (`true`) and without one.
pub type Tally = BTreeMap<(&'static str, bool), usize>;

/// A server of event streams over HTTP/1.1 and HTTP/2, whose connections and upstreams are counted. The server stops
/// accepting connections when it is dropped.
///
/// The server, its clients and the test have to share one thread: then each wait lets the others make progress.
#[derive(Debug)]
pub struct Observed {
    /// The address of the server.
    pub address: SocketAddr,
    counters: Arc<Counters>,
    accepting: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Counters {
    /// Connections that were accepted, and connections that are open.
    accepted: AtomicUsize,
    connections: AtomicUsize,
    upstreams: Arc<Log>,
    reports: Mutex<Tally>,
}

/// Counts a connection while it is open.
struct Connection(Arc<Counters>);

/// A subscriber that counts log events by level: all events of the crate, and the warnings and errors of others.
#[derive(Debug, Clone, Default)]
pub struct Logged(Arc<[AtomicUsize; 5]>);

impl Observed {
    /// Responds to each request with the upstream for its path, wrapped by this layer.
    ///
    /// Sets the layer's `on_end`. Unless `half_close` is set, a client that shuts down its sending side is treated as gone.
    pub async fn serve(
        layer: SseCompletionLayer,
        half_close: bool,
        upstream: impl Fn(&str) -> Script + Clone + Send + 'static,
    ) -> Self {
        let counters = Arc::<Counters>::default();
        let layer = layer.on_end({
            let counters = Arc::clone(&counters);
            move |report| {
                let key = (report.ending().as_str(), report.close_event_sent());
                *counters.reports().entry(key).or_default() += 1;
            }
        });
        let service = layer.layer(service_fn({
            let counters = Arc::clone(&counters);
            move |request: Request<Incoming>| {
                let script = upstream(request.uri().path());
                let body = Body::new(script.logged_in(&counters.upstreams));
                async { Ok::<_, Infallible>(event_stream_response(body)) }
            }
        }));
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().half_close(half_close).max_buf_size(8192);

        let listener = listen_with_small_buffers();
        let address = listener.local_addr().expect("an address");
        let guard = {
            let counters = Arc::clone(&counters);
            move || Connection::new(&counters)
        };
        Self {
            address,
            accepting: accept(listener, builder, service, guard),
            counters,
        }
    }

    /// Returns once this many connections have been accepted, including those that are closed.
    pub async fn until_accepted(&self, connections: usize) {
        until(|| self.counters.accepted.load(Ordering::SeqCst) == connections).await;
    }

    /// Returns once this number of upstreams exists.
    pub async fn until_open(&self, streams: usize) {
        until(|| self.counters.upstreams.open() == streams).await;
    }

    /// Returns once all buffers between the server and its clients are full, so that the server stops polling bodies.
    pub async fn until_blocked(&self) {
        let polls = || self.counters.upstreams.polls();
        // The system may take 200 milliseconds to send a packet again. Each check lets the server make progress.
        let (before, unchanged) = (Cell::new(0), Cell::new(0));
        until(|| {
            let is_same = before.replace(polls()) == polls();
            unchanged.set(if is_same { unchanged.get() + 1 } else { 0 });
            unchanged.get() == 200
        })
        .await;
    }

    /// Returns once no connection, no upstream and no task is left, except for the task that accepts connections.
    pub async fn until_all_left(&self) {
        let metrics = Handle::current().metrics();
        until(|| {
            self.counters.connections.load(Ordering::SeqCst) == 0
                && self.counters.upstreams.open() == 0
                && metrics.num_alive_tasks() == 1
        })
        .await;
    }

    /// Returns the number of streams for each ending.
    ///
    /// # Panics
    ///
    /// Panics unless every stream that was polled has been reported once.
    #[track_caller]
    pub fn reports(&self) -> Tally {
        let reports = self.counters.reports().clone();
        let polled = self.counters.upstreams.polled();
        assert_eq!(reports.values().sum::<usize>(), polled, "{reports:?}");
        reports
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Counters {
    fn reports(&self) -> MutexGuard<'_, Tally> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Binds a free port. The buffers of its connections are small, and therefore soon full.
fn listen_with_small_buffers() -> TcpListener {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_send_buffer_size(16 * 1024).expect("an option");
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(any_port).expect("a port");
    socket.listen(1024).expect("a listener")
}

impl Connection {
    fn new(counters: &Arc<Counters>) -> Self {
        counters.accepted.fetch_add(1, Ordering::SeqCst);
        counters.connections.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(counters))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Logged {
    /// Returns the number of events of this level.
    pub fn count(&self, level: Level) -> usize {
        self.0[index(level)].load(Ordering::SeqCst)
    }

    /// Returns the number of events of all levels.
    pub fn total(&self) -> usize {
        self.0
            .iter()
            .map(|count| count.load(Ordering::SeqCst))
            .sum()
    }
}

fn index(level: Level) -> usize {
    match level {
        Level::ERROR => 0,
        Level::WARN => 1,
        Level::INFO => 2,
        Level::DEBUG => 3,
        Level::TRACE => 4,
    }
}

impl Subscriber for Logged {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let is_of_the_crate = metadata.target().starts_with("tower_sse_completion");
        metadata.is_event() && (is_of_the_crate || *metadata.level() <= Level::WARN)
    }

    fn event(&self, event: &tracing::Event<'_>) {
        self.0[index(*event.metadata().level())].fetch_add(1, Ordering::SeqCst);
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

thread_local! {
    static PANICS: Cell<usize> = const { Cell::new(0) };
}

/// Returns the number of panics on this thread since the first call, including panics of tasks that nobody joins.
pub fn panics() -> usize {
    static COUNT: Once = Once::new();
    COUNT.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.set(PANICS.get() + 1);
            print(info);
        }));
    });
    PANICS.get()
}
