//! What a request leaves for its stream.

use std::sync::Arc;

use crate::{config::Config, report::telemetry::Telemetry};

/// Made with the request, and consumed by the stream if the response is one.
#[derive(Debug)]
pub(crate) struct StreamContext<C> {
    pub(crate) cancellation: C,
    pub(crate) config: Arc<Config>,
    pub(crate) telemetry: Telemetry,
}

impl<C> StreamContext<C> {
    pub(crate) fn new(cancellation: C, config: &Arc<Config>) -> Self {
        Self {
            cancellation,
            config: Arc::clone(config),
            telemetry: Telemetry::of_request(),
        }
    }
}
