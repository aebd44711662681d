//! A server for HTTP/1.1 and, over TLS, HTTP/2, with a graceful shutdown.

use std::{error::Error, future::Future, net::Ipv4Addr, pin::pin, sync::Arc};

use axum::{Extension, Router};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
    service::TowerToHyperService,
};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

/// The connection of a request, identified by the port of the client.
#[derive(Clone, Copy)]
pub struct Connection(pub u16);

/// Returns an acceptor with a self-signed certificate, for HTTP/2 and HTTP/1.1.
pub fn tls_acceptor() -> Result<TlsAcceptor, Box<dyn Error>> {
    let names = vec![Ipv4Addr::LOCALHOST.to_string()];
    let certified = rcgen::generate_simple_self_signed(names)?;
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der())?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves until `stop` completes, and then until all connections have ended.
pub async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    app: Router,
    stop: impl Future<Output = ()>,
) {
    let graceful = GracefulShutdown::new();
    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let Ok((stream, peer)) = accepted else {
            continue;
        };
        let (tls, watcher) = (tls.clone(), graceful.watcher());
        let app = app.clone().layer(Extension(Connection(peer.port())));
        tokio::spawn(async move {
            match tls {
                None => connection(stream, app, watcher).await,
                Some(tls) => {
                    // A browser refuses a self-signed certificate at first, and then reconnects.
                    if let Ok(stream) = tls.accept(stream).await {
                        connection(stream, app, watcher).await;
                    }
                }
            }
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    app: Router,
    watcher: Watcher,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // The number that Chromium opens on one connection.
    builder.http2().max_concurrent_streams(256);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    // An error means that the connection was cut.
    let _ = watcher.watch(connection.into_owned()).await;
}
