//! Two instances are restarted in turn while clients read, over HTTP/1.1 and HTTP/2, directly and behind proxies.
//!
//! ```text
//! calm_restart CLIENTS RESTARTS [direct|nginx|haproxy|caddy]
//! ```
//!
//! It prints a Markdown table, and fails if a stream does not end cleanly after its close event, or if a client does not return.

mod audience;
mod instance;
mod restarts;

use std::{env, error::Error, process::ExitCode};

use e2e::{event_source::Version, process::allow_files, proxy::Kind};

use self::instance::Instance;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "usage: calm_restart CLIENTS RESTARTS [direct|nginx|haproxy|caddy]";

const PATHS: [&str; 4] = ["direct", "nginx", "haproxy", "caddy"];

/// Files besides those of the clients.
const OTHER_FILES: u64 = 1_000;

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (clients, count, paths) = match arguments[..] {
        ["instance", address, window] => {
            Instance::parse(address, window)?.serve().await?;
            return Ok(ExitCode::SUCCESS);
        }
        [clients, count] => (clients, count, &PATHS[..]),
        [clients, count, _] => (clients, count, &arguments[2..]),
        _ => return Err(USAGE.into()),
    };
    let number = |text: &str| text.parse::<usize>().map_err(|_| USAGE);
    let (clients, count) = (number(clients)?, number(count)?);
    allow_files(OTHER_FILES + clients as u64)?;

    println!("{}", restarts::HEAD);
    let mut is_good = true;
    for path in paths {
        let proxy = Kind::ALL.into_iter().find(|kind| kind.name() == *path);
        if proxy.is_none() && *path != "direct" {
            return Err(USAGE.into());
        }
        for version in [Version::Http1, Version::Http2] {
            let outcome = restarts::restart(clients, count, proxy, version).await?;
            println!("{}", outcome.row(path, version));
            is_good &= outcome.is_good();
        }
    }
    Ok(match is_good {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
