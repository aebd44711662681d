//! The deadlines and the keep-alive of a stream.

use std::time::Duration;

use crate::model::Deadlines;

/// The times of one stream, since the response.
#[derive(Debug, Default)]
pub(super) struct Clock {
    deadlines: Deadlines,
    now: Duration,
    last_frame: Duration,
    last_event: Duration,
    /// The numbers of frames when a deadline had first passed.
    pub(super) expired: Option<usize>,
    pub(super) idle: Option<usize>,
}

impl Clock {
    pub(super) fn new(deadlines: Deadlines) -> Self {
        Self {
            deadlines,
            ..Self::default()
        }
    }

    pub(super) fn advance_to(&mut self, now: Duration, frames: usize) {
        self.now = now;
        if self.is_expired() {
            self.expired.get_or_insert(frames);
        }
        if self.is_idle() {
            self.idle.get_or_insert(frames);
        }
    }

    /// Records that a frame was sent now. `delivers` is `true` if the frame delivers an event.
    pub(super) fn sent(&mut self, delivers: bool) {
        self.last_frame = self.now;
        if delivers {
            self.last_event = self.now;
        }
    }

    pub(super) fn is_expired(&self) -> bool {
        self.has_passed(Duration::ZERO, self.deadlines.max_age)
    }

    /// Returns `true` if the last event is too long ago. An event that the upstream has ready can change that.
    pub(super) fn is_idle(&self) -> bool {
        self.has_passed(self.last_event, self.deadlines.idle_timeout)
    }

    /// Returns `true` if the silence is long enough for a keep-alive.
    pub(super) fn is_silent(&self) -> bool {
        self.has_passed(self.last_frame, self.deadlines.keep_alive)
    }

    fn has_passed(&self, since: Duration, after: Option<Duration>) -> bool {
        after.is_some_and(|after| self.now >= since + after)
    }
}
