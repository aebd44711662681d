//! What clients see of a server that is told to end.

use std::{
    io,
    time::{Duration, Instant},
};

use benchmarks::{process::Server, statistics::quartiles, subscriber::End};
use tokio::{sync::watch, task::JoinSet, time};

use crate::{Rounds, load::subscribers, stack::Stack};

/// Times are in seconds from SIGTERM, and there are none where it took longer than the bound.
#[derive(Debug, Clone, Copy)]
pub struct Ending {
    last_end: Option<f64>,
    process_gone: Option<f64>,
    close_events: usize,
    clean: usize,
    cut: usize,
    still_open: usize,
}

const INTERVAL_MS: u64 = 1000;

/// # Errors
///
/// Where the server does not start, or clients cannot connect.
pub async fn measure(stack: Stack, clients: usize, bound: Duration) -> io::Result<Ending> {
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
            // The bound is counted from the signal.
            let bound = async {
                let signal = began.wait_for(Option::is_some).await;
                let start = signal.expect("it is sent").expect("it is there");
                time::sleep_until(start + bound).await;
            };
            let ended = tokio::select! {
                ended = end => Some(ended),
                () = bound => None,
            };
            (ended, subscriber.saw_close_event())
        });
    }
    let start = Instant::now();
    server.terminate()?;
    begin.send_replace(Some(start.into()));
    // A process that is left is only killed when all clients have been asked.
    let (process_gone, ends) = tokio::join!(gone(&mut server, start, bound), tasks.join_all());
    let count = |wanted: Option<End>| {
        let found = ends.iter().map(|(ended, _)| ended.map(|(end, _)| end));
        found.filter(|end| *end == wanted).count()
    };
    let last = ends
        .iter()
        .map(|(ended, _)| ended.map(|(_, at)| (at - start).as_secs_f64()))
        .try_fold(0.0, |last: f64, at| Some(last.max(at?)));
    Ok(Ending {
        last_end: last,
        process_gone: process_gone?,
        close_events: ends.iter().filter(|(_, closed)| *closed).count(),
        clean: count(Some(End::Clean)),
        cut: count(Some(End::Cut)),
        still_open: count(None),
    })
}

pub fn print_table(clients: usize, bound: Duration, endings: Rounds<Ending>) {
    let rounds = endings[0].1.len();
    println!(
        "SIGTERM with {clients} clients that get an event each second (medians of {rounds}):\n"
    );
    println!(
        "| server | last stream ended after | process gone after | close events | clean ends | cut | still open |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|");
    for (stack, ending) in Ending::medians(endings) {
        println!(
            "| {} | {} | {} | {} | {} | {} | {} |",
            stack.name(),
            seconds(ending.last_end, bound),
            seconds(ending.process_gone, bound),
            ending.close_events,
            ending.clean,
            ending.cut,
            ending.still_open,
        );
    }
    println!();
}

impl Ending {
    fn medians(endings: Rounds<Self>) -> Vec<(Stack, Self)> {
        let of_stack = |(stack, endings): (Stack, Vec<Self>)| {
            let median = |value: &dyn Fn(&Self) -> f64| {
                quartiles(&endings.iter().map(value).collect::<Vec<_>>()).median
            };
            let time = |value: fn(&Self) -> Option<f64>| {
                let median = median(&|ending| value(ending).unwrap_or(f64::INFINITY));
                median.is_finite().then_some(median)
            };
            let count = |value: fn(&Self) -> usize| median(&|ending| value(ending) as f64) as usize;
            let ending = Self {
                last_end: time(|ending| ending.last_end),
                process_gone: time(|ending| ending.process_gone),
                close_events: count(|ending| ending.close_events),
                clean: count(|ending| ending.clean),
                cut: count(|ending| ending.cut),
                still_open: count(|ending| ending.still_open),
            };
            (stack, ending)
        };
        endings.into_iter().map(of_stack).collect()
    }
}

/// When the process has ended, unless that is too late.
async fn gone(server: &mut Server, start: Instant, bound: Duration) -> io::Result<Option<f64>> {
    while start.elapsed() < bound {
        if server.status()?.is_some() {
            return Ok(Some(start.elapsed().as_secs_f64()));
        }
        time::sleep(Duration::from_millis(2)).await;
    }
    Ok(None)
}

fn seconds(time: Option<f64>, bound: Duration) -> String {
    match time {
        Some(time) => format!("{time:.2} s"),
        None => format!("not within {} s", bound.as_secs()),
    }
}
