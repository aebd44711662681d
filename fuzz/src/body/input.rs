//! One stream, and all that may happen to it.

use arbitrary::{Arbitrary, Result, Unstructured};

use super::{closing::Choice, timed::Times};
use crate::{
    steps,
    support::script::{EndStream, Script, Step, Then},
};

#[derive(Debug)]
pub struct Input {
    pub(super) close_on_empty: bool,
    pub(super) close_on_completed: bool,
    pub(super) close_on_failed: bool,
    pub(super) hold_limit: usize,
    /// What the layer closes streams with, and what the response brings.
    pub(super) close_event: Choice,
    pub(super) close_event_of_response: Option<Choice>,
    pub(super) has_shutdown: bool,
    pub(super) cancel: Option<Cancel>,
    pub(super) drop_before_poll: Option<usize>,
    /// Every pending poll is followed by one with another waker.
    pub(super) changes_tasks: bool,
    /// Goes on when the body says that it is at its end.
    pub(super) polls_on: bool,
    /// Two layers, one around the other.
    pub(super) is_nested: bool,
    /// With deadlines and a keep-alive.
    pub(super) times: Option<Times>,
    pub(super) end_stream: EndStream,
    pub(super) then: Then,
    pub(super) steps: Vec<Step>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Cancel {
    pub(super) when: When,
    pub(super) by: By,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    BeforeRequest,
    /// Of the body.
    BeforePoll(usize),
    /// While the upstream is polled for this time.
    DuringPoll(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Future,
    Shutdown,
    /// Which closes with an event of its own.
    ShutdownWith(Choice),
}

/// How many bytes are in front of the steps.
const OPTIONS: usize = 8;

impl Input {
    /// What is read from an input of these options and steps. With all options zero, a default layer and a stream that
    /// ends.
    pub fn encode(options: [u8; OPTIONS], steps: &[u8]) -> Vec<u8> {
        [&options, steps].concat()
    }

    pub(super) fn script(&self) -> Script {
        Script::new(self.steps.iter().cloned())
            .then(self.then.clone())
            .end_stream(self.end_stream)
    }
}

impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let [closes, hold_limit, cancel, at, by, choices, drop, ways] = u.arbitrary()?;
        let at = usize::from(at);
        let when = match cancel % 8 {
            0..=2 => None,
            3 => Some(When::BeforeRequest),
            4 | 5 => Some(When::BeforePoll(at)),
            _ => Some(When::DuringPoll(at)),
        };
        let by = match by % 3 {
            0 => By::Future,
            1 => By::Shutdown,
            _ => By::ShutdownWith(Choice::new(by / 3)),
        };
        Ok(Self {
            close_on_empty: closes & 1 == 0,
            close_on_completed: closes & 2 != 0,
            close_on_failed: closes & 4 != 0,
            hold_limit: match hold_limit {
                // Nearly every stream.
                0 | 192.. => 64 * 1024,
                1..192 => usize::from(hold_limit) - 1,
            },
            close_event: Choice::new(choices & 15),
            close_event_of_response: (choices & 16 != 0).then(|| Choice::new(choices >> 5)),
            has_shutdown: ways & 1 != 0 || by != By::Future,
            cancel: when.map(|when| Cancel { when, by }),
            drop_before_poll: (drop >= 192).then(|| usize::from(drop) - 192),
            changes_tasks: ways & 2 != 0,
            polls_on: ways & 4 != 0,
            is_nested: ways & 0b1100_0000 == 0b1100_0000,
            times: match ways & 0b1100_0000 {
                0b1000_0000 => Some(u.arbitrary()?),
                _ => None,
            },
            end_stream: match ways >> 3 & 3 {
                0 | 1 => EndStream::Unsaid,
                2 => EndStream::Said,
                _ => EndStream::Lied,
            },
            then: if ways & 32 == 0 {
                Then::End
            } else {
                Then::Pending
            },
            steps: steps::read(u.bytes(u.len())?),
        })
    }

    fn size_hint(_depth: usize) -> (usize, Option<usize>) {
        (OPTIONS, None)
    }
}
