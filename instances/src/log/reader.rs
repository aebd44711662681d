//! The reader of a process.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, ErrorKind, RedisResult, Value, aio::MultiplexedConnection, cmd,
};
use tokio::{
    sync::{Semaphore, broadcast},
    time,
};

use super::{
    Link,
    entry::{Entry, Id, KEY, newest, read_after},
    lock,
};
use crate::sessions::Sessions;

/// Follows the log, and sends each entry to all event streams of the process. They end when the reader is dropped.
pub(super) struct Reader {
    /// A separate connection, because its command blocks.
    bell: MultiplexedConnection,
    commands: MultiplexedConnection,
    position: Id,
    entries: broadcast::Sender<Entry>,
    turns: Arc<Semaphore>,
}

/// Maximum number of entries by which a stream can lag. Beyond this number, the stream reads from the log again.
const CAPACITY: usize = 256;

/// Maximum number of streams that read from the log at once.
const TURNS: usize = 8;

/// Maximum time for which the reader waits for an entry before it checks its connections.
const WAIT: Duration = Duration::from_secs(1);

/// Maximum time for the reply to a command. It is longer than `WAIT`.
const TIMEOUT: Duration = Duration::from_secs(3);

const RECONNECT: Duration = Duration::from_millis(500);

/// Connects to Redis.
pub(super) async fn open(client: &Client) -> RedisResult<(Link, Reader)> {
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(TIMEOUT));
    let connect = || client.get_multiplexed_async_connection_with_config(&config);
    let mut commands = connect().await?;
    let (sender, entries) = broadcast::channel(CAPACITY);
    let turns = Arc::new(Semaphore::new(TURNS));
    let reader = Reader {
        bell: connect().await?,
        commands: commands.clone(),
        position: newest(&mut commands).await?,
        entries: sender,
        turns: Arc::clone(&turns),
    };
    let link = Link {
        commands,
        entries,
        turns,
    };
    Ok((link, reader))
}

impl Reader {
    /// Reads until the connection to Redis is lost, and with a new connection from the end of the log.
    pub(super) async fn read_forever(
        mut self,
        client: Client,
        link: Arc<Mutex<Link>>,
        sessions: Sessions,
    ) {
        loop {
            let Err(error) = self.read(&sessions).await;
            eprintln!("the log is lost: {error}");
            // Ends the streams, which clients resume from their cursors.
            self.turns.close();
            drop(self);
            let reopened = loop {
                time::sleep(RECONNECT).await;
                if let Ok(reopened) = open(&client).await {
                    break reopened;
                }
            };
            self = reopened.1;
            *lock(&link) = reopened.0;
        }
    }

    async fn read(&mut self, sessions: &Sessions) -> RedisResult<Infallible> {
        loop {
            // The reply only wakes the reader: if the next entry has been trimmed, the reply starts with a later entry.
            let mut xread = cmd("XREAD");
            xread.arg("BLOCK").arg(WAIT.as_millis() as u64);
            xread
                .arg("COUNT")
                .arg(1)
                .arg("STREAMS")
                .arg(KEY)
                .arg(self.position);
            let _: Value = xread.query_async(&mut self.bell).await?;

            let entries = read_after(&mut self.commands, self.position).await?;
            let overtaken = (
                ErrorKind::Client,
                "entries were trimmed before they were read",
            );
            for entry in entries.ok_or(overtaken)? {
                self.position = entry.id;
                if let Some(user) = &entry.logout {
                    sessions.log_out(user);
                }
                // The link is a receiver, so sending does not fail.
                let _ = self.entries.send(entry);
            }
        }
    }
}
