//! A client of which the test says when and how it leaves.

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
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
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

/// One connection. It is reset when this is dropped.
pub struct Client {
    requests: Requests,
    tasks: Tasks,
    reading: Arc<Reading>,
    /// The same socket, to half-close it.
    socket: std::net::TcpStream,
}

enum Requests {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

/// The tasks of a connection, one of which owns its socket.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

/// Whether the client reads from its socket.
#[derive(Default)]
struct Reading {
    stopped: AtomicBool,
    waiting: Mutex<Option<Waker>>,
}

/// A socket that is read only while the client reads.
struct Socket {
    stream: TcpStream,
    reading: Arc<Reading>,
}

impl Client {
    pub async fn connect(address: SocketAddr, version: Version) -> Self {
        // So large a window that it is the socket that is full when the client does not read.
        Self::with_window(address, version, 1 << 30).await
    }

    /// Lets the server send so many bytes of a stream ahead, over HTTP/2.
    pub async fn with_window(address: SocketAddr, version: Version, window: u32) -> Self {
        let stream = connect(address).await.into_std().expect("a socket");
        let socket = stream.try_clone().expect("a second handle");
        let reading = Arc::<Reading>::default();
        let io = TokioIo::new(Socket {
            stream: TcpStream::from_std(stream).expect("a socket"),
            reading: Arc::clone(&reading),
        });
        let tasks = Tasks::default();
        // An error of a connection is how it ends that was cut; its streams tell of it.
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

    pub async fn get(&mut self, path: &str) -> Response<Incoming> {
        self.send("GET", path, Body::empty()).await
    }

    /// Returns the response when its head is there, also while the body of the request is still being sent.
    pub async fn send(&mut self, method: &str, path: &str, body: Body) -> Response<Incoming> {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://localhost{path}"))
            .header("host", "localhost")
            .body(body)
            .expect("a valid request");
        let response = match &mut self.requests {
            Requests::Http1(requests) => requests.send_request(request).await,
            Requests::Http2(requests) => {
                requests.ready().await.expect("an open connection");
                requests.send_request(request).await
            }
        };
        response.expect("a response")
    }

    /// Shuts its sending side down, and can still read.
    pub fn half_close(&self) {
        self.socket
            .shutdown(std::net::Shutdown::Write)
            .expect("an open socket");
    }

    /// Leaves what the server sends in the socket.
    pub fn stop_reading(&self) {
        self.reading.stopped.store(true, Ordering::SeqCst);
    }

    pub fn read_on(&self) {
        self.reading.stopped.store(false, Ordering::SeqCst);
        let waiting = self.reading.waiting.lock().expect("no panic").take();
        waiting.into_iter().for_each(Waker::wake);
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
            *self.reading.waiting.lock().expect("no panic") = Some(cx.waker().clone());
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

/// A socket that is reset when it is closed, and leaves nothing behind in the system.
pub async fn connect(address: SocketAddr) -> TcpStream {
    connect_by(TcpSocket::new_v4().expect("a socket"), address).await
}

/// The same, for which the system keeps little that was not read yet.
pub async fn connect_narrow(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("an option");
    connect_by(socket, address).await
}

async fn connect_by(socket: TcpSocket, address: SocketAddr) -> TcpStream {
    socket.set_zero_linger().expect("an option");
    socket.connect(address).await.expect("a connection")
}

/// The next piece of a body that has one.
pub async fn piece(body: &mut Incoming) -> Bytes {
    let frame = body.frame().await.expect("a frame").expect("no error");
    frame.into_data().expect("data")
}
