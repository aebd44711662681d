//! The listener for axum, around listeners of several kinds.
#![cfg(not(miri))]

#[path = "../examples/support/cut_listener.rs"]
mod cut_listener;

use std::{future::IntoFuture, io, net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::connect_info::{ConnectInfo, Connected},
    routing::get,
    serve::{IncomingStream, ListenerExt},
};
use testkit::{server::listen, wait::within};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower_sse_completion::Shutdown;

use self::cut_listener::CutListener;

/// A type of the user for the address of the client.
#[derive(Clone)]
struct Client {
    port: u16,
}

impl Connected<IncomingStream<'_, CutListener<TcpListener>>> for Client {
    fn connect_info(stream: IncomingStream<'_, CutListener<TcpListener>>) -> Self {
        let port = stream.remote_addr().port();
        Self { port }
    }
}

#[test]
fn c24_listener_is_the_same_in_all_documents() {
    let source = include_str!("../examples/support/cut_listener.rs");
    let start = source.find("/// A listener whose").expect("the listener");
    let listener = source[start..].replace("pub(crate) ", "");

    let guide = include_str!("../docs/shutdown.md");
    assert!(guide.contains(&listener), "docs/shutdown.md");

    let documentation = include_str!("../src/shutdown/connection.rs");
    let lines = documentation.lines().filter_map(|line| {
        let line = line.trim_start().strip_prefix("///")?;
        Some(line.strip_prefix(' ').unwrap_or(line))
    });
    let documentation = lines.collect::<Vec<_>>().join("\n");
    assert!(documentation.contains(&listener), "Shutdown::connection");
}

#[tokio::test]
async fn c24_listener_has_the_address_of_the_client_behind_tap_io() {
    let (listener, address) = listen().await;
    let shutdown = Shutdown::new();
    let listener = cut(listener, &shutdown).tap_io(|_| ());
    let port = async |ConnectInfo(client): ConnectInfo<SocketAddr>| client.port().to_string();
    let app = Router::new().route("/", get(port));
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    let server = axum::serve(listener, app).with_graceful_shutdown(shutdown.draining());

    let (clients, port) = connect(address).await;
    assert_serves_and_cuts(server, &shutdown, clients, &port).await;
}

#[tokio::test]
async fn c24_listener_has_the_connect_info_of_the_user() {
    let (listener, address) = listen().await;
    let shutdown = Shutdown::new();
    let listener = cut(listener, &shutdown);
    let port = async |ConnectInfo(client): ConnectInfo<Client>| client.port.to_string();
    let app = Router::new().route("/", get(port));
    let app = app.into_make_service_with_connect_info::<Client>();
    let server = axum::serve(listener, app).with_graceful_shutdown(shutdown.draining());

    let (clients, port) = connect(address).await;
    assert_serves_and_cuts(server, &shutdown, clients, &port).await;
}

/// On Unix, because tokio has no Unix sockets on other systems.
#[cfg(unix)]
#[tokio::test]
async fn c24_listener_takes_a_unix_socket() {
    use tokio::net::{UnixListener, UnixStream};

    let path = std::env::temp_dir().join(format!("cut_listener.{}", std::process::id()));
    let shutdown = Shutdown::new();
    let listener = cut(UnixListener::bind(&path).expect("a socket"), &shutdown);
    let app = Router::new().route("/", get(async || "hello"));
    let server = axum::serve(listener, app).with_graceful_shutdown(shutdown.draining());

    let connect = async || UnixStream::connect(&path).await.expect("a connection");
    let clients = [connect().await, connect().await];
    std::fs::remove_file(&path).expect("the socket");
    assert_serves_and_cuts(server, &shutdown, clients, "hello").await;
}

fn cut<L>(listener: L, shutdown: &Shutdown) -> CutListener<L> {
    let shutdown = shutdown.clone();
    CutListener { listener, shutdown }
}

/// Connects two clients, and returns them with the port of the second.
async fn connect(address: SocketAddr) -> ([TcpStream; 2], String) {
    let connect = async || TcpStream::connect(address).await.expect("a connection");
    let clients = [connect().await, connect().await];
    let port = clients[1].local_addr().expect("an address").port();
    (clients, port.to_string())
}

/// Sends half of a head from one client, and a request from the other, whose response has this body. Then drains, which cuts
/// the first connection, and waits for the server.
async fn assert_serves_and_cuts<T: AsyncRead + AsyncWrite + Unpin>(
    server: impl IntoFuture<Output = io::Result<()>>,
    shutdown: &Shutdown,
    [mut unfinished, mut answered]: [T; 2],
    body: &str,
) {
    let client = async {
        let head = b"GET / HTTP/1.1\r\nhost: localhost\r\n";
        unfinished.write_all(head).await.expect("room");
        answered.write_all(head).await.expect("room");
        answered.write_all(b"\r\n").await.expect("room");
        let mut response = Vec::new();
        while !response.ends_with(format!("\r\n\r\n{body}").as_bytes()) {
            let length = answered.read_buf(&mut response).await.expect("no error");
            assert!(length > 0, "{}", response.escape_ascii());
        }
        shutdown.drain(Duration::ZERO).await
    };
    let (served, drained) = within(async { tokio::join!(server.into_future(), client) }).await;
    served.expect("the server does not fail");
    assert_eq!(drained.connections_cut(), 1);
    let cut = unfinished.read(&mut [0]).await;
    assert!(matches!(cut, Ok(0) | Err(_)), "{cut:?}");
}
