//! Every end of a stream, after every content, with every policy: the bytes, the hints after every poll, and the
//! report, compared with the model of the contract.

use std::time::Duration;

use bytes::Bytes;
use http_body::SizeHint;
use testkit::{
    PrintOnPanic,
    driver::Driver,
    exchange::{cancellation_layer, event_stream},
    model::{
        Expected, Forwarding, Judge, Match, Options, Policy, Progress, Stop, StreamJudge,
        UpstreamEnd,
    },
    reports::Reports,
    script::{AfterScript, EndStream, Script, Step, data},
};
use tokio::time::{Instant, advance};
use tokio_util::sync::CancellationToken;
use tower_sse_completion::{Ending, EventMatch};

const MINUTE: Duration = Duration::from_secs(60);

/// Limit of the buffer in bytes: above the unfinished event, below the large event.
const BUFFER_LIMIT: usize = 16;

/// The frames that the upstream sends before its end.
const CONTENTS: [&[&str]; 12] = [
    &[],
    &[": hi\n"],
    &["data: 1\n\n"],
    &["data: 1\r\r"],
    &["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"],
    &["data: 1\n\nid: 7\n", "data: 2"],
    &["data: more than fits"],
    &["data: 1\n\n", "data: 2\n\ndata: x\n\ndata: 3\n\n"],
    &["data: x\r", "\r"],
    &["data: 1\n\n", "data: x\n"],
    &["data: x"],
    &["event: stop\ndata: more than fits\n"],
];

/// The data and the type of the end marks.
const END_MARKS: [&str; 2] = ["x", "stop"];

/// The number of combinations of options: five of the policy, and end marks.
const OPTIONS: usize = 64;

/// The end that follows the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EndKind {
    End,
    EndWithTrailers,
    /// The upstream reports its end with its last frame.
    EndStream,
    Error,
    CancelWhilePending,
    /// A cancellation before the first poll, of an upstream that is always ready.
    CancelWhileReady,
    MaxAge,
    IdleTimeout,
    DropUnpolled,
    DropMidStream,
    Panic,
}

const END_KINDS: [EndKind; 11] = [
    EndKind::End,
    EndKind::EndWithTrailers,
    EndKind::EndStream,
    EndKind::Error,
    EndKind::CancelWhilePending,
    EndKind::CancelWhileReady,
    EndKind::MaxAge,
    EndKind::IdleTimeout,
    EndKind::DropUnpolled,
    EndKind::DropMidStream,
    EndKind::Panic,
];

#[derive(Debug)]
struct Combination {
    content: &'static [&'static str],
    end_kind: EndKind,
    policy: Policy,
    end_marks: Vec<Match>,
}

#[tokio::test(start_paused = true)]
async fn c4_to_c21_and_c26_every_ending_after_every_content_with_every_policy() {
    let mut combinations = 0;
    for content in CONTENTS {
        for end_kind in END_KINDS {
            // Miri runs one set of options for each combination, in turn.
            let stride = if cfg!(miri) { OPTIONS } else { 1 };
            for bits in (combinations % stride..OPTIONS).step_by(stride) {
                let [data, event] = END_MARKS.map(str::to_owned);
                let end_marks = match bits & 32 {
                    0 => Vec::new(),
                    _ => vec![Match::Data(data), Match::Event(event)],
                };
                let policy = Policy {
                    close_event: bits & 16 == 0,
                    close_on_empty: bits & 1 != 0,
                    close_on_completed: bits & 2 != 0,
                    close_on_failed: bits & 4 != 0,
                    close_on_truncated: bits & 8 != 0,
                };
                let combination = Combination {
                    content,
                    end_kind,
                    policy,
                    end_marks,
                };
                combination.run().await;
                combinations += 1;
            }
        }
    }
    assert_eq!(combinations, if cfg!(miri) { 132 } else { 8448 });
}

impl Combination {
    async fn run(&self) {
        let _case = PrintOnPanic(self);
        let token = CancellationToken::new();
        let reports = Reports::default();
        let mut options = Options {
            policy: self.policy,
            buffer_limit: BUFFER_LIMIT,
            end_marks: self.end_marks.clone(),
            ..Options::default()
        };
        let mut layer = cancellation_layer(&token)
            .buffer_limit(BUFFER_LIMIT)
            .close_on_empty(self.policy.close_on_empty)
            .close_on_completed(self.policy.close_on_completed)
            .close_on_failed(self.policy.close_on_failed)
            .close_on_truncated(self.policy.close_on_truncated)
            .on_end(reports.observer());
        if !self.policy.close_event {
            layer = layer.close_event(None);
        }
        for end_mark in self.end_marks.iter().cloned() {
            layer = layer.end_mark(EventMatch::from(end_mark));
        }
        match self.end_kind {
            EndKind::MaxAge => {
                layer = layer.max_age(MINUTE);
                options.deadlines.max_age = Some(MINUTE);
            }
            EndKind::IdleTimeout => {
                layer = layer.idle_timeout(MINUTE);
                options.deadlines.idle_timeout = Some(MINUTE);
            }
            _ => {}
        }
        let mut judge = StreamJudge::new(options, &reports);
        let log = judge.log().clone();
        let mut body = Driver::new(event_stream(&layer, judge.upstream(self.script())));
        let cancel = || {
            token.cancel();
            log.cancel();
        };

        let response = Instant::now();
        if self.end_kind == EndKind::CancelWhileReady {
            cancel();
        }
        let mut is_over = self.end_kind == EndKind::DropUnpolled;
        while !is_over {
            match judge.poll(&mut body) {
                Progress::Ready => {}
                Progress::Finished | Progress::Ended => is_over = true,
                Progress::Waiting => match self.end_kind {
                    EndKind::CancelWhilePending => cancel(),
                    EndKind::MaxAge | EndKind::IdleTimeout => advance(MINUTE).await,
                    EndKind::DropMidStream => is_over = true,
                    _ => panic!("the stream is pending without a reason"),
                },
            }
            judge.advance_to(response.elapsed());
        }

        if self.end_kind == EndKind::CancelWhileReady {
            assert!(log.polls() <= 32, "C11: {} frames", log.polls());
        }
        let expected = self.expected();
        assert_eq!(judge.output(), expected.output());
        let sent = judge.output().len();
        judge.finish(body);
        match self.end_kind {
            EndKind::DropUnpolled => assert_eq!(reports.count(), 0, "C21: never polled"),
            _ => expected.assert_report(&reports.only(), sent),
        }
    }

    fn script(&self) -> Script {
        let last = match self.end_kind {
            EndKind::EndWithTrailers => Some(Step::Trailers),
            EndKind::Error => Some(Step::Error),
            EndKind::Panic => Some(Step::Panic),
            _ => None,
        };
        let after = match self.end_kind {
            EndKind::CancelWhileReady => AfterScript::Repeat(Bytes::new()),
            _ if self.is_stopped() => AfterScript::Pending,
            _ => AfterScript::End,
        };
        let end_stream = match self.end_kind {
            EndKind::EndStream => EndStream::Known,
            _ => EndStream::Unknown,
        };
        let length: usize = self.content.iter().map(|frame| frame.len()).sum();
        Script::new(self.content.iter().map(data).chain(last))
            .then(after)
            .end_stream(end_stream)
            .size_hint(SizeHint::with_exact(length as u64))
    }

    /// Returns `true` if the stream ends before its upstream.
    fn is_stopped(&self) -> bool {
        use EndKind::*;
        matches!(
            self.end_kind,
            CancelWhilePending | CancelWhileReady | MaxAge | IdleTimeout | DropMidStream
        )
    }

    fn expected(&self) -> Expected {
        let mut forwarding = Forwarding::new(BUFFER_LIMIT).matching(&self.end_marks, &[]);
        for frame in self.content {
            forwarding.receive(frame.as_bytes());
        }
        let (stop, end) = match self.end_kind {
            EndKind::End | EndKind::EndStream => (None, UpstreamEnd::Eof),
            EndKind::EndWithTrailers => (None, UpstreamEnd::Trailers),
            EndKind::Error => (None, UpstreamEnd::Error),
            EndKind::CancelWhilePending | EndKind::CancelWhileReady => {
                (Some(Stop::Cancelled), UpstreamEnd::Open)
            }
            EndKind::MaxAge => (Some(Stop::Expired), UpstreamEnd::Open),
            EndKind::IdleTimeout => (Some(Stop::Idle), UpstreamEnd::Open),
            EndKind::DropMidStream => (None, UpstreamEnd::Open),
            EndKind::DropUnpolled => {
                return Expected::without_tail(&forwarding, Ending::Dropped, 0);
            }
            EndKind::Panic if forwarding.facts().has_end_mark => (None, UpstreamEnd::Open),
            EndKind::Panic => {
                let released = forwarding.released();
                return Expected::without_tail(&forwarding, Ending::Failed, released);
            }
        };
        Expected::new(&forwarding, stop, end, self.policy)
    }
}
