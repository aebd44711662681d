//! Deadlines, a keep-alive, and a clock that jumps.

use std::time::Duration;

use arbitrary::{Arbitrary, Result, Unstructured};
use testkit::{exchange::spend_budget, model::Deadlines};
use tokio::time::{self, Instant};

#[derive(Debug)]
pub(super) struct Times {
    pub(super) deadlines: Deadlines,
    /// The time between two polls, in turns, in milliseconds.
    gaps: [u8; 4],
    /// The polls, of eight, before which the cooperative budget is spent.
    spent: u8,
}

pub(super) struct Clock<'a> {
    times: &'a Times,
    response: Instant,
}

/// Minimum time that passes while a stream waits.
const MIN_WAIT: Duration = Duration::from_millis(8);

impl<'a> Clock<'a> {
    pub(super) fn start(times: &'a Times) -> Self {
        Self {
            times,
            response: Instant::now(),
        }
    }

    /// Advances the clock by the time before this poll, and returns the time since the response.
    pub(super) async fn advance(&self, poll: usize, waits: bool) -> Duration {
        let gap = u64::from(self.times.gaps[poll % self.times.gaps.len()]);
        // Half of the gaps are zero, so that frames arrive at once.
        let gap = Duration::from_millis(gap.saturating_sub(128));
        time::advance(gap + MIN_WAIT * u32::from(waits)).await;
        self.response.elapsed()
    }

    pub(super) fn may_spend_budget(&self, poll: usize) {
        if self.times.spent >> (poll % 8) & 1 == 1 {
            spend_budget();
        }
    }
}

impl<'a> Arbitrary<'a> for Times {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        // In milliseconds, the resolution of tokio's timers. Zero is no deadline.
        let deadlines = u.arbitrary::<[u8; 3]>()?;
        let [max_age, idle_timeout, keep_alive] =
            deadlines.map(|time| (time > 0).then(|| Duration::from_millis(time.into())));
        Ok(Self {
            deadlines: Deadlines {
                max_age,
                idle_timeout,
                keep_alive,
            },
            gaps: u.arbitrary()?,
            spent: u.arbitrary()?,
        })
    }
}
