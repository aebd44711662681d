//! One run: two instances, a proxy and an audience, and a restart of each instance.

use std::{
    env,
    error::Error,
    net::SocketAddr,
    process::Stdio,
    sync::{PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time,
};

use super::{
    audience::Audience,
    instance::READY,
    options::{End, Instance, Options},
    outcome::{Outcome, Stop},
    progress::Progress,
    publisher::Publisher,
};
use crate::{ports::free_address, proxy::Config};

/// What a supervisor allows a process after SIGTERM. Kubernetes allows 30 seconds and systemd 90.
const GRACE: Duration = Duration::from_secs(4);

/// With nothing to do but the flow: before, between and after the restarts.
const CALM: Duration = Duration::from_millis(1_500);

/// From the start of an event to a moment when most streams have sent a part of it.
const MIDDLE: Duration = Duration::from_millis(20);

const LONG: Duration = Duration::from_secs(60);
const GLANCE: Duration = Duration::from_millis(20);

struct Stage {
    end: End,
    addresses: [SocketAddr; 2],
    publisher: Publisher,
    audience: Audience,
    progress: Progress,
}

/// Restarts both instances, one after the other, while all clients read.
///
/// # Errors
///
/// Where something does not start, or does not come to its end.
pub async fn restart_all(options: &Options, end: End) -> Result<Outcome, Box<dyn Error>> {
    let publisher = Publisher::bind(options.rate).await?;
    let addresses = [free_address()?, free_address()?];
    let mut instances = Vec::new();
    for (number, address) in addresses.into_iter().enumerate() {
        instances.push(start(address, publisher.address, number, end).await?);
    }
    let proxy = match options.proxy {
        Some(kind) => Some(Config::of(kind).start(addresses).await?),
        None => None,
    };
    let entrances = proxy
        .as_ref()
        .map_or(addresses.to_vec(), |proxy| vec![proxy.http1]);
    let mut stage = Stage {
        end,
        addresses,
        publisher,
        audience: Audience::gather(options.clients, &entrances),
        progress: Progress::new(options.clients),
    };

    stage
        .until("clients arrive", |stage| stage.all_read())
        .await?;
    stage.publisher.start();
    stage.pause("a steady flow").await;
    let mut stops = Vec::new();
    for (number, instance) in instances.iter_mut().enumerate() {
        stops.push(stage.restart(number, instance).await?);
        stage.pause("a steady flow").await;
    }
    let published = stage.publisher.stop();
    // Whoever does not get there has missed the rest.
    let _ = stage
        .until("the last event", |stage| {
            stage.audience.arrived_at(published) == options.clients
        })
        .await;
    Ok(stage.outcome(options.clients, published, stops))
}

impl Stage {
    /// Replaces an instance by another one at the same address.
    async fn restart(
        &mut self,
        number: usize,
        instance: &mut Child,
    ) -> Result<Stop, Box<dyn Error>> {
        let phase = ["instance A restarts", "instance B restarts"][number];
        // The rest of this event lags behind, so that most streams are in the middle of it.
        self.publisher.next().await;
        time::sleep(MIDDLE).await;
        let at = self.audience.log().start.elapsed();
        let stopping = Instant::now();
        terminate(instance).await?;
        let mut killed = false;
        while instance.try_wait()?.is_none() {
            if stopping.elapsed() > GRACE && !killed {
                instance.start_kill()?;
                killed = true;
            }
            self.glance(phase).await;
        }
        let took = stopping.elapsed();
        let address = self.addresses[number];
        *instance = start(address, self.publisher.address, number + 2, self.end).await?;
        self.until(phase, |stage| {
            stage.audience.reading_from(number) == 0 && stage.all_read()
        })
        .await?;
        Ok(Stop { at, took, killed })
    }

    fn all_read(&self) -> bool {
        self.audience.reading()
            == self.audience.clients() - self.audience.log().given_up.load(Ordering::SeqCst)
    }

    async fn until(
        &mut self,
        phase: &str,
        condition: impl Fn(&Self) -> bool,
    ) -> Result<(), String> {
        let started = Instant::now();
        while !condition(self) {
            if started.elapsed() > LONG {
                return Err(format!("{phase}: it takes more than {} s", LONG.as_secs()));
            }
            self.glance(phase).await;
        }
        Ok(())
    }

    async fn pause(&mut self, phase: &str) {
        let started = Instant::now();
        while started.elapsed() < CALM {
            self.glance(phase).await;
        }
    }

    async fn glance(&mut self, phase: &str) {
        self.progress
            .show(phase, &self.audience, self.publisher.published());
        time::sleep(GLANCE).await;
    }

    fn outcome(mut self, clients: usize, published: u64, stops: Vec<Stop>) -> Outcome {
        self.progress.finish();
        let log = self.audience.log();
        let count = |counter: &std::sync::atomic::AtomicUsize| counter.load(Ordering::SeqCst);
        let mut findings = self.audience.findings();
        findings.missed = self.audience.missed(published);
        Outcome {
            end: self.end,
            clients,
            published,
            findings,
            clean_ends: count(&log.clean_ends),
            cuts: count(&log.cuts),
            unreachable: count(&log.unreachable),
            given_up: count(&log.given_up),
            stops,
            reconnects: log
                .reconnects
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
            length: log.start.elapsed(),
        }
    }
}

/// Starts an instance as a process, and waits until it takes connections.
async fn start(
    address: SocketAddr,
    publisher: SocketAddr,
    number: usize,
    end: End,
) -> Result<Child, Box<dyn Error>> {
    let instance = Instance {
        address,
        publisher,
        number,
        end,
    };
    let mut child = Command::new(env::current_exe()?)
        .args(instance.arguments())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let stdout = child.stdout.take().ok_or("no output")?;
    let line = time::timeout(LONG, BufReader::new(stdout).lines().next_line()).await??;
    match line.as_deref() {
        Some(READY) => Ok(child),
        _ => Err(format!("instance {number} does not start").into()),
    }
}

async fn terminate(instance: &Child) -> Result<(), Box<dyn Error>> {
    let process = instance.id().ok_or("an instance has gone by itself")?;
    // `kill` is a builtin of every shell, while the program may not be there.
    let kill = format!("kill -TERM {process}");
    let killed = Command::new("/bin/sh").args(["-c", &kill]).status().await?;
    if !killed.success() {
        return Err("an instance has gone by itself".into());
    }
    Ok(())
}
