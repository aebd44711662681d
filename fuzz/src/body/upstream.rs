//! A script that tells what became of it, and cancellations that notice when they are treated badly.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_sse_completion::Shutdown;

use super::input::{By, Cancel, When};
use crate::support::script::{Script, ScriptError};

pin_project! {
    pub(super) struct Upstream {
        #[pin]
        script: Script,
        record: Rc<Record>,
        canceller: Rc<Canceller>,
    }
}

/// What came of the upstream.
#[derive(Default)]
pub(super) struct Record {
    pub(super) polls: Cell<usize>,
    pub(super) frames: RefCell<Vec<Bytes>>,
    /// What the last poll gave.
    pub(super) last: Cell<Gave>,
    /// It says that it is at its end.
    pub(super) says_end: Cell<bool>,
    /// Of the frames, so many since the stream was cancelled.
    pub(super) frames_since_cancelled: Cell<usize>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Gave {
    #[default]
    Nothing,
    Pending,
    Data,
    Trailers,
    Error,
    End,
}

pub(super) struct Canceller {
    plan: Option<Cancel>,
    pub(super) shutdown: Shutdown,
    fired: Cell<bool>,
    by_future: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// The cancellation of one stream. Polled once too often, it panics.
pub(super) struct Cancellation {
    canceller: Rc<Canceller>,
    ended: bool,
}

impl Upstream {
    pub(super) fn new(script: Script, record: &Rc<Record>, canceller: &Rc<Canceller>) -> Self {
        Self {
            script,
            record: Rc::clone(record),
            canceller: Rc::clone(canceller),
        }
    }
}

impl Body for Upstream {
    type Data = Bytes;
    type Error = ScriptError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ScriptError>>> {
        let mut this = self.project();
        let record = this.record;
        this.canceller.reach(When::DuringPoll(record.polls.get()));
        record.polls.set(record.polls.get() + 1);
        let polled = this.script.as_mut().poll_frame(cx);
        record.last.set(match &polled {
            Poll::Pending => Gave::Pending,
            Poll::Ready(None) => Gave::End,
            Poll::Ready(Some(Err(_))) => Gave::Error,
            Poll::Ready(Some(Ok(frame))) => match frame.data_ref() {
                None => Gave::Trailers,
                Some(data) => {
                    record.frames.borrow_mut().push(data.clone());
                    let cancelled = usize::from(this.canceller.fired());
                    let frames = &record.frames_since_cancelled;
                    frames.set(frames.get() + cancelled);
                    Gave::Data
                }
            },
        });
        record.says_end.set(this.script.is_end_stream());
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.script.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // An upstream that knows its size.
        SizeHint::with_exact(1)
    }
}

impl Canceller {
    pub(super) fn new(plan: Option<Cancel>) -> Rc<Self> {
        Rc::new(Self {
            plan,
            shutdown: Shutdown::new(),
            fired: Cell::new(false),
            by_future: Cell::new(false),
            waker: RefCell::new(None),
        })
    }

    pub(super) fn cancellation(self: &Rc<Self>) -> Cancellation {
        Cancellation {
            canceller: Rc::clone(self),
            ended: false,
        }
    }

    /// Cancels the stream, if this is when it shall be cancelled.
    pub(super) fn reach(&self, when: When) {
        if self.plan.is_some_and(|plan| plan.when == when) {
            self.fire();
        }
    }

    /// Cancels a stream that waits, if that is still to come between two polls. Returns whether it did.
    pub(super) fn reach_later_poll(&self) -> bool {
        let is_to_come =
            matches!(self.plan, Some(plan) if matches!(plan.when, When::BeforePoll(_)));
        if is_to_come && !self.fired() {
            self.fire();
            return true;
        }
        false
    }

    pub(super) fn fired(&self) -> bool {
        self.fired.get()
    }

    fn fire(&self) {
        let Some(plan) = self.plan.filter(|_| !self.fired.replace(true)) else {
            return;
        };
        match plan.by {
            By::Future => {
                self.by_future.set(true);
                if let Some(waker) = self.waker.take() {
                    waker.wake();
                }
            }
            By::Shutdown => self.shutdown.close(),
            By::ShutdownWith(choice) => self.shutdown.close_with(choice.event()),
        }
    }
}

impl Future for Cancellation {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        assert!(
            !self.ended,
            "C13: the cancellation was polled after it had fired"
        );
        if self.canceller.by_future.get() {
            self.ended = true;
            return Poll::Ready(());
        }
        let waker = &mut *self.canceller.waker.borrow_mut();
        if waker
            .as_ref()
            .is_none_or(|waker| !waker.will_wake(cx.waker()))
        {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}
