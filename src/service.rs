//! The service: hands each request on, and has its response looked at.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::{
    body::ResponseBody,
    cancel::{MakeCancellation, NeverCancel},
    config::Config,
    eligibility,
    future::{ResponseFuture, StreamParts},
    layer::SseCompletionLayer,
};

/// Service that ends every event stream of the inner service on purpose.
///
/// Made by [`SseCompletionLayer`]. Readiness and errors of the inner service pass through.
#[derive(Debug, Clone)]
pub struct SseCompletion<S, C = NeverCancel> {
    inner: S,
    cancel: C,
    config: Arc<Config>,
}

impl SseCompletion<()> {
    /// The same as [`SseCompletionLayer::new`].
    pub fn layer() -> SseCompletionLayer {
        SseCompletionLayer::new()
    }
}

impl<S, C> SseCompletion<S, C> {
    /// Wraps this service as the layer says.
    pub fn new(inner: S, layer: SseCompletionLayer<C>) -> Self {
        let SseCompletionLayer { cancel, config } = layer;
        Self {
            inner,
            cancel,
            config,
        }
    }

    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service, to change it.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Gives the inner service back.
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
        let method_allows = eligibility::method_allows(request.method());
        let (request, cancellation) = self.cancel.make(request);
        let stream = method_allows.then(|| StreamParts::new(cancellation, &self.config));
        ResponseFuture::new(self.inner.call(request), stream)
    }
}
