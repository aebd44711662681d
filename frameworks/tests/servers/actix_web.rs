//! The actix-web example.

#[allow(dead_code, reason = "the test has a main of its own")]
#[path = "../../examples/actix_web.rs"]
mod example;

use std::net::{SocketAddr, TcpListener};

use testkit::wait::within;
use tower_sse_completion::Shutdown;

use crate::support::{CLOSE, assert_closed, assert_empty_is_closed, open};

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

    let plain = open(address, "/events").await;
    let own = open(address, "/own").await;
    assert_eq!(shutdown.open_streams(), 2);

    shutdown.close();
    assert_closed(plain, CLOSE).await;
    let own_close_event = "event: close\ndata: {\"reason\":\"restart\"}\n\n";
    assert_closed(own, own_close_event).await;

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
    assert_empty_is_closed(address).await;
    handle.stop(false).await;
}
