//! A client that reads an answer chunk by chunk.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

/// An answer over HTTP/1.1 in chunks, as every event stream comes.
pub struct Answer {
    pub head: String,
    connection: BufReader<TcpStream>,
}

impl Answer {
    pub async fn to_get(address: SocketAddr, path: &str) -> Self {
        let mut connection = TcpStream::connect(address).await.expect("a connection");
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        connection
            .write_all(request.as_bytes())
            .await
            .expect("a request");
        let mut answer = Self {
            head: String::new(),
            connection: BufReader::new(connection),
        };
        while !answer.head.ends_with("\r\n\r\n") {
            let line = answer.line().await;
            answer.head += &line;
        }
        answer.head.make_ascii_lowercase();
        answer
    }

    /// The data of the next chunk; empty for the last one, which is the clean end.
    pub async fn chunk(&mut self) -> String {
        let length = self.line().await;
        let length = usize::from_str_radix(length.trim_end(), 16).expect("the length of a chunk");
        let mut data = vec![0; length + 2];
        self.connection
            .read_exact(&mut data)
            .await
            .expect("a whole chunk");
        data.truncate(length);
        String::from_utf8(data).expect("text")
    }

    /// Everything up to the clean end.
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

    async fn line(&mut self) -> String {
        let mut line = String::new();
        let length = self.connection.read_line(&mut line).await.expect("a line");
        assert!(length > 0, "the connection was cut");
        line
    }
}
