//! An upstream that the test feeds while the stream runs.

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::script::Script;

/// The sending side of an upstream, which ends when the feed is dropped.
#[derive(Debug)]
pub struct Feed(mpsc::UnboundedSender<Bytes>);

/// Returns an upstream and its sending side. The upstream participates in tokio's cooperative budget.
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
pub fn feed() -> (Feed, Script) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Feed(sender), Script::fed(receiver))
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
