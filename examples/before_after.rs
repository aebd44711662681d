//! The exact bytes that a client gets, without the layer and with it.
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

/// What the handler sends, and whether it ends after that by itself.
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
        title: "A stream that is cut in the middle of an event, and the server shuts down",
        frames: &["id: 1\ndata: hello\n\n", "id: 2\ndata: {\"half\":"],
        ends: false,
    },
];

/// A second from the shutdown.
const PATIENCE: Duration = Duration::from_millis(1200);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    println!(
        "What a client gets over HTTP/1.1, chunk by chunk. `0\\r\\n\\r\\n` is the last chunk: the clean end."
    );
    for case in &CASES {
        let without = received(case, false, PATIENCE).await?;
        let with = received(case, true, PATIENCE).await?;
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

/// Serves one case to one client, shuts down, and returns what the client got while it had patience.
pub(crate) async fn received(
    case: &'static Case,
    layered: bool,
    patience: Duration,
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
    let deadline = Instant::now() + patience;
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

    let answer = String::from_utf8(bytes)?;
    let (_head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    // A line of the output for each chunk: its length, its data, and the line break behind it.
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
