//! What the programs of the end-to-end tests share.

pub mod event_source;
