//! Instances that are restarted while clients read.

use std::time::Duration;

use e2e::{
    event_source::Version,
    process::until,
    proxy::{Config, Kind, free_address},
};

use crate::{
    Result,
    audience::Audience,
    instance::{Instance, stop},
};

/// The result of restarts.
#[derive(Debug)]
pub struct Outcome {
    clients: usize,
    restarts: usize,
    /// The number of streams that drains ended, as reported by the instances.
    ended: usize,
    closed: usize,
    lost: usize,
    refused: usize,
}

/// The head of the table of [`Outcome::row`].
pub const HEAD: &str = "\
| path | protocol | clients | restarts | streams ended | close events | lost | refused requests |\n\
|---|---|--:|--:|--:|--:|--:|--:|";

/// Every other restart of an instance ends its streams over this time.
const WINDOW: Duration = Duration::from_secs(1);

/// Restarts two instances in turn, this many times in all, while the clients read.
pub async fn restart(
    clients: usize,
    restarts: usize,
    proxy: Option<Kind>,
    version: Version,
) -> Result<Outcome> {
    let mut instances = Vec::new();
    for address in [free_address()?, free_address()?] {
        let window = Duration::ZERO;
        let instance = Instance { address, window };
        instances.push((instance, instance.start().await?));
    }
    let addresses = [instances[0].0.address, instances[1].0.address];
    let proxy = match proxy {
        Some(kind) => Some(Config::new(kind).start(addresses).await?),
        None => None,
    };
    let entrances = match &proxy {
        Some(proxy) => vec![proxy.address(version)],
        None => addresses.to_vec(),
    };
    let audience = Audience::gather(clients, version, &entrances);
    let mut ended = 0;
    for number in 0..restarts {
        until("all clients read", || audience.reading() == clients).await?;
        let (instance, process) = &mut instances[number % 2];
        ended += stop(process).await?;
        // The clients behind a proxy receive the last events later than the proxy.
        until("the streams end", || {
            audience.closed() + audience.lost() >= ended
        })
        .await?;
        instance.window = WINDOW.saturating_sub(instance.window);
        *process = instance.start().await?;
    }
    until("all clients read", || audience.reading() == clients).await?;
    Ok(Outcome {
        clients,
        restarts,
        ended,
        closed: audience.closed(),
        lost: audience.lost(),
        refused: audience.refused(),
    })
}

impl Outcome {
    /// Returns `true` if every stream ended cleanly after its close event.
    pub fn is_good(&self) -> bool {
        self.ended > 0 && self.lost == 0 && self.closed == self.ended
    }

    /// Returns a row of a Markdown table.
    pub fn row(&self, path: &str, version: Version) -> String {
        let protocol = match version {
            Version::Http1 => "HTTP/1.1",
            Version::Http2 => "HTTP/2",
        };
        format!(
            "| {path} | {protocol} | {} | {} | {} | {} | {} | {} |",
            self.clients, self.restarts, self.ended, self.closed, self.lost, self.refused,
        )
    }
}
