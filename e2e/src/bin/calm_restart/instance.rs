//! One of the servers: a process that ends at SIGTERM.

use std::{
    convert::Infallible, future::IntoFuture, net::SocketAddr, pin::pin, process::Stdio,
    time::Duration,
};

use axum::{
    Router,
    response::sse::{Event, Sse},
    routing::get,
};
use futures_util::{Stream, StreamExt, stream};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    net::TcpSocket,
    process::{Child, ChildStdout, Command},
    signal::unix::{SignalKind, signal},
    time::{self, Instant},
};
use tower_sse_completion::{CloseEvent, Shutdown, SseCompletionLayer};

use crate::{Result, site::Retry};

/// The configuration of a server.
#[derive(Debug, Clone, Copy)]
pub struct Instance {
    pub address: SocketAddr,
    /// The time over which streams end.
    pub window: Duration,
    /// The reconnection times in the close events.
    pub retry: Retry,
    /// The time between two events of a stream.
    pub period: Duration,
}

/// The process of a server.
#[derive(Debug)]
pub struct Running {
    child: Child,
    output: Lines<BufReader<ChildStdout>>,
}

/// All clients may connect at once.
const BACKLOG: u32 = 4096;

/// Reconnection time after a crash: that of the close event would otherwise stay in force on the next instance.
const RETRY: Duration = Duration::from_secs(3);

/// Maximum time between SIGTERM and the end of the process.
const LONG: Duration = Duration::from_secs(60);

impl Instance {
    /// Starts this program again as this instance, and returns when it accepts connections.
    pub async fn start(&self) -> Result<Running> {
        let times = [self.window, self.retry[0], self.retry[1], self.period];
        let mut child = Command::new(std::env::current_exe()?)
            .arg("instance")
            .arg(self.address.to_string())
            .args(times.map(|time| time.as_millis().to_string()))
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = child.stdout.take().ok_or("no output")?;
        let mut output = BufReader::new(output).lines();
        match output.next_line().await? {
            Some(_ready) => Ok(Running { child, output }),
            None => Err(format!("the instance {} does not start", self.address).into()),
        }
    }

    /// Parses the arguments of [`start`](Self::start).
    pub fn parse(arguments: &[&str]) -> Result<Self> {
        let [address, window, from, to, period] = arguments[..] else {
            return Err("an instance has five arguments".into());
        };
        let time = |text: &str| text.parse().map(Duration::from_millis);
        Ok(Self {
            address: address.parse()?,
            window: time(window)?,
            retry: [time(from)?, time(to)?],
            period: time(period)?,
        })
    }

    /// Serves until SIGTERM, drains, and prints the number of streams that have ended and of those that are still open.
    pub async fn serve(self) -> Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let shutdown = Shutdown::new();
        let close_event = CloseEvent::new().retry_between(self.retry[0]..=self.retry[1])?;
        let layer = SseCompletionLayer::new()
            .shutdown(&shutdown)
            .end_on_drain(|_| true)
            .close_event(close_event);
        let app = Router::new()
            .route("/events", get(async move || Sse::new(events(self.period))))
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

impl Running {
    /// Sends SIGTERM, waits for the end of the process, and returns the number of streams that its drain ended.
    pub async fn stop(mut self) -> Result<usize> {
        let id = self.child.id().ok_or("the instance has ended")?;
        // `kill` is a builtin of every shell.
        let kill = format!("kill -TERM {id}");
        let signalled = Command::new("sh").args(["-c", &kill]).status().await?;
        if !signalled.success() {
            return Err("the instance has ended".into());
        }
        let drained = time::timeout(LONG, self.output.next_line()).await??;
        let drained = drained.ok_or("the instance has not drained")?;
        time::timeout(LONG, self.child.wait()).await??;
        let (ended, still_open) = drained.split_once(' ').ok_or("not a drain")?;
        match still_open {
            "0" => Ok(ended.parse()?),
            _ => Err(format!("{still_open} streams are still open after the drain").into()),
        }
    }
}

/// Returns events of about 100 bytes. The first one resets the reconnection time.
fn events(period: Duration) -> impl Stream<Item = std::result::Result<Event, Infallible>> {
    let first = Event::default().retry(RETRY).data("ready");
    let start = Instant::now() + period.mul_f64(fastrand::f64());
    let ticks = stream::unfold(time::interval_at(start, period), async |mut interval| {
        interval.tick().await;
        Some((Event::default().data("x".repeat(90)), interval))
    });
    stream::iter([first]).chain(ticks).map(Ok)
}
