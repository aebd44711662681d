//! The entries of the log.

use std::{collections::HashMap, fmt, str::FromStr, sync::Arc};

use redis::{
    ErrorKind, FromRedisValue, ParsingError, RedisResult, RedisWrite, ToRedisArgs, Value,
    aio::MultiplexedConnection, cmd, from_redis_value,
};

/// The key of the log in Redis.
pub const KEY: &str = "events";

/// The ID of the first entry, which is not an event. The log is never empty, so every position is the ID of an entry.
pub const FIRST: Id = Id(0, 1);

/// Maximum number of entries that are read at once.
const PAGE: usize = 100;

/// The ID of an entry: the time in milliseconds, and a number. The default is the ID of no entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id(u64, u64);

/// An entry of the log: an event or a logout.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) id: Id,
    /// The data of an event.
    pub(super) data: Option<Arc<str>>,
    /// The user who has logged out.
    pub(super) logout: Option<String>,
}

/// Reads the entries after this one, up to a page. Returns `None` if the log does not have this entry, because entries after
/// it may be missing too.
pub(super) async fn read_after(
    commands: &mut MultiplexedConnection,
    id: Id,
) -> RedisResult<Option<Vec<Entry>>> {
    let mut xrange = cmd("XRANGE");
    xrange.arg(KEY).arg(id).arg("+").arg("COUNT").arg(1 + PAGE);
    let mut entries: Vec<Entry> = xrange.query_async(commands).await?;
    let is_known = entries.first().is_some_and(|entry| entry.id == id);
    Ok(is_known.then(|| entries.split_off(1)))
}

/// Returns the ID of the newest entry.
pub(super) async fn newest(commands: &mut MultiplexedConnection) -> RedisResult<Id> {
    // Redis refuses this entry unless the log is empty.
    let mut xadd = cmd("XADD");
    xadd.arg(KEY).arg(FIRST).arg("first").arg("");
    let _ = xadd.query_async::<Value>(commands).await;

    let mut xrevrange = cmd("XREVRANGE");
    xrevrange.arg(KEY).arg("+").arg("-").arg("COUNT").arg(1);
    let entries: Vec<Entry> = xrevrange.query_async(commands).await?;
    let newest = entries
        .first()
        .ok_or((ErrorKind::Client, "the log is empty"))?;
    Ok(newest.id)
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0, self.1)
    }
}

impl FromStr for Id {
    type Err = &'static str;

    fn from_str(id: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (time, number) = id.split_once('-')?;
            Some(Self(time.parse().ok()?, number.parse().ok()?))
        };
        parse().ok_or("not the ID of an entry")
    }
}

impl ToRedisArgs for Id {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        out.write_arg_fmt(self);
    }
}

impl FromRedisValue for Id {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let id: String = from_redis_value(value)?;
        id.parse().map_err(ParsingError::from)
    }
}

impl FromRedisValue for Entry {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let (id, fields): (Id, HashMap<String, Vec<u8>>) = from_redis_value(value)?;
        let text = |field| Some(String::from_utf8_lossy(fields.get(field)?));
        Ok(Self {
            id,
            data: text("data").map(Arc::from),
            logout: text("logout").map(String::from),
        })
    }
}
