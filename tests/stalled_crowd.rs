//! A drain of a server with two thousand clients, of which some do not read and some read too slowly. A separate program,
//! because the test counts open files. On Linux, because `/proc` has them.
#![cfg(all(target_os = "linux", not(miri)))]

#[path = "stalled_clients/site.rs"]
mod site;

use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use http_body_util::BodyExt;
use testkit::{
    client::{Client, connect, connect_narrow},
    server::{VERSIONS, Version, receive},
    wait::{until, within},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::{Builder, Handle},
    task::JoinSet,
    time::sleep,
};

use self::site::{CLOSE, Site, listen};

const CLIENTS: usize = 2_000;
/// Number of clients that do not read, and of clients that read one byte a second.
const STALLED: usize = 20;
/// Clients of the first round, after which the runtime has its lasting allocations.
const WARM_UP: usize = 200;

/// Time in which the readers have to receive their close events.
const GRACE: Duration = Duration::from_secs(3);

/// Less than one allocation for each client that has been cut.
const KEPT_ALLOCATIONS: i64 = STALLED as i64;

/// Both ends of each connection are in this process, and on one thread, so that every allocation is counted.
#[test]
fn c24_two_thousand_clients_of_which_forty_stall_leave_no_files_and_no_allocations() {
    let limit = rlimit::increase_nofile_limit(3 * CLIENTS as u64).expect("a limit");
    assert!(
        limit >= 3 * CLIENTS as u64,
        "only {limit} files may be open"
    );
    for version in VERSIONS {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let connect_and_leave = |clients| {
            allocation_counter::measure(|| runtime.block_on(connect_and_leave(clients, version)))
        };
        connect_and_leave(WARM_UP);
        let files = open_files();
        let kept = connect_and_leave(CLIENTS);
        assert_eq!(open_files(), files, "{version:?}");
        println!("{version:?}: {} bytes are kept", kept.bytes_current);
        assert!(kept.count_current < KEPT_ALLOCATIONS, "{kept:?}");
    }
}

/// Serves this number of clients, and returns once no connection and no task of them is left.
async fn connect_and_leave(clients: usize, version: Version) {
    let site = Site::default();
    let (listener, address) = listen();
    let server = tokio::spawn(site.clone().serve(listener));
    let number_of_readers = clients - 2 * STALLED;
    let mut readers = JoinSet::new();
    for _ in 0..number_of_readers {
        readers.spawn(read(address, version));
    }
    let mut others = JoinSet::new();
    for _ in 0..STALLED {
        others.spawn(stall(address, version));
        others.spawn(read_slowly(address, version));
    }
    until(|| site.shutdown.open_streams() == clients).await;
    site.until_blocked().await;

    let start = Instant::now();
    let drained = within(site.shutdown.drain(GRACE)).await;
    let drain = start.elapsed();
    within(server).await.expect("no panic");
    let after = start.elapsed() - drain;
    println!("{version:?}, {clients} clients: drain {drain:.3?}, server {after:.1?} after that");
    let counts = (drained.ended(), drained.still_open());
    assert_eq!(counts, (number_of_readers, 2 * STALLED), "{version:?}");
    // On a busy machine, the connection of a client that has read everything may still be open.
    assert!(drained.connections_cut() >= 2 * STALLED, "{drained:?}");
    for response in within(readers.join_all()).await {
        assert!(response.contains(CLOSE), "{response:?}");
    }
    until(|| site.ended("dropped") == 2 * STALLED).await;
    assert_eq!(site.ended("cancelled"), number_of_readers);
    others.shutdown().await;
    // The tasks of connections that have been cut end at their next turn.
    until(|| Handle::current().metrics().num_alive_tasks() == 0).await;
}

/// Returns everything that a client has received when its stream ends.
async fn read(address: SocketAddr, version: Version) -> String {
    match version {
        Version::Http1 => {
            let mut client = get(connect(address).await, "/events").await;
            let mut received = String::new();
            let read = client.read_to_string(&mut received).await;
            read.expect("a clean end of the connection");
            received
        }
        Version::Http2 => {
            let mut client = Client::connect(address, version).await;
            receive(client.get("/events").await.into_body())
                .await
                .text()
        }
    }
}

/// Opens a flood, and does not read.
async fn stall(address: SocketAddr, version: Version) {
    let mut client = Client::connect(address, version).await;
    let _flood = client.get("/flood").await;
    client.stop_reading();
    std::future::pending::<()>().await;
}

/// Opens a flood, and reads one byte a second.
async fn read_slowly(address: SocketAddr, version: Version) {
    let second = Duration::from_secs(1);
    match version {
        Version::Http1 => {
            let mut client = get(connect_narrow(address).await, "/flood").await;
            while client.read_u8().await.is_ok() {
                sleep(second).await;
            }
        }
        Version::Http2 => {
            let mut client = Client::with_window(address, version, 1).await;
            let mut flood = client.get("/flood").await.into_body();
            while let Some(Ok(byte)) = flood.frame().await {
                assert_eq!(byte.into_data().expect("data").len(), 1);
                sleep(second).await;
            }
        }
    }
    std::future::pending::<()>().await;
}

async fn get(mut client: TcpStream, path: &str) -> TcpStream {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    client.write_all(request.as_bytes()).await.expect("room");
    client
}

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").expect("a list").count()
}
