//! A model of the layer's contract, in plain code that shares nothing with the layer.
//!
//! The model has one part for each kind of rule:
//!
//! - [`Outcome::decide`] is the table of endings: from what stopped a stream and how its upstream ended to the ending,
//!   the close event and the rest of the upstream (C9, C11, C12, C16, C26).
//! - [`Forwarding`] determines the bytes of the upstream that may be forwarded so far (C4 to C7), and finds end marks (C26).
//! - [`Expected`] is everything that a stream returns and reports, predicted from the two.
//! - [`CloseEventSpec`] is the required form of a close event on the wire (C5, C8).
//! - [`ConnectionModel`] predicts the results of the calls of a connection that a shutdown can cut (C24).
//!
//! A test that knows the events of a stream in advance compares the stream with an [`Expected`]. Other tests, such as
//! fuzzers, let a [`StreamJudge`] poll the stream, which panics as soon as the stream breaks a rule.
//!
//! ```
//! use testkit::{
//!     driver::Driver,
//!     exchange::event_stream,
//!     model::{Judge, Options, Progress, StreamJudge},
//!     reports::Reports,
//!     script::Script,
//! };
//! use tower_sse_completion::SseCompletionLayer;
//!
//! let reports = Reports::default();
//! let mut judge = StreamJudge::new(Options::default(), &reports);
//! let upstream = judge.upstream(Script::frames(["data: 1\n\nda", "ta: 2"]));
//! let layer = SseCompletionLayer::new().on_end(reports.observer());
//! let mut body = Driver::new(event_stream(&layer, upstream));
//!
//! while judge.poll(&mut body) != Progress::Ended {}
//! judge.finish(body);
//! ```

mod close_event;
mod connection;
mod event_match;
mod expected;
mod forwarding;
mod judge;
mod outcome;
mod upstream;

use std::{rc::Rc, time::Duration};

use bytes::Bytes;
use http_body::Body;
use tower_sse_completion::Ending;

pub use self::{
    close_event::CloseEventSpec,
    connection::{ABORTED, CALLS, Call, ConnectionModel, Returned, TIMED_OUT},
    event_match::Match,
    expected::Expected,
    forwarding::Forwarding,
    judge::StreamJudge,
    outcome::{Facts, Outcome, Policy, Stop, UpstreamEnd},
    upstream::{Upstream, UpstreamLog, UpstreamPoll},
};
use crate::{
    driver::Driver,
    script::{Script, ScriptError},
};

/// The options of a layer, as far as the model depends on them.
pub struct Options {
    /// The ends that have a close event.
    pub policy: Policy,
    /// Maximum number of bytes that are buffered.
    pub buffer_limit: usize,
    /// Returns the close event of a stream with this ending.
    pub close_event: Box<dyn Fn(Ending) -> CloseEventSpec>,
    /// The events that end a stream.
    pub end_marks: Vec<Match>,
    /// The events that do not reset the idle timeout.
    pub ignored: Vec<Match>,
    /// The deadlines and the keep-alive.
    pub deadlines: Deadlines,
}

/// The deadlines and the keep-alive of a layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deadlines {
    /// The time from the response to the end of a stream.
    pub max_age: Option<Duration>,
    /// The time from the last delivered event that is not ignored to the end of a stream.
    pub idle_timeout: Option<Duration>,
    /// The silence after which a comment is sent.
    pub keep_alive: Option<Duration>,
}

/// Polls one stream, and panics when the stream breaks a rule of the contract.
///
/// A judge observes the upstream of [`upstream`](Self::upstream). The test reports cancellations with
/// [`UpstreamLog::cancel`] and the time with [`advance_to`](Self::advance_to).
pub trait Judge {
    /// Returns the log of the upstream.
    fn log(&self) -> &Rc<UpstreamLog>;

    /// Returns the upstream of the stream.
    fn upstream(&self, script: Script) -> Upstream {
        Upstream::new(script, Rc::clone(self.log()))
    }

    /// Sets the time since the response.
    fn advance_to(&mut self, now: Duration);

    /// Asserts that the task of a waiting stream has been woken if a signal of the stream has fired. [`poll`](Self::poll) does
    /// the same. A test calls this before it moves the body to another task.
    fn assert_woken<B: Body<Data = Bytes>>(&mut self, body: &Driver<B>);

    /// Polls the body once.
    fn poll<B>(&mut self, body: &mut Driver<B>) -> Progress
    where
        B: Body<Data = Bytes, Error = ScriptError>;

    /// Drops the body, and asserts what holds for every stream.
    fn finish<B: Body<Data = Bytes>>(self, body: Driver<B>);
}

/// The progress of a stream after a poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The stream has returned a frame, or has woken its task.
    Ready,
    /// The stream waits for a wake-up.
    Waiting,
    /// The stream reports with `is_end_stream` that it has ended, and a server need not poll it again.
    Finished,
    /// The stream has ended, and must not be polled again.
    Ended,
}

/// The comment that keeps a connection alive.
const KEEP_ALIVE: &[u8] = b":\n\n";

/// Maximum number of ready frames between two checks of the cancellation.
const FRAMES_UNTIL_CHECK: usize = 32;

/// Number of ready frames that are forwarded after the stream has been stopped.
const FRAMES_AFTER_STOP: usize = 32;

/// Maximum number of bytes of a buffered event and its rest that are forwarded in one frame.
const MAX_JOINED: usize = 4096;

/// Maximum number of upstream frames in one poll.
const FRAMES_PER_POLL: usize = 64;

impl Default for Options {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            buffer_limit: 64 * 1024,
            close_event: Box::new(|_| CloseEventSpec::default()),
            end_marks: Vec::new(),
            ignored: Vec::new(),
            deadlines: Deadlines::default(),
        }
    }
}
