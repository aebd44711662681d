//! The signals that ask a process to stop.

use std::{
    fmt,
    future::Future,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    process,
    sync::{
        Mutex, PoisonError,
        mpsc::{self, Sender},
    },
    task::{Context, Poll},
    thread,
};

use tokio::runtime;

use crate::shutdown::{Closed, Shutdown};

/// The shutdown that closes at the first signal, once a thread waits for signals. Signals belong to the process, so this is the
/// one global state of the crate.
static STOP: Mutex<Option<Shutdown>> = Mutex::new(None);

/// Future that completes when the process is asked to stop. Returned by [`stop_signal`].
#[must_use = "futures do nothing unless polled"]
pub struct StopSignal {
    closed: Closed,
}

/// Returns a future that completes at the first Ctrl-C or SIGTERM. The second one ends the process at once.
///
/// Use it to begin a [`Shutdown`]:
///
/// ```no_run
/// use axum::Router;
/// use tower_sse_completion::{Shutdown, SseCompletionLayer, stop_signal};
///
/// # async fn serve(routes: Router, listener: tokio::net::TcpListener) -> std::io::Result<()> {
/// let shutdown = Shutdown::new();
/// let app = routes.layer(SseCompletionLayer::new().shutdown(&shutdown));
///
/// axum::serve(listener, app)
///     .with_graceful_shutdown(shutdown.after(stop_signal()?))
///     .await
/// # }
/// ```
///
/// The signals are SIGINT and SIGTERM on Unix, and Ctrl-C, Ctrl-Break, close and shutdown events of the console on Windows.
/// Docker, Kubernetes and systemd send SIGTERM.
///
/// The handlers are registered when this function is first called, and stay registered for the life of the process. The
/// function starts one thread then, which waits for the signals. Therefore the second signal ends the process even if the
/// runtime is blocked or no future is polled. The exit status is 128 plus the number of the signal, as shells report it:
/// 130 after SIGINT, 143 after SIGTERM. On Windows it is that of a console program that Ctrl-C has ended.
///
/// All futures of a process complete at the same first signal. A future that is created after that completes at once. Dropping
/// a future changes nothing. Signals that arrive before the thread has seen the first one count as one signal.
///
/// A wrapper must send a signal only once. `timeout` of coreutils sends SIGTERM to its command and to the process group, so
/// the command may receive the signal twice and end at once. With `timeout --foreground` it receives one signal.
///
/// # Errors
///
/// Returns an error if the thread cannot be started or if the system refuses a handler.
pub fn stop_signal() -> io::Result<StopSignal> {
    let mut stop = STOP.lock().unwrap_or_else(PoisonError::into_inner);
    let shutdown = match &*stop {
        Some(shutdown) => shutdown,
        None => stop.insert(listen()?),
    };
    Ok(StopSignal {
        closed: shutdown.closed(),
    })
}

impl Future for StopSignal {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.closed).poll(cx)
    }
}

impl fmt::Debug for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StopSignal").finish_non_exhaustive()
    }
}

/// Starts the thread that waits for signals, and returns the shutdown that closes at the first one.
fn listen() -> io::Result<Shutdown> {
    let shutdown = Shutdown::new();
    let (registered, registration) = mpsc::channel();
    thread::Builder::new().name("stop-signal".into()).spawn({
        let shutdown = shutdown.clone();
        move || {
            if let Err(error) = wait(&shutdown, &registered) {
                // The caller waits for this result.
                let _ = registered.send(Err(error));
            }
        }
    })?;
    let registration = registration.recv().map_err(io::Error::other)?;
    registration.map(|()| shutdown)
}

/// Registers the handlers, closes at the first signal, and ends the process at the second.
fn wait(shutdown: &Shutdown, registered: &Sender<io::Result<()>>) -> io::Result<()> {
    // A runtime of its own, so that the tasks of the program's runtime cannot block the thread.
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut signals = Signals::register()?;
        // The caller waits for this result.
        let _ = registered.send(Ok(()));
        signals.next().await;
        // A waker that panics must not cost the second signal.
        let _ = catch_unwind(AssertUnwindSafe(|| shutdown.close()));
        process::exit(signals.next().await)
    })
}

#[cfg(unix)]
struct Signals([(tokio::signal::unix::Signal, i32); 2]);

#[cfg(unix)]
impl Signals {
    fn register() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};

        let register = |kind: SignalKind| Ok::<_, io::Error>((signal(kind)?, kind.as_raw_value()));
        Ok(Self([
            register(SignalKind::interrupt())?,
            register(SignalKind::terminate())?,
        ]))
    }

    /// Waits for the next signal, and returns the exit status of a process that the signal ends.
    async fn next(&mut self) -> i32 {
        std::future::poll_fn(|cx| {
            for (signal, number) in &mut self.0 {
                if signal.poll_recv(cx).is_ready() {
                    return Poll::Ready(128 + *number);
                }
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(windows)]
struct Signals {
    ctrl_c: tokio::signal::windows::CtrlC,
    ctrl_break: tokio::signal::windows::CtrlBreak,
    close: tokio::signal::windows::CtrlClose,
    shutdown: tokio::signal::windows::CtrlShutdown,
}

#[cfg(windows)]
impl Signals {
    fn register() -> io::Result<Self> {
        use tokio::signal::windows;

        Ok(Self {
            ctrl_c: windows::ctrl_c()?,
            ctrl_break: windows::ctrl_break()?,
            close: windows::ctrl_close()?,
            shutdown: windows::ctrl_shutdown()?,
        })
    }

    /// Waits for the next event of the console, and returns the exit status of a process that the event ends.
    async fn next(&mut self) -> i32 {
        /// `STATUS_CONTROL_C_EXIT`.
        const CONTROL_C_EXIT: i32 = 0xC000_013A_u32 as i32;
        std::future::poll_fn(|cx| {
            let is_ready = self.ctrl_c.poll_recv(cx).is_ready()
                || self.ctrl_break.poll_recv(cx).is_ready()
                || self.close.poll_recv(cx).is_ready()
                || self.shutdown.poll_recv(cx).is_ready();
            match is_ready {
                true => Poll::Ready(CONTROL_C_EXIT),
                false => Poll::Pending,
            }
        })
        .await
    }
}
