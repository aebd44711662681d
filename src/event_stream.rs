//! The state of one event stream. Nothing is polled here.

mod completion;
pub(crate) mod context;
mod fast_path;
mod finish;
mod outcome;
mod poll;
mod signals;
mod stopping;

use std::{mem, sync::Arc};

use bytes::Bytes;
use http::Extensions;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use self::{
    context::{Choices, StreamContext},
    signals::Signals,
};
use crate::{
    config::Config,
    layer_marker::LayerMarker,
    report::Stop,
    report::{Recorder, Telemetry},
    shutdown::Attached,
    wire::{buffer::EventBuffer, close_event::CloseEvent},
};

pin_project! {
    /// An upstream with everything that can end it. [`ResponseBody`](crate::ResponseBody) documents the states.
    ///
    /// | question | file |
    /// |---|---|
    /// | What is polled in which state? | `poll.rs` |
    /// | What does nearly every poll do? | `fast_path.rs` |
    /// | What can stop the stream? | `signals.rs` |
    /// | When is that checked, and what is still forwarded? | `stopping.rs` |
    /// | How does the stream end, and is a close event due? | `outcome.rs` |
    /// | In which order does it end? | `finish.rs` |
    /// | When is it counted out and reported? | `completion.rs` |
    pub(crate) struct EventStream<B, C>
    where
        B: Body,
    {
        // `None` once the stream has ended. Dropped in place before the close event is returned.
        #[pin]
        sources: Option<Sources<B, C>>,
        phase: Phase<B::Error>,
        // Ready frames until the cancellation and the deadlines are checked. Zero unless the stream is streaming.
        frames_until_check: u8,
        events: EventBuffer,
        signals: Signals,
        config: Arc<Config>,
        // The close event of the response, or of the shutdown that has fired.
        close_event: Option<Box<CloseEvent>>,
        // `None` if nobody receives the report, around another layer, and once the report is made.
        recorder: Option<Box<Recorder>>,
        // The marker that this layer leaves in the response, and the marker of the layer inside of this one.
        marker: LayerMarker,
        inner: Option<LayerMarker>,
    }

    impl<B, C> PinnedDrop for EventStream<B, C>
    where
        B: Body,
    {
        fn drop(this: Pin<&mut Self>) {
            this.abandon();
        }
    }
}

pin_project! {
    struct Sources<B, C> {
        #[pin]
        upstream: B,
        #[pin]
        cancellation: C,
    }
}

#[derive(Debug)]
enum Phase<E> {
    /// The upstream is forwarded.
    Streaming,
    /// Something has stopped the stream. Frames that the upstream has ready are still forwarded.
    Stopping {
        stop: Stop,
        frames_left: u8,
        /// The upstream has been polled once more because it may have a message although it was pending.
        repolled: bool,
    },
    /// The upstream has ended with its last frame, and said so in `is_end_stream`. Servers do not poll again. If one does,
    /// the upstream passes through.
    Finished,
    /// The upstream has ended and has been dropped. The tail is returned, then `None`.
    Ending {
        tail: Option<Box<Tail<E>>>,
        /// An error has to wait for the next poll of the task, so that the server can flush the frames that it has.
        yields: bool,
    },
    Done,
}

/// Last item of an upstream that did not simply end.
#[derive(Debug)]
enum Tail<E> {
    Trailers(Frame<Bytes>),
    Error(E),
}

impl<B: Body, C> EventStream<B, C> {
    /// Starts a stream. `response` holds the extensions of its response.
    pub(crate) fn new(upstream: B, context: StreamContext<C>, response: &Extensions) -> Self {
        let StreamContext {
            cancellation,
            config,
            telemetry,
            choices,
        } = context;
        let inner = response.get::<LayerMarker>().cloned();
        if let Some(inner) = &inner {
            inner.wrap();
        }
        let attached = response
            .get::<Attached>()
            .map_or(&[][..], |attached| &attached.0);
        let Choices {
            ends_on_drain,
            observer,
        } = choices.map_or_else(Choices::default, |choices| *choices);
        let observer = config.observer.for_stream(observer);
        let is_recorded =
            observer.is_some() || Telemetry::IS_ON || config.close_event_needs_report();
        let recorder = match inner {
            None => is_recorded.then(|| Recorder::new(observer, Some(telemetry))),
            // The inner layer reports. The recorder serves the close event of this layer.
            Some(_) => config
                .close_event_needs_report()
                .then(|| Recorder::new(None, None)),
        };
        Self {
            sources: Some(Sources {
                upstream,
                cancellation,
            }),
            phase: Phase::Streaming,
            frames_until_check: 0,
            events: EventBuffer::new(),
            signals: Signals::start(&config, attached, inner.as_ref(), ends_on_drain),
            close_event: response.get().cloned().map(Box::new),
            recorder,
            marker: LayerMarker::new(
                Arc::clone(&config.shutdowns),
                attached.to_vec(),
                inner.clone(),
            ),
            inner,
            config,
        }
    }

    /// Returns the marker for the extensions of the response.
    pub(crate) fn marker(&self) -> LayerMarker {
        self.marker.clone()
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        matches!(self.phase, Phase::Finished | Phase::Done)
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match self.phase {
            // A close event makes the stream longer, a cancellation makes it shorter.
            Phase::Streaming | Phase::Stopping { .. } | Phase::Finished => SizeHint::default(),
            // Trailers and errors are no data.
            Phase::Ending { .. } | Phase::Done => SizeHint::with_exact(0),
        }
    }
}

/// Runs code of the user. If it panics, the stream is reported as failed.
#[inline]
fn fail_on_panic<T>(recorder: &mut Option<Box<Recorder>>, run: impl FnOnce() -> T) -> T {
    struct Guard<'a>(&'a mut Option<Box<Recorder>>);

    impl Drop for Guard<'_> {
        fn drop(&mut self) {
            if let Some(recorder) = self.0 {
                recorder.panicked();
            }
        }
    }

    let guard = Guard(recorder);
    let output = run();
    mem::forget(guard);
    output
}
