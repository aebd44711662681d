//! HTTP/3: h3 over quinn, and h3-axum, which turns each request into a call of the router.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::Router;
use bytes::{Buf, Bytes};
use h3::{
    client::RequestStream,
    error::{ConnectionError, StreamError},
    server,
};
use h3_quinn::BidiStream;
use hyper::Request;
use quinn::{
    ClientConfig, Endpoint, Incoming, ServerConfig,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use testkit::wait::within;
use tokio::task::JoinHandle;
use tower_sse_completion::Shutdown;

use crate::{
    support::{CLOSE, app, assert_rest},
    tls::Tls,
};

type Stream = RequestStream<BidiStream<Bytes>, Bytes>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Serves until the shutdown begins and every client has closed its connection.
///
/// A server that closes a connection discards the data that the client has not received yet, the close events included.
/// Therefore the clients, which receive the GOAWAY frame, close their connections. A production server limits this wait, and then
/// calls `Endpoint::close`.
async fn serve(endpoint: Endpoint, app: Router, shutdown: Shutdown) {
    loop {
        let incoming = tokio::select! {
            Some(incoming) = endpoint.accept() => incoming,
            () = shutdown.draining() => break,
        };
        tokio::spawn(serve_connection(incoming, app.clone(), shutdown.clone()));
    }
    endpoint.set_server_config(None);
    endpoint.wait_idle().await;
}

async fn serve_connection(
    incoming: Incoming,
    app: Router,
    shutdown: Shutdown,
) -> Result<(), BoxError> {
    let quic = incoming.await?;
    let mut connection = server::Connection::new(h3_quinn::Connection::new(quic.clone())).await?;
    let mut announced = false;
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted?,
            () = shutdown.draining(), if !announced => {
                announced = true;
                connection.shutdown(0).await?;
                continue;
            }
        };
        let Some(request) = accepted else { break };
        tokio::spawn(h3_axum::serve_h3_with_axum(app.clone(), request));
    }
    // After the GOAWAY frame, `accept` also returns `None` if it rejects a request while no accepted request is open. The drop of
    // the h3 connection closes the QUIC connection. Therefore this function waits until the client has closed the connection.
    quic.closed().await;
    Ok(())
}

/// A client, with the task that drives its connection.
struct Client {
    endpoint: Endpoint,
    requests: h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>,
    driver: JoinHandle<ConnectionError>,
}

impl Client {
    async fn connect(tls: &Tls, address: SocketAddr) -> Self {
        let crypto = QuicClientConfig::try_from(tls.client("h3")).expect("TLS 1.3");
        let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
        let config = ClientConfig::new(Arc::new(crypto));
        let connecting = endpoint.connect_with(config, address, "localhost");
        let quic = within(connecting.expect("a name")).await;
        let quic = h3_quinn::Connection::new(quic.expect("a connection"));
        let (mut connection, requests) = h3::client::new(quic).await.expect("HTTP/3");
        let driver = tokio::spawn(async move { connection.wait_idle().await });
        Self {
            endpoint,
            requests,
            driver,
        }
    }

    async fn send(&mut self, path: &str) -> Result<Stream, StreamError> {
        let request = Request::get(format!("https://localhost{path}"));
        let request = request.body(()).expect("a valid request");
        within(self.requests.send_request(request)).await
    }

    async fn get(&mut self, path: &str) -> Stream {
        let mut stream = self.send(path).await.expect("an open connection");
        stream.finish().await.expect("an open stream");
        let response = within(stream.recv_response()).await;
        let response = response.expect("a response");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        stream
    }
}

/// Receives text until the stream ends with END_STREAM. A stream that is reset is an error.
async fn receive(stream: &mut Stream) -> String {
    let mut text = String::new();
    while let Some(mut data) = within(stream.recv_data()).await.expect("no reset") {
        let bytes = data.copy_to_bytes(data.remaining());
        text += std::str::from_utf8(&bytes).expect("text");
    }
    text
}

#[tokio::test]
async fn streams_connections_and_server_end_with_a_drain() {
    let (tls, shutdown) = (Tls::new(), Shutdown::new());
    let crypto = QuicServerConfig::try_from(tls.server(&["h3"])).expect("TLS 1.3");
    let config = ServerConfig::with_crypto(Arc::new(crypto));
    let endpoint = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
    let address = endpoint.local_addr().expect("an address");
    let server = tokio::spawn(serve(endpoint, app(&shutdown), shutdown.clone()));

    let mut client = Client::connect(&tls, address).await;
    let mut empty = client.get("/empty").await;
    assert_eq!(receive(&mut empty).await, CLOSE);
    let mut events = client.get("/events").await;
    let first = within(events.recv_data()).await.expect("no reset");
    let mut first = first.expect("an event");
    assert_eq!(
        first.copy_to_bytes(first.remaining()),
        "id: 1\ndata: tick\n\n"
    );
    drop(first);
    assert_eq!(shutdown.open_streams(), 1);

    let drained = within(shutdown.drain(Duration::ZERO)).await;
    assert_eq!((drained.ended(), drained.still_open()), (1, 0));
    assert_rest(&receive(&mut events).await, CLOSE);

    // The client refuses requests as soon as the GOAWAY frame has arrived, and closes its connection.
    within(async {
        while client.send("/empty").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    drop((empty, events));
    let Client {
        endpoint,
        requests,
        driver,
    } = client;
    drop(requests);
    let ended = within(driver).await.expect("no panic");
    assert!(ended.is_h3_no_error(), "{ended}");
    within(endpoint.wait_idle()).await;
    within(server).await.expect("no panic");
}
