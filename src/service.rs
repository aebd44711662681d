//! Service and response future: forward each request, and wrap the body of its response.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    body::ResponseBody,
    config::Config,
    eligibility,
    event_stream::{EventStream, RequestContext},
    layer::SseCompletionLayer,
    slot::Slot,
};

/// Service that ends the event streams of the inner service with a close event.
///
/// Returned by [`SseCompletionLayer`]. Readiness and errors of the inner service pass through.
///
/// ```
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_sse_completion::{Shutdown, SseCompletionLayer};
/// # use std::convert::Infallible;
/// # use bytes::Bytes;
/// # use http::{Request, Response};
/// # use http_body::Frame;
/// # use http_body_util::{BodyExt, Full, StreamBody};
/// # use futures_util::{stream, StreamExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // An event stream that never ends on its own.
/// let service = service_fn(|_request: Request<Full<Bytes>>| async {
///     let first = Ok::<_, Infallible>(Frame::data(Bytes::from("data: hello\n\n")));
///     let body = StreamBody::new(stream::iter([first]).chain(stream::pending()));
///     Response::builder().header("content-type", "text/event-stream").body(body)
/// });
///
/// let shutdown = Shutdown::new();
/// let service = SseCompletionLayer::new().shutdown(&shutdown).layer(service);
///
/// let response = service.oneshot(Request::default()).await?;
/// shutdown.close();
/// let body = response.into_body().collect().await?.to_bytes();
/// assert_eq!(body, "data: hello\n\nevent: close\ndata:\n\n");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct SseCompletion<S> {
    inner: S,
    config: Arc<Config>,
}

impl<S> SseCompletion<S> {
    /// Returns the default layer, like [`SseCompletionLayer::new`].
    pub fn layer() -> SseCompletionLayer {
        SseCompletionLayer::new()
    }

    /// Wraps a service with the configuration of this layer.
    pub fn new(inner: S, layer: SseCompletionLayer) -> Self {
        Self {
            inner,
            config: layer.config,
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

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for SseCompletion<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: Body,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let may_stream = eligibility::method_allows(request.method());
        if !self.config.reads_request() {
            // Splitting the request would move it, which costs more than the rest of this call.
            // The context is built after the call, in place.
            let inner = self.inner.call(request);
            return ResponseFuture::new(inner, RequestContext::new(&self.config), may_stream);
        }
        let (head, body) = request.into_parts();
        let context = RequestContext::of_request(&self.config, &head);
        let inner = self.inner.call(Request::from_parts(head, body));
        ResponseFuture::new(inner, context, may_stream)
    }
}

impl<S> Layer<S> for SseCompletionLayer {
    type Service = SseCompletion<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SseCompletion::new(inner, self.clone())
    }
}

pin_project! {
    /// Response future of [`SseCompletion`]. `F` is the future of the inner service.
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        // Taken when the response is wrapped.
        context: Option<RequestContext>,
        // `false` for methods whose responses have no event stream.
        may_stream: bool,
        // From the first poll that is pending until the response.
        counted: Option<CountedRequest>,
    }
}

impl<F> ResponseFuture<F> {
    fn new(inner: F, context: RequestContext, may_stream: bool) -> Self {
        Self {
            inner,
            context: Some(context),
            may_stream,
            counted: None,
        }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Poll::Ready(result) = this.inner.poll(cx) else {
            if let (None, Some(context)) = (&this.counted, this.context) {
                *this.counted = Some(CountedRequest::new(&context.config));
            }
            return Poll::Pending;
        };
        // Released after the stream has been counted, so a drain always sees the request or the stream.
        let _counted = this.counted.take();
        if *this.may_stream && result.as_ref().is_ok_and(eligibility::is_event_stream) {
            if let Some(context) = this.context.take() {
                return Poll::Ready(result.map(|response| wrap(response, context)));
            }
        }
        // An unused context is dropped with the future.
        Poll::Ready(result.map(|response| response.map(ResponseBody::pass_through)))
    }
}

/// A pending request that the shutdowns of a layer count.
struct CountedRequest(Arc<Config>);

impl CountedRequest {
    #[cold]
    fn new(config: &Arc<Config>) -> Self {
        for shutdown in &config.shutdowns {
            shutdown.count_request();
        }
        Self(Arc::clone(config))
    }
}

impl Drop for CountedRequest {
    #[cold]
    fn drop(&mut self) {
        for shutdown in &self.0.shutdowns {
            shutdown.release_request();
        }
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

/// Wraps the body, with the state of an inner layer's stream if there is one.
#[cold]
fn wrap<B: Body>(response: Response<B>, context: RequestContext) -> Response<ResponseBody<B>> {
    let (mut head, upstream) = response.into_parts();
    eligibility::remove_stale_headers(&mut head.headers);
    let stream = match head.extensions.get().and_then(Slot::take) {
        Some(mut stream) => {
            stream.join(context, &head.extensions);
            stream
        }
        None => EventStream::start(context, &head.extensions),
    };
    let slot = Slot::new(stream);
    head.extensions.insert(slot.clone());
    Response::from_parts(head, ResponseBody::event_stream(upstream, slot))
}
