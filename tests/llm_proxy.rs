//! The proxy example: every way of an upstream to misbehave, cut at every byte, over real sockets.

#[path = "../examples/llm_proxy/main.rs"]
#[allow(dead_code, reason = "main is not called")]
mod llm_proxy;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use testkit::server::{VERSIONS, Version, receive, serve};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tower_sse_completion::Shutdown;

const LONG: Duration = Duration::from_secs(60);

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

/// What an upstream does behind the last of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// Ends its answer as HTTP has it.
    Stop,
    /// Loses the connection.
    Die,
    /// Says no more, and keeps the connection.
    Hang,
}

/// An upstream that gives so many bytes of this answer as the request says, in chunks as large as it says. Written by
/// hand, because a server that cuts a connection may lose chunks.
async fn upstream(answer: &str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let answer: Arc<str> = answer.into();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move { serve_one(connection, &answer).await.expect("a client") });
        }
    });
    address
}

fn request_for(bytes: usize, chunk: usize, then: Then) -> String {
    format!("{{{bytes} {chunk} {then:?}}}")
}

async fn serve_one(mut connection: TcpStream, answer: &str) -> io::Result<()> {
    let mut request = Vec::new();
    // All of it: what is left unread would reset the connection.
    while !request.ends_with(b"}") {
        assert_ne!(
            connection.read_buf(&mut request).await?,
            0,
            "half a request"
        );
    }
    let request = String::from_utf8(request).expect("text");
    assert!(!request.contains("accept-encoding"), "{request}");
    let (_, says) = request.split_once('{').expect("a body");
    let says: Vec<_> = says.trim_end_matches('}').split(' ').collect();
    let number = |index: usize| -> usize { says[index].parse().expect("a number") };

    let mut bytes = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/event-stream\r\n\
        transfer-encoding: chunked\r\n\r\n"
        .to_vec();
    for chunk in answer.as_bytes()[..number(0)].chunks(number(1)) {
        bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        bytes.extend([chunk, b"\r\n"].concat());
    }
    if says[2] == "Stop" {
        bytes.extend(b"0\r\n\r\n");
    }
    connection.write_all(&bytes).await?;
    if says[2] == "Hang" {
        // Until the proxy has closed it.
        let left = connection.read(&mut [0]).await?;
        assert_eq!(left, 0, "more than a request");
    }
    Ok(())
}

async fn serve_proxy(upstream: SocketAddr, shutdown: &Shutdown) -> SocketAddr {
    let proxy = llm_proxy::proxy(&format!("http://{upstream}"), shutdown);
    serve(proxy.expect("valid options")).await
}

async fn post(
    address: SocketAddr,
    version: Version,
    path: &str,
    body: String,
) -> Response<Incoming> {
    let client = Client::builder(TokioExecutor::new())
        .http2_only(version == Version::Http2)
        .build_http();
    let request = Request::post(format!("http://{address}{path}"))
        .header("accept-encoding", "gzip")
        .header("content-type", "application/json")
        .body(Full::<Bytes>::from(body));
    let response = client.request(request.expect("a valid request"));
    within(response).await.expect("a response")
}

async fn text(response: Response<Incoming>) -> String {
    within(receive(response.into_body())).await.text()
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(LONG, future).await.expect("it takes too long")
}

/// What a client gets of an answer of which so many bytes have come.
fn expected(api: &Api, answer: &str, bytes: usize, then: Then) -> String {
    if bytes == answer.len() {
        return answer.to_owned();
    }
    // An event is over with the CR of its blank line. The LF behind that is made good.
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
    let message = match (bytes, then) {
        (0, Then::Stop) => "the model gave no answer",
        _ => "the answer was cut",
    };
    format!("{}{}", &answer[..whole_events], (api.error)(message))
}

/// Every answer cut at every byte, in chunks of one or two bytes, or in one chunk.
async fn cut_everywhere(then: Then) {
    for api in &APIS {
        for answer in [api.answer.to_owned(), api.answer.replace('\n', "\r\n")] {
            let address = serve_proxy(upstream(&answer).await, &Shutdown::new()).await;
            let cut_at = async |bytes| {
                let expected = expected(api, &answer, bytes, then);
                let sizes = [1, 2, answer.len()];
                for (chunk, version) in sizes.into_iter().zip(VERSIONS.into_iter().cycle()) {
                    let request = request_for(bytes, chunk, then);
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
async fn upstream_that_dies_at_any_byte_is_told_of() {
    cut_everywhere(Then::Die).await;
}

#[tokio::test]
async fn upstream_that_stops_at_any_byte_is_told_of() {
    cut_everywhere(Then::Stop).await;
}

#[tokio::test]
async fn whole_answer_arrives_as_it_is_however_its_chunks_are_cut() {
    for api in &APIS {
        let answer = api.answer;
        let address = serve_proxy(upstream(answer).await, &Shutdown::new()).await;
        for chunk in 1..=answer.len() {
            // Whatever the upstream does behind its end mark.
            for then in [Then::Stop, Then::Die, Then::Hang] {
                let request = request_for(answer.len(), chunk, then);
                let response = post(address, Version::Http1, api.path, request).await;
                assert_eq!(response.headers().get("connection"), None);
                assert_eq!(text(response).await, answer, "{chunk} in a chunk, {then:?}");
            }
        }
    }
}

#[tokio::test]
async fn shutdown_tells_the_client_of_an_upstream_that_hangs() {
    for api in &APIS {
        let shutdown = Shutdown::new();
        let address = serve_proxy(upstream(api.answer).await, &shutdown).await;
        let (first, _) = api.answer.split_once("\n\n").expect("an event");
        let mut streams = Vec::new();
        for version in VERSIONS {
            let request = request_for(first.len() + 5, 1000, Then::Hang);
            let mut body = post(address, version, api.path, request).await.into_body();
            let frame = within(body.frame()).await.expect("a frame");
            let data = frame.expect("no error").into_data().expect("data");
            assert_eq!(data, format!("{first}\n\n"));
            streams.push(body);
        }
        shutdown.close();
        for body in streams {
            let rest = within(receive(body)).await.text();
            assert_eq!(rest, (api.error)("the server restarts"));
        }
    }
}

#[tokio::test]
async fn upstream_out_of_reach_is_a_bad_gateway() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let nobody = listener.local_addr().expect("an address");
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
async fn answer_that_is_no_event_stream_stays_as_it_is() {
    let refuse = async |headers: HeaderMap| {
        assert_eq!(headers["authorization"], "Bearer secret");
        let body = r#"{"error":{"message":"too many"}}"#;
        (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "7")], body)
    };
    let models = Router::new().route("/v1/messages", axum::routing::post(refuse));
    let address = serve_proxy(serve(models).await, &Shutdown::new()).await;
    let client = Client::builder(TokioExecutor::new()).build_http();
    let request = Request::post(format!("http://{address}/v1/messages"))
        .header("authorization", "Bearer secret")
        .body(Full::<Bytes>::default());
    let response = client.request(request.expect("a valid request"));
    let response = within(response).await.expect("a response");
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["retry-after"], "7");
    assert_eq!(response.headers()["content-length"], "32");
    assert_eq!(text(response).await, r#"{"error":{"message":"too many"}}"#);
}

#[tokio::test]
async fn upstream_of_the_example_misbehaves_on_demand() {
    let models = serve(llm_proxy::language_models()).await;
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
