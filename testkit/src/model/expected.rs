//! Everything that a stream returns and reports.

use tower_sse_completion::{Ending, StreamReport};

use super::{Forwarding, Outcome, Policy, Stop, UpstreamEnd};
use crate::exchange::CLOSE;

/// Everything that a stream returns and reports, from its first frame to its last.
///
/// ```
/// use testkit::model::{Expected, Forwarding, Policy, Stop, UpstreamEnd};
///
/// let mut forwarding = Forwarding::new(1024);
/// forwarding.receive(b"data: 1\n\ndata: 2");
/// let (stop, end) = (Some(Stop::Cancelled), UpstreamEnd::Open);
/// let expected = Expected::new(&forwarding, stop, end, Policy::default());
/// assert!(expected.close_event);
/// assert_eq!(expected.bytes, b"data: 1\n\n");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// The ending that is reported.
    pub ending: Ending,
    /// The bytes of the upstream that are forwarded.
    pub bytes: Vec<u8>,
    /// The line ends that the layer adds to an end mark.
    pub line_ends: &'static [u8],
    /// A close event follows the bytes.
    pub close_event: bool,
    /// The bytes include those of the unfinished event.
    pub keeps_rest: bool,
    /// The trailers of the upstream follow.
    pub trailers: bool,
    /// The error of the upstream follows.
    pub error: bool,
    /// An event is reported as delivered.
    pub delivered: bool,
    /// The data frames that are reported as forwarded.
    pub data_frames: usize,
    /// The bytes that the upstream has returned.
    pub received: usize,
}

impl Expected {
    /// Predicts the stream of one layer that has received these bytes, and was then stopped or has ended.
    pub fn new(
        forwarding: &Forwarding,
        stop: Option<Stop>,
        end: UpstreamEnd,
        policy: Policy,
    ) -> Self {
        let facts = forwarding.facts();
        let outcome = Outcome::decide(stop, end, facts, policy);
        let forwarded = match outcome.keeps_rest && !facts.has_end_mark {
            true => forwarding.received().len(),
            false => forwarding.released(),
        };
        let has_end_mark = facts.has_end_mark || facts.ends_in_end_mark;
        let is_marked = has_end_mark && outcome.ending == Ending::Completed;
        let expected = Self::without_tail(forwarding, outcome.ending, forwarded);
        Self {
            line_ends: match is_marked {
                true => forwarding.line_ends(),
                false => b"",
            },
            delivered: expected.delivered || is_marked,
            close_event: outcome.close_event,
            trailers: end == UpstreamEnd::Trailers,
            keeps_rest: outcome.keeps_rest,
            error: end == UpstreamEnd::Error && outcome.keeps_rest,
            ..expected
        }
    }

    /// Predicts the stream of a body that is dropped, or whose upstream panics, when the first `forwarded` bytes of the
    /// upstream have been forwarded.
    pub fn without_tail(forwarding: &Forwarding, ending: Ending, forwarded: usize) -> Self {
        let start = forwarding.dropped().min(forwarded);
        Self {
            ending,
            bytes: forwarding.received()[start..forwarded].to_vec(),
            line_ends: b"",
            close_event: false,
            keeps_rest: false,
            trailers: false,
            error: false,
            delivered: forwarding.delivered_within(forwarded) > 0,
            data_frames: forwarding.frames_within(forwarded),
            received: forwarding.received().len(),
        }
    }

    /// Returns the bytes of all data frames, if the close event is the default one.
    pub fn output(&self) -> Vec<u8> {
        self.output_with(CLOSE)
    }

    /// Returns the bytes of all data frames, if these are the bytes of the close event.
    pub(super) fn output_with(&self, close_event: &[u8]) -> Vec<u8> {
        let mut output = [&self.bytes, self.line_ends].concat();
        if self.close_event {
            if output.ends_with(b"\r") {
                output.push(b'\n');
            }
            output.extend_from_slice(close_event);
        }
        output
    }

    /// Compares the report of the stream, which has returned this number of bytes.
    ///
    /// # Panics
    ///
    /// Panics if the report differs.
    #[track_caller]
    pub fn assert_report(&self, report: &StreamReport, sent: usize) {
        let reported = (
            report.ending(),
            report.close_event_sent(),
            report.delivered(),
            report.data_frames(),
            report.bytes_received(),
            report.bytes_sent(),
        );
        let expected = (
            self.ending,
            self.close_event,
            self.delivered,
            self.data_frames as u64,
            self.received as u64,
            sent as u64,
        );
        assert_eq!(reported, expected, "C21: the report");
        let has_time = report.time_to_first_event().is_some();
        assert_eq!(has_time, self.delivered, "C21: the time to the first event");
    }
}
