use axum::extract::{Request, State};
use axum::http::{HeaderValue, Version, header::CONNECTION};
use axum::middleware::{Next, from_fn_with_state};
use axum::{Router, response::Response};
use std::sync::{Arc, atomic::{AtomicBool, Ordering}};

fn close_connections(routes: Router, is_stopping: Arc<AtomicBool>) -> Router {
    routes.layer(from_fn_with_state(is_stopping, close_connection))
}

async fn close_connection(
    State(is_stopping): State<Arc<AtomicBool>>,
    request: Request,
    next: Next,
) -> Response {
    let is_http_1 = request.version() < Version::HTTP_2;
    let mut response = next.run(request).await;
    if is_http_1 && is_stopping.load(Ordering::SeqCst) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
