//! The CPU time of an event in an axum server over TCP, by variant.
//!
//! The server is a process with one thread that serves all variants at once, so that they differ in nothing else. One
//! variant at a time has events. This process has the subscribers.

use std::{
    convert::Infallible,
    env,
    error::Error,
    io,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, serve::ListenerExt};
use benchmarks::{
    process::Server,
    statistics::{Spread, median_with_confidence, quartiles},
    subscriber::Subscriber,
    variants::{Stop, Variant},
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpListener,
    runtime::Builder,
    sync::{Notify, broadcast},
    task::JoinSet,
    time,
};
use tokio_stream::wrappers::BroadcastStream;

/// The paths of the variants. The control is equal to the first variant: the difference between the two is noise.
const PATHS: [(&str, Variant); 4] = [
    ("/bare", Variant::Bare),
    ("/do_nothing", Variant::DoNothing),
    ("/layer", Variant::Layer),
    ("/control", Variant::Bare),
];
const BARE: usize = 0;
const DO_NOTHING: usize = 1;
const LAYER: usize = 2;
const CONTROL: usize = 3;

/// Subscribers of each variant. A process may have 20,000 open files.
const SUBSCRIBERS: [usize; 2] = [1_000, 4_000];

/// Number of server processes, so that the memory layout of one process does not decide.
const PROCESSES: u32 = 6;

/// Events that are delivered in a round to all subscribers of a variant together.
const DELIVERIES: usize = 4_000;

const DATA: &str = r#"{"symbol":"ABCD","price":123.45,"time":"2024-01-01T00:00:00Z"}"#;

const LONG: Duration = Duration::from_secs(30);

/// Nanoseconds of CPU time per delivered event, for each variant.
type Round = [f64; PATHS.len()];

struct Audience {
    server: Server,
    subscribers: usize,
    arrivals: Arc<Arrivals>,
    /// Aborts its tasks when it is dropped.
    _tasks: JoinSet<()>,
}

/// The number of events that have arrived.
#[derive(Default)]
struct Arrivals {
    events: AtomicU64,
    changed: Notify,
}

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    rlimit::increase_nofile_limit(u64::MAX)?;
    let arguments: Vec<String> = env::args().skip(1).collect();
    match &arguments[..] {
        [serve] if serve == "serve" => Ok(runtime.block_on(serve_all())?),
        [seconds] => Ok(runtime.block_on(compare(Duration::from_secs(seconds.parse()?)))?),
        _ => Err("usage: tcp SECONDS".into()),
    }
}

async fn compare(time: Duration) -> io::Result<()> {
    println!(
        "Server CPU time for each delivered event (ns, median and quartiles; ratios with 95 % confidence):\n\n\
         | subscribers | without the layer | with the layer | with / without | do nothing / without | with / do nothing | without / without | rounds |\n\
         |--:|--:|--:|--:|--:|--:|--:|--:|"
    );
    let processes = PROCESSES * SUBSCRIBERS.len() as u32;
    for subscribers in SUBSCRIBERS {
        let mut rounds: Vec<Vec<Round>> = Vec::new();
        for _ in 0..PROCESSES {
            let mut audience = Audience::connect(subscribers).await?;
            rounds.push(audience.rounds(time / processes).await?);
        }
        let costs = |variant: usize| {
            let costs: Vec<f64> = rounds
                .iter()
                .flatten()
                .map(|round| round[variant])
                .collect();
            cell(quartiles(&costs), 0)
        };
        let ratio = |variant: usize, other: usize| {
            let ratio = |round: &Round| round[variant] / round[other];
            let ratios: Vec<Vec<f64>> = rounds
                .iter()
                .map(|rounds| rounds.iter().map(ratio).collect())
                .collect();
            cell(median_with_confidence(&ratios), 3)
        };
        println!(
            "| {subscribers} | {} | {} | {} | {} | {} | {} | {} in {PROCESSES} processes |",
            costs(BARE),
            costs(LAYER),
            ratio(LAYER, BARE),
            ratio(DO_NOTHING, BARE),
            ratio(LAYER, DO_NOTHING),
            ratio(CONTROL, BARE),
            rounds.iter().flatten().count(),
        );
    }
    Ok(())
}

fn cell(spread: Spread, digits: usize) -> String {
    let Spread {
        lower,
        median,
        upper,
    } = spread;
    format!("{median:.digits$} ({lower:.digits$} to {upper:.digits$})")
}

impl Audience {
    /// Starts a server, and connects these subscribers to each variant.
    async fn connect(subscribers: usize) -> io::Result<Self> {
        let server = Server::start(Command::new(env::current_exe()?).arg("serve"))?;
        let (address, arrivals) = (server.address(), Arc::<Arrivals>::default());
        // The variants take turns, so that their memory is interleaved.
        let paths = (0..subscribers).flat_map(|_| PATHS.map(|(path, _)| path));
        let tasks = stream::iter(paths)
            .map(|path| Subscriber::new(address, path))
            .buffered(64)
            .map_ok(|subscriber| read(subscriber, Arc::clone(&arrivals)))
            .try_fold(JoinSet::new(), async |mut tasks, task| {
                tasks.spawn(task);
                Ok(tasks)
            })
            .await?;
        Ok(Self {
            server,
            subscribers,
            arrivals,
            _tasks: tasks,
        })
    }

    /// Measures rounds of all variants until the time is over, at least two.
    async fn rounds(&mut self, time: Duration) -> io::Result<Vec<Round>> {
        let start = Instant::now();
        let mut rounds = Vec::new();
        let mut order: [usize; PATHS.len()] = std::array::from_fn(|variant| variant);
        // The first round warms up.
        while start.elapsed() < time || rounds.len() < 3 {
            fastrand::shuffle(&mut order);
            let mut round = Round::default();
            for variant in order {
                round[variant] = self.deliver(variant).await?;
            }
            rounds.push(round);
        }
        rounds.remove(0);
        Ok(rounds)
    }

    /// Publishes events to this variant, each once all subscribers have received the previous event.
    async fn deliver(&mut self, variant: usize) -> io::Result<f64> {
        let before = self.cpu_time().await?;
        let events = (DELIVERIES / self.subscribers).max(1);
        for _ in 0..events {
            let expected = self.arrivals.events.load(Ordering::Acquire) + self.subscribers as u64;
            self.server.command(PATHS[variant].0)?;
            let arrived = async {
                while self.arrivals.events.load(Ordering::Acquire) < expected {
                    self.arrivals.changed.notified().await;
                }
            };
            time::timeout(LONG, arrived).await?;
        }
        let spent = self.cpu_time().await? - before;
        Ok(spent.as_nanos() as f64 / (self.subscribers * events) as f64)
    }

    /// Returns the CPU time of the server, which is idle at that moment: the kernel updates the time when a thread goes to
    /// sleep.
    async fn cpu_time(&self) -> io::Result<Duration> {
        time::sleep(Duration::from_millis(2)).await;
        self.server.cpu_time()
    }
}

async fn read(mut subscriber: Subscriber, arrivals: Arc<Arrivals>) {
    loop {
        let events = subscriber.read().await.expect("no end");
        arrivals.events.fetch_add(events, Ordering::AcqRel);
        arrivals.changed.notify_one();
    }
}

/// Serves all variants, and publishes an event to each path that arrives as a line of the input, until the input ends.
async fn serve_all() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    let stop = Stop::default();
    let publishers = PATHS.map(|_| broadcast::channel::<u64>(16).0);
    let mut app = Router::new();
    for ((path, variant), publisher) in PATHS.into_iter().zip(&publishers) {
        let (publisher, handler_stop) = (publisher.clone(), stop.clone());
        let handler = async move || {
            let events = BroadcastStream::new(publisher.subscribe()).map(|number| {
                let number = number.expect("no subscriber lags behind");
                Ok::<_, Infallible>(Bytes::from(format!("id: {number}\ndata: {DATA}\n\n")))
            });
            variant.respond(&handler_stop, events)
        };
        app = app.route(path, variant.route(&stop, handler));
    }
    // With Nagle's algorithm an event would wait for the acknowledgement of the previous one.
    let listener = listener.tap_io(|socket| socket.set_nodelay(true).expect("a connection"));
    tokio::spawn(async { axum::serve(listener, app).await });

    let mut number = 0;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let variant = PATHS.iter().position(|(path, _)| *path == line);
        number += 1;
        let sent = publishers[variant.expect("a path")].send(number);
        sent.expect("subscribers");
    }
    Ok(())
}
