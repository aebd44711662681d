//! The actix-web example, over real sockets.

#[allow(dead_code, reason = "the test has a main of its own")]
#[path = "../examples/actix_web.rs"]
mod example;

use std::{net::TcpListener, time::Duration};

use testkit::chunked::Answer;
use tokio::time::timeout;
use tower_sse_completion::Shutdown;

const CLOSE: &str = "event: close\ndata:\n\n";
const LONG: Duration = Duration::from_secs(20);

#[actix_web::test]
async fn open_streams_end_with_the_close_event_and_the_server_with_them() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let shutdown = Shutdown::new();
    let server = example::serve(listener, &shutdown).expect("a server");
    let handle = server.handle();
    let server = actix_web::rt::spawn(server);

    let mut plain = Answer::to_get(address, "/events").await;
    assert!(plain.head.contains("content-type: text/event-stream"));
    assert_eq!(plain.chunk().await, "id: 1\ndata: tick\n\n");
    let mut own = Answer::to_get(address, "/own").await;
    assert_eq!(own.chunk().await, "id: 1\ndata: tick\n\n");
    assert_eq!(shutdown.open_streams(), 2);

    shutdown.close();
    // More ticks may have been on their way.
    let rest = plain.rest().await;
    assert!(rest.ends_with(CLOSE), "{rest:?}");
    let rest = own.rest().await;
    assert!(
        rest.ends_with("event: close\ndata: {\"reason\":\"restart\"}\n\n"),
        "{rest:?}"
    );

    // actix-web waits for connections that are kept alive, for as long as it keeps them.
    drop((plain, own));
    timeout(LONG, handle.stop(true))
        .await
        .expect("no stream holds the server");
    let served = timeout(LONG, server).await.expect("the server has ended");
    served.expect("no panic").expect("no error");
    assert_eq!(shutdown.open_streams(), 0);
}

#[actix_web::test]
async fn empty_stream_is_closed() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = example::serve(listener, &Shutdown::new()).expect("a server");
    let handle = server.handle();
    actix_web::rt::spawn(server);

    let mut answer = Answer::to_get(address, "/empty").await;
    assert_eq!(answer.rest().await, CLOSE);
    handle.stop(false).await;
}
