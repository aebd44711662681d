//! Servers that drain, over loopback sockets: HTTP/1.1 and HTTP/2, with wrapped connections and without.
#![cfg(not(miri))]

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::Method,
    response::sse::{Event, Sse},
    routing::post,
};
use futures_util::{StreamExt, stream};
use testkit::{
    client::{Client, connect},
    listener::serve_axum,
    server::{VERSIONS, next_data, receive},
    wait::{until, within},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Semaphore,
    task::JoinHandle,
};
use tower_sse_completion::{Drained, EventMatch, Shutdown, SseCompletionLayer};

/// Longer than a test waits for anything.
const GRACE: Duration = Duration::from_secs(600);

/// Number of tokens before the end of an answer.
const TOKENS: usize = 20;

/// The first token of an answer.
const FIRST_TOKEN: &str = "data: {\"token\":0}\n\n";

/// Returns all events of an answer.
fn answer() -> String {
    (0..TOKENS)
        .map(|token| format!("data: {{\"token\":{token}}}\n\n"))
        .chain(["data: [DONE]\n\n".to_owned()])
        .collect()
}

/// A gateway to a language model, which responds and sends the tokens after the first when the test permits it.
#[derive(Clone)]
struct Gateway {
    shutdown: Shutdown,
    /// Requests whose handlers have begun.
    begun: Arc<AtomicUsize>,
    /// One permit for each response.
    respond: Arc<Semaphore>,
    /// One permit for each token.
    send: Arc<Semaphore>,
}

impl Gateway {
    fn new() -> Self {
        Self {
            shutdown: Shutdown::new(),
            begun: Arc::default(),
            respond: Arc::new(Semaphore::new(0)),
            send: Arc::new(Semaphore::new(0)),
        }
    }

    async fn respond(self) -> Sse<impl stream::Stream<Item = Result<Event, Infallible>>> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        self.respond.acquire().await.expect("open").forget();
        Sse::new(stream::unfold(0, move |token| {
            let send = Arc::clone(&self.send);
            async move {
                if token > 0 {
                    send.acquire().await.expect("open").forget();
                }
                let event = match token {
                    TOKENS => Event::default().data("[DONE]"),
                    _ => Event::default().data(format!(r#"{{"token":{token}}}"#)),
                };
                Some((Ok(event), token + 1))
            }
        }))
    }

    /// Returns an app with answers by POST and subscriptions by GET.
    fn app(&self) -> Router {
        let layer = SseCompletionLayer::new()
            .shutdown(&self.shutdown)
            .end_mark(EventMatch::data("[DONE]"))
            .end_on_drain(|request| request.method == Method::GET);
        let gateway = self.clone();
        let subscription = async || Sse::new(stream::pending::<Result<Event, Infallible>>());
        Router::new()
            .route(
                "/v1/responses",
                post(move || gateway.clone().respond()).get(subscription),
            )
            .route("/quiet", post(subscription))
            .layer(layer)
    }

    /// Serves connections until the signal, wrapped ones so that the drain can cut them, or plain ones.
    async fn serve(
        &self,
        wraps: bool,
        signal: impl Future<Output = ()> + Send + 'static,
    ) -> (SocketAddr, JoinHandle<()>) {
        let shutdown = self.shutdown.clone();
        match wraps {
            true => {
                serve_axum(self.app(), signal, move |socket| {
                    shutdown.connection(socket)
                })
                .await
            }
            false => serve_axum(self.app(), signal, |socket| socket).await,
        }
    }

    async fn drain(&self) -> JoinHandle<Drained> {
        let drain = tokio::spawn(self.shutdown.drain(GRACE));
        until(|| self.shutdown.is_draining()).await;
        drain
    }

    async fn until_begun(&self, requests: usize) {
        until(|| self.begun.load(Ordering::SeqCst) == requests).await;
    }
}

fn counts(drained: Drained) -> (usize, usize, usize) {
    (
        drained.ended(),
        drained.still_open(),
        drained.connections_cut(),
    )
}

/// Lets every task of this thread run several times, those that sockets wake included.
async fn settle() {
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn c18_ten_answers_of_a_gateway_are_whole_after_a_drain() {
    let expected = answer();
    for version in VERSIONS {
        let gateway = Gateway::new();
        let (address, server) = gateway.serve(false, gateway.shutdown.draining()).await;

        // Five answers have begun.
        let mut answers = Vec::new();
        for _ in 0..5 {
            let mut client = Client::connect(address, version).await;
            gateway.respond.add_permits(1);
            let response = client.send("POST", "/v1/responses", Body::empty());
            let response = within(response).await;
            let mut body = response.into_body();
            assert_eq!(next_data(&mut body).await, FIRST_TOKEN, "{version:?}");
            answers.push((client, body));
        }
        // Five requests have no head yet.
        let mut pending = Vec::new();
        for _ in 0..5 {
            let mut client = Client::connect(address, version).await;
            pending.push(tokio::spawn(async move {
                let response = client.send("POST", "/v1/responses", Body::empty()).await;
                (client, response.into_body())
            }));
        }
        let mut subscriber = Client::connect(address, version).await;
        let subscription = subscriber.get("/v1/responses").await.into_body();
        gateway.until_begun(10).await;

        let drain = gateway.drain().await;
        let last = within(receive(subscription)).await;
        assert_eq!(last.text(), "event: close\ndata:\n\n", "{version:?}");
        settle().await;
        assert!(!drain.is_finished(), "{version:?}: ten answers are missing");

        gateway.respond.add_permits(5);
        gateway.send.add_permits(10 * TOKENS);
        for (client, body) in answers {
            let rest = within(receive(body)).await;
            let whole = format!("{FIRST_TOKEN}{}", rest.text());
            assert_eq!(whole, expected, "{version:?}: begun before the drain");
            drop(client);
        }
        for answer in pending {
            let (client, body) = within(answer).await.expect("no panic");
            let whole = within(receive(body)).await;
            assert_eq!(whole.text(), expected, "{version:?}: begun by the drain");
            drop(client);
        }
        let drained = within(drain).await.expect("no panic");
        assert_eq!(counts(drained), (11, 0, 0), "{version:?}");
        assert_eq!(drained.unanswered_requests(), 0, "{version:?}");
        within(server).await.expect("no panic");
    }
}

#[tokio::test]
async fn c18_second_request_of_a_connection_has_what_is_left_of_the_grace() {
    let expected = answer();
    for version in VERSIONS {
        for wraps in [false, true] {
            let case = (version, wraps);
            let gateway = Gateway::new();
            gateway.respond.add_permits(2);
            let (address, server) = gateway.serve(wraps, gateway.shutdown.closed()).await;
            // Between the two requests, the drain waits for the wrapped connection, or else for another stream.
            let other = match wraps {
                true => None,
                false => {
                    let mut client = Client::connect(address, version).await;
                    let body = client.send("POST", "/quiet", Body::empty()).await;
                    Some((client, body))
                }
            };
            let mut client = Client::connect(address, version).await;
            let mut drain = None;
            for _ in 0..2 {
                let response = client.send("POST", "/v1/responses", Body::empty()).await;
                let mut body = response.into_body();
                assert_eq!(next_data(&mut body).await, FIRST_TOKEN, "{case:?}");
                if drain.is_none() {
                    drain = Some(gateway.drain().await);
                }
                settle().await;
                let is_closed = gateway.shutdown.is_closed();
                assert!(!is_closed, "{case:?}: the grace is not over");
                gateway.send.add_permits(TOKENS);
                let whole = format!("{FIRST_TOKEN}{}", receive(body).await.text());
                assert_eq!(whole, expected, "{case:?}");
                settle().await;
            }
            drop((client, other));
            let drain = drain.expect("the drain has begun");
            let drained = within(drain).await.expect("no panic");
            assert_eq!(drained.still_open(), 0, "{case:?}");
            within(server).await.expect("no panic");
        }
    }
}

#[tokio::test]
async fn c24_connection_whose_request_body_nobody_reads_ends_when_it_is_cut() {
    // The client has sent a part of the body and waits, or has nothing more to send.
    for (length, sent) in [(1_000_000, 5), (1_000_000, 300_000), (5, 5)] {
        let gateway = Gateway::new();
        let (address, server) = gateway.serve(true, gateway.shutdown.draining()).await;
        let mut socket = connect(address).await;
        let head = format!(
            "POST /v1/responses HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n"
        );
        let request = [head.as_bytes(), &vec![b'x'; sent]].concat();
        // The socket may not take all of a large body.
        let (mut read, mut write) = socket.split();
        let sending = async {
            let _ = write.write_all(&request).await;
            std::future::pending::<()>().await;
        };
        let judged = async {
            gateway.until_begun(1).await;
            settle().await;
            let drained = within(gateway.shutdown.drain(Duration::ZERO)).await;
            assert_eq!(counts(drained), (0, 0, 1), "{length}, {sent}");
            // The connection ends, with a reset if bytes of the client are unread.
            let _ = within(read.read_to_end(&mut Vec::new())).await;
            within(server).await.expect("no panic");
        };
        tokio::select! {
            () = sending => unreachable!("it never completes"),
            () = judged => {}
        }
    }
}

#[tokio::test]
async fn c24_connection_of_a_handler_that_never_responds_ends_when_it_is_cut() {
    for version in VERSIONS {
        let gateway = Gateway::new();
        let (address, server) = gateway.serve(true, gateway.shutdown.draining()).await;
        let mut client = Client::connect(address, version).await;
        let request = tokio::spawn(async move {
            // The body of the request is never finished.
            let chunks = stream::iter([Ok::<_, Infallible>("x")]).chain(stream::pending());
            client
                .send("POST", "/v1/responses", Body::from_stream(chunks))
                .await
        });
        gateway.until_begun(1).await;
        settle().await;
        let drained = within(gateway.shutdown.drain(Duration::ZERO)).await;
        assert_eq!(counts(drained), (0, 0, 1), "{version:?}");
        within(server).await.expect("no panic");
        // The client gets no response.
        assert!(within(request).await.is_err());
    }
}
