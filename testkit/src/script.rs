//! An upstream that follows a script.

use std::{
    collections::VecDeque,
    error::Error,
    fmt,
    marker::PhantomPinned,
    mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::sync::mpsc;

/// The result of one poll of the upstream.
#[derive(Debug, Clone)]
pub enum Step {
    /// Returns this data.
    Data(Bytes),
    /// Is pending, and wakes nothing.
    Pending,
    /// Is pending, and wakes the task, like a body that yields.
    Yield,
    /// Returns [`trailers`].
    Trailers,
    /// Fails with a [`ScriptError`]. The script has ended.
    Error,
    /// Panics. The script has ended.
    Panic,
}

/// The result of every poll after the last step.
#[derive(Debug, Clone)]
pub enum AfterScript {
    /// The first poll returns `None`. Further polls panic.
    End,
    /// Is pending, and wakes nothing.
    Pending,
    /// Returns the same data, always ready.
    Repeat(Bytes),
}

/// The result of `is_end_stream`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndStream {
    /// Always `false`, like most bodies.
    Unknown,
    /// `true` as soon as only `None` is left.
    Known,
    /// Always `true`, although more may follow.
    Wrong,
}

pin_project! {
    /// A body that follows a script, and panics when it is polled after its end. It is not `Unpin`.
    ///
    /// ```
    /// use testkit::{driver::Driver, script::{Script, Step, data}};
    ///
    /// let upstream = Script::new([data("data: 1\n\n"), Step::Trailers]);
    /// let output = Driver::new(upstream).collect();
    /// assert_eq!(output.text(), "data: 1\n\n");
    /// assert!(output.trailers.is_some());
    /// ```
    #[derive(Debug)]
    pub struct Script {
        steps: VecDeque<Step>,
        // After the steps.
        feed: Option<mpsc::UnboundedReceiver<Bytes>>,
        after: AfterScript,
        end_stream: EndStream,
        size_hint: SizeHint,
        ended: bool,
        log: LogOnDrop,
        #[pin]
        pinned: PhantomPinned,
    }
}

#[derive(Debug)]
struct LogOnDrop {
    log: Arc<Log>,
    is_polled: bool,
    panics: bool,
}

/// Counts the polls of an upstream, or of several upstreams that share a log.
#[derive(Debug, Default)]
pub struct Log {
    polls: AtomicUsize,
    polled: AtomicUsize,
    open: AtomicUsize,
}

/// The error of [`Step::Error`]. Its text is a secret that must not reach the client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScriptError;

impl Script {
    /// Returns a body that follows these steps and ends.
    pub fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self {
            steps: steps.into_iter().collect(),
            feed: None,
            after: AfterScript::End,
            end_stream: EndStream::Unknown,
            size_hint: SizeHint::default(),
            ended: false,
            log: LogOnDrop::new(Arc::default()),
            pinned: PhantomPinned,
        }
    }

    /// Returns a body that is always pending.
    pub fn silent() -> Self {
        Self::new([]).then(AfterScript::Pending)
    }

    /// Returns a body that yields these data frames and ends.
    pub fn frames<T: AsRef<[u8]>>(frames: impl IntoIterator<Item = T>) -> Self {
        Self::new(frames.into_iter().map(data))
    }

    /// Returns a body that yields the data that is sent to this channel.
    pub(crate) fn fed(feed: mpsc::UnboundedReceiver<Bytes>) -> Self {
        Self {
            feed: Some(feed),
            ..Self::new([])
        }
    }

    /// Sets the result of every poll after the last step. The default is [`AfterScript::End`].
    pub fn then(mut self, after: AfterScript) -> Self {
        self.after = after;
        self
    }

    /// Sets the result of `is_end_stream`. The default is [`EndStream::Unknown`].
    pub fn end_stream(mut self, end_stream: EndStream) -> Self {
        self.end_stream = end_stream;
        self
    }

    /// Sets the result of `size_hint`. The default is an unknown size.
    pub fn size_hint(mut self, size_hint: SizeHint) -> Self {
        self.size_hint = size_hint;
        self
    }

    /// Makes the destructor panic.
    pub fn panic_in_drop(mut self) -> Self {
        self.log.panics = true;
        self
    }

    /// Sets the log, which several upstreams may share.
    pub fn logged_in(mut self, log: &Arc<Log>) -> Self {
        self.log = LogOnDrop::new(Arc::clone(log));
        self
    }

    /// Returns the step of the next poll, or `None` after the last step.
    pub fn next_step(&self) -> Option<&Step> {
        self.steps.front()
    }

    /// Returns the log of this upstream, which outlives it.
    pub fn log(&self) -> Arc<Log> {
        Arc::clone(&self.log.log)
    }
}

/// Returns a step with this data.
pub fn data(data: impl AsRef<[u8]>) -> Step {
    Step::Data(Bytes::copy_from_slice(data.as_ref()))
}

/// Returns the trailers of [`Step::Trailers`].
pub fn trailers() -> HeaderMap {
    let name = HeaderName::from_static("x-checksum");
    HeaderMap::from_iter([(name, HeaderValue::from_static("abc"))])
}

impl Log {
    /// Returns the number of calls of `poll_frame`.
    pub fn polls(&self) -> usize {
        self.polls.load(Ordering::SeqCst)
    }

    /// Returns the number of upstreams that have been polled.
    pub fn polled(&self) -> usize {
        self.polled.load(Ordering::SeqCst)
    }

    /// Returns the number of upstreams that have not been dropped.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Returns `true` once the upstream has been dropped.
    pub fn dropped(&self) -> bool {
        self.open() == 0
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
        this.log.polled();
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
                panic!("the script has a panic here");
            }
            None => {
                let next = match (this.feed, &this.after) {
                    (Some(feed), _) => ready!(feed.poll_recv(cx)),
                    (None, AfterScript::End) => None,
                    (None, AfterScript::Pending) => return Poll::Pending,
                    (None, AfterScript::Repeat(data)) => Some(data.clone()),
                };
                match next {
                    Some(data) => Frame::data(data),
                    None => {
                        *this.ended = true;
                        return Poll::Ready(None);
                    }
                }
            }
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        match self.end_stream {
            EndStream::Unknown => false,
            EndStream::Known => self.steps.is_empty() && matches!(self.after, AfterScript::End),
            EndStream::Wrong => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.size_hint
    }
}

impl LogOnDrop {
    fn new(log: Arc<Log>) -> Self {
        log.open.fetch_add(1, Ordering::SeqCst);
        Self {
            log,
            is_polled: false,
            panics: false,
        }
    }

    fn polled(&mut self) {
        self.log.polls.fetch_add(1, Ordering::SeqCst);
        if !mem::replace(&mut self.is_polled, true) {
            self.log.polled.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Drop for LogOnDrop {
    fn drop(&mut self) {
        self.log.open.fetch_sub(1, Ordering::SeqCst);
        assert!(!self.panics, "an intended panic");
    }
}

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the database password is 1234")
    }
}

impl Error for ScriptError {}
