//! A round in memory: a process that is both the server and its clients, for more streams than the system has ports.

use std::{
    thread,
    time::{Duration, SystemTime},
};

use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, server::graceful::GracefulShutdown, service::TowerToHyperService};
use tokio::{io::duplex, runtime::Builder, task::JoinSet, time::timeout};
use tower_sse_completion::Shutdown;

use crate::{
    LONG, Result, WITHOUT_LAYER,
    clients::{Client, Ready, ends},
    measure::Round,
    server::app,
    tcp::Process,
};

struct Streams {
    shutdown: Shutdown,
    graceful: GracefulShutdown,
    connections: JoinSet<()>,
    clients: Vec<Client>,
}

/// More than one event.
const PIPE: usize = 1024;

pub async fn round(layer: &str, streams: usize) -> Result<Round> {
    let mut process = Process::start(&["in-memory", layer, &streams.to_string()])?;
    process.line().await?.parse()
}

/// Prints the round.
pub async fn run(layer: bool, streams: usize) -> Result<()> {
    // Allocations are counted for each thread, so those of a runtime that has only one are all that there are.
    let allocated =
        thread::spawn(move || allocated(layer, streams).map_err(|error| error.to_string()));
    let allocated = allocated.join().map_err(|_| "a panic")??;

    let Streams {
        shutdown,
        graceful,
        mut connections,
        clients,
    } = open(layer, streams).await?;
    let start = SystemTime::now();
    let drain = async { tokio::join!(shutdown.drain(Duration::ZERO), graceful.shutdown()) };
    let bound = if layer { LONG } else { WITHOUT_LAYER };
    let exit = timeout(bound, drain).await.ok().map(|_| SystemTime::now());
    // Cuts those that are left.
    connections.shutdown().await;
    let ends = ends(clients).await?;
    println!("{}", Round::new(ends, start, exit, allocated));
    Ok(())
}

/// What open streams have allocated, at both of their ends.
fn allocated(layer: bool, streams: usize) -> Result<u64> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let mut opened = None;
    let allocated = allocation_counter::measure(|| {
        opened = Some(runtime.block_on(open(layer, streams)));
    });
    opened.ok_or("nothing was measured")??;
    Ok(allocated.bytes_current.try_into()?)
}

/// Returns when all clients have their events.
async fn open(layer: bool, streams: usize) -> Result<Streams> {
    let (shutdown, graceful, ready) = (Shutdown::new(), GracefulShutdown::new(), Ready::default());
    let (mut connections, mut clients) = (JoinSet::new(), Vec::with_capacity(streams));
    let service = TowerToHyperService::new(app(layer, &shutdown));
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
    Ok(Streams {
        shutdown,
        graceful,
        connections,
        clients,
    })
}
