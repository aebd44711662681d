//! Deadlines and a keep-alive, while a clock goes on in jumps.

use std::{
    future::Future,
    pin::pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use arbitrary::{Arbitrary, Result, Unstructured};
use http::{HeaderValue, Request, Response, header::CONTENT_TYPE};
use tokio::{
    runtime::{Builder, Runtime},
    time::{self, Instant},
};
use tower_sse_completion::{Ending, SseCompletionLayer};

use super::{
    end::{End, model},
    input::{By, Cancel, Input, When},
    run::bytes_of,
    upstream::{Canceller, Gave, Record, Upstream},
};
use crate::{
    scan::Scan,
    support::{
        CLOSE, Reports,
        decoder::decode,
        driver::{Driver, Output},
        through,
    },
};

/// In milliseconds, which is as exact as tokio's timers are. Zero is none.
#[derive(Debug)]
pub(super) struct Times {
    max_age: u8,
    idle_timeout: u8,
    keep_alive: u8,
    /// Between two polls, in turns.
    gaps: [u8; 4],
    /// The polls, of eight, in which tokio's cooperative budget is spent.
    spent: u8,
}

/// Where in the upstream's bytes what went out may end. A keep-alive looks like a comment of the upstream.
struct Forwarded<'a> {
    whole: &'a [u8],
    scan: Scan,
    ends: Vec<usize>,
}

/// Goes by at least, where the stream waits.
const PATIENCE: Duration = Duration::from_millis(8);

const KEEP_ALIVE: &[u8] = b":\n";

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
}

pub(super) fn check(input: &Input, times: &Times) {
    RUNTIME.with(|runtime| runtime.block_on(run(input, times)));
}

async fn run(input: &Input, times: &Times) {
    let canceller = Canceller::new(input.cancel.map(|cancel| Cancel {
        // With the default event, so that it is known by its bytes.
        by: match cancel.by {
            By::ShutdownWith(_) => By::Shutdown,
            by => by,
        },
        ..cancel
    }));
    let record = Rc::<Record>::default();
    let reports = Reports::default();
    let of_request = Rc::clone(&canceller);
    let mut layer = SseCompletionLayer::new()
        .cancel_when(move |_| of_request.cancellation())
        .close_on_empty(input.close_on_empty)
        .close_on_completed(input.close_on_completed)
        .close_on_failed(input.close_on_failed)
        .hold_limit(input.hold_limit)
        .on_end(reports.observer());
    if input.has_shutdown {
        layer = layer.shutdown(&canceller.shutdown);
    }
    if let Some(age) = times.max_age() {
        layer = layer.max_age(age).expect("it is not zero");
    }
    if let Some(timeout) = times.idle_timeout() {
        layer = layer.idle_timeout(timeout).expect("it is not zero");
    }
    if let Some(interval) = times.keep_alive() {
        layer = layer.keep_alive(interval).expect("it is not zero");
    }

    let start = Instant::now();
    canceller.reach(When::BeforeRequest);
    let mut response = Response::new(Upstream::new(input.script(), &record, &canceller));
    let event_stream = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(CONTENT_TYPE, event_stream);
    let mut body = Driver::new(through(&layer, Request::new(()), response).into_body());

    let mut output = Output::default();
    let mut out = Vec::new();
    let mut polls = 0;
    let (mut last_frame, mut last_event) = (start, start);
    let (mut was_old, mut was_idle) = (false, false);
    let mut events = 0;
    let mut may_comment = true;
    let mut waits = false;
    let mut has_ended = false;
    while !body.is_end_stream() && input.drop_before_poll != Some(polls) {
        let wakes = body.wakes();
        time::advance(times.gap(polls) + PATIENCE * u32::from(waits)).await;
        let now = Instant::now();
        let is_old = is_over(start, times.max_age());
        let is_idle = is_over(last_event, times.idle_timeout());
        let is_silent = may_comment && is_over(last_frame, times.keep_alive());
        // Then it may end, even if events come that were ready.
        was_old |= is_old;
        was_idle |= is_idle;
        if waits && (is_old || is_idle || is_silent) {
            assert!(body.wakes() > wakes, "C10: the timer wakes the task");
        }
        canceller.reach(When::BeforePoll(polls));
        if times.spends(polls) {
            spend_budget();
        }
        polls += 1;
        if polls > 2 * input.steps.len() + 64 {
            assert!(times.keep_alive > 0, "C10: an end");
            waits = false;
            break;
        }
        let wakes = body.wakes();
        let upstream_polls = record.polls.get();
        let polled = body.poll();
        waits = polled.is_pending() && body.wakes() == wakes;
        match polled {
            Poll::Pending if !waits => {}
            Poll::Pending => {
                assert!(!canceller.fired(), "C10: a cancelled stream does not wait");
                assert!(!is_old, "C10: nor one too old");
                assert!(!is_idle, "C10: nor one too idle");
                assert!(!is_silent, "C19: a keep-alive");
                let nothing_comes = record.polls.get() >= input.steps.len();
                if nothing_comes && times.are_none() && !canceller.reach_later_poll() {
                    break;
                }
            }
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Err(frame) => output.trailers = frame.into_trailers().ok(),
                Ok(data) => {
                    let is_pending =
                        record.polls.get() > upstream_polls && record.last.get() == Gave::Pending;
                    if is_pending && data == KEEP_ALIVE {
                        assert!(is_over(last_frame, times.keep_alive()), "too early");
                    }
                    out.extend_from_slice(&data);
                    output.frames.push(data);
                    last_frame = now;
                    let decoded = decode(&out);
                    may_comment = !decoded.pending && !out.ends_with(b"\r");
                    if decoded.events.len() > events {
                        (last_event, events) = (now, decoded.events.len());
                    }
                }
            },
            Poll::Ready(Some(Err(error))) => {
                output.error = Some(error);
                has_ended = true;
                break;
            }
            Poll::Ready(None) => {
                has_ended = true;
                break;
            }
        }
    }
    has_ended |= body.is_end_stream();
    drop(body);

    let mut closes = false;
    let mut ending = Ending::Dropped;
    if polls > 0 {
        let report = reports.one();
        (closes, ending) = (report.close_event_sent(), report.ending());
        match ending {
            Ending::Expired => assert!(was_old, "too early"),
            Ending::Idle => assert!(was_idle, "too early"),
            Ending::Cancelled => assert!(canceller.fired()),
            _ => {}
        }
    }
    let whole = bytes_of(&input.steps);
    let mut forwarded = Forwarded::new(&whole);
    let mut frames = output.frames.clone();
    if closes {
        let event = frames.pop().expect("the close event is a frame");
        assert_eq!(event.strip_prefix(b"\n").unwrap_or(&event), CLOSE);
    }
    for frame in &frames {
        forwarded.went_out(frame);
    }
    // Of the mark alone, more may be held than the limit.
    let may_hold_mark = input.hold_limit < BYTE_ORDER_MARK.len() && whole.starts_with(b"\xEF");
    if has_ended && !may_hold_mark {
        let gave = record.last.get();
        let is_late = matches!(ending, Ending::Expired | Ending::Idle);
        let by_itself = matches!(gave, Gave::End | Gave::Trailers | Gave::Error);
        assert!(!is_late || !by_itself, "an end is not too late");
        let end = End::new(input, &record, is_late || ending == Ending::Cancelled);
        assert_eq!(closes, end.closes, "C9: {ending}, a close event or none");
        assert!(forwarded.ends.contains(&end.forwarded), "C4: all of it");
        end.assert_rest(&output);
    } else if waits && !may_hold_mark {
        let let_go = model(input, &record).let_go;
        assert!(forwarded.ends.contains(&let_go), "C6: let go at once");
    }
    let is_right = forwarded.ends.iter().any(|&end| {
        let (with, without) = (decode(&out), decode(&whole[..end]));
        let events = with.events.len() - usize::from(closes);
        !(closes && without.pending)
            && with.events[..events] == without.events
            && with.last_event_id == without.last_event_id
    });
    assert!(is_right, "C6: whole events, and the resume point");
}

impl Times {
    fn max_age(&self) -> Option<Duration> {
        milliseconds(self.max_age)
    }

    fn idle_timeout(&self) -> Option<Duration> {
        milliseconds(self.idle_timeout)
    }

    fn keep_alive(&self) -> Option<Duration> {
        milliseconds(self.keep_alive)
    }

    fn are_none(&self) -> bool {
        [self.max_age, self.idle_timeout, self.keep_alive] == [0; 3]
    }

    fn spends(&self, poll: usize) -> bool {
        self.spent >> (poll % 8) & 1 == 1
    }

    fn gap(&self, poll: usize) -> Duration {
        let gap = self.gaps[poll % self.gaps.len()];
        // Half of them are none, so that frames come at once.
        Duration::from_millis(u64::from(gap).saturating_sub(128))
    }
}

impl<'a> Arbitrary<'a> for Times {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let [max_age, idle_timeout, keep_alive] = u.arbitrary()?;
        Ok(Self {
            max_age,
            idle_timeout,
            keep_alive,
            gaps: u.arbitrary()?,
            spent: u.arbitrary()?,
        })
    }
}

/// From here to the next yield, tokio's timers are pending, whatever the time is.
fn spend_budget() {
    let mut cx = Context::from_waker(Waker::noop());
    let mut is_left = || pin!(tokio::task::consume_budget()).poll(&mut cx).is_ready();
    assert!((0..1000).any(|_| !is_left()), "a task has a budget");
}

/// Whether it is so long after then.
fn is_over(since: Instant, after: Option<Duration>) -> bool {
    after.is_some_and(|after| Instant::now() >= since + after)
}

fn milliseconds(milliseconds: u8) -> Option<Duration> {
    (milliseconds > 0).then(|| Duration::from_millis(milliseconds.into()))
}

impl<'a> Forwarded<'a> {
    fn new(whole: &'a [u8]) -> Self {
        Self {
            whole,
            scan: Scan::new(whole),
            ends: vec![0],
        }
    }

    #[track_caller]
    fn went_out(&mut self, frame: &[u8]) {
        let mut ends = Vec::new();
        for &end in &self.ends {
            if self.whole[end..].starts_with(frame) {
                ends.push(end + frame.len());
            }
            let after_cr = self.whole[..end].ends_with(b"\r");
            if frame == KEEP_ALIVE && self.scan.is_boundary(end) && !after_cr {
                ends.push(end);
                // At another place than the start it would be a part of a name.
                if end == 0 && self.whole.starts_with(BYTE_ORDER_MARK) {
                    ends.push(BYTE_ORDER_MARK.len());
                }
            }
        }
        ends.sort_unstable();
        ends.dedup();
        assert!(
            !ends.is_empty(),
            "C4, C19: a beginning, and keep-alives between events"
        );
        self.ends = ends;
    }
}
