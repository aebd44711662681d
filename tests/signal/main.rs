//! `stop_signal`, in separate processes that receive signals. The tests of this file run on every system, with the signals of
//! [`SIGNALS`].
#![cfg(not(miri))]

mod process;
#[cfg(unix)]
mod production;
#[cfg(unix)]
mod unix;

use std::{
    future,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::{Context, Wake, Waker},
    thread,
    time::Duration,
};

use axum::{Router, response::sse::Sse, routing::get};
use futures_util::{FutureExt, stream};
use testkit::{
    listener::serve_axum,
    server::{Version, receive, request},
};
use tower_sse_completion::{Shutdown, SseCompletionLayer, stop_signal};

use self::process::{ENDED, Process, is_child, runtime, wait_for_input};

/// The signals that ask a process to stop, each with the exit status of the process that the second one ends.
#[cfg(unix)]
const SIGNALS: [(&str, i32); 2] = [("INT", 130), ("TERM", 143)];
#[cfg(windows)]
const SIGNALS: [(&str, i32); 1] = [("Ctrl-Break", 0xC000_013A_u32 as i32)];

/// The page whose snippets are in `snippets/`.
#[cfg(unix)]
const GUIDE: &str = include_str!("../../docs/shutdown.md");

/// Starts this test as a child, sends each signal once the child has written the word, and asserts the exit status.
fn assert_exits<const N: usize>(test: impl Fn(), signals: [(&str, &str); N], status: i32) {
    let mut process = Process::start(test);
    for (word, signal) in signals {
        process.wait_for(word);
        process.signal(signal);
    }
    assert_eq!(process.wait(), Some(status), "{signals:?}");
}

/// Blocks this thread until the process ends, or for longer than a test takes.
fn block() -> ! {
    thread::sleep(Duration::from_secs(60));
    std::process::exit(1)
}

/// Serves a stream that is silent, until a signal arrives.
async fn serve() {
    let shutdown = Shutdown::new();
    let events = async || Sse::new(stream::pending::<Result<_, std::convert::Infallible>>());
    let app = Router::new()
        .route("/", get(events))
        .layer(SseCompletionLayer::new().shutdown(&shutdown));
    let signal = shutdown.after(stop_signal().expect("a signal handler"));
    let (address, server) = serve_axum(app, signal, |socket| socket).await;
    eprintln!("listening {address}");
    server.await.expect("the server does not fail");
}

#[test]
fn c25_first_signal_ends_streams_with_a_close_event_and_the_server_returns() {
    if is_child() {
        runtime().block_on(serve());
        std::process::exit(ENDED);
    }
    for (signal, _) in SIGNALS {
        let mut process =
            Process::start(c25_first_signal_ends_streams_with_a_close_event_and_the_server_returns);
        let address = process.wait_for("listening").parse().expect("an address");
        runtime().block_on(async {
            let response = request(address, Version::Http1, "GET", "/").await;
            process.signal(signal);
            let text = receive(response.into_body()).await.text();
            assert_eq!(text, "event: close\ndata:\n\n", "{signal}");
        });
        assert_eq!(process.wait(), Some(ENDED), "{signal}");
    }
}

#[test]
fn c25_second_signal_ends_the_process_although_the_runtime_is_blocked() {
    if is_child() {
        runtime().block_on(async {
            let signal = stop_signal().expect("a signal handler");
            eprintln!("waiting");
            signal.await;
            eprintln!("stopped");
            block();
        });
    }
    for (first, _) in SIGNALS {
        for (second, status) in SIGNALS {
            assert_exits(
                c25_second_signal_ends_the_process_although_the_runtime_is_blocked,
                [("waiting", first), ("stopped", second)],
                status,
            );
        }
    }
}

#[test]
fn c25_first_signal_completes_every_future_although_one_has_been_dropped() {
    if is_child() {
        runtime().block_on(async {
            drop(stop_signal().expect("a signal handler"));
            let futures = [(); 3].map(|()| stop_signal().expect("a signal handler"));
            let tasks = futures.map(tokio::spawn);
            eprintln!("waiting");
            for task in tasks {
                task.await.expect("no panic");
            }
            let late = stop_signal().expect("a signal handler");
            assert_eq!(late.now_or_never(), Some(()));
            eprintln!("stopped");
            block();
        });
    }
    for (signal, status) in SIGNALS {
        assert_exits(
            c25_first_signal_completes_every_future_although_one_has_been_dropped,
            [("waiting", signal), ("stopped", signal)],
            status,
        );
    }
}

#[test]
fn c25_signal_before_the_runtime_runs_completes_the_future() {
    if is_child() {
        let runtime = runtime();
        let signal = {
            let _entered = runtime.enter();
            stop_signal().expect("a signal handler")
        };
        eprintln!("waiting");
        // The test closes the pipe once it has sent the signal.
        wait_for_input();
        runtime.block_on(signal);
        std::process::exit(ENDED);
    }
    for (signal, _) in SIGNALS {
        let mut process = Process::start(c25_signal_before_the_runtime_runs_completes_the_future);
        process.wait_for("waiting");
        process.signal(signal);
        process.close_input();
        assert_eq!(process.wait(), Some(ENDED), "{signal}");
    }
}

#[test]
fn c25_call_outside_of_a_runtime_is_an_error() {
    assert!(stop_signal().is_err());
}

/// Polls a future of `stop_signal` with this waker, and then blocks.
fn wait_with(waker: impl Wake + Send + Sync + 'static) -> ! {
    let waker = Waker::from(Arc::new(waker));
    let waiting = || {
        runtime().block_on(async {
            let mut signal = stop_signal().expect("a signal handler");
            let polled = signal.poll_unpin(&mut Context::from_waker(&waker));
            assert!(polled.is_pending());
            eprintln!("waiting");
            future::pending::<()>().await;
        });
    };
    // A runtime unwinds when it calls a waker that panics.
    let _ = catch_unwind(AssertUnwindSafe(waiting));
    block()
}

/// A waker that panics.
struct Broken;

impl Wake for Broken {
    fn wake(self: Arc<Self>) {
        eprintln!("broken");
        panic!("the waker panics intentionally");
    }
}

#[test]
fn c25_second_signal_ends_the_process_although_a_waker_has_panicked() {
    if is_child() {
        wait_with(Broken);
    }
    for (signal, status) in SIGNALS {
        assert_exits(
            c25_second_signal_ends_the_process_although_a_waker_has_panicked,
            [("waiting", signal), ("broken", signal)],
            status,
        );
    }
}
