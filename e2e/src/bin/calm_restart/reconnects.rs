//! When the clients of a drained instance reconnected.

use std::time::Duration;

use crate::site::Retry;

/// The reconnects after a drain.
#[derive(Debug)]
pub struct Outcome {
    /// The number of streams that the drain ended, as reported by the instance.
    pub ended: usize,
    /// The number of these streams whose last event was the close event.
    pub closed: usize,
    /// The times of the reconnects, measured from the begin of the drain.
    pub reconnects: Vec<Duration>,
    /// The times between the end of a stream and the response to the reconnect.
    pub offline: Vec<Duration>,
}

/// The head of the table of [`Outcome::row`].
pub const HEAD: &str = "\
| reconnects | window | `retry` | most in 250 ms | × even | mean offline | 99 % offline | close events lost |\n\
|--:|--:|--:|--:|--:|--:|--:|--:|";

const BUCKET: Duration = Duration::from_millis(250);

impl Outcome {
    /// Returns `true` if every stream ended with its close event, and every client has reconnected.
    pub fn is_good(&self) -> bool {
        self.ended > 0 && self.closed == self.ended && self.reconnects.len() == self.ended
    }

    /// Returns the maximum number of reconnects within any 250 ms.
    fn peak(&self) -> usize {
        let mut times = self.reconnects.clone();
        times.sort_unstable();
        let in_bucket = |(first, start): (usize, &Duration)| {
            times.partition_point(|time| *time < *start + BUCKET) - first
        };
        times.iter().enumerate().map(in_bucket).max().unwrap_or(0)
    }

    /// Returns the peak as a multiple of that of reconnects that are even over the window and the range of reconnection times.
    pub fn peak_over_even(&self, window: Duration, retry: Retry) -> f64 {
        let spread = window + (retry[1] - retry[0]);
        let even = self.reconnects.len() as f64 * BUCKET.as_secs_f64() / spread.as_secs_f64();
        self.peak() as f64 / even
    }

    /// Returns a row of a Markdown table.
    pub fn row(&self, window: Duration, retry: Retry) -> String {
        let reconnects = self.reconnects.len();
        let peak = self.peak();
        let mut offline = self.offline.clone();
        offline.sort_unstable();
        let mean = offline.iter().sum::<Duration>() / offline.len().max(1) as u32;
        let last = offline.get(offline.len().saturating_sub(1) * 99 / 100);
        let times = match retry[0] == retry[1] {
            true => format!("{} ms", retry[0].as_millis()),
            false => format!("{} to {} s", retry[0].as_secs(), retry[1].as_secs()),
        };
        format!(
            "| {reconnects} | {} | {times} | {peak} | {:.2} | {:.2} s | {:.2} s | {} |",
            match window.is_zero() {
                true => "none".to_owned(),
                false => format!("{} s", window.as_secs()),
            },
            self.peak_over_even(window, retry),
            mean.as_secs_f64(),
            last.copied().unwrap_or_default().as_secs_f64(),
            self.ended - self.closed,
        )
    }
}
