//! The snippets of `docs/recipes.md` and `docs/observability.md`.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
    routing::get,
};
use futures_util::stream;
use http::{Request, StatusCode};
use metrics_exporter_prometheus::PrometheusBuilder;
use testkit::driver::Driver;
use tokio::time::sleep;
use tower::ServiceExt;
use tower_sse_completion::{CloseEvent, Shutdown, SseCompletionLayer};

const GUIDE: &str = include_str!("../../docs/recipes.md");

mod limits {
    include!("snippets/limits.rs");

    pub(crate) fn make(
        routes: Router,
        shutdown: &Shutdown,
        per_user: usize,
        per_process: usize,
    ) -> Router {
        let open = Mutex::default();
        let streams = Streams {
            per_user,
            per_process,
            open,
        };
        limited(routes, shutdown, Arc::new(streams))
    }

    pub(crate) fn user(name: &str) -> impl Clone + Send + Sync + 'static {
        User(name.to_owned())
    }
}

mod latency {
    include!("snippets/latency.rs");

    pub(crate) fn make(routes: Router, shutdown: &Shutdown) -> Router {
        measured(routes, shutdown)
    }
}

mod reasons {
    include!("snippets/reasons.rs");

    pub(crate) fn of(report: &StreamReport) -> String {
        reason(report).to_owned()
    }
}

mod first_event_time {
    include!("snippets/first_event_time.rs");

    pub(crate) fn make(
        record: impl Fn(Duration) + Clone + Send + Sync + 'static,
    ) -> SseCompletionLayer {
        layer(record)
    }
}

mod usage {
    include!("snippets/usage.rs");

    pub(crate) fn make(
        upstream: Body,
        count: impl FnMut(&Bytes) + Send + Unpin + 'static,
        limit: Duration,
    ) -> Body {
        billed(upstream, count, limit)
    }
}

fn routes() -> Router {
    let events = async || Sse::new(stream::pending::<Result<Event, Infallible>>());
    Router::new()
        .route("/events/{topic}", get(events))
        .route("/text/{name}", get(async || "text"))
}

async fn send(app: &Router, path: &str, extension: impl Clone + Send + Sync + 'static) -> Response {
    let mut request = Request::get(path).body(Body::empty()).expect("valid");
    request.extensions_mut().insert(extension);
    app.clone().oneshot(request).await.expect("a response")
}

#[tokio::test]
async fn c21_streams_are_limited_for_each_user_and_for_the_process() {
    assert!(GUIDE.contains(include_str!("snippets/limits.rs")));
    let shutdown = Shutdown::new();
    let app = limits::make(routes(), &shutdown, 2, 3);
    let open = async |user| send(&app, "/events/1", limits::user(user)).await;
    let refused = StatusCode::TOO_MANY_REQUESTS;

    let mut bodies = Vec::new();
    for user in ["ada", "ada", "bob"] {
        let mut body = Driver::new(open(user).await.into_body());
        body.assert_pending();
        bodies.push(body);
    }
    assert_eq!(open("ada").await.status(), refused, "two of the user");
    assert_eq!(open("eve").await.status(), refused, "three of the process");
    assert_eq!(
        send(&app, "/events/1", ()).await.status(),
        StatusCode::UNAUTHORIZED
    );

    // The client leaves.
    bodies.remove(0).drop_body();
    assert_eq!(
        send(&app, "/text/1", limits::user("ada")).await.status(),
        StatusCode::OK
    );
    let mut again = Driver::new(open("ada").await.into_body());
    again.assert_pending();
    assert_eq!(open("ada").await.status(), refused);
    shutdown.close();
    for mut body in bodies {
        body.collect();
    }
    again.collect();
    for user in ["ada", "ada", "bob"] {
        assert_eq!(open(user).await.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn streams_are_in_no_latency_histogram_and_have_a_label_for_their_route() {
    assert!(GUIDE.contains(include_str!("snippets/latency.rs")));
    let recorder = PrometheusBuilder::new().build_recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let shutdown = Shutdown::new();
    let app = latency::make(routes(), &shutdown);
    assert_eq!(send(&app, "/text/1", ()).await.status(), StatusCode::OK);
    let mut body = Driver::new(send(&app, "/events/1", ()).await.into_body());
    body.assert_pending();
    shutdown.close();
    body.collect();

    let text = recorder.handle().render();
    let counts: Vec<_> = text
        .lines()
        .filter(|line| line.contains("_count"))
        .collect();
    assert_eq!(counts.len(), 2, "{text}");
    for count in [
        r#"http_request_duration_seconds_count{route="/text/{name}"} 1"#,
        r#"sse_stream_duration_seconds_count{route="/events/{topic}",ending="cancelled"} 1"#,
    ] {
        assert!(counts.contains(&count), "{text}");
    }
}

#[tokio::test]
async fn c21_observer_tells_a_logout_from_a_deploy() {
    assert!(GUIDE.contains(include_str!("snippets/reasons.rs")));
    for expected in ["logged-out", "restart"] {
        let (shutdown, session) = (Shutdown::new(), Shutdown::new());
        let logged = Arc::<Mutex<Vec<_>>>::default();
        let layer = SseCompletionLayer::new().shutdown(&shutdown).on_end({
            let logged = Arc::clone(&logged);
            move |report| logged.lock().expect("no panic").push(reasons::of(report))
        });
        let of_session = session.clone();
        let events = async move || {
            let events = stream::pending::<Result<Event, Infallible>>();
            let mut response = Sse::new(events).into_response();
            of_session.attach(response.extensions_mut());
            response
        };
        let app = Router::new().route("/", get(events));
        let app = app.layer(layer);
        let mut left = Driver::new(send(&app, "/", ()).await.into_body());
        left.assert_pending();
        left.drop_body();
        let mut stopped = Driver::new(send(&app, "/", ()).await.into_body());
        stopped.assert_pending();
        match expected {
            "restart" => shutdown.close_with(CloseEvent::from_static("restart")),
            _ => session.close_with(CloseEvent::from_static("logged-out")),
        }
        stopped.collect();
        assert_eq!(*logged.lock().expect("no panic"), ["dropped", expected]);
    }
}

#[tokio::test(start_paused = true)]
async fn time_to_the_first_event_counts_from_the_request() {
    let page = include_str!("../../docs/observability.md");
    assert!(page.contains(include_str!("snippets/first_event_time.rs")));
    const WAIT: Duration = Duration::from_secs(5);
    let times = Arc::<Mutex<Vec<_>>>::default();
    let record = {
        let times = Arc::clone(&times);
        move |time| times.lock().expect("no panic").push(time)
    };
    let events = async || {
        sleep(WAIT).await;
        Sse::new(stream::once(async {
            sleep(WAIT).await;
            Ok::<_, Infallible>(Event::default().data("1"))
        }))
    };
    let app = Router::new()
        .route("/", get(events))
        .layer(first_event_time::make(record));
    let body = send(&app, "/", ()).await.into_body();
    axum::body::to_bytes(body, usize::MAX)
        .await
        .expect("no error");
    // Half of the time is spent before the response.
    assert_eq!(*times.lock().expect("no panic"), [2 * WAIT]);
}

#[tokio::test(start_paused = true)]
async fn usage_of_a_model_is_counted_up_to_the_limit_although_the_client_has_left() {
    assert!(GUIDE.contains(include_str!("snippets/usage.rs")));
    const PAUSE: Duration = Duration::from_secs(5);
    for (limit, expected) in [
        (3 * PAUSE, "data: 1\n\ndata: 2\n\n"),
        (PAUSE / 2, "data: 1\n\n"),
    ] {
        let counted = Arc::<Mutex<String>>::default();
        let count = {
            let counted = Arc::clone(&counted);
            move |data: &axum::body::Bytes| {
                let text = str::from_utf8(data).expect("text");
                counted.lock().expect("no panic").push_str(text);
            }
        };
        let events = stream::unfold(1, async |number| {
            sleep(PAUSE).await;
            (number < 3).then(|| {
                (
                    Ok::<_, Infallible>(format!("data: {number}\n\n")),
                    number + 1,
                )
            })
        });
        let mut body = Driver::new(usage::make(Body::from_stream(events), count, limit));
        body.assert_pending();
        sleep(PAUSE).await;
        assert_eq!(body.data(), "data: 1\n\n");
        body.assert_pending();
        body.drop_body();
        sleep(10 * PAUSE).await;
        assert_eq!(*counted.lock().expect("no panic"), expected, "{limit:?}");
    }
}
