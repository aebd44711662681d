//! What the clients of a server see when it is restarted.
//!
//! ```text
//! calm_restart simulation CLIENTS WINDOW
//! calm_restart drain CLIENTS WINDOW
//! calm_restart restarts CLIENTS RESTARTS [direct|nginx|haproxy|caddy]
//! ```
//!
//! - `simulation`: the streams of one instance end on tokio's paused clock, all at once and over a window of so many seconds.
//! - `drain`: one of two instances is drained, all at once and over the window, while the clients read over HTTP/1.1.
//! - `restarts`: two instances are restarted in turn while the clients read, over HTTP/1.1 and HTTP/2, directly and behind
//!   proxies.
//!
//! Each prints a Markdown table. The program fails if a stream ends without its close event, if a client does not return, or if
//! the streams of a simulation do not end evenly.

mod audience;
mod instance;
mod reconnects;
mod restarts;
mod simulation;
mod site;

use std::{env, error::Error, process::ExitCode, time::Duration};

use e2e::proxy::Kind;

use self::{instance::Instance, reconnects::HEAD, site::Retry};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "usage: calm_restart simulation CLIENTS SECONDS | drain CLIENTS SECONDS | \
                     restarts CLIENTS RESTARTS [direct|nginx|haproxy|caddy]";

/// Reconnection times of streams that all end at once.
const RANGE: Retry = [Duration::from_secs(1), Duration::from_secs(5)];

/// Reconnection time of streams that end over a window.
const SHORT: Retry = [Duration::from_millis(100); 2];

/// Maximum peak of a simulated drain, as a multiple of that of even reconnects.
const MAX_PEAK: f64 = 1.2;

/// Files besides those of the clients.
const OTHER_FILES: u64 = 1_000;

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse().map_err(|_| USAGE);
    let is_good = match arguments[..] {
        ["instance", ..] => {
            run(Instance::parse(&arguments[1..])?.serve())?;
            true
        }
        ["simulation", clients, seconds] => {
            let window = Duration::from_secs(number(seconds)?);
            compare(window, |window, retry| {
                let outcome = simulation::run(number(clients)? as usize, window, retry)?;
                // Nothing but the layer decides when the simulated streams end.
                match !window.is_zero() && outcome.peak_over_even(window, retry) > MAX_PEAK {
                    true => Err("the streams do not end evenly".into()),
                    false => Ok(outcome),
                }
            })?
        }
        ["drain", clients, seconds] => {
            allow_files(number(clients)?)?;
            let window = Duration::from_secs(number(seconds)?);
            compare(window, |window, retry| {
                run(restarts::drain_one(
                    number(clients)? as usize,
                    window,
                    retry,
                ))
            })?
        }
        ["restarts", clients, count, ref paths @ ..] if paths.len() <= 1 => {
            allow_files(number(clients)?)?;
            let all = ["direct", "nginx", "haproxy", "caddy"];
            let paths = if paths.is_empty() { &all[..] } else { paths };
            run(compare_paths(
                number(clients)? as usize,
                number(count)? as usize,
                paths,
            ))?
        }
        _ => return Err(USAGE.into()),
    };
    Ok(match is_good {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Measures streams that end all at once, and streams that end over the window. Returns `true` if both are good.
fn compare(
    window: Duration,
    measure: impl Fn(Duration, Retry) -> Result<reconnects::Outcome>,
) -> Result<bool> {
    println!("{HEAD}");
    let mut is_good = true;
    for (window, retry) in [(Duration::ZERO, RANGE), (window, SHORT)] {
        let outcome = measure(window, retry)?;
        println!("{}", outcome.row(window, retry));
        is_good &= outcome.is_good();
    }
    Ok(is_good)
}

async fn compare_paths(clients: usize, count: usize, paths: &[&str]) -> Result<bool> {
    println!("{}", restarts::HEAD);
    let mut is_good = true;
    for path in paths {
        let proxy = Kind::ALL.into_iter().find(|kind| kind.name() == *path);
        if proxy.is_none() && *path != "direct" {
            return Err(USAGE.into());
        }
        for version in restarts::VERSIONS {
            let outcome = restarts::restart(clients, count, proxy, version).await?;
            println!("{}", outcome.row(path, version));
            is_good &= outcome.is_good();
        }
    }
    Ok(is_good)
}

/// Runs the future on all processors.
fn run<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Runtime::new()?.block_on(future)
}

/// Raises the limit of open files for these clients.
fn allow_files(clients: u64) -> Result<()> {
    let files = OTHER_FILES + clients;
    match rlimit::increase_nofile_limit(files)? >= files {
        true => Ok(()),
        false => Err(format!("{files} files have to be open").into()),
    }
}
