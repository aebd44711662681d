//! Many open streams and one drain, with the layer and without it, in turns.
//!
//! ```text
//! load [--streams N] [--in-memory N]
//! ```
//!
//! Over TCP the server and its clients are two processes, which this one starts; in memory both are one. They end when
//! their input does. It prints a table in Markdown.

mod clients;
mod in_memory;
mod measure;
mod server;
mod tcp;

use std::{env, error::Error, io, thread, time::Duration};

use crate::measure::{Round, heading, row};

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Medians are over so many rounds of each kind.
const ROUNDS: usize = 3;

/// Longer than anything takes, on the busiest machine.
pub const LONG: Duration = Duration::from_secs(120);

/// How long to wait for a drain that does not end.
pub const WITHOUT_LAYER: Duration = Duration::from_secs(3);

const NOTES: &str = "Times and memory are medians of three rounds, with and without the layer in turns. The memory of \
TCP is what the server's resident memory has grown by; in memory it is what both ends of a stream have allocated.";

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["server", layer, streams] => {
            end_with_input();
            server::run(layer == "with", streams.parse()?).await
        }
        ["clients", address, streams] => {
            end_with_input();
            clients::run(address.parse()?, streams.parse()?).await
        }
        ["in-memory", layer, streams] => {
            end_with_input();
            in_memory::run(layer == "with", streams.parse()?).await
        }
        _ => compare(&arguments).await,
    }
}

async fn compare(arguments: &[&str]) -> Result<()> {
    let (mut over_tcp, mut in_memory) = (10_000, 50_000);
    for option in arguments.chunks(2) {
        match option {
            ["--streams", number] => over_tcp = number.parse()?,
            ["--in-memory", number] => in_memory = number.parse()?,
            _ => return Err("usage: load [--streams N] [--in-memory N]".into()),
        }
    }
    println!("{}", heading());
    let mut lacking = 0;
    for (transport, streams) in [("TCP", over_tcp), ("in memory", in_memory)] {
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            with.push(round(transport, true, streams).await?);
            without.push(round(transport, false, streams).await?);
        }
        println!("{}", row(transport, "with", streams, &with));
        println!("{}", row(transport, "without", streams, &without));
        lacking += with
            .iter()
            .map(|round| streams - round.closed)
            .sum::<usize>();
    }
    println!("\n{NOTES}");
    match lacking {
        0 => Ok(()),
        _ => Err(format!("{lacking} streams had no close event, or no clean end").into()),
    }
}

async fn round(transport: &str, layer: bool, streams: usize) -> Result<Round> {
    let layer = if layer { "with" } else { "without" };
    match transport {
        "TCP" => tcp::round(layer, streams).await,
        _ => in_memory::round(layer, streams).await,
    }
}

/// Ends this process when the one that started it is gone.
fn end_with_input() {
    thread::spawn(|| {
        // Nothing comes, but the end.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(1);
    });
}
