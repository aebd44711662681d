//! A gateway whose upstream dies before its first event. A path names the client, the situation and the test:
//!
//! ```text
//! /first_event/openai/dead_once/TEST/chat/completions
//! ```
//!
//! | situation | the upstream |
//! |---|---|
//! | `dead_once` | ends without an event, and is complete from the second request on |
//! | `dead` | fails after a comment |
//! | `preamble` | fails after the event that announces a response |
//! | `rejected` | sends an error as its first event, because the request is invalid |
//! | `overloaded` | sends an error as its first event, in the form of chat completions |
//! | `unframed` | sends an error without framing |
//! | `silent` | sends a comment, and nothing more |
//!
//! Below `/ungated`, the head is not held.
//!
//! `GET /requests/CLIENT/SITUATION/TEST` returns the number of requests.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::Path,
    http::{HeaderValue, Response, StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::{get, post},
};
use futures_util::{StreamExt, stream};
use tower_sse_completion::first_event::{Decision, FirstEventLayer, HeldStream, State};

use crate::{samples::Sample, table::CLIENTS};

const CEILING: Duration = Duration::from_millis(300);
const COMMENT: &str = ": comment\n\n";
const REJECTED: &str = concat!(
    "event: error\n",
    r#"data: {"type":"error","error":{"type":"invalid_request_error","message":"no such model"}}"#,
    "\n\n",
);
const OVERLOADED: &str = "data: {\"error\":{\"message\":\"overloaded\"}}\n\n";
const UNFRAMED: &str = r#"{"error":{"message":"no such model"}}"#;

/// The number of requests for each path of a test.
type Requests = Arc<Mutex<HashMap<String, usize>>>;

pub fn routes() -> Router {
    let requests = Requests::default();
    let counted = Arc::clone(&requests);
    let counts = async move |Path(test): Path<String>| {
        let requests = requests.lock().expect("no panic");
        requests.get(&test).copied().unwrap_or_default().to_string()
    };
    let counts = Router::new().route("/requests/{*test}", get(counts));
    CLIENTS
        .iter()
        .fold(counts, |routes, (name, layer, sample)| {
            let requests = Arc::clone(&counted);
            let respond = async move |Path(path): Path<String>| {
                let mut segments = path.splitn(3, '/');
                let situation = segments.next().unwrap_or_default();
                let test = segments.next().unwrap_or_default();
                let mut requests = requests.lock().expect("no panic");
                let request = requests.entry(format!("{name}/{situation}/{test}"));
                let request = request.and_modify(|count| *count += 1).or_insert(1);
                upstream(*sample, situation, *request)
            };
            let completion = layer().close_on_failed(true);
            let ungated = Router::new().route("/{*path}", post(respond));
            let gate = FirstEventLayer::new(CEILING, decide);
            routes
                .nest(
                    &format!("/first_event/{name}"),
                    ungated.clone().layer(gate).layer(completion.clone()),
                )
                .nest(&format!("/ungated/{name}"), ungated.layer(completion))
        })
}

/// The decisions of a gateway. `docs/first_event.md` quotes this function, and a test compares the two.
fn decide(held: &HeldStream<'_>) -> Decision {
    let (status, json) = match held.state() {
        State::Event(event) => match event.event_type() {
            // The model may still fail after these events.
            "message_start" | "ping" | "response.created" => return Decision::Wait,
            name if name == "error" || event.data().starts_with(r#"{"error""#) => {
                (StatusCode::BAD_GATEWAY, event.data().to_owned().into())
            }
            _ => return Decision::Forward,
        },
        State::Full => return Decision::Forward,
        // An error without framing.
        State::Ended | State::Truncated if held.bytes().starts_with(b"{") => {
            (StatusCode::BAD_GATEWAY, held.bytes())
        }
        State::Failed(error) => {
            eprintln!("the model has failed: {error}");
            (StatusCode::BAD_GATEWAY, object("the model has failed"))
        }
        State::TimedOut => (StatusCode::GATEWAY_TIMEOUT, object("the model is silent")),
        State::Cancelled => (StatusCode::SERVICE_UNAVAILABLE, object("restart")),
        _ => (StatusCode::BAD_GATEWAY, object("the model has failed")),
    };
    let mut response = Response::new(json);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if matches!(held.state(), State::Event(event) if event.data().contains("invalid_request_error"))
    {
        headers.insert("x-should-retry", HeaderValue::from_static("false"));
    }
    Decision::Respond(response)
}

fn object(message: &str) -> Bytes {
    Bytes::from(format!(r#"{{"error":{{"message":"{message}"}}}}"#))
}

fn upstream(sample: Sample, situation: &str, request: usize) -> Response<Body> {
    let preamble = sample[0].split_inclusive("\n\n").next().unwrap_or_default();
    let frames = match situation {
        "dead_once" if request > 1 => sample.to_vec(),
        "dead" | "silent" => vec![COMMENT],
        "preamble" => vec![preamble],
        "rejected" => vec![REJECTED],
        "overloaded" => vec![OVERLOADED],
        "unframed" => vec![UNFRAMED],
        _ => vec![],
    };
    let frames = stream::iter(frames).map(Ok);
    let frames = match situation {
        "dead" | "preamble" => {
            let failed = Err(io::Error::other("the connection was reset"));
            frames.chain(stream::iter([failed])).boxed()
        }
        "silent" => frames.chain(stream::pending()).boxed(),
        _ => frames.boxed(),
    };
    let body = Body::from_stream(frames);
    ([(CONTENT_TYPE, "text/event-stream")], body).into_response()
}
