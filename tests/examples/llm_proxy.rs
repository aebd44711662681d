//! The proxy example: an upstream that misbehaves in every way, truncated at every byte; late heads, and connections that are used
//! again.

#[path = "../../examples/llm_proxy/main.rs"]
#[allow(dead_code, reason = "main is not called")]
mod example;

use std::{
    future::ready,
    io::{self, Write},
    mem,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, middleware::map_response, response::IntoResponse, serve::ListenerExt};
use bytes::Bytes;
use example::ReadOn;
use flate2::{Compression, write::GzEncoder};
use futures_util::{StreamExt, stream};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use testkit::{
    server::{VERSIONS, Version, listen, next_data, receive, send, serve},
    wait::within,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    time::{Instant, sleep},
};
use tower::{Layer, ServiceExt, service_fn};
use tower_http::compression::{CompressionLayer, predicate::SizeAbove};
use tower_sse_completion::{Shutdown, SseCompletionLayer};

struct Api {
    path: &'static str,
    has_end_mark: bool,
    events: &'static str,
    error: fn(&str) -> String,
}

const OPENAI_ERROR: fn(&str) -> String = |message| {
    let error = format!(r#"{{"message":"{message}","type":"server_error"}}"#);
    format!("event: error\ndata: {{\"error\":{error}}}\n\n")
};

const APIS: [Api; 3] = [
    Api {
        path: "/v1/chat/completions",
        has_end_mark: true,
        events: "data: {\"choices\":[{\"delta\":{\"content\":\"hé [DONE]\"}}]}\n\ndata: [DONE]\n\n",
        error: OPENAI_ERROR,
    },
    Api {
        path: "/v1/responses",
        has_end_mark: true,
        // The last event is long, and begins with the end mark.
        events: "event: delta\ndata: {\"delta\":\"response.completed\"}\n\n\
                 event:response.completed\n\
                 data: {\"text\":\"the last event repeats the text of the whole response\",\n\
                 data: \"id\":1}\n\n",
        error: OPENAI_ERROR,
    },
    Api {
        path: "/v1/messages",
        has_end_mark: true,
        events: "event: delta\ndata: {\"text\":\"message_stop\"}\n\n\
                 event: message_stop\ndata: {\"type\":\"message_stop\" }\n\n",
        error: |message| {
            let error = format!(r#"{{"type":"overloaded_error","message":"{message}"}}"#);
            format!("event: error\ndata: {{\"type\":\"error\",\"error\":{error}}}\n\n")
        },
    },
];

/// An API for which the proxy has no end mark.
const OTHER: Api = Api {
    path: "/v1/engines/1/completions?stream=1",
    has_end_mark: false,
    events: "data: {\"text\":\"hé\"}\n\ndata: {\"text\":\"!\"}\n\n",
    error: OPENAI_ERROR,
};

/// Behaviour of an upstream after its last byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UpstreamEnd {
    /// Sends the final chunk.
    Stop,
    /// Closes the connection without a final chunk.
    Die,
    /// Sends nothing more, and keeps the connection open.
    Hang,
}

/// Serves the first bytes of the response of this API. Each request states the number of bytes, the size of the chunks, and the
/// end. The server is hand-written, because hyper may lose chunks when a connection fails.
async fn upstream(path: &'static str, events: &str) -> SocketAddr {
    let (listener, address) = listen().await;
    let events: Arc<str> = events.into();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let events = Arc::clone(&events);
            tokio::spawn(async move {
                let request = read_request(&mut connection).await;
                assert!(request.starts_with(&format!("POST {path} HTTP/1.1\r\n")));
                assert!(request.contains("\r\naccept-encoding: identity\r\n"));
                respond(connection, &request, &events)
                    .await
                    .expect("a client");
            });
        }
    });
    address
}

fn encode_request(bytes: usize, chunk: usize, end: UpstreamEnd) -> String {
    format!("{{{bytes} {chunk} {end:?}}}")
}

/// Accepts a connection of the proxy, and reads its request.
async fn accept(listener: &TcpListener) -> TcpStream {
    let (mut connection, _) = within(listener.accept()).await.expect("the proxy");
    read_request(&mut connection).await;
    connection
}

/// Reads a request to the end of its body, because unread bytes would reset the connection.
async fn read_request(connection: &mut TcpStream) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"}") {
        let read = connection.read_buf(&mut request).await;
        assert_ne!(read.expect("a request"), 0, "half a request");
    }
    String::from_utf8(request).expect("text")
}

async fn respond(mut connection: TcpStream, request: &str, events: &str) -> io::Result<()> {
    let (_, options) = request.split_once('{').expect("a body");
    let options: Vec<_> = options.trim_end_matches('}').split(' ').collect();
    let number = |index: usize| -> usize { options[index].parse().expect("a number") };

    let mut bytes = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/event-stream\r\n\
        transfer-encoding: chunked\r\n\r\n"
        .to_vec();
    for chunk in events.as_bytes()[..number(0)].chunks(number(1)) {
        bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        bytes.extend([chunk, b"\r\n"].concat());
    }
    if options[2] == "Stop" {
        bytes.extend(b"0\r\n\r\n");
    }
    connection.write_all(&bytes).await?;
    if options[2] == "Hang" {
        // The connection stays open until the proxy closes it.
        let left = connection.read(&mut [0]).await?;
        assert_eq!(left, 0, "more than a request");
    }
    Ok(())
}

async fn serve_proxy(upstream: SocketAddr, shutdown: &Shutdown) -> SocketAddr {
    serve_proxy_with_head_limit(upstream, shutdown, Duration::from_secs(3600)).await
}

async fn serve_proxy_with_head_limit(
    upstream: SocketAddr,
    shutdown: &Shutdown,
    limit: Duration,
) -> SocketAddr {
    let proxy = example::proxy(&format!("http://{upstream}"), shutdown, limit);
    serve(proxy.expect("valid options")).await
}

async fn post(
    address: SocketAddr,
    version: Version,
    path: &str,
    body: String,
) -> Response<Incoming> {
    let request = Request::post(format!("http://{address}{path}"))
        .header("accept-encoding", "gzip")
        .header("content-type", "application/json")
        .body(Full::<Bytes>::from(body));
    send(version, request.expect("a valid request")).await
}

async fn text(response: Response<Incoming>) -> String {
    receive(response.into_body()).await.text()
}

/// Returns the text that a client receives if the proxy has received this many bytes of the events.
fn expected(api: &Api, events: &str, bytes: usize, end: UpstreamEnd) -> String {
    // An event is complete with the CR of its blank line. The layer adds a missing LF.
    let (blank_line, spare) = match events.contains('\r') {
        true => ("\r\n\r\n", 1),
        false => ("\n\n", 0),
    };
    let ends = events.match_indices(blank_line);
    let whole_events = ends
        .map(|(index, _)| index + blank_line.len())
        .take_while(|end| *end <= bytes + spare)
        .last()
        .unwrap_or(0);
    let is_complete = match api.has_end_mark {
        true => whole_events == events.len(),
        false => end == UpstreamEnd::Stop && 0 < bytes && bytes <= whole_events,
    };
    if is_complete {
        let sent = if api.has_end_mark {
            whole_events
        } else {
            bytes
        };
        return events[..sent].to_owned();
    }
    let unfinished = events.as_bytes().get(whole_events..bytes);
    if end == UpstreamEnd::Stop && unfinished.is_some_and(|event| is_unfinished_mark(api, event)) {
        let missing = match events.as_bytes()[bytes - 1] {
            b'\n' => "\n",
            _ => "\n\n",
        };
        return format!("{}{missing}", &events[..bytes]);
    }
    let message = match (bytes, end) {
        (0, UpstreamEnd::Stop) => "the model has sent nothing",
        _ => "the response is incomplete",
    };
    format!("{}{}", &events[..whole_events], (api.error)(message))
}

/// Returns `true` if this beginning of an event is an end mark without its blank line.
fn is_unfinished_mark(api: &Api, event: &[u8]) -> bool {
    if api.path == "/v1/chat/completions" {
        return event.trim_ascii_end() == b"data: [DONE]";
    }
    // The event has its data only with the end of the line of the data.
    let has_data = event.windows(5).any(|field| field == b"data:");
    let is_last_event = event.starts_with(b"event:response") || event.starts_with(b"event: mess");
    is_last_event && has_data && event.ends_with(b"\n") | event.ends_with(b"\r")
}

/// The chunks have one byte, two bytes, or all bytes.
#[tokio::test]
async fn upstream_that_dies_or_stops_at_any_byte_is_reported_to_the_client() {
    for api in APIS.iter().chain([&OTHER]) {
        for events in [api.events.to_owned(), api.events.replace('\n', "\r\n")] {
            let models = upstream(api.path, &events).await;
            let address = serve_proxy(models, &Shutdown::new()).await;
            let truncate_at = async |(bytes, end)| {
                let chunk = [1, 2, events.len()][bytes % 3];
                let version = VERSIONS[bytes % 2];
                let request = encode_request(bytes, chunk, end);
                let response = post(address, version, api.path, request).await;
                assert_eq!(response.headers().get("connection"), None);
                let expected = expected(api, &events, bytes, end);
                assert_eq!(
                    text(response).await,
                    expected,
                    "{end:?} after {bytes} bytes, {chunk} in a chunk, {version:?}"
                );
            };
            let all = events.len();
            let ends = [UpstreamEnd::Die, UpstreamEnd::Stop];
            let truncated = (0..=all).flat_map(|bytes| ends.map(|end| (bytes, end)));
            // The end of the upstream after its end mark does not matter.
            let complete = api.has_end_mark.then_some((all, UpstreamEnd::Hang));
            stream::iter(truncated.chain(complete))
                .for_each_concurrent(16, truncate_at)
                .await;
        }
    }
}

#[tokio::test]
async fn shutdown_is_reported_to_the_client_of_an_upstream_that_hangs() {
    for api in &APIS {
        let shutdown = Shutdown::new();
        let address = serve_proxy(upstream(api.path, api.events).await, &shutdown).await;
        let (first, _) = api.events.split_once("\n\n").expect("an event");
        let mut streams = Vec::new();
        for version in VERSIONS {
            let request = encode_request(first.len() + 5, 1000, UpstreamEnd::Hang);
            let mut body = post(address, version, api.path, request).await.into_body();
            assert_eq!(next_data(&mut body).await, format!("{first}\n\n"));
            streams.push(body);
        }
        shutdown.close();
        for body in streams {
            let rest = receive(body).await.text();
            assert_eq!(rest, (api.error)("the server is restarting"));
        }
    }
}

#[tokio::test]
async fn unreachable_upstream_is_a_bad_gateway() {
    let (listener, unreachable) = listen().await;
    drop(listener);
    let address = serve_proxy(unreachable, &Shutdown::new()).await;
    for version in VERSIONS {
        for api in &APIS {
            let response = post(address, version, api.path, "{}".to_owned()).await;
            assert_eq!(response.status(), 502);
            assert_eq!(text(response).await, "");
        }
    }
}

#[tokio::test]
async fn response_that_is_not_an_event_stream_is_forwarded_unchanged() {
    let refuse = async |headers: HeaderMap| {
        assert_eq!(headers["authorization"], "Bearer secret");
        let body = r#"{"error":{"message":"too many"}}"#;
        (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "7")], body)
    };
    let models = Router::new().route("/v1/messages", axum::routing::post(refuse));
    let address = serve_proxy(serve(models).await, &Shutdown::new()).await;
    let request = Request::post(format!("http://{address}/v1/messages"))
        .header("authorization", "Bearer secret")
        .body(Full::<Bytes>::default());
    let response = send(Version::Http1, request.expect("a valid request")).await;
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["retry-after"], "7");
    assert_eq!(response.headers()["content-length"], "32");
    assert_eq!(text(response).await, r#"{"error":{"message":"too many"}}"#);
}

#[tokio::test]
async fn upstream_of_the_example_misbehaves_on_demand() {
    let models = serve(example::language_models()).await;
    let address = serve_proxy(models, &Shutdown::new()).await;
    for api in &APIS {
        let get = async |behaviour: &str| {
            text(post(address, Version::Http1, api.path, behaviour.to_owned()).await).await
        };
        let whole = get("all").await;
        let (first, last) = whole.split_once("\n\n").expect("two events");
        assert!(
            ["[DONE]", "message_stop", "completed"]
                .iter()
                .any(|mark| last.contains(mark)),
            "{last:?}"
        );
        let error = (api.error)("the response is incomplete");
        assert_eq!(get("stop").await, format!("{first}\n\n{error}"));
        assert_eq!(get("die").await, format!("{first}\n\n{error}"));
        let error = (api.error)("the model has sent nothing");
        assert_eq!(get("say-nothing").await, error);
    }
}

#[tokio::test]
async fn client_that_leaves_stops_the_upstream_before_and_after_the_head() {
    let (listener, models) = listen().await;
    let address = serve_proxy(models, &Shutdown::new()).await;
    for version in VERSIONS {
        for api in APIS.iter().chain([&OTHER]) {
            // A model that thinks sends neither a head nor an event.
            let client = tokio::spawn(post(address, version, api.path, "{}".to_owned()));
            let connection = accept(&listener).await;
            client.abort();
            assert_disconnected(connection).await;

            let body = async {
                let response = post(address, version, api.path, "{}".to_owned()).await;
                let mut body = response.into_body();
                next_data(&mut body).await;
                body
            };
            let stream = async {
                let mut connection = accept(&listener).await;
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
                let response = format!("{head}{}", &api.events[..api.events.len() - 1]);
                let sent = connection.write_all(response.as_bytes()).await;
                sent.expect("the proxy reads");
                connection
            };
            let (body, connection) = tokio::join!(body, stream);
            drop(body);
            assert_disconnected(connection).await;
        }
    }
}

/// Asserts that the other end closes or resets this connection without a further byte.
async fn assert_disconnected(mut connection: TcpStream) {
    let read = within(connection.read(&mut [0])).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}

#[tokio::test]
async fn connections_to_an_upstream_that_ends_after_its_mark_are_used_again() {
    // The final chunk follows the end mark after 20 ms.
    let respond = async || {
        let chunks = stream::iter(["data: [DONE]\n\n", ""]).enumerate();
        let chunks = chunks.then(async |(index, chunk)| {
            sleep(Duration::from_millis(20) * u32::from(index > 0)).await;
            Ok::<_, io::Error>(chunk)
        });
        let body = axum::body::Body::from_stream(chunks);
        ([("content-type", "text/event-stream")], body)
    };
    let models = Router::new().fallback(respond);
    let (listener, address) = listen().await;
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&connections);
    let listener = listener.tap_io(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    tokio::spawn(async { axum::serve(listener, models).await });

    let address = serve_proxy(address, &Shutdown::new()).await;
    for _ in 0..30 {
        let response = post(address, Version::Http1, APIS[0].path, "{}".to_owned()).await;
        assert_eq!(text(response).await, "data: [DONE]\n\n");
        sleep(Duration::from_millis(40)).await;
    }
    // Without `ReadOn`, nearly every request has a connection of its own.
    let connections = connections.load(Ordering::Relaxed);
    assert!(connections <= 10, "{connections}");
}

/// Returns a body, the sender of its data, and a receiver of the value `true` when the body has been polled to its end.
fn observed_body() -> (ReadOn, mpsc::Sender<&'static str>, oneshot::Receiver<bool>) {
    let (sender, receiver) = mpsc::channel(8);
    let (ended, has_ended) = oneshot::channel();
    let chunks = stream::unfold((receiver, ended), |(mut receiver, ended)| async {
        match receiver.recv().await {
            Some(chunk) => Some((Ok::<_, io::Error>(chunk), (receiver, ended))),
            None => {
                let _ = ended.send(true);
                None
            }
        }
    });
    let body = ReadOn::new(axum::body::Body::from_stream(chunks));
    (body, sender, has_ended)
}

#[tokio::test(start_paused = true)]
async fn dropped_body_reads_on_to_the_end() {
    let (body, sender, has_ended) = observed_body();
    drop(body);
    sleep(Duration::from_millis(499)).await;
    drop(sender);
    assert_eq!(has_ended.await, Ok(true));
}

#[tokio::test(start_paused = true)]
async fn dropped_body_waits_half_a_second_for_an_upstream_that_hangs() {
    let (mut body, sender, has_ended) = observed_body();
    sender.send("text").await.expect("the body is open");
    let frame = body.frame().await.expect("a frame").expect("no error");
    assert_eq!(frame.into_data().expect("data"), "text");

    let dropped_at = Instant::now();
    drop(body);
    sender.closed().await;
    assert_eq!(dropped_at.elapsed(), Duration::from_millis(500));
    assert!(has_ended.await.is_err());
}

#[tokio::test(start_paused = true)]
async fn dropped_body_ends_an_upstream_that_goes_on() {
    let (body, sender, has_ended) = observed_body();
    let dropped_at = Instant::now();
    drop(body);
    sender.send("text").await.expect("the body is open");
    sender.closed().await;
    assert_eq!(dropped_at.elapsed(), Duration::ZERO);
    assert!(has_ended.await.is_err());
}

#[tokio::test]
async fn late_head_is_sent_before_the_upstream_responds() {
    let (listener, models) = listen().await;
    let address = serve_proxy_with_head_limit(models, &Shutdown::new(), Duration::ZERO).await;
    let api = &APIS[2];
    for (head, expected) in [
        (
            "200 OK\r\ncontent-type: text/event-stream",
            api.events.to_owned(),
        ),
        // The status is lost.
        (
            "429 Too Many Requests",
            (api.error)("the response is incomplete"),
        ),
    ] {
        for version in VERSIONS {
            let question = r#"{"stream": true}"#.to_owned();
            let response = within(post(address, version, api.path, question)).await;
            assert_eq!(response.status(), 200);
            assert_eq!(response.headers()["content-type"], "text/event-stream");

            let mut connection = accept(&listener).await;
            let late = format!("HTTP/1.1 {head}\r\nconnection: close\r\n\r\n{}", api.events);
            connection
                .write_all(late.as_bytes())
                .await
                .expect("the proxy reads");
            drop(connection);
            assert_eq!(text(response).await, expected);
        }
    }
}

#[tokio::test]
async fn head_is_never_early_for_a_request_without_a_stream() {
    let (listener, models) = listen().await;
    let address = serve_proxy_with_head_limit(models, &Shutdown::new(), Duration::ZERO).await;
    for question in [r#"{"stream": false}"#, r#"{"model": "m"}"#] {
        let client = post(address, Version::Http1, APIS[0].path, question.to_owned());
        let refuse = async {
            let mut connection = accept(&listener).await;
            let refusal = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n";
            connection
                .write_all(refusal)
                .await
                .expect("the proxy reads");
            connection
        };
        let (response, _connection) = tokio::join!(client, refuse);
        assert_eq!(response.status(), 429);
    }
}

#[tokio::test(start_paused = true)]
async fn comments_precede_a_late_response() {
    const EVENTS: &str = "data: [DONE]\n\n";
    let layer = SseCompletionLayer::new().keep_alive(Duration::from_secs(15));
    let service = layer.layer(service_fn(async |_: Request<()>| {
        let response = async {
            sleep(Duration::from_secs(50)).await;
            Ok(([("content-type", "text/event-stream")], EVENTS).into_response())
        };
        example::respond_within(Duration::from_secs(10), response).await
    }));
    let response = service.oneshot(Request::new(())).await.expect("a head");
    let body = response.into_body().collect().await.expect("no error");
    assert_eq!(body.to_bytes(), format!(":\n\n:\n\n{EVENTS}"));
}

#[tokio::test]
async fn upstream_that_can_compress_receives_a_request_for_identity() {
    let (sent, mut codings) = mpsc::unbounded_channel();
    let record = move |response: Response<axum::body::Body>| {
        let coding = response.headers().get("content-encoding").cloned();
        ready(
            sent.send(coding)
                .map_or_else(|_| unreachable!(), |()| response),
        )
    };
    let models = example::language_models()
        .layer(CompressionLayer::new().compress_when(SizeAbove::new(0)))
        .layer(map_response(record));
    let models = serve(models).await;
    let address = serve_proxy(models, &Shutdown::new()).await;
    for api in &APIS {
        // The client accepts gzip, as this request without the proxy shows.
        drop(post(models, Version::Http1, api.path, "all".to_owned()).await);
        assert_eq!(codings.recv().await.flatten().expect("a coding"), "gzip");

        let response = post(address, Version::Http1, api.path, "stop".to_owned()).await;
        assert_eq!(codings.recv().await, Some(None));
        let text = text(response).await;
        assert!(
            text.ends_with(&(api.error)("the response is incomplete")),
            "{text:?}"
        );
    }
}

/// Compresses texts into one stream, which is flushed after each text and then ends.
fn gzip(texts: &[&str]) -> Vec<io::Result<Bytes>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let mut chunks = Vec::new();
    for text in texts {
        encoder.write_all(text.as_bytes()).expect("no I/O");
        encoder.flush().expect("no I/O");
        chunks.push(Ok(mem::take(encoder.get_mut()).into()));
    }
    chunks.push(Ok(encoder.finish().expect("no I/O").into()));
    chunks
}

/// Serves a compressed event stream, although the proxy has asked for none.
async fn serve_compressed(
    coding: &'static str,
    body: impl Fn() -> axum::body::Body + Clone + Send + Sync + 'static,
) -> SocketAddr {
    let respond = move || {
        let headers = [
            ("content-type", "text/event-stream"),
            ("content-encoding", coding),
        ];
        ready((headers, body()))
    };
    serve(Router::new().fallback(respond)).await
}

#[tokio::test]
async fn upstream_that_compresses_nevertheless_is_decompressed() {
    for api in APIS.iter().chain([&OTHER]) {
        let (first, last) = api
            .events
            .split_at(api.events.find("\n\n").expect("an event") + 2);
        // The compressed stream ends properly, is truncated, or stays open.
        let stream = |chunks: usize, hangs: bool| {
            let body = move || {
                let chunks = stream::iter(gzip(&[first, last]).into_iter().take(chunks));
                let rest = stream::iter(hangs.then(stream::pending)).flatten();
                axum::body::Body::from_stream(chunks.chain(rest))
            };
            serve_compressed("gzip", body)
        };
        let shutdown = Shutdown::new();
        let get = async |models| {
            let address = serve_proxy(models, &shutdown).await;
            let response = post(address, Version::Http1, api.path, "{}".to_owned()).await;
            assert_eq!(response.headers().get("content-encoding"), None);
            response.into_body()
        };
        let complete = get(stream(3, false).await).await;
        assert_eq!(receive(complete).await.text(), api.events);
        let truncated = get(stream(1, false).await).await;
        let error = (api.error)("the response is incomplete");
        assert_eq!(receive(truncated).await.text(), format!("{first}{error}"));

        let mut open = get(stream(1, true).await).await;
        assert_eq!(next_data(&mut open).await, first);
        shutdown.close();
        let error = (api.error)("the server is restarting");
        assert_eq!(receive(open).await.text(), error);
    }
}

#[tokio::test]
async fn event_stream_in_an_unknown_coding_is_a_bad_gateway() {
    let models = serve_compressed("br", || axum::body::Body::from("not brotli")).await;
    let address = serve_proxy(models, &Shutdown::new()).await;
    for api in APIS.iter().chain([&OTHER]) {
        let response = post(address, Version::Http1, api.path, "{}".to_owned()).await;
        assert_eq!(response.status(), 502);
        assert_eq!(text(response).await, "");
    }
}
