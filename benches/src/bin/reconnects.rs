//! Reconnects of the clients of an instance that is drained: `reconnects streams|tcp CLIENTS WINDOW_MS`.
//!
//! Compares two drains: one that ends all streams at once, whose close event draws a reconnection time between one and five
//! seconds, and one that is spread over the window, whose reconnection time is 100 ms. For each it prints the largest number of
//! clients that reconnect within a quarter of a second, also as a multiple of the number of clients that end in that time of the
//! window, and for how long clients are offline.
//!
//! `streams` drains the streams alone, adds the reconnection time to the end of each, and prints the processor time of the drain with
//! its wake-ups, in which no stream is polled. `tcp` connects clients over loopback
//! sockets to two servers, of which one is drained: a client is offline from its close event to the first event of its next
//! stream, which the other server sends. Each server is a process of its own, `reconnects serve RETRY_MS RETRY_MS WINDOW_MS`,
//! because a process may have too few descriptors for both ends.

use std::{
    convert::Infallible,
    io::{self, BufRead, Write},
    net::SocketAddr,
    pin::Pin,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Wake, Waker},
    time::{Duration, Instant},
};

use axum::{
    Router,
    response::sse::{Event, Sse},
    routing::get,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpSocket, TcpStream},
    runtime::Runtime,
    sync::Notify,
    task::JoinSet,
    time::sleep,
};
use tower_sse_completion::{CloseEvent, Shutdown, SseCompletionLayer};

/// The time in which reconnects are counted.
const BUCKET: Duration = Duration::from_millis(250);

/// Longer than any window.
const GRACE: Duration = Duration::from_secs(600);

/// A drain, and the reconnection times of its close event.
#[derive(Clone, Copy)]
enum Restart {
    AtOnce,
    Spread(Duration),
}

/// The moments at which a client loses its stream and reconnects, from the begin of the drain.
#[derive(Clone, Copy)]
struct Outage {
    reconnects: Duration,
    offline: Duration,
}

/// Records the moment of the wake-up.
struct Client {
    start: Instant,
    woken: AtomicU64,
    all: Arc<All>,
}

/// The clients that have not been woken.
struct All {
    left: AtomicUsize,
    none_left: Notify,
}

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|kind| kind == "serve") {
        let times = arguments[1..].iter().map(|time| time.parse());
        let times: Result<Vec<u64>, _> = times.collect();
        return serve_until_killed(&times.expect("milliseconds"));
    }
    let [kind, clients, window] = &arguments[..] else {
        panic!("usage: reconnects streams|tcp CLIENTS WINDOW_MS");
    };
    let clients = clients.parse().expect("a number of clients");
    let window = Duration::from_millis(window.parse().expect("milliseconds"));
    for restart in [Restart::AtOnce, Restart::Spread(window)] {
        let outages = match &kind[..] {
            "streams" => restart.streams(clients)?,
            "tcp" => restart.tcp(clients)?,
            other => panic!("unknown kind {other:?}"),
        };
        print(restart, window, outages);
    }
    Ok(())
}

fn print(restart: Restart, window: Duration, outages: Vec<Outage>) {
    let clients = outages.len();
    let mut reconnects: Vec<_> = outages.iter().map(|outage| outage.reconnects).collect();
    let mut offline: Vec<_> = outages.iter().map(|outage| outage.offline).collect();
    reconnects.sort_unstable();
    offline.sort_unstable();
    let mut first = 0;
    let mut peak = 0;
    for (last, at) in reconnects.iter().enumerate() {
        while reconnects[first] + BUCKET <= *at {
            first += 1;
        }
        peak = peak.max(last + 1 - first);
    }
    let even = clients as f64 * BUCKET.as_secs_f64() / window.as_secs_f64();
    let name = match restart {
        Restart::AtOnce => "at once, retry 1 to 5 s".to_owned(),
        Restart::Spread(window) => format!("spread over {window:?}, retry 100 ms"),
    };
    println!(
        "{clients} clients, {name}: peak {peak} in 250 ms ({:.2} of the window's), offline mean {:.3} s, p99 {:.3} s, last reconnect {:.1} s",
        peak as f64 / even,
        offline.iter().sum::<Duration>().as_secs_f64() / clients as f64,
        offline[clients * 99 / 100].as_secs_f64(),
        reconnects[clients - 1].as_secs_f64(),
    );
}

impl Restart {
    fn window(self) -> Duration {
        match self {
            Self::AtOnce => Duration::ZERO,
            Self::Spread(window) => window,
        }
    }

    fn retries(self) -> [u64; 2] {
        match self {
            Self::AtOnce => [1000, 5000],
            Self::Spread(_) => [100, 100],
        }
    }

    /// Returns the reconnection time of a client.
    fn retry(self) -> Duration {
        let [shortest, longest] = self.retries();
        Duration::from_millis(fastrand::u64(shortest..=longest))
    }

    fn streams(self, clients: usize) -> io::Result<Vec<Outage>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        let shutdown = Shutdown::new();
        let layer = SseCompletionLayer::new()
            .shutdown(&shutdown)
            .end_on_drain(|_| true);
        let (head, ()) = http::Request::new(()).into_parts();
        let start = Instant::now();
        let all = Arc::new(All {
            left: AtomicUsize::new(clients),
            none_left: Notify::new(),
        });
        let waiting: Vec<_> = (0..clients)
            .map(|_| {
                let client = Arc::new(Client {
                    start,
                    woken: AtomicU64::new(0),
                    all: Arc::clone(&all),
                });
                let waker = Waker::from(Arc::clone(&client));
                let upstream = stream::pending::<Result<Bytes, Infallible>>();
                let mut stream = Box::pin(layer.byte_stream(&head, upstream));
                let polled = Pin::new(&mut stream).poll_next(&mut Context::from_waker(&waker));
                assert!(polled.is_pending());
                (client, stream)
            })
            .collect();
        let (begins, processor_time_before) = (start.elapsed(), processor_time()?);
        runtime.block_on(async {
            let drain = tokio::spawn(shutdown.drain(GRACE).spread_over(self.window()));
            all.none_left.notified().await;
            drain.abort();
        });
        let processor_time = processor_time()? - processor_time_before;
        println!("processor time {processor_time:?}");
        let outages = waiting.iter().map(|(client, _)| {
            let ended = Duration::from_nanos(client.woken.load(Ordering::SeqCst)) - begins;
            let offline = self.retry();
            Outage {
                reconnects: ended + offline,
                offline,
            }
        });
        Ok(outages.collect())
    }

    fn tcp(self, clients: usize) -> io::Result<Vec<Outage>> {
        let [drained, other] = [Server::start(self)?, Server::start(self)?];
        let (first, second) = (drained.address, other.address);
        let runtime = Runtime::new()?;
        let outages = runtime.block_on(async {
            let begins = Arc::<std::sync::OnceLock<Instant>>::default();
            let connected = Arc::<AtomicUsize>::default();
            let mut tasks = JoinSet::new();
            for _ in 0..clients {
                let (begins, connected) = (Arc::clone(&begins), Arc::clone(&connected));
                let retry = self.retry();
                tasks.spawn(async move {
                    let mut lines = subscribe(first).await?;
                    connected.fetch_add(1, Ordering::SeqCst);
                    until_line(&mut lines, "event: close").await?;
                    let ended = Instant::now();
                    drop(lines);
                    sleep(retry).await;
                    let reconnects = begins.get().expect("the drain has begun").elapsed();
                    let next = subscribe(second).await?;
                    let offline = ended.elapsed();
                    drop(next);
                    Ok::<_, io::Error>(Outage {
                        reconnects,
                        offline,
                    })
                });
            }
            while connected.load(Ordering::SeqCst) < clients {
                sleep(Duration::from_millis(50)).await;
                if let Some(failed) = tasks.try_join_next() {
                    failed.expect("no panic")?;
                    return Err(io::Error::other("a stream has ended before the drain"));
                }
            }
            begins.set(Instant::now()).expect("one drain");
            drained.begin()?;
            tasks
                .join_all()
                .await
                .into_iter()
                .collect::<io::Result<_>>()
        })?;
        Ok(outages)
    }
}

/// A server in a process of its own, which is killed when it is dropped.
struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    fn start(restart: Restart) -> io::Result<Self> {
        let [shortest, longest] = restart.retries();
        let times = [shortest, longest, restart.window().as_millis() as u64];
        let mut process = Command::new(std::env::current_exe()?)
            .arg("serve")
            .args(times.map(|time| time.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let output = process.stdout.take().expect("a pipe");
        io::BufReader::new(output).read_line(&mut line)?;
        let address = line.trim().parse().expect("an address");
        Ok(Self { process, address })
    }

    /// Begins the drain.
    fn begin(&self) -> io::Result<()> {
        let mut input = self.process.stdin.as_ref().expect("a pipe");
        input.write_all(b"drain\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A process that has ended cannot be killed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Wake for Client {
    fn wake(self: Arc<Self>) {
        let woken = self.start.elapsed().as_nanos() as u64;
        self.woken.store(woken, Ordering::SeqCst);
        if self.all.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.all.none_left.notify_one();
        }
    }
}

/// Returns the processor time of this process.
fn processor_time() -> io::Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/schedstat")?;
    let nanoseconds = stat.split(' ').next().and_then(|time| time.parse().ok());
    Ok(Duration::from_nanos(nanoseconds.expect("a number")))
}

/// Serves streams that send one event and are then silent, and drains at the first line of the standard input.
fn serve_until_killed(times: &[u64]) -> io::Result<()> {
    let [shortest, longest, window] = times
        .iter()
        .copied()
        .map(Duration::from_millis)
        .collect::<Vec<_>>()[..]
    else {
        panic!("usage: reconnects serve RETRY_MS RETRY_MS WINDOW_MS");
    };
    let event = CloseEvent::new().retry_between(shortest..=longest);
    let shutdown = Shutdown::new();
    let layer = SseCompletionLayer::new()
        .shutdown(&shutdown)
        .close_event(event.expect("a valid range"))
        .end_on_drain(|_| true);
    let hello = || Ok::<_, Infallible>(Event::default().data("hello"));
    let events = async move || Sse::new(stream::iter([hello()]).chain(stream::pending()));
    let app = Router::new().route("/", get(events)).layer(layer);
    Runtime::new()?.block_on(async {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let listener = socket.listen(65_535)?;
        println!("{}", listener.local_addr()?);
        let begins = async {
            let mut lines = BufReader::new(tokio::io::stdin()).lines();
            lines.next_line().await
        };
        let drain = async {
            begins.await?;
            shutdown.drain(GRACE).spread_over(window).await;
            io::Result::Ok(())
        };
        tokio::try_join!(axum::serve(listener, app).into_future(), drain)?;
        Ok(())
    })
}

/// Connects a client, and returns its connection once the first event has arrived.
async fn subscribe(server: SocketAddr) -> io::Result<BufReader<TcpStream>> {
    let mut stream = TcpStream::connect(server).await?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await?;
    let mut lines = BufReader::new(stream);
    until_line(&mut lines, "data: hello").await?;
    Ok(lines)
}

/// Reads until a line contains this text.
async fn until_line(lines: &mut BufReader<TcpStream>, text: &str) -> io::Result<()> {
    let mut line = String::new();
    while !line.contains(text) {
        line.clear();
        if lines.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}
