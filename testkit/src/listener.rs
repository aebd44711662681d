//! Servers of axum with sockets of another type.

use std::{future::Future, io, net::SocketAddr};

use axum::{Router, serve::Listener};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::server::listen;

/// Listener that converts each accepted socket, for example into one that a shutdown can cut.
#[derive(Debug)]
pub struct MapSocket<F> {
    listener: TcpListener,
    map: F,
}

impl<F> MapSocket<F> {
    /// Converts the sockets of the listener with the closure.
    pub fn new(listener: TcpListener, map: F) -> Self {
        Self { listener, map }
    }
}

impl<F, T> Listener for MapSocket<F>
where
    F: FnMut(TcpStream) -> T + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Io = T;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, address) = Listener::accept(&mut self.listener).await;
        ((self.map)(stream), address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// Serves an app with axum over sockets that the closure converts, until the signal completes and every connection has ended.
/// Returns the address, and the task of the server, which panics if the server fails.
pub async fn serve_axum<T>(
    app: Router,
    signal: impl Future<Output = ()> + Send + 'static,
    map: impl FnMut(TcpStream) -> T + Send + 'static,
) -> (SocketAddr, JoinHandle<()>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (listener, address) = listen().await;
    let server = axum::serve(MapSocket::new(listener, map), app).with_graceful_shutdown(signal);
    let serving = async { server.await.expect("the server does not fail") };
    (address, tokio::spawn(serving))
}
