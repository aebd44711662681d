//! What a run has come to.

use std::time::Duration;

use super::{audit::Findings, options::End};

#[derive(Debug)]
pub struct Outcome {
    pub end: End,
    pub clients: usize,
    pub published: u64,
    pub findings: Findings,
    pub clean_ends: usize,
    pub cuts: usize,
    pub unreachable: usize,
    pub given_up: usize,
    pub stops: Vec<Stop>,
    /// All times count from the first connection.
    pub reconnects: Vec<Duration>,
    pub length: Duration,
}

/// The stop of one instance.
#[derive(Debug, Clone, Copy)]
pub struct Stop {
    /// When it got SIGTERM.
    pub at: Duration,
    /// Until the process was gone.
    pub took: Duration,
    pub killed: bool,
}

impl Outcome {
    /// Whether every client has got every event, once and whole. With the layer every stream has to end with a close event,
    /// too, and every process by itself.
    pub fn is_good(&self) -> bool {
        let Findings {
            missed,
            seen_twice,
            torn,
            close_events,
            ..
        } = self.findings;
        let damage = missed + seen_twice + torn;
        let ends = self.clean_ends + self.cuts;
        let closed =
            usize::try_from(close_events) == Ok(ends) && self.cuts == 0 && self.killed() == 0;
        damage == 0 && self.given_up == 0 && (closed || !self.end.has_layer())
    }

    /// How many instances did not end by themselves.
    pub fn killed(&self) -> usize {
        self.stops.iter().filter(|stop| stop.killed).count()
    }

    /// How many reconnects there were in each of these periods.
    pub fn reconnects_per(&self, period: Duration) -> Vec<usize> {
        let index = |time: &Duration| (time.as_nanos() / period.as_nanos()) as usize;
        let mut counts = vec![0; index(&self.length) + 1];
        for time in &self.reconnects {
            if let Some(count) = counts.get_mut(index(time)) {
                *count += 1;
            }
        }
        counts
    }

    /// The greatest number of reconnects in any window of this length.
    pub fn most_reconnects_in(&self, window: Duration) -> usize {
        let mut times = self.reconnects.clone();
        times.sort_unstable();
        let in_window = |(first, start): (usize, &Duration)| {
            times.partition_point(|time| *time < *start + window) - first
        };
        times.iter().enumerate().map(in_window).max().unwrap_or(0)
    }
}
