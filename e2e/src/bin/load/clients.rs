//! The clients: each reads its stream to the end, and judges it.

use std::{net::SocketAddr, sync::Arc, time::SystemTime};

use futures_util::{StreamExt, stream};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    task::JoinHandle,
};

use crate::{
    Result,
    measure::{Ends, allow_files},
};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
const CLEAN_END: &[u8] = b"\n\n\r\n14\r\nevent: close\ndata:\n\n\r\n0\r\n\r\n";

/// Whether its stream was closed, with a clean end, and when it ended.
pub type Client = JoinHandle<(bool, SystemTime)>;

/// The first event, and one that came later.
const EVENTS: usize = 2;

/// Prints `ready` when every client has its events, and how their streams ended when all have.
pub async fn run(address: SocketAddr, streams: usize) -> Result<()> {
    allow_files(streams)?;
    let ready = Ready::default();
    // Not so many at a time that the listener's queue overflows.
    let clients: Vec<_> = stream::iter(0..streams)
        .map(async |_| {
            let connection = TcpStream::connect(address).await?;
            std::io::Result::Ok(ready.client(connection))
        })
        .buffer_unordered(256)
        .collect()
        .await;
    let clients: std::io::Result<Vec<_>> = clients.into_iter().collect();
    let clients = clients?;
    ready.all(streams).await?;
    println!("ready");
    println!("{}", ends(clients).await?);
    Ok(())
}

pub async fn ends(clients: Vec<Client>) -> Result<Ends> {
    let mut ends = Ends::default();
    for client in clients {
        let (closed, at) = client.await?;
        ends.add(closed, at);
    }
    Ok(ends)
}

/// Tells when all clients have their events.
#[derive(Clone)]
pub struct Ready(Arc<Semaphore>);

impl Default for Ready {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }
}

impl Ready {
    pub async fn all(&self, clients: usize) -> Result<()> {
        self.0.acquire_many(u32::try_from(clients)?).await?.forget();
        Ok(())
    }

    pub fn client(
        &self,
        mut connection: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Client {
        let ready = Arc::clone(&self.0);
        tokio::spawn(async move {
            let (mut answer, mut events) = (Vec::new(), 0);
            let mut sent = connection.write_all(REQUEST).await;
            while sent.is_ok() {
                let start = answer.len();
                match connection.read_buf(&mut answer).await {
                    Ok(1..) => {}
                    // The end of the connection.
                    Ok(0) => break,
                    Err(error) => sent = Err(error),
                }
                let before = events;
                let new = &answer[start.saturating_sub(1)..];
                events += new.windows(2).filter(|bytes| bytes == b"\n\n").count();
                if before < EVENTS && events >= EVENTS {
                    ready.add_permits(1);
                }
            }
            (
                sent.is_ok() && answer.ends_with(CLEAN_END),
                SystemTime::now(),
            )
        })
    }
}
