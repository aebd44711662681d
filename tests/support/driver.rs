//! Polls a body by hand, and counts the wake-ups.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};

/// A body, and a waker that counts.
pub struct Driver<B: Body> {
    body: Option<Pin<Box<B>>>,
    wakes: Arc<Wakes>,
    waker: Waker,
}

/// All that a body gave, poll by poll.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output<E> {
    pub frames: Vec<Bytes>,
    pub trailers: Option<HeaderMap>,
    pub error: Option<E>,
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl<B: Body<Data = Bytes>> Driver<B> {
    pub fn new(body: B) -> Self {
        let wakes = Arc::<Wakes>::default();
        Self {
            body: Some(Box::pin(body)),
            waker: Waker::from(Arc::clone(&wakes)),
            wakes,
        }
    }

    pub fn poll(&mut self) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let body = self.body.as_mut().expect("the body was not dropped");
        body.as_mut()
            .poll_frame(&mut Context::from_waker(&self.waker))
    }

    /// Polls as an executor would: again only after a wake-up.
    pub fn poll_while_woken(&mut self) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        loop {
            let wakes = self.wakes();
            match self.poll() {
                Poll::Pending if self.wakes() > wakes => {}
                polled => return polled,
            }
        }
    }

    /// The data of a poll that has to give some.
    #[track_caller]
    pub fn data(&mut self) -> Bytes
    where
        B::Error: std::fmt::Debug,
    {
        match self.poll_while_woken() {
            Poll::Ready(Some(Ok(frame))) => frame.into_data().expect("data"),
            other => panic!("expected data, got {other:?}"),
        }
    }

    /// Polls to the end, and a few times more, which may give nothing.
    #[track_caller]
    pub fn rest(&mut self) -> Output<B::Error> {
        let output = self.collect();
        assert!(self.is_end_stream(), "the end has to be said");
        assert_eq!(self.size_hint().exact(), Some(0));
        for _ in 0..3 {
            assert!(
                matches!(self.poll(), Poll::Ready(None)),
                "the end has to stay the end"
            );
        }
        output
    }

    /// Polls to the end or an error, also where nothing woke the task.
    #[track_caller]
    pub fn collect(&mut self) -> Output<B::Error> {
        let mut output = Output {
            frames: Vec::new(),
            trailers: None,
            error: None,
        };
        for _ in 0..100_000 {
            let Poll::Ready(polled) = self.poll() else {
                continue;
            };
            assert!(
                polled.is_none() || output.trailers.is_none(),
                "something came after the trailers"
            );
            match polled {
                None => return output,
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => output.frames.push(data),
                    Err(frame) => output.trailers = frame.into_trailers().ok(),
                },
                Some(Err(error)) => {
                    output.error = Some(error);
                    return output;
                }
            }
        }
        panic!("the body does not end");
    }

    pub fn wakes(&self) -> usize {
        self.wakes.0.load(Ordering::SeqCst)
    }

    pub fn drop_body(&mut self) {
        self.body = None;
    }

    /// The same body, polled with another waker.
    pub fn in_another_task(self) -> Self {
        let wakes = Arc::<Wakes>::default();
        Self {
            waker: Waker::from(Arc::clone(&wakes)),
            wakes,
            ..self
        }
    }

    /// How many wakers of this task there are.
    pub fn waker_references(&self) -> usize {
        Arc::strong_count(&self.wakes)
    }

    pub fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.is_end_stream())
    }

    pub fn size_hint(&self) -> http_body::SizeHint {
        self.body
            .as_ref()
            .map(|body| body.size_hint())
            .unwrap_or_default()
    }
}

impl<E> Output<E> {
    pub fn bytes(&self) -> Vec<u8> {
        self.frames.concat()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
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
