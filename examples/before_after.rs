//! The exact bytes that a client receives, without the layer and with it.
//!
//! ```text
//! cargo run --example before_after
//! ```

use std::{convert::Infallible, error::Error, future::IntoFuture, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{header::CONTENT_TYPE, request::Parts},
    response::IntoResponse,
    routing::get,
};
use futures_util::{StreamExt, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tower_sse_completion::SseCompletionLayer;

/// The frames that a handler sends. `ends` is `true` for a handler that ends on its own after them.
pub(crate) struct Case {
    title: &'static str,
    frames: &'static [&'static str],
    ends: bool,
}

pub(crate) const CASES: [Case; 3] = [
    Case {
        title: "An idle stream, and the server shuts down",
        frames: &["id: 1\ndata: hello\n\n"],
        ends: false,
    },
    Case {
        title: "An empty stream",
        frames: &[],
        ends: true,
    },
    Case {
        title: "A stream that is truncated inside an event, and the server shuts down",
        frames: &["id: 1\ndata: hello\n\n", "id: 2\ndata: {\"half\":"],
        ends: false,
    },
];

/// Time for which a client reads: one second after the shutdown.
const READ_TIME: Duration = Duration::from_millis(1200);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    println!(
        "Chunks that a client receives over HTTP/1.1. The clean end is the last chunk, `0\\r\\n\\r\\n`."
    );
    for case in &CASES {
        let without = received(case, false, READ_TIME).await?;
        let with = received(case, true, READ_TIME).await?;
        println!("\n{}\n", case.title);
        println!("  {:<46}with the layer", "without the layer");
        println!("  {:<46}{}", "─".repeat(44), "─".repeat(44));
        for row in 0..without.len().max(with.len()) {
            let cell = |column: &[String]| column.get(row).cloned().unwrap_or_default();
            println!("  {:<46}{}", cell(&without), cell(&with));
        }
    }
    Ok(())
}

/// Serves one case to one client, shuts down, and returns the chunks that the client has received within `read_time`.
pub(crate) async fn received(
    case: &'static Case,
    layered: bool,
    read_time: Duration,
) -> Result<Vec<String>, Box<dyn Error>> {
    let shutdown = CancellationToken::new();
    let mut app = Router::new().route("/", get(async || event_stream(case)));
    if layered {
        let shutdown = shutdown.clone();
        let cancel = move |_: &Parts| shutdown.clone().cancelled_owned();
        app = app.layer(SseCompletionLayer::new().cancel_when(cancel));
    }
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut client = TcpStream::connect(listener.local_addr()?).await?;
    let server =
        axum::serve(listener, app).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let server = tokio::spawn(server.into_future());

    client
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await?;
    tokio::spawn(async move {
        time::sleep(Duration::from_millis(200)).await;
        shutdown.cancel();
    });
    let deadline = Instant::now() + read_time;
    let mut bytes = Vec::new();
    let end = loop {
        match time::timeout_at(deadline, client.read_buf(&mut bytes)).await {
            Ok(Ok(0)) => break "(end of the connection)",
            Ok(Ok(_)) => {}
            Ok(Err(_)) => break "(the connection was cut)",
            Err(_) => break "(a second later: still open)",
        }
    };
    server.abort();

    let response = String::from_utf8(bytes)?;
    let (_head, body) = response.split_once("\r\n\r\n").ok_or("no response")?;
    // The output has one line for each chunk: its length, its data and the line break after the data.
    let mut lines = Vec::new();
    let mut rest = body;
    while let Some((length, _)) = rest.split_once("\r\n") {
        let chunk = length.len() + 2 + usize::from_str_radix(length, 16)? + 2;
        lines.push(
            rest[..chunk]
                .escape_debug()
                .to_string()
                .replace("\\\"", "\""),
        );
        rest = &rest[chunk..];
    }
    lines.push(end.to_owned());
    Ok(lines)
}

fn event_stream(case: &'static Case) -> impl IntoResponse {
    let frames = stream::iter(case.frames.iter().map(|frame| Ok::<_, Infallible>(*frame)));
    let body = if case.ends {
        Body::from_stream(frames)
    } else {
        Body::from_stream(frames.chain(stream::pending()))
    };
    ([(CONTENT_TYPE, "text/event-stream")], body)
}
