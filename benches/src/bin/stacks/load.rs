//! What a server does while its streams are open: how fast, with how much CPU time and memory.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use benchmarks::{process::Server, statistics::quartiles, subscriber::Subscriber};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::{task::JoinSet, time};

use crate::{Rounds, stack::Stack};

#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// To all clients together, where the server sends one event after the other, as fast as it can.
    events_per_second: f64,
    /// How much of a core the server used for that.
    cpu_share: f64,
    /// CPU time for each event then.
    microseconds_per_event: f64,
    /// The same where the rate is given.
    microseconds_per_event_at_rate: f64,
    kibibytes_per_client: f64,
}

/// What happened in a while.
struct Busy {
    time: Duration,
    events: f64,
    cpu_time: Duration,
}

/// So many get events all the time.
const BUSY_CLIENTS: usize = 100;
const WARM_UP: Duration = Duration::from_millis(300);
/// What every server can keep up with.
const INTERVAL_MS: u64 = 50;
/// One event, and then silence.
const IDLE_MS: u64 = 600_000;

/// # Errors
///
/// Where the server does not start, or clients cannot connect.
pub async fn measure(stack: Stack, idle_clients: usize, busy_time: Duration) -> io::Result<Load> {
    let server = stack.start()?;
    // What the first clients need, all later ones share.
    drop(subscribers(&server, &stack.path(IDLE_MS), 10).await?);
    let before = server.memory()?;
    let idle = subscribers(&server, &stack.path(IDLE_MS), idle_clients).await?;
    let memory = server.memory()?.saturating_sub(before);
    drop(idle);

    let as_fast_as_it_can = busy(&server, &stack.path(0), busy_time).await?;
    let at_rate = busy(&server, &stack.path(INTERVAL_MS), busy_time).await?;
    let seconds = as_fast_as_it_can.time.as_secs_f64();
    Ok(Load {
        events_per_second: as_fast_as_it_can.events / seconds,
        cpu_share: as_fast_as_it_can.cpu_time.as_secs_f64() / seconds,
        microseconds_per_event: as_fast_as_it_can.microseconds_per_event(),
        microseconds_per_event_at_rate: at_rate.microseconds_per_event(),
        kibibytes_per_client: memory as f64 / 1024.0 / idle_clients as f64,
    })
}

/// Connects so many clients that each have their first event.
///
/// # Errors
///
/// Where one does not get there.
pub async fn subscribers(
    server: &Server,
    path: &str,
    clients: usize,
) -> io::Result<Vec<Subscriber>> {
    let server = server.address();
    stream::iter(0..clients)
        .map(async |_| {
            let mut subscriber = Subscriber::new(server, path).await?;
            match subscriber.read().await {
                Ok(_) => Ok(subscriber),
                Err(end) => Err(io::Error::other(format!("{end:?} end"))),
            }
        })
        .buffer_unordered(64)
        .try_collect()
        .await
}

/// How many events arrive in a while, and what CPU time they cost.
async fn busy(server: &Server, path: &str, time: Duration) -> io::Result<Busy> {
    let events = Arc::new(AtomicU64::new(0));
    // They end with this.
    let mut clients = JoinSet::new();
    for _ in 0..BUSY_CLIENTS {
        let mut subscriber = Subscriber::new(server.address(), path).await?;
        let events = Arc::clone(&events);
        clients.spawn(async move {
            while let Ok(more) = subscriber.read().await {
                events.fetch_add(more, Ordering::Relaxed);
            }
        });
    }
    time::sleep(WARM_UP).await;
    let now = || {
        io::Result::Ok((
            Instant::now(),
            events.load(Ordering::Relaxed),
            server.cpu_time()?,
        ))
    };
    let (start, events_before, cpu_before) = now()?;
    time::sleep(time).await;
    let (end, events, cpu) = now()?;
    Ok(Busy {
        time: end - start,
        events: (events - events_before) as f64,
        cpu_time: cpu - cpu_before,
    })
}

pub fn print_table(idle_clients: usize, loads: Rounds<Load>) {
    let rounds = loads[0].1.len();
    let rate = 1000 / INTERVAL_MS * BUSY_CLIENTS as u64;
    println!(
        "Events to {BUSY_CLIENTS} clients, each sent by itself, as fast as a server with one thread can and at {rate} \
         events per second, and memory with {idle_clients} idle clients (medians of {rounds}):\n"
    );
    println!(
        "| server | events per second | of a core | CPU time per event | CPU time per event at {rate}/s | memory per client |"
    );
    println!("|---|--:|--:|--:|--:|--:|");
    for (stack, load) in Load::medians(loads) {
        println!(
            "| {} | {:.0} | {:.0} % | {:.1} µs | {:.1} µs | {:.1} KiB |",
            stack.name(),
            load.events_per_second,
            100.0 * load.cpu_share,
            load.microseconds_per_event,
            load.microseconds_per_event_at_rate,
            load.kibibytes_per_client,
        );
    }
    println!();
}

impl Busy {
    fn microseconds_per_event(&self) -> f64 {
        self.cpu_time.as_secs_f64() * 1e6 / self.events
    }
}

impl Load {
    fn medians(loads: Rounds<Self>) -> Vec<(Stack, Self)> {
        let of_stack = |(stack, loads): (Stack, Vec<Self>)| {
            let median = |value: fn(&Self) -> f64| {
                quartiles(&loads.iter().map(value).collect::<Vec<_>>()).median
            };
            let load = Self {
                events_per_second: median(|load| load.events_per_second),
                cpu_share: median(|load| load.cpu_share),
                microseconds_per_event: median(|load| load.microseconds_per_event),
                microseconds_per_event_at_rate: median(|load| load.microseconds_per_event_at_rate),
                kibibytes_per_client: median(|load| load.kibibytes_per_client),
            };
            (stack, load)
        };
        loads.into_iter().map(of_stack).collect()
    }
}
