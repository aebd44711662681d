//! Every way for a stream to end, behind everything that may have come, under every setting: what comes out, what the
//! hints say meanwhile, and what is reported. `contract/mod.rs` says what has to be.

mod contract;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use contract::{CONTENTS, Combination, HOLD_LIMIT, HOWS, How, Output};
use http_body::{Body, Frame, SizeHint};
use testkit::{
    MIRI_STRIDE,
    driver::Driver,
    exchange::{CLOSE, cancelled_by, event_stream},
    script::{AfterScript, EndStream, Log, Script, ScriptError, Step, data, trailers},
};
use tokio::time::advance;
use tokio_util::sync::CancellationToken;
use tower_sse_completion::{Ending, InvalidDeadline, StreamReport};

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn c4_to_c16_every_ending_behind_every_content_under_every_setting()
-> Result<(), InvalidDeadline> {
    let mut combinations = 0;
    for content in &CONTENTS {
        for how in HOWS {
            // Under Miri one of the eight each, in turns.
            for switches in (combinations % MIRI_STRIDE.min(8)..8).step_by(MIRI_STRIDE.min(8)) {
                let combination = Combination {
                    content,
                    how,
                    close_on_empty: switches & 1 != 0,
                    close_on_completed: switches & 2 != 0,
                    close_on_failed: switches & 4 != 0,
                };
                combination.run().await?;
                combinations += 1;
            }
        }
    }
    assert_eq!(combinations, if cfg!(miri) { 66 } else { 528 });
    Ok(())
}

impl Combination {
    fn upstream(&self) -> Script {
        let last = match self.how {
            How::EndWithTrailers => Some(Step::Trailers),
            How::Error => Some(Step::Error),
            How::Panic => Some(Step::Panic),
            _ => None,
        };
        let then = match self.how {
            How::CancelWhilePending | How::Age | How::Idle | How::DropMidStream => {
                AfterScript::Pending
            }
            How::CancelWhileReady => AfterScript::Repeat(Bytes::new()),
            _ => AfterScript::End,
        };
        let end_stream = if self.how == How::EndStream {
            EndStream::Known
        } else {
            EndStream::Unknown
        };
        let length: usize = self.content.frames.iter().map(|frame| frame.len()).sum();
        Script::new(self.content.frames.iter().map(data).chain(last))
            .then(then)
            .end_stream(end_stream)
            .size_hint(SizeHint::with_exact(length as u64))
    }

    async fn run(&self) -> Result<(), InvalidDeadline> {
        let _named = NameOnPanic(self);
        let token = CancellationToken::new();
        let reports = Arc::<Mutex<Vec<StreamReport>>>::default();
        let observed = Arc::clone(&reports);
        let mut layer = cancelled_by(&token)
            .hold_limit(HOLD_LIMIT)
            .close_on_empty(self.close_on_empty)
            .close_on_completed(self.close_on_completed)
            .close_on_failed(self.close_on_failed)
            .on_end(move |report| observed.lock().expect("no panic").push(report.clone()));
        layer = match self.how {
            How::Age => layer.max_age(MINUTE)?,
            How::Idle => layer.idle_timeout(MINUTE)?,
            _ => layer,
        };
        let upstream = self.upstream();
        let mut stream = Stream {
            combination: self,
            log: upstream.log(),
            body: Driver::new(event_stream(&layer, upstream)),
            output: Output::default(),
            is_over: false,
            reports,
        };

        stream.check();
        if self.how == How::CancelWhileReady {
            token.cancel();
            stream.check();
        }
        if self.how != How::DropUnpolled {
            while stream.poll() {
                stream.check();
                let wakes = stream.body.wakes();
                match self.how {
                    How::CancelWhilePending => token.cancel(),
                    How::Age | How::Idle => advance(MINUTE).await,
                    How::DropMidStream => break,
                    _ => panic!("the stream waits for nothing"),
                }
                assert!(
                    stream.body.wakes() > wakes,
                    "C10: nothing has woken the task"
                );
                stream.check();
            }
        }
        stream.drop_body();
        Ok(())
    }
}

/// A stream that runs, and what has come out of it.
struct Stream<'a, B: Body> {
    combination: &'a Combination,
    log: Arc<Log>,
    body: Driver<B>,
    output: Output,
    /// It gave `None` or an error.
    is_over: bool,
    reports: Arc<Mutex<Vec<StreamReport>>>,
}

impl<B: Body<Data = Bytes, Error = ScriptError>> Stream<'_, B> {
    /// Polls until the stream is over, or panics as it should; `true` if it is pending instead.
    fn poll(&mut self) -> bool {
        let mut polls = 0;
        loop {
            polls += 1;
            assert!(polls < 100, "the stream does not come to an end");
            let wakes = self.body.wakes();
            let polled = catch_unwind(AssertUnwindSafe(|| self.body.poll()));
            let Ok(polled) = polled else {
                assert_eq!(self.combination.how, How::Panic);
                return false;
            };
            match polled {
                Poll::Pending if self.body.wakes() > wakes => {}
                Poll::Pending => return true,
                Poll::Ready(Some(Ok(frame))) => self.take(frame),
                Poll::Ready(Some(Err(ScriptError))) => {
                    self.output.error = true;
                    self.is_over = true;
                }
                Poll::Ready(None) => self.is_over = true,
            }
            self.check();
            if self.is_over {
                break;
            }
        }
        for _ in 0..2 {
            let polled = self.body.poll();
            assert!(
                matches!(polled, Poll::Ready(None)),
                "C13: the end stays the end"
            );
            self.check();
        }
        assert_eq!(self.output, self.combination.output());
        false
    }

    fn take(&mut self, frame: Frame<Bytes>) {
        assert!(!self.output.trailers, "C13: nothing follows the trailers");
        match frame.into_data() {
            Ok(data) => {
                self.output.text += &String::from_utf8_lossy(&data);
                if data == CLOSE {
                    assert!(
                        self.log.dropped(),
                        "C10: the upstream is dropped before the close event"
                    );
                }
            }
            Err(frame) => {
                assert_eq!(frame.into_trailers().ok(), Some(trailers()));
                self.output.trailers = true;
            }
        }
    }

    /// C14: the hints promise nothing before the end. C13 and C16: with the last frame they say it, and it is reported.
    fn check(&self) {
        let combination = self.combination;
        let has_all = self.output != Output::default() && self.output == combination.output();
        let is_at_end = self.is_over || has_all && combination.ends_with_its_last_frame();
        assert_eq!(
            self.body.is_end_stream(),
            is_at_end,
            "C13: is_end_stream behind {:?}",
            self.output
        );
        assert_eq!(
            self.reports.lock().expect("no panic").len(),
            usize::from(is_at_end),
            "C16: reports behind {:?}",
            self.output
        );
        let hint = self.body.size_hint();
        assert_eq!(
            hint.lower(),
            0,
            "C14: a cancellation can shorten the stream"
        );
        match hint.exact() {
            // Trailers and errors are no data.
            Some(size) => {
                let has_text = self.output.text == combination.output().text;
                assert!(has_text && self.log.dropped() && size == 0, "C14: {hint:?}");
            }
            None => assert!(!self.is_over, "C13: nothing more comes"),
        }
    }

    fn drop_body(mut self) {
        if self.combination.how == How::CancelWhileReady {
            assert!(self.log.polls() <= 32, "C11: {} frames", self.log.polls());
        }
        self.body.drop_body();
        assert!(
            self.log.dropped(),
            "the upstream goes with the body, if not before"
        );
        assert_eq!(self.output, self.combination.output());
        let reports = self.reports.lock().expect("no panic");
        let reported: Vec<_> = reports.iter().map(facts).collect();
        let expected = self.combination.ending().map(|ending| {
            let (combination, bytes) = (self.combination, self.combination.forwarded().len());
            (
                ending,
                combination.closes(),
                combination.content.delivered,
                combination.forwarded_frames(),
                bytes as u64,
            )
        });
        assert_eq!(reported, Vec::from_iter(expected), "C16: the report");
    }
}

/// The ending, whether a close event was sent, whether an event was delivered, frames and bytes.
fn facts(report: &StreamReport) -> (Ending, bool, bool, u64, u64) {
    (
        report.ending(),
        report.close_event_sent(),
        report.delivered(),
        report.data_frames(),
        report.bytes(),
    )
}

/// Says which combination it was that failed, wherever it did.
struct NameOnPanic<'a>(&'a Combination);

impl Drop for NameOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in this combination: {}", self.0);
        }
    }
}
