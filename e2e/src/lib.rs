//! The client and the proxies of the end-to-end tests.

pub mod event_source;
pub mod proxy;
