//! Seeds for the targets: the test vectors of the HTML standard, as one frame and in pieces, to the end and cancelled.

use std::{env, fs, path::PathBuf};

use testkit::vectors::cases;

use crate::{
    body, close_event, connection, heads,
    steps::{PENDING, write_frames},
};

/// Streams that end, through a layer with the defaults.
const ENDS: [u8; 8] = [0; 8];
/// Streams that a future cancels after the last frame.
const CANCELLED: [u8; 8] = [0, 0, 4, 255, 0, 0, 0, 32];
/// Streams that a shutdown cancels while the upstream is polled for the second time.
const SHUT_DOWN: [u8; 8] = [0, 0, 6, 1, 1, 0, 0, 32];
/// Streams with a close event at every end, and a small buffer.
const SMALL_BUFFER: [u8; 8] = [6, 5, 0, 0, 0, 0, 0, 0];
/// Streams that a cancellation may stop before their end marks.
const MARKED: [u8; 8] = [2 << 5, 0, 6, 1, 1, 0, 0, 0];
/// Streams with end marks of two layers, without a close event, and with a small buffer.
const MARKED_TWICE: [u8; 8] = [7 << 5 | 16, 9, 0, 0, 0, 0, 0, 64];
/// Streams with two layers that a shutdown cancels while the upstream is polled for the second time.
const STACKED: [u8; 8] = [0, 0, 6, 1, 1, 0, 0, 128 | 64 | 32];
/// Streams with a clock, whose upstream ends.
const TIMED: [u8; 8] = [0, 0, 0, 0, 0, 0, 0, 128];
/// Streams with a clock, whose upstream does not end and has events that are ignored.
const TIMED_ENDLESS: [u8; 8] = [0, 0, 0, 0, 0, 8, 0, 128 | 32];
/// The maximum age, the idle timeout, the keep-alive, the jumps of the clock (some are longer than the keep-alive), and the
/// polls in which the budget is spent.
const TIMES: [u8; 8] = [200, 90, 20, 0, 150, 128, 240, 0b0010_0100];

const HEADS: [&str; 7] = [
    "content-type: text/event-stream",
    "content-type: TEXT/Event-Stream ;charset=utf-8\ncontent-length: 9",
    "content-type: text/event-stream\ncontent-type: text/plain",
    "content-type: application/json; text/event-stream",
    "content-type: text/event-stream\ncontent-encoding: identity, Identity",
    "content-type: text/event-stream\ncontent-encoding: identity\ncontent-encoding: br",
    "content-type: application/grpc+proto\ndigest: sha-256=x",
];

/// Writes seeds into the folder that the environment variable `SEEDS` names. Without the variable, nothing is written.
///
/// A target calls this function when it starts, so that the seeds need no further program.
pub fn write(seeds: fn() -> Vec<Vec<u8>>) {
    let Some(folder) = env::var_os("SEEDS").map(PathBuf::from) else {
        return;
    };
    // Long seeds would only slow the fuzzer down.
    for (number, seed) in seeds().iter().filter(|seed| seed.len() <= 512).enumerate() {
        fs::write(folder.join(format!("seed-{number}")), seed).expect("a folder for the seeds");
    }
}

pub fn body() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for case in cases() {
        let stream = &case.stream;
        for (options, steps) in [
            (ENDS, write_frames([&stream[..]])),
            (CANCELLED, write_frames(stream.chunks(1))),
            (SHUT_DOWN, write_frames(between(&case.boundaries, stream))),
            (SMALL_BUFFER, write_frames(stream.chunks(3))),
            (MARKED, write_frames(stream.chunks(4))),
            (MARKED_TWICE, write_frames(stream.chunks(2))),
            (STACKED, write_frames(stream.chunks(5))),
            (TIMED, timed(stream.chunks(2))),
            (TIMED_ENDLESS, timed(between(&case.boundaries, stream))),
        ] {
            seeds.push(body::Input::encode(options, &steps));
        }
    }
    seeds
}

pub fn close_event() -> Vec<Vec<u8>> {
    let events = cases().into_iter().flat_map(|case| case.decoded.events);
    events
        .map(|event| close_event::Input::encode(&event.event_type, &event.data))
        .collect()
}

/// Returns every call, pending, before and after every end of a connection.
pub fn connection() -> Vec<Vec<u8>> {
    // A drain without a grace period, and twice the time until its cut; the time of a write timeout; a close.
    let ends = [
        vec![7 | 4 << 3, 5 | 7 << 3, 5 | 7 << 3],
        vec![5 | 3 << 3],
        vec![7 | 3 << 3],
    ];
    let mut seeds = Vec::new();
    for end in ends {
        for call in 0..5 {
            let steps = [vec![call], end.clone(), vec![call, call | 1 << 3]].concat();
            seeds.push(connection::Input::encode([10, 0], &steps));
        }
    }
    seeds
}

pub fn heads() -> Vec<Vec<u8>> {
    let steps = write_frames([&b"data: x\n\n"[..]]);
    let encode = |head: &str| heads::Input::encode(head, &steps);
    HEADS.into_iter().map(encode).collect()
}

/// Returns times and steps. The upstream waits at first, so that a keep-alive precedes its bytes.
fn timed<'a>(frames: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    [&TIMES[..], &[PENDING, PENDING], &write_frames(frames)].concat()
}

/// Returns the stream, cut at its boundaries.
fn between<'a>(boundaries: &'a [usize], stream: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let ends = boundaries.iter().copied().chain([stream.len()]);
    ends.scan(0, |start, end| {
        let piece = &stream[*start..end];
        *start = end;
        Some(piece)
    })
}
