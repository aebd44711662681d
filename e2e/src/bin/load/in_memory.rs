//! A round in memory: a process that is both the server and its clients, for more streams than the system has ports.

use std::{
    process,
    time::{Duration, SystemTime},
};

use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, server::graceful::GracefulShutdown, service::TowerToHyperService};
use tokio::{io::duplex, task::JoinSet, time::timeout};
use tower_sse_completion::Shutdown;

use crate::{
    BOUND, Result,
    clients::{Ready, ends},
    measure::{Round, resident},
    server::app,
    tcp::Process,
};

/// More than one event.
const PIPE: usize = 1024;

pub async fn round(layer: &str, streams: usize) -> Result<Round> {
    let mut process = Process::start(&["in-memory", layer, &streams.to_string()])?;
    process.line().await?.parse()
}

/// Prints the round.
pub async fn run(layer: bool, streams: usize) -> Result<()> {
    let (shutdown, graceful, ready) = (Shutdown::new(), GracefulShutdown::new(), Ready::default());
    let (mut clients, mut connections) = (Vec::new(), JoinSet::new());
    let service = TowerToHyperService::new(app(layer, &shutdown));
    let empty = resident(process::id())?;
    for _ in 0..streams {
        let (client, server) = duplex(PIPE);
        let connection =
            http1::Builder::new().serve_connection(TokioIo::new(server), service.clone());
        let connection = graceful.watch(connection);
        connections.spawn(async {
            // An error is how a connection ends that was cut; its client tells of it.
            let _ = connection.await;
        });
        clients.push(ready.client(client));
    }
    ready.all(streams).await?;
    let full = resident(process::id())?;

    let start = SystemTime::now();
    let drain = async { tokio::join!(shutdown.drain(Duration::ZERO), graceful.shutdown()) };
    let exit = timeout(BOUND, drain).await.ok().map(|_| SystemTime::now());
    // Cuts those that are left.
    connections.shutdown().await;
    let ends = ends(clients).await?;
    println!(
        "{}",
        Round::new(ends, start, exit, full.saturating_sub(empty))
    );
    Ok(())
}
