//! Published decoders, adapted to the results of the test kit's decoder.

use std::{
    convert::Infallible,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use bytes::Bytes;
use eventsource_stream::EventStream;
use futures_util::{FutureExt, StreamExt, stream};
use sse_core::{SseDecoder, SseEvent};
use sse_stream::SseByteStream;

use testkit::decoder::{Decoded, Event};

pub(crate) struct Published {
    pub(crate) name: &'static str,
    decode: fn(Bytes) -> Option<Decoded>,
}

pub(crate) const PUBLISHED: [Published; 3] = [
    Published {
        name: "eventsource-stream",
        decode: eventsource_stream,
    },
    Published {
        name: "sse-core",
        decode: sse_core,
    },
    Published {
        name: "sse-stream",
        decode: sse_stream,
    },
];

impl Published {
    /// Decodes a whole stream. Returns `None` if the decoder fails or panics.
    pub(crate) fn decode(&self, stream: &[u8]) -> Option<Decoded> {
        let stream = Bytes::copy_from_slice(stream);
        catch_unwind(AssertUnwindSafe(|| (self.decode)(stream))).ok()?
    }
}

fn eventsource_stream(stream: Bytes) -> Option<Decoded> {
    let mut decoded = Decoded::default();
    let mut events = EventStream::new(stream::iter([Ok::<_, Infallible>(stream)]));
    while let Some(event) = events.next().now_or_never()? {
        let event = event.ok()?;
        decoded.retry = event.retry.or(decoded.retry);
        decoded.events.push(Event {
            event_type: event.event,
            data: event.data,
            last_event_id: event.id,
        });
    }
    decoded.last_event_id = events.last_event_id().to_owned();
    Some(decoded)
}

fn sse_core(mut stream: Bytes) -> Option<Decoded> {
    let mut decoded = Decoded::default();
    let mut decoder = SseDecoder::new();
    while let Some(event) = decoder.next(&mut stream) {
        match event.ok()? {
            SseEvent::Message(event) => decoded.events.push(Event {
                event_type: event.event.into_owned(),
                data: event.data,
                last_event_id: event
                    .last_event_id
                    .as_deref()
                    .unwrap_or_default()
                    .to_owned(),
            }),
            SseEvent::Retry(retry) => decoded.retry = Some(Duration::from_millis(retry.into())),
        }
    }
    decoded.last_event_id = decoder.last_event_id().map_or("", |id| id).to_owned();
    Some(decoded)
}

/// `sse-stream` yields blocks of fields, and leaves the state between blocks to its users.
fn sse_stream(stream: Bytes) -> Option<Decoded> {
    let mut decoded = Decoded::default();
    let mut blocks = SseByteStream::new(stream::iter([Ok::<_, Infallible>(stream)]));
    while let Some(block) = blocks.next().now_or_never()? {
        let block = block.ok()?;
        decoded.retry = block.retry.map(Duration::from_millis).or(decoded.retry);
        decoded.last_event_id = block.id.unwrap_or(decoded.last_event_id);
        let Some(data) = block.data else { continue };
        let event_type = block.event.filter(|event_type| !event_type.is_empty());
        decoded.events.push(Event {
            event_type: event_type.unwrap_or_else(|| "message".to_owned()),
            data,
            last_event_id: decoded.last_event_id.clone(),
        });
    }
    Some(decoded)
}
