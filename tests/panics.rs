//! Panics in code of the user: of the upstream, of the cancellation, of the observer and of a waker.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame};
use testkit::{
    MIRI_STRIDE,
    driver::Driver,
    exchange::{drive, event_stream},
    reports::Reports,
    script::{AfterScript, EndStream, Script, Step, data},
};
use tower_sse_completion::{Ending, ResponseBody, Shutdown, SseCompletionLayer};

const EVENT: &str = "data: 1\n\n";
const UNFINISHED: &str = "data: 1\n\ndata: 2";

/// A cancellation with user code in its poll and in its destructor.
struct Cancellation {
    polls_before_panic: usize,
    is_ready: bool,
    drop_panics: bool,
}

impl Future for Cancellation {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<()> {
        assert!(self.polls_before_panic > 0, "an intended panic");
        self.polls_before_panic -= 1;
        if self.is_ready {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

impl Drop for Cancellation {
    fn drop(&mut self) {
        assert!(!self.drop_panics, "an intended panic");
    }
}

/// Polls the body until it ends or panics, and then drops it, as a server does.
fn run<B: Body<Data = Bytes>>(body: Driver<B>, polls: usize) -> bool {
    let mut body = Some(body);
    let polled = catch_unwind(AssertUnwindSafe(|| {
        for _ in 0..polls {
            if let Poll::Ready(None | Some(Err(_))) = body.as_mut().expect("a body").poll() {
                break;
            }
        }
    }));
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(body.take())));
    polled.is_err() || dropped.is_err()
}

#[test]
fn c21_panic_in_the_destructor_of_the_upstream_is_failed() {
    for (steps, after, closes_at_once, polls) in [
        (vec![data(EVENT)], AfterScript::End, false, 10),
        (vec![], AfterScript::End, false, 10),
        (vec![data(UNFINISHED)], AfterScript::End, false, 10),
        (
            vec![data(EVENT), Step::Trailers],
            AfterScript::End,
            false,
            10,
        ),
        (vec![data(EVENT), Step::Error], AfterScript::End, false, 10),
        (vec![data(EVENT)], AfterScript::Pending, true, 10),
        // The body is dropped before its end.
        (vec![data(EVENT)], AfterScript::Pending, false, 2),
    ] {
        let (shutdown, reports) = (Shutdown::new(), Reports::default());
        let layer = SseCompletionLayer::new()
            .shutdown(&shutdown)
            .on_end(reports.observer());
        let case = format!("{steps:?}, {after:?}, closed: {closes_at_once}");
        let body = drive(&layer, Script::new(steps).then(after).panic_in_drop());
        if closes_at_once {
            shutdown.close();
        }
        assert!(run(body, polls), "{case}: the server observes the panic");
        let report = reports.only();
        assert_eq!(report.ending(), Ending::Failed, "{case}");
        assert!(!report.close_event_sent(), "{case}");
        assert_eq!(shutdown.open_streams(), 0, "{case}");
    }
}

#[test]
fn c21_panic_of_the_cancellation_is_failed() {
    // In the first poll, while the upstream is pending, and when the upstream ends; and in the destructor.
    for (polls_before_panic, is_ready, drop_panics) in [
        (0, false, false),
        (1, false, false),
        (9, false, true),
        (9, true, true),
    ] {
        for after in [AfterScript::End, AfterScript::Pending] {
            for frames in [0, 1, 40] {
                let (shutdown, reports) = (Shutdown::new(), Reports::default());
                let layer = SseCompletionLayer::new()
                    .shutdown(&shutdown)
                    .on_end(reports.observer())
                    .cancel_when(move |_| Cancellation {
                        polls_before_panic,
                        is_ready,
                        drop_panics,
                    });
                let upstream = Script::frames(vec![EVENT; frames]).then(after.clone());
                let body = drive(&layer, upstream);
                let case = format!(
                    "{polls_before_panic} polls, ready: {is_ready}, {frames} frames, {after:?}"
                );
                assert!(run(body, 100), "{case}: the server observes the panic");
                assert_eq!(reports.only().ending(), Ending::Failed, "{case}");
                assert_eq!(shutdown.open_streams(), 0, "{case}");
            }
        }
    }
}

#[test]
fn c21_panic_of_the_observer_during_another_panic_does_not_abort() {
    for after in [AfterScript::End, AfterScript::Pending] {
        for polls in [1, 10] {
            let called = Arc::new(AtomicUsize::new(0));
            let layer = SseCompletionLayer::new().on_end({
                let called = Arc::clone(&called);
                move |_| {
                    called.fetch_add(1, Ordering::SeqCst);
                    panic!("an intended panic");
                }
            });
            let upstream = Script::frames([EVENT]).then(after.clone()).panic_in_drop();
            assert!(
                run(drive(&layer, upstream), polls),
                "the panic of the upstream"
            );
            assert_eq!(called.load(Ordering::SeqCst), 1, "{after:?}, {polls} polls");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c19_drain_returns_although_a_destructor_panics() {
    let (shutdown, reports) = (Shutdown::new(), Reports::default());
    let layer = SseCompletionLayer::new()
        .shutdown(&shutdown)
        .on_end(reports.observer());
    let upstream = Script::frames([EVENT])
        .then(AfterScript::Pending)
        .panic_in_drop();
    let mut body = drive(&layer, upstream);
    body.data();
    let (drained, ()) = tokio::join!(shutdown.drain(Duration::ZERO), async {
        tokio::task::yield_now().await;
        assert!(run(body, 10), "the server observes the panic");
    });
    assert_eq!((drained.ended(), drained.still_open()), (1, 0));
    assert_eq!(reports.only().ending(), Ending::Failed);
}

/// A waker that counts, and panics if it is armed.
struct CountingWaker {
    wakes: AtomicUsize,
    panics: AtomicBool,
}

impl Wake for CountingWaker {
    fn wake(self: Arc<Self>) {
        self.wakes.fetch_add(1, Ordering::SeqCst);
        assert!(!self.panics.load(Ordering::SeqCst), "an intended panic");
    }
}

#[test]
fn c10_waker_that_panics_in_close_does_not_stop_other_wakers() {
    const TASKS: usize = 5;
    for panicking in (1..1 << TASKS).step_by(MIRI_STRIDE) {
        for waits_for_drain in [false, true] {
            let shutdown = Shutdown::new();
            let layer = SseCompletionLayer::new().shutdown(&shutdown);
            let mut waiting: Vec<Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
            let mut wakers = Vec::new();
            for task in 0..TASKS {
                let waker = Arc::new(CountingWaker {
                    wakes: AtomicUsize::new(0),
                    panics: AtomicBool::new(panicking >> task & 1 == 1),
                });
                let mut future: Pin<Box<dyn Future<Output = ()>>> = if waits_for_drain {
                    Box::pin(shutdown.draining())
                } else {
                    let upstream = Script::new([]).then(AfterScript::Pending);
                    let body: ResponseBody<_> = event_stream(&layer, upstream);
                    let mut body = Box::pin(body);
                    Box::pin(poll_fn(move |cx| body.as_mut().poll_frame(cx).map(drop)))
                };
                let polled = future
                    .as_mut()
                    .poll(&mut Context::from_waker(&Waker::from(Arc::clone(&waker))));
                assert!(polled.is_pending());
                waiting.push(future);
                wakers.push(waker);
            }
            let closed = catch_unwind(AssertUnwindSafe(|| shutdown.close()));
            assert!(closed.is_err(), "the panic is propagated");
            let woken = wakers
                .iter()
                .map(|waker| waker.wakes.load(Ordering::SeqCst));
            assert!(
                woken.eq([1; TASKS]),
                "{panicking:b}: every task is woken once"
            );
            assert!(shutdown.is_closed());
            shutdown.close();
            let mut cx = Context::from_waker(Waker::noop());
            for mut future in waiting {
                assert!(future.as_mut().poll(&mut cx).is_ready(), "{panicking:b}");
            }
        }
    }
}

#[test]
fn c13_upstream_that_has_ended_is_not_polled_again_after_a_panic_of_the_cancellation() {
    // The cancellation is pending in the first poll and panics when the upstream has ended. The script panics if it is polled
    // after its end.
    let layer = SseCompletionLayer::new().cancel_when(|_| Cancellation {
        polls_before_panic: 1,
        is_ready: false,
        drop_panics: false,
    });
    let mut body = drive(&layer, Script::frames([EVENT]));
    assert_eq!(body.data(), EVENT);
    assert!(catch_unwind(AssertUnwindSafe(|| body.poll().is_ready())).is_err());
    assert!(matches!(body.poll(), Poll::Ready(None)));
    assert!(matches!(body.poll(), Poll::Ready(None)));
}

/// Calls into the upstream that panic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Poll,
    IsEndStream,
    Conversion,
}

/// Data whose conversion into `Bytes` may panic.
struct Data(Bytes, bool);

impl Buf for Data {
    fn remaining(&self) -> usize {
        self.0.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.0.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.0.advance(count);
    }
}

impl From<Data> for Bytes {
    fn from(Data(bytes, panics): Data) -> Self {
        assert!(!panics, "an intended panic");
        bytes
    }
}

/// An endless upstream that panics once, with its frame of this number.
struct PanicsOnce {
    call: Call,
    frame: usize,
    polls: usize,
}

impl Body for PanicsOnce {
    type Data = Data;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Data>, Infallible>>> {
        self.polls += 1;
        let panics = self.polls == self.frame;
        assert!(!(panics && self.call == Call::Poll), "an intended panic");
        let data = Data(EVENT.into(), panics && self.call == Call::Conversion);
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        let panics = self.polls == self.frame && self.call == Call::IsEndStream;
        assert!(!panics, "an intended panic");
        false
    }
}

#[test]
fn c21_panic_of_the_upstream_in_a_poll_ends_the_stream_as_failed() {
    for call in [Call::Poll, Call::IsEndStream, Call::Conversion] {
        // With the first frame, and with one that needs no scan.
        for frame in [1, 3] {
            let case = format!("{call:?}, frame {frame}");
            let (shutdown, reports) = (Shutdown::new(), Reports::default());
            let layer = SseCompletionLayer::new()
                .shutdown(&shutdown)
                .on_end(reports.observer());
            let polls = 0;
            let mut body = drive(&layer, PanicsOnce { call, frame, polls });
            for _ in 1..frame {
                assert_eq!(body.data(), EVENT, "{case}");
            }
            let polled = catch_unwind(AssertUnwindSafe(|| body.poll().is_ready()));
            assert!(polled.is_err(), "{case}: the server observes the panic");
            shutdown.close();
            assert!(matches!(body.poll(), Poll::Ready(None)), "{case}");
            let report = reports.only();
            assert_eq!(report.ending(), Ending::Failed, "{case}");
            assert!(!report.close_event_sent(), "{case}");
            assert_eq!(shutdown.open_streams(), 0, "{case}");
        }
    }
}

#[test]
fn c21_panic_in_the_destructor_of_the_cancellation_is_failed_with_the_last_frame() {
    let reports = Reports::default();
    let layer = SseCompletionLayer::new()
        .on_end(reports.observer())
        .cancel_when(|_| Cancellation {
            polls_before_panic: 9,
            is_ready: false,
            drop_panics: true,
        });
    let upstream = Script::frames([EVENT]).end_stream(EndStream::Known);
    assert!(
        run(drive(&layer, upstream), 10),
        "the server observes the panic"
    );
    assert_eq!(reports.only().ending(), Ending::Failed);
}
