//! Event streams of several instances, which a client can resume on any of them. The log is a stream in Redis.
//!
//! The page `docs/instances.md` of the guide explains the rules.

pub mod app;
pub mod log;
pub mod redis_server;
mod sessions;

/// An error that names what has failed.
pub type Error = Box<dyn std::error::Error>;
