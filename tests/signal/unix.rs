//! The handlers of Unix, which end the process themselves.

use std::{process, sync::Arc, task::Wake};

use tower_sse_completion::stop_signal;

use super::{ENDED, GUIDE, Process, assert_exits, block, is_child, runtime, wait_with};

/// Waits for the signal in a runtime.
fn wait_for_stop() {
    runtime().block_on(async {
        let signal = stop_signal().expect("a signal handler");
        eprintln!("waiting");
        signal.await;
    });
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
    assert_exits(
        c25_second_signal_ends_the_process_although_a_waker_blocks,
        [("waiting", "TERM"), ("blocked", "TERM")],
        143,
    );
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
        wait_for_stop();
        process::exit(ENDED);
    }
    assert_exits(
        c25_second_signal_ends_the_process_although_an_exit_handler_hangs,
        [("waiting", "INT"), ("exiting", "TERM")],
        143,
    );
}

/// Stops the process, sends these signals, and continues the process, which receives the signals then.
#[cfg(target_os = "linux")]
fn send_together(process: &mut Process, signals: &[&str]) {
    process.signal("STOP");
    // A thread that has not stopped yet would handle the first of the signals at once.
    let id = process.child.id();
    let has_stopped = || {
        let threads = std::fs::read_dir(format!("/proc/{id}/task"));
        threads.expect("a folder").all(|thread| {
            let status = thread.expect("an entry").path().join("status");
            std::fs::read_to_string(status).is_ok_and(|status| status.contains("State:\tT"))
        })
    };
    runtime().block_on(testkit::wait::until(has_stopped));
    for signal in signals {
        process.signal(signal);
    }
    process.signal("CONT");
}

/// On Linux, because `/proc` shows that the process has stopped.
#[cfg(target_os = "linux")]
#[test]
fn c25_equal_signals_that_are_pending_together_are_one_and_different_ones_are_two() {
    if is_child() {
        wait_for_stop();
        process::exit(ENDED);
    }
    for (signals, statuses) in [
        (&["TERM", "TERM", "TERM"][..], &[ENDED][..]),
        // The system chooses the order of different signals.
        (&["INT", "TERM"], &[130, 143]),
    ] {
        let mut process = Process::start(
            c25_equal_signals_that_are_pending_together_are_one_and_different_ones_are_two,
        );
        process.wait_for("waiting");
        send_together(&mut process, signals);
        let status = process.wait().expect("an exit status");
        assert!(statuses.contains(&status), "{signals:?}: {status}");
    }
}

/// On Linux, because `/proc` has the threads of the process.
#[cfg(target_os = "linux")]
#[test]
fn c20_stop_signal_starts_no_thread() {
    fn threads() -> usize {
        let folder = std::fs::read_dir("/proc/self/task");
        folder.expect("a folder").count()
    }

    if is_child() {
        let runtime = runtime();
        let before = threads();
        let _entered = runtime.enter();
        let _signal = stop_signal().expect("a signal handler");
        assert_eq!(threads(), before);
        process::exit(ENDED);
    }
    let process = Process::start(c20_stop_signal_starts_no_thread);
    assert_eq!(process.wait(), Some(ENDED));
}

include!("snippets/any_stop_signal.rs");

#[test]
fn c25_recipe_for_other_signals_completes_at_each_of_them() {
    if is_child() {
        runtime().block_on(async {
            let signal = any_stop_signal().expect("signal handlers");
            eprintln!("waiting");
            signal.await;
        });
        process::exit(ENDED);
    }
    assert!(GUIDE.contains(include_str!("snippets/any_stop_signal.rs")));
    for signal in ["INT", "TERM", "QUIT", "HUP"] {
        assert_exits(
            c25_recipe_for_other_signals_completes_at_each_of_them,
            [("waiting", signal)],
            ENDED,
        );
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
    let mut process = Process::start(c25_second_signal_ends_a_process_that_sigquit_has_stopped);
    process.wait_for("waiting");
    process.signal("QUIT");
    process.wait_for("stopped");
    // SIGQUIT and SIGHUP do not count, so SIGINT is the first signal and SIGTERM the second.
    for signal in ["QUIT", "HUP", "INT", "TERM"] {
        process.signal(signal);
    }
    // The system chooses their order if both are pending.
    let status = process.wait();
    assert!(matches!(status, Some(130 | 143)), "{status:?}");
}
