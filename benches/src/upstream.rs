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

/// The way in which an upstream divides its events into frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// A frame for each event of this many bytes.
    Aligned(usize),
    /// Frames of 8 KiB of events of 100 bytes, like those of a proxy.
    Chunks,
    /// Frames of 8 KiB of an endless event with lines of this many bytes.
    Lines(usize),
    /// A frame for each byte of events of 100 bytes.
    Bytes,
}

/// A body with a given number of frames, which are ready.
#[derive(Debug, Clone)]
pub struct Upstream {
    frames: &'static [&'static [u8]],
    next: usize,
    left: usize,
    silence: bool,
    is_silent: bool,
}

impl Cut {
    /// Parses an argument of the program `frames`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "chunks" => Some(Self::Chunks),
            "bytes" => Some(Self::Bytes),
            size => size.parse().ok().map(Self::Aligned),
        }
    }

    /// Returns the frames that an upstream repeats. They are static, so that a frame has no cost of its own.
    fn frames(self) -> &'static [&'static [u8]] {
        let (text, length) = match self {
            Self::Aligned(length) => (event(length), length),
            // The least common multiple of both lengths.
            Self::Chunks => (event(100).repeat(2048), 8192),
            Self::Lines(length) => (event(length + 1)[..length].repeat(8192), 8192),
            Self::Bytes => (event(100), 1),
        };
        let text: &'static [u8] = text.leak();
        text.chunks(length).collect::<Vec<_>>().leak()
    }
}

/// Returns an event of this many bytes.
pub fn event(length: usize) -> Vec<u8> {
    let mut event = b"data: ".to_vec();
    event.resize(length - 2, b'x');
    event.extend_from_slice(b"\n\n");
    event
}

impl Upstream {
    /// Returns an upstream with this many frames. With `silence`, it is pending once before each frame, like that of a server
    /// that waits for events.
    pub fn new(cut: Cut, frames: usize, silence: bool) -> Self {
        Self {
            frames: cut.frames(),
            next: 0,
            left: frames,
            silence,
            is_silent: false,
        }
    }

    #[inline]
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

    fn poll_next(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_data()
            .map(|data| data.map(|data| Ok(Frame::data(data))))
    }
}
