//! The service: forwards each request, and the future of its response.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    body::ResponseBody,
    cancel::{MakeCancellation, NeverCancel},
    config::Config,
    eligibility,
    event_stream::context::{Choices, StreamContext},
    future::ResponseFuture,
    layer::SseCompletionLayer,
};

/// Service that ends the event streams of the inner service with a close event.
///
/// Returned by [`SseCompletionLayer`], which documents what it does. Readiness and errors of the inner service pass through.
#[derive(Debug, Clone)]
pub struct SseCompletion<S, C = NeverCancel> {
    inner: S,
    cancel: C,
    config: Arc<Config>,
}

impl<S> SseCompletion<S> {
    /// Returns the default layer, like [`SseCompletionLayer::new`].
    pub fn layer() -> SseCompletionLayer {
        SseCompletionLayer::new()
    }
}

impl<S, C> SseCompletion<S, C> {
    /// Wraps a service with the configuration of this layer.
    pub fn new(inner: S, layer: SseCompletionLayer<C>) -> Self {
        let SseCompletionLayer { cancel, config } = layer;
        Self {
            inner,
            cancel,
            config,
        }
    }

    /// Returns a reference to the inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns a mutable reference to the inner service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, C, ReqBody, ResBody> Service<Request<ReqBody>> for SseCompletion<S, C>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    C: MakeCancellation,
    ResBody: Body,
{
    type Response = Response<ResponseBody<ResBody, C::Cancellation>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, C::Cancellation>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let may_stream = eligibility::method_allows(request.method());
        match self.cancel.make_without_request() {
            // Splitting the request moves it, which costs more than the rest of this call.
            Some(cancellation) if !self.config.reads_request() => {
                let context = StreamContext::new(cancellation, &self.config, None);
                ResponseFuture::new(self.inner.call(request), context, may_stream)
            }
            _ => {
                let (head, body) = request.into_parts();
                let cancellation = self.cancel.make(&head);
                let choices = Choices::new(&self.config, &head);
                let context = StreamContext::new(cancellation, &self.config, choices);
                let request = Request::from_parts(head, body);
                ResponseFuture::new(self.inner.call(request), context, may_stream)
            }
        }
    }
}

impl<S, C: Clone> Layer<S> for SseCompletionLayer<C> {
    type Service = SseCompletion<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        SseCompletion::new(inner, self.clone())
    }
}
