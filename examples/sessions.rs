//! Ending the streams of one user, with an event that says why, and noticing that a client is gone.
//!
//! ```text
//! cargo run --example sessions
//! curl -N http://127.0.0.1:3000/events/ada
//! curl -X POST http://127.0.0.1:3000/logout/ada
//! ```

use std::{
    collections::HashMap,
    convert::Infallible,
    error::Error,
    sync::{Arc, Mutex, PoisonError},
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
use tokio::{net::TcpListener, sync::mpsc, time};
use tokio_stream::wrappers::ReceiverStream;
use tower_sse_completion::{CloseEvent, InvalidCloseEvent, Shutdown, SseCompletionLayer};

/// A shutdown for each user who is logged in.
#[derive(Clone, Default)]
struct Sessions(Arc<Mutex<HashMap<String, Shutdown>>>);

impl Sessions {
    fn of(&self, user: &str) -> Shutdown {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.entry(user.to_owned()).or_default().clone()
    }

    fn remove(&self, user: &str) -> Option<Shutdown> {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.remove(user)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let shutdown = Shutdown::new();
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("http://127.0.0.1:3000/events/ada");
    axum::serve(listener, app(&shutdown))
        .with_graceful_shutdown(shutdown.after(tokio::signal::ctrl_c()))
        .await?;
    Ok(())
}

pub(crate) fn app(shutdown: &Shutdown) -> Router {
    let layer = SseCompletionLayer::new()
        .shutdown(shutdown)
        .on_end(|report| println!("a stream has {}", report.ending()));
    Router::new()
        .route("/events/{user}", get(events))
        .layer(layer)
        .route("/logout/{user}", post(log_out))
        .with_state(Sessions::default())
}

async fn events(State(sessions): State<Sessions>, Path(user): Path<String>) -> Response {
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(produce(sender, user.clone()));
    let mut response = Sse::new(ReceiverStream::new(receiver)).into_response();
    // The session ends this stream too.
    sessions.of(&user).attach(response.extensions_mut());
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
    println!("nobody listens for {user} any more");
}

async fn log_out(
    State(sessions): State<Sessions>,
    Path(user): Path<String>,
) -> Result<&'static str, String> {
    let session = sessions.remove(&user).ok_or("nobody of that name")?;
    let event =
        CloseEvent::named("logged-out").map_err(|error: InvalidCloseEvent| error.to_string())?;
    session.close_with(event);
    Ok("logged out\n")
}
