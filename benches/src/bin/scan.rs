//! How fast misaligned frames pass, beside memchr on the same bytes, in gigabytes per second.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use benchmarks::{
    subjects::poll_to_end,
    upstream::{Cut, Upstream, event},
};
use memchr::memchr2;

const FRAMES: usize = 100_000;
const ROUNDS: usize = 21;

fn main() {
    let chunk = event(100).repeat(82);
    let chunk = &chunk[..8192];
    let mut times = [const { Vec::new() }; 2];
    for _ in 0..ROUNDS {
        times[0].push(time(|| {
            let upstream = Upstream::new(Cut::Chunks, FRAMES, false);
            black_box(poll_to_end("shutdown", "text/event-stream", upstream));
        }));
        // A byte that is not there, so that every one is looked at.
        times[1].push(time(|| {
            for _ in 0..FRAMES {
                black_box(memchr2(0, 1, black_box(chunk)));
            }
        }));
    }
    println!("| 8 KiB frames over events of 100 bytes | GB/s, median of {ROUNDS} |");
    println!("|---|---|");
    for (name, times) in ["through the layer", "memchr2 over the same bytes"]
        .iter()
        .zip(&mut times)
    {
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
