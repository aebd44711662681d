//! A head for a response that is late. Proxies close a connection on which nothing has arrived, and comments need a head.

use std::{future::Future, time::Duration};

use axum::{
    Error,
    body::{Body, BodyDataStream},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::timeout;

/// Returns the response if it arrives within this time. Otherwise the head of an event stream is returned, and the events follow
/// when the response has arrived. The body fails if the response is not an event stream: its status is lost.
pub(crate) async fn respond_within<F>(limit: Duration, response: F) -> Result<Response, StatusCode>
where
    F: Future<Output = Result<Response, StatusCode>> + Send + 'static,
{
    let mut response = Box::pin(response);
    if let Ok(response) = timeout(limit, &mut response).await {
        return response;
    }
    let events = stream::once(response).map(into_events).try_flatten();
    let body = Body::from_stream(events);
    Ok(([(CONTENT_TYPE, "text/event-stream")], body).into_response())
}

fn into_events(response: Result<Response, StatusCode>) -> Result<BodyDataStream, Error> {
    match response {
        Ok(response) if response.status().is_success() && is_event_stream(response.headers()) => {
            Ok(response.into_body().into_data_stream())
        }
        Ok(response) => Err(Error::new(format!(
            "no event stream, but {}",
            response.status()
        ))),
        Err(status) => Err(Error::new(status.to_string())),
    }
}

pub(crate) fn is_event_stream(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
}
