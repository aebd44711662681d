//! The events that every client has to receive.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time;

/// Numbered events at a steady rate. Every process derives them from the clock, so that all instances have the same.
#[derive(Debug, Clone, Copy)]
pub struct Flow {
    /// The time of event 0, which does not exist, in milliseconds since 1970.
    start: u64,
}

const INTERVAL_MS: u64 = 100;

const WORDS: [&str; 16] = [
    "alder", "birch", "cedar", "elder", "fir", "hazel", "holly", "juniper", "larch", "maple",
    "oak", "pine", "rowan", "spruce", "willow", "yew",
];

impl Flow {
    /// Returns a flow that starts now.
    pub fn start() -> Self {
        Self { start: now() }
    }

    /// Returns the flow with this [`id`](Self::id).
    pub fn of(id: u64) -> Self {
        Self { start: id }
    }

    /// Returns the number from which another process makes the same flow.
    pub fn id(self) -> u64 {
        self.start
    }

    /// Returns the number of the newest event.
    pub fn newest(self) -> u64 {
        now().saturating_sub(self.start) / INTERVAL_MS
    }

    /// Waits until this event is published.
    pub async fn reach(self, number: u64) {
        let due = self.start + number * INTERVAL_MS;
        time::sleep(Duration::from_millis(due.saturating_sub(now()))).await;
    }
}

/// Returns the data of this event, on two lines. The number alone determines whether data are whole.
pub fn data(number: u64) -> String {
    let mut random = fastrand::Rng::with_seed(number);
    let words: Vec<_> = (0..12)
        .map(|_| WORDS[random.usize(..WORDS.len())])
        .collect();
    format!("event {number} of the flow\n{}", words.join(" "))
}

/// Returns the bytes of this event.
pub fn encode(number: u64) -> String {
    let data = data(number).replace('\n', "\ndata: ");
    format!("id: {number}\ndata: {data}\n\n")
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}
