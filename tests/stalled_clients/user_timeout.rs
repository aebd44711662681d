//! `TCP_USER_TIMEOUT` on the listener, which accepted sockets inherit on Linux: the system ends clients that do not read.

use std::time::Duration;

use socket2::SockRef;
use testkit::wait::within;

use crate::{
    assert_drops_stalled_clients,
    site::{Site, listen},
};

#[tokio::test]
async fn client_that_does_not_read_is_dropped_after_the_user_timeout_of_the_listener() {
    let site = Site::default();
    let (listener, address) = listen();
    let limit = Duration::from_millis(500);
    let set = SockRef::from(&listener).set_tcp_user_timeout(Some(limit));
    set.expect("an option of the system");
    let signal = site.shutdown.draining();
    // The connections are not wrapped.
    let server = axum::serve(listener, site.router()).with_graceful_shutdown(signal);
    let server = tokio::spawn(server.into_future());
    assert_drops_stalled_clients(&site, address).await;
    within(server).await.expect("no panic").expect("no error");
}
