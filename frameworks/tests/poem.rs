//! The poem example, over real sockets.

#[allow(dead_code, reason = "the test has a main of its own")]
#[path = "../examples/poem.rs"]
mod example;

use std::{future, net::SocketAddr, time::Duration};

use poem::listener::{Acceptor, Listener, TcpListener};
use testkit::chunked::Answer;
use tokio::{sync::oneshot, time::timeout};
use tower_sse_completion::Shutdown;

const CLOSE: &str = "event: close\ndata:\n\n";
const LONG: Duration = Duration::from_secs(20);

async fn bind() -> (impl Acceptor + 'static, SocketAddr) {
    let acceptor = TcpListener::bind("127.0.0.1:0")
        .into_acceptor()
        .await
        .expect("a port");
    let address = acceptor.local_addr()[0].as_socket_addr().copied();
    (acceptor, address.expect("an address"))
}

#[tokio::test]
async fn open_stream_ends_with_the_close_event_and_the_server_with_it() {
    let (acceptor, address) = bind().await;
    let shutdown = Shutdown::new();
    let (signal, signalled) = oneshot::channel::<()>();
    let server = tokio::spawn(async move { example::serve(acceptor, &shutdown, signalled).await });

    let mut answer = Answer::to_get(address, "/events").await;
    assert!(answer.head.contains("content-type: text/event-stream"));
    assert_eq!(answer.chunk().await, "id: 1\ndata: tick\n\n");

    signal.send(()).expect("the server waits for it");
    // More ticks may have been on their way.
    let rest = answer.rest().await;
    assert!(rest.ends_with(CLOSE), "{rest:?}");
    let served = timeout(LONG, server).await.expect("the server has ended");
    served.expect("no panic").expect("no error");
}

#[tokio::test]
async fn empty_stream_is_closed() {
    let (acceptor, address) = bind().await;
    tokio::spawn(async {
        example::serve(acceptor, &Shutdown::new(), future::pending::<()>()).await
    });

    let mut answer = Answer::to_get(address, "/empty").await;
    assert_eq!(answer.rest().await, CLOSE);
}
