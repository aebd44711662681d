//! Judges the stream of one layer, poll by poll.

mod clock;
mod ending;

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    rc::Rc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame};
use tower_sse_completion::Ending;

use self::{clock::Clock, ending::Item};
use super::{
    Expected, FRAMES_AFTER_STOP, FRAMES_PER_POLL, FRAMES_UNTIL_CHECK, Forwarding, Judge,
    KEEP_ALIVE, MAX_JOINED, Options, Progress, Stop, UpstreamEnd, UpstreamLog, UpstreamPoll,
};
use crate::{decoder::decode, driver::Driver, reports::Reports, script::ScriptError};

/// The judge of the stream of one layer.
pub struct StreamJudge {
    pub(super) options: Options,
    pub(super) upstream: Rc<UpstreamLog>,
    pub(super) reports: Reports,
    pub(super) forwarding: Forwarding,
    phase: Phase,
    /// All bytes that the stream has returned.
    pub(super) output: Vec<u8>,
    /// The number of upstream bytes in the output, dropped ones included.
    forwarded: usize,
    has_close_event: bool,
    /// The line ends that the layer has added to an end mark.
    line_ends: &'static [u8],
    /// The number of upstream frames that the judge has seen.
    frames: usize,
    pub(super) polls: usize,
    clock: Clock,
    /// The number of wake-ups when the stream began to wait.
    pub(super) waiting_since: Option<usize>,
    /// The number of polls that yielded although the stream was stopped.
    delays: usize,
}

type Polled = Poll<Option<Result<Frame<Bytes>, ScriptError>>>;

#[derive(Debug)]
enum Phase {
    Streaming,
    /// The upstream is dropped.
    Ending {
        tail: VecDeque<Item>,
        /// The expected streams: several, which differ in their endings only, if several stops are due.
        candidates: Vec<Expected>,
        /// The body yields before it returns an error.
        must_yield: bool,
    },
    /// The upstream has reported its end, and the stream has been reported.
    Finished,
    Ended,
}

impl Judge for StreamJudge {
    fn log(&self) -> &Rc<UpstreamLog> {
        &self.upstream
    }

    fn advance_to(&mut self, now: Duration) {
        self.clock.advance_to(now, self.frames);
    }

    fn poll<B>(&mut self, body: &mut Driver<B>) -> Progress
    where
        B: Body<Data = Bytes, Error = ScriptError>,
    {
        if self.polls == 0 {
            self.assert_open(body);
        }
        self.assert_woken(body);
        let is_streaming = matches!(self.phase, Phase::Streaming);
        let was_queued = is_streaming && !self.unforwarded().is_empty();
        let (polls, wakes) = (self.upstream.polls(), body.wakes());
        let polled = catch_unwind(AssertUnwindSafe(|| body.poll()));
        self.polls += 1;
        let polled = match polled {
            Ok(polled) => polled,
            Err(_) if self.upstream.last() == UpstreamPoll::Panicked => return self.panicked(),
            Err(panic) => resume_unwind(panic),
        };
        let is_woken = body.wakes() > wakes;
        let upstream_polls = self.upstream.polls() - polls;
        assert!(upstream_polls <= FRAMES_PER_POLL, "C7: bounded polls");
        if matches!(self.phase, Phase::Finished) {
            assert_eq!(upstream_polls, 1, "C2: poll by poll");
            return self.assert_pass_through(polled, body);
        }
        assert!(!was_queued || upstream_polls == 0, "C6: consecutive");
        self.receive();
        let has_end_mark = self.forwarding.facts().has_end_mark;
        if is_streaming && self.upstream.is_dropped() && !has_end_mark {
            self.decide();
        }
        if let Phase::Ending { .. } = self.phase {
            return self.assert_tail(polled, body, is_woken);
        }
        self.assert_not_outrun();
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                let data = frame.into_data().expect("data before the end");
                if self.unforwarded().is_empty() {
                    assert!(upstream_polls > 0, "C4: more than was sent");
                    self.assert_keep_alive(&data);
                    self.assert_open(body);
                    return Progress::Ready;
                }
                if has_end_mark && self.upstream.is_dropped() {
                    return self.assert_end_mark(&data, !was_queued, body);
                }
                self.assert_forwarded(&data, !was_queued);
                self.after_data(body)
            }
            Poll::Pending => self.after_pending(body, is_woken),
            other => panic!("{other:?} before the end of the upstream"),
        }
    }

    fn assert_woken<B: Body<Data = Bytes>>(&mut self, body: &Driver<B>) {
        if let Some(wakes) = self.waiting_since.take() {
            let is_due = self.is_stopped() || self.is_keep_alive_due();
            assert!(!is_due || body.wakes() > wakes, "C10: a lost wake-up");
        }
    }

    fn finish<B: Body<Data = Bytes>>(self, body: Driver<B>) {
        drop(body);
        assert!(self.upstream.is_dropped(), "the body owns the upstream");
        match &self.phase {
            Phase::Streaming if self.polls == 0 => {
                assert_eq!(self.reports.count(), 0, "C21: never polled");
            }
            Phase::Streaming => {
                let (dropped, forwarded) = (Ending::Dropped, self.forwarded);
                Expected::without_tail(&self.forwarding, dropped, forwarded)
                    .assert_report(&self.reports.only(), self.output.len());
            }
            Phase::Ending { candidates, .. } => self.assert_report(candidates),
            Phase::Finished | Phase::Ended => {
                self.reports.only();
            }
        }
        let forwarded = &self.forwarding.received()[..self.forwarded];
        let forwarded = [forwarded, self.line_ends].concat();
        assert_events(&self.output, &forwarded, self.has_close_event);
    }
}

impl StreamJudge {
    /// Returns the judge of the only stream of a layer that has these options and this observer.
    pub fn new(options: Options, reports: &Reports) -> Self {
        Self {
            clock: Clock::new(options.deadlines),
            forwarding: Forwarding::new(options.buffer_limit)
                .matching(&options.end_marks, &options.ignored),
            options,
            upstream: Rc::default(),
            reports: reports.clone(),
            phase: Phase::Streaming,
            output: Vec::new(),
            forwarded: 0,
            has_close_event: false,
            line_ends: b"",
            frames: 0,
            polls: 0,
            waiting_since: None,
            delays: 0,
        }
    }

    /// Returns all bytes that the stream has returned.
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    /// Adds the frames that the upstream has sent since the last call.
    pub(super) fn receive(&mut self) {
        while let Some(frame) = self.upstream.frame(self.frames) {
            self.forwarding.receive(&frame);
            self.frames += 1;
        }
    }

    /// Returns the bytes that the stream has to return next.
    fn unforwarded(&self) -> &[u8] {
        self.forwarding.released_from(self.forwarded)
    }

    pub(super) fn expected(&self, stop: Option<Stop>, end: UpstreamEnd) -> Expected {
        Expected::new(&self.forwarding, stop, end, self.options.policy)
    }

    /// Returns `true` if the stream may not wait any longer.
    fn is_stopped(&self) -> bool {
        self.upstream.is_cancelled() || self.clock.is_expired() || self.clock.is_idle()
    }

    /// Returns the stops that the stream may have seen, each with the number of frames before.
    fn stops(&self) -> impl Iterator<Item = (Stop, usize)> + use<> {
        let stops = [
            (Stop::Cancelled, self.upstream.frames_before_cancellation()),
            (Stop::Expired, self.clock.expired),
            (Stop::Idle, self.clock.idle),
        ];
        let stops = stops.into_iter();
        stops.filter_map(|(stop, frames)| Some((stop, frames?)))
    }

    /// Returns `true` if a comment may be sent here, and the silence is long enough.
    fn is_keep_alive_due(&self) -> bool {
        matches!(self.phase, Phase::Streaming)
            && self.unforwarded().is_empty()
            && !self.forwarding.facts().mid_event
            && !self.output.ends_with(b"\r")
            && self.clock.is_silent()
    }

    /// C4, C6, C7: data of the upstream.
    fn assert_forwarded(&mut self, data: &Bytes, is_first: bool) {
        assert!(!data.is_empty(), "C7: a frame without data");
        let is_next = self.unforwarded().starts_with(data);
        assert!(is_next, "C4, C6: not the released bytes");
        let is_whole = data.len() == self.unforwarded().len();
        assert!(
            is_whole || self.unforwarded().len() > MAX_JOINED,
            "C6: in one frame"
        );
        if is_first && self.forwarding.is_untouched() {
            let frame = self.upstream.frame(self.frames - 1).expect("a frame");
            assert_eq!(frame.as_ptr(), data.as_ptr(), "C7: not copied");
            assert!(is_whole, "C7: not split");
        }
        let start = self.forwarded.max(self.forwarding.dropped());
        let before = self.forwarding.traffic_within(self.forwarded);
        self.forwarded = start + data.len();
        let after = self.forwarding.traffic_within(self.forwarded);
        self.clock.sent(after > before);
        self.output.extend_from_slice(data);
    }

    /// C17: a comment of the layer.
    fn assert_keep_alive(&mut self, data: &Bytes) {
        assert_eq!(data, KEEP_ALIVE, "C4: not a byte of the upstream");
        assert!(self.is_keep_alive_due(), "C17: too early, or not here");
        assert!(!self.is_stopped(), "C10: the stream has to end");
        let is_silent = self.upstream.last().is_pending();
        assert!(is_silent, "C17: the upstream is not silent");
        if self.forwarded == 0 {
            self.forwarding.comment_precedes();
        }
        self.clock.sent(false);
        self.output.extend_from_slice(data);
    }

    /// C11: the frames that the upstream has ready do not outrun a stop. An idle stream may stop being idle.
    fn assert_not_outrun(&self) {
        for (_, frames) in self.stops().filter(|(stop, _)| *stop != Stop::Idle) {
            let frames = self.frames - frames;
            let limit = FRAMES_UNTIL_CHECK + FRAMES_AFTER_STOP;
            assert!(frames <= limit, "C11: {frames} frames");
        }
    }

    /// C21: an upstream that reports its end with a frame ends the stream with that frame, if nothing is to follow.
    fn after_data<B: Body<Data = Bytes>>(&mut self, body: &Driver<B>) -> Progress {
        let facts = self.forwarding.facts();
        assert!(
            !facts.has_end_mark || !self.unforwarded().is_empty(),
            "C26: ends with the mark"
        );
        let expected = self.expected(None, UpstreamEnd::Eof);
        let may_finish = self.upstream.is_end_stream()
            && self.forwarded == self.forwarding.received().len()
            && !expected.close_event
            && !facts.ends_in_end_mark
            && !self.upstream.is_cancelled();
        // A stream that has seen a deadline polls its upstream to the end. An event above the limit may become an end mark.
        let may_become_mark = facts.expects_end_mark && facts.unfinished;
        let may_poll_on = self.stops().next().is_some() || may_become_mark;
        let may_go_on = may_poll_on && !body.is_end_stream();
        if !may_finish || may_go_on {
            self.assert_open(body);
            return Progress::Ready;
        }
        assert!(body.is_end_stream(), "C13: with the last frame");
        expected.assert_report(&self.reports.only(), self.output.len());
        self.phase = Phase::Finished;
        Progress::Finished
    }

    fn after_pending<B>(&mut self, body: &Driver<B>, is_woken: bool) -> Progress
    where
        B: Body<Data = Bytes>,
    {
        assert!(self.unforwarded().is_empty(), "C6: too late");
        self.assert_open(body);
        let last = self.upstream.last();
        let has_slept = last == UpstreamPoll::Pending;
        assert!(is_woken || has_slept, "C10: nothing wakes the task");
        if self.is_stopped() {
            assert!(is_woken, "C10: a stopped stream waits");
            // One poll for the bound of C7, one for the last poll of the upstream.
            self.delays += 1;
            assert!(self.delays <= 2, "C10: the close event is late");
        }
        if is_woken {
            return Progress::Ready;
        }
        assert!(!self.is_keep_alive_due(), "C17: a keep-alive is due");
        self.waiting_since = Some(body.wakes());
        Progress::Waiting
    }

    /// C14, C21: the hints are unknown, and no report has been made.
    fn assert_open<B: Body<Data = Bytes>>(&self, body: &Driver<B>) {
        let hint = body.size_hint();
        let hints = (body.is_end_stream(), hint.lower(), hint.upper());
        assert_eq!(hints, (false, 0, None), "C14: the hints before the end");
        assert_eq!(self.reports.count(), 0, "C21: before the end");
    }
}

/// C5, C6: the events of the output are those of the forwarded bytes, and then the close event if there is one. The decoder
/// judges the stream as a whole, without the rules of the model.
#[track_caller]
pub(super) fn assert_events(output: &[u8], forwarded: &[u8], has_close_event: bool) {
    let (mut with, mut without) = (decode(output), decode(forwarded));
    if has_close_event {
        assert!(!without.pending, "C5: not at a boundary");
        with.events.pop();
        (with.retry, without.retry) = (None, None);
    }
    assert_eq!(with, without, "C6: the events and the resume point");
}
