//! The actix-web example, over loopback sockets.

#[allow(dead_code, reason = "the test has a main of its own")]
#[path = "../examples/actix_web.rs"]
mod example;

use std::net::{SocketAddr, TcpListener};

use testkit::{chunked::ChunkedResponse, wait::within};
use tower_sse_completion::Shutdown;

const CLOSE: &str = "event: close\ndata:\n\n";

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

#[actix_web::test]
async fn streams_and_server_end_after_a_close() {
    let (listener, address) = listen();
    let shutdown = Shutdown::new();
    let server = example::serve(listener, &shutdown).expect("a server");
    let handle = server.handle();
    let server = actix_web::rt::spawn(server);

    let mut plain = ChunkedResponse::get(address, "/events").await;
    assert!(plain.head.contains("content-type: text/event-stream"));
    assert_eq!(plain.chunk().await, "id: 1\ndata: tick\n\n");
    let mut own = ChunkedResponse::get(address, "/own").await;
    assert_eq!(own.chunk().await, "id: 1\ndata: tick\n\n");
    assert_eq!(shutdown.open_streams(), 2);

    shutdown.close();
    // The servers may have sent more ticks in the meantime.
    let rest = plain.rest().await;
    assert!(rest.ends_with(CLOSE), "{rest:?}");
    let rest = own.rest().await;
    assert!(
        rest.ends_with("event: close\ndata: {\"reason\":\"restart\"}\n\n"),
        "{rest:?}"
    );

    // actix-web waits for connections that are kept alive.
    drop((plain, own));
    within(handle.stop(true)).await;
    within(server).await.expect("no panic").expect("no error");
    assert_eq!(shutdown.open_streams(), 0);
}

#[actix_web::test]
async fn empty_stream_is_closed() {
    let (listener, address) = listen();
    let server = example::serve(listener, &Shutdown::new()).expect("a server");
    let handle = server.handle();
    actix_web::rt::spawn(server);

    let mut response = ChunkedResponse::get(address, "/empty").await;
    assert_eq!(response.rest().await, CLOSE);
    handle.stop(false).await;
}
