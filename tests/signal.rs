//! `stop_signal`, in separate processes that receive signals.
//!
//! Each test starts its own program once more, with the environment variable [`CHILD`]. The same test in that process is the
//! server.
#![cfg(unix)]

use std::{
    env, future,
    io::{self, BufRead, BufReader, Lines, Read},
    panic::{AssertUnwindSafe, catch_unwind},
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    sync::Arc,
    task::{Context, Wake, Waker},
    thread,
    time::Duration,
};

use axum::{Router, response::sse::Sse, routing::get};
use futures_util::{FutureExt, stream};
use testkit::server::{Version, listen, receive, request};
#[cfg(target_os = "linux")]
use testkit::wait::until;
use tokio::runtime::Runtime;
use tower_sse_completion::{Shutdown, SseCompletionLayer, stop_signal};

const CHILD: &str = "STOP_SIGNAL_CHILD";

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
        let mut child = Command::new(env::current_exe().expect("a path"))
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(CHILD, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a process");
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

    fn signal(&self, signal: &str) {
        let kill = format!("kill -{signal} {}", self.child.id());
        let sent = Command::new("sh").args(["-c", &kill]).status();
        assert!(sent.expect("a shell").success(), "{kill}");
    }

    /// Stops the process, sends these signals, and continues the process, which receives the signals then.
    #[cfg(target_os = "linux")]
    fn signal_together(&self, signals: &[&str]) {
        self.signal("STOP");
        // A thread that has not stopped yet would handle the first of the signals at once.
        let has_stopped = || {
            let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
            threads.expect("a folder").all(|thread| {
                let status = thread.expect("an entry").path().join("status");
                std::fs::read_to_string(status).is_ok_and(|status| status.contains("State:\tT"))
            })
        };
        runtime().block_on(until(has_stopped));
        for signal in signals {
            self.signal(signal);
        }
        self.signal("CONT");
    }

    fn wait(mut self) -> ExitStatus {
        self.child.wait().expect("a status")
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
    std::process::exit(1)
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
        std::process::exit(ENDED);
    }
    for signal in ["INT", "TERM"] {
        let mut process = Process::start(
            "c25_first_signal_ends_streams_with_a_close_event_and_the_server_returns",
        );
        let address = process.wait_for("listening").parse().expect("an address");
        runtime().block_on(async {
            let response = request(address, Version::Http1, "GET", "/").await;
            process.signal(signal);
            let text = receive(response.into_body()).await.text();
            assert_eq!(text, "event: close\ndata:\n\n", "SIG{signal}");
        });
        assert_eq!(process.wait().code(), Some(ENDED), "SIG{signal}");
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
    for (first, second, status) in [
        ("TERM", "TERM", 143),
        ("INT", "INT", 130),
        ("INT", "TERM", 143),
        ("TERM", "INT", 130),
    ] {
        let mut process =
            Process::start("c25_second_signal_ends_the_process_although_the_runtime_is_blocked");
        process.wait_for("waiting");
        process.signal(first);
        process.wait_for("stopped");
        process.signal(second);
        assert_eq!(process.wait().code(), Some(status), "{first}, {second}");
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
    let mut process = Process::start("c25_signals_count_although_the_future_has_been_dropped");
    process.wait_for("waiting");
    process.signal("TERM");
    process.wait_for("stopped");
    process.wait_for("late");
    process.signal("TERM");
    assert_eq!(process.wait().code(), Some(143));
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
    let mut process =
        Process::start("c25_second_signal_ends_the_process_although_a_waker_has_panicked");
    process.wait_for("waiting");
    process.signal("TERM");
    process.wait_for("broken");
    process.signal("TERM");
    assert_eq!(process.wait().code(), Some(143));
}

/// A waker that blocks its caller.
struct Blocking;

impl Wake for Blocking {
    fn wake(self: Arc<Self>) {
        eprintln!("blocked");
        block();
    }
}

#[test]
fn c25_second_signal_ends_the_process_although_a_waker_blocks() {
    if is_child() {
        wait_with(Blocking);
    }
    let mut process = Process::start("c25_second_signal_ends_the_process_although_a_waker_blocks");
    process.wait_for("waiting");
    process.signal("TERM");
    process.wait_for("blocked");
    process.signal("TERM");
    assert_eq!(process.wait().code(), Some(143));
}

/// A value whose destructor blocks.
struct Endless;

impl Drop for Endless {
    fn drop(&mut self) {
        eprintln!("exiting");
        block();
    }
}

thread_local! {
    /// `exit` drops the values of its thread, both when it is called and when `main` has returned.
    static ENDLESS: Endless = const { Endless };
}

#[test]
fn c25_second_signal_ends_the_process_although_an_exit_handler_hangs() {
    if is_child() {
        ENDLESS.with(|_| {});
        runtime().block_on(async {
            let signal = stop_signal().expect("a signal handler");
            eprintln!("waiting");
            signal.await;
        });
        std::process::exit(ENDED);
    }
    let mut process =
        Process::start("c25_second_signal_ends_the_process_although_an_exit_handler_hangs");
    process.wait_for("waiting");
    process.signal("INT");
    process.wait_for("exiting");
    process.signal("TERM");
    assert_eq!(process.wait().code(), Some(143));
}

/// On Linux, because `/proc` shows that the process has stopped.
#[cfg(target_os = "linux")]
#[test]
fn c25_equal_signals_that_are_pending_together_are_one() {
    if is_child() {
        runtime().block_on(async {
            let signal = stop_signal().expect("a signal handler");
            eprintln!("waiting");
            signal.await;
        });
        std::process::exit(ENDED);
    }
    let mut process = Process::start("c25_equal_signals_that_are_pending_together_are_one");
    process.wait_for("waiting");
    process.signal_together(&["TERM", "TERM", "TERM"]);
    assert_eq!(process.wait().code(), Some(ENDED));
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
        std::process::exit(ENDED);
    }
    let mut process = Process::start("c25_signal_before_the_runtime_runs_completes_the_future");
    process.wait_for("waiting");
    process.signal("TERM");
    drop(process.child.stdin.take());
    assert_eq!(process.wait().code(), Some(ENDED));
}

#[test]
fn c25_call_outside_of_a_runtime_is_an_error() {
    assert!(stop_signal().is_err());
}

/// On Linux, because it counts the threads in `/proc`.
#[cfg(target_os = "linux")]
#[test]
fn c20_stop_signal_starts_no_thread() {
    fn threads() -> usize {
        std::fs::read_dir("/proc/self/task")
            .expect("a folder")
            .count()
    }

    if is_child() {
        let runtime = runtime();
        let before = threads();
        let _entered = runtime.enter();
        let _signal = stop_signal().expect("a signal handler");
        assert_eq!(threads(), before);
        std::process::exit(ENDED);
    }
    let process = Process::start("c20_stop_signal_starts_no_thread");
    assert_eq!(process.wait().code(), Some(ENDED));
}

/// On Linux, because `/proc` shows that the process has stopped.
#[cfg(target_os = "linux")]
#[test]
fn c25_different_signals_that_are_pending_together_are_two() {
    if is_child() {
        runtime().block_on(async {
            let signal = stop_signal().expect("a signal handler");
            eprintln!("waiting");
            signal.await;
        });
        std::process::exit(ENDED);
    }
    let mut process = Process::start("c25_different_signals_that_are_pending_together_are_two");
    process.wait_for("waiting");
    process.signal_together(&["INT", "TERM"]);
    // The system chooses their order.
    let status = process.wait().code();
    assert!(matches!(status, Some(130 | 143)), "{status:?}");
}

// The snippet of `docs/shutdown.md`.
include!("guide/any_stop_signal.rs");

#[test]
fn c25_recipe_for_other_signals_completes_at_each_of_them() {
    if is_child() {
        runtime().block_on(async {
            let signal = any_stop_signal().expect("signal handlers");
            eprintln!("waiting");
            signal.await;
        });
        std::process::exit(ENDED);
    }
    let guide = include_str!("../docs/shutdown.md");
    assert!(guide.contains(include_str!("guide/any_stop_signal.rs")));
    for signal in ["INT", "TERM", "QUIT", "HUP"] {
        let mut process = Process::start("c25_recipe_for_other_signals_completes_at_each_of_them");
        process.wait_for("waiting");
        process.signal(signal);
        assert_eq!(process.wait().code(), Some(ENDED), "SIG{signal}");
    }
}

#[test]
fn c25_second_signal_ends_a_process_that_sigquit_has_stopped() {
    if is_child() {
        runtime().block_on(async {
            let signal = any_stop_signal().expect("signal handlers");
            eprintln!("waiting");
            signal.await;
            eprintln!("stopped");
            block();
        });
    }
    let mut process = Process::start("c25_second_signal_ends_a_process_that_sigquit_has_stopped");
    process.wait_for("waiting");
    process.signal("QUIT");
    process.wait_for("stopped");
    // SIGQUIT does not count, so one of these is the second signal.
    for signal in ["QUIT", "HUP", "INT", "TERM"] {
        process.signal(signal);
    }
    let status = process.wait().code();
    assert!(matches!(status, Some(130 | 143)), "{status:?}");
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
        std::process::exit(ENDED);
    }
    let mut process = Process::start("c25_every_future_completes_at_the_same_signal");
    process.wait_for("waiting");
    process.signal("INT");
    assert_eq!(process.wait().code(), Some(ENDED));
}
