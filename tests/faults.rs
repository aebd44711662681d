//! Clients that leave at the worst moment, over loopback sockets: the server keeps no state of them, and each stream is
//! reported once.
//!
//! On Linux, because the tests depend on the sizes of its socket buffers, on how it resets a socket that is dropped, and on the
//! allocations of tokio's driver there.
#![cfg(all(target_os = "linux", not(miri)))]

use std::time::Duration;

use allocation_counter::AllocationInfo;
use axum::body::Body;
use futures_util::future::join_all;
use hyper::body::Incoming;
use testkit::{
    client::{Client, connect, connect_narrow},
    exchange::CLOSE,
    observed::{Logged, Observed, Tally, panics},
    script::{AfterScript, Script, data},
    server::{VERSIONS, Version, next_data, receive},
    wait::within,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::{Builder, Runtime},
    task::yield_now,
    time::sleep,
};
use tower_sse_completion::{Shutdown, SseCompletionLayer};
use tracing::{Level, subscriber::DefaultGuard};

/// Number of clients at a time for each version, and number of rounds: the first warms up, the second is measured.
const CLIENTS: usize = 32;
const ROUNDS: usize = 2;

/// Above the allocations that the runtime and the server retain, and below one allocation for each client.
const KEPT_ALLOCATIONS: i64 = 20;
const KEPT_BYTES: i64 = 16 * 1024;

const LARGE: usize = 256 * 1024;
const FLOOD: usize = 4 * 1024;

const FIRST: &[u8] = b"data: 1\n\n";
/// 16 bytes, which is `10` as the size of a chunk.
const DROPS: &str = "data: 90123456\n\n";

const DROPPED: (&str, bool) = ("dropped", false);
const CANCELLED: (&str, bool) = ("cancelled", true);
const EMPTY: (&str, bool) = ("empty", true);

#[test]
fn reset_before_the_request_ends_leaves_nothing() {
    let reports = assert_clean_rounds(&VERSIONS, async |site, version| {
        let request = match version {
            Version::Http1 => &b"GET /half HTTP/1.1\r\nhost: localhost\r\naccept: */*\r\n\r\n"[..],
            // The preface, SETTINGS, and the HEADERS of `GET /`.
            Version::Http2 => {
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x03\x01\x05\0\0\0\x01\x82\x84\x86"
            }
        };
        for length in 0..request.len() {
            let mut client = connect(site.server.address).await;
            let written = client.write_all(&request[..length]).await;
            written.expect("room in the socket");
        }
        site.server.until_accepted(request.len()).await;
    });
    assert_eq!(reports, Tally::new(), "there was no stream");
}

#[test]
fn reset_within_the_body_of_the_request_leaves_nothing() {
    let reports = assert_clean_rounds(&VERSIONS, async |site, version| {
        drop(open_with_unfinished_request(site, version).await);
        match version {
            // hyper reads no body that the handler does not read, and detects the reset when it writes.
            Version::Http1 => site.shutdown.close(),
            Version::Http2 => site.server.until_open(0).await,
        }
    });
    let each = ROUNDS * CLIENTS;
    assert_eq!(reports, [(CANCELLED, each), (DROPPED, each)].into());
}

#[test]
fn keep_alive_detects_a_reset_within_the_body_of_the_request() {
    let layer = SseCompletionLayer::new().keep_alive(Duration::from_millis(20));
    let reports = assert_clean_rounds_of_layer(&VERSIONS, layer, false, async |site, version| {
        drop(open_with_unfinished_request(site, version).await);
    });
    assert_eq!(reports, expected_tally(DROPPED));
}

#[test]
fn reset_before_the_first_event_or_within_an_event_leaves_nothing() {
    // One half of the event is buffered by the layer, or by the sockets.
    for (path, has_event) in [("/silent", false), ("/half", true), ("/large", true)] {
        let reports = assert_clean_rounds(&VERSIONS, async |site, version| {
            let mut clients = open(site, version, path).await;
            for (_, events) in clients.iter_mut().filter(|_| has_event) {
                next_data(events).await;
            }
            drop(clients);
        });
        assert_eq!(reports, expected_tally(DROPPED), "{path}");
    }
}

#[test]
fn reset_after_the_close_event_leaves_nothing() {
    let reports = assert_clean_rounds(&VERSIONS, async |site, version| {
        let mut clients = open(site, version, "/silent").await;
        site.shutdown.close();
        for (_, events) in &mut clients {
            assert_eq!(next_data(events).await, CLOSE);
        }
        drop(clients);
    });
    assert_eq!(reports, expected_tally(CANCELLED));
}

#[test]
fn reset_at_the_moment_of_the_close_leaves_nothing() {
    let reports = assert_clean_rounds(&VERSIONS, async |site, version| {
        let clients = open(site, version, "/half").await;
        for (number, client) in clients.into_iter().enumerate() {
            if number == CLIENTS / 2 {
                site.shutdown.close();
            }
            drop(client);
        }
    });
    // Each stream has ended once: dropped, or cancelled.
    let ended: usize = reports.values().sum();
    assert_eq!(ended, VERSIONS.len() * ROUNDS * CLIENTS, "{reports:?}");
}

#[test]
fn reset_of_one_stream_does_not_affect_other_streams_of_its_connection() {
    let reports = assert_clean_rounds(&[Version::Http2], async |site, version| {
        let mut clients = open(site, version, "/silent").await;
        for (client, events) in &mut clients {
            let mut other = client.get("/half").await.into_body();
            assert_eq!(next_data(&mut other).await, FIRST);
            // The first stream is reset here.
            *events = other;
        }
        site.server.until_open(CLIENTS).await;
        site.shutdown.close();
        for (_client, events) in clients {
            assert_eq!(receive(events).await.text().as_bytes(), CLOSE);
        }
    });
    let each = ROUNDS * CLIENTS;
    assert_eq!(reports, [(DROPPED, each), (CANCELLED, each)].into());
}

#[test]
fn half_close_drops_the_stream() {
    let reports = assert_clean_rounds(&VERSIONS, async |site, version| {
        let clients = open(site, version, "/silent").await;
        for (client, _) in &clients {
            client.half_close();
        }
        site.server.until_open(0).await;
        for (_client, events) in clients {
            assert!(
                receive(events).await.error.is_some(),
                "the server ends the connection"
            );
        }
    });
    assert_eq!(reports, expected_tally(DROPPED));
}

#[test]
fn half_close_that_the_server_allows_leaves_the_close_event_to_be_read() {
    let scenario = async |site: &Site, version| {
        let clients = open(site, version, "/silent").await;
        for (client, _) in &clients {
            client.half_close();
        }
        // After the response to another request, the server has polled all of its sockets.
        let mut other = Client::connect(site.server.address, version).await;
        assert_eq!(next_data(other.get("/empty").await.body_mut()).await, CLOSE);
        assert_eq!(site.shutdown.open_streams(), CLIENTS);
        site.shutdown.close();
        for (_client, events) in clients {
            assert_eq!(receive(events).await.text().as_bytes(), CLOSE);
        }
    };
    let layer = SseCompletionLayer::new();
    let reports = assert_clean_rounds_of_layer(&[Version::Http1], layer, true, scenario);
    let expected = [(CANCELLED, ROUNDS * CLIENTS), (EMPTY, ROUNDS)];
    assert_eq!(reports, expected.into());
}

#[test]
fn client_that_has_stopped_reading_is_open_until_it_leaves_or_reads_its_close_event() {
    for reads_again in [false, true] {
        let reports = assert_clean_rounds(&VERSIONS, async |site, version| {
            let clients = open(site, version, "/flood").await;
            for (client, _) in &clients {
                client.stop_reading();
            }
            site.server.until_blocked().await;
            let drained = site.shutdown.drain(Duration::ZERO).await;
            assert_eq!((drained.ended(), drained.still_open()), (0, CLIENTS));
            for (client, events) in clients.into_iter().filter(|_| reads_again) {
                client.resume_reading();
                assert_all_and_close(receive(events).await.text().as_bytes(), &event(FLOOD));
            }
        });
        let ending = if reads_again { CANCELLED } else { DROPPED };
        assert_eq!(reports, expected_tally(ending));
    }
}

#[test]
fn slow_client_reads_its_close_event_byte_by_byte_over_http_1_1() {
    let reports = assert_clean_rounds(&[Version::Http1], async |site, _| {
        let slow = (0..CLIENTS).map(async |_| {
            let mut client = connect_narrow(site.server.address).await;
            let request = b"GET /drops HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
            client.write_all(request).await.expect("room in the socket");
            let mut received = read_slowly(&mut client, 100).await;
            site.server.until_blocked().await;
            site.shutdown.close();
            // The buffers are full, and the server fills them as slowly as the client reads.
            received.extend(read_slowly(&mut client, 500).await);
            while let Ok(byte) = client.read_u8().await {
                received.push(byte);
            }
            received
        });
        for received in join_all(slow).await {
            assert_chunks_of_drops_and_close(&received);
        }
    });
    let expected = [(CANCELLED, ROUNDS * CLIENTS)];
    assert_eq!(reports, expected.into());
}

#[test]
fn slow_client_reads_its_close_event_byte_by_byte_over_http_2() {
    let reports = assert_clean_rounds(&[Version::Http2], async |site, version| {
        let slow = (0..CLIENTS).map(async |_| {
            let mut client = Client::with_window(site.server.address, version, 1).await;
            let mut events = client.get("/drops").await.into_body();
            let mut received = Vec::new();
            for _ in 0..50 {
                let byte = next_data(&mut events).await;
                assert_eq!(byte.len(), 1);
                received.extend(byte);
                sleep(Duration::from_millis(1)).await;
            }
            site.shutdown.close();
            received.extend(receive(events).await.text().into_bytes());
            received
        });
        for received in join_all(slow).await {
            assert_all_and_close(&received, DROPS.as_bytes());
        }
    });
    let expected = [(CANCELLED, ROUNDS * CLIENTS)];
    assert_eq!(reports, expected.into());
}

#[test]
fn twenty_thousand_clients_leave_no_allocation() {
    const WARM_UP: usize = 2_000;
    const MEASURED: usize = 18_000;
    /// Clients at a time. The number is not a multiple of four, so that each client leaves in all four ways.
    const VISITORS: usize = 31;
    let witness = Witness::new();
    let mut streams = 0;
    for version in VERSIONS {
        let runtime = runtime();
        let site = runtime.block_on(Site::new(SseCompletionLayer::new(), false));
        let come_and_go = |clients| {
            runtime.block_on(async {
                let visits = |first| (first..clients).step_by(VISITORS);
                join_all((0..VISITORS).map(|first| visit(&site, version, visits(first)))).await;
                site.until_all_left().await;
            });
        };
        come_and_go(WARM_UP);
        assert_nothing_kept(allocation_counter::measure(|| come_and_go(MEASURED)));
        let reports = site.server.reports();
        let count = |ending| reports.get(&ending).copied().unwrap_or_default();
        assert!(count(DROPPED) >= (WARM_UP + MEASURED) / 2, "{reports:?}");
        assert_eq!(count(EMPTY), (WARM_UP + MEASURED) / 4, "{reports:?}");
        streams += reports.values().sum::<usize>();
    }
    witness.assert_events(streams);
}

/// Connects and leaves, sooner or later: with new connections over HTTP/1.1, with new streams of one connection over
/// HTTP/2.
async fn visit(site: &Site, version: Version, visits: impl Iterator<Item = usize>) {
    let mut connection = None;
    for number in visits {
        if version == Version::Http1 {
            connection = None;
        }
        let client = match &mut connection {
            Some(client) => client,
            none => none.insert(Client::connect(site.server.address, version).await),
        };
        match number % 4 {
            0 => tokio::select! {
                _ = client.get("/half") => {}
                () = turns(number % 10) => {}
            },
            1 => drop(client.get("/silent").await),
            2 => drop(next_data(client.get("/half").await.body_mut()).await),
            _ => drop(receive(client.get("/empty").await.into_body()).await.text()),
        }
    }
}

/// Yields to all other tasks this many times.
async fn turns(number: usize) {
    for _ in 0..number {
        yield_now().await;
    }
}

/// Returns an event with this many bytes of data.
fn event(bytes: usize) -> Vec<u8> {
    [b"data: ", &vec![b'x'; bytes][..], b"\n\n"].concat()
}

fn upstream(path: &str) -> Script {
    match path {
        "/silent" => Script::silent(),
        "/half" => {
            Script::new([data(FIRST), data("id: 2\ndata: {\"half\":")]).then(AfterScript::Pending)
        }
        "/large" => Script::new([data(event(LARGE))]).then(AfterScript::Pending),
        "/flood" => Script::new([]).then(AfterScript::Repeat(event(FLOOD).into())),
        "/drops" => Script::new([]).then(AfterScript::Repeat(DROPS.into())),
        "/empty" => Script::new([]),
        other => panic!("unexpected path: {other}"),
    }
}

/// Connects clients, and waits for the heads of their responses.
async fn open(site: &Site, version: Version, path: &str) -> Vec<(Client, Incoming)> {
    let clients = (0..CLIENTS).map(async |_| {
        let mut client = Client::connect(site.server.address, version).await;
        let events = client.get(path).await.into_body();
        (client, events)
    });
    let clients = join_all(clients).await;
    site.server.until_open(CLIENTS).await;
    clients
}

async fn open_with_unfinished_request(site: &Site, version: Version) -> Vec<(Client, Incoming)> {
    let clients = (0..CLIENTS).map(async |_| {
        let mut client = Client::connect(site.server.address, version).await;
        let unfinished = Body::new(Script::new([data("a=")]).then(AfterScript::Pending));
        let response = client.send("POST", "/half", unfinished).await;
        let mut events = response.into_body();
        assert_eq!(next_data(&mut events).await, FIRST);
        (client, events)
    });
    join_all(clients).await
}

async fn read_slowly(client: &mut TcpStream, bytes: usize) -> Vec<u8> {
    let mut read = Vec::new();
    for _ in 0..bytes {
        read.push(client.read_u8().await.expect("another byte"));
        sleep(Duration::from_millis(1)).await;
    }
    read
}

#[track_caller]
fn assert_all_and_close(received: &[u8], each: &[u8]) {
    let events = received.strip_suffix(CLOSE).expect("the close event");
    let whole = events.chunks(each.len()).all(|event| event == each);
    assert!(whole, "{:?}", String::from_utf8_lossy(received));
}

/// Asserts that a response over HTTP/1.1 has whole events in chunks, the close event and a clean end.
#[track_caller]
fn assert_chunks_of_drops_and_close(response: &[u8]) {
    let text = String::from_utf8_lossy(response);
    let (_, chunks) = text.split_once("\r\n\r\n").expect("a head");
    let last = "14\r\nevent: close\ndata:\n\n\r\n0\r\n\r\n";
    let events = chunks.strip_suffix(last).expect("a clean end");
    let event = format!("10\r\n{DROPS}\r\n");
    assert_eq!(events.replace(&event, ""), "", "{events:?}");
}

/// Runs a scenario with a server for each version, twice: the first round warms up, and after the second round nothing
/// may be left. Returns all reports.
fn assert_clean_rounds(versions: &[Version], scenario: impl AsyncFn(&Site, Version)) -> Tally {
    assert_clean_rounds_of_layer(versions, SseCompletionLayer::new(), false, scenario)
}

fn assert_clean_rounds_of_layer(
    versions: &[Version],
    layer: SseCompletionLayer,
    half_close: bool,
    scenario: impl AsyncFn(&Site, Version),
) -> Tally {
    let witness = Witness::new();
    let mut reports = Tally::new();
    for &version in versions {
        let runtime = runtime();
        let mut round = || {
            runtime.block_on(async {
                let site = Site::new(layer.clone(), half_close).await;
                within(scenario(&site, version)).await;
                site.until_all_left().await;
                for (ending, count) in site.server.reports() {
                    *reports.entry(ending).or_default() += count;
                }
            });
        };
        round();
        assert_nothing_kept(allocation_counter::measure(round));
    }
    witness.assert_events(reports.values().sum());
    reports
}

/// A test runs on one thread, where allocations, panics and log events are counted.
fn runtime() -> Runtime {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime")
}

/// Returns the expected reports if each client of every version has one stream with this ending.
fn expected_tally(ending: (&'static str, bool)) -> Tally {
    [(ending, VERSIONS.len() * ROUNDS * CLIENTS)].into()
}

#[track_caller]
fn assert_nothing_kept(kept: AllocationInfo) {
    assert!(kept.count_current <= KEPT_ALLOCATIONS, "{kept:?}");
    assert!(kept.bytes_current <= KEPT_BYTES, "{kept:?}");
}

/// A server, and the shutdown of its layer.
struct Site {
    server: Observed,
    shutdown: Shutdown,
}

impl Site {
    async fn new(layer: SseCompletionLayer, half_close: bool) -> Self {
        let shutdown = Shutdown::new();
        let server = Observed::serve(layer.shutdown(&shutdown), half_close, upstream).await;
        Self { server, shutdown }
    }

    async fn until_all_left(&self) {
        self.server.until_all_left().await;
        assert_eq!(self.shutdown.open_streams(), 0);
    }
}

/// Counts the log events and panics of this thread.
struct Witness {
    logged: Logged,
    panics: usize,
    _subscriber: DefaultGuard,
}

impl Witness {
    fn new() -> Self {
        let logged = Logged::default();
        Self {
            panics: panics(),
            _subscriber: tracing::subscriber::set_default(logged.clone()),
            logged,
        }
    }

    /// Asserts one log event for each stream, no warning, no error, and no panic.
    #[track_caller]
    fn assert_events(&self, streams: usize) {
        assert_eq!(self.logged.count(Level::ERROR), 0);
        assert_eq!(self.logged.count(Level::WARN), 0);
        assert_eq!(self.logged.total(), streams);
        assert_eq!(panics(), self.panics);
    }
}
