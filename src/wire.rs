//! The bytes of an event stream: where events end, what is buffered, and the close event. Nothing here is a future.

pub(crate) mod close_event;
pub(crate) mod encoding;
pub(crate) mod event_buffer;
mod event_types;
pub(crate) mod held;
mod position;
pub(crate) mod scanner;
