//! Small programs that users write from the documentation.

use std::{convert::Infallible, future::IntoFuture, time::Duration};

use axum::{
    BoxError, Router,
    body::Body as AxumBody,
    error_handling::HandleErrorLayer,
    handler::Handler,
    response::{
        IntoResponse,
        sse::{Event, Sse},
    },
    routing::get,
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response, StatusCode, header::CONTENT_TYPE, request::Parts};
use http_body::Body;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use testkit::server::{VERSIONS, listen, next_data, receive, request};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tower::{
    Layer, Service, ServiceBuilder, ServiceExt, buffer::BufferLayer, service_fn,
    util::BoxCloneSyncService,
};
use tower_http::{
    cors::CorsLayer, timeout::TimeoutLayer, validate_request::ValidateRequestHeaderLayer,
};
use tower_sse_completion::{
    CloseEvent, ResponseBody, ResponseFuture, Shutdown, SseCompletion, SseCompletionLayer,
};
use tower_test::mock;

const CLOSE: &str = "event: close\ndata:\n\n";

/// Returns an event stream that never ends on its own.
async fn events() -> impl IntoResponse {
    let hello = Ok::<_, Infallible>(Event::default().data("hello"));
    Sse::new(stream::iter([hello]).chain(stream::pending()))
}

/// Responds with an event stream that never ends on its own.
async fn respond(_request: Request<AxumBody>) -> Result<Response<AxumBody>, Infallible> {
    Ok(events().await.into_response())
}

#[tokio::test]
#[cfg_attr(miri, ignore = "needs sockets")]
async fn axum_server_shuts_down() {
    for version in VERSIONS {
        let shutdown = Shutdown::new();
        let (signal, signalled) = oneshot::channel::<()>();
        let app = Router::new()
            .route("/events", get(events))
            .layer(SseCompletionLayer::new().shutdown(&shutdown));
        let (listener, address) = listen().await;
        let server = axum::serve(listener, app).with_graceful_shutdown(shutdown.after(signalled));
        let server = tokio::spawn(server.into_future());

        let response = request(address, version, "GET", "/events").await;
        let mut body = response.into_body();
        assert_eq!(next_data(&mut body).await, "data: hello\n\n");
        signal.send(()).expect("the server waits for the signal");
        assert_eq!(receive(body).await.text(), CLOSE, "{version:?}");
        server.await.expect("no panic").expect("no error");
    }
}

#[tokio::test]
async fn each_route_can_have_its_own_close_event() {
    let shutdown = Shutdown::new();
    let completion = SseCompletionLayer::new().shutdown(&shutdown);
    let named = |name| {
        completion
            .clone()
            .close_event(CloseEvent::from_static(name))
    };
    let app = Router::new()
        .route("/orders", get(events.layer(named("orders-closed"))))
        .route("/prices", get(events.layer(named("prices-closed"))))
        .route("/rest", get(events.layer(completion.clone())));
    for (path, close) in [
        ("/orders", "event: orders-closed\ndata:\n\n"),
        ("/prices", "event: prices-closed\ndata:\n\n"),
        ("/rest", CLOSE),
    ] {
        let request = Request::get(path).body(AxumBody::empty());
        let response = app.clone().oneshot(request.expect("a request")).await;
        let body = response.expect("a response").into_body();
        shutdown.close();
        let text = body.collect().await.expect("no error").to_bytes();
        assert_eq!(text, format!("data: hello\n\n{close}"));
    }
}

#[tokio::test]
async fn tower_test_can_drive_the_layer() {
    let shutdown = Shutdown::new();
    let layer = SseCompletionLayer::new().shutdown(&shutdown);
    let (mut service, mut handle) =
        mock::spawn_layer::<Request<()>, Response<Full<Bytes>>, _>(layer);
    assert!(service.poll_ready().is_ready());
    let response = service.call(Request::new(()));
    let (_request, send) = handle.next_request().await.expect("the request");
    let empty = Response::builder()
        .header(CONTENT_TYPE, "text/event-stream")
        .body(Full::default());
    send.send_response(empty.expect("a response"));
    let body = response.await.expect("the response").into_body();
    assert_eq!(body.collect().await.expect("no error").to_bytes(), CLOSE);
}

/// A library that names every type of the layer.
mod library {
    use super::*;

    #[derive(Debug, Clone)]
    pub(crate) struct EventsLayer {
        completion: SseCompletionLayer,
    }

    #[derive(Debug, Clone)]
    pub(crate) struct Events<S> {
        inner: SseCompletion<S>,
    }

    impl EventsLayer {
        pub(crate) fn new(shutdown: &Shutdown) -> Self {
            let completion = SseCompletionLayer::new().shutdown(shutdown);
            Self { completion }
        }

        pub(crate) fn cancel_when<F, Fut>(self, make: F) -> Self
        where
            F: Fn(&Parts) -> Fut + Send + Sync + 'static,
            Fut: Future<Output = ()> + Send + 'static,
        {
            Self {
                completion: self.completion.cancel_when(make),
            }
        }
    }

    impl<S> Layer<S> for EventsLayer {
        type Service = Events<S>;

        fn layer(&self, inner: S) -> Self::Service {
            Events {
                inner: self.completion.layer(inner),
            }
        }
    }

    impl<S, R, B> Service<Request<R>> for Events<S>
    where
        S: Service<Request<R>, Response = Response<B>>,
        B: Body,
    {
        type Response = Response<ResponseBody<B>>;
        type Error = S::Error;
        type Future = ResponseFuture<S::Future>;

        fn poll_ready(
            &mut self,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Result<(), S::Error>> {
            self.inner.poll_ready(cx)
        }

        fn call(&mut self, request: Request<R>) -> Self::Future {
            self.inner.call(request)
        }
    }
}

#[tokio::test]
async fn types_of_the_layer_can_be_named_in_a_library() {
    let (shutdown, token) = (Shutdown::new(), CancellationToken::new());
    let of_shutdown = library::EventsLayer::new(&shutdown);
    let of_token = of_shutdown.clone().cancel_when({
        let token = token.clone();
        move |_request| token.clone().cancelled_owned()
    });
    let first = of_shutdown.layer(service_fn(respond));
    let second = of_token.layer(service_fn(respond));
    let first = first.oneshot(Request::default()).await.expect("a response");
    let second = second.oneshot(Request::default()).await;
    token.cancel();
    shutdown.close();
    let texts = [
        first
            .into_body()
            .collect()
            .await
            .map(|body| body.to_bytes()),
        second
            .expect("a response")
            .into_body()
            .collect()
            .await
            .map(|body| body.to_bytes()),
    ];
    for text in texts {
        assert_eq!(text.expect("no error"), format!("data: hello\n\n{CLOSE}"));
    }
}

type Erased<R, B, E> = BoxCloneSyncService<Request<R>, Response<UnsyncBoxBody<Bytes, B>>, E>;

fn erase<S, R, B>(inner: S, shutdown: &Shutdown) -> Erased<R, B::Error, S::Error>
where
    S: Service<Request<R>, Response = Response<B>, Future: Send> + Clone + Send + Sync + 'static,
    R: 'static,
    B: Body<Data = Bytes, Error: Send> + Send + 'static,
{
    let service = ServiceBuilder::new()
        .map_response(|response: Response<_>| response.map(BodyExt::boxed_unsync))
        .layer(SseCompletionLayer::new().shutdown(shutdown))
        .service(inner);
    BoxCloneSyncService::new(service)
}

#[tokio::test]
async fn service_can_be_erased() {
    let shutdown = Shutdown::new();
    // The erased service alone, around a router, and as the fallback of a router.
    let erased = erase(service_fn(respond), &shutdown);
    let router = Router::new().fallback_service(erased.clone());
    let services: Vec<Erased<_, _, _>> = vec![
        erased,
        erase(Router::new().route("/", get(events)), &shutdown),
        erase(router, &shutdown),
    ];
    for service in services {
        let response = service.oneshot(Request::<AxumBody>::default()).await;
        let body = response.expect("a response").into_body();
        shutdown.close();
        let text = body.collect().await.expect("no error").to_bytes();
        assert_eq!(text, format!("data: hello\n\n{CLOSE}"));
    }
}

#[tokio::test]
async fn layer_composes_with_common_layers_in_one_builder() {
    async fn respond_or_fail(request: Request<AxumBody>) -> Result<Response<AxumBody>, BoxError> {
        match request.uri().path() {
            "/fail" => Err("an intended error".into()),
            "/never" => std::future::pending().await,
            _ => Ok(events().await.into_response()),
        }
    }

    let shutdown = Shutdown::new();
    let bearer = ValidateRequestHeaderLayer::has_header_value("authorization", "Bearer secret");
    let service = ServiceBuilder::new()
        .layer_fn(BoxCloneSyncService::new)
        .layer(CorsLayer::permissive())
        .layer(bearer.expect("a valid name"))
        .layer(HandleErrorLayer::new(async |error: BoxError| {
            (StatusCode::BAD_GATEWAY, error.to_string())
        }))
        .layer(BufferLayer::new(8))
        .layer(TimeoutLayer::with_status_code(
            StatusCode::GATEWAY_TIMEOUT,
            Duration::from_millis(50),
        ))
        .layer(SseCompletionLayer::new().shutdown(&shutdown))
        .service(service_fn(respond_or_fail));
    let send = |path: &str| {
        let request = Request::get(path).header("authorization", "Bearer secret");
        let request = request.body(AxumBody::empty()).expect("a request");
        let service = service.clone();
        async move { service.oneshot(request).await.expect("infallible") }
    };

    let unauthorized = service.clone().oneshot(Request::<AxumBody>::default());
    let unauthorized = unauthorized.await.expect("infallible");
    assert_eq!(unauthorized.status(), StatusCode::FORBIDDEN);
    assert_eq!(send("/fail").await.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(send("/never").await.status(), StatusCode::GATEWAY_TIMEOUT);
    let response = send("/").await;
    assert_eq!(response.headers()["access-control-allow-origin"], "*");
    assert_eq!(shutdown.open_streams(), 1);
    shutdown.close();
    let text = response.into_body().collect().await.expect("no error");
    assert_eq!(text.to_bytes(), format!("data: hello\n\n{CLOSE}"));
}
