//! One run: two instances, a proxy, an audience, and a restart of each instance.

use std::{
    error::Error,
    time::{Duration, Instant},
};

use e2e::proxy::{Config, Kind, free_address};
use tokio::{
    process::{Child, Command},
    time,
};

use crate::{Variant, audience::Audience, flow::Flow, instance::Instance, outcome::Outcome};

/// The time that a supervisor allows a process after SIGTERM. Kubernetes allows 30 seconds and systemd 90.
const GRACE: Duration = Duration::from_secs(4);

/// The time without a restart, before and after each restart.
const CALM: Duration = Duration::from_millis(1_500);

/// The time from the start of an event until most streams have sent a part of it.
const MIDDLE: Duration = Duration::from_millis(20);

const LONG: Duration = Duration::from_secs(60);

/// Restarts both instances, one after the other, while all clients read.
///
/// # Errors
///
/// Fails if a process does not start, or if the clients do not return to a new instance.
pub async fn restart_all(
    clients: usize,
    proxy: Option<Kind>,
    variant: Variant,
) -> Result<Outcome, Box<dyn Error>> {
    let flow = Flow::start();
    let mut instances = Vec::new();
    for number in 0..2 {
        let instance = Instance {
            address: free_address()?,
            flow,
            number,
            variant,
        };
        instances.push((instance, instance.start().await?));
    }
    let addresses = [instances[0].0.address, instances[1].0.address];
    let proxy = match proxy {
        Some(kind) => Some(Config::of(kind).start(addresses).await?),
        None => None,
    };
    let entrances = match &proxy {
        Some(proxy) => vec![proxy.http1],
        None => addresses.to_vec(),
    };
    let audience = Audience::gather(clients, &entrances);

    until("clients arrive", || audience.all_read()).await?;
    time::sleep(CALM).await;
    let mut outcome = Outcome::new(variant, clients);
    for (instance, child) in &mut instances {
        let stopped = instance.number;
        // The rest of an event is sent later than its start, so most streams are inside the event.
        flow.reach(flow.newest() + 1).await;
        time::sleep(MIDDLE).await;
        let start = Instant::now();
        let killed = stop(child).await?;
        outcome.stops.push((start.elapsed(), killed));
        instance.number += 2;
        *child = instance.start().await?;
        until("clients return", || {
            !audience.is_read(stopped) && audience.all_read()
        })
        .await?;
        time::sleep(CALM).await;
    }
    outcome.published = flow.newest();
    // A client that does not receive the last event has missed it, and is counted.
    let _ = until("the last event arrives", || {
        audience.have_received(outcome.published)
    })
    .await;
    audience.report(&mut outcome);
    Ok(outcome)
}

/// Sends SIGTERM, waits for the end of the process, and returns `true` if it had to be killed.
async fn stop(instance: &mut Child) -> Result<bool, Box<dyn Error>> {
    let id = instance.id().ok_or("the instance has ended")?;
    // `kill` is a builtin of every shell.
    let kill = format!("kill -TERM {id}");
    let signalled = Command::new("sh").args(["-c", &kill]).status().await?;
    if !signalled.success() {
        return Err("the instance has ended".into());
    }
    match time::timeout(GRACE, instance.wait()).await {
        Ok(ended) => ended.map(|_| false).map_err(Into::into),
        Err(_) => {
            instance.kill().await?;
            Ok(true)
        }
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) -> Result<(), String> {
    let wait = async {
        while !condition() {
            time::sleep(Duration::from_millis(20)).await;
        }
    };
    time::timeout(LONG, wait)
        .await
        .map_err(|_| format!("waited in vain until {what}"))
}
