//! Tests of the examples of this package, and of servers for axum apps, over loopback sockets.
//!
//! All tests share one program, because each program with these dependencies takes long to link.

#![allow(
    clippy::duplicate_mod,
    reason = "each example includes the module `listen`"
)]

mod actix_web;
mod axum_server;
mod http3;
mod poem;
mod rocket;
mod salvo;
mod support;
mod tls;
mod unix_socket;
