//! Completes a stream: with its last frame, when its body is dropped, or through the layer around it.

use std::{mem, pin::Pin};

use http_body::Body;

use super::{EventStream, fail_on_panic};
use crate::layer_marker::{ClientEnding, Remains};

impl<B: Body, C> EventStream<B, C> {
    /// Completes the stream with its last frame: it leaves the counts of its shutdowns, the report is made, and then a drain
    /// that has waited for it may return. If another layer has wrapped the stream, that layer does this with its own last
    /// frame.
    pub(super) fn complete(mut self: Pin<&mut Self>) {
        self.as_mut().take_over();
        let counts = self.events.counts();
        let this = self.project();
        if let Some(recorder) = this.recorder {
            recorder.count(counts);
        }
        if this.marker.is_wrapped() {
            this.marker.hand_over(Remains {
                recorder: this.recorder.take(),
                guards: this.signals.take_guards(),
            });
        }
        this.signals.leave();
        if let Some(recorder) = this.recorder.take() {
            recorder.finish();
        }
        this.signals.clear();
    }

    /// Completes the stream with the close event of a layer inside of this one, because nothing is added to that.
    #[cold]
    pub(super) fn complete_with_inner(self: Pin<&mut Self>) {
        let inner = self.inner.as_ref();
        if inner.is_some_and(|inner| inner.has_sent_close_event() && inner.has_handed_over()) {
            self.complete();
        }
    }

    /// Takes over the count and the report of the stream inside of this one.
    pub(super) fn take_over(self: Pin<&mut Self>) {
        let this = self.project();
        if let Some(inner) = this.inner {
            let mut remains = inner.take_remains();
            if let Some(recorder) = remains.recorder.take() {
                *this.recorder = Some(recorder);
            }
            this.signals.adopt(mem::take(&mut remains.guards));
        }
    }

    /// Drops the upstream and the cancellation.
    pub(super) fn drop_sources(self: Pin<&mut Self>) {
        let mut this = self.project();
        fail_on_panic(this.recorder, || this.sources.set(None));
    }

    /// Ends a stream whose body is dropped.
    pub(super) fn abandon(mut self: Pin<&mut Self>) {
        struct CompleteOnDrop<'a, B: Body, C>(Pin<&'a mut EventStream<B, C>>);

        impl<B: Body, C> Drop for CompleteOnDrop<'_, B, C> {
            fn drop(&mut self) {
                self.0.as_mut().complete_dropped();
            }
        }

        // A panic of the upstream's destructor does not keep the stream from completing.
        let mut stream = CompleteOnDrop(self.as_mut());
        match stream.0.marker.stopped() {
            Some(ending) => stream.0.as_mut().drop_stopped_sources(ending),
            None => stream.0.as_mut().drop_sources(),
        }
    }

    fn complete_dropped(mut self: Pin<&mut Self>) {
        self.as_mut().take_over();
        let this = self.as_mut().project();
        if let (Some(recorder), Some(end)) = (this.recorder, this.marker.stopped()) {
            if !this.marker.has_sent_close_event() {
                recorder.ended(end.ending, end.close_event_sent);
            }
        }
        self.complete();
    }

    /// Drops the upstream and the cancellation of a stream that has ended like this.
    pub(super) fn drop_stopped_sources(self: Pin<&mut Self>, ending: ClientEnding) {
        if let Some(inner) = &self.inner {
            inner.stop(ending);
        }
        self.drop_sources();
    }
}
