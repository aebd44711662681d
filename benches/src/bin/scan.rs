//! The throughput of misaligned frames, compared with memchr on the same bytes.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use benchmarks::{
    subjects::poll_to_end,
    upstream::{Cut, Upstream, event},
};
use memchr::memchr2;

const FRAMES: usize = 20_000;
const ROUNDS: usize = 21;

fn main() {
    let chunk = event(100).repeat(82);
    let chunk = &chunk[..8192];
    let through_layer = |cut| {
        let upstream = Upstream::new(cut, FRAMES, false);
        black_box(poll_to_end("shutdown", "text/event-stream", upstream));
    };
    let variants: [(&str, &dyn Fn()); 4] = [
        ("events of 100 bytes", &|| through_layer(Cut::Chunks)),
        ("an endless event, lines of 100 bytes", &|| {
            through_layer(Cut::Lines(100));
        }),
        ("an endless event, lines of 16 bytes", &|| {
            through_layer(Cut::Lines(16));
        }),
        // The frames do not contain these bytes, so that memchr reads all of each frame.
        ("memchr2 over the same bytes", &|| {
            for _ in 0..FRAMES {
                black_box(memchr2(0, 1, black_box(chunk)));
            }
        }),
    ];
    let mut times = variants.map(|_| Vec::new());
    for _ in 0..ROUNDS {
        for ((_, run), times) in variants.iter().zip(&mut times) {
            times.push(time(run));
        }
    }
    println!("| 8 KiB frames | GB/s, median of {ROUNDS} |");
    println!("|---|---|");
    for ((name, _), times) in variants.iter().zip(&mut times) {
        times.sort();
        let seconds = times[ROUNDS / 2].as_secs_f64();
        println!("| {name} | {:.1} |", (FRAMES * 8192) as f64 / seconds / 1e9);
    }
}

fn time(run: impl FnOnce()) -> Duration {
    let start = Instant::now();
    run();
    start.elapsed()
}
