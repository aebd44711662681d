//! An upstream that the test feeds while the stream runs.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::sync::mpsc;

use crate::script::ScriptError;

/// The sending side of a [`FedBody`], which ends when the feed is dropped.
#[derive(Debug)]
pub struct Feed(mpsc::UnboundedSender<Bytes>);

/// A body that returns the data which its [`Feed`] sends. It participates in tokio's cooperative budget.
#[derive(Debug)]
pub struct FedBody(mpsc::UnboundedReceiver<Bytes>);

/// Returns a body and its sending side.
///
/// ```
/// use testkit::{driver::Driver, feed::feed};
///
/// let (events, upstream) = feed();
/// let mut body = Driver::new(upstream);
/// assert!(body.poll().is_pending());
/// events.send("data: 1\n\n");
/// assert_eq!(body.wakes(), 1);
/// assert_eq!(body.data(), "data: 1\n\n");
/// ```
pub fn feed() -> (Feed, FedBody) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Feed(sender), FedBody(receiver))
}

impl Feed {
    /// Sends a data frame.
    ///
    /// # Panics
    ///
    /// Panics if the body has been dropped.
    pub fn send(&self, data: impl AsRef<[u8]>) {
        let data = Bytes::copy_from_slice(data.as_ref());
        self.0.send(data).expect("the body has not been dropped");
    }
}

impl Body for FedBody {
    type Data = Bytes;
    type Error = ScriptError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ScriptError>>> {
        let polled = self.0.poll_recv(cx);
        polled.map(|data| data.map(|data| Ok(Frame::data(data))))
    }
}
