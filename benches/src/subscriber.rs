//! A client of an event stream over HTTP/1.1 that counts the events.

use std::{io, net::SocketAddr};

use memchr::memmem;
use testkit::{chunked::ChunkDecoder, decoder::Decoder};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

#[derive(Debug)]
pub struct Subscriber {
    socket: TcpStream,
    chunks: ChunkDecoder,
    decoder: Decoder,
    /// The number of events that have been decoded and not returned.
    unread: u64,
    closed: bool,
}

/// The end of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The last chunk has arrived.
    Clean,
    /// The connection was closed or reset before the last chunk.
    Cut,
}

impl Subscriber {
    /// Requests this path, and returns when the head of the response has arrived.
    ///
    /// # Errors
    ///
    /// Fails if the connection fails, or if the response is not an event stream.
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
            return Err(io::Error::other(format!("not an event stream:\n{head}")));
        }
        let mut subscriber = Self {
            socket,
            chunks: ChunkDecoder::default(),
            decoder: Decoder::new(),
            unread: 0,
            closed: false,
        };
        subscriber.feed(body)?;
        Ok(subscriber)
    }

    /// Waits for events, and returns their number, close events excluded.
    ///
    /// # Errors
    ///
    /// Returns the end of the stream after its last event.
    ///
    /// # Cancellation safety
    ///
    /// This method is cancellation safe.
    pub async fn read(&mut self) -> Result<u64, End> {
        while self.unread == 0 {
            if self.chunks.is_finished() {
                return Err(End::Clean);
            }
            self.socket.readable().await.map_err(|_| End::Cut)?;
            // Many subscribers share a thread, so none of them keeps a buffer.
            let mut buffer = [0; 16 * 1024];
            match self.socket.try_read(&mut buffer) {
                Ok(0) => return Err(End::Cut),
                Ok(length) => self.feed(&buffer[..length]).map_err(|_| End::Cut)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(End::Cut),
            }
        }
        Ok(std::mem::take(&mut self.unread))
    }

    /// Returns `true` after an event of the type `close`.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    fn feed(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while let Some(data) = self.chunks.next_data(&mut bytes)? {
            for event in self.decoder.feed(data) {
                match event.event_type.as_str() {
                    "close" => self.closed = true,
                    _ => self.unread += 1,
                }
            }
        }
        Ok(())
    }
}
