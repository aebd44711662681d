//! The results of a run.

use std::time::Duration;

use crate::{Variant, audit::Findings};

#[derive(Debug)]
pub struct Outcome {
    pub variant: Variant,
    pub clients: usize,
    pub published: u64,
    pub findings: Findings,
    pub clean_ends: usize,
    pub cuts: usize,
    pub unreachable: usize,
    pub gave_up: usize,
    /// The time from SIGTERM to the end of each instance, and whether the instance had to be killed.
    pub stops: Vec<(Duration, bool)>,
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
            unreachable: 0,
            gave_up: 0,
            stops: Vec::new(),
            reconnects: Vec::new(),
        }
    }

    /// Returns `true` if every client has received every event once and whole, and if, with the layer, every stream ended
    /// with a close event and every instance ended on its own.
    pub fn is_good(&self) -> bool {
        let found = &self.findings;
        let ends = (self.clean_ends + self.cuts) as u64;
        let closed = found.close_events == ends
            && ends > 0
            && self.cuts == 0
            && self.stops.iter().all(|(_, killed)| !killed);
        found.received > 0
            && found.missed + found.received_twice + found.torn == 0
            && self.gave_up == 0
            && (closed || !self.variant.has_layer())
    }

    /// Returns the greatest number of reconnects in any window of this length.
    fn most_reconnects_in(&self, window: Duration) -> usize {
        let times = &self.reconnects;
        let in_window = |(first, start): (usize, &Duration)| {
            times.partition_point(|time| *time < *start + window) - first
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
    count("events published", &|run| run.published);
    count("events received", &|run| run.findings.received);
    count("events missed", &|run| run.findings.missed);
    count("events received twice", &|run| run.findings.received_twice);
    count("events torn", &|run| run.findings.torn);
    count("streams that ended cleanly", &|run| run.clean_ends as u64);
    count("streams cut", &|run| run.cuts as u64);
    count("close events", &|run| run.findings.close_events);
    row("instances ended after", &|run| {
        let stop = |(time, killed): &(Duration, bool)| {
            let killed = if *killed { " (killed)" } else { "" };
            format!("{:.2} s{killed}", time.as_secs_f64())
        };
        run.stops.iter().map(stop).collect::<Vec<_>>().join(", ")
    });
    count("reconnects", &|run| run.reconnects.len() as u64);
    for (label, window) in [("in one second", 1_000), ("in 250 ms", 250)] {
        count(&format!("most reconnects {label}"), &|run| {
            run.most_reconnects_in(Duration::from_millis(window)) as u64
        });
    }
    count("connections refused", &|run| run.unreachable as u64);
    count("clients that gave up", &|run| run.gave_up as u64);
    row("all events once and whole, all streams closed", &|run| {
        String::from(if run.is_good() { "yes" } else { "NO" })
    });
}
