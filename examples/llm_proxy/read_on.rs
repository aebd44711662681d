//! A body that reads on when it is dropped, so that the connection to its upstream can serve another request.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    Error,
    body::{Body, Bytes, HttpBody},
};
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use tokio::{runtime::Handle, time::timeout};

/// Longest time to wait for the end of an upstream.
const LIMIT: Duration = Duration::from_millis(500);

/// The body of an upstream's response. If `ReadOn` is dropped before the end, the end may still arrive in the next frame.
///
/// The layer drops its upstream at the end mark. A server writes the final chunk some milliseconds later, and the connection of a
/// response that lacks the final chunk cannot be used again. An upstream that sends more data instead is still generating, for a
/// client that has left, so the next frame of data drops the upstream.
pub(crate) struct ReadOn {
    /// `None` after the end.
    upstream: Option<Body>,
}

impl ReadOn {
    pub(crate) fn new(upstream: Body) -> Self {
        let upstream = Some(upstream);
        Self { upstream }
    }
}

impl HttpBody for ReadOn {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(upstream) = &mut self.upstream else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(upstream).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.upstream = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.upstream.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let upstream = self.upstream.as_ref();
        upstream.map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for ReadOn {
    fn drop(&mut self) {
        // The body may be dropped after the end of its runtime.
        if let (Some(mut upstream), Ok(runtime)) = (self.upstream.take(), Handle::try_current()) {
            runtime.spawn(timeout(LIMIT, async move { drop(upstream.frame().await) }));
        }
    }
}
