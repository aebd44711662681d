//! Restarts two servers one after the other while many clients read, and tells what the clients got.

use std::{env, error::Error, io, process::ExitCode};

use e2e::rolling_restart::{Command, Options, print, restart_all, serve};
use tokio::signal::unix::{SignalKind, signal};

/// Each client takes two of the proxy, and one of its own.
const FILES_PER_CLIENT: u64 = 3;
const FILES: u64 = 1_000;

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    match Command::parse(env::args().skip(1)) {
        Ok(Command::RollingRestart(options)) => tokio::select! {
            // The processes that it has started end with it.
            _ = stop_signal() => Ok(ExitCode::FAILURE),
            exit = run(options) => exit,
        },
        Ok(Command::Instance(instance)) => {
            serve(instance).await?;
            Ok(ExitCode::SUCCESS)
        }
        Err(usage) => {
            eprintln!("{usage}");
            Ok(ExitCode::from(2))
        }
    }
}

async fn run(options: Options) -> Result<ExitCode, Box<dyn Error>> {
    let files = FILES + FILES_PER_CLIENT * options.clients as u64;
    let limit = rlimit::increase_nofile_limit(files)?;
    if limit < files {
        return Err(format!("only {limit} files may be open, {files} are needed").into());
    }
    let proxy = options.proxy.map_or("no proxy", |proxy| proxy.name());
    println!(
        "{} clients, {proxy}, 2 instances, {} events per second",
        options.clients, options.rate
    );
    let mut outcomes = Vec::new();
    for end in options.ends() {
        println!("\n{}", end.title());
        outcomes.push(restart_all(&options, end).await?);
    }
    print(&outcomes);
    match outcomes.iter().all(|outcome| outcome.is_good()) {
        true => Ok(ExitCode::SUCCESS),
        false => Ok(ExitCode::FAILURE),
    }
}

/// Ctrl-C or SIGTERM.
async fn stop_signal() -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
