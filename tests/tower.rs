//! The service as a Tower service: readiness, errors, clones, and requests of every kind.

use std::{convert::Infallible, future, task::Poll};

use http::{Request, Response};
use testkit::{
    driver::Driver,
    exchange::{CLOSE, cancellation_layer, event_stream_response},
    script::Script,
};
use tokio_util::sync::CancellationToken;
use tower::{Layer, ServiceExt, service_fn};
use tower_sse_completion::{SseCompletion, SseCompletionLayer};
use tower_test::mock;

fn event_stream() -> Response<Script> {
    event_stream_response(Script::silent())
}

#[tokio::test]
async fn readiness_passes_through() {
    let (mut service, mut handle) =
        mock::spawn_layer::<Request<()>, Response<Script>, _>(SseCompletionLayer::new());
    handle.allow(0);
    assert!(service.poll_ready().is_pending());
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
}

#[tokio::test]
async fn errors_pass_through() {
    let (mut service, mut handle) =
        mock::spawn_layer::<Request<()>, Response<Script>, _>(SseCompletionLayer::new());
    assert!(service.poll_ready().is_ready());
    let response = tokio::spawn(service.call(Request::new(())));
    let (_request, send) = handle.next_request().await.expect("a request");
    send.send_error("out of order");
    let error = response.await.expect("no panic").expect_err("an error");
    assert_eq!(error.to_string(), "out of order");

    let (mut service, mut handle) =
        mock::spawn_layer::<Request<()>, Response<Script>, _>(SseCompletionLayer::new());
    handle.send_error("not ready");
    assert!(matches!(service.poll_ready(), Poll::Ready(Err(_))));
}

#[tokio::test]
async fn c15_cancellation_at_any_moment_of_a_request_closes_the_stream() {
    for moment in 0..4 {
        let token = CancellationToken::new();
        let (mut service, mut handle) =
            mock::spawn_layer::<Request<()>, Response<Script>, _>(cancellation_layer(&token));
        let cancel_at = |now| {
            if moment == now {
                token.cancel();
            }
        };
        cancel_at(0);
        assert!(service.poll_ready().is_ready());
        let response = service.call(Request::new(()));
        cancel_at(1);
        let response = tokio::spawn(response);
        let (_request, send) = handle.next_request().await.expect("a request");
        cancel_at(2);
        send.send_response(event_stream());
        let response = response.await.expect("no panic").expect("a response");
        cancel_at(3);
        assert_eq!(Driver::new(response.into_body()).rest().bytes(), CLOSE);
    }
}

#[tokio::test]
async fn request_is_forwarded_unchanged() {
    let layer = SseCompletionLayer::new().cancel_when(|_| future::pending());
    let (mut service, mut handle) = mock::spawn_layer::<Request<&str>, Response<Script>, _>(layer);
    assert!(service.poll_ready().is_ready());
    let request = Request::builder()
        .method("POST")
        .uri("/events?x=1")
        .header("last-event-id", "7")
        .extension("an extension")
        .body("the body");
    let response = tokio::spawn(service.call(request.expect("a valid request")));
    let (request, send) = handle.next_request().await.expect("a request");
    assert_eq!(request.method(), "POST");
    assert_eq!(request.uri(), "/events?x=1");
    assert_eq!(request.headers()["last-event-id"], "7");
    assert_eq!(request.extensions().get(), Some(&"an extension"));
    assert_eq!(*request.body(), "the body");
    send.send_response(event_stream());
    assert!(response.await.expect("no panic").is_ok());
}

#[tokio::test]
async fn clones_share_the_cancellation_and_own_their_streams() {
    let token = CancellationToken::new();
    let service = cancellation_layer(&token).layer(service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(event_stream())
    }));
    let mut bodies = Vec::new();
    for clone in [service.clone(), service] {
        let response = clone.oneshot(Request::new(())).await.expect("a response");
        bodies.push(Driver::new(response.into_body()));
    }
    assert!(bodies.iter_mut().all(|body| body.poll().is_pending()));
    token.cancel();
    for mut body in bodies {
        assert_eq!(body.rest().bytes(), CLOSE);
    }
}

#[test]
fn inner_service_is_accessible() {
    let mut service = SseCompletion::new(1, SseCompletionLayer::new());
    *service.get_mut() += 1;
    assert_eq!(*service.get_ref(), 2);
    assert_eq!(service.into_inner(), 2);
}
