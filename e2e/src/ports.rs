//! Addresses for servers that somebody else starts.

use std::{
    io::{Error, Result},
    net::{Ipv4Addr, SocketAddr, TcpListener},
};

/// A loopback address that nobody uses. Its port is outside of the range from which outgoing connections get theirs, so that
/// a server that restarts finds it free again.
pub fn free_address() -> Result<SocketAddr> {
    let mut last = None;
    for _ in 0..100 {
        let port = fastrand::u16(20_000..32_000);
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(listener) => return listener.local_addr(),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| Error::other("no free port")))
}
