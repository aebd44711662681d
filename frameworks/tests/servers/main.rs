//! The examples of this package, and servers that axum runs on, over loopback sockets.
//!
//! One program, because each program with these dependencies takes long to link.

#![allow(
    clippy::duplicate_mod,
    reason = "the examples share the support of the package's examples"
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
