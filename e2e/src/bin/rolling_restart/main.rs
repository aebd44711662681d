//! Two servers and Redis are restarted, one after the other, while many clients read.
//!
//! ```text
//! rolling_restart [CLIENTS [PROXY [without-layer]]]
//! ```
//!
//! It prints a table of what the clients received, and fails if a client has missed an event, received one twice or
//! received a torn one.

mod audience;
mod audit;
mod flow;
mod instance;
mod outcome;
mod run;

use std::{env, error::Error, process::ExitCode, time::Duration};

use e2e::{process::allow_files, proxy::Kind};

use self::{instance::Instance, outcome::print_table};

/// The way in which the instances of one run end their streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variant {
    /// The layer, with one reconnection time for all clients.
    Fixed,
    /// The layer, with a random reconnection time for each stream.
    Spread,
    /// No close event: the streams stay open until the process is killed.
    Killed,
    /// A close event that the handler appends to its stream.
    HandWritten,
}

const VARIANTS: [(&str, Variant); 4] = [
    ("retry of 3 s for all", Variant::Fixed),
    ("retry_between 1 s and 5 s", Variant::Spread),
    ("no close event", Variant::Killed),
    ("hand-written close event", Variant::HandWritten),
];

const FIXED: Duration = Duration::from_secs(3);
const SPREAD: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

const USAGE: &str = "usage: rolling_restart [CLIENTS [haproxy|nginx|caddy|none [without-layer]]]";

/// Each client takes one file, and two of the proxy.
const FILES_PER_CLIENT: u64 = 3;
const OTHER_FILES: u64 = 1_000;

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let Some(instance) = Instance::parse(&arguments) {
        instance?.serve().await?;
        return Ok(ExitCode::SUCCESS);
    }
    let (clients, proxy, variants) = match arguments[..] {
        [] => ("200", "haproxy", &VARIANTS[..2]),
        [clients] => (clients, "haproxy", &VARIANTS[..2]),
        [clients, proxy] => (clients, proxy, &VARIANTS[..2]),
        [clients, proxy, "without-layer"] => (clients, proxy, &VARIANTS[2..]),
        _ => return Err(USAGE.into()),
    };
    let clients = clients.parse().map_err(|_| USAGE)?;
    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == proxy);
    if kind.is_none() && proxy != "none" {
        return Err(USAGE.into());
    }
    allow_files(OTHER_FILES + FILES_PER_CLIENT * clients as u64)?;

    println!("{clients} clients, proxy: {proxy}, 2 instances");
    let mut outcomes = Vec::new();
    for (title, variant) in variants {
        println!("{title}");
        outcomes.push(run::restart_all(clients, kind, *variant).await?);
    }
    print_table(&outcomes);
    Ok(match outcomes.iter().all(|outcome| outcome.is_good()) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

impl Variant {
    fn title(self) -> &'static str {
        VARIANTS[self as usize].0
    }

    fn has_layer(self) -> bool {
        matches!(self, Self::Fixed | Self::Spread)
    }
}
