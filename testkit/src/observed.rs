//! A server of which everything is known: its connections, its streams and their reports, what it logs, and its panics.

use std::{
    cell::Cell,
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    panic,
    pin::Pin,
    sync::{
        Arc, Mutex, Once,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http::Request;
use http_body::Frame;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpSocket},
    runtime::Handle,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tower::{Layer, service_fn};
use tower_sse_completion::{Shutdown, SseCompletionLayer};
use tracing::{Level, Metadata, Subscriber, span};

use crate::{exchange::event_stream_response, script::Script};

/// How often streams ended so, and with a close event or without one.
pub type Tally = BTreeMap<(&'static str, bool), usize>;

/// Serves the upstreams of a test, over HTTP/1.1 and HTTP/2, until it is dropped.
pub struct Observed {
    pub address: SocketAddr,
    pub shutdown: Shutdown,
    seen: Arc<Seen>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    accepted: AtomicUsize,
    connections: AtomicUsize,
    /// Upstreams: those that were made, were polled, and are gone, and all of their polls.
    made: AtomicUsize,
    polled: AtomicUsize,
    dropped: AtomicUsize,
    polls: AtomicUsize,
    reports: Mutex<Tally>,
}

/// An upstream that is counted.
struct Counted {
    script: Pin<Box<Script>>,
    polled: bool,
    seen: Arc<Seen>,
}

struct Connection(Arc<Seen>);

/// Counts what the crate logs, by level.
#[derive(Clone, Default)]
pub struct Logged(Arc<[AtomicUsize; 5]>);

const LONG: Duration = Duration::from_secs(60);

impl Observed {
    /// Answers a request for a path with this upstream, through this layer. Where half-closing is not allowed, a client
    /// that shuts its sending side down has left.
    pub async fn serve(
        layer: SseCompletionLayer,
        half_close: bool,
        upstream: impl Fn(&str) -> Script + Clone + Send + 'static,
    ) -> Self {
        let (shutdown, seen) = (Shutdown::new(), Arc::<Seen>::default());
        let layer = layer.shutdown(&shutdown).on_end({
            let seen = Arc::clone(&seen);
            move |report| {
                let how = (report.ending().as_str(), report.close_event_sent());
                let mut reports = seen.reports.lock().expect("no panic");
                *reports.entry(how).or_default() += 1;
            }
        });
        let service = layer.layer(service_fn({
            let seen = Arc::clone(&seen);
            move |request: Request<Incoming>| {
                let script = upstream(request.uri().path());
                let body = Body::new(Counted::new(script, &seen));
                async { Ok::<_, Infallible>(event_stream_response(body)) }
            }
        }));
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().half_close(half_close).max_buf_size(8192);

        let listener = listen();
        let address = listener.local_addr().expect("an address");
        let accepting = tokio::spawn({
            let seen = Arc::clone(&seen);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (builder, service) = (builder.clone(), service.clone());
                    let connection = Connection::new(&seen);
                    tokio::spawn(async move {
                        let service = TowerToHyperService::new(service);
                        // An error is how a connection of a client that left ends.
                        let _ = builder
                            .serve_connection(TokioIo::new(stream), service)
                            .await;
                        drop(connection);
                    });
                }
            }
        });
        Self {
            address,
            shutdown,
            seen,
            accepting,
        }
    }

    pub async fn until_accepted(&self, connections: usize) {
        until(|| self.seen.accepted.load(Ordering::SeqCst) == connections).await;
    }

    pub async fn until_open(&self, streams: usize) {
        until(|| self.shutdown.open_streams() == streams).await;
    }

    /// Until all buffers on the way are full, so that the server polls no body any more.
    pub async fn until_blocked(&self) {
        let polls = || self.seen.polls.load(Ordering::SeqCst);
        // The server shares this thread, so each of these looks leaves it the time to go on. The system may take 200
        // milliseconds to send a packet again.
        let (before, looks) = (Cell::new(0), Cell::new(0));
        until(|| {
            let same = before.replace(polls()) == polls();
            looks.set(if same { looks.get() + 1 } else { 0 });
            looks.get() == 200
        })
        .await;
    }

    /// Until nothing is open: no connection, no stream, no upstream, and no task but the one that accepts connections.
    pub async fn until_all_left(&self) {
        let metrics = Handle::current().metrics();
        let Seen {
            connections,
            made,
            dropped,
            ..
        } = &*self.seen;
        until(|| {
            self.shutdown.open_streams() == 0
                && connections.load(Ordering::SeqCst) == 0
                && made.load(Ordering::SeqCst) == dropped.load(Ordering::SeqCst)
                && metrics.num_alive_tasks() == 1
        })
        .await;
    }

    /// What was reported, which is every stream that was polled, once.
    #[track_caller]
    pub fn reports(&self) -> Tally {
        let reports = self.seen.reports.lock().expect("no panic").clone();
        let polled = self.seen.polled.load(Ordering::SeqCst);
        assert_eq!(reports.values().sum::<usize>(), polled, "{reports:?}");
        reports
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Its connections take little ahead, so that they are soon full.
fn listen() -> TcpListener {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_send_buffer_size(16 * 1024).expect("an option");
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(any_port).expect("a port");
    socket.listen(1024).expect("a listener")
}

/// Waits for a condition that has to come true.
pub async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(LONG, wait).await.expect("it takes too long");
}

impl Counted {
    fn new(script: Script, seen: &Arc<Seen>) -> Self {
        seen.made.fetch_add(1, Ordering::SeqCst);
        Self {
            script: Box::pin(script),
            polled: false,
            seen: Arc::clone(seen),
        }
    }
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = <Script as http_body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.seen.polls.fetch_add(1, Ordering::SeqCst);
        if !self.polled {
            self.polled = true;
            self.seen.polled.fetch_add(1, Ordering::SeqCst);
        }
        self.script.as_mut().poll_frame(cx)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.seen.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

impl Connection {
    fn new(seen: &Arc<Seen>) -> Self {
        seen.accepted.fetch_add(1, Ordering::SeqCst);
        seen.connections.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(seen))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Logged {
    pub fn count(&self, level: Level) -> usize {
        self.0[index(level)].load(Ordering::SeqCst)
    }

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
        let is_ours = metadata.target().starts_with("tower_sse_completion");
        // Of the server and the client, what an operator would be told.
        metadata.is_event() && (is_ours || *metadata.level() <= Level::WARN)
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

/// How many panics there were on this thread since the first call, also in tasks whose end nobody looks at.
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
