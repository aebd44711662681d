//! An AWS Lambda function whose event streams end before the time limit of the function.
//!
//! Build the example for the target of the function, for example with `cargo lambda build`, and set the invoke mode of the
//! function URL to `RESPONSE_STREAM`.
//!
//! Lambda stops a function at its time limit, and the client of an open stream sees an aborted response. A stream that
//! reaches its maximum age before the time limit ends with a close event.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use futures_util::TryStreamExt;
use http_body::Frame;
use http_body_util::{StreamBody, combinators::UnsyncBoxBody};
use lambda_http::{
    Error, Request, Response,
    http::{HeaderValue, header::CONTENT_TYPE},
    run_with_streaming_response,
    tower::{Layer, Service, service_fn},
};
use tower_sse_completion::{ResponseBody, SseCompletionLayer};

/// Time limit of the function, as configured. Lambda's own maximum is 15 minutes.
const TIME_LIMIT: Duration = Duration::from_secs(15 * 60);

/// Time for the handler to respond, and for the close event to reach the client.
const MARGIN: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> Result<(), Error> {
    run_with_streaming_response(service(TIME_LIMIT - MARGIN)).await
}

type Events = UnsyncBoxBody<Bytes, Infallible>;

pub fn service(
    max_age: Duration,
) -> impl Service<Request, Response = Response<ResponseBody<Events>>, Error = Infallible, Future: Send>
{
    let completion = SseCompletionLayer::new().max_age(max_age);
    completion.layer(service_fn(async |_: Request| Ok(events())))
}

fn events() -> Response<Events> {
    let ticks = StreamBody::new(frameworks::ticks().map_ok(Frame::data));
    let mut response = Response::new(UnsyncBoxBody::new(ticks));
    let event_stream = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(CONTENT_TYPE, event_stream);
    response
}
