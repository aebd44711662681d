//! The upstream of the benchmarks.

use std::{
    convert::Infallible,
    hint::black_box,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::Stream;
use http_body::{Body, Frame};

/// Frames that an upstream repeats. They are static, so that a frame has no cost of its own.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub name: &'static str,
    frames: &'static [&'static [u8]],
}

/// A body of frames of one shape.
#[derive(Debug, Clone)]
pub struct Upstream {
    frames: &'static [&'static [u8]],
    next: usize,
    left: usize,
    silence: bool,
    is_silent: bool,
}

impl Shape {
    /// Divides the text into frames of this many bytes. The last frame may be shorter.
    pub fn new(name: &'static str, text: Vec<u8>, frame: usize) -> Self {
        let text: &'static [u8] = text.leak();
        Self {
            name,
            frames: text.chunks(frame).collect::<Vec<_>>().leak(),
        }
    }

    /// Returns the shapes that are measured, made of events of 100 bytes.
    pub fn all() -> [Self; 11] {
        let whole = |name, event: Vec<u8>| Self::new(name, event, 100);
        let data = || event("", "\n");
        let line = [b"data: ", &[b'x'; 93][..], b"\n"].concat();
        [
            Self::data_first(),
            Self::event_first(),
            whole(
                "`id` and `event` first",
                event("id: 7\nevent: content_block_delta\n", "\n"),
            ),
            whole("MCP", event("event: message\nid: 3_1\n", "\n")),
            Self::new("three events", data().repeat(3), 300),
            whole("CRLF", event("", "\r\n")),
            whole("CR", event("", "\r")),
            Self::new("event in two frames", data(), 50),
            Self::new("event in three frames", data(), 34),
            // Like the frames of a proxy. 2048 events are 25 of these frames.
            Self::new("8 KiB, misaligned", data().repeat(2048), 8192),
            Self::new("8 KiB of one event", line.repeat(2048), 8192),
        ]
    }

    pub fn data_first() -> Self {
        Self::new("`data` first", event("", "\n"), 100)
    }

    pub fn event_first() -> Self {
        let event = event("event: content_block_delta\n", "\n");
        Self::new("`event` first", event, 100)
    }

    /// Returns events of one letter.
    pub fn short() -> Self {
        Self::new("short", b"data: x\n\n".to_vec(), 9)
    }

    /// Returns `true` if every frame ends at the end of an event, with LF or CRLF.
    pub fn has_whole_events(&self) -> bool {
        let mut frames = self.frames.iter();
        frames.all(|frame| frame.ends_with(b"\n\n") || frame.ends_with(b"\n\r\n"))
    }

    /// Returns the name of the frames, which are ready or follow a silence.
    pub fn row(&self, silence: bool) -> String {
        let after = if silence { ", after a silence" } else { "" };
        format!("{}{after}", self.name)
    }

    /// Returns the first frame.
    pub fn frame(&self) -> Bytes {
        Bytes::from_static(self.frames[0])
    }

    /// Returns the number of bytes in this many frames.
    ///
    /// # Panics
    ///
    /// Panics if the upstream does not repeat all of its frames equally often.
    pub fn bytes(&self, frames: usize) -> usize {
        assert_eq!(frames % self.frames.len(), 0, "{}", self.name);
        frames / self.frames.len() * self.frames.concat().len()
    }
}

/// Returns an event of 100 bytes, whose `data` field follows the fields of `head`.
fn event(head: &str, line_end: &str) -> Vec<u8> {
    let start = format!("{head}data: ");
    let data = "x".repeat(100 - start.len() - 2 * line_end.len());
    [&start, &data, line_end, line_end].concat().into_bytes()
}

impl Upstream {
    /// Returns an upstream that does not end. With `silence`, it is pending once before each frame, like that of a server that
    /// waits for events.
    pub fn new(shape: Shape, silence: bool) -> Self {
        Self {
            frames: shape.frames,
            next: 0,
            left: usize::MAX,
            silence,
            is_silent: false,
        }
    }

    /// Ends the upstream after this many frames.
    #[must_use]
    pub fn take(self, frames: usize) -> Self {
        Self {
            left: frames,
            ..self
        }
    }

    #[inline(always)]
    fn poll_data(&mut self) -> Poll<Option<Bytes>> {
        if self.silence {
            self.is_silent = !self.is_silent;
            if self.is_silent {
                return Poll::Pending;
            }
        }
        let Some(left) = self.left.checked_sub(1) else {
            return Poll::Ready(None);
        };
        self.left = left;
        let frame = self.frames[self.next];
        self.next += 1;
        if self.next == self.frames.len() {
            self.next = 0;
        }
        Poll::Ready(Some(Bytes::from_static(black_box(frame))))
    }
}

impl Body for Upstream {
    type Data = Bytes;
    type Error = Infallible;

    // Otherwise the compiler decides by the number of bodies whether the call is inlined.
    #[inline(always)]
    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.poll_data()
            .map(|data| data.map(|data| Ok(Frame::data(data))))
    }
}

impl Stream for Upstream {
    type Item = Result<Frame<Bytes>, Infallible>;

    #[inline(always)]
    fn poll_next(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_data()
            .map(|data| data.map(|data| Ok(Frame::data(data))))
    }
}
