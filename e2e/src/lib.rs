//! The client, the proxies and the processes of the end-to-end tests.

pub mod event_source;
pub mod process;
pub mod proxy;
