//! A client that does not read one of the streams of its HTTP/2 connection. Its h2 limits unread DATA frames of less than 256
//! bytes, as the guide describes.

use std::{
    convert::Infallible,
    iter::repeat_n,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{Request, header},
    routing::get,
};
use futures_util::{StreamExt, stream};
use http_body_util::Empty;
use hyper::{
    body::Incoming,
    client::conn::http2::{Builder, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use testkit::{
    server::{listen, next_data, receive},
    wait::{until, within},
};
use tokio::net::TcpStream;
use tower_sse_completion::{Shutdown, SseCompletionLayer};

/// More events than the budget of hyper's default window permits, and fewer bytes than the window.
const EVENTS: usize = 20_000;

const CLOSE: &str = "event: close\ndata:\n\n";

const EVENT: &str =
    "data: 0123456789012345678901234567890123456789012345678901234567890123456789\n\n";

/// Returns events, each in a frame of its own, and no end. Sets the flag once the server has taken all of them.
fn events(count: usize, all_sent: Arc<AtomicBool>) -> Body {
    let events = stream::iter(repeat_n(EVENT, count));
    let rest = stream::poll_fn(move |_| {
        all_sent.store(true, Ordering::SeqCst);
        Poll::Pending
    });
    Body::from_stream(events.chain(rest).map(Ok::<_, Infallible>))
}

async fn request(sender: &mut SendRequest<Empty<Bytes>>, path: &str) -> Incoming {
    let request = Request::get(format!("http://localhost{path}")).body(Empty::new());
    let response = sender.send_request(request.expect("a valid request"));
    within(response).await.expect("a response").into_body()
}

/// A connection with two streams.
struct Streams {
    read: Incoming,
    unread: Incoming,
    /// The server has taken all events of the unread stream.
    all_sent: Arc<AtomicBool>,
    /// Ends both streams.
    shutdown: Shutdown,
}

/// Reads one stream up to its first event, and leaves the other unread.
async fn open_streams(client: &Builder<TokioExecutor>) -> Streams {
    let (shutdown, all_sent) = (Shutdown::new(), Arc::<AtomicBool>::default());
    let head = [(header::CONTENT_TYPE, "text/event-stream")];
    let sent = Arc::clone(&all_sent);
    let respond = move |count, sent| std::future::ready((head, events(count, sent)));
    let quiet = respond.clone();
    let app = Router::new()
        .route("/quiet", get(move || quiet(1, Arc::default())))
        .route("/many", get(move || respond(EVENTS, Arc::clone(&sent))))
        .layer(SseCompletionLayer::new().shutdown(&shutdown));
    let (listener, address) = listen().await;
    tokio::spawn(async { axum::serve(listener, app).await });

    let socket = TcpStream::connect(address).await.expect("a server");
    let (mut sender, connection) = client
        .handshake(TokioIo::new(socket))
        .await
        .expect("a handshake");
    tokio::spawn(connection);
    let mut read = request(&mut sender, "/quiet").await;
    assert_eq!(next_data(&mut read).await, EVENT);
    let unread = request(&mut sender, "/many").await;
    Streams {
        read,
        unread,
        all_sent,
        shutdown,
    }
}

#[tokio::test]
async fn unread_small_frames_end_every_stream_of_the_connection() {
    let streams = open_streams(&Builder::new(TokioExecutor::new())).await;
    let received = within(receive(streams.read)).await;
    assert!(received.bytes.is_empty(), "no close event");
    let error = format!("{:?}", received.error.expect("the connection is closed"));
    assert!(error.contains("ENHANCE_YOUR_CALM"), "{error}");
    assert!(error.contains("too_many_data_frames"), "{error}");
}

#[tokio::test]
async fn larger_window_of_the_connection_keeps_the_other_streams() {
    let mut client = Builder::new(TokioExecutor::new());
    client.initial_connection_window_size(16 << 20);
    let streams = open_streams(&client).await;
    until(|| streams.all_sent.load(Ordering::SeqCst)).await;
    streams.shutdown.close();
    let read = within(receive(streams.read)).await;
    assert_eq!(read.text(), CLOSE);
    let unread = within(receive(streams.unread)).await;
    assert_eq!(unread.bytes.len(), EVENTS * EVENT.len() + CLOSE.len());
}
