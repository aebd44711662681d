//! The servers of `docs/shutdown.md`, stopped with SIGTERM while some of their clients do not read.

use std::{
    convert::Infallible,
    net::SocketAddr,
    process,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    response::sse::{Event, Sse},
    routing::get,
};
use futures_util::{StreamExt, future::join_all, stream};
use testkit::{
    client::Client,
    server::{VERSIONS, Version, listen, next_data, receive},
    wait::within,
};
use tokio::{net::TcpListener, time::sleep};

use super::{ENDED, GUIDE, Process, is_child, runtime};

/// Number of clients that read, for each version of HTTP.
const READERS: usize = 50;

/// The versions of the clients that do not read.
const STALLED: [Version; 3] = [Version::Http1, Version::Http1, Version::Http2];

const CLOSE: &str = "event: close\ndata:\n\n";

mod exit {
    include!("snippets/exit.rs");

    pub(super) async fn run(listener: TcpListener, routes: Router) {
        serve(listener, routes).await.expect("no error");
    }
}

mod wrapped {
    include!("snippets/wrapped.rs");

    pub(super) async fn run(listener: TcpListener, routes: Router) {
        let drained = serve(listener, routes).await.expect("a signal handler");
        assert_eq!(drained.connections_cut(), super::STALLED.len());
    }
}

#[test]
fn c18_process_that_exits_after_its_server_ends_although_clients_do_not_read() {
    if is_child() {
        run(exit::run);
    }
    assert!(GUIDE.contains(include_str!("snippets/exit.rs")));
    let readme = include_str!("../../README.md");
    assert!(readme.contains(include_str!("snippets/exit.rs")));
    assert_ends(
        "production::c18_process_that_exits_after_its_server_ends_although_clients_do_not_read",
    );
}

#[test]
fn c24_process_with_wrapped_connections_ends_although_clients_do_not_read() {
    if is_child() {
        run(wrapped::run);
    }
    assert!(GUIDE.contains(include_str!("snippets/wrapped.rs")));
    assert_ends(
        "production::c24_process_with_wrapped_connections_ends_although_clients_do_not_read",
    );
}

/// Runs this server as a program does that ends after its server.
fn run(serve: impl AsyncFnOnce(TcpListener, Router)) -> ! {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let (listener, address) = listen().await;
        let floods = Arc::<AtomicUsize>::default();
        tokio::spawn(report_blocked(Arc::clone(&floods)));
        eprintln!("listening {address}");
        serve(listener, routes(floods)).await;
    });
    drop(runtime);
    process::exit(ENDED)
}

/// Returns a silent stream, and one that always has more and counts its events.
fn routes(floods: Arc<AtomicUsize>) -> Router {
    let events = async || Sse::new(stream::iter([event("hello")]).chain(stream::pending()));
    let flood = async move || {
        Sse::new(stream::repeat_with(move || {
            floods.fetch_add(1, Ordering::SeqCst);
            event(&"x".repeat(8 * 1024))
        }))
    };
    Router::new()
        .route("/events", get(events))
        .route("/flood", get(flood))
}

fn event(data: &str) -> Result<Event, Infallible> {
    Ok(Event::default().data(data))
}

/// Writes a line once floods have begun and the server no longer polls them, because the buffers of their sockets are full.
async fn report_blocked(floods: Arc<AtomicUsize>) {
    let (mut before, mut unchanged) = (0, 0);
    while unchanged < 100 {
        sleep(Duration::from_millis(2)).await;
        let now = floods.load(Ordering::SeqCst);
        let is_same = now > 0 && now == before;
        unchanged = if is_same { unchanged + 1 } else { 0 };
        before = now;
    }
    eprintln!("blocked");
}

/// Starts the server of this test, stops it while clients are connected, and waits until the process has ended.
fn assert_ends(test: &str) {
    let mut process = Process::start(test);
    let address = process.wait_for("listening").parse().expect("an address");
    runtime().block_on(async {
        let mut readers = Vec::new();
        for version in VERSIONS {
            for _ in 0..READERS {
                readers.push(open(address, version).await);
            }
        }
        let mut stalled = Vec::new();
        for version in STALLED {
            let mut client = Client::connect(address, version).await;
            let flood = client.get("/flood").await;
            client.stop_reading();
            stalled.push((client, flood));
        }
        process.wait_for("blocked");

        process.signal("TERM");
        let ends = join_all(readers.into_iter().map(async |(client, events)| {
            let text = receive(events).await.text();
            drop(client);
            text
        }));
        for text in within(ends).await {
            assert_eq!(text, CLOSE);
        }
        assert_eq!(process.wait_until_ended().await.code(), Some(ENDED));
        drop(stalled);
    });
}

/// Opens a silent stream, and returns it behind its first event.
async fn open(address: SocketAddr, version: Version) -> (Client, hyper::body::Incoming) {
    let mut client = Client::connect(address, version).await;
    let mut events = client.get("/events").await.into_body();
    assert_eq!(next_data(&mut events).await, "data: hello\n\n");
    (client, events)
}
