//! Ends the streams of one user, with an event that has the reason, and forgets users whose last stream has ended.
//!
//! ```text
//! cargo run --features signal --example sessions [-- --port 3000]
//! curl -N http://127.0.0.1:3000/events/ada
//! curl http://127.0.0.1:3000/online
//! curl -X POST http://127.0.0.1:3000/logout/ada
//! ```

use std::{
    collections::HashMap,
    convert::Infallible,
    error::Error,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use axum::{
    Router,
    extract::{Path, State},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
    routing::{get, post},
};
use tokio::{sync::mpsc, time};
use tokio_stream::wrappers::ReceiverStream;
use tower_sse_completion::{CloseEvent, Shutdown, SseCompletionLayer, stop_signal};

#[path = "support/listen.rs"]
mod listen;

/// A shutdown for each user who has a stream. The visits of a user keep the shutdown.
#[derive(Clone, Default)]
struct Sessions(Arc<Mutex<HashMap<String, Weak<Shutdown>>>>);

/// A request of a user, and its stream. The session is forgotten with the last visit.
struct Visit {
    sessions: Sessions,
    user: String,
    session: Option<Arc<Shutdown>>,
}

impl Sessions {
    fn session(&self, user: &str) -> Arc<Shutdown> {
        let mut sessions = self.lock();
        let known = sessions.get(user).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let session = Arc::<Shutdown>::default();
            sessions.insert(user.to_owned(), Arc::downgrade(&session));
            session
        })
    }

    fn visit(&self, user: &str) -> Visit {
        Visit {
            sessions: self.clone(),
            user: user.to_owned(),
            session: Some(self.session(user)),
        }
    }

    fn remove(&self, user: &str) -> Option<Arc<Shutdown>> {
        self.lock().remove(user)?.upgrade()
    }

    fn users(&self) -> Vec<String> {
        let mut users: Vec<_> = self.lock().keys().cloned().collect();
        users.sort();
        users
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Weak<Shutdown>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut sessions = self.sessions.lock();
        self.session = None;
        // After a logout, the user may have a new session.
        if sessions
            .get(&self.user)
            .is_some_and(|session| session.strong_count() == 0)
        {
            sessions.remove(&self.user);
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let shutdown = Shutdown::new();
    let listener = listen::listen(&[
        "curl -N /events/ada",
        "curl /online",
        "curl -X POST /logout/ada",
    ])
    .await?;
    axum::serve(listener, app(&shutdown))
        .with_graceful_shutdown(shutdown.after(stop_signal()?))
        .await?;
    Ok(())
}

pub(crate) fn app(shutdown: &Shutdown) -> Router {
    let sessions = Sessions::default();
    let layer = SseCompletionLayer::new().shutdown(shutdown).on_end_with({
        let sessions = sessions.clone();
        move |request| {
            let user = request.uri.path().trim_start_matches("/events/");
            let visit = sessions.visit(user);
            move |report| println!("a stream of {}: {}", visit.user, report.ending())
        }
    });
    Router::new()
        .route("/events/{user}", get(events))
        .layer(layer)
        .route("/logout/{user}", post(log_out))
        .route("/online", get(online))
        .with_state(sessions)
}

async fn events(State(sessions): State<Sessions>, Path(user): Path<String>) -> Response {
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(produce(sender, user.clone()));
    let mut response = Sse::new(ReceiverStream::new(receiver)).into_response();
    // The session ends this stream too.
    sessions.session(&user).attach(response.extensions_mut());
    response
}

/// The receiver is dropped with the stream: when the client leaves, and before the close event is sent.
async fn produce(sender: mpsc::Sender<Result<Event, Infallible>>, user: String) {
    for number in 1.. {
        let event = Event::default().data(format!("event {number} for {user}"));
        if sender.send(Ok(event)).await.is_err() {
            break;
        }
        tokio::select! {
            () = time::sleep(Duration::from_secs(1)) => {}
            () = sender.closed() => break,
        }
    }
    println!("a stream of {user} is no longer read");
}

async fn online(State(sessions): State<Sessions>) -> String {
    sessions.users().join("\n")
}

async fn log_out(
    State(sessions): State<Sessions>,
    Path(user): Path<String>,
) -> Result<&'static str, &'static str> {
    let session = sessions.remove(&user).ok_or("no user of that name")?;
    session.close_with(CloseEvent::from_static("logged-out"));
    Ok("logged out\n")
}
