//! The data of a request that its stream needs.

use std::{fmt, sync::Arc};

use http::request::Parts;

use crate::{
    config::Config,
    report::{ObserveOnce, Telemetry},
};

/// Made with the request, and consumed by the stream if the response is one.
#[derive(Debug)]
pub(crate) struct StreamContext<C> {
    pub(crate) cancellation: C,
    pub(crate) config: Arc<Config>,
    pub(crate) telemetry: Telemetry,
    /// `None` if the layer has no such closures. Boxed, because every response future has room for it.
    pub(crate) choices: Option<Box<Choices>>,
}

/// The choices of the layer's closures for a request.
#[derive(Default)]
pub(crate) struct Choices {
    pub(crate) ends_on_drain: bool,
    pub(crate) observer: Option<Box<ObserveOnce>>,
}

impl<C> StreamContext<C> {
    pub(crate) fn new(
        cancellation: C,
        config: &Arc<Config>,
        choices: Option<Box<Choices>>,
    ) -> Self {
        Self {
            cancellation,
            config: Arc::clone(config),
            telemetry: Telemetry::of_request(),
            choices,
        }
    }
}

impl Choices {
    /// Calls the closures of the layer that choose by the request, if there are any.
    pub(crate) fn new(config: &Config, request: &Parts) -> Option<Box<Self>> {
        if !config.reads_request() {
            return None;
        }
        let ends_on_drain = config.ends_on_drain.as_ref();
        Some(Box::new(Self {
            ends_on_drain: ends_on_drain.is_some_and(|ends_on_drain| ends_on_drain(request)),
            observer: config.observer.for_request(request),
        }))
    }
}

impl fmt::Debug for Choices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Choices")
            .field("ends_on_drain", &self.ends_on_drain)
            .finish_non_exhaustive()
    }
}
