//! Cancels a stream at a chosen moment, and panics if a cancellation is polled again after it has fired.

use std::{
    future::Future,
    mem,
    pin::Pin,
    rc::Rc,
    sync::{Arc, Mutex},
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
    pub(super) fired: Arc<Mutex<Fired>>,
}

/// The state of the futures that cancel the stream: one for each layer.
#[derive(Default)]
pub(super) struct Fired {
    has_fired: bool,
    wakers: Vec<Waker>,
}

/// The future that cancels a stream.
pub(super) struct Cancellation {
    fired: Arc<Mutex<Fired>>,
    has_ended: bool,
}

impl Canceller {
    pub(super) fn new(plan: Option<Cancel>, log: &Rc<UpstreamLog>) -> Rc<Self> {
        Rc::new(Self {
            plan,
            shutdown: Shutdown::new(),
            log: Rc::clone(log),
            fired: Arc::default(),
        })
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
                let mut fired = self.fired.lock().expect("no poisoned lock");
                fired.has_fired = true;
                let wakers = mem::take(&mut fired.wakers);
                drop(fired);
                wakers.into_iter().for_each(Waker::wake);
            }
            Trigger::Shutdown => self.shutdown.close(),
            Trigger::ShutdownWith(choice) => self.shutdown.close_with(choice.event()),
        }
    }
}

impl Cancellation {
    pub(super) fn new(fired: &Arc<Mutex<Fired>>) -> Self {
        Self {
            fired: Arc::clone(fired),
            has_ended: false,
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
        let mut fired = self.fired.lock().expect("no poisoned lock");
        if fired.has_fired {
            drop(fired);
            self.has_ended = true;
            return Poll::Ready(());
        }
        fired.wakers.retain(|waker| !waker.will_wake(cx.waker()));
        fired.wakers.push(cx.waker().clone());
        Poll::Pending
    }
}
