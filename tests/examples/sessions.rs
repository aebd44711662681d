//! The sessions example: a logout ends the streams of one user.

#[path = "../../examples/sessions.rs"]
#[allow(dead_code, reason = "main is not called")]
mod example;

use testkit::{
    server::{VERSIONS, next_data, receive, serve},
    wait::within,
};
use tower_sse_completion::Shutdown;

use super::{open, receive_text};

#[tokio::test]
async fn logout_ends_the_streams_of_one_user() {
    let address = serve(example::app(&Shutdown::new())).await;
    for version in VERSIONS {
        let (first, ada) = open(address, version, "GET", "/events/ada").await;
        assert_eq!(first, "data: event 1 for ada\n\n");
        let (_, mut bob) = open(address, version, "GET", "/events/bob").await;

        let online = async || receive_text(address, version, "GET", "/online").await;
        assert_eq!(online().await, "ada\nbob");
        let logout = async || receive_text(address, version, "POST", "/logout/ada").await;
        assert_eq!(logout().await, "logged out\n");
        let end = receive(ada).await.text();
        assert!(end.ends_with("event: logged-out\ndata:\n\n"), "{end:?}");

        assert_eq!(next_data(&mut bob).await, "data: event 2 for bob\n\n");
        assert_eq!(logout().await, "no user of that name");

        assert_eq!(online().await, "bob");
        drop(bob);
        within(async { while !online().await.is_empty() {} }).await;
    }
}
