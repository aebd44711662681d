//! What the programs of the end-to-end tests share.

pub mod event_source;
pub mod ports;
pub mod proxy;
pub mod rolling_restart;
