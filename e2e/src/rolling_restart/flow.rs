//! The events that everybody has to get, and the buffer from which an instance replays them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;

/// The newest events, for streams that are behind.
#[derive(Debug, Clone)]
pub struct Replay {
    events: Arc<Mutex<VecDeque<(u64, String)>>>,
    newest: watch::Sender<u64>,
}

/// Of the events, each of some two hundred bytes.
const KEPT: usize = 2_000;

const WORDS: [&str; 16] = [
    "alder", "birch", "cedar", "elder", "fir", "hazel", "holly", "juniper", "larch", "maple",
    "oak", "pine", "rowan", "spruce", "willow", "yew",
];

/// The data of this event, on two lines. Whoever has the number can tell whether the data is whole.
pub fn data(number: u64) -> String {
    let mut random = fastrand::Rng::with_seed(number);
    let mut words = || WORDS[random.usize(..WORDS.len())];
    let line: Vec<_> = (0..12).map(|_| words()).collect();
    format!("event {number} of the flow\n{}", line.join(" "))
}

/// An event as it is on the wire.
pub fn encode(number: u64, data: &str) -> String {
    let mut event = format!("id: {number}\n");
    for line in data.lines() {
        event.push_str("data: ");
        event.push_str(line);
        event.push('\n');
    }
    event.push('\n');
    event
}

impl Replay {
    pub fn new() -> Self {
        Self {
            events: Arc::default(),
            newest: watch::Sender::new(0),
        }
    }

    pub fn push(&self, number: u64, event: String) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.push_back((number, event));
        if events.len() > KEPT {
            events.pop_front();
        }
        drop(events);
        self.newest.send_replace(number);
    }

    /// The number of the newest event, as it changes.
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// All events behind this one, and the number of the last of them.
    pub fn after(&self, number: u64) -> (String, u64) {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let first = events.partition_point(|event| event.0 <= number);
        let text = events
            .range(first..)
            .map(|event| event.1.as_str())
            .collect();
        (
            text,
            events.back().map_or(number, |last| last.0.max(number)),
        )
    }
}
