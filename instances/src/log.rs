//! The log: a stream in Redis, and the event streams that follow it.

mod entry;
mod reader;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{Stream, StreamExt, stream};
use redis::{Client, RedisResult, aio::MultiplexedConnection, cmd};
use tokio::sync::{
    Semaphore,
    broadcast::{self, error::RecvError},
};

use self::entry::{Entry, newest, read_after};
pub use self::entry::{FIRST, Id, KEY};
use crate::sessions::Sessions;

/// The log, as one process reads and writes it.
#[derive(Debug, Clone)]
pub struct Log {
    link: Arc<Mutex<Link>>,
    limit: usize,
}

/// The connection that all event streams share, and the entries that the reader receives from now on.
#[derive(Debug)]
struct Link {
    commands: MultiplexedConnection,
    entries: broadcast::Receiver<Entry>,
    /// The turns in which streams read from the log, so that many streams do not delay the reader.
    turns: Arc<Semaphore>,
}

/// A message for the client of an event stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// An event, and the ID of its entry.
    Event(Id, Arc<str>),
    /// The log does not have the client's cursor: events may be missing before this position.
    Reset(Id),
}

/// The position of an event stream.
struct Cursor {
    link: Link,
    position: Id,
    /// The log may have entries after the position that `link` does not receive.
    behind: bool,
}

impl Log {
    /// Connects to Redis, and starts the reader. New entries replace old ones once the log has about `limit` entries.
    pub(crate) async fn connect(url: &str, limit: usize, sessions: Sessions) -> RedisResult<Self> {
        let client = Client::open(url)?;
        let (link, reader) = reader::open(&client).await?;
        let link = Arc::new(Mutex::new(link));
        tokio::spawn(reader.read_forever(client, Arc::clone(&link), sessions));
        Ok(Self { link, limit })
    }

    /// Appends an event, and returns its ID. After an error, the log may have the event nevertheless.
    pub async fn publish(&self, data: &str) -> RedisResult<Id> {
        self.append("data", data).await
    }

    /// Appends the logout of a user, which ends the streams of that user on every instance.
    pub async fn log_out(&self, user: &str) -> RedisResult<Id> {
        self.append("logout", user).await
    }

    /// Returns the messages for a client with this last event ID. They end when the connection to Redis is lost.
    pub fn follow(&self, last_event_id: Id) -> impl Stream<Item = Message> + Send + use<> {
        let cursor = Cursor {
            // Subscribes before the log is read, so that no entry between the two steps is lost.
            link: self.link(),
            position: last_event_id,
            behind: true,
        };
        let messages = async |mut cursor: Cursor| Some((cursor.next().await?, cursor));
        stream::unfold(cursor, messages).flat_map(stream::iter)
    }

    async fn append(&self, field: &str, value: &str) -> RedisResult<Id> {
        let mut xadd = cmd("XADD");
        xadd.arg(KEY).arg("MAXLEN").arg("~").arg(self.limit);
        xadd.arg("*").arg(field).arg(value);
        xadd.query_async(&mut self.link().commands).await
    }

    fn link(&self) -> Link {
        let link = lock(&self.link);
        Link {
            commands: link.commands.clone(),
            entries: link.entries.resubscribe(),
            turns: Arc::clone(&link.turns),
        }
    }
}

impl Cursor {
    /// Returns the next messages, or `None` if the connection to Redis is lost.
    async fn next(&mut self) -> Option<Vec<Message>> {
        loop {
            if self.behind {
                let _turn = self.link.turns.acquire().await.ok()?;
                let entries = read_after(&mut self.link.commands, self.position).await;
                let Some(entries) = entries.ok()? else {
                    self.position = newest(&mut self.link.commands).await.ok()?;
                    return Some(vec![Message::Reset(self.position)]);
                };
                self.behind = !entries.is_empty();
                return Some(to_messages(&mut self.position, entries));
            }
            match self.link.entries.recv().await {
                Ok(entry) if entry.id > self.position => {
                    return Some(to_messages(&mut self.position, vec![entry]));
                }
                // The entry has been read from the log.
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => self.behind = true,
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

fn to_messages(position: &mut Id, entries: Vec<Entry>) -> Vec<Message> {
    *position = entries.last().map_or(*position, |entry| entry.id);
    let event = |entry: Entry| Some(Message::Event(entry.id, entry.data?));
    entries.into_iter().filter_map(event).collect()
}

fn lock(link: &Mutex<Link>) -> MutexGuard<'_, Link> {
    link.lock().unwrap_or_else(PoisonError::into_inner)
}
