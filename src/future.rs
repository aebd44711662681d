//! The response future: wraps the body if the response is an event stream.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use crate::{
    body::ResponseBody,
    cancel::NeverCancel,
    config::Config,
    eligibility,
    event_stream::{EventStream, context::StreamContext},
    shutdown::Shutdown,
};

pin_project! {
    /// Response future of [`SseCompletion`](crate::SseCompletion).
    ///
    /// `F` is the future of the inner service, and `C` is the future of the cancellation, as in [`ResponseBody`].
    #[derive(Debug)]
    pub struct ResponseFuture<F, C = NeverCancel> {
        #[pin]
        inner: F,
        // `None` once it is used.
        context: Option<StreamContext<C>>,
        // `false` for methods whose responses have no event stream.
        may_stream: bool,
        pending: PendingRequest,
    }
}

/// Counts a request for the shutdowns of its layer, from the first poll that is pending until the response.
#[derive(Debug, Default)]
struct PendingRequest {
    /// `None` unless the request is counted.
    config: Option<Arc<Config>>,
}

impl<F, C> ResponseFuture<F, C> {
    pub(crate) fn new(inner: F, context: StreamContext<C>, may_stream: bool) -> Self {
        Self {
            inner,
            context: Some(context),
            may_stream,
            pending: PendingRequest::default(),
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
        let response = match this.inner.poll(cx) {
            Poll::Ready(Ok(response)) => response,
            Poll::Ready(Err(error)) => {
                this.pending.release();
                return Poll::Ready(Err(error));
            }
            Poll::Pending => {
                if let Some(context) = this.context {
                    this.pending.count(&context.config);
                }
                return Poll::Pending;
            }
        };
        // A context that is not needed stays here, and is dropped with the future.
        if *this.may_stream && eligibility::is_event_stream(&response) {
            if let Some(context) = this.context.take() {
                let response = wrap(response, context);
                // The stream has been counted, so a drain never sees neither of them.
                this.pending.release();
                return Poll::Ready(Ok(response));
            }
        }
        this.pending.release();
        Poll::Ready(Ok(response.map(ResponseBody::pass_through)))
    }
}

impl PendingRequest {
    #[cold]
    fn count(&mut self, config: &Arc<Config>) {
        if self.config.is_none() && !config.shutdowns.is_empty() {
            config.shutdowns.iter().for_each(Shutdown::count_request);
            self.config = Some(Arc::clone(config));
        }
    }

    #[inline(always)]
    fn release(&mut self) {
        if self.config.is_some() {
            self.release_counted();
        }
    }

    #[cold]
    fn release_counted(&mut self) {
        if let Some(config) = self.config.take() {
            config.shutdowns.iter().for_each(Shutdown::release_request);
        }
    }
}

impl Drop for PendingRequest {
    #[inline]
    fn drop(&mut self) {
        self.release();
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
