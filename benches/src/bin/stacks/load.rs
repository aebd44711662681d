//! Throughput, CPU time and memory of a server with open streams.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use benchmarks::{process::Server, subscriber::Subscriber};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::{task::JoinSet, time};

use crate::{Row, stack::Stack};

/// The clients of a busy server.
const BUSY_CLIENTS: usize = 100;
const WARM_UP: Duration = Duration::from_millis(300);
const BUSY: Duration = Duration::from_secs(2);
/// An interval that every server can keep.
const INTERVAL_MS: u64 = 50;
/// Interval of a stream with one event and then silence.
const IDLE_MS: u64 = 600_000;

/// Measures the columns of the table.
///
/// # Errors
///
/// Fails if the server does not start, or if clients cannot connect.
pub async fn measure(stack: &Stack, idle_clients: usize) -> io::Result<[f64; 5]> {
    let server = stack.start()?;
    // The first clients allocate the state that all later clients share.
    drop(subscribers(&server, &stack.path(IDLE_MS), 10).await?);
    let before = server.memory()?;
    let idle = subscribers(&server, &stack.path(IDLE_MS), idle_clients).await?;
    let memory = server.memory()?.saturating_sub(before);
    drop(idle);

    let [events_per_second, share, time_per_event] = busy(&server, &stack.path(0)).await?;
    let [_, _, time_at_rate] = busy(&server, &stack.path(INTERVAL_MS)).await?;
    let memory = memory as f64 / 1024.0 / idle_clients as f64;
    Ok([
        events_per_second,
        share,
        time_per_event,
        time_at_rate,
        memory,
    ])
}

/// Connects clients, and returns when each has its first event.
///
/// # Errors
///
/// Fails if a client cannot connect.
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

/// Returns the events per second, the share of a core and the microseconds of CPU time per event.
async fn busy(server: &Server, path: &str) -> io::Result<[f64; 3]> {
    let events = Arc::new(AtomicU64::new(0));
    // Aborts the clients when it is dropped.
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
    let start = Instant::now();
    let (events_before, cpu_before) = (events.swap(0, Ordering::Relaxed), server.cpu_time()?);
    assert!(events_before > 0, "the server sends no events");
    time::sleep(BUSY).await;
    let (events, cpu) = (events.load(Ordering::Relaxed) as f64, server.cpu_time()?);
    let (time, cpu) = (
        start.elapsed().as_secs_f64(),
        (cpu - cpu_before).as_secs_f64(),
    );
    Ok([events / time, cpu / time, cpu * 1e6 / events])
}

pub fn print_table(idle_clients: usize, loads: &[Row<5>]) {
    let rate = 1000 / INTERVAL_MS * BUSY_CLIENTS as u64;
    println!(
        "Events to {BUSY_CLIENTS} clients, each in a write of its own, as fast as a server with one thread can and at {rate} \
         events per second, and memory with {idle_clients} idle clients (medians of 3):\n\n\
         | server | events per second | of a core | CPU time per event | CPU time per event at {rate}/s | memory per client |\n\
         |---|--:|--:|--:|--:|--:|"
    );
    for (name, [events, share, time, time_at_rate, memory]) in loads {
        println!(
            "| {name} | {events:.0} | {:.0} % | {time:.1} µs | {time_at_rate:.1} µs | {memory:.1} KiB |",
            100.0 * share,
        );
    }
    println!();
}
