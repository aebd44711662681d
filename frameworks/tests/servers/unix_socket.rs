//! axum on a Unix socket, as behind a proxy on the same machine.

use std::future::IntoFuture;

use testkit::{
    server::{VERSIONS, receive},
    wait::within,
};
use tokio::net::{UnixListener, UnixStream};
use tower_sse_completion::Shutdown;

use crate::support::{CLOSE, app, assert_closed, open_body, send_get};

#[tokio::test]
async fn streams_and_server_end_after_a_close() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).expect("a socket");
    let shutdown = Shutdown::new();
    let server = axum::serve(listener, app(&shutdown)).with_graceful_shutdown(shutdown.closed());
    let server = tokio::spawn(server.into_future());

    let mut streams = Vec::new();
    for version in VERSIONS {
        let connection = || async { UnixStream::connect(&path).await.expect("a connection") };
        let empty = send_get(connection().await, version, "/empty").await;
        assert_eq!(receive(empty.into_body()).await.text(), CLOSE);
        streams.push(open_body(connection().await, version).await);
    }
    assert_eq!(shutdown.open_streams(), 2);

    shutdown.close();
    for stream in streams {
        assert_closed(stream, CLOSE).await;
    }
    within(server).await.expect("no panic").expect("no error");
    assert_eq!(shutdown.open_streams(), 0);
}
