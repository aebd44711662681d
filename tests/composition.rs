//! The layer inside of other layers. Layers that make their own responses need a default body, and no layer may suppress a
//! close event.

use std::{convert::Infallible, future::pending, time::Duration};

use axum::{
    BoxError, Router, body::Body as AxumBody, error_handling::HandleErrorLayer, routing::get,
};
use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE, request::Parts,
};
use http_body::Body;
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use testkit::{
    driver::Driver,
    exchange::{CLOSE, event_stream_response},
    script::{AfterScript, Script},
    server::{self, VERSIONS},
    wait::within,
};
use tokio_util::sync::CancellationToken;
use tower::{
    Layer, Service, ServiceBuilder, ServiceExt, buffer::BufferLayer, service_fn,
    util::BoxCloneSyncService,
};
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::{CompressionLayer, predicate::SizeAbove},
    cors::CorsLayer,
    set_header::SetResponseHeaderLayer,
    timeout::TimeoutLayer,
    trace::TraceLayer,
    validate_request::{RequiredHeaderValue, ValidateRequestHeaderLayer},
};
use tower_sse_completion::{
    ResponseBody, ResponseFuture, Shutdown, SseCompletion, SseCompletionLayer,
};

const EVENT: &str = "data: 1\n\n";

/// Responds with an event stream, or never for the path `/never`, or panics for the path `/panic`.
async fn handle(request: Request<AxumBody>) -> Result<Response<AxumBody>, Infallible> {
    match request.uri().path() {
        "/never" => pending().await,
        "/panic" => panic!("an intended panic"),
        _ => {
            let upstream = Script::frames([EVENT]).then(AfterScript::Pending);
            Ok(event_stream_response(AxumBody::new(upstream)))
        }
    }
}

type HandlerService = BoxCloneSyncService<Request<AxumBody>, Response<AxumBody>, Infallible>;

fn handler() -> HandlerService {
    BoxCloneSyncService::new(service_fn(handle))
}

fn request(method: &str, path: &str) -> Request<AxumBody> {
    let request = Request::builder().method(method).uri(path);
    let request = request.header("authorization", "Bearer secret");
    request.body(AxumBody::empty()).expect("a valid request")
}

/// Wraps the crate's layer in this layer, asserts that an event stream ends with its close event, and returns the response
/// to another request.
async fn respond_with_layer<L, B>(outer: L, other: Request<AxumBody>) -> Response<Driver<B>>
where
    L: Layer<SseCompletion<HandlerService>>,
    L::Service: Service<Request<AxumBody>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes, Error: std::fmt::Debug>,
{
    let shutdown = Shutdown::new();
    let mut service = ServiceBuilder::new()
        .layer(outer)
        .layer(SseCompletionLayer::new().shutdown(&shutdown))
        .service(handler());
    let response = service
        .ready()
        .await
        .expect("ready")
        .call(request("GET", "/"));
    let mut body = Driver::new(response.await.expect("a response").into_body());
    assert_eq!(body.data(), EVENT);
    body.assert_pending();
    assert_eq!(shutdown.open_streams(), 1, "the stream is wrapped");
    shutdown.close();
    let close = body.collect();
    assert_eq!(close.bytes(), CLOSE, "the stream is closed");
    assert_eq!(shutdown.open_streams(), 0);
    let response = service.ready().await.expect("ready").call(other);
    response.await.expect("a response").map(Driver::new)
}

/// Requires the authorization of [`request`].
fn bearer<B: Default>() -> ValidateRequestHeaderLayer<RequiredHeaderValue<B>> {
    let layer = ValidateRequestHeaderLayer::has_header_value("authorization", "Bearer secret");
    layer.expect("a valid name")
}

#[track_caller]
fn assert_empty<B: Body<Data = Bytes, Error: std::fmt::Debug>>(
    response: Response<Driver<B>>,
    status: StatusCode,
) {
    assert_eq!(response.status(), status);
    let mut body = response.into_body();
    assert_eq!(
        body.collect().bytes(),
        b"",
        "the layer's own response has no close event"
    );
}

#[tokio::test]
async fn c23_cors_layer_makes_its_own_response() {
    let mut preflight = request("OPTIONS", "/");
    for (name, value) in [
        ("origin", "http://a"),
        ("access-control-request-method", "GET"),
    ] {
        let name = HeaderName::from_static(name);
        preflight
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    let response = respond_with_layer(CorsLayer::permissive(), preflight).await;
    assert!(
        response
            .headers()
            .contains_key("access-control-allow-origin")
    );
    assert_empty(response, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn c23_timeout_layer_makes_its_own_response() {
    let layer = TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, Duration::from_secs(5));
    let response = respond_with_layer(layer, request("GET", "/never")).await;
    assert_empty(response, StatusCode::GATEWAY_TIMEOUT);
}

#[tokio::test]
async fn c23_authorization_layers_make_their_own_responses() {
    let mut unauthorized = request("GET", "/");
    unauthorized.headers_mut().clear();
    let response = respond_with_layer(bearer(), unauthorized).await;
    assert_empty(response, StatusCode::FORBIDDEN);

    let mut other = request("GET", "/");
    other
        .headers_mut()
        .insert("accept", HeaderValue::from_static("image/png"));
    let response = respond_with_layer(
        ValidateRequestHeaderLayer::accept("text/event-stream"),
        other,
    )
    .await;
    assert_empty(response, StatusCode::NOT_ACCEPTABLE);

    #[expect(
        clippy::result_large_err,
        reason = "the trait of tower-http requires this type"
    )]
    let refuse = |request: &mut Request<AxumBody>| match request.uri().path() {
        "/" => Ok(()),
        _ => {
            let mut refused = Response::new(ResponseBody::default());
            *refused.status_mut() = StatusCode::FORBIDDEN;
            Err(refused)
        }
    };
    let response = respond_with_layer(
        ValidateRequestHeaderLayer::custom(refuse),
        request("GET", "/other"),
    )
    .await;
    assert_empty(response, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn c23_layers_that_change_the_response_compose() {
    let name = HeaderName::from_static("x-added");
    let set_header = SetResponseHeaderLayer::overriding(name, HeaderValue::from_static("1"));
    let response = respond_with_layer(set_header, request("GET", "/")).await;
    assert_eq!(response.headers()["x-added"], "1");
    assert_eq!(response.headers()[CONTENT_TYPE], "text/event-stream");

    let response = respond_with_layer(TraceLayer::new_for_http(), request("GET", "/")).await;
    assert_eq!(response.status(), StatusCode::OK);

    let response = respond_with_layer(CatchPanicLayer::new(), request("GET", "/panic")).await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test(start_paused = true)]
async fn c23_all_layers_compose_in_one_builder_and_in_a_router() {
    let shutdowns = [Shutdown::new(), Shutdown::new()];
    let [of_service, of_router] = shutdowns.each_ref().map(|shutdown| {
        ServiceBuilder::new()
            .layer(TraceLayer::new_for_http())
            .layer(CorsLayer::permissive())
            .layer(bearer())
            .layer(HandleErrorLayer::new(async |error: BoxError| {
                (StatusCode::BAD_GATEWAY, error.to_string())
            }))
            .layer(BufferLayer::new(8))
            .layer(TimeoutLayer::with_status_code(
                StatusCode::GATEWAY_TIMEOUT,
                Duration::from_secs(5),
            ))
            .layer(SseCompletionLayer::new().shutdown(shutdown))
    });
    let service = of_service.service(handler());
    let router = Router::new().route("/", get(handle)).layer(of_router);
    let service = service.oneshot(request("GET", "/")).await;
    let router = router.oneshot(request("GET", "/")).await;
    let responses = [service.map(|response| response.map(AxumBody::new)), router];
    for (response, shutdown) in responses.into_iter().zip(shutdowns) {
        let mut body = Driver::new(response.expect("a response").into_body());
        assert_eq!(body.data(), EVENT);
        body.assert_pending();
        shutdown.close();
        assert_eq!(body.collect().bytes(), CLOSE);
    }
}

#[tokio::test]
#[cfg_attr(miri, ignore = "needs sockets")]
async fn c1_outer_layer_compresses_the_close_event() {
    use std::io::Read;

    for version in VERSIONS {
        let shutdown = Shutdown::new();
        let compression = CompressionLayer::new().compress_when(SizeAbove::new(0));
        let layers = ServiceBuilder::new()
            .layer(compression)
            .layer(SseCompletionLayer::new().shutdown(&shutdown));
        let upstream = || Script::frames([EVENT]).then(AfterScript::Pending);
        let address = server::serve_scripts(layers, upstream).await;
        let response = server::request(address, version, "GET", "/").await;
        assert_eq!(
            response.headers()["content-encoding"],
            "gzip",
            "{version:?}"
        );
        shutdown.close();
        let received = within(server::receive(response.into_body())).await;
        assert!(
            received.error.is_none(),
            "{version:?}: {:?}",
            received.error
        );
        let mut text = Vec::new();
        let mut decoder = flate2::read::GzDecoder::new(&received.bytes[..]);
        decoder.read_to_end(&mut text).expect("valid gzip");
        assert_eq!(text, [EVENT.as_bytes(), CLOSE].concat(), "{version:?}");
    }
}

#[track_caller]
fn assert_default_is_pass_through<B>()
where
    B: Body<Data = Bytes, Error: std::fmt::Debug> + Default,
{
    let (mut default, upstream) = (Driver::new(ResponseBody::<B>::default()), B::default());
    assert_eq!(default.is_end_stream(), upstream.is_end_stream());
    assert_eq!(default.size_hint().exact(), upstream.size_hint().exact());
    let expected = Driver::new(upstream).collect();
    assert_eq!(default.collect().frames, expected.frames);
}

#[test]
fn c23_default_body_is_a_pass_through_of_the_default_upstream() {
    /// A body that is not empty by default.
    #[derive(Debug)]
    struct NotEmpty(Full<Bytes>);

    impl Default for NotEmpty {
        fn default() -> Self {
            Self(Full::new(": not empty\n\n".into()))
        }
    }

    impl Body for NotEmpty {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
            std::pin::Pin::new(&mut self.0).poll_frame(cx)
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_end_stream()
        }

        fn size_hint(&self) -> http_body::SizeHint {
            self.0.size_hint()
        }
    }

    assert_default_is_pass_through::<Full<Bytes>>();
    assert_default_is_pass_through::<Empty<Bytes>>();
    assert_default_is_pass_through::<AxumBody>();
    assert_default_is_pass_through::<NotEmpty>();
    assert_default_is_pass_through::<ResponseBody<NotEmpty>>();
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
async fn c23_types_of_the_layer_can_be_named_in_a_library() {
    let (shutdown, token) = (Shutdown::new(), CancellationToken::new());
    let of_shutdown = library::EventsLayer::new(&shutdown);
    let of_token = of_shutdown.clone().cancel_when({
        let token = token.clone();
        move |_request| token.clone().cancelled_owned()
    });
    for layer in [of_token, of_shutdown] {
        let response = layer.layer(handler()).oneshot(request("GET", "/")).await;
        let mut body = Driver::new(response.expect("a response").into_body());
        assert_eq!(body.data(), EVENT);
        body.assert_pending();
        match token.is_cancelled() {
            false => token.cancel(),
            true => shutdown.close(),
        }
        assert_eq!(body.collect().bytes(), CLOSE);
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
async fn c23_service_can_be_erased() {
    let shutdown = Shutdown::new();
    // The erased service alone, around a router, and as the fallback of a router.
    let erased = erase(handler(), &shutdown);
    let router = Router::new().fallback_service(erased.clone());
    let services: Vec<Erased<_, _, _>> = vec![
        erased,
        erase(Router::new().route("/", get(handle)), &shutdown),
        erase(router, &shutdown),
    ];
    for service in services {
        let response = service.oneshot(Request::<AxumBody>::default()).await;
        let mut body = Driver::new(response.expect("a response").into_body());
        shutdown.close();
        assert_eq!(body.collect().frames, [EVENT.as_bytes(), CLOSE]);
    }
}
