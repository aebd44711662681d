//! Servers whose connections are wrapped: axum, hyper-util, which serves warp's services too, and tonic.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{future::join_all, stream};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use testkit::{
    server::VERSIONS,
    wait::{until, within},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tonic::transport::server::{Connected, Server, TcpConnectInfo};
use tower_sse_completion::Connection;

use crate::{
    Reader, assert_drops_stalled_clients, connect,
    site::{Site, bind, listen},
};

/// Closes and drains a server whose clients are one that reads and one that does not, over each version of HTTP.
async fn assert_server_returns<F>(serve: impl FnOnce(Site, TcpListener) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let site = Site::default();
    let (listener, address) = listen();
    let server = tokio::spawn(serve(site.clone(), listener));
    let (readers, stalled) = connect(address).await;
    site.until_blocked().await;

    site.shutdown.close();
    for reader in readers {
        reader.assert_closed().await;
    }
    assert!(!server.is_finished(), "clients have stopped reading");
    let drained = within(site.shutdown.drain(Duration::ZERO)).await;
    let left = (drained.still_open(), drained.connections_cut());
    assert_eq!(left, (stalled.len(), stalled.len()));

    within(server).await.expect("no panic");
    until(|| site.shutdown.open_streams() == 0).await;
    let endings = (site.ended("cancelled"), site.ended("dropped"));
    assert_eq!(endings, (VERSIONS.len(), stalled.len()));
}

#[tokio::test]
async fn c24_axum_returns_after_a_drain_although_clients_do_not_read() {
    assert_server_returns(Site::serve).await;
}

#[tokio::test]
async fn c24_hyper_util_returns_after_a_drain_although_clients_do_not_read() {
    assert_server_returns(async |site: Site, listener: TcpListener| {
        let server = auto::Builder::new(TokioExecutor::new());
        let connections = GracefulShutdown::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = site.shutdown.draining() => break,
            };
            let (stream, _) = accepted.expect("a connection");
            let io = TokioIo::new(site.connection(stream));
            let service = TowerToHyperService::new(site.router());
            let connection = server.serve_connection(io, service).into_owned();
            // A connection that is cut ends with an error.
            let connection = connections.watch(connection);
            tokio::spawn(async { drop(connection.await) });
        }
        connections.shutdown().await;
    })
    .await;
}

/// A connection that implements the trait of tonic's connections.
struct TonicConnection(Connection<TcpStream>);

impl Connected for TonicConnection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.0.get_ref().connect_info()
    }
}

impl AsyncRead for TonicConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for TonicConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn c24_tonic_returns_after_a_drain_although_clients_do_not_read() {
    assert_server_returns(async |site: Site, listener: TcpListener| {
        let incoming = stream::unfold((site.clone(), listener), async |(site, listener)| {
            let accepted = listener.accept().await;
            let accepted = accepted.map(|(stream, _)| TonicConnection(site.connection(stream)));
            Some((accepted, (site, listener)))
        });
        Server::builder()
            .accept_http1(true)
            .add_routes(site.router().into())
            .serve_with_incoming_shutdown(incoming, site.shutdown.draining())
            .await
            .expect("the server does not fail");
    })
    .await;
}

#[tokio::test]
async fn c24_server_restarts_on_its_port_while_clients_of_cut_connections_remain() {
    let (mut listener, address) = listen();
    let mut stalled = Vec::new();
    for _ in 0..3 {
        let site = Site::default();
        let server = tokio::spawn(site.clone().serve(listener));
        let (readers, remaining) = connect(address).await;
        stalled.push(remaining);
        site.until_blocked().await;
        let (drained, _) = tokio::join!(
            site.shutdown.drain(Duration::ZERO),
            join_all(readers.into_iter().map(Reader::assert_closed)),
        );
        let left = (drained.ended(), drained.still_open());
        assert_eq!(left, (VERSIONS.len(), VERSIONS.len()));
        within(server).await.expect("no panic");
        listener = bind(address);
    }
}

#[tokio::test]
async fn c24_write_timeout_ends_clients_that_do_not_read_while_the_server_runs() {
    let mut site = Site::default();
    site.write_timeout = Some(Duration::from_millis(500));
    let (listener, address) = listen();
    let server = tokio::spawn(site.clone().serve(listener));
    assert_drops_stalled_clients(&site, address).await;
    within(server).await.expect("no panic");
}
