//! The results of a run.

use std::time::Duration;

use crate::{Variant, audit::Findings};

/// The time for which reconnects are counted.
const WINDOW: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub struct Outcome {
    pub variant: Variant,
    pub clients: usize,
    pub published: usize,
    pub findings: Findings,
    pub clean_ends: usize,
    pub cuts: usize,
    /// The number of streams that were open when their instance was killed.
    pub killed: usize,
    pub unreachable: usize,
    pub gave_up: usize,
    /// The time from SIGTERM to the end of the instance, and whether the instance had to be killed.
    pub stop: (Duration, bool),
    /// The times of all reconnects, measured from the first connection, in ascending order.
    pub reconnects: Vec<Duration>,
}

impl Outcome {
    /// Returns the outcome of a run that has not started.
    pub fn new(variant: Variant, clients: usize) -> Self {
        Self {
            variant,
            clients,
            published: 0,
            findings: Findings::default(),
            clean_ends: 0,
            cuts: 0,
            killed: 0,
            unreachable: 0,
            gave_up: 0,
            stop: (Duration::ZERO, false),
            reconnects: Vec::new(),
        }
    }

    /// Returns `true` if every client has received every event once and complete, and if, with the layer, every stream of a
    /// process that was not killed ended with a close event, and the instance ended on its own.
    pub fn is_good(&self) -> bool {
        let found = &self.findings;
        let ends = self.clean_ends + self.cuts;
        let closed = found.close_events > 0
            && found.close_events as usize + self.killed == ends
            && self.cuts <= self.killed
            && !self.stop.1;
        found.received > 0
            && found.missed + found.received_twice + found.torn == 0
            && self.gave_up == 0
            && (closed || !self.variant.has_layer())
    }

    /// Returns the maximum number of reconnects in any [`WINDOW`].
    fn max_reconnects(&self) -> usize {
        let times = &self.reconnects;
        let in_window = |(first, start): (usize, &Duration)| {
            times.partition_point(|time| *time < *start + WINDOW) - first
        };
        times.iter().enumerate().map(in_window).max().unwrap_or(0)
    }
}

/// Prints a Markdown table with a column for each run.
pub fn print_table(outcomes: &[Outcome]) {
    let row = |label: &str, cell: &dyn Fn(&Outcome) -> String| {
        let cells: Vec<String> = outcomes.iter().map(cell).collect();
        println!("| {label} | {} |", cells.join(" | "));
    };
    let count = |label: &str, value: &dyn Fn(&Outcome) -> u64| {
        row(label, &|run| value(run).to_string());
    };
    println!();
    row("", &|run| run.variant.title().to_owned());
    println!("|---|{}", "--:|".repeat(outcomes.len()));
    count("clients", &|run| run.clients as u64);
    count("events in the log", &|run| run.published as u64);
    count("events received", &|run| run.findings.received);
    count("events missed", &|run| run.findings.missed);
    count("events received twice", &|run| run.findings.received_twice);
    count("events torn", &|run| run.findings.torn);
    count("streams that ended cleanly", &|run| run.clean_ends as u64);
    count("streams cut", &|run| run.cuts as u64);
    count("streams of the killed instance", &|run| run.killed as u64);
    count("close events", &|run| run.findings.close_events);
    row("instance ended after", &|run| {
        let (time, killed) = run.stop;
        let killed = if killed { " (killed)" } else { "" };
        format!("{:.2} s{killed}", time.as_secs_f64())
    });
    count("reconnects", &|run| run.reconnects.len() as u64);
    count("most reconnects in 250 ms", &|run| {
        run.max_reconnects() as u64
    });
    count("connections refused", &|run| run.unreachable as u64);
    count("clients that gave up", &|run| run.gave_up as u64);
    row(
        "all events once and whole, all other streams closed",
        &|run| String::from(if run.is_good() { "yes" } else { "NO" }),
    );
}
