//! The response future: decides what becomes of the body.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use crate::{
    body::ResponseBody,
    cancel::NeverCancel,
    config::Config,
    eligibility::{self, Completed},
    report::telemetry::Telemetry,
};

pin_project! {
    /// Response future of [`SseCompletion`](crate::SseCompletion).
    #[derive(Debug)]
    pub struct ResponseFuture<F, C = NeverCancel> {
        #[pin]
        inner: F,
        // `None` once it is used, or where the method rules an event stream out.
        stream: Option<StreamParts<C>>,
    }
}

/// What the request leaves for the body, should it be an event stream.
#[derive(Debug)]
pub(crate) struct StreamParts<C> {
    pub(crate) cancellation: C,
    pub(crate) config: Arc<Config>,
    pub(crate) telemetry: Telemetry,
}

impl<C> StreamParts<C> {
    /// For the request that is being called.
    pub(crate) fn new(cancellation: C, config: &Arc<Config>) -> Self {
        Self {
            cancellation,
            config: Arc::clone(config),
            telemetry: Telemetry::of_request(),
        }
    }
}

impl<F, C> ResponseFuture<F, C> {
    pub(crate) fn new(inner: F, stream: Option<StreamParts<C>>) -> Self {
        Self { inner, stream }
    }
}

impl<F, C, B, E> Future for ResponseFuture<F, C>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<ResponseBody<B, C>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(cx))?;
        let stream = this
            .stream
            .take()
            .filter(|_| eligibility::is_completable(&response));
        Poll::Ready(Ok(match stream {
            Some(stream) => {
                eligibility::remove_stale_headers(&mut response);
                let (mut head, upstream) = response.into_parts();
                let config = Arc::clone(&stream.config);
                let body = ResponseBody::event_stream(upstream, stream, &head.extensions);
                Completed::mark(&mut head.extensions, config);
                Response::from_parts(head, body)
            }
            None => response.map(ResponseBody::passthrough),
        }))
    }
}
