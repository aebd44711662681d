//! Judges the stream of two layers.

use std::{rc::Rc, task::Poll, time::Duration};

use bytes::Bytes;
use http_body::Body;
use tower_sse_completion::Ending;

use super::{
    Judge, Options, Progress, Stop, StreamJudge, UpstreamLog, UpstreamPoll, judge::assert_events,
};
use crate::{driver::Driver, reports::Reports, script::ScriptError};

/// The judge of the stream of two layers, one around the other. Both have the same options, and a close event of the type
/// `close` with the data [`CLOSE_DATA`](Self::CLOSE_DATA).
///
/// The two layers have to behave as one of them does, except for a cancellation: either layer may see it first, so the number
/// of frames that are still forwarded is not known.
pub struct StackJudge {
    /// The parts of that judge without its step-by-step rules.
    stream: StreamJudge,
    trailers: bool,
    error: bool,
    /// The stream was cancelled when the inner layer ended its stream.
    was_cancelled: Option<bool>,
    has_ended: bool,
}

impl StackJudge {
    /// The data of the close event of both layers. The upstream must not send this data, because the judge recognizes the close
    /// event by its bytes.
    pub const CLOSE_DATA: &str = "of the layers, and not of the upstream";

    /// Returns the judge of the only stream of two layers that have these options and this observer.
    pub fn new(options: Options, reports: &Reports) -> Self {
        Self {
            stream: StreamJudge::new(options, reports),
            trailers: false,
            error: false,
            was_cancelled: None,
            has_ended: false,
        }
    }

    /// Separates the upstream's bytes from the close event, of which there may be one.
    fn split_close_event(&self) -> (&[u8], bool) {
        let (output, received) = (self.stream.output(), self.stream.forwarding.received());
        if received.starts_with(output) {
            return (output, false);
        }
        let forwarded = output.strip_suffix(close_event().as_slice());
        let forwarded = forwarded.expect("C4: more than was sent");
        match forwarded.strip_suffix(b"\n") {
            Some(cr) if cr.ends_with(b"\r") && !received.starts_with(forwarded) => (cr, true),
            _ => (forwarded, true),
        }
    }
}

impl Judge for StackJudge {
    fn log(&self) -> &Rc<UpstreamLog> {
        self.stream.log()
    }

    fn advance_to(&mut self, now: Duration) {
        self.stream.advance_to(now);
    }

    fn assert_woken<B: Body<Data = Bytes>>(&mut self, body: &Driver<B>) {
        self.stream.assert_woken(body);
    }

    fn poll<B>(&mut self, body: &mut Driver<B>) -> Progress
    where
        B: Body<Data = Bytes, Error = ScriptError>,
    {
        self.assert_woken(body);
        let stream = &mut self.stream;
        let wakes = body.wakes();
        let polled = body.poll();
        stream.polls += 1;
        stream.receive();
        let is_cancelled = stream.upstream.is_cancelled();
        // An upstream that reports its end may have ended the inner stream some polls ago.
        if stream.upstream.is_dropped() {
            let ended_before = stream.upstream.is_end_stream();
            self.was_cancelled
                .get_or_insert(is_cancelled && !ended_before);
        }
        match UpstreamPoll::new(&polled) {
            UpstreamPoll::Pending if body.wakes() > wakes => return Progress::Ready,
            UpstreamPoll::Pending => {
                assert!(!is_cancelled, "C10: a cancelled stream waits");
                let released = stream.forwarding.released();
                assert_eq!(stream.output.len(), released, "C6: too late");
                stream.waiting_since = Some(wakes);
                return Progress::Waiting;
            }
            UpstreamPoll::Error => self.error = true,
            UpstreamPoll::Trailers => self.trailers = true,
            _ => {}
        }
        self.has_ended = match polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    assert!(!self.trailers, "C13: data after the trailers");
                    stream.output.extend_from_slice(&data);
                }
                body.is_end_stream()
            }
            _ => true,
        };
        match self.has_ended {
            true => Progress::Ended,
            false => Progress::Ready,
        }
    }

    fn finish<B: Body<Data = Bytes>>(self, body: Driver<B>) {
        drop(body);
        let stream = &self.stream;
        let reports = usize::from(stream.polls > 0);
        assert_eq!(stream.reports.count(), reports, "C21: one report");
        let (forwarded, has_close_event) = self.split_close_event();
        let is_prefix = stream.forwarding.received().starts_with(forwarded);
        assert!(is_prefix, "C4: not the bytes of the upstream");
        assert_events(&stream.output, forwarded, has_close_event);

        if !self.has_ended {
            return;
        }
        let was_cancelled = self.was_cancelled.unwrap_or(false);
        let report = stream.reports.only();
        let is_cancelled = report.ending() == Ending::Cancelled;
        // The outer layer may see a cancellation that fires after the end of the inner layer.
        assert!(is_cancelled || !was_cancelled, "C22: the ending");
        assert!(
            !is_cancelled || stream.upstream.is_cancelled(),
            "C22: the ending"
        );
        let stop = is_cancelled.then_some(Stop::Cancelled);
        let mut expected = stream.expected(stop, stream.upstream.end());
        // After an event of its own type, a close event is not added.
        let last = stream.forwarding.last_event_type(forwarded.len());
        expected.close_event &= has_close_event || last.as_deref() != Some("close");
        if is_cancelled {
            assert!(
                has_close_event || !expected.close_event,
                "C9: the close event"
            );
            assert!(expected.error || !self.error, "C12: the error");
            assert_eq!(
                report.close_event_sent(),
                has_close_event,
                "C22: the close event"
            );
        } else if !stream.upstream.has_outlived_its_end() {
            assert_eq!(
                stream.output,
                expected.output_with(&close_event()),
                "C4, C9: the bytes"
            );
            assert_eq!(self.trailers, expected.trailers, "C13: the trailers");
            assert_eq!(self.error, expected.error, "C12: the error");
            expected.assert_report(&report, stream.output.len());
        }
    }
}

fn close_event() -> Vec<u8> {
    format!("event: close\ndata: {}\n\n", StackJudge::CLOSE_DATA).into_bytes()
}
