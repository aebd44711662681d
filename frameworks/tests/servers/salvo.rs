//! The salvo example.

#[allow(dead_code, reason = "the test has a main of its own")]
#[path = "../../examples/salvo.rs"]
mod example;

use crate::support::Server;

#[tokio::test]
async fn streams_and_server_end() {
    let server = Server::start(|listener, shutdown, signal| async move {
        example::serve(listener, &shutdown, signal).await
    });
    server.await.assert_closes_and_ends().await;
}
