//! Polls one stream to its end, and looks at everything that it does on the way.

use std::{collections::VecDeque, rc::Rc, sync::Arc, task::Poll};

use bytes::Bytes;
use http::{HeaderValue, Response, header::CONTENT_TYPE};
use http_body::Frame;
use tower_sse_completion::{Ending, ResponseBody, SseCompletionLayer};

use super::{
    closing::Choice,
    input::{By, Cancel, Input, When},
    model::Model,
    upstream::{Cancellation, Canceller, Gave, Record, Upstream},
};
use crate::support::{
    Reports,
    decoder::decode,
    driver::Driver,
    script::{Log, ScriptError, Step, trailers},
    through,
};

/// The layer may look for a cancellation that late, in frames, and forward so many after that.
const FRAMES_UNTIL_CHECK: usize = 32;
const FRAMES_AFTER_CHECK: usize = 32;
const FRAMES_PER_POLL: usize = 64;

struct Run<'a> {
    input: &'a Input,
    body: Option<Driver<ResponseBody<Upstream, Cancellation>>>,
    canceller: Rc<Canceller>,
    record: Rc<Record>,
    log: Arc<Log>,
    model: Model,
    reports: Reports,
    polls: usize,
    /// All that came out.
    out: Vec<u8>,
    /// So many bytes of it are the upstream's.
    forwarded: usize,
    /// Self-woken polls since the stream was cancelled, and whether the upstream was the reason for one.
    delays: usize,
    asked_again: bool,
    phase: Phase,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Streaming,
    /// The upstream is gone, and this is still to come.
    Ending {
        ending: Ending,
        closes: bool,
        rest: VecDeque<Item>,
    },
    /// The upstream said that it was at its end, with an ending that needs no close event.
    Finished {
        ending: Ending,
        reported: u64,
        bytes: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Item {
    CloseEvent,
    Held,
    Trailers,
    Error,
}

pub(super) fn check(input: &Input) {
    let mut run = Run::new(input);
    run.assert_hints();
    while run.poll() {}
    run.body = None;
    run.assert_report();
    run.assert_events();
}

impl<'a> Run<'a> {
    fn new(input: &'a Input) -> Self {
        let canceller = Canceller::new(input.cancel);
        let record = Rc::<Record>::default();
        let reports = Reports::default();
        canceller.reach(When::BeforeRequest);

        let of_request = Rc::clone(&canceller);
        let mut layer = SseCompletionLayer::new()
            .cancel_when(move |_| of_request.cancellation())
            .close_on_empty(input.close_on_empty)
            .close_on_completed(input.close_on_completed)
            .close_on_failed(input.close_on_failed)
            .hold_limit(input.hold_limit)
            .on_end(reports.observer());
        layer = input.close_event.configure(layer);
        if input.has_shutdown {
            layer = layer.shutdown(&canceller.shutdown);
        }

        let script = input.script();
        let log = script.log();
        let mut response = Response::new(Upstream::new(script, &record, &canceller));
        let event_stream = HeaderValue::from_static("text/event-stream");
        response.headers_mut().insert(CONTENT_TYPE, event_stream);
        if let Some(choice) = input.close_event_of_response {
            response.extensions_mut().insert(choice.event());
        }
        let body = through(&layer, http::Request::new(()), response).into_body();
        Self {
            input,
            body: Some(Driver::new(body)),
            canceller,
            record,
            log,
            model: Model::new(bytes_of(&input.steps), input.hold_limit),
            reports,
            polls: 0,
            out: Vec::new(),
            forwarded: 0,
            delays: 0,
            asked_again: false,
            phase: Phase::Streaming,
        }
    }

    /// One poll. Returns whether there is anything more to see.
    fn poll(&mut self) -> bool {
        self.canceller.reach(When::BeforePoll(self.polls));
        if self.input.drop_before_poll == Some(self.polls) {
            return false;
        }
        assert!(self.polls < 2 * self.input.steps.len() + 16, "C10: an end");
        self.polls += 1;
        let polls_before = self.record.polls.get();
        let frames_before = self.record.frames.borrow().len();
        let was_queued = self.forwarded < self.model.let_go;
        let was_finished = matches!(self.phase, Phase::Finished { .. });

        let body = self.body.as_mut().expect("a body");
        let wakes = body.wakes();
        let polled = body.poll();
        let was_woken = body.wakes() > wakes;

        let upstream_polls = self.record.polls.get() - polls_before;
        assert!(upstream_polls <= FRAMES_PER_POLL, "C7: bounded polls");
        for frame in &self.record.frames.borrow()[frames_before..] {
            self.model.comes(frame);
        }
        if was_queued {
            assert_eq!(upstream_polls, 0, "C6: nothing comes in between");
        }
        if was_finished {
            return self.passes_untouched(polled, upstream_polls);
        }
        if self.phase == Phase::Streaming && self.log.dropped() {
            self.decide();
        }
        if let Phase::Ending { .. } = self.phase {
            return self.ends(polled);
        }
        assert!(
            self.record.frames_since_cancelled.get() <= FRAMES_UNTIL_CHECK + FRAMES_AFTER_CHECK,
            "C11: the cancellation is not outrun"
        );
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                let data = frame
                    .into_data()
                    .expect("data, as long as there is an upstream");
                self.takes(&data);
                if !was_queued && self.model.passes {
                    self.assert_untouched(&data);
                }
                self.may_finish()
            }
            Poll::Pending => self.waits(was_woken),
            other => panic!("{other:?} while the upstream is there"),
        }
    }

    /// Data of the upstream came out.
    fn takes(&mut self, data: &Bytes) {
        assert!(!data.is_empty(), "a frame without data");
        let end = self.forwarded + data.len();
        assert!(end <= self.model.let_go, "C6: what is held stays back");
        assert_eq!(self.model.whole[self.forwarded..end], data[..], "C4");
        self.forwarded = end;
        self.out.extend_from_slice(data);
    }

    /// C7: nothing was held, and nothing of this frame has to be.
    fn assert_untouched(&self, data: &Bytes) {
        let frames = self.record.frames.borrow();
        let frame = frames.last().expect("a frame");
        assert_eq!(frame.as_ptr(), data.as_ptr(), "C7: not copied");
        assert_eq!(frame.len(), data.len(), "C7: not split");
    }

    /// C16: an upstream that says that it has no more ends the stream, if nothing more has to come out.
    fn may_finish(&mut self) -> bool {
        let is_all = self.forwarded == self.model.came;
        let ending = self.natural_ending();
        let finishes = self.record.says_end.get()
            && is_all
            && !self.closes_on(ending)
            && !self.canceller.fired();
        if !finishes {
            self.assert_hints();
            return true;
        }
        self.phase = Phase::Finished {
            ending,
            reported: self.model.frames_within(self.forwarded),
            bytes: self.forwarded as u64,
        };
        self.assert_report();
        assert!(self.driver().is_end_stream(), "C16: the end has to be said");
        self.input.polls_on
    }

    /// Nothing came out.
    fn waits(&mut self, was_woken: bool) -> bool {
        assert_eq!(self.forwarded, self.model.let_go, "C6: let go at once");
        self.assert_hints();
        let upstream_waits = self.record.last.get() == Gave::Pending;
        assert!(was_woken || upstream_waits, "C10: a wake-up is missing");
        if self.canceller.fired() {
            assert!(was_woken, "C10: a cancelled stream does not wait");
            self.delays += 1;
            self.asked_again |= upstream_waits;
            assert!(
                self.delays <= 2,
                "C10: one poll for the count, one for the last look"
            );
        } else if !was_woken && self.is_upstream_idle() {
            // Nothing happens any more but a cancellation.
            let wakes = self.driver().wakes();
            if !self.canceller.reach_later_poll() {
                return false;
            }
            assert!(
                self.driver().wakes() > wakes,
                "C10: a cancellation wakes the task"
            );
        }
        if self.input.changes_tasks {
            self.body = self.body.take().map(Driver::in_another_task);
        }
        true
    }

    /// What the upstream did last, if its script says it.
    fn last_step(&self) -> Option<&Step> {
        let last = self.record.polls.get().checked_sub(1)?;
        self.input.steps.get(last)
    }

    fn is_upstream_idle(&self) -> bool {
        self.record.polls.get() >= self.input.steps.len()
    }

    /// The upstream was dropped by the last poll: what has to come of it.
    fn decide(&mut self) {
        let gave = self.record.last.get();
        let cancelled = self.canceller.fired();
        assert_eq!(self.forwarded, self.model.let_go, "C4: all that may go out");
        if cancelled && matches!(gave, Gave::Data | Gave::Nothing) {
            let frames = self.record.frames_since_cancelled.get();
            assert!(frames >= FRAMES_AFTER_CHECK, "C11: only {frames} frames");
        }
        let yields = matches!(self.last_step(), Some(Step::Yield));
        assert!(!yields || self.asked_again, "C11: one poll more");
        if !cancelled {
            assert!(
                matches!(gave, Gave::End | Gave::Trailers | Gave::Error),
                "dropped although it was not at its end, {gave:?}"
            );
        }
        let ending = match gave {
            _ if cancelled => Ending::Cancelled,
            Gave::Error => Ending::Failed,
            _ => self.natural_ending(),
        };
        let closes = self.closes_on(ending);
        let mut rest = VecDeque::new();
        if closes {
            rest.push_back(Item::CloseEvent);
        } else if self.model.is_held() {
            rest.push_back(Item::Held);
        }
        if gave == Gave::Trailers {
            rest.push_back(Item::Trailers);
        }
        if gave == Gave::Error && !closes && !cancelled {
            rest.push_back(Item::Error);
        }
        self.phase = Phase::Ending {
            ending,
            closes,
            rest,
        };
    }

    /// What comes out once the upstream is gone.
    fn ends(&mut self, polled: Poll<Option<Result<Frame<Bytes>, ScriptError>>>) -> bool {
        let Phase::Ending { ending, rest, .. } = &mut self.phase else {
            unreachable!()
        };
        let ending = *ending;
        let item = rest.pop_front();
        let is_last = rest.is_empty();
        let Poll::Ready(polled) = polled else {
            panic!("C10: nothing to wait for, but {item:?}");
        };
        match (item, polled) {
            (None, None) => {}
            (Some(Item::CloseEvent), Some(Ok(frame))) => {
                let data = frame.into_data().expect("the close event");
                assert!(
                    self.model.is_boundary(self.forwarded),
                    "C5: nothing is pending"
                );
                let after_cr = self.out.ends_with(b"\r");
                let (choice, made_by_layer) = self.close_event(ending);
                choice.assert_is(&data, after_cr, made_by_layer.then_some(ending));
                self.out.extend_from_slice(&data);
            }
            (Some(Item::Held), Some(Ok(frame))) => {
                let data = frame.into_data().expect("what was held");
                assert_eq!(data, self.model.held(), "C4: what was held");
                self.forwarded += data.len();
                self.out.extend_from_slice(&data);
            }
            (Some(Item::Trailers), Some(Ok(frame))) => {
                assert_eq!(
                    frame.into_trailers().ok(),
                    Some(trailers()),
                    "C13: trailers"
                );
            }
            (Some(Item::Error), Some(Err(ScriptError))) => {}
            (item, polled) => panic!("expected {item:?}, but got {polled:?}"),
        }
        if !is_last {
            assert!(
                !self.driver().is_end_stream(),
                "C14: {item:?} is not the end"
            );
            assert_eq!(self.reports.count(), 0, "C16: not yet");
            return true;
        }
        self.assert_report();
        for _ in 0..2 {
            assert!(self.driver().is_end_stream(), "C13: the end");
            assert_eq!(self.driver().size_hint().exact(), Some(0), "C13: the end");
            let body = self.body.as_mut().expect("a body");
            assert!(
                matches!(body.poll(), Poll::Ready(None)),
                "C13: the end stays"
            );
        }
        false
    }

    /// The upstream had said that it was at its end: if it was not, nothing of it is lost.
    fn passes_untouched(
        &mut self,
        polled: Poll<Option<Result<Frame<Bytes>, ScriptError>>>,
        upstream_polls: usize,
    ) -> bool {
        assert_eq!(upstream_polls, 1);
        let gave = self.record.last.get();
        match polled {
            Poll::Pending => {
                assert_eq!(gave, Gave::Pending);
                return !self.is_upstream_idle();
            }
            Poll::Ready(None) => assert_eq!(gave, Gave::End),
            Poll::Ready(Some(Err(ScriptError))) => assert_eq!(gave, Gave::Error),
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    assert_eq!(gave, Gave::Data);
                    assert_eq!(self.record.frames.borrow().last(), Some(&data));
                    self.forwarded += data.len();
                    self.out.extend_from_slice(&data);
                    return true;
                }
                Err(frame) => {
                    assert_eq!(gave, Gave::Trailers);
                    assert_eq!(frame.into_trailers().ok(), Some(trailers()));
                    return false;
                }
            },
        }
        let body = self.body.as_mut().expect("a body");
        assert!(
            matches!(body.poll(), Poll::Ready(None)),
            "C13: the end stays"
        );
        false
    }

    /// C14: while more may come.
    fn assert_hints(&self) {
        assert!(!self.driver().is_end_stream(), "C14: not at its end");
        let size = self.driver().size_hint();
        assert_eq!((size.lower(), size.upper()), (0, None), "C14: nobody knows");
        assert_eq!(self.reports.count(), 0, "C16: not yet");
    }

    /// C16, once the stream has ended or its body was dropped.
    fn assert_report(&self) {
        let rest = |rest: &VecDeque<Item>| rest.is_empty() || self.body.is_none();
        let (ending, closes, frames, bytes) = match &self.phase {
            Phase::Streaming if self.polls == 0 => {
                assert_eq!(self.reports.count(), 0, "C16: never polled");
                return;
            }
            Phase::Streaming => (Ending::Dropped, false, None, self.forwarded as u64),
            Phase::Ending {
                ending,
                closes,
                rest: items,
            } => {
                assert!(rest(items));
                (*ending, *closes, None, self.forwarded as u64)
            }
            Phase::Finished {
                ending,
                reported,
                bytes,
            } => (*ending, false, Some(*reported), *bytes),
        };
        let frames = frames.unwrap_or_else(|| self.model.frames_within(self.forwarded));
        let report = self.reports.one();
        assert_eq!(report.ending(), ending, "C16: the ending");
        assert_eq!(report.close_event_sent(), closes, "C16: the close event");
        assert_eq!(report.bytes(), bytes, "C16: bytes");
        assert_eq!(report.data_frames(), frames, "C16: frames");
        let delivered = self.model.delivered_within(bytes as usize);
        assert_eq!(report.delivered(), delivered, "C16: delivered");
        let first = report.time_to_first_event();
        assert_eq!(first.is_some(), delivered, "C16: the first event");
    }

    /// C4 to C6 once more, of the whole, by the decoder of the tests.
    fn assert_events(&self) {
        let forwarded = &self.model.whole[..self.forwarded];
        assert!(self.out.starts_with(forwarded), "C4: a beginning");
        let without = decode(forwarded);
        let with = decode(&self.out);
        let mut events = with.events;
        if matches!(self.phase, Phase::Ending { closes: true, .. }) {
            assert!(!without.pending, "C5: between two events");
            events.pop().expect("the close event");
        }
        assert_eq!(events, without.events, "C6: at most the close event");
        let all = decode(&self.model.whole).events;
        assert!(all.starts_with(&events), "C6: a beginning of the events");
        assert_eq!(
            with.last_event_id, without.last_event_id,
            "C6: the resume point"
        );
    }

    fn natural_ending(&self) -> Ending {
        if self.model.delivered_within(self.forwarded) {
            Ending::Completed
        } else {
            Ending::Empty
        }
    }

    /// C9, C12 and C7.
    fn closes_on(&self, ending: Ending) -> bool {
        let is_due = match ending {
            Ending::Completed => self.input.close_on_completed,
            Ending::Empty => self.input.close_on_empty,
            Ending::Failed => self.input.close_on_failed,
            Ending::Cancelled => true,
            other => panic!("{other} cannot be"),
        };
        is_due && !self.model.mid_event
    }

    /// Which close event is due, and whether the layer makes it.
    fn close_event(&self, ending: Ending) -> (Choice, bool) {
        if let Some(choice) = self.input.close_event_of_response {
            return (choice, false);
        }
        match self.input.cancel {
            Some(Cancel {
                by: By::ShutdownWith(choice),
                ..
            }) if ending == Ending::Cancelled => (choice, false),
            _ => (self.input.close_event, true),
        }
    }

    fn driver(&self) -> &Driver<ResponseBody<Upstream, Cancellation>> {
        self.body.as_ref().expect("a body")
    }
}

/// Of all frames.
pub(super) fn bytes_of(steps: &[Step]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for step in steps {
        if let Step::Data(data) = step {
            bytes.extend_from_slice(data);
        }
    }
    bytes
}
