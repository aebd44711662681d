//! The deadlines and the keep-alive of a layer, as configured and as one timer of a stream.

use std::{
    ops::RangeInclusive,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::{
    coop::poll_unconstrained,
    report::Stop,
    wire::{close_event::push_lines, event_match::EventMatch},
};

/// The comment that keeps a silent stream alive, and the interval after which it is sent.
///
/// Pass it to [`keep_alive`](crate::SseCompletionLayer::keep_alive), which also takes an interval alone:
///
/// ```
/// use std::time::Duration;
/// use tower_sse_completion::{KeepAlive, SseCompletionLayer};
///
/// let layer = SseCompletionLayer::new().keep_alive(Duration::from_secs(30));
///
/// let keep_alive = KeepAlive::new().interval(Duration::from_secs(30)).text("ping");
/// let layer = SseCompletionLayer::new().keep_alive(keep_alive);
/// # let _ = layer;
/// ```
///
/// # On the wire
///
/// The default is `:` followed by a blank line, as axum and sse-starlette send it. Clients ignore a comment
/// ([HTML standard, 9.2.6][html]), and a blank line without an event dispatches nothing. Clients that split the stream at
/// blank lines instead of parsing it lose the next event without that blank line, because the comment is its first line then.
///
/// [html]: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
#[doc(alias = "heartbeat")]
#[doc(alias = "ping")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepAlive {
    pub(crate) interval: Duration,
    pub(crate) comment: Bytes,
    text: String,
    blank_line: bool,
}

const DEFAULT_COMMENT: &[u8] = b":\n\n";

impl KeepAlive {
    /// Returns the default: an empty comment after every 15 seconds of silence, as the [HTML standard, 9.2.7][html] suggests.
    ///
    /// [html]: https://html.spec.whatwg.org/multipage/server-sent-events.html#authoring-notes
    pub fn new() -> Self {
        Self {
            interval: Duration::from_secs(15),
            comment: Bytes::from_static(DEFAULT_COMMENT),
            text: String::new(),
            blank_line: true,
        }
    }

    /// Sets the duration of the silence after which the comment is sent. An interval below 1 ms counts as 1 ms.
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Sets the text of the comment. Each line of the text becomes a comment line.
    #[must_use]
    pub fn text(mut self, text: impl AsRef<str>) -> Self {
        text.as_ref().clone_into(&mut self.text);
        self.encode()
    }

    /// Sets whether a blank line follows the comment. The default is `true`.
    ///
    /// Without the blank line, the comment is one byte shorter, and some clients that do not follow the HTML standard report no
    /// empty message.
    #[must_use]
    pub fn blank_line(mut self, blank_line: bool) -> Self {
        self.blank_line = blank_line;
        self.encode()
    }

    fn encode(mut self) -> Self {
        let mut comment = String::new();
        push_lines(&mut comment, ":", &self.text);
        if self.blank_line {
            comment.push('\n');
        }
        self.comment = comment.into();
        self
    }
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self::new()
    }
}

impl From<Duration> for KeepAlive {
    fn from(interval: Duration) -> Self {
        Self::new().interval(interval)
    }
}

/// Maximum time without an event before a stream ends, and the events that do not count.
///
/// Pass the timeout to [`idle_timeout`](crate::SseCompletionLayer::idle_timeout), which also takes a duration alone.
///
/// ```
/// use std::time::Duration;
/// use tower_sse_completion::{EventMatch, IdleTimeout, SseCompletionLayer};
///
/// // An upstream that sends nothing but pings is idle.
/// let timeout = IdleTimeout::after(Duration::from_secs(60)).ignoring(EventMatch::event("ping"));
/// let layer = SseCompletionLayer::new().idle_timeout(timeout);
/// # let _ = layer;
/// ```
#[derive(Debug, Clone)]
pub struct IdleTimeout {
    timeout: Duration,
    ignored: Vec<EventMatch>,
}

/// The deadlines and the keep-alive of a layer, as configured.
#[derive(Debug, Clone, Default)]
pub(crate) struct Deadlines {
    /// The maximum age of each stream is drawn from this range.
    pub(crate) max_age: Option<RangeInclusive<Duration>>,
    pub(crate) idle_timeout: Option<IdleTimeout>,
    pub(crate) keep_alive: Option<KeepAlive>,
}

/// The deadlines and the keep-alive of one stream, which share one timer.
#[derive(Debug)]
pub(crate) struct DeadlineTimer {
    expires_at: Option<Instant>,
    idle: Option<Timeout>,
    keep_alive: Option<(Timeout, Bytes)>,
    timer: Pin<Box<Sleep>>,
    /// The waker of the task that the timer wakes.
    waker: Option<Waker>,
}

/// A timeout measured from the last activity.
#[derive(Debug, Clone, Copy)]
struct Timeout {
    timeout: Duration,
    last_activity: Instant,
}

/// A deadline or a comment that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Due {
    /// A deadline has passed.
    Stop(Stop),
    /// The stream has been silent. This comment is sent if the client is at a boundary.
    KeepAlive(Bytes),
}

/// Minimum interval between keep-alive comments, which is the resolution of tokio's timers.
const MIN_KEEP_ALIVE: Duration = Duration::from_millis(1);

/// Thirty-one years: the time until a deadline that the clock cannot represent.
const NEVER: Duration = Duration::from_secs(1_000_000_000);

impl IdleTimeout {
    /// Returns a timeout that every delivered event resets.
    pub fn after(timeout: Duration) -> Self {
        Self {
            timeout,
            ignored: Vec::new(),
        }
    }

    /// Ignores matching events: they do not reset the timeout. Can be called several times.
    ///
    /// If several layers around a stream have an idle timeout, the shortest holds, with the events that it ignores.
    #[must_use]
    pub fn ignoring(mut self, event_match: EventMatch) -> Self {
        self.ignored.push(event_match);
        self
    }
}

impl From<Duration> for IdleTimeout {
    fn from(timeout: Duration) -> Self {
        Self::after(timeout)
    }
}

impl Deadlines {
    /// Returns `true` if the layer has neither a deadline nor a keep-alive.
    pub(crate) fn is_empty(&self) -> bool {
        self.max_age.is_none() && self.idle_timeout.is_none() && self.keep_alive.is_none()
    }
}

impl DeadlineTimer {
    /// Adds the deadlines of a layer to those of the layers inside of it. The earliest deadline and the shortest interval hold, and
    /// the comment of the innermost layer.
    ///
    /// Returns the matches of the layer's idle timeout, if that is the shortest.
    pub(crate) fn add<'a>(
        stream: &mut Option<Self>,
        layer: &'a Deadlines,
    ) -> Option<&'a [EventMatch]> {
        let now = Instant::now();
        let mut deadlines = stream.take().unwrap_or_else(|| Self {
            expires_at: None,
            idle: None,
            keep_alive: None,
            // Reset when it is first polled.
            timer: Box::pin(sleep_until(now)),
            waker: None,
        });
        if let Some(ages) = &layer.max_age {
            let expires_at = after(now, drawn(ages));
            let earliest = deadlines
                .expires_at
                .map_or(expires_at, |at| at.min(expires_at));
            deadlines.expires_at = Some(earliest);
        }
        let mut ignored = None;
        if let Some(layer) = &layer.idle_timeout {
            let added = Timeout::new(layer.timeout, now);
            let known = deadlines.idle;
            if known.is_none_or(|known| added.timeout < known.timeout) {
                ignored = Some(&*layer.ignored);
            }
            deadlines.idle = Some(known.map_or(added, |known| known.earliest(added)));
        }
        if let Some(KeepAlive {
            interval, comment, ..
        }) = &layer.keep_alive
        {
            let added = Timeout::new((*interval).max(MIN_KEEP_ALIVE), now);
            let (keep_alive, _) = deadlines
                .keep_alive
                .get_or_insert_with(|| (added, comment.clone()));
            *keep_alive = keep_alive.earliest(added);
        }
        *stream = Some(deadlines);
        ignored
    }

    /// Returns `true` if the timer needs a call for each delivered event.
    pub(crate) fn counts_events(&self) -> bool {
        self.idle.is_some()
    }

    /// Records that data is forwarded, and whether the data delivers an event.
    #[inline(always)]
    pub(crate) fn record_forwarded(&mut self, delivered: bool) {
        if self.idle.is_none() && self.keep_alive.is_none() {
            return;
        }
        let now = Instant::now();
        if let Some((keep_alive, _)) = &mut self.keep_alive {
            keep_alive.last_activity = now;
        }
        if let Some(idle) = self.idle.as_mut().filter(|_| delivered) {
            idle.last_activity = now;
        }
    }

    /// Returns the deadline that has passed.
    pub(crate) fn passed(&self) -> Option<Stop> {
        let now = Instant::now();
        if self.expires_at.is_some_and(|at| at <= now) {
            return Some(Stop::Expired);
        }
        let is_idle = self
            .idle
            .as_ref()
            .is_some_and(|idle| idle.deadline() <= now);
        is_idle.then_some(Stop::Idle)
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Due> {
        loop {
            if let Some(stop) = self.passed() {
                return Poll::Ready(Due::Stop(stop));
            }
            if let Some((keep_alive, comment)) = &mut self.keep_alive {
                let now = Instant::now();
                if keep_alive.deadline() <= now {
                    keep_alive.last_activity = now;
                    return Poll::Ready(Due::KeepAlive(comment.clone()));
                }
            }
            // Deadlines only move later, so the timer may fire early. That costs one spurious wake-up; the timer is then reset.
            if self.timer.is_elapsed() {
                self.reset();
            }
            // With the budget exhausted, the timer would not register this task.
            if poll_unconstrained(self.timer.as_mut(), cx).is_pending() {
                if !self.wakes(cx) {
                    self.waker = Some(cx.waker().clone());
                }
                return Poll::Pending;
            }
        }
    }

    /// Returns `true` if nothing is due, and the timer wakes this task when something is.
    pub(crate) fn is_waiting(&self, cx: &Context<'_>) -> bool {
        self.wakes(cx) && !self.timer.is_elapsed()
    }

    /// Sets the timer to the earliest deadline.
    fn reset(&mut self) {
        let idle = self.idle.as_ref().map(Timeout::deadline);
        let keep_alive = self.keep_alive.as_ref();
        let keep_alive = keep_alive.map(|(keep_alive, _)| keep_alive.deadline());
        let deadlines = [self.expires_at, idle, keep_alive];
        if let Some(next) = deadlines.into_iter().flatten().min() {
            self.timer.as_mut().reset(next);
        }
    }

    fn wakes(&self, cx: &Context<'_>) -> bool {
        let waker = self.waker.as_ref();
        waker.is_some_and(|waker| waker.will_wake(cx.waker()))
    }
}

impl Timeout {
    fn new(timeout: Duration, now: Instant) -> Self {
        Self {
            timeout,
            last_activity: now,
        }
    }

    /// Joins the timeouts of two layers. Until the next activity, each counts from the response that its layer has seen.
    fn earliest(self, other: Self) -> Self {
        let timeout = self.timeout.min(other.timeout);
        let first = self.deadline().min(other.deadline());
        Self {
            timeout,
            last_activity: first.checked_sub(timeout).unwrap_or(other.last_activity),
        }
    }

    fn deadline(&self) -> Instant {
        after(self.last_activity, self.timeout)
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
