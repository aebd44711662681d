//! A client of an event stream over HTTP/1.1 that counts: what arrives, whether it was closed, and how it ended.

mod decoder;

use std::{io, net::SocketAddr};

use memchr::memmem;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use decoder::Decoder;

#[derive(Debug)]
pub struct Subscriber {
    socket: TcpStream,
    decoder: Decoder,
    /// Events that came together with the head.
    came_with_head: u64,
}

/// What a client can tell of an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The last chunk has come.
    Clean,
    /// The connection was closed or reset in front of it.
    Cut,
}

impl Subscriber {
    /// Asks for this path, and waits for the head of the response.
    ///
    /// # Errors
    ///
    /// Where there is no server, or its answer is no event stream.
    pub async fn new(server: SocketAddr, path: &str) -> io::Result<Self> {
        let mut socket = TcpStream::connect(server).await?;
        socket.set_nodelay(true)?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nAccept: text/event-stream\r\n\r\n");
        socket.write_all(request.as_bytes()).await?;
        let mut response = Vec::new();
        let end = loop {
            if let Some(end) = memmem::find(&response, b"\r\n\r\n") {
                break end + 4;
            }
            if socket.read_buf(&mut response).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let (head, body) = response.split_at(end);
        let head = String::from_utf8_lossy(head).to_lowercase();
        let expected = [
            "http/1.1 200 ",
            "\r\ntransfer-encoding: chunked\r\n",
            "\r\ncontent-type: text/event-stream",
        ];
        if !expected.iter().all(|part| head.contains(part)) {
            return Err(io::Error::other(format!("no event stream:\n{head}")));
        }
        let mut decoder = Decoder::default();
        let came_with_head = decoder.feed(body)?;
        Ok(Self {
            socket,
            decoder,
            came_with_head,
        })
    }

    /// Waits for more, and returns how many events came, close events left out, or how the stream has ended.
    ///
    /// # Errors
    ///
    /// With the end of the stream.
    ///
    /// # Cancellation safety
    ///
    /// Nothing is lost.
    pub async fn read(&mut self) -> Result<u64, End> {
        if self.came_with_head > 0 {
            return Ok(std::mem::take(&mut self.came_with_head));
        }
        loop {
            if self.decoder.is_at_end() {
                return Err(End::Clean);
            }
            self.socket.readable().await.map_err(|_| End::Cut)?;
            match self.read_ready() {
                Ok(Some(events)) => return Ok(events),
                Ok(None) => {}
                Err(_) => return Err(End::Cut),
            }
        }
    }

    /// Whether there was an event named `close` that a browser dispatches.
    pub fn saw_close_event(&self) -> bool {
        self.decoder.saw_close_event()
    }

    fn read_ready(&mut self) -> io::Result<Option<u64>> {
        // Many subscribers share a thread, so none of them keeps a buffer.
        let mut buffer = [0; 16 * 1024];
        match self.socket.try_read(&mut buffer) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => self.decoder.feed(&buffer[..length]).map(Some),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}
