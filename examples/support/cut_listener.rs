//! A listener for axum, whose connections a drain can cut.

use std::{io, time::Duration};

use axum::serve::Listener;
use tower_sse_completion::{Connection, Shutdown};

/// A listener whose connections a drain can cut.
pub(crate) struct CutListener<L> {
    pub(crate) listener: L,
    pub(crate) shutdown: Shutdown,
}

impl<L: Listener> Listener for CutListener<L> {
    type Io = Connection<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (io, address) = self.listener.accept().await;
        let connection = self.shutdown.connection(io);
        // Disconnects a client that does not read while the server runs.
        (connection.write_timeout(Duration::from_secs(30)), address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}
