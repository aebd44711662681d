//! Holds the head of an event stream until its first event.
//!
//! The status of a response is final once its head has been sent. If the upstream of a gateway dies after that and before its
//! first event, the client has received a 200, and does not retry. [`FirstEventLayer`] holds the head and the frames of a stream
//! until an event has been delivered. Until then, a function can replace the response:
//!
//! ```
//! use bytes::Bytes;
//! use http::{Response, StatusCode};
//! use std::time::Duration;
//! use tower_sse_completion::first_event::{Decision, FirstEventLayer, State};
//!
//! let layer = FirstEventLayer::new(Duration::from_secs(30), |held| {
//!     let (status, message) = match held.state() {
//!         State::Event(event) if event.event_type() == "ping" => return Decision::Wait,
//!         State::Event(_) | State::Full => return Decision::Forward,
//!         State::TimedOut => (StatusCode::GATEWAY_TIMEOUT, "the upstream is silent"),
//!         _ => (StatusCode::BAD_GATEWAY, "the upstream has failed"),
//!     };
//!     let mut response = Response::new(Bytes::from_static(message.as_bytes()));
//!     *response.status_mut() = status;
//!     Decision::Respond(response)
//! });
//! # let _ = layer;
//! ```
//!
//! The page about language models in the guide has the function of a gateway, and states when a status is the wrong response: an
//! `EventSource` does not reconnect after a 502.
//!
//! # Layer order
//!
//! This layer belongs inside of [`SseCompletionLayer`](crate::SseCompletionLayer), which then counts, ends and reports the
//! streams that are forwarded: after it in a `tower::ServiceBuilder`, before it with axum's `Router::layer`.
//! In the other order, a close event would count as the first event.

use std::{
    collections::VecDeque,
    error::Error,
    fmt,
    future::Future,
    mem,
    ops::Range,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, response::Parts};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::{
    task::coop,
    time::{Sleep, sleep},
};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    eligibility,
    event_stream::PollFrame,
    shutdown::{Closed, Shutdown},
    wire::{
        event_match::{EventReader, SseEvent},
        scanner::{BYTE_ORDER_MARK, Scanner},
    },
};

/// Layer that holds the head of each event stream until its first event. The [module](self) has an example.
///
/// A response passes through unchanged if [`SseCompletionLayer`](crate::SseCompletionLayer) would not wrap it.
///
/// The layer changes the type of the response body to [`FirstEventBody`]. The error of the inner body must implement [`Error`];
/// `http_body_util::BodyExt::map_err` converts a boxed error.
///
/// # Panics
///
/// The wrapped service panics when it returns an event stream outside of a tokio runtime, or if the runtime's timer is
/// disabled.
#[derive(Clone)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct FirstEventLayer {
    ceiling: Duration,
    buffer_limit: usize,
    shutdowns: Vec<Shutdown>,
    decide: Arc<dyn Fn(&HeldStream<'_>) -> Decision + Send + Sync>,
}

/// Service that holds the head of each event stream until its first event. Returned by [`FirstEventLayer`].
#[derive(Debug, Clone)]
pub struct FirstEvent<S> {
    inner: S,
    layer: Arc<FirstEventLayer>,
}

/// An event stream that is held, as the function of a [`FirstEventLayer`] receives it.
pub struct HeldStream<'a> {
    state: State<'a>,
    head: &'a Parts,
    frames: &'a VecDeque<Frame<Bytes>>,
}

/// State of a held stream.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum State<'a> {
    /// The stream has delivered this event.
    Event(&'a SseEvent<'a>),
    /// The upstream has ended between two events.
    Ended,
    /// The upstream has ended inside an event. Text without framing is an unfinished event.
    Truncated,
    /// The upstream has failed.
    Failed(&'a (dyn Error + 'static)),
    /// The ceiling has passed, and the upstream is pending or has returned 32 frames in one poll.
    TimedOut,
    /// A shutdown of the layer has closed, and the upstream is pending or has returned 32 frames in one poll.
    Cancelled,
    /// The held frames have reached the buffer limit.
    Full,
}

/// Decision about a held stream.
#[derive(Debug)]
pub enum Decision {
    /// Drops the stream, and returns this response.
    Respond(Response<Bytes>),
    /// Returns the response of the inner service. The held frames come first.
    Forward,
    /// Holds the stream until its next event. In every other state than [`State::Event`], this is [`Forward`](Self::Forward).
    Wait,
}

/// Maximum number of upstream frames processed in one poll before yielding.
const FRAMES_PER_POLL: usize = 32;

/// Thirty-one years. tokio's timer panics close to the end of the clock.
const LONGEST_CEILING: Duration = Duration::from_secs(1_000_000_000);

impl FirstEventLayer {
    /// Returns a layer that holds each event stream until this function has decided about it.
    ///
    /// The function is called with each event until it forwards or replaces the stream, and otherwise when the upstream ends or
    /// fails, when the [buffer limit](Self::buffer_limit) is reached, or when the ceiling has passed since the response of the
    /// inner service. Up to 32 frames that the upstream has ready take precedence over the ceiling and a shutdown. The task
    /// that polls the response future calls the function, which must not block.
    ///
    /// # Panics
    ///
    /// A panic of the function drops the stream, and reaches the server that polls the response future.
    pub fn new<F>(ceiling: Duration, decide: F) -> Self
    where
        F: Fn(&HeldStream<'_>) -> Decision + Send + Sync + 'static,
    {
        Self {
            ceiling: ceiling.min(LONGEST_CEILING),
            buffer_limit: 64 * 1024,
            shutdowns: Vec::new(),
            decide: Arc::new(decide),
        }
    }

    /// Adds a shutdown. When it closes, the function is called for the streams that are held.
    ///
    /// Pass the shutdown of the completion layer too, because that layer cannot end a stream before its head is returned. A
    /// drain closes its shutdown at the end of the grace.
    pub fn shutdown(mut self, shutdown: &Shutdown) -> Self {
        self.shutdowns.push(shutdown.clone());
        self
    }

    /// Sets the memory that the held frames of a stream may take, in bytes. The default is 64 KiB.
    ///
    /// Each frame counts with its data and with the size of a [`Frame`]. The frame that reaches the limit is held as well.
    pub fn buffer_limit(mut self, bytes: usize) -> Self {
        self.buffer_limit = bytes;
        self
    }
}

impl<'a> HeldStream<'a> {
    /// Returns the state of the stream.
    pub fn state(&self) -> State<'a> {
        self.state
    }

    /// Returns the head of the response.
    pub fn head(&self) -> &'a Parts {
        self.head
    }

    /// Returns the bytes of all held frames. The bytes are copied unless they are in one frame.
    pub fn bytes(&self) -> Bytes {
        bytes_in(self.frames, &(0..usize::MAX))
    }
}

impl<S> Layer<S> for FirstEventLayer {
    type Service = FirstEvent<S>;

    fn layer(&self, inner: S) -> FirstEvent<S> {
        let layer = Arc::new(self.clone());
        FirstEvent { inner, layer }
    }
}

impl<S, ReqBody, B> Service<Request<ReqBody>> for FirstEvent<S>
where
    S: Service<Request<ReqBody>, Response = Response<B>>,
    B: Body<Data: Into<Bytes>, Error: Error + 'static>,
{
    type Response = Response<FirstEventBody<B>>;
    type Error = S::Error;
    type Future = FirstEventFuture<S::Future, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let may_stream = eligibility::method_allows(request.method());
        let layer = may_stream.then(|| Arc::clone(&self.layer));
        let inner = self.inner.call(request);
        FirstEventFuture {
            inner,
            layer,
            gate: None,
        }
    }
}

pin_project! {
    /// Response future of [`FirstEvent`].
    ///
    /// # Cancellation safety
    ///
    /// Dropping the future drops the held stream. A server does so when the client leaves.
    pub struct FirstEventFuture<F, B>
    where
        B: Body,
    {
        #[pin]
        inner: F,
        // `None` for methods whose responses have no event stream.
        layer: Option<Arc<FirstEventLayer>>,
        gate: Option<Box<Gate<B>>>,
    }
}

impl<F, B, E> Future for FirstEventFuture<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data: Into<Bytes>, Error: Error + 'static>,
{
    type Output = Result<Response<FirstEventBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // A panic of the function drops the gate.
        let mut gate = match this.gate.take() {
            Some(gate) => gate,
            None => {
                let response = ready!(this.inner.poll(cx))?;
                match this.layer.take() {
                    Some(layer) if eligibility::is_event_stream(&response) => {
                        Box::new(Gate::new(response, layer))
                    }
                    _ => return Poll::Ready(Ok(response.map(FirstEventBody::pass_through))),
                }
            }
        };
        match gate.poll(cx) {
            Poll::Ready(decision) => Poll::Ready(Ok(gate.into_response(decision))),
            Poll::Pending => {
                *this.gate = Some(gate);
                Poll::Pending
            }
        }
    }
}

/// A held response, with the shutdowns and the ceiling that end the wait.
struct Gate<B: Body> {
    head: Parts,
    stream: HeldFrames<B>,
    layer: Arc<FirstEventLayer>,
    scanner: Scanner,
    /// Range of the bytes after the last boundary.
    event: Range<usize>,
    /// In bytes, for the buffer limit.
    memory: usize,
    closed: Vec<Closed>,
    /// `None` until the upstream is pending.
    ceiling: Option<Pin<Box<Sleep>>>,
}

/// Held frames, and the upstream that they came from.
struct HeldFrames<B: Body> {
    frames: VecDeque<Frame<Bytes>>,
    /// End or error of the upstream, which follows the frames.
    end: Option<Result<(), B::Error>>,
    has_yielded: bool,
    upstream: Pin<Box<B>>,
}

impl<B> Gate<B>
where
    B: Body<Data: Into<Bytes>, Error: Error + 'static>,
{
    fn new(response: Response<B>, layer: Arc<FirstEventLayer>) -> Self {
        let (head, upstream) = response.into_parts();
        Self {
            head,
            stream: HeldFrames {
                frames: VecDeque::new(),
                end: None,
                has_yielded: false,
                upstream: Box::pin(upstream),
            },
            scanner: Scanner::new(),
            event: 0..0,
            memory: 0,
            closed: layer.shutdowns.iter().map(Shutdown::closed).collect(),
            ceiling: None,
            layer,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Decision> {
        for _ in 0..FRAMES_PER_POLL {
            let Poll::Ready(polled) = poll_bytes(self.stream.upstream.as_mut(), cx) else {
                return self.poll_stopped(cx);
            };
            let decision = match polled {
                Some(Ok(frame)) => self.hold(frame),
                Some(Err(error)) => {
                    let decision = self.decide(State::Failed(&error));
                    self.stream.end = Some(Err(error));
                    Some(decision)
                }
                None => {
                    self.stream.end = Some(Ok(()));
                    Some(self.decide_end())
                }
            };
            if let Some(decision) = decision {
                return Poll::Ready(decision);
            }
        }
        cx.waker().wake_by_ref();
        self.poll_stopped(cx)
    }

    /// Holds a frame. Returns `None` if the next frame must be held too.
    fn hold(&mut self, frame: Frame<Bytes>) -> Option<Decision> {
        let data = frame.data_ref().cloned().unwrap_or_default();
        let is_last = frame.is_trailers();
        self.memory += size_of::<Frame<Bytes>>() + data.len();
        self.stream.frames.push_back(frame);
        // One line at a time, because the function receives each event of a frame.
        for line in data.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
            let scanned = self.scanner.feed(line, true);
            self.event.end += line.len();
            if scanned.delivered {
                match self.decide_event() {
                    Decision::Wait => {}
                    decision => return Some(decision),
                }
            }
            if scanned.boundary.is_some() {
                self.event.start = self.event.end;
            }
        }
        if is_last {
            return Some(self.decide_end());
        }
        (self.memory >= self.layer.buffer_limit).then(|| self.decide(State::Full))
    }

    /// Polls the shutdowns and the ceiling.
    fn poll_stopped(&mut self, cx: &mut Context<'_>) -> Poll<Decision> {
        let mut closed = self.closed.iter_mut().map(Pin::new);
        if closed.any(|closed| closed.poll(cx).is_ready()) {
            return Poll::Ready(self.decide(State::Cancelled));
        }
        let start = || Box::pin(sleep(self.layer.ceiling));
        let ceiling = self.ceiling.get_or_insert_with(start);
        // An upstream that spends the budget in every poll must not extend the ceiling.
        ready!(pin!(coop::unconstrained(ceiling)).poll(cx));
        Poll::Ready(self.decide(State::TimedOut))
    }

    fn decide_event(&self) -> Decision {
        let event = bytes_in(&self.stream.frames, &self.event);
        let mark = event.strip_prefix(BYTE_ORDER_MARK);
        let event = mark.filter(|_| self.event.start == 0).unwrap_or(&event);
        self.decide(State::Event(&EventReader::read_event(event).event()))
    }

    fn decide_end(&self) -> Decision {
        self.decide(match self.scanner.is_in_event() {
            true => State::Truncated,
            false => State::Ended,
        })
    }

    fn decide(&self, state: State<'_>) -> Decision {
        (self.layer.decide)(&HeldStream {
            state,
            head: &self.head,
            frames: &self.stream.frames,
        })
    }

    fn into_response(self, decision: Decision) -> Response<FirstEventBody<B>> {
        match decision {
            Decision::Respond(response) => response.map(|data| {
                let data = Some(data).filter(|data| !data.is_empty());
                let kind = Kind::Replaced { data };
                FirstEventBody { kind }
            }),
            Decision::Forward | Decision::Wait => {
                let stream = self.stream;
                let kind = Kind::Held { stream };
                Response::from_parts(self.head, FirstEventBody { kind })
            }
        }
    }
}

impl<B: Body<Data: Into<Bytes>>> HeldFrames<B> {
    #[inline]
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> PollFrame<Bytes, B::Error> {
        if let Some(frame) = self.frames.pop_front() {
            if self.frames.is_empty() {
                self.frames.shrink_to_fit();
            }
            return Poll::Ready(Some(Ok(frame)));
        }
        match &mut self.end {
            None => poll_bytes(self.upstream.as_mut(), cx),
            Some(Err(_)) if !mem::replace(&mut self.has_yielded, true) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(end) => Poll::Ready(mem::replace(end, Ok(())).err().map(Err)),
        }
    }

    fn is_end_stream(&self) -> bool {
        let has_more = !self.frames.is_empty() || matches!(self.end, Some(Err(_)));
        !has_more && self.upstream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let held = self.frames.iter().filter_map(Frame::data_ref);
        let held = held.map(|data| data.len() as u64).sum();
        let rest = self.upstream.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(held));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(held)) {
            hint.set_upper(upper);
        }
        hint
    }
}

pin_project! {
    /// Response body of [`FirstEvent`].
    ///
    /// The body of a forwarded stream returns the held frames, and then the upstream's. Its hints are those of the upstream plus
    /// the held frames. If the upstream has failed already, the body yields once before it returns the error, so that the
    /// server can flush the frames. A body that was not held passes through.
    pub struct FirstEventBody<B>
    where
        B: Body,
    {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<B>
    where
        B: Body,
    {
        PassThrough {
            #[pin]
            upstream: B,
        },
        Held {
            stream: HeldFrames<B>,
        },
        // The data is `None` once it has been returned.
        Replaced {
            data: Option<Bytes>,
        },
    }
}

impl<B: Body> FirstEventBody<B> {
    fn pass_through(upstream: B) -> Self {
        Self {
            kind: Kind::PassThrough { upstream },
        }
    }
}

impl<B> Body for FirstEventBody<B>
where
    B: Body<Data: Into<Bytes>>,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PollFrame<Bytes, B::Error> {
        match self.project().kind.project() {
            KindProjection::PassThrough { upstream } => poll_bytes(upstream, cx),
            KindProjection::Held { stream } => stream.poll_frame(cx),
            KindProjection::Replaced { data } => {
                Poll::Ready(data.take().map(|data| Ok(Frame::data(data))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::PassThrough { upstream } => upstream.is_end_stream(),
            Kind::Held { stream } => stream.is_end_stream(),
            Kind::Replaced { data } => data.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::PassThrough { upstream } => upstream.size_hint(),
            Kind::Held { stream } => stream.size_hint(),
            Kind::Replaced { data } => {
                SizeHint::with_exact(data.as_ref().map_or(0, |data| data.len() as u64))
            }
        }
    }
}

impl<B: Body + Default> Default for FirstEventBody<B> {
    fn default() -> Self {
        Self::pass_through(B::default())
    }
}

impl fmt::Debug for FirstEventLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FirstEventLayer")
            .field("ceiling", &self.ceiling)
            .field("buffer_limit", &self.buffer_limit)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for HeldStream<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldStream").finish_non_exhaustive()
    }
}

impl<F, B: Body> fmt::Debug for FirstEventFuture<F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FirstEventFuture").finish_non_exhaustive()
    }
}

impl<B: Body> fmt::Debug for FirstEventBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FirstEventBody").finish_non_exhaustive()
    }
}

/// Returns a range of the bytes of these frames. The bytes are copied unless they are in one frame.
fn bytes_in(frames: &VecDeque<Frame<Bytes>>, range: &Range<usize>) -> Bytes {
    let mut offset = 0;
    let mut parts = frames
        .iter()
        .filter_map(Frame::data_ref)
        .filter_map(|data| {
            let position = |at: usize| at.saturating_sub(offset).min(data.len());
            let part = position(range.start)..position(range.end);
            offset += data.len();
            (!part.is_empty()).then(|| data.slice(part))
        });
    let first = parts.next().unwrap_or_default();
    match parts.next() {
        None => first,
        Some(second) => [first, second].into_iter().chain(parts).flatten().collect(),
    }
}

fn poll_bytes<B>(body: Pin<&mut B>, cx: &mut Context<'_>) -> PollFrame<Bytes, B::Error>
where
    B: Body<Data: Into<Bytes>>,
{
    let polled = body.poll_frame(cx);
    polled.map_ok(|frame| frame.map_data(Into::into))
}
