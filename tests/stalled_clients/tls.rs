//! Connections that are wrapped below TLS.

use std::{sync::Arc, time::Duration};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use testkit::{
    client::connect,
    wait::{until, within},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

use crate::site::{CLOSE, Site, listen};

/// Serves until the shutdown begins and every connection has ended.
async fn serve(site: Site, listener: TcpListener, acceptor: TlsAcceptor) {
    let server = auto::Builder::new(TokioExecutor::new());
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = site.shutdown.draining() => break,
        };
        let (stream, _) = accepted.expect("a connection");
        let connection = site.connection(stream);
        let service = TowerToHyperService::new(site.router());
        let (acceptor, server) = (acceptor.clone(), server.clone());
        connections.spawn(async move {
            let stream = acceptor.accept(connection).await?;
            let served = server.serve_connection(TokioIo::new(stream), service);
            served.await.map_err(std::io::Error::other)
        });
    }
    // A connection that is cut ends with an error.
    while connections.join_next().await.is_some() {}
}

struct Tls {
    acceptor: TlsAcceptor,
    connector: TlsConnector,
}

impl Tls {
    fn new() -> Self {
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
        let certified = certified.expect("a certificate");
        let certificate: CertificateDer = certified.cert.der().clone();
        let key = PrivateKeyDer::Pkcs8(certified.signing_key.serialize_der().into());
        let server = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .expect("a key of the certificate");
        let mut roots = RootCertStore::empty();
        roots.add(certificate).expect("a root");
        let client = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            acceptor: TlsAcceptor::from(Arc::new(server)),
            connector: TlsConnector::from(Arc::new(client)),
        }
    }

    async fn get(&self, address: std::net::SocketAddr, path: &str) -> TlsStream<TcpStream> {
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = self.connector.connect(name, connect(address).await).await;
        let mut stream = stream.expect("a handshake");
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("room");
        stream
    }
}

#[tokio::test]
async fn c24_clients_that_do_not_read_are_cut_below_tls() {
    let (site, tls) = (Site::default(), Tls::new());
    let (listener, address) = listen();
    let server = tokio::spawn(serve(site.clone(), listener, tls.acceptor.clone()));
    let mut reader = tls.get(address, "/events").await;
    let _stalled = tls.get(address, "/flood").await;
    let mut silent = connect(address).await;
    site.until_blocked().await;
    until(|| site.shutdown.open_streams() == 2).await;

    site.shutdown.close();
    let mut response = String::new();
    let read = within(reader.read_to_string(&mut response)).await;
    read.expect("a clean end of the connection");
    assert!(response.contains(CLOSE), "{response:?}");
    drop(reader);
    assert!(!server.is_finished());
    let drained = within(site.shutdown.drain(Duration::ZERO)).await;
    // The handshake of the second client has not begun.
    assert_eq!((drained.still_open(), drained.connections_cut()), (1, 2));
    within(server).await.expect("no panic");
    until(|| site.ended("dropped") == 1).await;
    let read = within(silent.read(&mut [0; 1])).await;
    assert_eq!(read.expect("a clean end"), 0);
}
