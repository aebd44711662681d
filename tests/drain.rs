//! A drain of a server with two thousand clients.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    response::sse::{Event, Sse},
    routing::get,
};
use futures_util::{StreamExt, future, stream};
use testkit::{
    exchange::event_stream_response,
    server::listen,
    wait::{until, within},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
    time::sleep,
};
use tower_sse_completion::{Shutdown, SseCompletionLayer};

const CLIENTS: usize = 2_000;

/// Serves `/events`, which is mostly pending, and `/flood`, which counts its polls.
async fn serve(
    shutdown: &Shutdown,
    polls: &Arc<AtomicUsize>,
) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
    let events = async || {
        let hello = Ok::<_, Infallible>(Event::default().data("hello"));
        Sse::new(stream::iter([hello]).chain(stream::pending()))
    };
    let polls = Arc::clone(polls);
    let flood = async move || {
        let kilobytes = Bytes::from([b"data: ", &[b'x'; 8 * 1024][..], b"\n\n"].concat());
        let polls = Arc::clone(&polls);
        let flood = stream::repeat_with(move || {
            polls.fetch_add(1, Ordering::SeqCst);
            Ok::<_, Infallible>(kilobytes.clone())
        });
        event_stream_response(Body::from_stream(flood))
    };
    let app = Router::new()
        .route("/events", get(events))
        .route("/flood", get(flood))
        .layer(SseCompletionLayer::new().shutdown(shutdown));
    let (listener, address) = listen().await;
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(async move {
        axum::serve(listener, app)
            .with_graceful_shutdown(async { stopped.await.unwrap_or_default() })
            .await
            .expect("the server does not fail");
    });
    (address, stop, server)
}

async fn connect(address: SocketAddr, path: &str) -> TcpStream {
    let mut client = TcpStream::connect(address).await.expect("a connection");
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    client
        .write_all(request.as_bytes())
        .await
        .expect("a request");
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c18_two_thousand_clients_read_their_close_event_and_one_that_reads_nothing_is_left() {
    // Both ends of each connection are in this process.
    let limit = rlimit::increase_nofile_limit(3 * CLIENTS as u64).expect("a limit");
    assert!(
        limit >= 3 * CLIENTS as u64,
        "only {limit} files may be open"
    );

    let (shutdown, polls) = (Shutdown::new(), Arc::default());
    let (address, stop, server) = serve(&shutdown, &polls).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = connect(address, "/events").await;
        clients.push(tokio::spawn(async move {
            let mut answer = String::new();
            let read = client.read_to_string(&mut answer).await;
            read.expect("a clean end of the connection");
            answer
        }));
    }
    let never_reads = connect(address, "/flood").await;
    until(|| shutdown.open_streams() == CLIENTS + 1).await;
    // The server polls the flood until all buffers are full.
    let flood_is_blocked = async {
        let mut before = 0;
        while before == 0 || polls.load(Ordering::SeqCst) != before {
            before = polls.load(Ordering::SeqCst);
            sleep(Duration::from_millis(100)).await;
        }
    };
    within(flood_is_blocked).await;

    stop.send(()).expect("the server runs");
    let drained = within(shutdown.drain(Duration::ZERO)).await;
    assert_eq!((drained.ended(), drained.still_open()), (CLIENTS, 1));

    for answer in within(future::join_all(clients)).await {
        let answer = answer.expect("no panic");
        let end = "14\r\nevent: close\ndata:\n\n\r\n0\r\n\r\n";
        assert!(answer.ends_with(end), "{answer:?}");
    }

    assert!(
        !server.is_finished(),
        "the server waits for the last connection"
    );
    drop(never_reads);
    within(server).await.expect("no panic");
    assert_eq!(shutdown.open_streams(), 0);
}
