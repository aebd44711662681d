//! `stop_signal`, in separate processes that receive signals.
//!
//! Each test starts its own program once more, with the environment variable [`CHILD`]. The same test in that process is the
//! server.
#![cfg(all(unix, not(miri)))]

use std::{
    env,
    io::{BufRead, BufReader, Lines},
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    sync::Arc,
    task::{Context, Wake, Waker},
    thread,
    time::Duration,
};

use axum::{Router, response::sse::Sse, routing::get};
use futures_util::{FutureExt, stream};
use testkit::server::{Version, listen, receive, request};
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
        // The first call is outside of a runtime.
        drop(stop_signal().expect("a signal handler"));
        let observer = stop_signal().expect("a signal handler");
        eprintln!("waiting");
        runtime().block_on(observer);
        eprintln!("stopped");
        let late = stop_signal().expect("a signal handler");
        assert_eq!(late.now_or_never(), Some(()));
        eprintln!("late");
        block();
    }
    let mut process = Process::start("c25_signals_count_although_the_future_has_been_dropped");
    process.wait_for("waiting");
    process.signal("TERM");
    process.wait_for("stopped");
    process.wait_for("late");
    process.signal("TERM");
    assert_eq!(process.wait().code(), Some(143));
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
        let mut signal = stop_signal().expect("a signal handler");
        let waker = Waker::from(Arc::new(Broken));
        assert!(
            signal
                .poll_unpin(&mut Context::from_waker(&waker))
                .is_pending()
        );
        eprintln!("waiting");
        block();
    }
    let mut process =
        Process::start("c25_second_signal_ends_the_process_although_a_waker_has_panicked");
    process.wait_for("waiting");
    process.signal("TERM");
    process.wait_for("broken");
    process.signal("TERM");
    assert_eq!(process.wait().code(), Some(143));
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
