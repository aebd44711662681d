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
    body::ResponseBody, cancel::NeverCancel, close_event::CloseEvent, config::Config, eligibility,
};

pin_project! {
    /// Response future of [`SseCompletion`](crate::SseCompletion).
    #[derive(Debug)]
    pub struct ResponseFuture<F, C = NeverCancel> {
        #[pin]
        inner: F,
        // What the body needs if it is an event stream; `None` once it is known, or where the method rules it out.
        stream: Option<(C, Arc<Config>)>,
    }
}

impl<F, C> ResponseFuture<F, C> {
    pub(crate) fn new(inner: F, method_allows: bool, cancellation: C, config: Arc<Config>) -> Self {
        Self {
            inner,
            stream: method_allows.then_some((cancellation, config)),
        }
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
        let stream = this.stream.take();
        Poll::Ready(Ok(match stream {
            Some((cancellation, config)) if eligibility::is_completable(&response) => {
                eligibility::remove_stale_headers(&mut response);
                let close_event = response.extensions().get::<CloseEvent>().cloned();
                response
                    .map(|body| ResponseBody::event_stream(body, cancellation, config, close_event))
            }
            _ => response.map(ResponseBody::passthrough),
        }))
    }
}
