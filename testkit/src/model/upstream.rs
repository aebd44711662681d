//! An upstream that records its polls.

use std::{
    cell::{Cell, RefCell},
    fmt,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::UpstreamEnd;
use crate::script::{Script, ScriptError, Step};

/// A script whose polls are recorded in an [`UpstreamLog`].
pub struct Upstream {
    script: Pin<Box<Script>>,
    log: Rc<UpstreamLog>,
    on_poll: Option<Box<dyn FnMut(usize)>>,
}

/// The polls of an upstream, and the cancellation of its stream.
#[derive(Debug, Default)]
pub struct UpstreamLog {
    polls: Cell<usize>,
    last: Cell<UpstreamPoll>,
    frames: RefCell<Vec<Bytes>>,
    is_end_stream: Cell<bool>,
    dropped: Cell<bool>,
    /// The number of frames before the cancellation.
    cancelled: Cell<Option<usize>>,
}

/// The result of a poll of the upstream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UpstreamPoll {
    /// The upstream has not been polled.
    #[default]
    None,
    /// The upstream is pending.
    Pending,
    /// The upstream is pending, and has woken the task.
    Yielded,
    /// A data frame.
    Data,
    /// Trailers.
    Trailers,
    /// An error.
    Error,
    /// `None`.
    Eof,
    /// The poll panicked.
    Panicked,
}

impl Upstream {
    pub(super) fn new(script: Script, log: Rc<UpstreamLog>) -> Self {
        Self {
            script: Box::pin(script),
            log,
            on_poll: None,
        }
    }

    /// Sets a function that is called at the start of each poll with the number of polls before.
    pub fn on_poll(mut self, on_poll: impl FnMut(usize) + 'static) -> Self {
        self.on_poll = Some(Box::new(on_poll));
        self
    }
}

impl UpstreamPoll {
    /// Returns the kind of this result.
    pub(super) fn new(polled: &Poll<Option<Result<Frame<Bytes>, ScriptError>>>) -> Self {
        match polled {
            Poll::Pending => Self::Pending,
            Poll::Ready(None) => Self::Eof,
            Poll::Ready(Some(Err(ScriptError))) => Self::Error,
            Poll::Ready(Some(Ok(frame))) if frame.is_data() => Self::Data,
            Poll::Ready(Some(Ok(_))) => Self::Trailers,
        }
    }

    /// Returns `true` if the upstream was pending.
    pub fn is_pending(self) -> bool {
        matches!(self, Self::Pending | Self::Yielded)
    }
}

impl UpstreamLog {
    /// Records that a cancellation of the stream has fired.
    pub fn cancel(&self) {
        if !self.is_cancelled() {
            self.cancelled.set(Some(self.frames.borrow().len()));
        }
    }

    /// Returns `true` once a cancellation of the stream has fired.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.get().is_some()
    }

    /// Returns the number of polls.
    pub fn polls(&self) -> usize {
        self.polls.get()
    }

    /// Returns the result of the last poll.
    pub fn last(&self) -> UpstreamPoll {
        self.last.get()
    }

    /// Returns `true` once the upstream has been dropped.
    pub fn is_dropped(&self) -> bool {
        self.dropped.get()
    }

    /// Returns the end of the upstream, by its last poll and the `is_end_stream` after that poll.
    pub fn end(&self) -> UpstreamEnd {
        match self.last() {
            UpstreamPoll::Eof => UpstreamEnd::Eof,
            UpstreamPoll::Data if self.is_end_stream() => UpstreamEnd::Eof,
            UpstreamPoll::Trailers => UpstreamEnd::Trailers,
            UpstreamPoll::Error => UpstreamEnd::Error,
            _ => UpstreamEnd::Open,
        }
    }

    /// Returns `is_end_stream` of the upstream after its last poll.
    pub(super) fn is_end_stream(&self) -> bool {
        self.is_end_stream.get()
    }

    /// Returns the number of frames before the cancellation, or `None` if the stream is not cancelled.
    pub(super) fn frames_before_cancellation(&self) -> Option<usize> {
        self.cancelled.get()
    }

    pub(super) fn frame(&self, index: usize) -> Option<Bytes> {
        self.frames.borrow().get(index).cloned()
    }
}

impl Body for Upstream {
    type Data = Bytes;
    type Error = ScriptError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ScriptError>>> {
        let this = &mut *self;
        let log = &this.log;
        if let Some(on_poll) = &mut this.on_poll {
            on_poll(log.polls());
        }
        log.polls.set(log.polls() + 1);
        let yields = matches!(this.script.next_step(), Some(Step::Yield));
        log.last.set(UpstreamPoll::Panicked);
        let polled = this.script.as_mut().poll_frame(cx);
        log.last.set(match UpstreamPoll::new(&polled) {
            UpstreamPoll::Pending if yields => UpstreamPoll::Yielded,
            returned => returned,
        });
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            log.frames.borrow_mut().extend(frame.data_ref().cloned());
        }
        log.is_end_stream.set(this.script.is_end_stream());
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.script.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.script.size_hint()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.log.dropped.set(true);
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream")
            .field("script", &self.script)
            .finish_non_exhaustive()
    }
}
