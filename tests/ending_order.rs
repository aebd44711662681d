//! The order in which a stream ends: its last frame, its count, its report and a drain that waits for it.

use std::{
    cell::Cell,
    convert::Infallible,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    thread,
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Request, request::Parts};
use http_body::Body;
use http_body_util::{BodyExt, Empty};
use testkit::{
    MIRI_STRIDE,
    driver::Driver,
    exchange::{CLOSE, event_stream, event_stream_response, send_response},
    reports::Reports,
    script::{AfterScript, EndStream, Script, ScriptError, Step, data},
    server::{self, VERSIONS},
    wait::{until, within},
};
use tokio::{task::JoinHandle, time::advance};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tower::{Layer, ServiceExt, layer::util::Stack, service_fn};
use tower_http::trace::TraceLayer;
use tower_sse_completion::{
    CloseEvent, Drain, Drained, Ending, ResponseBody, Shutdown, SseCompletionLayer, StreamReport,
};
use tracing::Span;

const EVENT: &str = "data: 1\n\n";
const UNFINISHED: &str = "data: 1\n\ndata: 2";
const SECOND: Duration = Duration::from_secs(1);

/// An end of a stream.
#[derive(Debug, Clone)]
struct End {
    steps: Vec<Step>,
    after: AfterScript,
    end_stream: EndStream,
    panics_in_drop: bool,
    /// The layer closes streams that are completed, truncated or failed.
    closes: bool,
    /// Fires once the upstream is pending, unless the stream has ended.
    trigger: Trigger,
    ending: Ending,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trigger {
    Shutdown,
    Token,
    MaxAge,
    IdleTimeout,
    Drop,
}

/// Returns one end of each kind.
fn ends() -> Vec<End> {
    let end = |steps: &[Step], ending| End {
        steps: steps.to_vec(),
        after: AfterScript::End,
        end_stream: EndStream::Unknown,
        panics_in_drop: false,
        closes: false,
        trigger: Trigger::Shutdown,
        ending,
    };
    let closed = |steps: &[Step], ending| End {
        closes: true,
        ..end(steps, ending)
    };
    let stopped = |steps: &[Step], trigger, ending| End {
        after: AfterScript::Pending,
        trigger,
        ..end(steps, ending)
    };
    let event = || data(EVENT);
    let unfinished = || data(UNFINISHED);
    let large = data("data: more than fits");
    vec![
        end(&[event()], Ending::Completed),
        End {
            end_stream: EndStream::Known,
            ..end(&[event()], Ending::Completed)
        },
        end(&[event(), Step::Trailers], Ending::Completed),
        closed(&[event(), Step::Trailers], Ending::Completed),
        end(&[], Ending::Empty),
        end(&[Step::Trailers], Ending::Empty),
        end(&[unfinished()], Ending::Truncated),
        closed(&[unfinished()], Ending::Truncated),
        end(&[unfinished(), Step::Trailers], Ending::Truncated),
        closed(&[unfinished(), Step::Trailers], Ending::Truncated),
        end(&[data("data: 1"), Step::Trailers], Ending::Truncated),
        end(&[event(), Step::Error], Ending::Failed),
        closed(&[event(), Step::Error], Ending::Failed),
        end(&[unfinished(), Step::Error], Ending::Failed),
        end(&[event(), Step::Pending, Step::Panic], Ending::Failed),
        End {
            panics_in_drop: true,
            ..stopped(&[event()], Trigger::Shutdown, Ending::Failed)
        },
        stopped(&[event()], Trigger::Shutdown, Ending::Cancelled),
        end(&[event(), Step::Pending, Step::Trailers], Ending::Cancelled),
        stopped(&[large], Trigger::Shutdown, Ending::Cancelled),
        stopped(
            &[event(), Step::Pending, data(CLOSE)],
            Trigger::Shutdown,
            Ending::Cancelled,
        ),
        stopped(&[event()], Trigger::Token, Ending::Cancelled),
        stopped(&[event()], Trigger::MaxAge, Ending::Expired),
        stopped(&[event()], Trigger::IdleTimeout, Ending::Idle),
        stopped(&[event()], Trigger::Drop, Ending::Dropped),
    ]
}

impl End {
    fn upstream(&self) -> Script {
        let script = Script::new(self.steps.clone())
            .then(self.after.clone())
            .end_stream(self.end_stream);
        match self.panics_in_drop {
            true => script.panic_in_drop(),
            false => script,
        }
    }

    /// Brings the stream to its end, with a closure that checks the state before each poll that may return the last frame.
    async fn run<B>(&self, mut body: Driver<B>, triggers: &Triggers, check: impl Fn(bool))
    where
        B: Body<Data = Bytes, Error = ScriptError>,
    {
        // Poll by poll: a body that yields has not ended.
        loop {
            check(body.is_end_stream());
            let wakes = body.wakes();
            match body.poll() {
                Poll::Ready(Some(Err(_))) => {
                    check(body.is_end_stream());
                    return;
                }
                Poll::Ready(Some(_)) if !body.is_end_stream() => {}
                Poll::Pending if body.wakes() > wakes => {}
                _ => break,
            }
        }
        check(body.is_end_stream());
        match self.trigger {
            Trigger::Shutdown => triggers.shutdown.close(),
            Trigger::Token => triggers.token.cancel(),
            Trigger::MaxAge | Trigger::IdleTimeout => advance(SECOND * 10).await,
            Trigger::Drop => return,
        }
        let polled = catch_unwind(AssertUnwindSafe(|| {
            loop {
                check(body.is_end_stream());
                if let Poll::Ready(None | Some(Err(_))) = body.poll() {
                    break;
                }
            }
        }));
        let panics = self.panics_in_drop || matches!(self.steps.last(), Some(Step::Panic));
        assert_eq!(polled.is_err(), panics, "{self:?}");
    }
}

/// The triggers that end the streams of a test.
#[derive(Default)]
struct Triggers {
    shutdown: Shutdown,
    token: CancellationToken,
}

impl Triggers {
    fn layer(&self, end: &End) -> SseCompletionLayer {
        let layer = SseCompletionLayer::new()
            .buffer_limit(16)
            .close_on_completed(end.closes)
            .close_on_truncated(end.closes)
            .close_on_failed(end.closes);
        match end.trigger {
            Trigger::MaxAge => layer.max_age(SECOND * 5),
            Trigger::IdleTimeout => layer.idle_timeout(SECOND * 5),
            _ => layer,
        }
    }

    fn cancellation(&self) -> impl Fn(&Parts) -> WaitForCancellationFutureOwned + Clone + use<> {
        let token = self.token.clone();
        move |_| token.clone().cancelled_owned()
    }
}

/// Asserts that the count, the report and the hint of a stream change with its last frame, for which a drain waits, and that
/// inside of its report the stream is not counted, and the drain still waits.
async fn assert_order<B>(end: &End, triggers: &Triggers, make: impl FnOnce(SseCompletionLayer) -> B)
where
    B: Body<Data = Bytes, Error = ScriptError>,
{
    let waits = |drain: &Mutex<Drain>| {
        let mut drain = drain.lock().expect("no panic");
        (&mut *drain).now_or_never().is_none()
    };
    let drain = Arc::new(Mutex::new(triggers.shutdown.drain(Duration::MAX)));
    let (reports, inside) = (Reports::default(), Arc::<Mutex<Vec<_>>>::default());
    let layer = triggers.layer(end).on_end({
        let (shutdown, drain) = (triggers.shutdown.clone(), Arc::clone(&drain));
        let (observe, inside) = (reports.observer(), Arc::clone(&inside));
        move |report: &StreamReport| {
            let state = (shutdown.open_streams(), waits(&drain));
            inside.lock().expect("no panic").push(state);
            observe(report);
        }
    });
    let body = Driver::new(make(layer));
    let has_drained = Cell::new(false);
    end.run(body, triggers, |is_end_stream| {
        // C13 and C19: all change together, unless `None` follows.
        let is_reported = reports.count() == 1;
        assert!(
            is_reported || !is_end_stream,
            "{end:?}: no report before the end"
        );
        let open = triggers.shutdown.open_streams();
        assert_eq!(open, usize::from(!is_reported), "{end:?}: open streams");
        if !has_drained.get() {
            has_drained.set(!waits(&drain));
        }
        assert_eq!(has_drained.get(), is_reported, "{end:?}: the drain");
    })
    .await;
    assert_eq!(reports.only().ending(), end.ending, "{end:?}");
    assert_eq!(*inside.lock().expect("no panic"), [(0, true)], "{end:?}");
    assert_eq!(triggers.shutdown.open_streams(), 0, "{end:?}: at the end");
    let returns = has_drained.get() || !waits(&drain);
    assert!(returns, "{end:?}: the drain returns");
}

#[tokio::test(start_paused = true)]
async fn c19_stream_is_counted_and_not_reported_until_its_last_frame_is_returned() {
    for end in ends() {
        for is_attached in [false, true] {
            let triggers = Triggers::default();
            let make = |layer: SseCompletionLayer| {
                let mut response = event_stream_response(end.upstream());
                let layer = if is_attached {
                    triggers.shutdown.attach(response.extensions_mut());
                    layer
                } else {
                    layer.shutdown(&triggers.shutdown)
                };
                let layer = layer.cancel_when(triggers.cancellation());
                send_response(&layer, Request::new(()), response).into_body()
            };
            assert_order(&end, &triggers, make).await;
        }
        // The shutdown of the inner layer, and that of the outer layer.
        for is_inner in [false, true] {
            let triggers = Triggers::default();
            let make = |inner: SseCompletionLayer| {
                let outer = SseCompletionLayer::new().cancel_when(triggers.cancellation());
                let [inner, outer] = match is_inner {
                    true => [inner.shutdown(&triggers.shutdown), outer],
                    false => [inner, outer.shutdown(&triggers.shutdown)],
                };
                event_stream(&Stack::new(inner, outer), end.upstream())
            };
            assert_order(&end, &triggers, make).await;
        }
    }
}

/// Spawns a task that reads a stream to its end, and counts its close event as soon as the body has returned it.
fn read(body: ResponseBody<Script>, close_events: &Arc<AtomicUsize>) -> JoinHandle<()> {
    let close_events = Arc::clone(close_events);
    tokio::spawn(async move {
        let mut body = Box::pin(body);
        while let Some(frame) = body.frame().await {
            if frame.expect("no error").into_data().expect("data") == CLOSE {
                close_events.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
}

/// Drains streams that other threads read, and asserts that every report and close event precedes the end of the drain.
async fn drain_rounds(rounds: usize, streams: usize, slow: Duration) {
    for round in 0..rounds {
        let shutdown = Shutdown::new();
        let [made, reported, returned] = [(); 3].map(|()| Arc::new(AtomicUsize::new(0)));
        let layer = SseCompletionLayer::new()
            .shutdown(&shutdown)
            .close_event_with({
                let made = Arc::clone(&made);
                move |_| {
                    thread::sleep(slow);
                    made.fetch_add(1, Ordering::SeqCst);
                    CloseEvent::new()
                }
            })
            .on_end({
                let reported = Arc::clone(&reported);
                move |_| {
                    thread::sleep(slow);
                    reported.fetch_add(1, Ordering::SeqCst);
                }
            });
        let readers: Vec<_> = (0..streams)
            .map(|_| {
                let upstream = Script::frames([EVENT]).then(AfterScript::Pending);
                read(event_stream(&layer, upstream), &returned)
            })
            .collect();
        // The streams are idle when they are drained.
        tokio::task::yield_now().await;
        let drained: Drained = within(shutdown.drain(Duration::ZERO)).await;
        let done = [&made, &reported].map(|count| count.load(Ordering::SeqCst));
        assert_eq!(done, [streams; 2], "round {round}: made and reported");
        assert_eq!(
            (drained.ended(), drained.still_open()),
            (streams, 0),
            "round {round}"
        );
        for reader in readers {
            within(reader).await.expect("no panic");
        }
        // A reader may be suspended between the last line of `poll_frame` and its own next line.
        let returned = returned.load(Ordering::SeqCst);
        assert_eq!(returned, streams, "round {round}: returned");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c19_drain_returns_after_reports_and_close_events_even_if_they_are_slow() {
    let slow = Duration::from_millis(30);
    for (rounds, streams, slow) in [
        (5_000 / MIRI_STRIDE, 1, Duration::ZERO),
        (200 / MIRI_STRIDE, 20, Duration::ZERO),
        (5, 1, slow),
        (2, 4, slow),
    ] {
        let drained = tokio::spawn(drain_rounds(rounds, streams, slow));
        drained.await.expect("no panic");
    }
}

/// Returns a function for `TraceLayer::on_eos` that counts its calls.
fn counting(
    ends: &Arc<AtomicUsize>,
) -> impl FnOnce(Option<&HeaderMap>, Duration, &Span) + Clone + use<> {
    let ends = Arc::clone(ends);
    move |_, _, _| {
        ends.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn c13_middleware_detects_the_end_once() {
    for end in ends() {
        let is_clean = end.closes || !matches!(end.ending, Ending::Dropped | Ending::Failed);
        let (triggers, ends) = (Triggers::default(), Arc::default());
        let layer = triggers
            .layer(&end)
            .shutdown(&triggers.shutdown)
            .cancel_when(triggers.cancellation());
        let trace = TraceLayer::new_for_http().on_eos(counting(&ends));
        let service = trace.layer(layer.layer(service_fn(async |_: Request<Empty<Bytes>>| {
            Ok::<_, Infallible>(event_stream_response(end.upstream()))
        })));
        let response = service.oneshot(Request::default()).await;
        let body = Driver::new(response.expect("a response").into_body());
        end.run(body, &triggers, |_| {}).await;
        assert_eq!(
            ends.load(Ordering::SeqCst),
            usize::from(is_clean),
            "{end:?}"
        );
    }
}

#[tokio::test]
#[cfg_attr(miri, ignore = "needs sockets")]
async fn c13_middleware_in_a_server_detects_the_end_once() {
    for version in VERSIONS {
        let (shutdown, ends) = (Shutdown::new(), Arc::default());
        let trace = TraceLayer::new_for_http().on_eos(counting(&ends));
        let traced = Stack::new(SseCompletionLayer::new().shutdown(&shutdown), trace);
        let address = server::serve_scripts(traced, || {
            Script::frames([EVENT]).then(AfterScript::Pending)
        })
        .await;
        let mut body = server::request(address, version, "GET", "/")
            .await
            .into_body();
        assert_eq!(server::next_data(&mut body).await, EVENT);
        shutdown.close();
        assert_eq!(server::receive(body).await.text().as_bytes(), CLOSE);
        until(|| ends.load(Ordering::SeqCst) == 1).await;
    }
}
