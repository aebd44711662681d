//! `Shutdown::connection`, without sockets: a connection is transparent until the drain is over, and is then cut.

use std::{
    io::ErrorKind,
    pin::{Pin, pin},
    sync::{Arc, Barrier, Mutex},
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use futures_util::{FutureExt, poll};
use testkit::{
    MIRI_STRIDE,
    connection::{Scripted, Task},
    exchange::{drive, idle, shutdown_layer, spend_budget},
    model::{ABORTED, CALLS, Call, ConnectionModel, Returned, TIMED_OUT},
    reports::Reports,
    script::Script,
    wait::within,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, duplex},
    task::yield_now,
    time::{Instant, advance, sleep, timeout},
};
use tower_sse_completion::{Connection, Drained, Shutdown};

const GRACE: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(30);
const WRITES: [Call; 4] = [
    Call::Write,
    Call::WriteVectored,
    Call::Flush,
    Call::Shutdown,
];

fn counts(drained: Drained) -> (usize, usize, usize) {
    (
        drained.ended(),
        drained.still_open(),
        drained.connections_cut(),
    )
}

/// Wraps a connection, with this write timeout if there is one.
fn connect(shutdown: &Shutdown, io: Scripted, limit: Option<Duration>) -> Connection<Scripted> {
    let connection = shutdown.connection(io);
    match limit {
        Some(limit) => connection.write_timeout(limit),
        None => connection,
    }
}

/// Drains with an open connection, so that the connection is cut.
async fn cut(shutdown: &Shutdown) {
    assert_eq!(counts(shutdown.drain(Duration::ZERO).await), (0, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn c24_connection_is_transparent_until_the_drain_is_over() {
    let results = [
        Poll::Pending,
        Poll::Ready(Ok(5)),
        Poll::Ready(Ok(0)),
        Poll::Ready(Err(ErrorKind::ConnectionReset)),
    ];
    let task = Task::new();
    for limit in [None, Some(LIMIT)] {
        for result in results {
            let shutdown = Shutdown::new();
            let mut bare = Scripted::returning(result);
            let mut wrapped = connect(&shutdown, Scripted::returning(result), limit);
            let mut assert_transparent = |phase| {
                for call in CALLS {
                    let returned = task.call(&mut wrapped, call);
                    assert_eq!(returned, task.call(&mut bare, call), "{phase}, {call:?}");
                }
                for is_vectored in [false, true] {
                    wrapped.get_mut().is_vectored = is_vectored;
                    assert_eq!(wrapped.is_write_vectored(), is_vectored);
                }
                assert_eq!(wrapped.get_ref().log, bare.log, "{phase}");
            };

            assert_transparent("open");
            let mut drain = Box::pin(shutdown.drain(GRACE));
            assert!((&mut drain).now_or_never().is_none());
            assert_transparent("draining");
            shutdown.close();
            assert_transparent("closed");
            sleep(GRACE + SECOND - Duration::from_millis(1)).await;
            assert!((&mut drain).now_or_never().is_none());
            assert_transparent("a moment before the end");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c24_cut_connection_fails_every_call_without_a_call_of_the_inner_connection() {
    for limit in [None, Some(LIMIT)] {
        let shutdown = Shutdown::new();
        let mut connection = connect(&shutdown, Scripted::returning(Poll::Ready(Ok(5))), limit);
        cut(&shutdown).await;
        let task = Task::new();
        for _ in 0..2 {
            for call in CALLS {
                assert_eq!(task.call(&mut connection, call), ABORTED, "{call:?}");
            }
            let write = connection.write_u8(0).await;
            let error = write.expect_err("the connection is cut");
            assert!(error.to_string().contains("cut"), "{error}");
        }
        assert_eq!(connection.get_ref().log, [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn c24_cut_wakes_a_reader_and_a_writer_in_separate_tasks() {
    for call in WRITES {
        let shutdown = Shutdown::new();
        let mut connection = shutdown.connection(Scripted::pending());
        let (reader, writer) = (Task::new(), Task::new());
        for _ in 0..3 {
            assert!(reader.call(&mut connection, Call::Read).is_pending());
            assert!(writer.call(&mut connection, call).is_pending());
        }
        shutdown.close();
        assert_eq!((reader.wakes(), writer.wakes()), (0, 0), "{call:?}");
        cut(&shutdown).await;
        assert_eq!((reader.wakes(), writer.wakes()), (1, 1), "{call:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn c24_cut_wakes_the_task_that_has_called_last_even_if_its_call_was_ready() {
    for call in CALLS {
        for (result, limit) in [
            (Poll::Pending, None),
            (Poll::Ready(Ok(5)), None),
            (Poll::Ready(Ok(5)), Some(LIMIT)),
        ] {
            let shutdown = Shutdown::new();
            let mut connection = connect(&shutdown, Scripted::returning(result), limit);
            let (first, second) = (Task::new(), Task::new());
            for task in [&first, &second] {
                let is_pending = task.call(&mut connection, call).is_pending();
                assert_eq!(is_pending, result.is_pending());
            }
            assert_eq!(first.references(), Task::new().references());
            cut(&shutdown).await;
            let wakes = (first.wakes(), second.wakes());
            assert_eq!(wakes, (0, 1), "{call:?}, {result:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c24_dropped_connection_leaves_no_waker() {
    let shutdown = Shutdown::new();
    let task = Task::new();
    let before = task.references();
    let mut connection = shutdown
        .connection(Scripted::pending())
        .write_timeout(LIMIT);
    for call in CALLS {
        assert!(task.call(&mut connection, call).is_pending());
    }
    assert!(task.references() > before);
    drop(connection);
    assert_eq!(task.references(), before);
}

#[tokio::test(start_paused = true)]
async fn c24_drain_returns_as_soon_as_the_last_connection_has_been_dropped() {
    let shutdown = Shutdown::new();
    let first = shutdown.connection(Scripted::pending());
    let start = Instant::now();
    // The drain is in a separate task, which is polled only after a wake-up.
    let drain = tokio::spawn(shutdown.drain(GRACE));
    sleep(SECOND).await;
    // The second connection starts during the drain.
    let second = shutdown.connection(Scripted::pending());
    drop(first);
    sleep(SECOND).await;
    assert!(!drain.is_finished());
    drop(second);
    assert_eq!(counts(drain.await.expect("no panic")), (0, 0, 0));
    assert_eq!(start.elapsed(), 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn c24_drain_does_not_return_before_the_connection_inside_has_been_closed() {
    /// A connection that polls the drain when it is closed.
    struct Closing<'a, F: Future + Unpin> {
        drain: F,
        has_drained: &'a mut Option<bool>,
    }

    impl<F: Future + Unpin> Drop for Closing<'_, F> {
        fn drop(&mut self) {
            *self.has_drained = Some((&mut self.drain).now_or_never().is_some());
        }
    }

    let shutdown = Shutdown::new();
    let mut has_drained = None;
    drop(shutdown.connection(Closing {
        drain: Box::pin(shutdown.drain(GRACE)),
        has_drained: &mut has_drained,
    }));
    assert_eq!(has_drained, Some(false));
}

#[tokio::test(start_paused = true)]
async fn c24_stream_of_an_open_connection_has_the_grace_although_no_stream_was_open() {
    let shutdown = Shutdown::new();
    let connection = shutdown.connection(Scripted::pending());
    let mut drain = Box::pin(shutdown.drain(GRACE));
    assert!((&mut drain).now_or_never().is_none());
    assert!(!shutdown.is_closed(), "the connection may have a request");
    sleep(GRACE / 2).await;
    let mut body = idle(&shutdown_layer(&shutdown));
    assert!((&mut drain).now_or_never().is_none());
    body.drop_body();
    assert!((&mut drain).now_or_never().is_none());
    assert!(!shutdown.is_closed());
    drop(connection);
    assert_eq!(drain.now_or_never().map(counts), Some((1, 0, 0)));
    assert!(shutdown.is_closed());
}

#[tokio::test(start_paused = true)]
async fn c24_drain_cuts_open_connections_one_second_after_the_grace() {
    let shutdown = Shutdown::new();
    let connections = [(); 3].map(|()| shutdown.connection(Scripted::pending()));
    let start = Instant::now();
    let (drained, ()) = tokio::join!(shutdown.drain(GRACE), async {
        for mut connection in connections {
            connection
                .read_u8()
                .await
                .expect_err("the connection is cut");
        }
    });
    assert_eq!(counts(drained), (0, 0, 3));
    assert_eq!(start.elapsed(), GRACE + SECOND);
}

/// A waker that drops a connection at once.
struct DropsConnection(Mutex<Option<Connection<Scripted>>>);

impl Wake for DropsConnection {
    fn wake(self: Arc<Self>) {
        drop(self.0.lock().expect("no panic").take());
    }
}

#[tokio::test(start_paused = true)]
async fn c24_drain_waits_for_the_reports_of_cut_streams_and_at_most_one_second_more() {
    let reports = Reports::default();
    // The server drops the stream some time after the cut, and the connection with the stream or at the cut.
    for is_dropped_at_cut in [false, true] {
        for (time_to_drop, waited, reported) in
            [(SECOND / 2, SECOND / 2, 1), (SECOND * 5, SECOND, 0)]
        {
            let shutdown = Shutdown::new();
            let layer = shutdown_layer(&shutdown).on_end(reports.observer());
            let mut stream = drive(&layer, Script::silent());
            stream.assert_pending();
            let mut connection = shutdown.connection(Scripted::pending());
            let server = Arc::new(DropsConnection(Mutex::default()));
            let waker = Waker::from(Arc::clone(&server));
            let read = Pin::new(&mut connection)
                .poll_read(&mut Context::from_waker(&waker), &mut ReadBuf::new(&mut []));
            assert!(read.is_pending());
            let mut connection = Some(connection);
            if is_dropped_at_cut {
                *server.0.lock().expect("no panic") = connection.take();
            }
            let before = reports.count();
            let dropping = tokio::spawn(async move {
                sleep(GRACE + SECOND + time_to_drop).await;
                drop((stream, connection));
            });
            let start = Instant::now();
            assert_eq!(counts(shutdown.drain(GRACE).await), (0, 1, 1));
            assert!(server.0.lock().expect("no panic").is_none(), "dropped");
            assert_eq!(start.elapsed(), GRACE + SECOND + waited);
            assert_eq!(reports.count() - before, reported);
            dropping.await.expect("no panic");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c24_close_cuts_no_connection_until_a_drain() {
    let shutdown = Shutdown::new();
    let mut connection = shutdown.connection(Scripted::pending());
    let task = Task::new();
    shutdown.close();
    sleep(GRACE).await;
    assert!(task.call(&mut connection, Call::Read).is_pending());
    let start = Instant::now();
    cut(&shutdown).await;
    // One second until the cut, and one for the connection to be dropped.
    assert_eq!(start.elapsed(), SECOND * 2);
    assert_eq!(task.call(&mut connection, Call::Read), ABORTED);
}

#[tokio::test(start_paused = true)]
async fn c24_connection_that_starts_after_the_drain_fails_at_once() {
    let task = Task::new();
    for is_open in [false, true] {
        let shutdown = Shutdown::new();
        let old = is_open.then(|| shutdown.connection(Scripted::pending()));
        let drained = shutdown.drain(GRACE).await;
        assert_eq!(drained.connections_cut(), usize::from(is_open));
        let mut late = shutdown.connection(Scripted::returning(Poll::Ready(Ok(5))));
        for call in CALLS {
            assert_eq!(task.call(&mut late, call), ABORTED, "{call:?}");
        }
        drop(old);
    }
}

#[tokio::test(start_paused = true)]
async fn c24_drains_that_run_at_once_cut_a_connection_once() {
    let shutdown = Shutdown::new();
    let mut connection = shutdown.connection(Scripted::pending());
    let task = Task::new();
    assert!(task.call(&mut connection, Call::Read).is_pending());
    let start = Instant::now();
    let mut long = Box::pin(shutdown.drain(GRACE));
    assert!((&mut long).now_or_never().is_none());
    assert_eq!(counts(shutdown.drain(GRACE / 2).await), (0, 0, 1));
    // One second until the cut, and one for the connection to be dropped.
    assert_eq!(start.elapsed(), GRACE / 2 + SECOND * 2);
    assert_eq!(task.wakes(), 1);
    assert!((&mut long).now_or_never().is_none());
    // The connection was cut during that drain too.
    drop(connection);
    assert_eq!(long.now_or_never().map(counts), Some((0, 0, 1)));
    assert_eq!(counts(shutdown.drain(GRACE).await), (0, 0, 0));
    assert_eq!(task.wakes(), 1);
}

#[tokio::test(start_paused = true)]
async fn c24_drain_that_is_dropped_cuts_nothing() {
    let shutdown = Shutdown::new();
    let mut connection = shutdown.connection(Scripted::pending());
    assert!(timeout(GRACE, shutdown.drain(GRACE)).await.is_err());
    sleep(GRACE).await;
    assert!(Task::new().call(&mut connection, Call::Read).is_pending());
}

#[tokio::test(start_paused = true)]
async fn c24_unwrapped_connection_is_not_counted_and_not_cut() {
    let shutdown = Shutdown::new();
    let connection = shutdown
        .connection(Scripted::pending())
        .write_timeout(LIMIT);
    let mut inner = connection.into_inner();
    assert_eq!(counts(shutdown.drain(GRACE).await), (0, 0, 0));
    assert!(Task::new().call(&mut inner, Call::Read).is_pending());
}

#[tokio::test(start_paused = true)]
async fn c24_write_that_makes_no_progress_fails_when_its_timeout_is_over() {
    for call in WRITES {
        let shutdown = Shutdown::new();
        let mut connection = shutdown
            .connection(Scripted::pending())
            .write_timeout(LIMIT);
        let (reader, writer) = (Task::new(), Task::new());
        assert!(reader.call(&mut connection, Call::Read).is_pending());
        // Polls without progress do not extend the time.
        for _ in 0..LIMIT.as_secs() {
            assert!(writer.call(&mut connection, call).is_pending());
            assert_eq!(writer.wakes(), 0);
            sleep(SECOND).await;
        }
        assert_eq!((reader.wakes(), writer.wakes()), (0, 1), "{call:?}");
        assert_eq!(writer.call(&mut connection, call), TIMED_OUT);
        assert_eq!(reader.wakes(), 1, "{call:?}");

        connection.get_mut().result = Poll::Ready(Ok(5));
        connection.get_mut().log.clear();
        for call in CALLS {
            assert_eq!(reader.call(&mut connection, call), TIMED_OUT, "{call:?}");
        }
        assert_eq!(connection.get_ref().log, [""; 0]);
        let error = connection.read_u8().await.expect_err("timed out");
        assert!(error.to_string().contains("write timeout"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn c24_write_timeout_counts_from_the_last_progress() {
    let shutdown = Shutdown::new();
    let mut connection = shutdown
        .connection(Scripted::pending())
        .write_timeout(LIMIT);
    let task = Task::new();
    assert!(task.call(&mut connection, Call::Write).is_pending());
    sleep(LIMIT - SECOND).await;
    connection.get_mut().result = Poll::Ready(Ok(1));
    assert!(task.call(&mut connection, Call::Write).is_ready());
    sleep(LIMIT).await;
    assert_eq!(task.wakes(), 0, "no write is pending");

    // Reads and empty writes are not progress.
    connection.get_mut().result = Poll::Pending;
    assert!(task.call(&mut connection, Call::Write).is_pending());
    sleep(LIMIT).await;
    connection.get_mut().result = Poll::Ready(Ok(0));
    assert!(task.call(&mut connection, Call::Write).is_ready());
    assert!(task.call(&mut connection, Call::Read).is_ready());
    connection.get_mut().result = Poll::Pending;
    assert_eq!(task.call(&mut connection, Call::Write), TIMED_OUT);
}

#[tokio::test(start_paused = true)]
async fn c24_client_that_reads_slowly_does_not_time_out() {
    let shutdown = Shutdown::new();
    let (server, mut client) = duplex(4);
    let mut server = shutdown.connection(server).write_timeout(2 * SECOND);
    let writer = tokio::spawn(async move {
        server.write_all(&[7; 16]).await?;
        // The client stops reading.
        server.write_all(&[7; 16]).await
    });
    for _ in 0..16 {
        sleep(SECOND).await;
        client.read_u8().await.expect("a byte");
    }
    assert!(!writer.is_finished());
    let stopped = Instant::now();
    let error = within(writer).await.expect("no panic");
    let error = error.expect_err("timed out");
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_eq!(stopped.elapsed(), 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn c24_write_without_a_timeout_stays_pending() {
    for limit in [None, Some(Duration::MAX)] {
        let shutdown = Shutdown::new();
        let mut connection = connect(&shutdown, Scripted::pending(), limit);
        let task = Task::new();
        for call in CALLS {
            assert!(task.call(&mut connection, call).is_pending());
        }
        sleep(Duration::from_secs(10_000_000)).await;
        for call in CALLS {
            assert!(task.call(&mut connection, call).is_pending());
        }
        assert_eq!(task.wakes(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn c24_write_that_is_pending_because_of_the_budget_does_not_time_out() {
    let shutdown = Shutdown::new();
    let (server, mut client) = duplex(16);
    let mut server = shutdown.connection(server).write_timeout(SECOND);
    server.write_all(&[0; 16]).await.expect("room");
    assert!(server.write_all(&[1]).now_or_never().is_none());
    sleep(2 * SECOND).await;
    client.read_exact(&mut [0; 16]).await.expect("the bytes");
    // The timeout is over, there is room, and the budget is exhausted.
    spend_budget();
    let mut writing = pin!(server.write(&[1]));
    assert!(poll!(&mut writing).is_pending());
    let written = timeout(LIMIT, writing).await.expect("a wake-up");
    assert_eq!(written.expect("room"), 1);
}

#[tokio::test(start_paused = true)]
async fn c24_write_timeout_does_not_depend_on_the_budget() {
    let shutdown = Shutdown::new();
    let connection = shutdown.connection(Scripted::pending());
    let mut connection = connection.write_timeout(LIMIT);
    let task = Task::new();
    spend_budget();
    assert!(task.call(&mut connection, Call::Write).is_pending());
    yield_now().await;
    sleep(LIMIT - SECOND).await;
    assert_eq!(task.wakes(), 0);
    sleep(SECOND).await;
    assert_eq!(task.wakes(), 1, "the timer has the waker");

    // The timeout is over, but perhaps only the budget is exhausted.
    spend_budget();
    assert!(task.call(&mut connection, Call::Write).is_pending());
    yield_now().await;
    assert_eq!(task.wakes(), 2, "polled again with a new budget");
    assert_eq!(task.call(&mut connection, Call::Write), TIMED_OUT);
}

#[test]
fn c24_cut_from_another_thread_is_never_missed() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    for _ in (0..1_000).step_by(MIRI_STRIDE) {
        let shutdown = Shutdown::new();
        let start = Arc::new(Barrier::new(2));
        let connection = Arc::new(Mutex::new(shutdown.connection(Scripted::pending())));
        let task = Task::new();
        let polled = thread::scope(|scope| {
            let polling = scope.spawn(|| {
                start.wait();
                task.call(&mut *connection.lock().expect("no panic"), Call::Read)
            });
            runtime.block_on(async {
                let drain = shutdown.drain(Duration::ZERO);
                sleep(SECOND).await;
                start.wait();
                drain.await;
            });
            polling.join().expect("no panic")
        });
        if polled.is_pending() {
            assert!(task.wakes() > 0, "pending, and nothing wakes the task");
        } else {
            assert_eq!(polled, ABORTED);
        }
    }
}

/// A step of a connection in the enumeration.
#[derive(Debug, Clone, Copy)]
enum Step {
    Call(Call, Returned),
    Advance,
    Cut,
}

/// More than half of the timeout.
const STRIDE: Duration = Duration::from_secs(16);

#[tokio::test(start_paused = true)]
async fn c24_every_sequence_of_calls_returns_what_the_model_predicts() {
    const LENGTH: u32 = 5;
    // A shutdown is the same as a flush.
    let calls = [Call::Read, Call::Write, Call::Flush]
        .into_iter()
        .flat_map(|call| [Poll::Pending, Poll::Ready(Ok(5))].map(|inner| Step::Call(call, inner)));
    let steps: Vec<_> = calls.chain([Step::Advance, Step::Cut]).collect();
    let mut returned = [0; 4];
    for limit in [None, Some(LIMIT)] {
        for sequence in (0..steps.len().pow(LENGTH)).step_by(MIRI_STRIDE.pow(2)) {
            let digits = (0..LENGTH).map(|digit| sequence / steps.len().pow(digit) % steps.len());
            let sequence: Vec<_> = digits.map(|digit| steps[digit]).collect();
            for result in run(&sequence, limit).await {
                returned[match result {
                    Poll::Pending => 0,
                    ABORTED => 2,
                    TIMED_OUT => 3,
                    Poll::Ready(_) => 1,
                }] += 1;
            }
        }
    }
    assert!(
        returned
            .iter()
            .all(|count| *count > 100 / MIRI_STRIDE.pow(2)),
        "{returned:?}"
    );
}

/// Takes these steps, and compares each with the model.
async fn run(sequence: &[Step], limit: Option<Duration>) -> Vec<Returned> {
    let shutdown = Shutdown::new();
    let mut connection = connect(&shutdown, Scripted::pending(), limit);
    let mut model = ConnectionModel::new(limit);
    let (reader, writer) = (Task::new(), Task::new());
    let (mut woken_reader, mut woken_writer) = (0, 0);
    let start = Instant::now();
    let mut results = Vec::new();
    for (number, step) in sequence.iter().enumerate() {
        match *step {
            Step::Call(call, inner) => {
                let task = match call {
                    Call::Read => &reader,
                    _ => &writer,
                };
                connection.get_mut().result = inner;
                let calls = connection.get_ref().log.len();
                let forwards = model.forwards();
                let returned = task.call(&mut connection, call);
                let expected = model.call(call, inner, start.elapsed());
                assert_eq!(returned, expected, "{number} of {sequence:?}");
                let is_called = connection.get_ref().log.len() > calls;
                assert_eq!(is_called, forwards, "{number} of {sequence:?}");
                match call {
                    Call::Read => woken_reader = reader.wakes(),
                    _ => woken_writer = writer.wakes(),
                }
                results.push(returned);
            }
            Step::Advance => {
                advance(STRIDE).await;
                yield_now().await;
            }
            Step::Cut => {
                // The first poll cuts. The test does not wait until the connection has been dropped.
                let drain = shutdown.drain(Duration::ZERO).linger(Duration::ZERO);
                assert!(drain.now_or_never().is_none());
                model.cut();
            }
        }
        if model.wakes_reader() {
            assert!(reader.wakes() > woken_reader, "{number} of {sequence:?}");
        }
        if model.wakes_writer(start.elapsed()) {
            assert!(writer.wakes() > woken_writer, "{number} of {sequence:?}");
        }
    }
    results
}
