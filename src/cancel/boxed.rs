//! A cancellation whose type is erased.

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use http::request::Parts;

use super::MakeCancellation;

/// A cancellation whose type is erased. Made by [`boxed`](crate::SseCompletionLayer::boxed). Its future is `Send`, but not
/// `Sync`.
#[derive(Clone)]
pub struct BoxCancellation {
    make: Arc<dyn Fn(&Parts) -> BoxFuture + Send + Sync>,
}

type BoxFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

impl BoxCancellation {
    pub(crate) fn new<C>(cancel: C) -> Self
    where
        C: MakeCancellation<Cancellation: Send + 'static> + Send + Sync + 'static,
    {
        Self {
            make: Arc::new(move |head| Box::pin(cancel.make(head))),
        }
    }
}

impl fmt::Debug for BoxCancellation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoxCancellation").finish_non_exhaustive()
    }
}

impl MakeCancellation for BoxCancellation {
    type Cancellation = BoxFuture;

    fn make(&self, head: &Parts) -> BoxFuture {
        (self.make)(head)
    }
}
