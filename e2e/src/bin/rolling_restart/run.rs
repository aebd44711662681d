//! One run: Redis, two instances, a proxy and an audience. One instance is rolled, Redis is restarted, and the other
//! instance is killed.

use std::{
    error::Error,
    time::{Duration, Instant},
};

use e2e::{
    event_source::Version,
    process::{Process, until},
    proxy::{Config, Kind, free_address},
};
use instances::redis_server::RedisServer;
use tokio::time;

use crate::{Variant, audience::Audience, flow::Flow, instance::Instance, outcome::Outcome};

/// The time that a supervisor allows a process after SIGTERM. Kubernetes allows 30 seconds and systemd 90.
const GRACE: Duration = Duration::from_secs(4);

/// The time without a restart, before and after each.
const CALM: Duration = Duration::from_millis(1_500);

/// The time from the start of an event until most streams have sent a part of it.
const MIDDLE: Duration = Duration::from_millis(20);

/// Restarts everything but the proxy, one after the other, while all clients read.
///
/// # Errors
///
/// Fails if a process does not start, or if the clients do not return to a new instance.
pub async fn restart_all(
    clients: usize,
    proxy: Option<Kind>,
    variant: Variant,
) -> Result<Outcome, Box<dyn Error>> {
    let mut redis = RedisServer::start().await?;
    let mut flow = Flow::start(redis.url()).await?;
    let instance = async |number| {
        let instance = Instance {
            address: free_address()?,
            redis: redis.url(),
            number,
            variant,
        };
        let child = instance.start().await?;
        Ok::<_, Box<dyn Error>>((instance, child))
    };
    let (mut rolled, mut rolled_child) = instance(0).await?;
    let (mut killed, mut killed_child) = instance(1).await?;
    let addresses = [rolled.address, killed.address];
    let proxy = match proxy {
        Some(kind) => Some(Config::new(kind).start(addresses).await?),
        None => None,
    };
    let entrances = match &proxy {
        Some(proxy) => vec![proxy.address(Version::Http1)],
        None => addresses.to_vec(),
    };
    let audience = Audience::gather(clients, &entrances);
    let mut outcome = Outcome::new(variant, clients);
    calm(&audience).await?;

    // The rest of an event is sent later than its start, so most streams are inside the event.
    flow.next().await?;
    time::sleep(MIDDLE).await;
    let start = Instant::now();
    let had_to_be_killed = stop(&mut rolled_child).await?;
    outcome.stop = (start.elapsed(), had_to_be_killed);
    rolled.number = 2;
    rolled_child = rolled.start().await?;
    until("clients leave", || audience.readers(0) == 0).await?;
    calm(&audience).await?;

    flow.next().await?;
    time::sleep(MIDDLE).await;
    let ends = audience.ends();
    redis.kill().await?;
    until("streams end", || audience.ends() >= ends + clients).await?;
    redis.restart().await?;
    calm(&audience).await?;

    flow.next().await?;
    time::sleep(MIDDLE).await;
    outcome.killed = audience.readers(1);
    killed_child.kill().await?;
    killed.number = 3;
    killed_child = killed.start().await?;
    until("clients leave", || audience.readers(1) == 0).await?;
    calm(&audience).await?;

    let (last, events) = flow.end().await?;
    outcome.published = events.len();
    // A client that does not receive the last event has missed it, and is counted.
    let _ = until("the last event arrives", || audience.have_received(&last)).await;
    audience.report(&events, &mut outcome);
    drop((rolled_child, killed_child));
    Ok(outcome)
}

/// Returns after a time without a restart, for which all clients read.
async fn calm(audience: &Audience) -> Result<(), Box<dyn Error>> {
    until("clients read", || audience.all_read()).await?;
    time::sleep(CALM).await;
    Ok(until("clients read", || audience.all_read()).await?)
}

/// Sends SIGTERM, waits for the end of the process, and returns `true` if the process had to be killed.
async fn stop(instance: &mut Process) -> Result<bool, Box<dyn Error>> {
    instance.terminate().await?;
    let has_ended = instance.ends_within(GRACE).await?;
    if !has_ended {
        instance.kill().await?;
    }
    Ok(!has_ended)
}
