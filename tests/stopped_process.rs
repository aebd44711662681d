//! Drains in a process that does not run for a while: a separate process that receives SIGSTOP and SIGCONT, as a paused virtual
//! machine or a throttled container.
//!
//! On Unix, because Windows has no such signals.
#![cfg(all(unix, not(miri)))]

#[path = "signal/process.rs"]
mod process;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use axum::{
    Router,
    response::sse::{Event, Sse},
    routing::get,
};
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use testkit::{
    client::Client,
    exchange::event_stream,
    listener::serve_axum,
    script::{AfterScript, Script},
    server::{VERSIONS, next_data, receive},
    wait::within,
};
use tokio::runtime::Builder;
use tower_sse_completion::{Shutdown, SseCompletionLayer};

use self::process::{ENDED, Process, is_child, runtime, wait_for_input};

/// Longer than the grace of a child and the time until connections are cut.
const PAUSE: Duration = Duration::from_secs(3);

/// Stops the process for a while.
fn pause(process: &mut Process) {
    process.signal("STOP");
    thread::sleep(PAUSE);
    process.signal("CONT");
}

/// Serves silent streams over wrapped connections, and drains when the standard input is closed.
async fn serve() {
    let shutdown = Shutdown::new();
    let hello = || Ok::<_, std::convert::Infallible>(Event::default().data("hello"));
    let events = async move || Sse::new(stream::iter([hello()]).chain(stream::pending()));
    let app = Router::new()
        .route("/", get(events))
        .layer(SseCompletionLayer::new().shutdown(&shutdown));
    let sockets = shutdown.clone();
    let draining = shutdown.draining();
    let (address, server) =
        serve_axum(app, draining, move |socket| sockets.connection(socket)).await;
    eprintln!("listening {address}");
    let begins = async {
        let input = tokio::task::spawn_blocking(wait_for_input);
        input.await.expect("no panic");
    };
    let announced = async {
        shutdown.draining().await;
        eprintln!("draining");
    };
    let drain = shutdown.drain(Duration::from_millis(300));
    let drain = async {
        begins.await;
        drain.await
    };
    let (served, (), drained) = tokio::join!(server, announced, drain);
    served.expect("the server does not fail");
    assert_eq!((drained.ended(), drained.still_open()), (2, 0));
}

#[test]
fn c18_clients_of_a_process_that_is_stopped_over_the_end_of_the_grace_get_the_close_event() {
    if is_child() {
        runtime().block_on(serve());
        std::process::exit(ENDED);
    }
    let mut process = Process::start(
        c18_clients_of_a_process_that_is_stopped_over_the_end_of_the_grace_get_the_close_event,
    );
    let address = process.wait_for("listening").parse().expect("an address");
    runtime().block_on(async {
        let mut clients = Vec::new();
        for version in VERSIONS {
            let mut client = Client::connect(address, version).await;
            let mut body = client.get("/").await.into_body();
            assert_eq!(next_data(&mut body).await, "data: hello\n\n");
            clients.push((version, client, body));
        }
        let pausing = tokio::task::spawn_blocking(move || {
            process.close_input();
            process.wait_for("draining");
            pause(&mut process);
            process
        });
        for (version, client, body) in clients {
            let text = receive(body).await.text();
            assert_eq!(text, "event: close\ndata:\n\n", "{version:?}");
            drop(client);
        }
        let mut process = within(pausing).await.expect("no panic");
        assert_eq!(process.wait_until_ended().await, Some(ENDED));
    });
}

/// Drains without a grace, again and again, until the standard input is closed.
async fn drain_rounds() {
    let is_last = Arc::<AtomicBool>::default();
    thread::spawn({
        let is_last = Arc::clone(&is_last);
        move || {
            wait_for_input();
            is_last.store(true, Ordering::SeqCst);
        }
    });
    eprintln!("draining");
    while !is_last.load(Ordering::SeqCst) {
        let (shutdown, reports) = (Shutdown::new(), Arc::<AtomicUsize>::default());
        let layer = SseCompletionLayer::new().shutdown(&shutdown).on_end({
            let reports = Arc::clone(&reports);
            move |_| {
                reports.fetch_add(1, Ordering::SeqCst);
            }
        });
        let upstream = Script::frames(["data: 1\n\n"]).then(AfterScript::Pending);
        let mut body = Box::pin(event_stream(&layer, upstream));
        body.frame().await.expect("a frame").expect("no error");
        let reader = tokio::spawn(async move { body.frame().await });
        tokio::task::yield_now().await;
        let drained = shutdown.drain(Duration::ZERO).await;
        assert_eq!(reports.load(Ordering::SeqCst), 1, "the stream is reported");
        assert_eq!((drained.ended(), drained.still_open()), (1, 0));
        reader.await.expect("no panic");
    }
}

#[test]
fn c19_drain_of_a_process_that_is_stopped_returns_after_reports() {
    if is_child() {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_time().build();
        let runtime = runtime.expect("a runtime");
        let rounds = runtime.block_on(async { tokio::spawn(drain_rounds()).await });
        std::process::exit(if rounds.is_ok() { ENDED } else { 1 });
    }
    let mut process = Process::start(c19_drain_of_a_process_that_is_stopped_returns_after_reports);
    process.wait_for("draining");
    for _ in 0..4 {
        pause(&mut process);
        thread::sleep(Duration::from_millis(100));
    }
    process.close_input();
    assert_eq!(process.wait(), Some(ENDED));
}
