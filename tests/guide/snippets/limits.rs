use axum::extract::{Request, State};
use axum::http::{Extensions, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::Router;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tower_sse_completion::{Shutdown, SseCompletionLayer};

/// The user of a request. The authorization inserts it into the extensions.
#[derive(Clone)]
struct User(String);

/// Limits of the open streams, and the number of streams for each user.
struct Streams {
    per_user: usize,
    per_process: usize,
    open: Mutex<HashMap<String, usize>>,
}

/// A counted stream. Dropping the value counts the stream out.
struct Place {
    streams: Arc<Streams>,
    user: String,
}

impl Streams {
    fn enter(streams: &Arc<Self>, user: &str) -> Option<Arc<Place>> {
        let mut open = streams.lock();
        let all: usize = open.values().sum();
        let of_user = open.get(user).copied().unwrap_or_default();
        if all >= streams.per_process || of_user >= streams.per_user {
            return None;
        }
        open.insert(user.to_owned(), of_user + 1);
        Some(Arc::new(Place { streams: Arc::clone(streams), user: user.to_owned() }))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.streams.lock();
        if let Some(count) = open.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.user);
            }
        }
    }
}

fn limited(routes: Router, shutdown: &Shutdown, streams: Arc<Streams>) -> Router {
    let place = |extensions: &Extensions| extensions.get::<Arc<Place>>().cloned();
    let completion = SseCompletionLayer::new().shutdown(shutdown).on_end_with(move |request| {
        let place = place(&request.extensions);
        move |_report| drop(place)
    });
    routes.layer(completion).layer(from_fn_with_state(streams, enter))
}

async fn enter(
    State(streams): State<Arc<Streams>>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(User(user)) = request.extensions().get().cloned() else {
        return StatusCode::UNAUTHORIZED.into_response();
    };
    let Some(place) = Streams::enter(&streams, &user) else {
        return StatusCode::TOO_MANY_REQUESTS.into_response();
    };
    request.extensions_mut().insert(place);
    next.run(request).await
}
