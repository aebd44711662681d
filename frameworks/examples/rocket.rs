//! Event streams that end on purpose, in a Rocket app.
//!
//! ```text
//! cargo run -p frameworks --example rocket [-- --port 3000]
//! curl -N http://127.0.0.1:3000/events
//! curl -N http://127.0.0.1:3000/empty
//! ```
//!
//! Rocket has its own request and response types, so Tower layers do not apply. A handler passes its stream of bytes to the
//! layer instead. Rocket handles Ctrl-C and SIGTERM, and a fairing closes the streams at Rocket's shutdown. Without the
//! fairing, Rocket would disconnect the clients inside their responses at the end of its grace period.

use std::{convert::Infallible, error::Error};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use rocket::{
    Build, Config, Request, Rocket, State,
    fairing::AdHoc,
    get,
    http::ContentType,
    request::{FromRequest, Outcome},
    response::stream::ByteStream,
    routes,
};
use tower_sse_completion::{Shutdown, SseCompletionLayer};

#[allow(dead_code, reason = "Rocket makes its own listener")]
#[path = "../../examples/support/listen.rs"]
mod listen;

#[rocket::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (host, port) = listen::host_and_port()?;
    let address = host.parse()?;
    let config = Config {
        address,
        port,
        ..Config::default()
    };
    app(config, &Shutdown::new()).launch().await?;
    Ok(())
}

pub fn app(config: Config, shutdown: &Shutdown) -> Rocket<Build> {
    let completion = SseCompletionLayer::new().shutdown(shutdown);
    let shutdown = shutdown.clone();
    rocket::custom(config)
        .manage(completion)
        .mount("/", routes![events, empty])
        .attach(AdHoc::on_shutdown("close event streams", move |_| {
            Box::pin(async move { shutdown.close() })
        }))
}

type EventStream<S> = (ContentType, ByteStream<S>);

#[get("/events")]
fn events(
    head: Head,
    completion: &State<SseCompletionLayer>,
) -> EventStream<impl Stream<Item = Bytes> + use<>> {
    event_stream(completion.byte_stream(&head.0, frameworks::ticks()))
}

#[get("/empty")]
fn empty(
    head: Head,
    completion: &State<SseCompletionLayer>,
) -> EventStream<impl Stream<Item = Bytes> + use<>> {
    event_stream(completion.byte_stream(&head.0, frameworks::ticks().take(0)))
}

fn event_stream<S>(stream: S) -> EventStream<impl Stream<Item = Bytes> + use<S>>
where
    S: Stream<Item = Result<Bytes, Infallible>>,
{
    // The items of Rocket's `ByteStream` are bytes, not results.
    let bytes = stream.map(|bytes| match bytes {
        Ok(bytes) => bytes,
        Err(never) => match never {},
    });
    (ContentType::EventStream, ByteStream(bytes))
}

/// The head that the closures of `cancel_when` receive. Rocket has its own types for the method, the URI and the headers.
struct Head(http::request::Parts);

#[rocket::async_trait]
impl<'r> FromRequest<'r> for Head {
    type Error = Infallible;

    async fn from_request(request: &'r Request<'_>) -> Outcome<Self, Infallible> {
        let headers: Vec<_> = request.headers().iter().collect();
        let headers = headers
            .iter()
            .map(|header| (header.name().as_str(), header.value().as_bytes()));
        let (method, uri) = (request.method().as_str(), request.uri().to_string());
        Outcome::Success(Self(frameworks::head(method, &uri, headers)))
    }
}
