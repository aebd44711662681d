//! Many streams for a long time: clients connect and leave, and the server is drained and restarted within the process.
//!
//! ```text
//! soak --minutes N [--streams N]
//! ```
//!
//! It fails if a stream is not reported exactly once, if a client receives a torn event or an end that its stream does not
//! have, if an unexpected warning is logged, or if descriptors, tasks, streams or memory remain after a server.
//!
//! Both ends of all connections are on one thread, so that every allocation is counted. A timer belongs to the body of a
//! stream, so a timer that remains is an allocation that remains.

mod clients;
mod findings;
mod resources;
mod site;
mod streams;

use std::{
    error::Error,
    net::SocketAddr,
    process::ExitCode,
    time::{Duration, Instant},
};

use e2e::process::allow_files;
use testkit::{observed::Logged, wait::until};
use tokio::runtime::{Builder, Handle, Runtime};

use self::{
    clients::Clients,
    findings::{Findings, Life},
    resources::memory,
    site::Site,
};

/// The reason why a run fails.
pub type Failure = Box<dyn Error + Send + Sync>;

const USAGE: &str = "usage: soak --minutes N [--streams N]";

/// Time from the start of a server to the end of its drain, unless the run is short.
const LIFE: Duration = Duration::from_secs(5 * 60);

/// Minimum number of servers that are measured. One more server precedes them, so that the runtime and the allocator have
/// their lasting allocations.
const LIVES: u32 = 3;

/// Number of clients that leave in each second, and join, unless there are few clients.
const CHURN: usize = 100;

/// Minimum mean of the seconds until a client leaves. Streams have to become idle before that.
const MIN_STAY: f64 = 20.0;

/// Time in which streams may finish when the server is drained.
const GRACE: Duration = Duration::from_secs(10);

/// Time between two checks of the clock.
const TICK: Duration = Duration::from_millis(100);

/// Descriptors of both ends of each connection, and others.
const FILES_PER_STREAM: usize = 2;
const OTHER_FILES: usize = 1_000;

#[derive(Debug)]
struct Arguments {
    minutes: u32,
    streams: usize,
}

fn main() -> Result<ExitCode, Failure> {
    let arguments = Arguments::parse().ok_or(USAGE)?;
    let streams = arguments.streams;
    allow_files((FILES_PER_STREAM * streams + OTHER_FILES) as u64)?;
    let logged = Logged::default();
    tracing::subscriber::set_global_default(logged.clone())?;
    let runtime = Builder::new_current_thread().enable_all().build()?;

    let minutes = Duration::from_secs(60 * u64::from(arguments.minutes));
    let lives = LIVES.max((minutes.as_secs() / LIFE.as_secs()) as u32);
    let mut findings = Findings::default();
    let mut address = SocketAddr::from(([127, 0, 0, 1], 0));
    for number in 0..=lives {
        // The first server warms up. Its clients leave as soon as all have connected.
        let length = if number == 0 {
            Duration::ZERO
        } else {
            minutes / lives
        };
        let mut life = Ok(Life::default());
        let kept = allocation_counter::measure(|| {
            life = live(&runtime, &mut address, streams, length);
        });
        findings.add(number, life?, kept.count_current)?;
    }
    let failures = findings.finish(&logged);
    for failure in &failures {
        eprintln!("{failure}");
    }
    Ok(match failures[..] {
        [] => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// Runs a server, with this number of clients for this time, until its tasks and streams have ended.
fn live(
    runtime: &Runtime,
    address: &mut SocketAddr,
    streams: usize,
    length: Duration,
) -> Result<Life, Failure> {
    runtime.block_on(async {
        let (site, bound) = Site::start(*address)?;
        *address = bound;
        let (shutdown, account) = (site.shutdown.clone(), site.account.clone());
        let stay = MIN_STAY.max(streams as f64 / CHURN as f64);
        let mut clients = Clients::new(bound, stay);
        let start = Instant::now();
        let mut peak = 0;
        while clients.opened() < streams || start.elapsed() < length {
            clients.keep(streams, TICK).await?;
            peak = peak.max(memory()?);
        }

        let draining = Instant::now();
        let drained = shutdown.drain(GRACE);
        let (drained, ended) = tokio::join!(drained, site.ended());
        ended?;
        let drain = draining.elapsed();
        clients.finish().await?;
        // Connections that have been cut end at their next turn.
        until(|| Handle::current().metrics().num_alive_tasks() == 0).await;
        let left = (
            shutdown.open_streams(),
            account.open(),
            account.misreported(),
        );
        if left != (0, 0, 0) {
            return Err(format!("(open, not freed, not reported once): {left:?}").into());
        }
        Ok(Life {
            endings: account.endings(),
            ends: clients.ends,
            connections_cut: drained.connections_cut(),
            drain,
            peak,
        })
    })
}

impl Arguments {
    fn parse() -> Option<Self> {
        let mut parsed = Self {
            minutes: 0,
            streams: 5_000,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let value = arguments.next()?;
            match name.as_str() {
                "--minutes" => parsed.minutes = value.parse().ok()?,
                "--streams" => parsed.streams = value.parse().ok()?,
                _ => return None,
            }
        }
        (parsed.minutes > 0).then_some(parsed)
    }
}
