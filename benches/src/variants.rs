//! The variants of an axum server that are compared.

use std::convert::Infallible;

use axum::{
    body::Body,
    handler::Handler,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use bytes::Bytes;
use futures_util::Stream;
use tokio_util::sync::CancellationToken;
use tower_http::map_response_body::MapResponseBodyLayer;
use tower_sse_completion::{Shutdown, SseCompletionLayer};

use crate::subjects::{CLOSE_EVENT, do_nothing, hand_written};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    Bare,
    /// The combinators in the handler, where the type of the stream is known.
    HandWritten,
    /// The combinators around a body that is boxed already, as it is for a layer.
    HandWrittenBoxed,
    /// A layer whose body does nothing.
    DoNothing,
    Layer,
    /// The layer, and a connection that its shutdown can cut.
    LayerAndConnection,
}

/// All variants, with their names.
pub const VARIANTS: [(&str, Variant); 6] = [
    ("bare", Variant::Bare),
    ("hand written", Variant::HandWritten),
    ("hand written, boxed", Variant::HandWrittenBoxed),
    ("do nothing", Variant::DoNothing),
    ("shutdown", Variant::Layer),
    ("shutdown and connection", Variant::LayerAndConnection),
];

/// The cancellations of a server: for the layer, and for hand-written streams.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    pub shutdown: Shutdown,
    pub token: CancellationToken,
}

impl Variant {
    /// Returns the variant of this name.
    ///
    /// # Panics
    ///
    /// Panics if the variant is unknown.
    pub fn named(name: &str) -> Self {
        let found = VARIANTS.into_iter().find(|(known, _)| *known == name);
        found
            .unwrap_or_else(|| panic!("unknown variant {name:?}"))
            .1
    }

    /// Returns the response with these events.
    pub fn respond<S>(self, stop: &Stop, events: S) -> Response
    where
        S: Stream<Item = Result<Bytes, Infallible>> + Send + 'static,
    {
        let body = match self {
            Self::HandWritten => {
                Body::from_stream(hand_written(events, Ok(CLOSE_EVENT), &stop.token))
            }
            Self::HandWrittenBoxed => {
                let boxed = Body::from_stream(events).into_data_stream();
                Body::from_stream(hand_written(boxed, Ok(CLOSE_EVENT), &stop.token))
            }
            _ => Body::from_stream(events),
        };
        ([(CONTENT_TYPE, "text/event-stream")], body).into_response()
    }

    /// Returns a route to this handler, with the layer of this variant.
    pub fn route<H, T>(self, stop: &Stop, handler: H) -> MethodRouter
    where
        H: Handler<T, ()>,
        T: 'static,
    {
        match self {
            Self::DoNothing => get(handler).layer(MapResponseBodyLayer::new(do_nothing::<Body>)),
            Self::Layer | Self::LayerAndConnection => {
                get(handler).layer(SseCompletionLayer::new().shutdown(&stop.shutdown))
            }
            _ => get(handler),
        }
    }
}
