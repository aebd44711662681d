//! Clients that do not read, over loopback sockets: a drain cuts their connections, and every server returns.

mod http2;
mod servers;
mod site;
mod tls;
#[cfg(target_os = "linux")]
mod user_timeout;

use std::net::SocketAddr;

use hyper::body::Incoming;
use testkit::{
    client::Client,
    server::{VERSIONS, Version, next_data, receive},
    wait::until,
};

use self::site::{CLOSE, Site};

/// A client that has received the first event of a quiet stream, and continues to read.
struct Reader {
    _client: Client,
    events: Incoming,
}

impl Reader {
    async fn connect(address: SocketAddr, version: Version) -> Self {
        let mut client = Client::connect(address, version).await;
        let mut events = client.get("/events").await.into_body();
        assert!(next_data(&mut events).await.ends_with(b"hello\n\n"));
        Self {
            _client: client,
            events,
        }
    }

    /// Reads the rest of the stream, which is the close event, and leaves.
    async fn assert_closed(self) {
        assert_eq!(receive(self.events).await.text(), CLOSE);
    }
}

/// A client that has received the head of a flood, and has stopped reading.
struct Stalled {
    _client: Client,
    _flood: Incoming,
}

impl Stalled {
    async fn connect(address: SocketAddr, version: Version) -> Self {
        let mut client = Client::connect(address, version).await;
        let flood = client.get("/flood").await.into_body();
        client.stop_reading();
        Self {
            _client: client,
            _flood: flood,
        }
    }
}

/// Connects a reader and a client that does not read over each version of HTTP.
async fn connect(address: SocketAddr) -> (Vec<Reader>, Vec<Stalled>) {
    let (mut readers, mut stalled) = (Vec::new(), Vec::new());
    for version in VERSIONS {
        readers.push(Reader::connect(address, version).await);
        stalled.push(Stalled::connect(address, version).await);
    }
    (readers, stalled)
}

/// Connects clients, waits until the running server has dropped the streams of those that do not read, and closes the streams of
/// the readers.
async fn assert_drops_stalled_clients(site: &Site, address: SocketAddr) {
    let (readers, stalled) = connect(address).await;
    until(|| site.ended("dropped") == stalled.len()).await;
    assert_eq!(site.shutdown.open_streams(), readers.len());

    site.shutdown.close();
    for reader in readers {
        reader.assert_closed().await;
    }
}
