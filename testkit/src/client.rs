//! A client that stops reading, half-closes or resets its connection on demand.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use axum::body::Body;
use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
    rt::Executor,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};

use crate::server::Version;

/// A client with one connection, which is reset when the client is dropped.
///
/// ```no_run
/// use testkit::{client::Client, server::{Version, next_data}};
///
/// # async fn example(address: std::net::SocketAddr) {
/// let mut client = Client::connect(address, Version::Http2).await;
/// let mut events = client.get("/events").await.into_body();
/// next_data(&mut events).await;
/// client.stop_reading();
/// # }
/// ```
#[derive(Debug)]
pub struct Client {
    requests: Requests,
    tasks: Tasks,
    reading: Arc<Reading>,
    /// A second handle of the socket, to half-close it.
    socket: std::net::TcpStream,
}

#[derive(Debug)]
enum Requests {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

/// The tasks of a connection. One of them owns the socket.
#[derive(Debug, Clone, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

/// Pauses the reads of a socket.
#[derive(Debug, Default)]
struct Reading {
    stopped: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

/// A socket that is pending for reads while they are paused.
struct Socket {
    stream: TcpStream,
    reading: Arc<Reading>,
}

impl Client {
    /// Connects to a server.
    pub async fn connect(address: SocketAddr, version: Version) -> Self {
        // The window is large, so that a client that does not read fills the socket before the window.
        Self::with_window(address, version, 1 << 30).await
    }

    /// Connects to a server with an HTTP/2 flow-control window of this many bytes for each stream.
    pub async fn with_window(address: SocketAddr, version: Version, window: u32) -> Self {
        let stream = connect(address).await.into_std().expect("a socket");
        let socket = stream.try_clone().expect("a second handle");
        let reading = Arc::<Reading>::default();
        let io = TokioIo::new(Socket {
            stream: TcpStream::from_std(stream).expect("a socket"),
            reading: Arc::clone(&reading),
        });
        let tasks = Tasks::default();
        // A connection that was reset ends with an error, which its streams return, too.
        let requests = match version {
            Version::Http1 => {
                let (requests, connection) = http1::handshake(io).await.expect("a connection");
                tasks.execute(async { drop(connection.await) });
                Requests::Http1(requests)
            }
            Version::Http2 => {
                let mut builder = http2::Builder::new(tasks.clone());
                builder.initial_stream_window_size(window);
                builder.initial_connection_window_size(1 << 30);
                let (requests, connection) = builder.handshake(io).await.expect("a connection");
                tasks.execute(async { drop(connection.await) });
                Requests::Http2(requests)
            }
        };
        Self {
            requests,
            tasks,
            reading,
            socket,
        }
    }

    /// Sends a GET request, and returns the response once its head has arrived.
    pub async fn get(&mut self, path: &str) -> Response<Incoming> {
        self.send("GET", path, Body::empty()).await
    }

    /// Sends a request, and returns the response once its head has arrived, even if the request's body is unfinished.
    pub async fn send(&mut self, method: &str, path: &str, body: Body) -> Response<Incoming> {
        let response = self.try_send(method, path, body).await;
        response.expect("a response")
    }

    /// Sends a request as [`send`](Self::send) does. Returns an error if the connection takes no more requests.
    pub async fn try_send(
        &mut self,
        method: &str,
        path: &str,
        body: Body,
    ) -> hyper::Result<Response<Incoming>> {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://localhost{path}"))
            .header("host", "localhost")
            .body(body)
            .expect("a valid request");
        match &mut self.requests {
            Requests::Http1(requests) => {
                requests.ready().await?;
                requests.send_request(request).await
            }
            Requests::Http2(requests) => {
                requests.ready().await?;
                requests.send_request(request).await
            }
        }
    }

    /// Shuts down the sending side of the connection.
    pub fn half_close(&self) {
        self.socket
            .shutdown(std::net::Shutdown::Write)
            .expect("an open socket");
    }

    /// Stops reading from the socket.
    pub fn stop_reading(&self) {
        self.reading.stopped.store(true, Ordering::SeqCst);
    }

    /// Continues to read from the socket.
    pub fn resume_reading(&self) {
        self.reading.stopped.store(false, Ordering::SeqCst);
        let waker = self.reading.waker.lock().expect("no panic").take();
        waker.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.tasks.0.lock().expect("no panic").abort_all();
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, future: F) {
        let mut tasks = self.0.lock().expect("no panic");
        while tasks.try_join_next().is_some() {}
        tasks.spawn(future);
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.reading.stopped.load(Ordering::SeqCst) {
            *self.reading.waker.lock().expect("no panic") = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Connects a socket that is reset when it is dropped, and therefore leaves no state in the system.
pub async fn connect(address: SocketAddr) -> TcpStream {
    connect_socket(TcpSocket::new_v4().expect("a socket"), address).await
}

/// Connects a socket as [`connect`] does, with a small receive buffer.
pub async fn connect_narrow(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("an option");
    connect_socket(socket, address).await
}

async fn connect_socket(socket: TcpSocket, address: SocketAddr) -> TcpStream {
    socket.set_zero_linger().expect("an option");
    socket.connect(address).await.expect("a connection")
}
