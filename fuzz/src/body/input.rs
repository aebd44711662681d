//! One stream, with its options and events.

use std::{rc::Rc, sync::Arc};

use arbitrary::{Arbitrary, Result, Unstructured};
use http::request::Parts;
use http_body::SizeHint;
use testkit::{
    model::{Deadlines, Match, Options, Policy},
    reports::Reports,
    script::{AfterScript, EndStream, Script, Step},
};
use tower_sse_completion::{Ending, IdleTimeout, SseCompletionLayer};

use super::{
    cancel::{Cancel, Cancellation, Canceller, Trigger, When},
    closing::Choice,
    matches,
    times::Times,
};
use crate::steps;

#[derive(Debug)]
pub struct Input {
    pub(super) policy: Policy,
    pub(super) buffer_limit: usize,
    /// The close events of the layer, if it has one, and of the response.
    pub(super) close_event: Choice,
    pub(super) close_event_of_response: Option<Choice>,
    pub(super) end_marks: Vec<Match>,
    /// The events that do not reset the idle timeout.
    pub(super) ignored: Vec<Match>,
    pub(super) has_shutdown: bool,
    pub(super) cancel: Option<Cancel>,
    pub(super) drop_before_poll: Option<usize>,
    /// Every poll is made by another task.
    pub(super) changes_tasks: bool,
    /// The body is polled again although its `is_end_stream` is `true`.
    pub(super) polls_on: bool,
    /// The stream has two layers, one around the other, which act as one.
    pub(super) is_stacked: bool,
    pub(super) times: Option<Times>,
    pub(super) end_stream: EndStream,
    pub(super) after_script: AfterScript,
    pub(super) steps: Vec<Step>,
}

/// The number of bytes before the steps.
const OPTIONS: usize = 8;

impl Input {
    /// Returns the bytes from which these options and steps are read. All zeros are a default layer and a stream that
    /// ends.
    pub fn encode(options: [u8; OPTIONS], steps: &[u8]) -> Vec<u8> {
        [&options, steps].concat()
    }

    pub(super) fn script(&self) -> Script {
        Script::new(self.steps.iter().cloned())
            .then(self.after_script.clone())
            .end_stream(self.end_stream)
            // A size that must not be forwarded.
            .size_hint(SizeHint::with_exact(1))
    }

    pub(super) fn deadlines(&self) -> Deadlines {
        let times = self.times.as_ref();
        times.map_or(Deadlines::default(), |times| times.deadlines)
    }

    pub(super) fn layer(&self, canceller: &Rc<Canceller>, reports: &Reports) -> SseCompletionLayer {
        let fired = Arc::clone(&canceller.fired);
        let mut layer = SseCompletionLayer::new()
            .cancel_when(move |_: &Parts| Cancellation::new(&fired))
            .close_on_empty(self.policy.close_on_empty)
            .close_on_completed(self.policy.close_on_completed)
            .close_on_failed(self.policy.close_on_failed)
            .close_on_truncated(self.policy.close_on_truncated)
            .buffer_limit(self.buffer_limit)
            .on_end(reports.observer());
        layer = match self.policy.close_event {
            true => self.close_event.configure(layer),
            false => layer.close_event(None),
        };
        if self.has_shutdown {
            layer = layer.shutdown(&canceller.shutdown);
        }
        let deadlines = self.deadlines();
        if let Some(age) = deadlines.max_age {
            layer = layer.max_age(age);
        }
        if let Some(timeout) = deadlines.idle_timeout {
            let timeout = IdleTimeout::after(timeout);
            layer = layer.idle_timeout(matches::ignore(timeout, &self.ignored));
        }
        if let Some(interval) = deadlines.keep_alive {
            layer = layer.keep_alive(interval);
        }
        layer
    }

    /// Returns the options of that layer, for the model.
    pub(super) fn options(&self) -> Options {
        let of_response = self.close_event_of_response;
        let of_layer = self.close_event;
        let of_shutdown = match self.cancel.map(|cancel| cancel.trigger) {
            Some(Trigger::ShutdownWith(choice)) => Some(choice),
            _ => None,
        };
        let has_close_event = self.policy.close_event;
        Options {
            policy: Policy {
                close_event: has_close_event || of_response.is_some(),
                ..self.policy
            },
            end_marks: self.end_marks.clone(),
            ignored: self.ignored.clone(),
            buffer_limit: self.buffer_limit,
            close_event: Box::new(move |ending| {
                let of_shutdown = of_shutdown.filter(|_| ending == Ending::Cancelled);
                match of_response.or(of_shutdown) {
                    Some(choice) => choice.spec(None),
                    None => of_layer.spec(Some(ending)),
                }
            }),
            deadlines: self.deadlines(),
        }
    }
}

impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let [
            closes,
            buffer_limit,
            cancel,
            at,
            trigger,
            choices,
            drop,
            ways,
        ] = u.arbitrary()?;
        let at = usize::from(at);
        let when = match cancel % 8 {
            0..=2 => None,
            3 => Some(When::BeforeRequest),
            4 | 5 => Some(When::BeforePoll(at)),
            _ => Some(When::DuringPoll(at)),
        };
        let trigger = match trigger % 3 {
            0 => Trigger::Future,
            1 => Trigger::Shutdown,
            _ => Trigger::ShutdownWith(Choice::new(trigger / 3)),
        };
        Ok(Self {
            policy: Policy {
                close_event: closes & 16 == 0,
                close_on_empty: closes & 1 == 0,
                close_on_completed: closes & 2 != 0,
                close_on_failed: closes & 4 != 0,
                close_on_truncated: closes & 8 != 0,
            },
            buffer_limit: match buffer_limit {
                // Enough polls for nearly every stream.
                0 | 192.. => 64 * 1024,
                1..192 => usize::from(buffer_limit) - 1,
            },
            close_event: Choice::new(choices & 7),
            close_event_of_response: (choices & 16 != 0).then(|| Choice::new(choices >> 5)),
            end_marks: matches::end_marks(closes >> 5),
            ignored: match choices & 8 {
                0 => Vec::new(),
                _ => matches::ignored(),
            },
            has_shutdown: ways & 1 != 0 || trigger != Trigger::Future,
            cancel: when.map(|when| Cancel { when, trigger }),
            drop_before_poll: (drop >= 192).then(|| usize::from(drop) - 192),
            changes_tasks: ways & 2 != 0,
            polls_on: ways & 4 != 0,
            is_stacked: ways & 64 != 0,
            times: match ways & 128 {
                0 => None,
                _ => Some(u.arbitrary()?),
            },
            end_stream: match ways >> 3 & 3 {
                0 | 1 => EndStream::Unknown,
                2 => EndStream::Known,
                _ => EndStream::Wrong,
            },
            after_script: match ways & 32 {
                0 => AfterScript::End,
                _ => AfterScript::Pending,
            },
            steps: steps::read(u.bytes(u.len())?),
        })
    }

    fn size_hint(_depth: usize) -> (usize, Option<usize>) {
        (OPTIONS, None)
    }
}
