//! An upstream that does what a script says, and notices when it is treated badly.

use std::{
    collections::VecDeque,
    error::Error,
    fmt,
    marker::PhantomPinned,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

/// What one poll does.
#[derive(Debug, Clone)]
pub enum Step {
    Data(Bytes),
    /// Nothing now, and no wake-up.
    Pending,
    /// Nothing now, but the waker is woken: what tokio's cooperative budget does.
    Yield,
    Trailers,
    Error,
    Panic,
}

/// What every poll after the last step does.
#[derive(Debug, Clone)]
pub enum Then {
    End,
    Pending,
    /// The same data, always ready.
    Repeat(Bytes),
}

/// What the upstream says of its end before it returns `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndStream {
    /// Never, like most bodies.
    Unsaid,
    /// As soon as nothing but `None` is left.
    Said,
    /// Always.
    Lied,
}

pin_project! {
    /// `!Unpin`, so that it stays where it is pinned.
    pub struct Script {
        steps: VecDeque<Step>,
        then: Then,
        end_stream: EndStream,
        size_hint: SizeHint,
        ended: bool,
        log: LogOnDrop,
        #[pin]
        pinned: PhantomPinned,
    }
}

struct LogOnDrop(Arc<Log>);

/// What was done to an upstream.
#[derive(Debug, Default)]
pub struct Log {
    polls: AtomicUsize,
    dropped: AtomicBool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScriptError;

impl Script {
    pub fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self {
            steps: steps.into_iter().collect(),
            then: Then::End,
            end_stream: EndStream::Unsaid,
            size_hint: SizeHint::default(),
            ended: false,
            log: LogOnDrop(Arc::default()),
            pinned: PhantomPinned,
        }
    }

    /// These frames, and the end.
    pub fn frames<T: AsRef<[u8]>>(frames: impl IntoIterator<Item = T>) -> Self {
        Self::new(frames.into_iter().map(|frame| data(frame.as_ref())))
    }

    pub fn then(mut self, then: Then) -> Self {
        self.then = then;
        self
    }

    pub fn end_stream(mut self, end_stream: EndStream) -> Self {
        self.end_stream = end_stream;
        self
    }

    pub fn size_hint(mut self, size_hint: SizeHint) -> Self {
        self.size_hint = size_hint;
        self
    }

    pub fn log(&self) -> Arc<Log> {
        Arc::clone(&self.log.0)
    }
}

pub fn data(data: impl AsRef<[u8]>) -> Step {
    Step::Data(Bytes::copy_from_slice(data.as_ref()))
}

/// What [`Step::Trailers`] gives.
pub fn trailers() -> HeaderMap {
    HeaderMap::from_iter([(
        http::HeaderName::from_static("x-checksum"),
        HeaderValue::from_static("abc"),
    )])
}

impl Log {
    pub fn polls(&self) -> usize {
        self.polls.load(Ordering::SeqCst)
    }

    pub fn dropped(&self) -> bool {
        self.dropped.load(Ordering::SeqCst)
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = ScriptError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ScriptError>>> {
        let this = self.project();
        assert!(!*this.ended, "the upstream was polled after its end");
        this.log.0.polls.fetch_add(1, Ordering::SeqCst);
        let frame = match this.steps.pop_front() {
            Some(Step::Data(data)) => Frame::data(data),
            Some(Step::Trailers) => Frame::trailers(trailers()),
            Some(Step::Pending) => return Poll::Pending,
            Some(Step::Yield) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(Step::Error) => {
                *this.ended = true;
                return Poll::Ready(Some(Err(ScriptError)));
            }
            Some(Step::Panic) => {
                *this.ended = true;
                panic!("the upstream panics, as its script says");
            }
            None => match &this.then {
                Then::End => {
                    *this.ended = true;
                    return Poll::Ready(None);
                }
                Then::Pending => return Poll::Pending,
                Then::Repeat(data) => Frame::data(data.clone()),
            },
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        match self.end_stream {
            EndStream::Unsaid => false,
            EndStream::Said => self.steps.is_empty() && matches!(self.then, Then::End),
            EndStream::Lied => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.size_hint
    }
}

impl Drop for LogOnDrop {
    fn drop(&mut self) {
        self.0.dropped.store(true, Ordering::SeqCst);
    }
}

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the database password is 1234")
    }
}

impl Error for ScriptError {}
