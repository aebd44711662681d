//! The chunked transfer coding of HTTP/1.1, in which servers send event streams.

use std::io;
#[cfg(feature = "net")]
use std::net::SocketAddr;

use memchr::memchr;
#[cfg(feature = "net")]
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

/// Decodes a chunked message body, in pieces of any size. It does no I/O.
///
/// ```
/// use testkit::chunked::ChunkDecoder;
///
/// let mut decoder = ChunkDecoder::default();
/// let mut bytes = &b"5\r\nhello\r\n0\r\n\r\n"[..];
/// assert_eq!(decoder.next_data(&mut bytes)?, Some(&b"hello"[..]));
/// assert_eq!(decoder.next_data(&mut bytes)?, None);
/// assert!(decoder.is_finished());
/// # Ok::<_, std::io::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct ChunkDecoder {
    state: State,
    /// The bytes of the unfinished line.
    line: Vec<u8>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    /// Inside the data of a chunk, of which this many bytes are left.
    Data(usize),
    DataEnd,
    Trailers,
    Finished,
}

impl ChunkDecoder {
    /// Returns the next data in these bytes, and removes from the front what it has decoded. Returns `None` when no bytes
    /// are left. The returned data never belong to more than one chunk.
    ///
    /// # Errors
    ///
    /// Fails if the bytes are not a chunked message body, or continue after its end.
    pub fn next_data<'a>(&mut self, bytes: &mut &'a [u8]) -> io::Result<Option<&'a [u8]>> {
        while !bytes.is_empty() {
            if let State::Data(left) = self.state {
                let (data, rest) = bytes.split_at(left.min(bytes.len()));
                self.state = match left - data.len() {
                    0 => State::DataEnd,
                    left => State::Data(left),
                };
                *bytes = rest;
                return Ok(Some(data));
            }
            let Some(end) = memchr(b'\n', bytes) else {
                self.line.extend_from_slice(bytes);
                *bytes = &[];
                break;
            };
            self.line.extend_from_slice(&bytes[..end]);
            *bytes = &bytes[end + 1..];
            self.end_line()?;
        }
        Ok(None)
    }

    /// Returns `true` inside the data of a chunk.
    pub fn is_in_chunk(&self) -> bool {
        matches!(self.state, State::Data(_))
    }

    /// Returns `true` after the last chunk and the trailers: the message has ended cleanly.
    pub fn is_finished(&self) -> bool {
        self.state == State::Finished
    }

    fn end_line(&mut self) -> io::Result<()> {
        let line = str::from_utf8(&self.line).map_err(invalid)?;
        let line = line.strip_suffix('\r').unwrap_or(line);
        self.state = match (self.state, line) {
            (State::Size, line) => {
                let digits = line.split(';').next().unwrap_or_default().trim();
                match usize::from_str_radix(digits, 16).map_err(invalid)? {
                    0 => State::Trailers,
                    size => State::Data(size),
                }
            }
            (State::DataEnd, "") => State::Size,
            (State::Trailers, "") => State::Finished,
            (State::Trailers, _field) => State::Trailers,
            (_, line) => return Err(invalid(format!("unexpected line {line:?}"))),
        };
        self.line.clear();
        Ok(())
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// A chunked response over HTTP/1.1, read chunk by chunk.
///
/// ```no_run
/// use testkit::chunked::ChunkedResponse;
///
/// # async fn example(address: std::net::SocketAddr) {
/// let mut events = ChunkedResponse::get(address, "/events").await;
/// assert!(events.head.contains("content-type: text/event-stream"));
/// assert_eq!(events.chunk().await, "data: 1\n\n");
/// assert!(events.rest().await.ends_with("event: close\ndata:\n\n"));
/// # }
/// ```
#[cfg(feature = "net")]
#[derive(Debug)]
pub struct ChunkedResponse {
    /// The status line and the headers, in lower case.
    pub head: String,
    connection: BufReader<TcpStream>,
    chunks: ChunkDecoder,
}

#[cfg(feature = "net")]
impl ChunkedResponse {
    /// Sends a `GET` request over a new connection, and returns the response when its head has arrived.
    ///
    /// # Panics
    ///
    /// Panics if the server cannot be reached or closes the connection.
    pub async fn get(address: SocketAddr, path: &str) -> Self {
        let connection = TcpStream::connect(address).await.expect("a connection");
        let mut connection = BufReader::new(connection);
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        let sent = connection.write_all(request.as_bytes()).await;
        sent.expect("the server reads the request");
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let length = connection.read_line(&mut head).await.expect("a line");
            assert!(length > 0, "the connection was cut after {head:?}");
        }
        head.make_ascii_lowercase();
        Self {
            head,
            connection,
            chunks: ChunkDecoder::default(),
        }
    }

    /// Returns the data of the next chunk, or an empty string at the clean end.
    ///
    /// # Panics
    ///
    /// Panics if the response ends without its last chunk, is not chunked or is not UTF-8.
    pub async fn chunk(&mut self) -> String {
        let mut chunk = Vec::new();
        while !self.chunks.is_finished() {
            let received = self.connection.fill_buf().await.expect("no reset");
            assert!(!received.is_empty(), "the response was cut");
            let mut rest = received;
            let data = self.chunks.next_data(&mut rest).expect("valid chunks");
            chunk.extend_from_slice(data.unwrap_or_default());
            let decoded = received.len() - rest.len();
            self.connection.consume(decoded);
            if !chunk.is_empty() && !self.chunks.is_in_chunk() {
                break;
            }
        }
        String::from_utf8(chunk).expect("UTF-8")
    }

    /// Returns everything up to the clean end.
    ///
    /// # Panics
    ///
    /// Panics if [`chunk`](Self::chunk) does.
    pub async fn rest(&mut self) -> String {
        let mut rest = String::new();
        loop {
            let chunk = self.chunk().await;
            if chunk.is_empty() {
                return rest;
            }
            rest += &chunk;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"3;name=value\r\nabc\r\nA\r\n0123\r\n\n789\r\n0\r\nx-checksum: 1\r\n\r\n";

    fn decode(decoder: &mut ChunkDecoder, mut bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut decoded = Vec::new();
        while let Some(data) = decoder.next_data(&mut bytes)? {
            decoded.extend_from_slice(data);
        }
        Ok(decoded)
    }

    #[test]
    fn data_are_the_same_at_every_cut() {
        for cut in 0..BODY.len() {
            let mut decoder = ChunkDecoder::default();
            let mut decoded = decode(&mut decoder, &BODY[..cut]).expect("chunks");
            assert!(!decoder.is_finished(), "cut at {cut}");
            decoded.extend(decode(&mut decoder, &BODY[cut..]).expect("chunks"));
            assert_eq!(decoded, b"abc0123\r\n\n789", "cut at {cut}");
            assert!(decoder.is_finished(), "cut at {cut}");
        }
    }

    #[test]
    fn bytes_that_are_not_chunks_are_refused() {
        let bodies = [
            "x\r\n",
            "-1\r\n",
            "\r\n",
            "1\r\nab\r\n",
            "0\r\n\r\n0\r\n\r\n",
        ];
        for body in bodies {
            let decoded = decode(&mut ChunkDecoder::default(), body.as_bytes());
            assert!(decoded.is_err(), "{body:?}");
        }
    }
}
