//! The server of the end-to-end tests in a browser. It ends its streams on command, and logs every request.
//!
//! ```text
//! PORT=0 browser_server [--tls]
//! ```
//!
//! The server prints its URL, and then a line of JSON for each request and for each command. Commands are lines of its
//! input: `close` cancels all streams. The server shuts down at SIGINT and when its input ends.

mod streams;

use std::{
    env,
    error::Error,
    io,
    net::{SocketAddr, TcpListener},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Extension, Router,
    extract::{ConnectInfo, Request},
    handler::Handler,
    middleware::{self, Next},
    response::{Html, Response},
    routing::get,
};
use axum_server::{Handle, tls_rustls::RustlsConfig};
use tokio::sync::oneshot;
use tower_sse_completion::{CloseEvent, InvalidCloseEvent, Shutdown, SseCompletionLayer};

use crate::streams::{Signal, halves, halves_hand_written};

const PAGE: &str = "<!doctype html><title>browser_server</title><link rel=icon href=data:,>";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let has_tls = match env::args().nth(1).as_deref() {
        None => false,
        Some("--tls") => true,
        Some(_) => return Err("usage: browser_server [--tls]".into()),
    };
    let port = env::var("PORT").map_or(Ok(0), |port| port.parse::<u16>())?;
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    let scheme = if has_tls { "https" } else { "http" };
    println!("{scheme}://{}", listener.local_addr()?);

    let shutdown = Shutdown::new();
    let close = Signal::default();
    let app = app(&shutdown, &close)?.into_make_service_with_connect_info::<SocketAddr>();
    let end_of_input = execute(close);
    let stop = shutdown.after(async {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = end_of_input => {}
        }
    });
    let handle = Handle::new();
    tokio::spawn({
        let handle = handle.clone();
        async move {
            stop.await;
            handle.graceful_shutdown(None);
        }
    });
    match has_tls {
        true => {
            let server = axum_server::from_tcp_rustls(listener, certificate().await?)?;
            server.handle(handle).serve(app).await?;
        }
        false => {
            let server = axum_server::from_tcp(listener)?;
            server.handle(handle).serve(app).await?;
        }
    }
    Ok(())
}

/// Returns a self-signed certificate.
async fn certificate() -> Result<RustlsConfig, Box<dyn Error>> {
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    let key = certified.signing_key.serialize_der();
    Ok(RustlsConfig::from_der(vec![certified.cert.der().to_vec()], key).await?)
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

async fn log(client: ConnectInfo<SocketAddr>, request: Request, next: Next) -> Response {
    let path = request
        .uri()
        .path_and_query()
        .map_or("", |path| path.as_str());
    let id = request.headers().get("last-event-id");
    let id = id.and_then(|id| id.to_str().ok()).unwrap_or_default();
    println!(
        r#"{{"at":{},"connection":{},"version":"{:?}","path":"{path}","lastEventId":"{id}"}}"#,
        now(),
        client.port(),
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
