//! Writes seeds for all targets into a folder: what the HTML standard says of event streams, case by case, each as one
//! frame and in pieces, to its end and cancelled.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use checks::{
    body, close_event, heads,
    steps::{PENDING, write_frames},
    support,
};

#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../../tests/vectors/mod.rs"]
mod vectors;

/// Streams that end, and the defaults of the layer.
const ENDS: [u8; 8] = [0; 8];
/// Cancelled by a future once nothing more comes.
const CANCELLED: [u8; 8] = [0, 0, 4, 255, 0, 0, 0, 32];
/// Cancelled by a shutdown while the upstream is polled for the second time.
const SHUT_DOWN: [u8; 8] = [0, 0, 6, 1, 1, 0, 0, 32];
/// Closed at every end, with hardly anything held back.
const HARDLY_HELD: [u8; 8] = [6, 5, 0, 0, 0, 0, 0, 0];

/// With a clock, on an upstream that ends and on one that never does.
const TIMED: [u8; 8] = [0, 0, 0, 0, 0, 0, 0, 128];
const TIMED_ENDLESS: [u8; 8] = [0, 0, 0, 0, 0, 0, 0, 128 | 32];
/// The greatest age, the idle timeout and the keep-alive, and how the clock goes on: some jumps are longer than the
/// keep-alive. In some polls the budget is spent.
const TIMES: [u8; 8] = [200, 90, 20, 0, 150, 128, 240, 0b0010_0100];

const HEADS: &[&[(&str, &str)]] = &[
    &[("content-type", "text/event-stream")],
    &[
        ("content-type", "TEXT/Event-Stream ;charset=utf-8"),
        ("content-length", "9"),
    ],
    &[
        ("content-type", "text/event-stream"),
        ("content-type", "text/plain"),
    ],
    &[("content-type", "application/json; text/event-stream")],
    &[
        ("content-type", "text/event-stream"),
        ("content-encoding", "identity, Identity"),
    ],
    &[
        ("content-type", "text/event-stream"),
        ("content-encoding", "identity"),
        ("content-encoding", "br"),
    ],
    &[
        ("content-type", "application/grpc+proto"),
        ("digest", "sha-256=x"),
    ],
];

fn main() -> io::Result<()> {
    let corpus: PathBuf = std::env::args_os().nth(1).expect("a folder").into();
    for target in ["body", "close_event", "heads"] {
        fs::create_dir_all(corpus.join(target))?;
    }
    for (number, case) in vectors::cases().iter().enumerate() {
        let stream = &case.stream;
        let ways = [
            (ENDS, write_frames([&stream[..]])),
            (CANCELLED, write_frames(stream.chunks(1))),
            (SHUT_DOWN, write_frames(between(&case.boundaries, stream))),
            (HARDLY_HELD, write_frames(stream.chunks(3))),
            (TIMED, timed(stream.chunks(2))),
            (TIMED_ENDLESS, timed(between(&case.boundaries, stream))),
        ];
        for (way, (options, steps)) in ways.iter().enumerate() {
            let input = body::Input::encode(*options, steps);
            write(&corpus.join("body"), &format!("{number}-{way}"), &input)?;
        }
        for (event, decoded) in case.decoded.events.iter().enumerate() {
            let input = close_event::Input::encode(&decoded.kind, &decoded.data);
            write(
                &corpus.join("close_event"),
                &format!("{number}-{event}"),
                &input,
            )?;
        }
    }
    let steps = write_frames([&b"data: x\n\n"[..]]);
    for (number, headers) in HEADS.iter().enumerate() {
        let input = heads::Input::encode(headers, &steps);
        write(&corpus.join("heads"), &number.to_string(), &input)?;
    }
    Ok(())
}

/// Long ones would only slow the fuzzer down.
fn write(folder: &Path, name: &str, input: &[u8]) -> io::Result<()> {
    if input.len() <= 512 {
        fs::write(folder.join(format!("seed-{name}")), input)?;
    }
    Ok(())
}

/// What stands in front of the steps of a stream with a clock. It waits for long enough that a keep-alive comes first.
fn timed<'a>(frames: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    [&TIMES[..], &[PENDING, PENDING], &write_frames(frames)].concat()
}

/// The stream, cut at its boundaries.
fn between<'a>(boundaries: &'a [usize], stream: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let ends = boundaries.iter().copied().chain([stream.len()]);
    ends.scan(0, |start, end| {
        let piece = &stream[*start..end];
        *start = end;
        Some(piece)
    })
}
