//! Layers around one stream act as one, in the place of the outermost layer, with any body between them.

use std::{
    array,
    collections::VecDeque,
    future::pending,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Poll, ready},
    thread,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use http::{Extensions, HeaderMap, Request, Response, header::CONTENT_LENGTH};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use testkit::{
    MIRI_STRIDE, PrintOnPanic,
    decoder::decode,
    driver::Driver,
    exchange::{CLOSE, cancellation_layer, event_stream_response, send_response, shutdown_layer},
    reports::Reports,
    script::{AfterScript, EndStream, Script, ScriptError, Step, data},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tower::layer::util::Stack;
use tower_http::compression::{CompressionLayer, predicate::SizeAbove};
use tower_sse_completion::{
    CloseEvent, Ending, InvalidCloseEvent, KeepAlive, ResponseBody, Shutdown, SseCompletionLayer,
    StreamReport,
};

const EVENT: &str = "data: 1\n\n";
const LAST: &str = "data: last\n\n";
const SECOND: Duration = Duration::from_secs(1);

type Layer = SseCompletionLayer;
type AnyBody = UnsyncBoxBody<Bytes, ScriptError>;
type Between = fn(AnyBody) -> AnyBody;
type Item = Result<Frame<Bytes>, ScriptError>;

fn plain() -> Layer {
    Layer::new()
}

/// A stream that delivers an event and is then pending.
fn idle() -> Script {
    Script::frames([EVENT]).then(AfterScript::Pending)
}

fn respond(upstream: Script) -> Response<AnyBody> {
    event_stream_response(upstream.boxed_unsync())
}

fn wrap(layer: &Layer, response: Response<AnyBody>) -> Response<AnyBody> {
    let response: Response<ResponseBody<_>> = send_response(layer, Request::new(()), response);
    response.map(BodyExt::boxed_unsync)
}

/// Wraps the response in these layers, the innermost first.
fn wrap_all(layers: &[Layer], response: Response<AnyBody>) -> Response<AnyBody> {
    layers
        .iter()
        .fold(response, |response, layer| wrap(layer, response))
}

fn drive_all(layers: &[Layer], upstream: Script) -> Driver<AnyBody> {
    Driver::new(wrap_all(layers, respond(upstream)).into_body())
}

/// Returns the frames of a body up to its end or its error.
fn items(mut body: AnyBody) -> impl Stream<Item = Item> + Send + Unpin {
    let mut has_ended = false;
    stream::poll_fn(move |cx| {
        if has_ended {
            return Poll::Ready(None);
        }
        let item = ready!(Pin::new(&mut body).poll_frame(cx));
        has_ended = !matches!(item, Some(Ok(_)));
        Poll::Ready(item)
    })
}

fn body(items: impl Stream<Item = Item> + Send + 'static) -> AnyBody {
    StreamBody::new(items).boxed_unsync()
}

fn frame(data: impl Into<Bytes>) -> Item {
    Ok(Frame::data(data.into()))
}

fn halves(item: Item) -> [Option<Item>; 2] {
    match item.map(Frame::into_data) {
        Ok(Ok(mut data)) => {
            let first = data.split_to(data.len() / 2);
            [Some(frame(first)), Some(frame(data))]
        }
        Ok(Err(other)) => [Some(Ok(other)), None],
        Err(error) => [Some(Err(error)), None],
    }
}

/// Queues up to `ahead` frames of a body, and holds the last of them back until the body has ended.
fn queue(inner: AnyBody, ahead: usize) -> AnyBody {
    let mut inner = items(inner).fuse();
    let mut queued = VecDeque::new();
    body(stream::poll_fn(move |cx| {
        while queued.len() < ahead {
            match inner.poll_next_unpin(cx) {
                Poll::Ready(Some(item)) => queued.push_back(item),
                Poll::Ready(None) => return Poll::Ready(queued.pop_front()),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(queued.pop_front())
    }))
}

/// Bodies between two layers. None of them polls the inner body before the outer layer has the response.
const BODIES: [(&str, Between); 10] = [
    ("the inner body", |inner| inner),
    ("no hints", |inner| body(items(inner))),
    ("appends and stays open", |inner| {
        body(
            items(inner)
                .chain(stream::iter([frame(LAST)]))
                .chain(stream::pending()),
        )
    }),
    ("appends for ever", |inner| {
        body(items(inner).chain(stream::repeat_with(|| frame(LAST))))
    }),
    ("holds the last frame back", |inner| queue(inner, 2)),
    ("queues", |inner| queue(inner, 5)),
    ("cuts frames in halves", |inner| {
        body(items(inner).flat_map(|item| stream::iter(halves(item).into_iter().flatten())))
    }),
    ("drops the inner body after two frames", |inner| {
        body(items(inner).take(2).chain(stream::iter([frame(LAST)])))
    }),
    ("keeps the inner body unpolled", |inner| {
        let mut kept = Some(inner);
        body(
            stream::iter([frame(EVENT)]).chain(stream::poll_fn(move |_| {
                kept.take_if(|inner| inner.is_end_stream());
                Poll::Pending
            })),
        )
    }),
    ("drops the inner body with the first poll", |inner| {
        body(stream::once(async move {
            drop(inner);
            frame("data: unfinished")
        }))
    }),
];

/// Ends of an upstream that has a pause between its events.
fn upstreams() -> Vec<Script> {
    let end = |steps: &[Step]| {
        let start = [data(EVENT), Step::Pending, data("data: 2"), data("\n\n")];
        Script::new(start.into_iter().chain(steps.iter().cloned()))
    };
    vec![
        end(&[]),
        end(&[data("data: unfinished")]),
        end(&[Step::Trailers]),
        end(&[Step::Error]),
        end(&[data("da"), Step::Error]),
        end(&[Step::Pending]),
        end(&[]).then(AfterScript::Pending),
        end(&[data("data: unfinished")]).then(AfterScript::Pending),
        end(&[]).then(AfterScript::Repeat(EVENT.into())),
        Script::new([]),
        Script::new([Step::Trailers]),
        Script::frames([": a comment\n\n"]).then(AfterScript::Pending),
    ]
}

/// A signal that can end a stream, and the number of its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trigger {
    None,
    Shutdown(usize),
    Token(usize),
}

const TRIGGERS: [Trigger; 7] = [
    Trigger::None,
    Trigger::Shutdown(0),
    Trigger::Shutdown(1),
    Trigger::Shutdown(2),
    Trigger::Token(0),
    Trigger::Token(1),
    Trigger::Token(2),
];

/// Numbers of polls before a trigger fires.
const POLLS: [usize; 6] = [0, 1, 2, 3, 5, 40];

/// The number and the bytes of the data frames that the outermost layer has received, and whether its upstream has ended.
#[derive(Default)]
struct Received {
    frames: AtomicU64,
    bytes: AtomicU64,
    has_ended: AtomicBool,
}

impl Received {
    fn recorded(this: &Arc<Self>, mut inner: AnyBody) -> AnyBody {
        let received = Arc::clone(this);
        body(stream::poll_fn(move |cx| {
            let item = ready!(Pin::new(&mut inner).poll_frame(cx));
            received.record(item.as_ref());
            Poll::Ready(item)
        }))
    }

    fn record(&self, item: Option<&Item>) {
        match item {
            Some(Ok(frame)) if frame.is_data() => {
                let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                self.frames
                    .fetch_add(u64::from(length > 0), Ordering::Relaxed);
                self.bytes.fetch_add(length, Ordering::Relaxed);
            }
            _ => self.has_ended.store(true, Ordering::Relaxed),
        }
    }
}

/// Layers, the innermost first, each with a shutdown and an observer of its own.
struct Layers<const N: usize> {
    shutdowns: [Shutdown; N],
    reports: [Reports; N],
}

impl<const N: usize> Layers<N> {
    fn new() -> (Self, [Layer; N]) {
        let all = Self {
            shutdowns: array::from_fn(|_| Shutdown::new()),
            reports: array::from_fn(|_| Reports::default()),
        };
        let layer = |number: usize| {
            shutdown_layer(&all.shutdowns[number]).on_end(all.reports[number].observer())
        };
        let layers = array::from_fn(layer);
        (all, layers)
    }

    /// Returns the counts of open streams.
    fn open(&self) -> [usize; N] {
        self.shutdowns.each_ref().map(Shutdown::open_streams)
    }

    /// Returns the numbers of reports.
    fn reported(&self) -> [usize; N] {
        self.reports.each_ref().map(Reports::count)
    }

    #[track_caller]
    fn assert(&self, open: [usize; N], reported: [usize; N]) {
        assert_eq!((self.open(), self.reported()), (open, reported));
    }

    /// Returns `true` if all shutdowns count the stream and no observer has the report, and `false` if it is the reverse.
    #[track_caller]
    fn is_open(&self) -> bool {
        let is_open = self.open()[0] == 1;
        self.assert([usize::from(is_open); N], [usize::from(!is_open); N]);
        is_open
    }

    /// Returns the one report, which every observer has received.
    #[track_caller]
    fn report(&self) -> StreamReport {
        let reports = self.reports.each_ref().map(Reports::only);
        assert!(reports.iter().all(|report| *report == reports[0]));
        reports[0].clone()
    }
}

/// Everything that a client has received.
#[derive(Debug, Default)]
struct Seen {
    bytes: Vec<u8>,
    frames: usize,
    last: Bytes,
    has_ended: bool,
    trailers: Option<HeaderMap>,
    error: Option<ScriptError>,
}

impl Seen {
    /// Polls once. Returns `false` if the body is pending or has ended.
    fn poll<B: Body<Data = Bytes, Error = ScriptError>>(&mut self, body: &mut Driver<B>) -> bool {
        match body.poll() {
            Poll::Pending => return false,
            Poll::Ready(None) => self.has_ended = true,
            Poll::Ready(Some(Err(error))) => self.error = Some(error),
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    self.bytes.extend_from_slice(&data);
                    self.frames += 1;
                    self.last = data;
                    return true;
                }
                Err(frame) => self.trailers = frame.into_trailers().ok(),
            },
        }
        self.has_ended = true;
        false
    }
}

/// One stream of three layers.
#[derive(Debug)]
struct Case {
    /// The number of the body in [`BODIES`], which is around the layer with the number `around`.
    between: usize,
    around: usize,
    /// The number of the upstream in [`upstreams`].
    upstream: usize,
    trigger: Trigger,
    /// The number of polls before the trigger fires.
    polls: usize,
}

impl Case {
    /// Returns everything that a client receives without the layers.
    fn without_layers(&self) -> Seen {
        let mut seen = Seen::default();
        let upstream = upstreams().swap_remove(self.upstream).boxed_unsync();
        let mut body = Driver::new(BODIES[self.between].1(upstream));
        for _ in 0..400 {
            if !seen.has_ended {
                seen.poll(&mut body);
            }
        }
        seen
    }

    /// Runs the stream, and checks it after each poll.
    fn check(&self) {
        let _case = PrintOnPanic((BODIES[self.between].0, self));
        let (three, layers) = Layers::<3>::new();
        let tokens: [CancellationToken; 3] = Default::default();
        let received = Arc::<Received>::default();
        let mut response = respond(upstreams().swap_remove(self.upstream));
        for (number, (layer, token)) in layers.into_iter().zip(tokens.clone()).enumerate() {
            if number == 2 {
                response = response.map(|inner| Received::recorded(&received, inner));
            }
            let layer = layer.cancel_when(move |_| token.clone().cancelled_owned());
            response = wrap(&layer, response);
            if number == self.around {
                response = response.map(BODIES[self.between].1);
            }
        }
        let mut body = Driver::new(response.into_body());
        let mut seen = Seen::default();
        let mut is_pending = false;
        let mut frames_after_trigger = None;
        for poll in 0..150 {
            let is_open = three.is_open();
            if poll == self.polls && self.trigger != Trigger::None {
                let wakes = body.wakes();
                match self.trigger {
                    Trigger::None => {}
                    Trigger::Shutdown(number) => three.shutdowns[number].close(),
                    Trigger::Token(number) => tokens[number].cancel(),
                }
                if is_open && !received.has_ended.load(Ordering::Relaxed) {
                    frames_after_trigger = Some(seen.frames);
                    assert!(!is_pending || body.wakes() > wakes, "C10");
                }
            }
            let is_data = seen.poll(&mut body);
            is_pending = !is_data && !seen.has_ended;
            assert!(is_open || !is_data, "no frame follows the report");
            if seen.has_ended {
                assert!(!three.is_open(), "the report is made with the last frame");
                break;
            }
        }
        let was_cancelled = frames_after_trigger.is_some();
        if let Some(frames) = frames_after_trigger {
            assert!(seen.has_ended);
            // C11: the first check within 32 frames, and 32 frames more, which the close event follows.
            assert!(seen.frames - frames <= 65);
        }
        body.drop_body();
        assert!(!three.is_open());

        let expected = self.without_layers();
        let forwarded = seen.bytes.strip_suffix(CLOSE);
        let is_closed = forwarded.is_some();
        let forwarded = forwarded.unwrap_or(&seen.bytes);
        assert!(!is_closed || seen.last == CLOSE, "C5");
        assert!(expected.bytes.starts_with(forwarded), "C4");
        let events = decode(&seen.bytes).events;
        let events = &events[..events.len() - usize::from(is_closed)];
        assert!(decode(&expected.bytes).events.starts_with(events), "C6");

        let ending = match was_cancelled {
            true => Ending::Cancelled,
            false if !seen.has_ended => Ending::Dropped,
            false if seen.error.is_some() => Ending::Failed,
            false if !forwarded.is_empty() && !forwarded.ends_with(b"\n\n") => Ending::Truncated,
            false if events.is_empty() => Ending::Empty,
            false => Ending::Completed,
        };
        assert_eq!(
            is_closed,
            matches!(ending, Ending::Cancelled | Ending::Empty)
        );
        if !was_cancelled && seen.has_ended {
            assert_eq!(forwarded, expected.bytes);
            assert_eq!(
                (seen.error, &seen.trailers),
                (expected.error, &expected.trailers)
            );
        }

        let report = three.report();
        assert_eq!(
            (report.ending(), report.close_event_sent()),
            (ending, is_closed)
        );
        assert_eq!(report.delivered(), !events.is_empty());
        assert_eq!(report.bytes_sent(), seen.bytes.len() as u64);
        let [bytes, frames] =
            [&received.bytes, &received.frames].map(|n| n.load(Ordering::Relaxed));
        assert_eq!(report.bytes_received(), bytes);
        match bytes == forwarded.len() as u64 {
            true => assert_eq!(report.data_frames(), frames),
            // Bytes that were held have been discarded.
            false => assert!(report.data_frames() <= frames),
        }
    }
}

#[test]
fn c22_layers_around_any_body_are_one_stream() {
    let stride = MIRI_STRIDE * MIRI_STRIDE;
    let number_of_upstreams = upstreams().len();
    let total = BODIES.len() * TRIGGERS.len() * 2 * POLLS.len() * number_of_upstreams;
    for number in (0..total).step_by(stride) {
        let mut rest = number;
        let mut next = |count: usize| {
            let index = rest % count;
            rest /= count;
            index
        };
        let case = Case {
            upstream: next(number_of_upstreams),
            polls: POLLS[next(POLLS.len())],
            around: next(2),
            trigger: TRIGGERS[next(TRIGGERS.len())],
            between: next(BODIES.len()),
        };
        case.check();
    }
}

#[test]
fn c22_replaced_body_is_not_the_stream_of_the_inner_layer() {
    let (two, layers) = Layers::<2>::new();
    let session = Shutdown::new();
    let mut response = wrap(&layers[0], respond(idle()));
    session.attach(response.extensions_mut());
    assert_eq!(two.open(), [1, 0]);
    let response = response.map(|_| idle().boxed_unsync());
    assert_eq!((two.open(), session.open_streams()), ([0, 0], 0));
    let mut body = Driver::new(wrap(&layers[1], response).into_body());
    assert_eq!(two.open(), [0, 1]);
    assert_eq!(body.data(), EVENT);
    // The response has still the shutdown that was attached to it.
    assert_eq!(session.open_streams(), 1);
    session.close();
    assert_eq!(body.rest().bytes(), CLOSE);
    two.assert([0, 0], [0, 1]);
}

#[test]
fn c22_layers_are_independent_if_the_extensions_are_lost_or_the_body_is_polled_between_them() {
    let middlewares: [fn(Response<AnyBody>) -> _; 3] = [
        |mut response| {
            response.extensions_mut().clear();
            response
        },
        |response| {
            let (head, body) = response.into_parts();
            let mut rebuilt = Response::new(body);
            *rebuilt.headers_mut() = head.headers;
            rebuilt
        },
        |response| {
            response.map(|inner| {
                let mut inner = items(inner);
                let first = inner.next().now_or_never().flatten();
                body(stream::iter(first).chain(inner))
            })
        },
    ];
    for (number, between) in middlewares.into_iter().enumerate() {
        // The layer that ends the stream, what follows, and the endings for the inner and the outer layer.
        for (closes, expected, endings) in [
            (0, CLOSE.to_vec(), [Ending::Cancelled, Ending::Completed]),
            (1, CLOSE.to_vec(), [Ending::Dropped, Ending::Cancelled]),
            (2, CLOSE.repeat(2), [Ending::Cancelled, Ending::Cancelled]),
        ] {
            let (two, layers) = Layers::<2>::new();
            let both = Shutdown::new();
            let layers = layers.map(|layer| layer.shutdown(&both));
            let inner = wrap(&layers[0], respond(idle()));
            let mut body = Driver::new(wrap(&layers[1], between(inner)).into_body());
            assert_eq!(body.data(), EVENT);
            body.assert_pending();
            assert_eq!(both.open_streams(), 2, "{number}: the stream counts twice");
            two.shutdowns.get(closes).unwrap_or(&both).close();
            assert_eq!(body.rest().bytes(), expected, "{number}, {closes}");
            let reported = two
                .reports
                .each_ref()
                .map(|reports| reports.only().ending());
            assert_eq!(reported, endings);
            assert_eq!((two.open(), both.open_streams()), ([0, 0], 0));
        }
    }
}

#[test]
fn c22_body_whose_state_another_body_has_taken_passes_through() {
    let hints = |body: &AnyBody| (body.is_end_stream(), body.size_hint().exact());
    let (two, layers) = Layers::<2>::new();
    let upstream = idle()
        .size_hint(SizeHint::with_exact(9))
        .end_stream(EndStream::Wrong);
    let (head, mut inner) = wrap(&layers[0], respond(upstream)).into_parts();
    assert_eq!(hints(&inner), (false, None), "C14");
    // Middleware copies the head to the response of another body.
    let copied = Response::from_parts(head.clone(), idle().boxed_unsync());
    let outer = wrap(&layers[1], copied).into_body();
    assert_eq!(hints(&outer), (false, None), "C14");
    assert_eq!(hints(&inner), (true, Some(9)));

    let mut outer = Driver::new(outer);
    assert_eq!(outer.data(), EVENT);
    assert!(inner.frame().now_or_never().is_some());
    drop((inner, head));
    two.assert([1, 1], [0, 0]);
    two.shutdowns[0].close();
    assert_eq!(outer.rest().bytes(), CLOSE);
    two.assert([0, 0], [1, 1]);
}

#[test]
fn c22_body_that_is_dropped_unpolled_leaves_every_count_and_is_not_reported() {
    for layers_around in [1, 2] {
        let (two, layers) = Layers::<2>::new();
        let upstream = idle();
        let log = upstream.log();
        let (head, body) = wrap_all(&layers[..layers_around], respond(upstream)).into_parts();
        drop(body);
        assert!(log.dropped());
        two.assert([0, 0], [0, 0]);
        // The extensions outlive the body.
        let other = Response::from_parts(head, idle().boxed_unsync());
        drop(wrap(&plain(), other));
        two.assert([0, 0], [0, 0]);
    }
}

#[test]
fn c22_state_is_taken_once_if_the_inner_body_is_used_in_another_thread() {
    for round in 0..if cfg!(miri) { 4 } else { 400 } {
        let is_polled = round % 2 == 0;
        let (two, layers) = Layers::<2>::new();
        let (head, mut inner) = wrap(&layers[0], respond(idle())).into_parts();
        let outer = thread::scope(|scope| {
            scope.spawn(move || is_polled.then(|| inner.frame().now_or_never().is_some()));
            let other = Response::from_parts(head, idle().boxed_unsync());
            wrap(&layers[1], other)
        });
        let mut outer = Driver::new(outer.into_body());
        assert_eq!(outer.data(), EVENT);
        let (open, reported) = (two.open(), two.reported());
        // One of the two bodies has had the state of the inner layer.
        let is_taken = open[0] == 1;
        let is_reported = is_polled && !is_taken;
        assert_eq!((open[1], reported), (1, [usize::from(is_reported), 0]));
        drop(outer);
        let is_reported = is_polled || is_taken;
        two.assert([0, 0], [usize::from(is_reported), 1]);
    }
}

#[test]
fn c22_shutdown_counts_and_closes_a_stream_once_however_often_it_is_attached() {
    for places in (0..3_usize.pow(3) * 8).step_by(MIRI_STRIDE) {
        let (shutdown, reports) = (Shutdown::new(), Reports::default());
        let layers = [
            plain(),
            shutdown_layer(&shutdown),
            shutdown_layer(&shutdown).shutdown(&shutdown),
        ];
        let mut response = respond(Script::silent());
        for number in 0..3 {
            if places >> number & 1 == 1 {
                shutdown.attach(response.extensions_mut());
            }
            let layer = layers[places / 8 / 3_usize.pow(number) % 3].clone();
            response = wrap(&layer.on_end(reports.observer()), response);
        }
        let is_attached = places > 0;
        let open = shutdown.open_streams();
        assert_eq!(open, usize::from(is_attached), "{places}");
        let mut body = Driver::new(response.into_body());
        body.assert_pending();
        shutdown.close();
        if is_attached {
            assert_eq!(body.rest().bytes(), CLOSE, "{places}");
        } else {
            body.assert_pending();
            drop(body);
        }
        assert_eq!((shutdown.open_streams(), reports.count()), (0, 3));
    }
}

#[test]
fn c15_shutdown_is_attached_until_the_body_is_first_polled() {
    for is_closed in [false, true] {
        // In the handler, around the inner layer, and around the outer layer.
        for place in 0..3 {
            let session = Shutdown::new();
            if is_closed {
                session.close();
            }
            let mut response = respond(idle());
            for number in 0..2 {
                if place == number {
                    session.attach(response.extensions_mut());
                }
                response = wrap(&plain(), response);
            }
            if place == 2 {
                session.attach(response.extensions_mut());
            }
            let (mut head, body) = response.into_parts();
            assert_eq!(session.open_streams(), 1, "{place}");
            let mut body = Driver::new(body);
            assert_eq!(body.data(), EVENT);
            let late = Shutdown::new();
            late.attach(&mut head.extensions);
            late.close();
            assert_eq!(late.open_streams(), 0);
            if !is_closed {
                body.assert_pending();
            }
            session.close();
            assert_eq!(body.rest().bytes(), CLOSE, "{place}");
            assert_eq!(session.open_streams(), 0, "{place}");
        }
    }
}

#[test]
fn c22_innermost_layer_that_sets_it_decides() -> Result<(), InvalidCloseEvent> {
    let [a, b] = [CloseEvent::named("a")?, CloseEvent::named("b")?];
    let [of_a, of_b] = [&a, &b].map(|event| plain().close_event(event.clone()));
    let made = plain().close_event_with(move |_| a.clone());
    let none = plain().close_event(None);
    let limit = |bytes| plain().buffer_limit(bytes);
    let (a, b) = ("event: a\ndata:\n\n", "event: b\ndata:\n\n");
    let (large, close) = ("data: more than fits", "event: close\ndata:\n\n");
    for (layers, text, expected) in [
        (vec![plain(), of_b.clone()], "", b),
        (vec![of_a.clone(), of_b.clone()], "", a),
        (vec![plain(), of_b.clone(), of_a.clone()], "", b),
        (vec![made.clone(), of_b.clone()], "", a),
        (vec![plain(), made.clone(), of_b.clone()], "", a),
        (vec![of_b.clone(), made], "", b),
        (vec![none.clone(), of_b.clone()], "", ""),
        (vec![plain(), none.clone(), of_b.clone()], "", ""),
        (vec![of_b.clone(), none.clone()], "", b),
        // The last call of a layer counts.
        (
            vec![none.close_event(CloseEvent::named("a")?), plain()],
            "",
            a,
        ),
        (vec![of_b.clone().close_event(None), plain()], "", ""),
        (vec![limit(8), limit(64)], large, large),
        (vec![limit(64), limit(8)], large, close),
        (vec![plain(), limit(8)], large, large),
        (vec![limit(8), plain()], large, large),
    ] {
        let shutdown = Shutdown::new();
        let all = [&layers[..], &[shutdown_layer(&shutdown)]].concat();
        let mut body = drive_all(&all, Script::frames([text]).then(AfterScript::Pending));
        let forwarded = body.ready_data().concat();
        shutdown.close();
        let output = [forwarded, body.rest().bytes()].concat();
        assert_eq!(output, expected.as_bytes(), "{layers:?}");
    }

    type Choose = fn(Layer, bool) -> Layer;
    let (whole, part) = (data(EVENT), data("data: unfinished"));
    let policies: [(Choose, _, _); 4] = [
        (Layer::close_on_empty, vec![], true),
        (Layer::close_on_completed, vec![whole.clone()], false),
        (Layer::close_on_truncated, vec![part], false),
        (Layer::close_on_failed, vec![whole, Step::Error], false),
    ];
    for (number, (set, steps, default)) in policies.into_iter().enumerate() {
        // Other policies make no difference.
        let others = [Some(true), Some(false), None].map(|choice| {
            let layer = plain()
                .close_on_completed(number != 1)
                .close_on_truncated(number != 2);
            choice.map_or(plain(), |choice| set(layer, choice))
        });
        for choices in 0..27 {
            let chosen = [choices / 9, choices / 3 % 3, choices % 3];
            let layers = chosen.map(|choice| others[choice].clone());
            let first = chosen.into_iter().find(|choice| *choice < 2);
            let is_due = first.map_or(default, |choice| choice == 0);
            let output = drive_all(&layers, Script::new(steps.clone())).rest();
            let is_closed = output.bytes().ends_with(CLOSE);
            assert_eq!(is_closed, is_due, "policy {number}, {chosen:?}");
            assert_eq!(output.error.is_some(), number == 3 && !is_due);
        }
    }
    Ok(())
}

#[test]
fn c15_close_event_of_the_response_is_that_which_the_outermost_layer_sees()
-> Result<(), InvalidCloseEvent> {
    /// Changes the extensions of the response.
    type Change = fn(&mut Extensions, CloseEvent);
    let insert: Change = |extensions, event| drop(extensions.insert(event));
    let remove: Change = |extensions, _| drop(extensions.remove::<CloseEvent>());
    let keep: Change = |_, _| ();
    for (handler, between, around, expected) in [
        (insert, keep, keep, "handler"),
        (insert, insert, keep, "between"),
        (keep, insert, keep, "between"),
        (insert, remove, keep, "shutdown"),
        (keep, keep, insert, "shutdown"),
        (insert, keep, remove, "handler"),
        (keep, keep, keep, "shutdown"),
    ] {
        for closes in 0..2 {
            let shutdowns = [Shutdown::new(), Shutdown::new()];
            let mut response = respond(idle());
            handler(response.extensions_mut(), CloseEvent::named("handler")?);
            let layers = shutdowns.each_ref().map(shutdown_layer);
            let inner = layers[0].clone().close_event(CloseEvent::named("inner")?);
            response = wrap(&inner, response);
            between(response.extensions_mut(), CloseEvent::named("between")?);
            response = wrap(&layers[1], response);
            around(response.extensions_mut(), CloseEvent::named("around")?);
            let mut body = Driver::new(response.into_body());
            assert_eq!(body.data(), EVENT);
            shutdowns[closes].close_with(CloseEvent::named("shutdown")?);
            let expected = format!("event: {expected}\ndata:\n\n");
            assert_eq!(body.rest().text(), expected);
        }
    }
    Ok(())
}

#[test]
fn c15_close_event_is_that_of_the_shutdown_that_ended_the_stream() -> Result<(), InvalidCloseEvent>
{
    let sources = [(0, "first"), (1, "second"), (2, "attached"), (3, "inner")];
    for (number, (closes, expected)) in sources.repeat(3).into_iter().enumerate() {
        let (token, shutdowns) = (CancellationToken::new(), <[Shutdown; 3]>::default());
        let event = CloseEvent::named(expected)?;
        let fire = || match shutdowns.get(closes) {
            Some(shutdown) => shutdown.close_with(event.clone()),
            None => token.cancel(),
        };
        // Before the request, between the layers, or while the stream is pending.
        let fires_at = number / 4;
        if fires_at == 0 {
            fire();
        }
        let inner = shutdown_layer(&shutdowns[0]).close_event(CloseEvent::named("inner")?);
        let outer = cancellation_layer(&token).shutdown(&shutdowns[1]);
        let mut response = wrap(&inner, respond(Script::silent()));
        if fires_at == 1 {
            fire();
        }
        response = wrap(&outer.close_event(CloseEvent::named("outer")?), response);
        shutdowns[2].attach(response.extensions_mut());
        let mut body = Driver::new(response.into_body());
        if fires_at == 2 {
            body.assert_pending();
            fire();
        }
        assert_eq!(body.rest().text(), format!("event: {expected}\ndata:\n\n"));
    }
    Ok(())
}

#[test]
fn c9_close_event_follows_every_event_of_the_upstream() {
    for event in [
        "event: close\ndata:\n\n",
        "event: close\r\ndata: bye\r\n\r\n",
        "data: bye\nevent: close\n\n",
    ] {
        for layers in [1, 2] {
            let token = CancellationToken::new();
            let layers = vec![cancellation_layer(&token); layers];
            let mut body = drive_all(&layers, Script::frames([event]).then(AfterScript::Pending));
            assert_eq!(body.data(), event);
            token.cancel();
            assert_eq!(body.rest().bytes(), CLOSE);
        }
    }
}

#[test]
fn c3_two_layers_change_the_head_as_one_does() {
    let mut response = respond(Script::new([]));
    response.headers_mut().insert(CONTENT_LENGTH, 0.into());
    response.extensions_mut().insert(7_u8);
    let one = wrap(&plain(), response).map(|_| Script::new([]).boxed_unsync());
    assert!(!one.headers().contains_key(CONTENT_LENGTH));
    let (version, headers) = (one.version(), one.headers().clone());
    let two = wrap(&plain(), one);
    assert_eq!((two.version(), two.headers()), (version, &headers));
    assert_eq!(two.extensions().get::<u8>(), Some(&7));
}

#[test]
fn c21_stream_of_two_layers_ends_with_its_last_frame_if_the_upstream_states_its_end() {
    for is_closed in [false, true] {
        let (two, mut layers) = Layers::<2>::new();
        layers[1] = layers[1].clone().close_on_completed(is_closed);
        let upstream = Script::frames([EVENT]).end_stream(EndStream::Known);
        let mut body = drive_all(&layers, upstream);
        assert_eq!(body.data(), EVENT);
        assert_eq!(body.is_end_stream(), !is_closed);
        assert_eq!(two.open(), [usize::from(is_closed); 2]);
        body.rest();
        drop(body);
        two.assert([0, 0], [1, 1]);
    }
}

#[test]
fn c21_every_observer_receives_the_report_once() {
    let (first, second) = (Reports::default(), Reports::default());
    let of_requests = Reports::default();
    let shutdowns = <[Shutdown; 2]>::default();
    let counting = |reports: &Reports| {
        let (observe, shutdowns) = (reports.observer(), shutdowns.clone());
        move |report: &StreamReport| {
            let open = shutdowns.each_ref().map(Shutdown::open_streams);
            assert_eq!(open, [0, 0], "C19");
            observe(report);
        }
    };
    let shared = shutdown_layer(&shutdowns[0]).on_end(counting(&first));
    let panicking = plain().on_end(|_| panic!("an intended panic"));
    let made = |reports: &Reports| {
        let observer = reports.observer();
        plain().on_end_with(move |_| observer.clone())
    };
    let layers = [
        panicking.clone(),
        shared.clone(),
        made(&of_requests),
        shutdown_layer(&shutdowns[1]).on_end(counting(&second)),
        // The same observer, in another layer.
        shared.clone().close_on_completed(true),
        made(&of_requests),
        panicking,
        plain(),
        shared,
    ];
    drive_all(&layers, Script::frames([EVENT])).rest();
    let report = first.only();
    assert_eq!(report.ending(), Ending::Completed);
    assert!(report.close_event_sent());
    assert_eq!(second.only(), report);
    assert_eq!(of_requests.all(), [report.clone(), report]);
}

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        // While a panic unwinds, the process would abort.
        assert!(thread::panicking(), "an intended panic");
    }
}

#[test]
fn c21_panic_in_the_destructor_of_an_observer_is_contained() {
    for layers in 0..3 {
        for polls in 0..3 {
            let (two, [inner, outer]) = Layers::<2>::new();
            let bomb = plain().on_end_with(|_| {
                let bomb = Bomb;
                move |_: &StreamReport| {
                    let _ = &bomb;
                }
            });
            let mut layers_with_bomb = vec![inner, outer];
            layers_with_bomb.insert(layers, bomb);
            let mut body = drive_all(&layers_with_bomb, idle());
            for _ in 0..polls {
                let _ = body.poll();
            }
            body.drop_body();
            let reported = usize::from(polls > 0);
            two.assert([0, 0], [reported; 2]);
        }
    }
}

fn panics<T>(run: impl FnOnce() -> T) -> bool {
    catch_unwind(AssertUnwindSafe(run)).is_err()
}

#[test]
fn c21_panic_of_the_upstream_under_two_layers_is_failed() {
    for (name, between) in BODIES {
        if name.contains("unpolled") || name.contains("with the first poll") {
            continue;
        }
        for is_in_drop in [false, true] {
            for closes in [None, Some(0), Some(1)] {
                let (two, layers) = Layers::<2>::new();
                let upstream = match is_in_drop {
                    false => Script::new([data(EVENT), Step::Panic]),
                    true => Script::new([data(EVENT), Step::Pending])
                        .then(AfterScript::Pending)
                        .panic_in_drop(),
                };
                let panicking = plain().on_end(|_| panic!("an intended panic"));
                let inner = wrap_all(&[panicking.clone(), layers[0].clone()], respond(upstream));
                let outer = [
                    panicking.on_end(|_| panic!("an intended panic")),
                    layers[1].clone(),
                ];
                let mut body = Driver::new(wrap_all(&outer, inner.map(between)).into_body());
                let panicked = panics(|| {
                    let _ = body.poll();
                    if let Some(number) = closes {
                        two.shutdowns[number].close();
                    }
                    for _ in 0..10 {
                        let _ = body.poll();
                    }
                    body.drop_body();
                });
                let case = (name, is_in_drop, closes);
                // A body between the layers may end before the upstream panics in a poll.
                if panicked {
                    body.drop_body();
                    assert_eq!(two.report().ending(), Ending::Failed, "{case:?}");
                }
                assert!(panicked || name.contains("two frames"), "{case:?}");
                two.assert([0, 0], [1, 1]);
            }
        }
    }
}

#[test]
fn c21_close_event_that_panics_is_made_once() {
    for place in 0..2 {
        let (two, mut layers) = Layers::<2>::new();
        let calls = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&calls);
        layers[place] = layers[place].clone().close_event_with(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
            panic!("an intended panic");
        });
        let upstream = idle();
        let log = upstream.log();
        let mut body = drive_all(&layers, upstream);
        assert_eq!(body.data(), EVENT);
        two.shutdowns[1 - place].close();
        assert!(panics(|| body.poll()), "the server observes the panic");
        assert!(body.is_end_stream());
        assert_eq!(body.rest().bytes(), b"");
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        assert!(log.dropped());
        assert!(!two.report().close_event_sent());
        assert_eq!(two.open(), [0, 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn c22_earliest_deadline_of_the_layers_ends_the_stream() {
    let max_age = |seconds| plain().max_age(SECOND * seconds);
    let idle_timeout = |seconds| plain().idle_timeout(SECOND * seconds);
    for (layers, second, ending) in [
        (vec![max_age(3), max_age(5)], 3, Ending::Expired),
        (vec![max_age(5), max_age(3)], 3, Ending::Expired),
        (
            vec![max_age(9), plain(), max_age(3), max_age(7)],
            3,
            Ending::Expired,
        ),
        (vec![idle_timeout(3), idle_timeout(5)], 3, Ending::Idle),
        (vec![idle_timeout(5), idle_timeout(3)], 3, Ending::Idle),
        (vec![max_age(5), idle_timeout(3)], 3, Ending::Idle),
        (vec![idle_timeout(5), max_age(3)], 3, Ending::Expired),
        (vec![plain(), idle_timeout(4)], 4, Ending::Idle),
    ] {
        let (two, around) = Layers::<2>::new();
        let all = [&around[..1], &layers, &around[1..]].concat();
        let mut body = drive_all(&all, idle());
        assert_eq!(body.data(), EVENT);
        body.assert_pending();
        let output = body.advance(20).await;
        assert_eq!(output, [(second, CLOSE.into())], "{layers:?}");
        let report = two.report();
        assert_eq!((report.ending(), report.close_event_sent()), (ending, true));
    }
}

#[tokio::test(start_paused = true)]
async fn c22_deadlines_count_from_the_response_that_each_layer_sees() {
    let set: [fn(u32) -> Layer; 3] = [
        |seconds| plain().max_age(SECOND * seconds),
        |seconds| plain().idle_timeout(SECOND * seconds),
        |seconds| plain().keep_alive(SECOND * seconds),
    ];
    for layer in set {
        for (inner, outer, second) in [(6, 9, 6), (9, 4, 7), (6, 4, 6), (4, 4, 4)] {
            let response = wrap(&layer(inner), respond(Script::silent()));
            tokio::time::advance(SECOND * 3).await;
            let response = wrap(&layer(outer), response);
            let mut body = Driver::new(response.into_body());
            body.assert_pending();
            assert_eq!(body.advance(20).await[0].0, second - 3);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c22_shortest_interval_and_the_innermost_comment_keep_the_stream_alive() {
    let every =
        |seconds, text| plain().keep_alive(KeepAlive::new().interval(SECOND * seconds).text(text));
    let (inside, outside) = (": in\n\n", ": out\n\n");
    for (layers, interval, comment) in [
        (vec![every(4, "in"), every(2, "out")], 2, inside),
        (vec![every(2, "in"), every(4, "out")], 2, inside),
        (vec![plain(), every(3, "out")], 3, outside),
        (vec![every(3, "in"), plain()], 3, inside),
        (
            vec![plain(), every(9, "in"), every(8, "x"), every(3, "y")],
            3,
            inside,
        ),
    ] {
        let (two, around) = Layers::<2>::new();
        let all = [&around[..1], &layers, &around[1..]].concat();
        let mut body = drive_all(&all, Script::silent());
        body.assert_pending();
        let comments = body.advance(interval * 3).await;
        let expected = [1, 2, 3].map(|number| (interval * number, Bytes::from(comment)));
        assert_eq!(comments, expected, "{layers:?}");
        two.shutdowns[0].close();
        let sent = 3 * comment.len() + body.rest().bytes().len();
        assert_eq!(two.report().bytes_sent(), sent as u64);
        assert_eq!(two.report().bytes_received(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn c22_end_on_drain_of_any_layer_holds_for_every_shutdown_of_the_stream() {
    for chooses in [None, Some(0), Some(1), Some(2)] {
        for drains in 0..4 {
            let shutdowns = <[Shutdown; 4]>::default();
            let mut response = respond(idle());
            for (number, shutdown) in shutdowns[..3].iter().enumerate() {
                let layer = shutdown_layer(shutdown);
                let layer = layer.end_on_drain(move |_| chooses == Some(number));
                response = wrap(&layer, response);
            }
            shutdowns[3].attach(response.extensions_mut());
            let mut body = Driver::new(response.into_body());
            assert_eq!(body.data(), EVENT);
            body.assert_pending();
            let mut drain = pin!(shutdowns[drains].drain(SECOND * 10));
            assert!(drain.as_mut().now_or_never().is_none());
            match chooses {
                None => body.assert_pending(),
                Some(_) => {
                    assert_eq!(body.rest().bytes(), CLOSE);
                    assert_eq!(drain.await.ended(), 1);
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c19_drains_wait_for_the_last_frame_of_the_client() {
    let in_a_task: Between = |inner| {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut inner = items(inner);
            while let Some(item) = inner.next().await {
                if sender.send(item).is_err() {
                    return;
                }
            }
        });
        body(stream::poll_fn(move |cx| receiver.poll_recv(cx)))
    };
    let bodies = BODIES.map(|(_, between)| between);
    let queues = [
        bodies[0], bodies[1], bodies[4], bodies[5], bodies[6], in_a_task,
    ];
    for (number, between) in queues.into_iter().enumerate() {
        for (last, is_closed) in [
            (Step::Trailers, false),
            (Step::Trailers, true),
            (Step::Error, false),
            (data(LAST), false),
        ] {
            let (two, layers) = Layers::<2>::new();
            let both = Shutdown::new();
            let layers = layers.map(|layer| layer.close_on_completed(is_closed).shutdown(&both));
            let upstream = Script::new([data(EVENT), data(EVENT), last.clone()]);
            let inner = wrap(&layers[0], respond(upstream)).map(between);
            let mut body = Driver::new(wrap(&layers[1], inner).into_body());
            let mut drains = [&two.shutdowns[0], &both, &two.shutdowns[1]]
                .map(|shutdown| Box::pin(shutdown.drain(SECOND * 60)));
            let mut seen = Seen::default();
            while !seen.has_ended {
                for drain in &mut drains {
                    assert!(drain.now_or_never().is_none(), "{number}, {last:?}");
                }
                two.assert([1, 1], [0, 0]);
                // The task between the layers runs ahead.
                for _ in 0..5 {
                    tokio::task::yield_now().await;
                }
                seen.poll(&mut body);
            }
            two.assert([0, 0], [1, 1]);
            for drain in &mut drains {
                let drained = drain.now_or_never().expect("returns after the report");
                assert_eq!((drained.ended(), drained.still_open()), (1, 0));
            }
            assert_eq!(two.report().bytes_sent(), seen.bytes.len() as u64);
            assert_eq!(seen.bytes.ends_with(CLOSE), is_closed);
            assert_eq!(seen.trailers.is_some(), matches!(last, Step::Trailers));
            assert_eq!(seen.error.is_some(), matches!(last, Step::Error));
        }
    }
}

#[test]
fn c22_compression_between_two_layers_leaves_the_stream_to_the_inner_layer() {
    use std::io::Read;

    let (two, [inner, outer]) = Layers::<2>::new();
    let compression = CompressionLayer::new().compress_when(SizeAbove::new(0));
    let layers = Stack::new(Stack::new(inner, compression), outer);
    let request = Request::builder().header("accept-encoding", "gzip");
    let request = request.body(()).expect("a valid request");
    let response = send_response(&layers, request, event_stream_response(idle()));
    assert_eq!(response.headers()["content-encoding"], "gzip");
    let mut body = Driver::new(response.into_body());
    let mut bytes = body.ready_data().concat();
    two.assert([1, 0], [0, 0]);
    two.shutdowns[1].close();
    body.assert_pending();
    two.shutdowns[0].close();
    bytes.extend(body.collect().bytes());
    two.assert([0, 0], [1, 0]);
    let mut text = Vec::new();
    let mut decoder = flate2::read::GzDecoder::new(&bytes[..]);
    decoder.read_to_end(&mut text).expect("valid gzip");
    assert_eq!(text, [EVENT.as_bytes(), CLOSE].concat());
}

#[tokio::test(start_paused = true)]
async fn c10_every_layer_wakes_the_task_to_which_the_stream_has_moved() {
    for fires in 0..5 {
        let (token, shutdowns) = (CancellationToken::new(), <[Shutdown; 3]>::default());
        let layers = [
            shutdown_layer(&shutdowns[0]).max_age(SECOND * 9),
            shutdown_layer(&shutdowns[1]).cancel_when(|_| pending()),
            cancellation_layer(&token).shutdown(&shutdowns[2]),
        ];
        let mut body = drive_all(&layers, idle());
        assert_eq!(body.data(), EVENT);
        body.assert_pending();
        let mut body = body.in_another_task();
        body.assert_pending();
        assert_eq!(body.wakes(), 0);
        match fires {
            0..3 => shutdowns[fires].close(),
            3 => token.cancel(),
            _ => tokio::time::advance(SECOND * 10).await,
        }
        assert_eq!(body.wakes(), 1, "{fires}");
        assert_eq!(body.rest().bytes(), CLOSE);
    }
}

#[test]
fn c22_layer_that_panics_at_a_response_leaves_every_count() {
    let (two, [inner, outer]) = Layers::<2>::new();
    let response = wrap(&inner, respond(idle()));
    assert_eq!(two.open(), [1, 0]);
    // Deadlines need a runtime.
    assert!(panics(|| wrap(&outer.max_age(SECOND), response)));
    two.assert([0, 0], [0, 0]);
}
