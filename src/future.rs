//! The response future: wraps the body if the response is an event stream.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use crate::{
    body::ResponseBody,
    cancel::NeverCancel,
    eligibility,
    event_stream::{EventStream, context::StreamContext},
};

pin_project! {
    /// Response future of [`SseCompletion`](crate::SseCompletion).
    ///
    /// `F` is the future of the inner service, and `C` is the future of the cancellation, as in [`ResponseBody`].
    #[derive(Debug)]
    pub struct ResponseFuture<F, C = NeverCancel> {
        #[pin]
        inner: F,
        // `None` once it is used, and for methods whose responses have no event stream.
        context: Option<StreamContext<C>>,
    }
}

impl<F, C> ResponseFuture<F, C> {
    pub(crate) fn new(inner: F, context: Option<StreamContext<C>>) -> Self {
        Self { inner, context }
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
        let response = ready!(this.inner.poll(cx))?;
        // A context that is not needed stays here, and is dropped with the future.
        if this.context.is_some() && eligibility::is_event_stream(&response) {
            if let Some(context) = this.context.take() {
                return Poll::Ready(Ok(wrap(response, context)));
            }
        }
        Poll::Ready(Ok(response.map(ResponseBody::pass_through)))
    }
}

#[cold]
fn wrap<B: Body, C>(
    response: Response<B>,
    context: StreamContext<C>,
) -> Response<ResponseBody<B, C>> {
    let (mut head, upstream) = response.into_parts();
    eligibility::remove_stale_headers(&mut head.headers);
    let stream = EventStream::new(upstream, context, &head.extensions);
    head.extensions.insert(stream.marker());
    Response::from_parts(head, ResponseBody::event_stream(stream))
}
