//! The events that every client has to receive: those that are in the log in Redis at the end.

use std::{collections::HashMap, error::Error, time::Duration};

use instances::{app, log::KEY};
use redis::cmd;
use tokio::{sync::watch, task::JoinSet, time};

/// A publisher of numbered events.
#[derive(Debug)]
pub struct Flow {
    url: String,
    published: watch::Receiver<u64>,
    /// Aborts its task when it is dropped.
    publisher: JoinSet<()>,
}

/// The data of all events, by their IDs.
pub type Events = HashMap<String, String>;

const INTERVAL: Duration = Duration::from_millis(100);

/// Maximum number of entries in the log: more than a run publishes.
pub const LIMIT: usize = 100_000;

const WORDS: [&str; 16] = [
    "alder", "birch", "cedar", "elder", "fir", "hazel", "holly", "juniper", "larch", "maple",
    "oak", "pine", "rowan", "spruce", "willow", "yew",
];

impl Flow {
    /// Starts the publisher.
    ///
    /// # Errors
    ///
    /// Fails if Redis cannot be reached.
    pub async fn start(url: String) -> Result<Self, Box<dyn Error>> {
        let log = app::Instance::connect(&url, LIMIT).await?.log;
        let (sender, published) = watch::channel(0);
        let mut publisher = JoinSet::new();
        publisher.spawn(async move {
            for number in 1.. {
                // While Redis is not available, no event is published.
                if log.publish(&data(number)).await.is_ok() {
                    sender.send_replace(number);
                }
                time::sleep(INTERVAL).await;
            }
        });
        Ok(Self {
            url,
            published,
            publisher,
        })
    }

    /// Waits until the next event is published.
    ///
    /// # Errors
    ///
    /// Fails if the publisher has ended.
    pub async fn next(&mut self) -> Result<(), Box<dyn Error>> {
        self.published.mark_unchanged();
        Ok(self.published.changed().await?)
    }

    /// Ends the publisher, and returns the ID of the last event and all events, as they are in the log.
    ///
    /// # Errors
    ///
    /// Fails if Redis cannot be reached.
    pub async fn end(mut self) -> Result<(String, Events), Box<dyn Error>> {
        self.publisher.shutdown().await;
        let client = redis::Client::open(self.url)?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let mut xrange = cmd("XRANGE");
        xrange.arg(KEY).arg("-").arg("+");
        let entries: Vec<(String, HashMap<String, String>)> =
            xrange.query_async(&mut connection).await?;
        let last = entries.last().ok_or("the log is empty")?.0.clone();
        let event = |(id, mut fields): (_, HashMap<_, _>)| Some((id, fields.remove("data")?));
        Ok((last, entries.into_iter().filter_map(event).collect()))
    }
}

/// Returns the data of this event, on two lines.
fn data(number: u64) -> String {
    let mut random = fastrand::Rng::with_seed(number);
    let words: Vec<_> = (0..12)
        .map(|_| WORDS[random.usize(..WORDS.len())])
        .collect();
    format!("event {number} of the flow\n{}", words.join(" "))
}
