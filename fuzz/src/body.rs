//! The body of an event stream, judged poll by poll by the model of the contract: of one layer, of two layers, with end marks,
//! and with deadlines and a keep-alive while a clock jumps.

mod cancel;
mod closing;
mod input;
mod matches;
mod times;

use std::{
    convert::Infallible,
    future::Future,
    pin::pin,
    rc::Rc,
    task::{Context, Waker},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use testkit::{
    driver::Driver,
    exchange::{OneResponse, event_stream_response, send_response},
    model::{Deadlines, Judge, Progress, StreamJudge, Upstream},
    reports::Reports,
    script::ScriptError,
};
use tower_layer::{Layer, layer_fn};
use tower_service::Service;

pub use self::input::Input;
use self::{
    cancel::{Canceller, When},
    matches::mark,
    times::Clock,
};

impl Input {
    pub fn check(&self) {
        if self.times.is_some() {
            crate::RUNTIME.with(|runtime| runtime.block_on(self.run()));
        } else {
            // Polled without a runtime, because a stream without deadlines needs none.
            let run = pin!(self.run()).poll(&mut Context::from_waker(Waker::noop()));
            assert!(run.is_ready(), "the run waits only for a clock");
        }
    }

    async fn run(&self) {
        let reports = Reports::default();
        let judge = StreamJudge::new(self.options(), &reports);
        let canceller = Canceller::new(self.cancel, judge.log());
        let layer = self.layer(&canceller, &reports);
        match self.is_stacked {
            false => {
                let layer = mark(layer, &self.end_marks);
                self.drive(judge, &canceller, &layer).await;
            }
            true => {
                // The end marks of the layers add up.
                let (of_inner, of_outer) = self.end_marks.split_at(self.end_marks.len() / 2);
                let (inner, outer) = (mark(layer.clone(), of_inner), mark(layer, of_outer));
                let both = layer_fn(|service| outer.layer(inner.layer(service)));
                self.drive(judge, &canceller, &both).await;
            }
        }
    }

    /// Sends the stream through the layer, and polls it until it ends, is dropped, or can no longer wake.
    async fn drive<J, L, B>(&self, mut judge: J, canceller: &Rc<Canceller>, layer: &L)
    where
        J: Judge,
        L: Layer<OneResponse<Upstream>>,
        L::Service: Service<Request<()>, Response = Response<B>, Error = Infallible>,
        B: Body<Data = Bytes, Error = ScriptError>,
    {
        let of_upstream = Rc::clone(canceller);
        let upstream = judge
            .upstream(self.script())
            .on_poll(move |polls| of_upstream.reach(When::DuringPoll(polls)));
        let log = Rc::clone(judge.log());
        canceller.reach(When::BeforeRequest);
        let mut response = event_stream_response(upstream);
        if let Some(choice) = self.close_event_of_response {
            response.extensions_mut().insert(choice.event());
        }
        let clock = self.times.as_ref().map(Clock::start);
        let mut body = Driver::new(send_response(layer, Request::new(()), response).into_body());

        let mut waits = false;
        let deadlines = self.deadlines();
        for poll in 0.. {
            if let Some(clock) = &clock {
                judge.advance_to(clock.advance(poll, waits).await);
            }
            canceller.reach(When::BeforePoll(poll));
            if self.drop_before_poll == Some(poll) {
                break;
            }
            if self.changes_tasks && poll > 0 {
                judge.assert_woken(&body);
                body = body.in_another_task();
            }
            if let Some(clock) = &clock {
                clock.may_spend_budget(poll);
            }
            let progress = judge.poll(&mut body);
            waits = progress == Progress::Waiting;
            let nothing_comes = log.polls() >= self.steps.len();
            match progress {
                Progress::Ready => {}
                Progress::Finished if self.polls_on && !nothing_comes => {}
                Progress::Finished | Progress::Ended => break,
                Progress::Waiting
                    if nothing_comes
                        && deadlines == Deadlines::default()
                        && !canceller.reach_later_poll() =>
                {
                    break;
                }
                Progress::Waiting => {}
            }
            if poll > 2 * self.steps.len() + 64 {
                // The comments of a keep-alive do not end.
                let keep_alive = deadlines.keep_alive;
                assert!(keep_alive.is_some(), "C10: the stream does not end");
                break;
            }
        }
        judge.finish(body);
    }
}
