//! `Drain::spread_over`, on tokio's paused clock.

use std::{task::Poll, time::Duration};

use bytes::Bytes;
use proptest::{
    collection::vec,
    prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest},
};
use testkit::{
    driver::Driver,
    exchange::{CLOSE, drive, idle, shutdown_layer},
    script::{AfterScript, Script},
    wait::within,
};
use tokio::{
    runtime::Builder,
    task::{JoinHandle, yield_now},
    time::{Instant, advance, sleep},
};
use tower::layer::util::Stack;
use tower_sse_completion::{Drained, ResponseBody, Shutdown, SseCompletionLayer};

const GRACE: Duration = Duration::from_secs(10);
const WINDOW: Duration = Duration::from_secs(5);
/// Number of streams that end in each second of a window that is not shortened.
const STREAMS: usize = 2000;
const SECOND: Duration = Duration::from_secs(1);
/// The time in which reconnects are counted.
const BUCKET: Duration = Duration::from_millis(250);
/// The streams of a drain end in steps of this length.
const STEP: Duration = Duration::from_millis(20);

type Body = Driver<ResponseBody<Script>>;

fn subscriptions(shutdown: &Shutdown) -> SseCompletionLayer {
    shutdown_layer(shutdown).end_on_drain(|_| true)
}

/// Starts streams that wait.
fn start(layer: &SseCompletionLayer, streams: usize) -> Vec<Body> {
    (0..streams).map(|_| idle(layer)).collect()
}

/// Lets the clock run, ends the streams that are woken, and returns the number of those that ended in each step.
async fn run_for<B>(streams: &mut Vec<Driver<B>>, time: Duration) -> Vec<usize>
where
    B: http_body::Body<Data = Bytes>,
{
    let (mut ended, end) = (Vec::new(), Instant::now() + time);
    while Instant::now() < end {
        sleep(STEP).await;
        let before = streams.len();
        streams.retain_mut(|stream| {
            if stream.wakes() == 0 {
                return true;
            }
            assert_eq!(stream.wakes(), 1, "C10: woken once");
            assert_eq!(stream.rest().bytes(), CLOSE, "C10: woken at its place");
            false
        });
        ended.push(before - streams.len());
    }
    ended
}

/// Returns the largest number of streams that ended within a [`BUCKET`].
fn peak(ended: &[usize]) -> usize {
    let steps = (BUCKET.as_millis() / STEP.as_millis()) as usize + 1;
    let sums = ended.windows(steps).map(|window| window.iter().sum());
    sums.max().unwrap_or_else(|| ended.iter().sum())
}

fn spawn(shutdown: &Shutdown, grace: Duration, window: Duration) -> JoinHandle<Drained> {
    tokio::spawn(shutdown.drain(grace).spread_over(window))
}

async fn counts(drain: JoinHandle<Drained>) -> (usize, usize) {
    let drained = within(drain).await.expect("no panic");
    (drained.ended(), drained.still_open())
}

/// Asserts that streams ended evenly over a window that begins with the first step.
fn assert_even(ended: &[usize], streams: usize, window: Duration) {
    assert_eq!(ended.iter().sum::<usize>(), streams);
    let per_bucket = streams as f64 * BUCKET.as_secs_f64() / window.as_secs_f64();
    let peak = peak(ended);
    assert!(peak as f64 <= 1.2 * per_bucket, "{peak} of {per_bucket}");
    let half = ended
        .len()
        .min((window.as_millis() / STEP.as_millis()) as usize)
        / 2;
    let first_half = ended[..half].iter().sum::<usize>() as f64;
    let share = first_half / streams as f64;
    assert!((0.45..0.55).contains(&share), "{share} in the first half");
}

#[tokio::test(start_paused = true)]
async fn c18_streams_end_evenly_from_the_begin_of_the_drain_or_from_the_end_of_the_grace() {
    for grace in [Duration::ZERO, WINDOW / 2, GRACE] {
        let shutdown = Shutdown::new();
        let mut endless = start(&subscriptions(&shutdown), STREAMS);
        let mut others = start(&shutdown_layer(&shutdown), STREAMS);
        let drain = spawn(&shutdown, grace, WINDOW);
        let mut ended = [Vec::new(), Vec::new()];
        while !(endless.is_empty() && others.is_empty()) {
            ended[0].extend(run_for(&mut endless, STEP).await);
            let woken = others.iter().filter(|stream| stream.wakes() > 0).count();
            others.retain_mut(|stream| stream.wakes() == 0);
            ended[1].push(woken);
        }
        let begin = ended[1].iter().take_while(|ended| **ended == 0).count();
        assert_even(&ended[0], STREAMS, WINDOW);
        assert_even(&ended[1][begin..], STREAMS, WINDOW);
        let begin = STEP * u32::try_from(begin).expect("few steps");
        assert!(begin >= grace && begin <= grace + 2 * STEP, "{begin:?}");
        assert_eq!(counts(drain).await, (2 * STREAMS, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn c22_streams_that_an_outer_layer_ends_on_drain_end_evenly() {
    let shutdown = Shutdown::new();
    let outer = SseCompletionLayer::new().end_on_drain(|_| true);
    let layer = Stack::new(shutdown_layer(&shutdown), outer);
    let mut streams: Vec<_> = (0..STREAMS)
        .map(|_| {
            let mut stream = drive(&layer, Script::silent());
            stream.assert_pending();
            stream
        })
        .collect();
    let drain = spawn(&shutdown, GRACE, WINDOW);
    let mut ended = run_for(&mut streams, WINDOW / 2).await;
    // Streams that start now end at once, regardless of their places.
    const LATE: usize = 100;
    for _ in 0..LATE {
        let output = drive(&layer, Script::silent()).rest();
        assert_eq!(output.bytes(), CLOSE);
    }
    ended.extend(run_for(&mut streams, WINDOW / 2 + 2 * STEP).await);
    assert_even(&ended, STREAMS, WINDOW);
    assert_eq!(counts(drain).await, (STREAMS + LATE, 0));
}

#[tokio::test(start_paused = true)]
async fn c18_window_goes_on_beyond_the_grace() {
    for others in [0, 1] {
        let shutdown = Shutdown::new();
        let mut endless = start(&subscriptions(&shutdown), STREAMS);
        let _others = start(&shutdown_layer(&shutdown), others);
        let drain = spawn(&shutdown, WINDOW / 2, WINDOW);
        let ended = run_for(&mut endless, WINDOW + 2 * STEP).await;
        assert_even(&ended, STREAMS, WINDOW);
        assert!(shutdown.is_closed());
        assert_eq!(counts(drain).await, (STREAMS, others));
    }
}

#[tokio::test(start_paused = true)]
async fn c18_survivors_of_streams_that_ended_earlier_end_evenly() {
    // Every third stream, those that started last, and runs of ten.
    for is_left in [
        (|number| number % 3 == 0) as fn(usize) -> bool,
        |number| number > 4 * STREAMS,
        |number| (number / 10) % 3 == 1,
    ] {
        let shutdown = Shutdown::new();
        let streams = start(&subscriptions(&shutdown), 5 * STREAMS);
        let streams = streams.into_iter().enumerate();
        let mut streams: Vec<_> = streams
            .filter_map(|(number, stream)| is_left(number).then_some(stream))
            .collect();
        let left = streams.len();
        let drain = spawn(&shutdown, GRACE, WINDOW);
        let ended = run_for(&mut streams, WINDOW + 2 * STEP).await;
        assert_even(&ended, left, WINDOW);
        assert_eq!(counts(drain).await, (left, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn c18_few_streams_end_over_less_than_the_window() {
    for streams in [1, 3, 20, 200] {
        for window in [Duration::from_secs(3600), Duration::MAX] {
            let shutdown = Shutdown::new();
            let mut bodies = start(&subscriptions(&shutdown), streams);
            let start = Instant::now();
            let drain = spawn(&shutdown, GRACE, window);
            while !bodies.is_empty() {
                run_for(&mut bodies, STEP).await;
            }
            let at_200_per_second = SECOND * u32::try_from(streams).expect("few") / 200;
            assert!(start.elapsed() <= at_200_per_second + 2 * STEP, "{streams}");
            assert_eq!(counts(drain).await, (streams, 0));
        }
    }
    // Streams of the other kind, and those that have ended, do not count.
    for end_on_drain in [false, true] {
        let shutdown = Shutdown::new();
        let layer = |end_on_drain| shutdown_layer(&shutdown).end_on_drain(move |_| end_on_drain);
        drop(start(&layer(end_on_drain), STREAMS));
        let _others = start(&layer(!end_on_drain), STREAMS);
        let mut few = start(&layer(end_on_drain), 20);
        let drain = spawn(&shutdown, Duration::ZERO, WINDOW);
        run_for(&mut few, SECOND / 10 + 2 * STEP).await;
        assert!(few.is_empty(), "{end_on_drain}");
        drain.abort();
    }
    // The window counts the open streams, registered or not.
    let shutdown = Shutdown::new();
    let unpolled: Vec<Body> = (0..STREAMS)
        .map(|_| drive(&subscriptions(&shutdown), Script::silent()))
        .collect();
    let mut polled = start(&subscriptions(&shutdown), STREAMS / 10);
    let drain = spawn(&shutdown, GRACE, WINDOW);
    let ended = run_for(&mut polled, WINDOW + 2 * STEP).await;
    assert_even(&ended, STREAMS / 10, WINDOW);
    drop(unpolled);
    assert_eq!(counts(drain).await, (STREAMS * 11 / 10, 0));
}

#[tokio::test(start_paused = true)]
async fn c18_linger_begins_when_the_last_stream_has_been_closed() {
    let shutdown = Shutdown::new();
    let (endless, other) = (subscriptions(&shutdown), shutdown_layer(&shutdown));
    let _never_polled = (start(&endless, STREAMS), start(&other, STREAMS));
    let (server, _client) = tokio::io::duplex(1);
    let mut connection = shutdown.connection(server);
    let start = Instant::now();
    let drain = shutdown.drain(GRACE).spread_over(WINDOW).linger(3 * SECOND);
    let cut = async {
        use tokio::io::AsyncReadExt;
        let read = connection.read_u8().await;
        assert!(read.is_err());
        let time = start.elapsed();
        drop(connection);
        time
    };
    let (drained, cut) = tokio::join!(drain, cut);
    assert_eq!((drained.ended(), drained.still_open()), (0, 2 * STREAMS));
    let expected = GRACE + WINDOW + 3 * SECOND;
    assert!(cut >= expected && cut < expected + 2 * STEP, "{cut:?}");
}

#[tokio::test(start_paused = true)]
async fn c18_stream_that_is_never_pending_ends_at_its_place() {
    let shutdown = Shutdown::new();
    let upstream = || Script::new([]).then(AfterScript::Repeat(Bytes::from_static(b"data: x\n\n")));
    let layer = subscriptions(&shutdown);
    let mut busy: Vec<Body> = (0..STREAMS).map(|_| drive(&layer, upstream())).collect();
    let drain = spawn(&shutdown, GRACE, WINDOW);
    let mut ended = Vec::new();
    while !busy.is_empty() {
        sleep(STEP).await;
        let before = busy.len();
        // Up to 32 frames that are ready are forwarded before the close event.
        busy.retain_mut(|stream| (0..40).all(|_| stream.data() != CLOSE));
        ended.push(before - busy.len());
        assert!(ended.len() < 1000, "the streams end");
    }
    assert_even(&ended, STREAMS, WINDOW);
    assert_eq!(counts(drain).await, (STREAMS, 0));
}

#[tokio::test(start_paused = true)]
async fn c18_stream_that_starts_while_its_kind_is_ending_ends_at_once() {
    let shutdown = Shutdown::new();
    let mut streams = start(&subscriptions(&shutdown), STREAMS);
    let drain = spawn(&shutdown, GRACE, WINDOW);
    sleep(STEP).await;
    let mut subscription = drive(&subscriptions(&shutdown), Script::silent());
    assert_eq!(subscription.rest().bytes(), CLOSE);
    // Streams of the other kind have the grace.
    let mut others = start(&shutdown_layer(&shutdown), STREAMS);
    run_for(&mut streams, GRACE).await;
    assert!(others.len() == STREAMS && streams.is_empty());
    assert!(shutdown.is_closed());
    let mut late = drive(&shutdown_layer(&shutdown), Script::silent());
    assert_eq!(late.rest().bytes(), CLOSE);
    let ended = others.iter().filter(|stream| stream.wakes() > 0).count();
    assert!(ended < STREAMS / 10, "{ended} ended before their places");
    run_for(&mut others, WINDOW + STEP).await;
    assert_eq!(counts(drain).await, (2 * STREAMS + 2, 0));
}

#[tokio::test(start_paused = true)]
async fn c18_stream_that_moves_or_waits_for_the_first_time_during_the_window_is_woken() {
    for has_waited in [false, true] {
        let shutdown = Shutdown::new();
        let layer = subscriptions(&shutdown);
        let mut streams: Vec<Body> = match has_waited {
            true => start(&layer, STREAMS),
            false => (0..STREAMS)
                .map(|_| drive(&layer, Script::silent()))
                .collect(),
        };
        let drain = spawn(&shutdown, GRACE, WINDOW);
        sleep(WINDOW / 2).await;
        streams = streams.into_iter().map(Driver::in_another_task).collect();
        streams.retain_mut(|stream| match stream.poll_while_woken() {
            Poll::Pending => true,
            Poll::Ready(frame) => {
                let frame = frame.expect("a frame").expect("no error");
                assert_eq!(frame.into_data().expect("data"), CLOSE);
                false
            }
        });
        let left = streams.len();
        assert!((STREAMS * 2 / 5..STREAMS * 3 / 5).contains(&left), "{left}");
        let ended = run_for(&mut streams, WINDOW / 2 + 2 * STEP).await;
        assert_eq!(ended.iter().sum::<usize>(), left);
        assert_eq!(counts(drain).await, (STREAMS, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn c18_stream_that_waits_after_another_was_dropped_keeps_its_own_place() {
    let shutdown = Shutdown::new();
    let layer = subscriptions(&shutdown);
    let (mut waiting, mut unpolled) = (Vec::new(), Vec::new());
    for _ in 0..STREAMS / 2 {
        waiting.push(idle(&layer));
        unpolled.push(drive(&layer, Script::silent()));
    }
    let drain = spawn(&shutdown, GRACE, WINDOW);
    sleep(STEP).await;
    let ended = waiting.iter().filter(|stream| stream.wakes() > 0).count();
    assert!(ended < STREAMS / 20, "{ended} ended before");
    drop(waiting);
    unpolled.retain_mut(|stream| stream.poll().is_pending());
    let left = unpolled.len();
    let ended = run_for(&mut unpolled, WINDOW + STEP).await;
    assert_even(&ended, left, WINDOW);
    assert_eq!(counts(drain).await, (STREAMS, 0));
}

#[tokio::test(start_paused = true)]
async fn c18_close_during_the_window_ends_all_streams_at_once() {
    for end_on_drain in [false, true] {
        let shutdown = Shutdown::new();
        let layer = shutdown_layer(&shutdown).end_on_drain(move |_| end_on_drain);
        let mut streams = start(&layer, STREAMS);
        let mut response = idle(&shutdown_layer(&shutdown));
        let drain = spawn(&shutdown, Duration::ZERO, WINDOW);
        run_for(&mut streams, WINDOW / 4).await;
        assert!(streams.len() > STREAMS / 2);
        shutdown.close();
        for stream in &mut streams {
            assert_eq!(stream.wakes(), 1);
            assert_eq!(stream.rest().bytes(), CLOSE);
        }
        response.rest();
        let start = Instant::now();
        assert_eq!(counts(drain).await, (STREAMS + 1, 0));
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn c18_linger_begins_with_a_close_during_the_window() {
    let shutdown = Shutdown::new();
    let _never_polled = start(&shutdown_layer(&shutdown), STREAMS);
    let drain = spawn(&shutdown, Duration::ZERO, WINDOW);
    sleep(SECOND).await;
    shutdown.close();
    let start = Instant::now();
    assert_eq!(counts(drain).await, (0, STREAMS));
    assert!(start.elapsed() <= SECOND + STEP, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn c18_drain_that_is_dropped_during_the_window_ends_no_more_streams() {
    let shutdown = Shutdown::new();
    let mut streams = start(&subscriptions(&shutdown), STREAMS);
    let drain = spawn(&shutdown, GRACE, WINDOW);
    run_for(&mut streams, WINDOW / 4).await;
    drain.abort();
    let _ = drain.await;
    let left = streams.len();
    assert_eq!(run_for(&mut streams, WINDOW).await.iter().sum::<usize>(), 0);
    streams.iter_mut().for_each(Driver::assert_pending);

    // Another drain spreads those that are left.
    let drain = spawn(&shutdown, GRACE, WINDOW);
    let ended = run_for(&mut streams, WINDOW + 2 * STEP).await;
    assert_even(&ended, left, WINDOW);
    assert_eq!(counts(drain).await, (left, 0));
}

#[tokio::test(start_paused = true)]
async fn c18_second_drain_only_ends_streams_earlier() {
    for (window, ends_within) in [
        (WINDOW * 10, WINDOW),
        (WINDOW / 5, WINDOW / 5),
        (Duration::ZERO, STEP),
    ] {
        let shutdown = Shutdown::new();
        let mut streams = start(&subscriptions(&shutdown), STREAMS);
        let first = spawn(&shutdown, GRACE, WINDOW);
        yield_now().await;
        let second = spawn(&shutdown, GRACE, window);
        let ended = run_for(&mut streams, ends_within + 2 * STEP).await;
        assert_eq!(ended.iter().sum::<usize>(), STREAMS, "{window:?}");
        assert_eq!(counts(first).await, (STREAMS, 0));
        assert_eq!(counts(second).await, (STREAMS, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn c18_streams_do_not_catch_up_with_time_in_which_the_process_did_not_run() {
    let shutdown = Shutdown::new();
    let mut streams = start(&subscriptions(&shutdown), STREAMS);
    let drain = spawn(&shutdown, GRACE * 10, WINDOW);
    let mut ended = Vec::new();
    for _ in 0..4 {
        ended.extend(run_for(&mut streams, WINDOW / 8).await);
        advance(WINDOW / 2).await;
    }
    ended.extend(run_for(&mut streams, WINDOW).await);
    assert_eq!(ended.iter().sum::<usize>(), STREAMS);
    let per_bucket = STREAMS as f64 * BUCKET.as_secs_f64() / WINDOW.as_secs_f64();
    let peak = peak(&ended);
    assert!(peak as f64 <= 1.2 * per_bucket, "{peak} of {per_bucket}");
    assert_eq!(counts(drain).await, (STREAMS, 0));
}

/// A step of the property test.
#[derive(Debug, Clone)]
enum Operation {
    /// Starts streams, which end on drain or not. Some are polled.
    Start(bool, usize),
    /// Polls streams at a stride, in their task or in another one.
    Poll(usize, bool),
    /// Drops streams at a stride.
    Drop(usize),
    /// Lets the clock run step by step, or jump.
    Run(u64),
    Jump(u64),
    /// Begins a drain with a grace and a window in milliseconds.
    Drain(u64, u64),
    DropDrains,
    Close,
}

fn operation() -> impl Strategy<Value = Operation> {
    let stride = 1..7_usize;
    prop_oneof![
        4 => (any::<bool>(), 0..60_usize).prop_map(|(kind, streams)| Operation::Start(kind, streams)),
        3 => (stride.clone(), any::<bool>()).prop_map(|(stride, moves)| Operation::Poll(stride, moves)),
        2 => stride.prop_map(Operation::Drop),
        4 => (1..300_u64).prop_map(Operation::Run),
        1 => (1..3000_u64).prop_map(Operation::Jump),
        2 => (0..1000_u64, 0..1000_u64).prop_map(|(grace, window)| Operation::Drain(grace, window)),
        1 => Just(Operation::DropDrains),
        1 => Just(Operation::Close),
    ]
}

/// A stream of the property test, with its wake-ups at its last poll that was pending.
struct Stream {
    body: Body,
    ends_on_drain: bool,
    polled_at: Option<usize>,
}

impl Stream {
    /// Polls the stream, and returns `true` if it is still open.
    fn poll(&mut self) -> bool {
        let (wakes, before) = (self.body.wakes(), self.polled_at);
        let is_open = self.body.poll_while_woken().is_pending();
        if let Some(before) = before {
            assert!(
                is_open || wakes > before,
                "the stream ends, and nothing has woken its task"
            );
        }
        self.polled_at = Some(self.body.wakes());
        is_open
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn c18_no_stream_of_a_spread_drain_is_forgotten_or_ends_too_early(operations in vec(operation(), 1..40)) {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(check(operations));
    }
}

async fn check(operations: Vec<Operation>) {
    let shutdown = Shutdown::new();
    let layers = [shutdown_layer(&shutdown), subscriptions(&shutdown)];
    let mut streams: Vec<Stream> = Vec::new();
    let mut drains = Vec::new();
    let start = Instant::now();
    // The latest moment at which all streams of each kind must have been woken, and the earliest at which one may be.
    let mut ended_by: [Option<Duration>; 2] = [None; 2];
    let mut ends_from: [Option<Duration>; 2] = [None; 2];
    for operation in operations {
        let now = start.elapsed();
        match operation {
            Operation::Start(ends_on_drain, count) => {
                for number in 0..count {
                    let body = drive(&layers[usize::from(ends_on_drain)], Script::silent());
                    let mut stream = Stream {
                        body,
                        ends_on_drain,
                        polled_at: None,
                    };
                    if number % 3 == 0 || stream.poll() {
                        streams.push(stream);
                    }
                }
            }
            Operation::Poll(stride, moves) => {
                for stream in streams.iter_mut().step_by(stride).filter(|_| moves) {
                    let body =
                        std::mem::replace(&mut stream.body, drive(&layers[0], Script::silent()));
                    stream.body = body.in_another_task();
                    stream.polled_at = None;
                }
                let mut number = 0;
                streams.retain_mut(|stream| {
                    number += 1;
                    number % stride != 0 || stream.poll()
                });
            }
            Operation::Drop(stride) => {
                let mut number = 0;
                streams.retain(|_| {
                    number += 1;
                    number % stride == 0
                });
            }
            Operation::Run(milliseconds) => {
                let end = Instant::now() + Duration::from_millis(milliseconds);
                while Instant::now() < end {
                    sleep(Duration::from_millis(7).min(end - Instant::now())).await;
                }
            }
            Operation::Jump(milliseconds) => {
                advance(Duration::from_millis(milliseconds)).await;
                // Time in which the process does not run does not count.
                for at in ended_by.iter_mut().flatten() {
                    *at += Duration::from_millis(milliseconds);
                }
                yield_now().await;
            }
            Operation::Drain(grace, window) => {
                let [grace, window] = [grace, window].map(Duration::from_millis);
                drains.push(spawn(&shutdown, grace, window));
                yield_now().await;
                for (kind, begin) in [(1, now), (0, now + grace)] {
                    let ends = begin + window + 3 * STEP;
                    let earliest = |known: Option<Duration>, new: Duration| {
                        known.map_or(new, |known| known.min(new))
                    };
                    ended_by[kind] = Some(earliest(ended_by[kind], ends));
                    ends_from[kind] = Some(earliest(ends_from[kind], begin));
                }
            }
            Operation::DropDrains => {
                drains
                    .drain(..)
                    .for_each(|drain: JoinHandle<_>| drain.abort());
                yield_now().await;
                ended_by = ended_by.map(|at| at.filter(|at| *at <= now));
            }
            Operation::Close => {
                shutdown.close();
                ended_by = [Some(now); 2];
                ends_from = [Some(now); 2];
            }
        }
        let now = start.elapsed();
        streams.retain_mut(|stream| {
            let kind = usize::from(stream.ends_on_drain);
            let must_end = ended_by[kind].is_some_and(|at| now >= at);
            let may_end = ends_from[kind].is_some_and(|at| now >= at);
            let is_woken = match stream.polled_at {
                Some(before) => stream.body.wakes() > before,
                None => false,
            };
            assert!(
                may_end || !is_woken,
                "C18: a stream is woken before its time"
            );
            if !must_end {
                return true;
            }
            let waits = stream.polled_at.is_some() && !is_woken;
            assert!(!waits, "C10: a stream waits beyond its window");
            assert!(!stream.poll(), "C18: the stream ends");
            false
        });
    }
    let open = streams.len();
    assert_eq!(shutdown.open_streams(), open);
    shutdown.close();
    for mut stream in streams {
        assert_eq!(stream.body.rest().bytes(), CLOSE);
    }
    assert_eq!(shutdown.open_streams(), 0);
    for drain in drains {
        within(drain).await.expect("no panic");
    }
}
