#![forbid(unsafe_code)]
mod body;
mod boundary;
mod cancel;
mod close_event;
mod config;
mod eligibility;
mod ending;
mod event_stream;
mod future;
mod hold;
mod layer;
mod service;

pub use self::{
    body::ResponseBody,
    cancel::{CancelWhen, FirstOf, NeverCancel},
    close_event::{CloseEvent, InvalidCloseEvent},
    eligibility::SkipCompletion,
    ending::Ending,
    future::ResponseFuture,
    layer::SseCompletionLayer,
    service::SseCompletion,
};
