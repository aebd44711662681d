//! A Redis, instances and clients for the tests.

use std::{collections::VecDeque, future::IntoFuture, net::SocketAddr, process::Command};

use axum::http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use instances::{
    app::Instance,
    log::{KEY, Log},
    redis_server::RedisServer,
};
use redis::{FromRedisValue, aio::MultiplexedConnection, cmd};
use testkit::{
    decoder::{Decoder, Event},
    server::{Version, listen, send},
    wait::within,
};
use tower_sse_completion::Shutdown;

/// A running instance.
pub struct Server {
    pub address: SocketAddr,
    pub log: Log,
    pub shutdown: Shutdown,
}

/// A client of one event stream.
pub struct Client {
    body: Incoming,
    decoder: Decoder,
    events: VecDeque<Event>,
}

/// Starts a Redis.
pub async fn redis() -> RedisServer {
    let redis = RedisServer::start().await;
    redis.unwrap_or_else(|error| panic!("{error}"))
}

/// Starts an instance, with a log of this many entries.
pub async fn instance(redis: &RedisServer, limit: usize) -> Server {
    let instance = Instance::connect(&redis.url(), limit).await;
    let instance = instance.expect("a connection to Redis");
    let (log, shutdown) = (instance.log.clone(), Shutdown::new());
    let app = instance.app(&shutdown).expect("a valid close event");
    let (listener, address) = listen().await;
    tokio::spawn(axum::serve(listener, app).into_future());
    Server {
        address,
        log,
        shutdown,
    }
}

impl Client {
    /// Opens the event stream of a user.
    pub async fn open(server: SocketAddr, user: &str, last_event_id: &str) -> Self {
        let mut request = Request::get(format!("http://{server}/events/{user}"));
        if !last_event_id.is_empty() {
            request = request.header("last-event-id", last_event_id);
        }
        let request = request.body(Empty::<Bytes>::new()).expect("a request");
        Self {
            body: send(Version::Http1, request).await.into_body(),
            decoder: Decoder::resuming(last_event_id),
            events: VecDeque::new(),
        }
    }

    /// Opens an event stream, and returns when it is at the end of the log.
    pub async fn start(server: SocketAddr, user: &str) -> Self {
        let mut client = Self::open(server, user, "").await;
        assert_eq!(client.next().await.event_type, "reset");
        client
    }

    /// Returns the next event.
    pub async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            let frame = within(self.body.frame()).await.expect("another event");
            let data = frame.expect("no cut").into_data().expect("no trailers");
            self.events.extend(self.decoder.feed(&data));
        }
    }

    /// Returns the data of the next events.
    pub async fn data<const COUNT: usize>(&mut self) -> [String; COUNT] {
        let mut data = [const { String::new() }; COUNT];
        for data in &mut data {
            *data = self.next().await.data;
        }
        data
    }

    /// Returns the type of the last event, after which the stream ends cleanly, and the reconnection time in milliseconds.
    pub async fn end(&mut self) -> (String, u128) {
        let last = self.next().await;
        assert!(within(self.body.frame()).await.is_none(), "after {last:?}");
        (last.event_type, self.retry())
    }

    /// Returns the reconnection time, in milliseconds.
    pub fn retry(&self) -> u128 {
        let retry = self.decoder.retry().expect("a reconnection time");
        retry.as_millis()
    }

    /// Returns the `Last-Event-ID` of the next request.
    pub fn last_event_id(&self) -> &str {
        self.decoder.last_event_id()
    }
}

/// Returns a separate connection for the test.
pub async fn connect(redis: &RedisServer) -> MultiplexedConnection {
    let client = redis::Client::open(redis.url()).expect("a URL");
    let connection = client.get_multiplexed_async_connection().await;
    connection.expect("a connection to Redis")
}

/// Sends a command whose second word is the key of the log.
pub async fn log_command<T: FromRedisValue>(
    connection: &mut MultiplexedConnection,
    name: &str,
    arguments: &[&str],
) -> T {
    let reply = cmd(name)
        .arg(KEY)
        .arg(arguments)
        .query_async(connection)
        .await;
    reply.unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Sends a signal to a process.
pub fn signal(name: &str, process: u32) {
    let kill = format!("kill -{name} {process}");
    let status = Command::new("sh").args(["-c", &kill]).status();
    assert!(status.expect("a shell").success(), "{kill}");
}
