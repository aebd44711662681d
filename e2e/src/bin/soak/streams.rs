//! The streams of the handler. Their frames end at any position, and their events are numbered.

use std::{io, mem, time::Duration};

use axum::body::Bytes;
use futures_util::{Stream, stream};
use serde::Deserialize;
use tokio::time;

/// A kind of stream, which is the path of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Endless events with random pauses.
    Forever,
    /// Some events, and the end.
    Completes,
    /// Some events, and the start of an event.
    Truncated,
    /// Some events, and an error.
    Fails,
    /// No event.
    Empty,
    /// Large events without a pause.
    Flood,
}

/// Mean of the pauses between two events of an endless stream.
const PAUSE: f64 = 4.0;

/// Mean of the pauses between two events of a stream that has a last event.
const SHORT_PAUSE: f64 = 0.3;

/// Maximum pause inside an event.
const LAG: Duration = Duration::from_millis(200);

/// The last event of a stream that has one.
const LAST: u64 = 10;

impl Kind {
    pub fn path(self) -> &'static str {
        match self {
            Self::Forever => "/forever",
            Self::Completes => "/completes",
            Self::Truncated => "/truncated",
            Self::Fails => "/fails",
            Self::Empty => "/empty",
            Self::Flood => "/flood",
        }
    }

    /// Returns a random kind. Most streams are endless.
    pub fn random() -> Self {
        match fastrand::u32(0..100) {
            0 => Self::Flood,
            1 => Self::Fails,
            2 => Self::Truncated,
            3 => Self::Empty,
            4..10 => Self::Completes,
            _ => Self::Forever,
        }
    }
}

/// Returns the data of the event with this number.
pub fn payload(number: u64) -> String {
    format!("{number} {}", "x".repeat((number * 37 % 200) as usize))
}

/// Returns a random duration with this mean, in seconds, as the time until an event of a Poisson process.
pub fn random(mean: f64) -> Duration {
    Duration::from_secs_f64(-mean * (1.0 - fastrand::f64()).ln())
}

/// The state of a stream.
struct Frames {
    kind: Kind,
    /// The number of the last event that has begun.
    number: u64,
    /// The rest of that event.
    rest: Bytes,
    ended: bool,
}

/// Returns the frames of a stream, which calls a function with each poll. Each event is sent in two frames.
pub fn frames(
    kind: Kind,
    on_poll: impl Fn() + Send + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let start = Frames {
        kind,
        number: 0,
        rest: Bytes::new(),
        ended: false,
    };
    stream::unfold((start, on_poll), |(mut frames, on_poll)| async move {
        on_poll();
        let frame = frames.next().await?;
        Some((frame, (frames, on_poll)))
    })
}

impl Frames {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if self.ended || self.kind == Kind::Empty {
            return None;
        }
        if self.kind == Kind::Flood {
            return Some(Ok(Bytes::from(format!(
                "data: {}\n\n",
                "x".repeat(8 * 1024)
            ))));
        }
        if !self.rest.is_empty() {
            time::sleep(LAG.mul_f64(fastrand::f64())).await;
            return Some(Ok(mem::take(&mut self.rest)));
        }
        if self.kind == Kind::Forever {
            time::sleep(random(PAUSE)).await;
        } else {
            time::sleep(random(SHORT_PAUSE)).await;
        }
        self.number += 1;
        let is_last = self.kind != Kind::Forever && self.number > LAST;
        if is_last && self.kind == Kind::Completes {
            return None;
        }
        let number = self.number;
        let mut frame = Bytes::from(format!("id: {number}\ndata: {}\n\n", payload(number)));
        self.rest = frame.split_off(fastrand::usize(1..frame.len()));
        self.ended = is_last;
        match self.kind {
            Kind::Fails if is_last => Some(Err(io::Error::other("the handler fails"))),
            _ => Some(Ok(frame)),
        }
    }
}
