use axum::Error;
use axum::body::{Body, Bytes, HttpBody};
use http_body_util::BodyExt;
use hyper::body::Frame;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::{runtime::Handle, time::timeout};

/// The body of a billed upstream. Both fields are `None` after the end.
struct Billed<F: FnMut(&Bytes) + Send + Unpin + 'static> {
    upstream: Option<Body>,
    count: Option<F>,
    limit: Duration,
}

impl<F: FnMut(&Bytes) + Send + Unpin + 'static> HttpBody for Billed<F> {
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
        match (&frame, &mut self.count) {
            (Some(Ok(frame)), Some(count)) => frame.data_ref().into_iter().for_each(count),
            _ => (self.upstream, self.count) = (None, None),
        }
        Poll::Ready(frame)
    }
}

impl<F: FnMut(&Bytes) + Send + Unpin + 'static> Drop for Billed<F> {
    /// Reads on until the upstream ends, or until the limit.
    fn drop(&mut self) {
        let (upstream, count) = (self.upstream.take(), self.count.take());
        if let (Some(mut upstream), Some(mut count), Ok(runtime)) =
            (upstream, count, Handle::try_current())
        {
            runtime.spawn(timeout(self.limit, async move {
                while let Some(Ok(frame)) = upstream.frame().await {
                    frame.data_ref().into_iter().for_each(&mut count);
                }
            }));
        }
    }
}

/// Calls `count` with all data of the upstream, even if the client leaves before its end.
fn billed<F>(upstream: Body, count: F, limit: Duration) -> Body
where
    F: FnMut(&Bytes) + Send + Unpin + 'static,
{
    Body::new(Billed { upstream: Some(upstream), count: Some(count), limit })
}
