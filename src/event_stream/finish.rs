//! The end of an event stream: which ending it is, what still goes out, and the report.

use std::{
    future::{self, Future},
    pin::Pin,
    task::{Context, Poll},
};

use http_body::{Body, Frame};

use super::{EventStream, Last, Mode, State, StateProjection};
use crate::{coop::poll_unconstrained, report::ending::Ending};

impl<B: Body, C> EventStream<B, C> {
    /// Reports the stream, unless that was done.
    pub(super) fn report(self: Pin<&mut Self>) {
        let this = self.project();
        if let Some(account) = this.account.take() {
            let hold = this.hold;
            account.report(
                &this.config.on_end,
                hold.frames(),
                hold.bytes(),
                hold.delivered(),
            );
        }
    }

    fn is_outer(&self) -> bool {
        matches!(self.state, State::Open { is_outer: true, .. })
    }

    fn natural_ending(&self) -> Ending {
        if self.hold.delivered() {
            Ending::Completed
        } else {
            Ending::Empty
        }
    }

    /// Whether a close event is due. What ended by itself inside of another layer has that layer's, if any.
    fn closes_on(&self, ending: Ending, by_itself: bool) -> bool {
        self.config.closes_on(ending) && self.hold.may_close() && !(self.is_outer() && by_itself)
    }
}

impl<B, C> EventStream<B, C>
where
    B: Body,
    C: Future<Output = ()>,
{
    /// Finishes the stream, if the upstream says that what it just gave was its last frame: then the server
    /// may never poll again.
    pub(super) fn finish_with_upstream(mut self: Pin<&mut Self>, cx: &mut Context<'_>) {
        let finished = match &self.state {
            State::Open { upstream, mode, .. } => {
                matches!(mode, Mode::Streaming) && upstream.is_end_stream()
            }
            State::Ending { .. } | State::Done => false,
        };
        let ending = self.natural_ending();
        if !finished || self.hold.is_waiting() || self.closes_on(ending, true) {
            return;
        }
        if self.as_mut().poll_cancelled_at_end(cx).is_ready() {
            return;
        }
        let mut this = self.as_mut().project();
        if let StateProjection::Open { mode, .. } = this.state.as_mut().project() {
            *mode = Mode::Finished;
        }
        this.stop.end();
        if let Some(account) = this.account {
            account.decided(ending, false);
        }
        self.report();
    }

    /// Where the upstream has ended, the cancellation is looked at for the last time, so the answer must be the true one
    /// whatever the upstream has left of the budget.
    fn poll_cancelled_at_end(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ending> {
        let cancelled = future::poll_fn(|cx| self.as_mut().poll_cancelled(cx));
        poll_unconstrained(cancelled, cx)
    }

    /// What has come to its end by itself was not too late. Others may have stopped it all the same.
    fn forget_deadline(self: Pin<&mut Self>) {
        if let StateProjection::Open { mode, .. } = self.project().state.project() {
            if let Mode::Cancelled {
                ending: Ending::Expired | Ending::Idle,
                ..
            } = mode
            {
                *mode = Mode::Streaming;
            }
        }
    }

    /// The upstream has ended, or is not polled any more. Returns the first of what still goes out.
    pub(super) fn end(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        last: Option<Last<B::Error>>,
        by_itself: bool,
    ) -> Option<Last<B::Error>> {
        if by_itself {
            self.as_mut().forget_deadline();
        }
        let stopped = match self.as_mut().poll_cancelled_at_end(cx) {
            Poll::Ready(ending) => Some(ending),
            Poll::Pending => None,
        };
        let ending = match (&last, stopped) {
            (_, Some(ending)) => ending,
            (Some(Err(_)), None) => Ending::Failed,
            _ => self.natural_ending(),
        };
        let close = self.closes_on(ending, by_itself);
        let passes_error = !close && (stopped.is_none() || self.is_outer());

        let mut this = self.as_mut().project();
        // The upstream goes before the close event, so that its channels and permits are free by then.
        this.state.set(State::Done);
        let shutdown_event = this.stop.close_event();
        this.stop.end();
        // Before the event is made, which a panic of the user's function may prevent.
        if let Some(account) = this.account {
            account.decided(ending, false);
        }
        let first = if close {
            this.hold.discard_held();
            let event = this.close_event.take().map(|event| *event);
            let event = event.or(shutdown_event.filter(|_| ending == Ending::Cancelled));
            let event = event.unwrap_or_else(|| this.config.close_event.close_event(ending));
            if let Some(account) = this.account {
                account.decided(ending, true);
            }
            Some(event.encode(this.hold.ends_in_cr()))
        } else {
            this.hold.take_held()
        };

        let last = last.filter(|last| last.is_ok() || passes_error);
        let (next, rest) = match first {
            Some(data) => (Some(Ok(Frame::data(data))), last),
            None => (last, None),
        };
        match rest {
            Some(rest) => {
                let last = Some(Box::new(rest));
                this.state.set(State::Ending { last });
            }
            None => self.report(),
        }
        next
    }
}
