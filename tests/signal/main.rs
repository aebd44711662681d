//! `stop_signal`, in separate processes that receive signals.
//!
//! Each test starts its own program once more, with the environment variable [`CHILD`]. The same test in that process is the
//! server. The tests of this file run on every system, with the signals of [`SIGNALS`].
#![cfg(not(miri))]

#[cfg(unix)]
mod production;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::{
    env, future,
    io::{self, BufRead, BufReader, Lines, Read},
    panic::{AssertUnwindSafe, catch_unwind},
    process::{self, ChildStderr, Command, ExitStatus, Stdio},
    sync::Arc,
    task::{Context, Wake, Waker},
    thread,
    time::Duration,
};

use axum::{Router, response::sse::Sse, routing::get};
use futures_util::{FutureExt, stream};
use testkit::{
    server::{Version, listen, receive, request},
    wait::within,
};
use tokio::{runtime::Runtime, time::sleep};
use tower_sse_completion::{Shutdown, SseCompletionLayer, stop_signal};

#[cfg(unix)]
use self::unix::{Child, SIGNALS, send, spawn};
#[cfg(windows)]
use self::windows::{Child, SIGNALS, send, spawn};

const CHILD: &str = "STOP_SIGNAL_CHILD";

/// The page whose snippets are in `snippets/`.
#[cfg(unix)]
const GUIDE: &str = include_str!("../../docs/shutdown.md");

/// Exit status of a child that ends on its own.
const ENDED: i32 = 42;

/// A child process, which is killed when it is dropped.
struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
}

impl Process {
    /// Starts this test once more.
    fn start(test: &str) -> Self {
        let mut command = Command::new(env::current_exe().expect("a path"));
        command
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(CHILD, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = spawn(&mut command).expect("a process");
        let lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        Self { child, lines }
    }

    /// Waits for a line that starts with this word, and returns the rest of the line.
    fn wait_for(&mut self, word: &str) -> String {
        let mut seen = Vec::new();
        for line in &mut self.lines {
            let line = line.expect("text");
            if let Some(rest) = line.strip_prefix(word) {
                return rest.trim().to_owned();
            }
            seen.push(line);
        }
        panic!("the process has not written {word:?}: {seen:?}");
    }

    fn signal(&mut self, signal: &str) {
        send(&mut self.child, signal);
    }

    fn wait(mut self) -> ExitStatus {
        runtime().block_on(self.wait_until_ended())
    }

    /// Waits in a runtime whose tasks run on.
    async fn wait_until_ended(&mut self) -> ExitStatus {
        within(async {
            loop {
                match self.child.try_wait().expect("a status") {
                    Some(status) => return status,
                    None => sleep(Duration::from_millis(2)).await,
                }
            }
        })
        .await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A process that has ended cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_child() -> bool {
    env::var_os(CHILD).is_some()
}

/// Blocks this thread until the process ends, or for longer than a test takes.
fn block() -> ! {
    thread::sleep(Duration::from_secs(60));
    process::exit(1)
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Serves a stream that is silent, until a signal arrives.
async fn serve() {
    let shutdown = Shutdown::new();
    let events = async || Sse::new(stream::pending::<Result<_, std::convert::Infallible>>());
    let app = Router::new()
        .route("/", get(events))
        .layer(SseCompletionLayer::new().shutdown(&shutdown));
    let (listener, address) = listen().await;
    let signal = stop_signal().expect("a signal handler");
    eprintln!("listening {address}");
    axum::serve(listener, app)
        .with_graceful_shutdown(shutdown.after(signal))
        .await
        .expect("the server does not fail");
}

#[test]
fn c25_first_signal_ends_streams_with_a_close_event_and_the_server_returns() {
    if is_child() {
        runtime().block_on(serve());
        process::exit(ENDED);
    }
    for (signal, _) in SIGNALS {
        let mut process = Process::start(
            "c25_first_signal_ends_streams_with_a_close_event_and_the_server_returns",
        );
        let address = process.wait_for("listening").parse().expect("an address");
        runtime().block_on(async {
            let response = request(address, Version::Http1, "GET", "/").await;
            process.signal(signal);
            let text = receive(response.into_body()).await.text();
            assert_eq!(text, "event: close\ndata:\n\n", "{signal}");
        });
        assert_eq!(process.wait().code(), Some(ENDED), "{signal}");
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
            let mut process = Process::start(
                "c25_second_signal_ends_the_process_although_the_runtime_is_blocked",
            );
            process.wait_for("waiting");
            process.signal(first);
            process.wait_for("stopped");
            process.signal(second);
            assert_eq!(process.wait().code(), Some(*status), "{first}, {second}");
        }
    }
}

#[test]
fn c25_signals_count_although_the_future_has_been_dropped() {
    if is_child() {
        runtime().block_on(async {
            drop(stop_signal().expect("a signal handler"));
            let observer = stop_signal().expect("a signal handler");
            eprintln!("waiting");
            observer.await;
            eprintln!("stopped");
            let late = stop_signal().expect("a signal handler");
            assert_eq!(late.now_or_never(), Some(()));
            eprintln!("late");
            block();
        });
    }
    for (signal, status) in SIGNALS {
        let mut process = Process::start("c25_signals_count_although_the_future_has_been_dropped");
        process.wait_for("waiting");
        process.signal(signal);
        process.wait_for("stopped");
        process.wait_for("late");
        process.signal(signal);
        assert_eq!(process.wait().code(), Some(*status), "{signal}");
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
        io::stdin().read_to_end(&mut Vec::new()).expect("a pipe");
        runtime.block_on(signal);
        process::exit(ENDED);
    }
    for (signal, _) in SIGNALS {
        let mut process = Process::start("c25_signal_before_the_runtime_runs_completes_the_future");
        process.wait_for("waiting");
        process.signal(signal);
        drop(process.child.stdin.take());
        assert_eq!(process.wait().code(), Some(ENDED), "{signal}");
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
        let mut process =
            Process::start("c25_second_signal_ends_the_process_although_a_waker_has_panicked");
        process.wait_for("waiting");
        process.signal(signal);
        process.wait_for("broken");
        process.signal(signal);
        assert_eq!(process.wait().code(), Some(*status), "{signal}");
    }
}

#[test]
fn c25_every_future_completes_at_the_same_signal() {
    if is_child() {
        runtime().block_on(async {
            let futures = [(); 3].map(|()| stop_signal().expect("a signal handler"));
            let tasks = futures.map(tokio::spawn);
            eprintln!("waiting");
            for task in tasks {
                task.await.expect("no panic");
            }
        });
        process::exit(ENDED);
    }
    for (signal, _) in SIGNALS {
        let mut process = Process::start("c25_every_future_completes_at_the_same_signal");
        process.wait_for("waiting");
        process.signal(signal);
        assert_eq!(process.wait().code(), Some(ENDED), "{signal}");
    }
}
