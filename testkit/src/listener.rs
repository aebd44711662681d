//! A listener of axum with sockets of another type.

use std::{io, net::SocketAddr};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};

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
