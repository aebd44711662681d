//! The signals that ask a process to stop.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::runtime::Handle;

/// Future that completes when the process is asked to stop. Returned by [`stop_signal`].
#[must_use = "futures do nothing unless polled"]
pub struct StopSignal {
    signals: system::Signals,
}

/// Returns a future that completes at the first Ctrl-C or SIGTERM. The second one ends the process at once.
///
/// Use it to begin a [`Shutdown`](crate::Shutdown):
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
/// Docker, Kubernetes and systemd send SIGTERM. The page [Shutdown in production](crate::guide::shutdown) has the form for
/// SIGQUIT and SIGHUP.
///
/// The handlers are registered when this function is first called, and stay registered for the life of the process. All
/// futures of a process complete at the same first signal. A future that is created after that completes at once. Dropping a
/// future changes nothing.
///
/// # The second signal
///
/// On Unix, the handler of the second signal ends the process itself. Therefore the process ends even if the runtime or a
/// waker is blocked, no future is polled, or `main` has returned and an exit handler hangs. The exit status is 128 plus the
/// number of the signal, as shells report it: 130 after SIGINT, 143 after SIGTERM. Exit handlers do not run, and buffered
/// output is lost.
///
/// Equal signals that are pending at the same time are one signal. A wrapper should still send a signal only once: `timeout` of
/// coreutils sends SIGTERM to its command and then to the process group, and on a busy machine the command may handle the first
/// SIGTERM before the second is sent. With `timeout --foreground`, the command receives one signal.
///
/// On Windows, one thread for the process waits for the events of the console and ends the process at the second one, with the
/// exit status of a console program that Ctrl-C has ended. Events that arrive before the thread has seen the first one are one
/// event.
///
/// # Errors
///
/// Returns an error outside of a tokio runtime, if the system refuses a handler, or, on Windows, if the thread cannot be
/// started.
///
/// # Panics
///
/// On Unix, panics if the runtime's IO is disabled.
#[doc(alias = "sigterm")]
#[doc(alias = "ctrl_c")]
pub fn stop_signal() -> io::Result<StopSignal> {
    // tokio's signals panic outside of a runtime.
    Handle::try_current().map_err(io::Error::other)?;
    let signals = system::Signals::listen()?;
    Ok(StopSignal { signals })
}

impl Future for StopSignal {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.signals.poll_stopped(cx)
    }
}

impl fmt::Debug for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StopSignal").finish_non_exhaustive()
    }
}

#[cfg(unix)]
mod system {
    use std::{
        io,
        sync::{
            OnceLock,
            atomic::{AtomicBool, Ordering},
        },
        task::{Context, Poll},
    };

    use signal_hook::{
        consts::{SIGINT, SIGTERM},
        flag,
    };
    use tokio::signal::unix::{Signal, signal};

    /// `true` once a signal has arrived. Signals belong to the process, so the statics of this module are the only global state
    /// of the crate.
    static STOPPED: AtomicBool = AtomicBool::new(false);

    /// Result of the only registration of the handlers, which would count every signal twice after a second registration.
    static REGISTERED: OnceLock<Result<(), io::ErrorKind>> = OnceLock::new();

    /// Streams of tokio, which wake the task. A stream does not yield the signals that have arrived before it was created.
    pub(super) struct Signals([Signal; 2]);

    impl Signals {
        pub(super) fn listen() -> io::Result<Self> {
            (*REGISTERED.get_or_init(|| register().map_err(|error| error.kind())))?;
            Ok(Self([signal(SIGINT.into())?, signal(SIGTERM.into())?]))
        }

        pub(super) fn poll_stopped(&mut self, cx: &mut Context<'_>) -> Poll<()> {
            let received = (self.0.iter_mut()).any(|signal| signal.poll_recv(cx).is_ready());
            // Loaded after the streams have been created and polled, so that no signal is missed in between. A stream may yield
            // before `STOPPED` is set if the program has registered a handler of tokio first.
            match received || STOPPED.load(Ordering::SeqCst) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        }
    }

    /// Registers handlers that set `STOPPED` at the first signal and end the process at the second.
    fn register() -> io::Result<()> {
        /// `true` if the next signal is the second one.
        static ARMED: AtomicBool = AtomicBool::new(false);

        for signal in [SIGINT, SIGTERM] {
            // The handler runs these actions in this order, before those that are registered later, such as that of tokio. A
            // signal that arrives between two of these lines is not lost, because the first action records the signal.
            flag::register(signal, &STOPPED)?;
            flag::register_conditional_shutdown(signal, 128 + signal, &ARMED)?;
            flag::register(signal, &ARMED)?;
        }
        Ok(())
    }
}

#[cfg(windows)]
mod system {
    use std::{
        future::{Future, poll_fn},
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

    use tokio::{
        runtime,
        signal::windows::{self, CtrlBreak, CtrlC, CtrlClose, CtrlShutdown},
    };

    use crate::shutdown::{Closed, Shutdown};

    /// The shutdown that closes at the first event, once a thread waits for events. Events belong to the process, so this is the
    /// only global state of the crate.
    static STOP: Mutex<Option<Shutdown>> = Mutex::new(None);

    /// Exit status `STATUS_CONTROL_C_EXIT`.
    const CONTROL_C_EXIT: i32 = 0xC000_013A_u32 as i32;

    pub(super) struct Signals(Closed);

    impl Signals {
        pub(super) fn listen() -> io::Result<Self> {
            let mut stop = STOP.lock().unwrap_or_else(PoisonError::into_inner);
            let shutdown = match &*stop {
                Some(shutdown) => shutdown,
                None => stop.insert(start()?),
            };
            Ok(Self(shutdown.closed()))
        }

        pub(super) fn poll_stopped(&mut self, cx: &mut Context<'_>) -> Poll<()> {
            Pin::new(&mut self.0).poll(cx)
        }
    }

    /// Starts the thread that waits for events, and returns the shutdown that closes at the first one.
    fn start() -> io::Result<Shutdown> {
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

    /// Registers the handlers, closes at the first event, and ends the process at the second.
    fn wait(shutdown: &Shutdown, registered: &Sender<io::Result<()>>) -> io::Result<()> {
        // A runtime of its own, so that the tasks of the program's runtime cannot block the thread.
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let mut events = Events {
                ctrl_c: windows::ctrl_c()?,
                ctrl_break: windows::ctrl_break()?,
                close: windows::ctrl_close()?,
                shutdown: windows::ctrl_shutdown()?,
            };
            // The caller waits for this result.
            let _ = registered.send(Ok(()));
            events.next().await;
            // A waker that panics must not cost the second event.
            let _ = catch_unwind(AssertUnwindSafe(|| shutdown.close()));
            events.next().await;
            process::exit(CONTROL_C_EXIT)
        })
    }

    /// The events of the console that ask a process to stop.
    struct Events {
        ctrl_c: CtrlC,
        ctrl_break: CtrlBreak,
        close: CtrlClose,
        shutdown: CtrlShutdown,
    }

    impl Events {
        async fn next(&mut self) {
            poll_fn(|cx| {
                let is_ready = self.ctrl_c.poll_recv(cx).is_ready()
                    || self.ctrl_break.poll_recv(cx).is_ready()
                    || self.close.poll_recv(cx).is_ready()
                    || self.shutdown.poll_recv(cx).is_ready();
                match is_ready {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                }
            })
            .await;
        }
    }
}
