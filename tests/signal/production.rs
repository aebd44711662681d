//! The servers of `docs/shutdown.md`, stopped with SIGTERM while some of their clients do not read.

#[path = "../stalled_clients/site.rs"]
#[allow(dead_code, reason = "the snippets have their own layer and listener")]
mod site;

use std::net::SocketAddr;

use axum::Router;
use futures_util::future::join_all;
use testkit::{
    client::Client,
    server::{VERSIONS, Version, listen, next_data, receive},
    wait::within,
};
use tokio::net::TcpListener;

use self::site::{CLOSE, Site};
use super::{ENDED, GUIDE, Process, is_child, runtime};

/// Number of clients that read, for each version of HTTP.
const READERS: usize = 50;

/// The versions of the clients that do not read.
const STALLED: [Version; 3] = [Version::Http1, Version::Http1, Version::Http2];

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
    assert_ends(c18_process_that_exits_after_its_server_ends_although_clients_do_not_read);
}

#[test]
fn c24_process_with_wrapped_connections_ends_although_clients_do_not_read() {
    if is_child() {
        run(wrapped::run);
    }
    assert!(GUIDE.contains(include_str!("snippets/wrapped.rs")));
    assert_ends(c24_process_with_wrapped_connections_ends_although_clients_do_not_read);
}

/// Runs this server as a program does that ends after its server.
fn run(serve: impl AsyncFnOnce(TcpListener, Router)) -> ! {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let site = Site::default();
        let (listener, address) = listen().await;
        eprintln!("listening {address}");
        let blocked = async {
            site.until_blocked().await;
            eprintln!("blocked");
        };
        tokio::join!(serve(listener, site.routes()), blocked);
    });
    drop(runtime);
    std::process::exit(ENDED)
}

/// Starts the server of this test, stops it while clients are connected, and waits until the process has ended.
fn assert_ends(test: impl Fn()) {
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
        assert_eq!(process.wait_until_ended().await, Some(ENDED));
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
