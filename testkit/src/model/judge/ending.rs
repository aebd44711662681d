//! The end of a stream: the frames after those of its upstream, and its report.

use std::{mem, task::Poll};

use bytes::Bytes;
use http_body::Body;
use tower_sse_completion::Ending;

use super::{Phase, Polled, StreamJudge};
use crate::{
    driver::Driver,
    model::{
        CloseEventSpec, Expected, FRAMES_AFTER_STOP, Progress, Stop, UpstreamEnd, UpstreamPoll,
    },
    script::{ScriptError, trailers},
};

/// A frame that follows the forwarded bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Item {
    CloseEvent,
    Buffered,
    Trailers,
    Error,
}

impl StreamJudge {
    /// C9, C11, C21: the upstream was dropped by the last poll.
    pub(super) fn decide(&mut self) {
        assert!(self.unforwarded().is_empty(), "C4: not all is forwarded");
        let (last, end) = (self.upstream.last(), self.upstream.end());
        if !matches!(
            last,
            UpstreamPoll::Eof | UpstreamPoll::Trailers | UpstreamPoll::Error
        ) {
            let first = self.stops().map(|(_, frames)| frames).min();
            let frames = self.frames - first.expect("C4: dropped before its end");
            let is_last = last.is_pending() || frames >= FRAMES_AFTER_STOP;
            assert!(is_last, "C11: only {frames} frames");
        }
        let stops = self.stops().map(|(stop, _)| stop);
        let mut candidates: Vec<_> = stops
            .filter(|&stop| stop == Stop::Cancelled || end == UpstreamEnd::Open)
            .map(|stop| self.expected(Some(stop), end))
            .collect();
        if candidates.is_empty() {
            candidates.push(self.expected(None, end));
        }
        let expected = &candidates[0];
        self.line_ends = expected.line_ends;
        let rest = [self.forwarding.buffered(), self.line_ends].concat();
        let has_buffered = expected.keeps_rest && !rest.is_empty();
        let tail = [
            expected.close_event.then_some(Item::CloseEvent),
            has_buffered.then_some(Item::Buffered),
            expected.trailers.then_some(Item::Trailers),
            expected.error.then_some(Item::Error),
        ];
        self.phase = Phase::Ending {
            tail: tail.into_iter().flatten().collect(),
            candidates,
            must_yield: !self.output.is_empty(),
        };
    }

    /// C9, C12, C13: the frames that follow once the upstream is dropped.
    pub(super) fn assert_tail<B>(
        &mut self,
        polled: Polled,
        body: &mut Driver<B>,
        is_woken: bool,
    ) -> Progress
    where
        B: Body<Data = Bytes, Error = ScriptError>,
    {
        let Phase::Ending {
            tail,
            candidates,
            must_yield,
        } = &mut self.phase
        else {
            unreachable!("only called while a stream ends");
        };
        let (returned, data) = parts(polled);
        if tail.front() == Some(&Item::Error) && mem::take(must_yield) {
            assert!(
                returned.is_pending() && is_woken,
                "C12: a yield before the error"
            );
            assert!(!body.is_end_stream(), "C14: an error follows");
            return Progress::Ready;
        }
        let item = tail.pop_front();
        let is_last = tail.is_empty();
        *must_yield = true;
        match item {
            None => assert_eq!(returned, UpstreamPoll::Eof, "C13: the end"),
            Some(Item::Error) => assert_eq!(returned, UpstreamPoll::Error, "C12: the error"),
            Some(Item::Trailers) => assert_eq!(returned, UpstreamPoll::Trailers, "C13: trailers"),
            Some(Item::Buffered) => {
                let rest = [self.forwarding.buffered(), self.line_ends].concat();
                assert_eq!(data, rest, "C4, C26: the buffered bytes");
                self.forwarded = self.forwarding.received().len();
            }
            Some(Item::CloseEvent) => {
                assert_eq!(returned, UpstreamPoll::Data, "C9: the close event");
                let event = CloseEventSpec::strip_lf(&self.output, &data);
                let spec = &self.options.close_event;
                candidates.retain(|expected| spec(expected.ending).matches(event));
                assert!(!candidates.is_empty(), "C8: {}", event.escape_ascii());
                self.has_close_event = true;
            }
        }
        self.output.extend_from_slice(&data);
        if !is_last {
            assert!(!body.is_end_stream(), "C14: {item:?} is not the end");
            assert_eq!(self.reports.count(), 0, "C21: before the end");
            return Progress::Ready;
        }
        if let Phase::Ending { candidates, .. } = &self.phase {
            self.assert_report(candidates);
        }
        // After data, the next poll reports the end to the server.
        let is_end = returned != UpstreamPoll::Data;
        let hints = (body.is_end_stream(), body.size_hint().exact());
        assert_eq!(hints, (is_end, Some(0)), "C13: the hints after the end");
        match is_end {
            true => self.ended(body),
            false => Progress::Ready,
        }
    }

    /// C26: the last frame, which ends in the end mark.
    pub(super) fn assert_end_mark<B>(
        &mut self,
        data: &Bytes,
        is_first: bool,
        body: &mut Driver<B>,
    ) -> Progress
    where
        B: Body<Data = Bytes, Error = ScriptError>,
    {
        let expected = self.expected(None, UpstreamEnd::Open);
        self.line_ends = expected.line_ends;
        let forwarded = data
            .strip_suffix(self.line_ends)
            .expect("C26: the LF after a CR");
        self.assert_forwarded(&data.slice_ref(forwarded), is_first);
        assert_eq!(
            self.forwarded,
            self.forwarding.released(),
            "C26: the whole mark"
        );
        self.output.extend_from_slice(self.line_ends);
        let hints = (body.is_end_stream(), body.size_hint().exact());
        assert_eq!(hints, (false, Some(0)), "C13: the hints after the mark");
        expected.assert_report(&self.reports.only(), self.output.len());
        self.phase = Phase::Ending {
            tail: Default::default(),
            candidates: vec![expected],
            must_yield: false,
        };
        Progress::Ready
    }

    /// C2: the upstream has reported its end and continues, so every frame passes unchanged.
    pub(super) fn assert_pass_through<B>(
        &mut self,
        polled: Polled,
        body: &mut Driver<B>,
    ) -> Progress
    where
        B: Body<Data = Bytes, Error = ScriptError>,
    {
        let (returned, data) = parts(polled);
        let last = self.upstream.last();
        let is_same = returned == last || returned.is_pending() && last.is_pending();
        assert!(is_same, "C2: {returned:?} instead of {last:?}");
        if returned == UpstreamPoll::Data {
            self.receive();
            let (length, received) = (data.len(), self.forwarding.received());
            assert_eq!(data, received[received.len() - length..], "C2: the frame");
            self.forwarded = received.len();
            self.output.extend_from_slice(&data);
        }
        match returned {
            UpstreamPoll::Eof | UpstreamPoll::Error => self.ended(body),
            UpstreamPoll::Trailers => Progress::Ended,
            _ => Progress::Finished,
        }
    }

    /// C13: nothing follows the end.
    fn ended<B>(&mut self, body: &mut Driver<B>) -> Progress
    where
        B: Body<Data = Bytes, Error = ScriptError>,
    {
        for _ in 0..2 {
            let polled = body.poll();
            assert!(matches!(polled, Poll::Ready(None)), "C13: {polled:?}");
            assert!(body.is_end_stream(), "C13: the hint after the end");
        }
        self.phase = Phase::Ended;
        Progress::Ended
    }

    /// C21: a panic of the upstream is a failure, which is reported when the body is dropped.
    pub(super) fn panicked(&mut self) -> Progress {
        self.receive();
        let expected = Expected::without_tail(&self.forwarding, Ending::Failed, self.forwarded);
        self.phase = Phase::Ending {
            tail: Default::default(),
            candidates: vec![expected],
            must_yield: false,
        };
        Progress::Ended
    }

    /// C21: the report is that of one of these candidates.
    pub(super) fn assert_report(&self, candidates: &[Expected]) {
        let report = self.reports.only();
        let is_reported = |expected: &&Expected| expected.ending == report.ending();
        let expected = candidates.iter().find(is_reported);
        let expected = expected.unwrap_or(&candidates[0]);
        expected.assert_report(&report, self.output.len());
    }
}

/// Returns the kind of the result of a poll, and its data.
fn parts(polled: Polled) -> (UpstreamPoll, Bytes) {
    let returned = UpstreamPoll::new(&polled);
    let data = match polled {
        Poll::Ready(Some(Ok(frame))) => frame.into_data(),
        _ => return (returned, Bytes::new()),
    };
    let data = data.unwrap_or_else(|frame| {
        assert_eq!(
            frame.into_trailers().ok(),
            Some(trailers()),
            "C13: trailers"
        );
        Bytes::new()
    });
    (returned, data)
}
