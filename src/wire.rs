//! The bytes of an event stream: where events end, what is buffered, and the close event. Nothing here is a future.

pub(crate) mod close_event;
pub(crate) mod event_buffer;
pub(crate) mod scanner;
