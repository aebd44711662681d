//! Cancels a stream at a chosen moment, and panics if a cancellation is polled again after it has fired.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use testkit::model::UpstreamLog;
use tower_sse_completion::Shutdown;

use super::closing::Choice;

#[derive(Debug, Clone, Copy)]
pub(super) struct Cancel {
    pub(super) when: When,
    pub(super) trigger: Trigger,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    BeforeRequest,
    /// Before this poll of the body.
    BeforePoll(usize),
    /// During this poll of the upstream.
    DuringPoll(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trigger {
    Future,
    Shutdown,
    /// A shutdown with its own close event.
    ShutdownWith(Choice),
}

pub(super) struct Canceller {
    plan: Option<Cancel>,
    pub(super) shutdown: Shutdown,
    log: Rc<UpstreamLog>,
    has_fired: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// The future that cancels a stream.
pub(super) struct Cancellation {
    canceller: Rc<Canceller>,
    has_ended: bool,
}

impl Canceller {
    pub(super) fn new(plan: Option<Cancel>, log: &Rc<UpstreamLog>) -> Rc<Self> {
        Rc::new(Self {
            plan,
            shutdown: Shutdown::new(),
            log: Rc::clone(log),
            has_fired: Cell::new(false),
            waker: RefCell::new(None),
        })
    }

    pub(super) fn cancellation(self: &Rc<Self>) -> Cancellation {
        Cancellation {
            canceller: Rc::clone(self),
            has_ended: false,
        }
    }

    /// Cancels the stream if the plan has this moment.
    pub(super) fn reach(&self, when: When) {
        if self.plan.is_some_and(|plan| plan.when == when) {
            self.fire();
        }
    }

    /// Cancels a waiting stream if the plan has a later poll. Returns `true` if it was not cancelled
    /// before.
    pub(super) fn reach_later_poll(&self) -> bool {
        let is_planned = self
            .plan
            .is_some_and(|plan| matches!(plan.when, When::BeforePoll(_)));
        if !is_planned || self.log.is_cancelled() {
            return false;
        }
        self.fire();
        true
    }

    fn fire(&self) {
        let Some(plan) = self.plan.filter(|_| !self.log.is_cancelled()) else {
            return;
        };
        self.log.cancel();
        match plan.trigger {
            Trigger::Future => {
                self.has_fired.set(true);
                if let Some(waker) = self.waker.take() {
                    waker.wake();
                }
            }
            Trigger::Shutdown => self.shutdown.close(),
            Trigger::ShutdownWith(choice) => self.shutdown.close_with(choice.event()),
        }
    }
}

impl Future for Cancellation {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        assert!(
            !self.has_ended,
            "C13: the cancellation was polled after its end"
        );
        if self.canceller.has_fired.get() {
            self.has_ended = true;
            return Poll::Ready(());
        }
        *self.canceller.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}
