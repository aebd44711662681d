//! The server process: it publishes when it is told to, and tells how much CPU time it has used.

use std::{convert::Infallible, io, time::Duration};

use axum::{
    Router,
    body::Body,
    handler::Handler,
    response::{
        IntoResponse,
        sse::{Event, Sse},
    },
    routing::get,
    serve::ListenerExt,
};
use benchmarks::subjects::do_nothing;
use futures_util::{Stream, StreamExt};
use rustix::time::{ClockId, clock_gettime};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
    sync::broadcast,
};
use tokio_stream::wrappers::BroadcastStream;
use tower_http::map_response_body::MapResponseBodyLayer;
use tower_sse_completion::{Shutdown, SseCompletionLayer};

use crate::{SIDES, Side};

/// Which a client asks how much CPU time the server has used. Anything else is a path to whose streams an event goes.
pub const CPU_TIME: &str = "cpu-time";

const DATA: &str = r#"{"symbol":"ABCD","price":123.45,"time":"2024-01-01T00:00:00Z"}"#;

/// Prints the addresses for subscribers and for commands, and serves until the connection for commands is gone.
///
/// # Errors
///
/// Where it cannot listen.
pub async fn serve() -> io::Result<()> {
    rlimit::increase_nofile_limit(u64::MAX)?;
    let subscribers = TcpListener::bind("127.0.0.1:0").await?;
    let commands = TcpListener::bind("127.0.0.1:0").await?;
    println!("{} {}", subscribers.local_addr()?, commands.local_addr()?);

    let shutdown = Shutdown::new();
    let layer = SseCompletionLayer::new().shutdown(&shutdown);
    let publishers = SIDES.map(|_| broadcast::channel(16).0);
    let mut app = Router::new();
    for (side, publisher) in SIDES.into_iter().zip(&publishers) {
        let publisher = publisher.clone();
        let handler = async move || events(&publisher);
        let route = match side {
            Side::Without | Side::Control => get(handler),
            Side::DoNothing => get(handler.layer(MapResponseBodyLayer::new(do_nothing::<Body>))),
            Side::Layer => get(handler.layer(layer.clone())),
        };
        app = app.route(side.path(), route);
    }
    // Without this an event would wait until the one before it was acknowledged.
    let subscribers = subscribers.tap_io(|socket| {
        socket.set_nodelay(true).expect("a connection");
    });
    tokio::spawn(async { axum::serve(subscribers, app).await });
    obey(commands, publishers).await
}

fn events(publisher: &broadcast::Sender<u64>) -> impl IntoResponse + use<> {
    Sse::new(encoded(publisher.subscribe()))
}

fn encoded(
    receiver: broadcast::Receiver<u64>,
) -> impl Stream<Item = Result<Event, Infallible>> + Send {
    BroadcastStream::new(receiver).map(|number| {
        let number = number.expect("nobody lags behind");
        Ok(Event::default().id(number.to_string()).data(DATA))
    })
}

async fn obey(
    listener: TcpListener,
    publishers: [broadcast::Sender<u64>; SIDES.len()],
) -> io::Result<()> {
    let (socket, _) = listener.accept().await?;
    socket.set_nodelay(true)?;
    let mut socket = BufReader::new(socket);
    let mut command = String::new();
    let mut published = 0;
    while socket.read_line(&mut command).await? > 0 {
        let side = SIDES.iter().position(|side| side.path() == command.trim());
        if let Some(side) = side {
            published += 1;
            publishers[side].send(published).expect("subscribers");
        } else {
            assert_eq!(command.trim(), CPU_TIME);
            let answer = format!("{}\n", cpu_time().as_nanos());
            socket.write_all(answer.as_bytes()).await?;
        }
        command.clear();
    }
    Ok(())
}

/// What all threads of this process have used so far.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).expect("it is not negative")
}
