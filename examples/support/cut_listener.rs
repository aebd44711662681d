//! A listener for axum, whose connections a drain can cut.

use std::{io, net::SocketAddr, time::Duration};

use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};
use tower_sse_completion::{Connection, Shutdown};

/// Time after which a client that does not read is disconnected while the server runs. A shorter time would also cut
/// clients whose network is interrupted for some seconds.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) struct CutListener {
    pub(crate) listener: TcpListener,
    pub(crate) shutdown: Shutdown,
}

impl Listener for CutListener {
    type Io = Connection<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // The method of the trait waits and tries again if there are too many open files.
        let (stream, address) = Listener::accept(&mut self.listener).await;
        let connection = self.shutdown.connection(stream);
        (connection.write_timeout(WRITE_TIMEOUT), address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}
