//! The end of a server and of its streams.

use std::{
    io,
    time::{Duration, Instant},
};

use benchmarks::{process::Server, subscriber::End};
use tokio::{sync::watch, task::JoinSet, time};

use crate::{Row, load::subscribers, stack::Stack};

const INTERVAL_MS: u64 = 1000;

/// Measures the columns of the table. Times are in seconds from SIGTERM, and infinite above the bound.
///
/// # Errors
///
/// Fails if the server does not start, if clients cannot connect, or if a stream of the layer lacks its close event or its
/// clean end.
pub async fn measure(stack: &Stack, clients: usize, bound: Duration) -> io::Result<[f64; 6]> {
    let mut server = stack.start()?;
    let subscribers = subscribers(&server, &stack.path(INTERVAL_MS), clients).await?;
    let mut tasks = JoinSet::new();
    let (begin, began) = watch::channel(None::<time::Instant>);
    for mut subscriber in subscribers {
        let mut began = began.clone();
        tasks.spawn(async move {
            let end = async {
                loop {
                    if let Err(end) = subscriber.read().await {
                        return (end, Instant::now());
                    }
                }
            };
            let bound = async {
                let signal = began.wait_for(Option::is_some).await;
                let start = signal.expect("a sender").expect("a time");
                time::sleep_until(start + bound).await;
            };
            let ended = tokio::select! {
                ended = end => Some(ended),
                () = bound => None,
            };
            (ended, subscriber.is_closed())
        });
    }
    let start = Instant::now();
    server.terminate()?;
    begin.send_replace(Some(start.into()));
    let (exit, ends) = tokio::join!(exit(&mut server, start, bound), tasks.join_all());
    let count = |wanted: Option<End>| {
        let found = ends.iter().map(|(ended, _)| ended.map(|(end, _)| end));
        found.filter(|end| *end == wanted).count() as f64
    };
    let end = |(ended, _): &(Option<(End, Instant)>, bool)| {
        ended.map_or(f64::INFINITY, |(_, at)| (at - start).as_secs_f64())
    };
    let last = ends.iter().map(end).fold(0.0, f64::max);
    let closed = ends.iter().filter(|(_, closed)| *closed).count();
    let clean = count(Some(End::Clean));
    if stack.has_layer() && (closed < clients || clean < clients as f64) {
        let message = format!("of {clients} streams {closed} were closed, {clean} ended cleanly");
        return Err(io::Error::other(message));
    }
    Ok([
        last,
        exit?,
        closed as f64,
        clean,
        count(Some(End::Cut)),
        count(None),
    ])
}

/// Waits for the end of the process.
async fn exit(server: &mut Server, start: Instant, bound: Duration) -> io::Result<f64> {
    while start.elapsed() < bound {
        if server.status()?.is_some() {
            return Ok(start.elapsed().as_secs_f64());
        }
        time::sleep(Duration::from_millis(2)).await;
    }
    Ok(f64::INFINITY)
}

pub fn print_table(clients: usize, bound: Duration, endings: &[Row<6>]) {
    println!(
        "SIGTERM with {clients} clients that receive an event each second (medians):\n\n\
         | server | last stream ended after | process ended after | close events | clean ends | cut | still open |\n\
         |---|--:|--:|--:|--:|--:|--:|"
    );
    let seconds = |time: &f64| match time.is_finite() {
        true => format!("{time:.2} s"),
        false => format!("not within {} s", bound.as_secs()),
    };
    for (name, [last, exit, closed, clean, cut, open]) in endings {
        println!(
            "| {name} | {} | {} | {closed} | {clean} | {cut} | {open} |",
            seconds(last),
            seconds(exit),
        );
    }
    println!();
}
