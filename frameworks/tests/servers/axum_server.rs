//! axum-server with rustls: the client chooses HTTP/1.1 or HTTP/2 by ALPN.

use std::{
    future::{Ready, ready},
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum_server::{Handle, accept::Accept, tls_rustls::RustlsConfig};
use testkit::{
    server::{VERSIONS, Version},
    wait::within,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower_sse_completion::{Connection, Shutdown};

use crate::{
    support::{CLOSE, app, assert_closed, open_body},
    tls::Tls,
};

/// Wraps the accepted sockets, so that a drain can cut them.
#[derive(Clone)]
struct CutAcceptor(Shutdown);

impl<S> Accept<TcpStream, S> for CutAcceptor {
    type Stream = Connection<TcpStream>;
    type Service = S;
    type Future = Ready<io::Result<(Self::Stream, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        ready(Ok((self.0.connection(stream), service)))
    }
}

async fn connect(tls: &Tls, address: SocketAddr, version: Version) -> TlsStream<TcpStream> {
    let alpn = match version {
        Version::Http1 => "http/1.1",
        Version::Http2 => "h2",
    };
    let stream = TcpStream::connect(address).await.expect("a connection");
    let name = "localhost".try_into().expect("a name");
    let connector = TlsConnector::from(Arc::new(tls.client(alpn)));
    let stream = within(connector.connect(name, stream)).await;
    let stream = stream.expect("a handshake");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn.as_bytes()));
    stream
}

#[tokio::test]
async fn streams_connections_and_server_end_with_a_drain() {
    let (tls, shutdown, handle) = (Tls::new(), Shutdown::new(), Handle::new());
    let config = RustlsConfig::from_config(Arc::new(tls.server(&["h2", "http/1.1"])));
    let cut = CutAcceptor(shutdown.clone());
    let server = axum_server::bind_rustls(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), config)
        .map(|rustls| rustls.acceptor(cut))
        .handle(handle.clone())
        .serve(app(&shutdown).into_make_service());
    let server = tokio::spawn(server);
    let address = within(handle.listening()).await.expect("an address");

    let mut streams = Vec::new();
    for version in VERSIONS {
        let connection = connect(&tls, address, version).await;
        streams.push(open_body(connection, version).await);
    }
    // A client that has sent no request yet.
    let _idle = connect(&tls, address, Version::Http2).await;
    assert_eq!((handle.connection_count(), shutdown.open_streams()), (3, 2));

    let drain = shutdown.drain(Duration::ZERO);
    handle.graceful_shutdown(None);
    let drained = within(drain).await;
    assert_eq!((drained.ended(), drained.still_open()), (2, 0));
    for stream in streams {
        assert_closed(stream, CLOSE).await;
    }
    within(server).await.expect("no panic").expect("no error");
}
