//! The service: forwards each request, and the future of its response.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    body::ResponseBody,
    cancel::{MakeCancellation, NeverCancel},
    config::Config,
    eligibility,
    event_stream::EventStream,
    event_stream::context::{Choices, StreamContext},
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
                let context = || StreamContext::new(cancellation, &self.config, None);
                ResponseFuture::new(self.inner.call(request), may_stream.then(context))
            }
            _ => {
                let (head, body) = request.into_parts();
                let cancellation = self.cancel.make(&head);
                let choices = Choices::new(&self.config, &head);
                let context = || StreamContext::new(cancellation, &self.config, choices);
                let context = may_stream.then(context);
                ResponseFuture::new(self.inner.call(Request::from_parts(head, body)), context)
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
