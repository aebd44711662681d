//! The proxy example: an upstream that misbehaves in every way, truncated at every byte.

#[path = "../../examples/llm_proxy/main.rs"]
#[allow(dead_code, reason = "main is not called")]
mod example;

use std::{io, net::SocketAddr, sync::Arc};

use axum::Router;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use testkit::server::{VERSIONS, Version, listen, next_data, receive, send, serve};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tower_sse_completion::Shutdown;

struct Api {
    path: &'static str,
    answer: &'static str,
    error: fn(&str) -> String,
}

const APIS: [Api; 2] = [
    Api {
        path: "/v1/chat/completions",
        answer: "data: {\"choices\":[{\"delta\":{\"content\":\"hé [DONE]\"}}]}\n\ndata: [DONE]\n\n",
        error: |message| {
            let error = format!(r#"{{"message":"{message}","type":"server_error"}}"#);
            format!("event: error\ndata: {{\"error\":{error}}}\n\n")
        },
    },
    Api {
        path: "/v1/messages",
        answer: "event: delta\ndata: {\"text\":\"message_stop\"}\n\n\
                 event: message_stop\ndata: {\"type\":\"message_stop\" }\n\n",
        error: |message| {
            let error = format!(r#"{{"type":"overloaded_error","message":"{message}"}}"#);
            format!("event: error\ndata: {{\"type\":\"error\",\"error\":{error}}}\n\n")
        },
    },
];

/// What an upstream does after its last byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UpstreamEnd {
    /// Sends the final chunk.
    Stop,
    /// Closes the connection without a final chunk.
    Die,
    /// Sends nothing more, and keeps the connection open.
    Hang,
}

/// Serves the first bytes of this answer. Each request states the number of bytes, the size of the chunks, and the
/// end. The server is hand-written, because hyper may lose chunks when a connection fails.
async fn upstream(answer: &str) -> SocketAddr {
    let (listener, address) = listen().await;
    let answer: Arc<str> = answer.into();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move { serve_one(connection, &answer).await.expect("a client") });
        }
    });
    address
}

fn request_for(bytes: usize, chunk: usize, end: UpstreamEnd) -> String {
    format!("{{{bytes} {chunk} {end:?}}}")
}

async fn serve_one(mut connection: TcpStream, answer: &str) -> io::Result<()> {
    let mut request = Vec::new();
    // An unread rest of the request would reset the connection.
    while !request.ends_with(b"}") {
        assert_ne!(
            connection.read_buf(&mut request).await?,
            0,
            "half a request"
        );
    }
    let request = String::from_utf8(request).expect("text");
    assert!(!request.contains("accept-encoding"), "{request}");
    let (_, options) = request.split_once('{').expect("a body");
    let options: Vec<_> = options.trim_end_matches('}').split(' ').collect();
    let number = |index: usize| -> usize { options[index].parse().expect("a number") };

    let mut bytes = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/event-stream\r\n\
        transfer-encoding: chunked\r\n\r\n"
        .to_vec();
    for chunk in answer.as_bytes()[..number(0)].chunks(number(1)) {
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
    let proxy = example::proxy(&format!("http://{upstream}"), shutdown);
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

/// Returns the text that a client receives if the proxy has received this many bytes of the answer.
fn expected(api: &Api, answer: &str, bytes: usize, end: UpstreamEnd) -> String {
    if bytes == answer.len() {
        return answer.to_owned();
    }
    // An event is complete with the CR of its blank line. The layer adds the missing LF.
    let (blank_line, spare) = match answer.contains('\r') {
        true => ("\r\n\r\n", 1),
        false => ("\n\n", 0),
    };
    let ends = answer.match_indices(blank_line);
    let whole_events = ends
        .map(|(index, _)| index + blank_line.len())
        .take_while(|end| *end <= bytes + spare)
        .last()
        .unwrap_or(0);
    let message = match (bytes, end) {
        (0, UpstreamEnd::Stop) => "the model gave no answer",
        _ => "the answer was cut",
    };
    format!("{}{}", &answer[..whole_events], (api.error)(message))
}

/// Truncates every answer at every byte, in chunks of one or two bytes, or in one chunk.
async fn cut_everywhere(end: UpstreamEnd) {
    for api in &APIS {
        for answer in [api.answer.to_owned(), api.answer.replace('\n', "\r\n")] {
            let address = serve_proxy(upstream(&answer).await, &Shutdown::new()).await;
            let cut_at = async |bytes| {
                let expected = expected(api, &answer, bytes, end);
                let sizes = [1, 2, answer.len()];
                for (chunk, version) in sizes.into_iter().zip(VERSIONS.into_iter().cycle()) {
                    let request = request_for(bytes, chunk, end);
                    let received = text(post(address, version, api.path, request).await).await;
                    assert_eq!(received, expected, "{bytes} bytes, {chunk} in a chunk");
                }
            };
            stream::iter(0..=answer.len())
                .for_each_concurrent(16, cut_at)
                .await;
        }
    }
}

#[tokio::test]
async fn upstream_that_dies_at_any_byte_is_reported_to_the_client() {
    cut_everywhere(UpstreamEnd::Die).await;
}

#[tokio::test]
async fn upstream_that_stops_at_any_byte_is_reported_to_the_client() {
    cut_everywhere(UpstreamEnd::Stop).await;
}

#[tokio::test]
async fn complete_answer_is_forwarded_unchanged_in_chunks_of_any_size() {
    for api in &APIS {
        let answer = api.answer;
        let address = serve_proxy(upstream(answer).await, &Shutdown::new()).await;
        for chunk in 1..=answer.len() {
            // The end of the upstream after its end mark does not matter.
            for end in [UpstreamEnd::Stop, UpstreamEnd::Die, UpstreamEnd::Hang] {
                let request = request_for(answer.len(), chunk, end);
                let response = post(address, Version::Http1, api.path, request).await;
                assert_eq!(response.headers().get("connection"), None);
                assert_eq!(text(response).await, answer, "{chunk} in a chunk, {end:?}");
            }
        }
    }
}

#[tokio::test]
async fn shutdown_is_reported_to_the_client_of_an_upstream_that_hangs() {
    for api in &APIS {
        let shutdown = Shutdown::new();
        let address = serve_proxy(upstream(api.answer).await, &shutdown).await;
        let (first, _) = api.answer.split_once("\n\n").expect("an event");
        let mut streams = Vec::new();
        for version in VERSIONS {
            let request = request_for(first.len() + 5, 1000, UpstreamEnd::Hang);
            let mut body = post(address, version, api.path, request).await.into_body();
            assert_eq!(next_data(&mut body).await, format!("{first}\n\n"));
            streams.push(body);
        }
        shutdown.close();
        for body in streams {
            let rest = receive(body).await.text();
            assert_eq!(rest, (api.error)("the server restarts"));
        }
    }
}

#[tokio::test]
async fn unreachable_upstream_is_a_bad_gateway() {
    let (listener, nobody) = listen().await;
    drop(listener);
    let address = serve_proxy(nobody, &Shutdown::new()).await;
    for version in VERSIONS {
        for api in &APIS {
            let response = post(address, version, api.path, "{}".to_owned()).await;
            assert_eq!(response.status(), 502);
            assert_eq!(text(response).await, "");
        }
    }
}

#[tokio::test]
async fn answer_that_is_not_an_event_stream_is_forwarded_unchanged() {
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
            last.contains("[DONE]") || last.contains("message_stop"),
            "{last:?}"
        );
        let cut = format!("{first}\n\n{}", (api.error)("the answer was cut"));
        assert_eq!(get("stop").await, cut);
        assert_eq!(get("die").await, cut);
        assert_eq!(
            get("say-nothing").await,
            (api.error)("the model gave no answer")
        );
    }
}
