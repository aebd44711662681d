//! The deadlines and the keep-alive of a layer, as configured.

mod keep_alive;
pub(crate) mod timer;

use std::{ops::RangeInclusive, time::Duration};

use tokio::time::Instant;

pub use self::keep_alive::KeepAlive;
use self::timer::{DeadlineTimer, Timeout};

#[derive(Debug, Clone, Default)]
pub(crate) struct Deadlines {
    /// The maximum age of each stream is drawn from this range.
    pub(crate) max_age: Option<RangeInclusive<Duration>>,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) keep_alive: Option<KeepAlive>,
}

/// Minimum interval between keep-alive comments, which is the resolution of tokio's timers.
const MIN_KEEP_ALIVE: Duration = Duration::from_millis(1);

/// Thirty-one years: the time until a deadline that the clock cannot represent.
const NEVER: Duration = Duration::from_secs(1_000_000_000);

impl Deadlines {
    /// Starts the timer of a stream, if the layer has anything to time. Otherwise the clock is not read.
    pub(crate) fn start(&self) -> Option<DeadlineTimer> {
        if self.max_age.is_none() && self.idle_timeout.is_none() && self.keep_alive.is_none() {
            return None;
        }
        let now = Instant::now();
        let expires_at = self.max_age.as_ref().map(|ages| after(now, drawn(ages)));
        let idle = self.idle_timeout.map(|timeout| Timeout::new(timeout, now));
        let keep_alive = self.keep_alive.as_ref().map(|keep_alive| {
            let interval = keep_alive.interval.max(MIN_KEEP_ALIVE);
            (Timeout::new(interval, now), keep_alive.comment.clone())
        });
        DeadlineTimer::start(expires_at, idle, keep_alive)
    }
}

fn drawn(ages: &RangeInclusive<Duration>) -> Duration {
    let spread = ages.end().saturating_sub(*ages.start());
    let nanoseconds = u64::try_from(spread.as_nanos()).unwrap_or(u64::MAX);
    ages.start()
        .saturating_add(Duration::from_nanos(fastrand::u64(0..=nanoseconds)))
}

fn after(now: Instant, duration: Duration) -> Instant {
    now.checked_add(duration).unwrap_or_else(|| now + NEVER)
}
