//! One of the servers: a process that ends at SIGTERM.

use std::{convert::Infallible, future::IntoFuture, net::SocketAddr, pin::pin, time::Duration};

use axum::{
    Router,
    response::sse::{Event, Sse},
    routing::get,
};
use e2e::process::Process;
use futures_util::{Stream, StreamExt, stream};
use tokio::{
    net::TcpSocket,
    signal::unix::{SignalKind, signal},
    time::{self, Instant},
};
use tower_sse_completion::{CloseEvent, Shutdown, SseCompletionLayer};

use crate::Result;

/// The configuration of a server.
#[derive(Debug, Clone, Copy)]
pub struct Instance {
    pub address: SocketAddr,
    /// The time over which streams end.
    pub window: Duration,
}

/// The time between two events of a stream.
const PERIOD: Duration = Duration::from_millis(200);

/// All clients may connect at once.
const BACKLOG: u32 = 4096;

/// Reconnection time in the close events.
const SHORT_RETRY: Duration = Duration::from_millis(100);

/// Reconnection time after a crash: that of the close event would otherwise stay in force on the next instance.
const RETRY: Duration = Duration::from_secs(3);

/// Maximum time between SIGTERM and the end of the process.
const LONG: Duration = Duration::from_secs(60);

impl Instance {
    /// Starts this program again as this instance, and returns when the instance accepts connections.
    pub async fn start(&self) -> Result<Process> {
        let window = self.window.as_millis().to_string();
        Process::start(&["instance".to_owned(), self.address.to_string(), window]).await
    }

    /// Parses the arguments of [`start`](Self::start).
    pub fn parse(address: &str, window: &str) -> Result<Self> {
        Ok(Self {
            address: address.parse()?,
            window: Duration::from_millis(window.parse()?),
        })
    }

    /// Serves until SIGTERM, drains, and prints the number of streams that have ended and of those that are still open.
    pub async fn serve(self) -> Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let shutdown = Shutdown::new();
        let close_event = CloseEvent::new().retry(SHORT_RETRY)?;
        let layer = SseCompletionLayer::new()
            .shutdown(&shutdown)
            .end_on_drain(|_| true)
            .close_event(close_event);
        let app = Router::new()
            .route("/events", get(async || Sse::new(events())))
            .layer(layer);
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(self.address)?;
        let listener = socket.listen(BACKLOG)?;
        println!("ready");

        let drain = shutdown
            .drain(Duration::from_secs(10))
            .after(async move { terminate.recv().await })
            .spread_over(self.window);
        let server = axum::serve(listener, app).with_graceful_shutdown(shutdown.draining());
        let mut server = server.into_future();
        let mut drain = pin!(drain);
        let drained = tokio::select! {
            drained = &mut drain => {
                // The server may still have to write the last close events.
                let _ = time::timeout(Duration::from_secs(1), server).await;
                drained
            }
            result = &mut server => {
                result?;
                drain.await
            }
        };
        println!("{} {}", drained.ended(), drained.still_open());
        Ok(())
    }
}

/// Sends SIGTERM, waits for the end of the process, and returns the number of streams that its drain ended.
pub async fn stop(process: &mut Process) -> Result<usize> {
    process.terminate().await?;
    let drained = time::timeout(LONG, process.line()).await??;
    let drained = drained.ok_or("the instance has not drained")?;
    if !process.ends_within(LONG).await? {
        return Err("the instance does not end".into());
    }
    let (ended, still_open) = drained.split_once(' ').ok_or("not a drain")?;
    match still_open {
        "0" => Ok(ended.parse()?),
        _ => Err(format!("{still_open} streams are still open after the drain").into()),
    }
}

/// Returns events of about 100 bytes. The first one resets the reconnection time.
fn events() -> impl Stream<Item = std::result::Result<Event, Infallible>> {
    let first = Event::default().retry(RETRY).data("ready");
    let start = Instant::now() + PERIOD.mul_f64(fastrand::f64());
    let ticks = stream::unfold(time::interval_at(start, PERIOD), async |mut interval| {
        interval.tick().await;
        Some((Event::default().data("x".repeat(90)), interval))
    });
    stream::iter([first]).chain(ticks).map(Ok)
}
