//! The Rocket example.

#[allow(dead_code, reason = "the test has a main of its own")]
#[path = "../../examples/rocket.rs"]
mod example;

use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddr},
};

use rocket::{Config, Ignite, Rocket, config, fairing::AdHoc};
use testkit::wait::within;
use tokio::{sync::oneshot, task::JoinHandle};
use tower_sse_completion::Shutdown;

use crate::support::{CLOSE, assert_closed, assert_empty_is_closed, open};

/// Launches the example, and returns its address and the handle that stops Rocket.
async fn launch(
    shutdown: &Shutdown,
) -> (
    SocketAddr,
    rocket::Shutdown,
    JoinHandle<Result<Rocket<Ignite>, rocket::Error>>,
) {
    let config = Config {
        address: Ipv4Addr::LOCALHOST.into(),
        port: 0,
        log_level: config::LogLevel::Off,
        // Rocket waits for the whole grace if a connection is open. A busy machine may need more than the default of 2 s.
        shutdown: config::Shutdown {
            grace: 5,
            // Rocket's handler would keep Ctrl-C from ending the test program.
            ctrlc: false,
            signals: HashSet::new(),
            ..config::Shutdown::default()
        },
        ..Config::default()
    };
    let (sender, launched) = oneshot::channel();
    let sender = std::sync::Mutex::new(Some(sender));
    let report = AdHoc::on_liftoff("address", move |rocket| {
        let address = SocketAddr::new(rocket.config().address, rocket.config().port);
        if let Some(sender) = sender.lock().expect("no panic").take() {
            sender.send(address).expect("the test waits");
        }
        Box::pin(async {})
    });
    let rocket = example::app(config, shutdown).attach(report);
    let rocket = rocket.ignite().await.expect("a valid app");
    let handle = rocket.shutdown();
    let server = tokio::spawn(rocket.launch());
    (within(launched).await.expect("an address"), handle, server)
}

#[tokio::test]
async fn stream_and_server_end_after_a_notification() {
    let shutdown = Shutdown::new();
    let (address, handle, server) = launch(&shutdown).await;
    let stream = open(address, "/events").await;
    assert_eq!(shutdown.open_streams(), 1);

    handle.notify();
    assert_closed(stream, CLOSE).await;
    within(server).await.expect("no panic").expect("no error");
    assert_eq!(shutdown.open_streams(), 0);
}

#[tokio::test]
async fn empty_stream_is_closed() {
    let (address, ..) = launch(&Shutdown::new()).await;
    assert_empty_is_closed(address).await;
}
