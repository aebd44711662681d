//! The server of hyper-util for any service, over HTTP/1.1 and HTTP/2, with a graceful shutdown.

use std::{error::Error, time::Duration};

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, time};
use tower::Service;
use tower_sse_completion::Shutdown;

/// Serves until the shutdown begins, and every connection has ended.
pub(crate) async fn serve<S, B>(listener: TcpListener, service: S, shutdown: &Shutdown)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S: Service<Request<Incoming>, Future: Send, Error: Into<Box<dyn Error + Send + Sync>>>,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let service = TowerToHyperService::new(service);
    let server = auto::Builder::new(TokioExecutor::new());
    let connections = GracefulShutdown::new();

    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.draining() => break,
        };
        let Ok((stream, _address)) = accepted else {
            // Too many open files is such an error. Other connections close files soon.
            time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        // The drain cuts the connections of clients that do not read.
        let stream = TokioIo::new(shutdown.connection(stream));
        let connection = server.serve_connection(stream, service.clone());
        let connection = connections.watch(connection.into_owned());
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                eprintln!("a connection has failed: {error}");
            }
        });
    }

    drop(listener);
    connections.shutdown().await;
}
