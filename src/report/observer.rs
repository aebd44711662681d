//! The user's observer, which receives the reports.

use std::{fmt, sync::Arc};

use http::request::Parts;

use super::stream_report::StreamReport;

/// The observer of a layer.
#[derive(Clone, Default)]
pub(crate) enum LayerObserver {
    #[default]
    None,
    Shared(Arc<Observe>),
    PerRequest(Arc<MakeObserver>),
}

/// The observer of one stream.
pub(crate) enum StreamObserver {
    Shared(Arc<Observe>),
    OfRequest(Box<ObserveOnce>),
}

type Observe = dyn Fn(&StreamReport) + Send + Sync;
pub(crate) type ObserveOnce = dyn FnOnce(&StreamReport) + Send + Sync;
type MakeObserver = dyn Fn(&Parts) -> Box<ObserveOnce> + Send + Sync;

impl LayerObserver {
    pub(crate) fn shared(observe: impl Fn(&StreamReport) + Send + Sync + 'static) -> Self {
        Self::Shared(Arc::new(observe))
    }

    pub(crate) fn per_request<F, O>(make: F) -> Self
    where
        F: Fn(&Parts) -> O + Send + Sync + 'static,
        O: FnOnce(&StreamReport) + Send + Sync + 'static,
    {
        Self::PerRequest(Arc::new(move |request| Box::new(make(request))))
    }

    pub(crate) fn is_per_request(&self) -> bool {
        matches!(self, Self::PerRequest(_))
    }

    /// Makes the observer of this request, if each request has its own.
    pub(crate) fn for_request(&self, request: &Parts) -> Option<Box<ObserveOnce>> {
        match self {
            Self::PerRequest(make) => Some(make(request)),
            Self::None | Self::Shared(_) => None,
        }
    }

    /// Returns the observer of a stream, which is that of its request if there is one.
    pub(crate) fn for_stream(
        &self,
        of_request: Option<Box<ObserveOnce>>,
    ) -> Option<StreamObserver> {
        match (of_request, self) {
            (Some(observe), _) => Some(StreamObserver::OfRequest(observe)),
            (None, Self::Shared(observe)) => Some(StreamObserver::Shared(Arc::clone(observe))),
            (None, Self::None | Self::PerRequest(_)) => None,
        }
    }
}

impl StreamObserver {
    pub(crate) fn observe(self, report: &StreamReport) {
        match self {
            Self::Shared(observe) => observe(report),
            Self::OfRequest(observe) => observe(report),
        }
    }
}

impl fmt::Debug for LayerObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Shared(_) => "Shared(..)",
            Self::PerRequest(_) => "PerRequest(..)",
        })
    }
}

impl fmt::Debug for StreamObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamObserver").finish_non_exhaustive()
    }
}
