//! What has to come of a stream, worked out from the contract by a few plain functions that know nothing of the code.

use std::fmt;

use tower_sse_completion::Ending;

use testkit::exchange::CLOSE;

/// In bytes. More than the half event, less than the large one.
pub(crate) const HOLD_LIMIT: usize = 16;

/// What the upstream sends before it ends, and what the client gets of it before that.
pub(crate) struct Content {
    pub(crate) name: &'static str,
    pub(crate) frames: &'static [&'static str],
    /// What goes out as it comes.
    pub(crate) out: &'static str,
    /// What is held back, because the rest of the event has not come.
    pub(crate) held: &'static str,
    pub(crate) delivered: bool,
    /// What is out ends within an event.
    pub(crate) mid_event: bool,
}

pub(crate) const CONTENTS: [Content; 6] = [
    Content::new("nothing", &[], "", "", false),
    Content::new("comment only", &[": hi\n"], ": hi\n", "", false),
    Content::new("one event", &["data: 1\n\n"], "data: 1\n\n", "", true),
    Content::new(
        "three events",
        &["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"],
        "data: 1\n\ndata: 2\n\ndata: 3\n\n",
        "",
        true,
    ),
    Content::new(
        "event and half",
        &["data: 1\n\nid: 7\n", "data: 2"],
        "data: 1\n\n",
        "id: 7\ndata: 2",
        true,
    ),
    Content {
        mid_event: true,
        ..Content::new(
            "over hold_limit",
            &["data: more than fits"],
            "data: more than fits",
            "",
            false,
        )
    },
];

/// What happens once all of the content has come, or, where it says so, before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    End,
    EndWithTrailers,
    /// The upstream says that it is at its end with its last frame.
    EndStream,
    Error,
    CancelWhilePending,
    /// Before the first poll, and the upstream is never pending.
    CancelWhileReady,
    Age,
    Idle,
    DropUnpolled,
    DropMidStream,
    Panic,
}

pub(crate) const HOWS: [How; 11] = [
    How::End,
    How::EndWithTrailers,
    How::EndStream,
    How::Error,
    How::CancelWhilePending,
    How::CancelWhileReady,
    How::Age,
    How::Idle,
    How::DropUnpolled,
    How::DropMidStream,
    How::Panic,
];

pub(crate) struct Combination {
    pub(crate) content: &'static Content,
    pub(crate) how: How,
    pub(crate) close_on_empty: bool,
    pub(crate) close_on_completed: bool,
    pub(crate) close_on_failed: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) text: String,
    pub(crate) trailers: bool,
    pub(crate) error: bool,
}

impl Combination {
    /// C16: nothing is reported of a body that was never polled.
    pub(crate) fn ending(&self) -> Option<Ending> {
        Some(match self.how {
            How::End | How::EndWithTrailers | How::EndStream if self.content.delivered => {
                Ending::Completed
            }
            How::End | How::EndWithTrailers | How::EndStream => Ending::Empty,
            How::Error | How::Panic => Ending::Failed,
            How::CancelWhilePending | How::CancelWhileReady => Ending::Cancelled,
            How::Age => Ending::Expired,
            How::Idle => Ending::Idle,
            How::DropMidStream => Ending::Dropped,
            How::DropUnpolled => return None,
        })
    }

    /// C9 and C12 say when a close event is due, C7 where it cannot be had.
    pub(crate) fn closes(&self) -> bool {
        let is_due = match self.ending() {
            Some(Ending::Cancelled | Ending::Expired | Ending::Idle) => true,
            Some(Ending::Empty) => self.close_on_empty,
            Some(Ending::Completed) => self.close_on_completed,
            Some(Ending::Failed) => self.close_on_failed && self.how != How::Panic,
            _ => false,
        };
        is_due && !self.content.mid_event
    }

    /// C4 and C6: what is held is discarded for the close event, and goes out before any other end.
    pub(crate) fn forwarded(&self) -> String {
        let Content { out, held, .. } = self.content;
        match self.how {
            How::DropUnpolled => String::new(),
            How::DropMidStream | How::Panic => (*out).to_owned(),
            _ if self.closes() => (*out).to_owned(),
            _ => [*out, *held].concat(),
        }
    }

    /// All that comes out.
    pub(crate) fn output(&self) -> Output {
        let close = if self.closes() { CLOSE } else { b"" };
        Output {
            text: self.forwarded() + &String::from_utf8_lossy(close),
            trailers: self.how == How::EndWithTrailers,
            error: self.how == How::Error && !self.closes(),
        }
    }

    /// C13 and C16: whether the stream is at its end with the last thing that it hands out, or only with the `None`
    /// that follows, because nobody knows before that the upstream has no more.
    pub(crate) fn ends_with_its_last_frame(&self) -> bool {
        let output = self.output();
        let behind_the_upstream = output.text.len() > self.content.out.len();
        behind_the_upstream || output.trailers || output.error || self.how == How::EndStream
    }

    /// C16: frames count that went out in whole or in part.
    pub(crate) fn forwarded_frames(&self) -> u64 {
        let forwarded = self.forwarded().len();
        let starts = self.content.frames.iter().scan(0, |start, frame| {
            let this = *start;
            *start += frame.len();
            Some(this)
        });
        starts.filter(|&start| start < forwarded).count() as u64
    }
}

impl fmt::Display for Combination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { content, how, .. } = self;
        write!(f, "{}, {how:?}", content.name)?;
        for (on, closes) in [
            ("empty", self.close_on_empty),
            ("completed", self.close_on_completed),
            ("failed", self.close_on_failed),
        ] {
            write!(f, ", close_on_{on}({closes})")?;
        }
        Ok(())
    }
}

impl Content {
    const fn new(
        name: &'static str,
        frames: &'static [&'static str],
        out: &'static str,
        held: &'static str,
        delivered: bool,
    ) -> Self {
        Self {
            name,
            frames,
            out,
            held,
            delivered,
            mid_event: false,
        }
    }
}
