//! The bytes of an event stream: where events end, what is buffered, and the close event. Nothing here is a future.

pub(crate) mod buffer;
pub(crate) mod close_event;
mod event_types;
pub(crate) mod scanner;
