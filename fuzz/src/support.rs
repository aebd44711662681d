//! The tools of the tests, and the way through a layer.

#[path = "../../tests/support/decoder.rs"]
pub mod decoder;
#[path = "../../tests/support/driver.rs"]
pub mod driver;
#[path = "../../tests/support/script.rs"]
pub mod script;

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;
use tower_sse_completion::StreamReport;

/// The default close event, as bytes.
pub const CLOSE: &[u8] = b"event: close\ndata:\n\n";

/// A service that has one answer.
pub struct Answer<B>(Option<Response<B>>);

/// What an observer was told.
#[derive(Clone, Default)]
pub struct Reports(Arc<Mutex<Vec<StreamReport>>>);

impl<B> Service<Request<()>> for Answer<B> {
    type Response = Response<B>;
    type Error = Infallible;
    type Future = Ready<Result<Response<B>, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Request<()>) -> Self::Future {
        ready(Ok(self.0.take().expect("one request")))
    }
}

/// Sends a response through the layer, as the answer to this request.
pub fn through<L, B, T>(layer: &L, request: Request<()>, response: Response<B>) -> Response<T>
where
    L: Layer<Answer<B>>,
    L::Service: Service<Request<()>, Response = Response<T>, Error = Infallible>,
{
    let answer = layer.layer(Answer(Some(response))).call(request);
    match pin!(answer).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(response)) => response,
        Poll::Pending => panic!("the response has to come without waiting"),
    }
}

/// Sends a body through the layer, as an event stream.
pub fn event_stream<L, B, T>(layer: &L, upstream: B) -> T
where
    L: Layer<Answer<B>>,
    L::Service: Service<Request<()>, Response = Response<T>, Error = Infallible>,
{
    let mut response = Response::new(upstream);
    let event_stream = http::HeaderValue::from_static("text/event-stream");
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, event_stream);
    through(layer, Request::new(()), response).into_body()
}

impl Reports {
    pub fn observer(&self) -> impl Fn(&StreamReport) + Send + Sync + 'static + use<> {
        let reports = Arc::clone(&self.0);
        move |report| reports.lock().expect("no panic").push(report.clone())
    }

    pub fn count(&self) -> usize {
        self.0.lock().expect("no panic").len()
    }

    /// The report of a stream that has to have been reported once.
    #[track_caller]
    pub fn one(&self) -> StreamReport {
        let reports = self.0.lock().expect("no panic");
        assert_eq!(reports.len(), 1, "C16: one report for each stream");
        reports[0].clone()
    }
}
