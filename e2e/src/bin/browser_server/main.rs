//! The server of the end-to-end tests in a browser. It ends its streams on command, and logs every request.
//!
//! ```text
//! PORT=0 browser_server [--tls]
//! ```
//!
//! The server prints its URL, and then a line of JSON for each request and for each command. Commands are lines of its
//! input: `close` cancels all streams. The server shuts down at SIGINT and when its input ends.

mod serve;
mod streams;

use std::{
    env,
    error::Error,
    io, thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Extension, Router,
    extract::Request,
    handler::Handler,
    middleware::{self, Next},
    response::{Html, Response},
    routing::get,
};
use tokio::{net::TcpListener, sync::oneshot};
use tower_sse_completion::{CloseEvent, InvalidCloseEvent, Shutdown, SseCompletionLayer};

use crate::{
    serve::{Connection, serve, tls_acceptor},
    streams::{Signal, halves, halves_hand_written},
};

const PAGE: &str = "<!doctype html><title>browser_server</title><link rel=icon href=data:,>";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let tls = match env::args().nth(1).as_deref() {
        None => None,
        Some("--tls") => Some(tls_acceptor()?),
        Some(_) => return Err("usage: browser_server [--tls]".into()),
    };
    let port = env::var("PORT").map_or(Ok(0), |port| port.parse::<u16>())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    println!("{scheme}://{}", listener.local_addr()?);

    let shutdown = Shutdown::new();
    let close = Signal::default();
    let app = app(&shutdown, &close)?;
    let end_of_input = execute(close);
    let stop = async {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = end_of_input => {}
        }
    };
    serve(listener, tls, app, shutdown.after(stop)).await;
    Ok(())
}

fn app(shutdown: &Shutdown, close: &Signal) -> Result<Router, InvalidCloseEvent> {
    let in_an_hour = CloseEvent::new().retry(Duration::from_secs(60 * 60))?;
    let signal = close.clone();
    let layer = SseCompletionLayer::new()
        .shutdown(shutdown)
        .cancel_when(move |_| signal.next());

    Ok(Router::new()
        .route("/resume", get(halves.layer(layer.clone())))
        .route(
            "/in-an-hour",
            get(halves.layer(layer.close_event(in_an_hour))),
        )
        .route("/hand-written", get(halves_hand_written))
        .route("/", get(async || Html(PAGE)))
        .layer(Extension(close.clone()))
        .layer(middleware::from_fn(log)))
}

async fn log(connection: Extension<Connection>, request: Request, next: Next) -> Response {
    let path = request
        .uri()
        .path_and_query()
        .map_or("", |path| path.as_str());
    let id = request.headers().get("last-event-id");
    let id = id.and_then(|id| id.to_str().ok()).unwrap_or_default();
    println!(
        r#"{{"at":{},"connection":{},"version":"{:?}","path":"{path}","lastEventId":"{id}"}}"#,
        now(),
        connection.0.0,
        request.version(),
    );
    next.run(request).await
}

/// Executes each line of the input until the input ends. The reader is a thread, because tokio would wait for a task that
/// reads the input.
fn execute(close: Signal) -> oneshot::Receiver<()> {
    let (ended, end) = oneshot::channel();
    thread::spawn(move || {
        for command in io::stdin().lines().map_while(Result::ok) {
            println!(r#"{{"at":{},"command":"{command}"}}"#, now());
            match command.as_str() {
                "close" => close.send(),
                _ => eprintln!("unknown command: {command}"),
            }
        }
        // An error means that the server has already stopped.
        let _ = ended.send(());
    });
    end
}

/// Returns the milliseconds since 1970.
fn now() -> u128 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis())
}
