//! Polls a body without a runtime, and counts the wake-ups.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// A body, and a waker that counts.
///
/// ```
/// use testkit::{driver::Driver, script::Script};
///
/// let mut body = Driver::new(Script::frames(["data: 1\n\n"]));
/// assert_eq!(body.data(), "data: 1\n\n");
/// assert!(body.poll().is_ready());
/// assert_eq!(body.wakes(), 0);
/// ```
#[derive(Debug)]
pub struct Driver<B: Body> {
    body: Option<Pin<Box<B>>>,
    wakes: Arc<Wakes>,
    waker: Waker,
}

/// Everything that a body has returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output<E> {
    /// The data frames.
    pub frames: Vec<Bytes>,
    /// The trailers.
    pub trailers: Option<HeaderMap>,
    /// The error with which the body failed.
    pub error: Option<E>,
}

#[derive(Debug, Default)]
struct Wakes(AtomicUsize);

impl<B: Body<Data = Bytes>> Driver<B> {
    /// Pins this body and returns its driver.
    pub fn new(body: B) -> Self {
        let wakes = Arc::<Wakes>::default();
        Self {
            body: Some(Box::pin(body)),
            waker: Waker::from(Arc::clone(&wakes)),
            wakes,
        }
    }

    /// Polls the body once.
    pub fn poll(&mut self) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let body = self.body.as_mut().expect("the body has not been dropped");
        body.as_mut()
            .poll_frame(&mut Context::from_waker(&self.waker))
    }

    /// Polls the body as an executor does: again only after a wake-up.
    pub fn poll_while_woken(&mut self) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        loop {
            let wakes = self.wakes();
            match self.poll() {
                Poll::Pending if self.wakes() > wakes => {}
                polled => return polled,
            }
        }
    }

    /// Polls the body as an executor does, and returns its next data frame.
    ///
    /// # Panics
    ///
    /// Panics if the body returns anything else.
    #[track_caller]
    pub fn data(&mut self) -> Bytes
    where
        B::Error: fmt::Debug,
    {
        match self.poll_while_woken() {
            Poll::Ready(Some(Ok(frame))) => frame.into_data().expect("data"),
            other => panic!("expected data, got {other:?}"),
        }
    }

    /// Polls the body as an executor does, and asserts that it is pending.
    ///
    /// # Panics
    ///
    /// Panics if the body is ready.
    #[track_caller]
    pub fn assert_pending(&mut self)
    where
        B::Error: fmt::Debug,
    {
        let polled = self.poll_while_woken();
        assert!(
            polled.is_pending(),
            "expected a pending body, got {polled:?}"
        );
    }

    /// Returns all data that the body has ready.
    ///
    /// # Panics
    ///
    /// Panics if the body returns anything but data before it is pending or ends.
    #[track_caller]
    pub fn ready_data(&mut self) -> Vec<Bytes>
    where
        B::Error: fmt::Debug,
    {
        let mut ready = Vec::new();
        while let Poll::Ready(Some(frame)) = self.poll_while_woken() {
            ready.push(frame.expect("no error").into_data().expect("data"));
        }
        ready
    }

    /// Advances tokio's paused clock second by second, and polls the body after each wake-up. Returns the data frames
    /// with the second in which the body returned each of them.
    ///
    /// # Panics
    ///
    /// Panics if the clock is not paused, or if the body returns anything but data.
    pub async fn advance(&mut self, seconds: u64) -> Vec<(u64, Bytes)>
    where
        B::Error: fmt::Debug,
    {
        let mut output = Vec::new();
        for second in 1..=seconds {
            let wakes = self.wakes();
            tokio::time::advance(Duration::from_secs(1)).await;
            if self.wakes() > wakes {
                output.extend(self.ready_data().into_iter().map(|data| (second, data)));
            }
        }
        output
    }

    /// Polls the body to its end, and returns everything that it has returned.
    ///
    /// # Panics
    ///
    /// Panics if the body does not end, returns anything after its end, or does not report its end in its hints.
    #[track_caller]
    pub fn rest(&mut self) -> Output<B::Error> {
        let output = self.collect();
        assert!(self.is_end_stream(), "`is_end_stream` after the end");
        assert_eq!(self.size_hint().exact(), Some(0), "hint after the end");
        for _ in 0..3 {
            let polled = self.poll();
            assert!(
                matches!(polled, Poll::Ready(None)),
                "`None` after the end, for ever"
            );
        }
        output
    }

    /// Polls the body until it ends or fails, even if nothing wakes the task.
    ///
    /// # Panics
    ///
    /// Panics if the body does not end, or if a frame follows the trailers.
    #[track_caller]
    pub fn collect(&mut self) -> Output<B::Error> {
        let mut output = Output::default();
        for _ in 0..100_000 {
            let Poll::Ready(polled) = self.poll() else {
                continue;
            };
            assert!(
                polled.is_none() || output.trailers.is_none(),
                "nothing follows the trailers"
            );
            match polled {
                None => return output,
                Some(Ok(frame)) => output.push(frame),
                Some(Err(error)) => {
                    output.error = Some(error);
                    return output;
                }
            }
        }
        panic!("the body does not end");
    }

    /// Returns the number of wake-ups so far.
    pub fn wakes(&self) -> usize {
        self.wakes.0.load(Ordering::SeqCst)
    }

    /// Drops the body.
    pub fn drop_body(&mut self) {
        self.body = None;
    }

    /// Moves the body to another task: it is polled with another waker from now on.
    pub fn in_another_task(self) -> Self {
        let wakes = Arc::<Wakes>::default();
        Self {
            waker: Waker::from(Arc::clone(&wakes)),
            wakes,
            ..self
        }
    }

    /// Returns the number of wakers of this task, the driver's own two references included.
    pub fn waker_references(&self) -> usize {
        Arc::strong_count(&self.wakes)
    }

    /// Returns the body's `is_end_stream`, or `true` if it has been dropped.
    pub fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.is_end_stream())
    }

    /// Returns the body's `size_hint`.
    pub fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map(|body| body.size_hint())
            .unwrap_or_default()
    }
}

impl<E> Output<E> {
    /// Adds a frame.
    ///
    /// # Panics
    ///
    /// Panics if the frame is neither data nor trailers.
    pub fn push(&mut self, frame: Frame<Bytes>) {
        match frame.into_data() {
            Ok(data) => self.frames.push(data),
            Err(frame) => {
                let trailers = frame.into_trailers();
                self.trailers = Some(trailers.unwrap_or_else(|_| panic!("data or trailers")));
            }
        }
    }

    /// Returns the bytes of all data frames.
    pub fn bytes(&self) -> Vec<u8> {
        self.frames.concat()
    }

    /// Returns the bytes of all data frames as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }
}

impl<E> Default for Output<E> {
    fn default() -> Self {
        Self {
            frames: Vec::new(),
            trailers: None,
            error: None,
        }
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}
