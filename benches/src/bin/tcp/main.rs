//! What an event costs a server over TCP, with the layer and without it: `tcp [--seconds N] [SUBSCRIBERS...]`.
//!
//! This process has the clients. The server is a process of its own with one thread, and serves all sides at once, so
//! that they differ in nothing else. One side at a time has events.

mod audience;
mod server;

use std::time::{Duration, Instant};

use benchmarks::{
    options::Options,
    statistics::{Spread, median_with_confidence, quartiles},
};
use tokio::runtime::Builder;

use crate::audience::Audience;

/// What is around the event streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Without,
    DoNothing,
    Layer,
    /// Without the layer once more: what is found between two sides that are the same is noise.
    Control,
}

/// Nanoseconds for each delivered event, for each round.
type Rounds = Vec<[f64; SIDES.len()]>;

const SIDES: [Side; 4] = [Side::Without, Side::DoNothing, Side::Layer, Side::Control];

/// What a process has by chance, such as where its memory lies, must not decide. A slow machine has time for fewer.
const PROCESSES: u32 = 6;
const LEAST_PROCESSES: usize = 2;

/// How many rounds a process has at least.
const LEAST_ROUNDS: usize = 2;

/// How many events are delivered in a round, to all subscribers of a side together.
const DELIVERIES: usize = 2_000;

/// File descriptors that a process needs for anything but its subscribers.
const OTHER_FILES: u64 = 64;

fn main() {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    if std::env::args().nth(1).as_deref() == Some("serve") {
        runtime.block_on(server::serve()).expect("a server");
        return;
    }

    let limit = rlimit::increase_nofile_limit(u64::MAX).expect("a limit of open files");
    let options = Options::from_command_line(180, &[1_000, 5_000]);
    println!(
        "Server CPU time for each delivered event (ns, median and quartiles; ratios with 95 % confidence):\n"
    );
    println!(
        "| subscribers | without the layer | with the layer | with / without | do nothing / without | with / do nothing | without / without | rounds |"
    );
    println!("|--:|--:|--:|--:|--:|--:|--:|--:|");
    for &subscribers in &options.streams {
        let sides = sides_for(subscribers, limit);
        let time = options.time / options.streams.len() as u32;
        let start = Instant::now();
        let mut processes: Vec<Rounds> = Vec::new();
        while start.elapsed() < time || processes.len() < LEAST_PROCESSES {
            processes.push(runtime.block_on(measure(sides, subscribers, time / PROCESSES)));
        }
        let costs = |side: Side| {
            let costs = processes.iter().flatten().map(|round| round[side as usize]);
            costs.collect::<Vec<f64>>()
        };
        println!(
            "| {subscribers} | {} | {} | {} | {} | {} | {} | {} in {} processes |",
            nanoseconds(quartiles(&costs(Side::Without))),
            nanoseconds(quartiles(&costs(Side::Layer))),
            ratio(&processes, Side::Layer, Side::Without),
            ratio(&processes, Side::DoNothing, Side::Without),
            ratio(&processes, Side::Layer, Side::DoNothing),
            if sides.contains(&Side::Control) {
                ratio(&processes, Side::Control, Side::Without)
            } else {
                "too many open files".to_owned()
            },
            costs(Side::Layer).len(),
            processes.len(),
        );
    }
    println!();
}

/// All sides, but for the control where that would need more connections than a process may have.
fn sides_for(subscribers: usize, limit: u64) -> &'static [Side] {
    let connections = |sides: &[Side]| (sides.len() * subscribers) as u64;
    let without_control = &SIDES[..Side::Control as usize];
    if connections(&SIDES) + OTHER_FILES <= limit {
        return &SIDES;
    }
    assert!(
        connections(without_control) + OTHER_FILES <= limit,
        "{subscribers} subscribers for each side are more than {limit} open files"
    );
    without_control
}

/// Rounds with one server process, until the time is over.
async fn measure(sides: &[Side], subscribers: usize, time: Duration) -> Rounds {
    let start = Instant::now();
    let mut audience = Audience::connect(sides, subscribers)
        .await
        .expect("connections");
    let broadcasts = (DELIVERIES / subscribers).max(1);
    for &side in sides {
        audience.deliver(side, broadcasts).await;
    }
    let mut rounds = Vec::new();
    let mut order = sides.to_vec();
    while start.elapsed() < time || rounds.len() < LEAST_ROUNDS {
        // None of them is more often first, or more often behind another one.
        fastrand::shuffle(&mut order);
        let mut costs = [f64::NAN; SIDES.len()];
        for &side in &order {
            let spent = audience.deliver(side, broadcasts).await;
            costs[side as usize] = spent.as_nanos() as f64 / (subscribers * broadcasts) as f64;
        }
        rounds.push(costs);
    }
    rounds
}

fn nanoseconds(spread: Spread) -> String {
    format!(
        "{:.0} ({:.0} to {:.0})",
        spread.median, spread.lower, spread.upper
    )
}

/// What this side costs beside another one, in the same round.
fn ratio(processes: &[Rounds], side: Side, other: Side) -> String {
    let ratios: Vec<Vec<f64>> = processes
        .iter()
        .map(|rounds| {
            let ratio = |round: &[f64; SIDES.len()]| round[side as usize] / round[other as usize];
            rounds.iter().map(ratio).collect()
        })
        .collect();
    let spread = median_with_confidence(&ratios);
    format!(
        "{:.3} ({:.3} to {:.3})",
        spread.median, spread.lower, spread.upper
    )
}

impl Side {
    fn path(self) -> &'static str {
        match self {
            Self::Without => "/without",
            Self::DoNothing => "/do-nothing",
            Self::Layer => "/layer",
            Self::Control => "/control",
        }
    }
}
