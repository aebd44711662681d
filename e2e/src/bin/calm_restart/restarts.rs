//! Instances that are restarted while clients read.

use std::time::Duration;

use e2e::{
    event_source::Version,
    proxy::{Config, Kind},
};
use tokio::time::Instant;

use crate::{
    Result, SHORT,
    audience::{Audience, Counts},
    reconnects,
    site::{Retry, Site, until},
};

/// The result of restarts.
#[derive(Debug, Default)]
pub struct Outcome {
    clients: usize,
    restarts: usize,
    /// The number of streams that drains ended, as reported by the instances.
    ended: usize,
    counts: Counts,
}

pub const VERSIONS: [Version; 2] = [Version::Http1, Version::Http2];

/// The head of the table of [`Outcome::row`].
pub const HEAD: &str = "\
| path | protocol | clients | restarts | streams ended | close events | lost | refused requests |\n\
|---|---|--:|--:|--:|--:|---|---|";

/// The time between two events of a stream, for the streams of a restart.
const PERIOD: Duration = Duration::from_millis(200);

/// The same for a drain, in which the reconnects matter and not the events.
const SLOW_PERIOD: Duration = Duration::from_secs(10);

/// Every other restart of an instance ends its streams over this time.
const WINDOW: Duration = Duration::from_secs(1);

/// Drains one of two instances, each of which half of the clients read over HTTP/1.1.
pub async fn drain_one(
    clients: usize,
    window: Duration,
    retry: Retry,
) -> Result<reconnects::Outcome> {
    let mut site = Site::start(window, retry, SLOW_PERIOD).await?;
    let audience = Audience::gather(clients, Version::Http1, &site.addresses());
    until("all clients read", || audience.reading() == clients).await?;
    drop(audience.take_counts());
    let start = Instant::now();
    let ended = site.stop(0).await?;
    until("all clients read", || audience.reading() == clients).await?;
    let counts = audience.take_counts();
    let reconnects = counts.reconnects.into_iter();
    Ok(reconnects::Outcome {
        ended,
        closed: counts.closed,
        reconnects: reconnects.map(|time| time - start).collect(),
        offline: counts.offline,
    })
}

/// Restarts two instances in turn, so many times in all, while the clients read.
pub async fn restart(
    clients: usize,
    restarts: usize,
    proxy: Option<Kind>,
    version: Version,
) -> Result<Outcome> {
    let mut site = Site::start(Duration::ZERO, SHORT, PERIOD).await?;
    let proxy = match proxy {
        Some(kind) => Some(Config::new(kind).start(site.addresses()).await?),
        None => None,
    };
    let addresses = match &proxy {
        Some(proxy) => vec![match version {
            Version::Http1 => proxy.http1,
            Version::Http2 => proxy.http2,
        }],
        None => site.addresses().to_vec(),
    };
    let audience = Audience::gather(clients, version, &addresses);
    let mut outcome = Outcome {
        clients,
        restarts,
        ..Outcome::default()
    };
    for number in 0..restarts {
        until("all clients read", || audience.reading() == clients).await?;
        let stopped = number % 2;
        let ended = site.stop(stopped).await?;
        // The clients behind a proxy receive the last events later than the proxy.
        until("the streams end", || audience.ends() >= ended).await?;
        site.instances[stopped].window = match site.instances[stopped].window {
            Duration::ZERO => WINDOW,
            _ => Duration::ZERO,
        };
        site.start_again(stopped).await?;
        until("all clients read", || audience.reading() == clients).await?;
        outcome.ended += ended;
        outcome.counts.add(audience.take_counts());
    }
    Ok(outcome)
}

impl Outcome {
    /// Returns `true` if every stream ended with its close event.
    pub fn is_good(&self) -> bool {
        self.ended > 0 && self.counts.lost.is_empty() && self.counts.closed == self.ended
    }

    /// Returns a row of a Markdown table.
    pub fn row(&self, path: &str, version: Version) -> String {
        let list = |causes: &std::collections::BTreeMap<String, usize>| match causes.len() {
            0 => "0".to_owned(),
            _ => causes
                .iter()
                .map(|(cause, count)| format!("{count} ({cause})"))
                .collect::<Vec<_>>()
                .join(", "),
        };
        let protocol = match version {
            Version::Http1 => "HTTP/1.1",
            Version::Http2 => "HTTP/2",
        };
        format!(
            "| {path} | {protocol} | {} | {} | {} | {} | {} | {} |",
            self.clients,
            self.restarts,
            self.ended,
            self.counts.closed,
            list(&self.counts.lost),
            list(&self.counts.refused),
        )
    }
}
