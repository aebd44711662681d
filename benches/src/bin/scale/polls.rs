//! Whether streams on two threads slow each other where they have the same `Shutdown`.

use std::{
    hint::black_box,
    sync::Barrier,
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use benchmarks::statistics::{Spread, quartiles};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tower_sse_completion::Shutdown;

use crate::sides::with_layer;

const POLLS: u32 = 1_000_000;

/// Measures until the time is over.
pub fn print_table(time: Duration) {
    let (mut one, mut two) = (Vec::new(), Vec::new());
    let start = Instant::now();
    while start.elapsed() < time || two.len() < 4 {
        let shutdowns = [Shutdown::new(), Shutdown::new()];
        one.push(quiet_polls([&shutdowns[0], &shutdowns[0]]));
        two.push(quiet_polls([&shutdowns[0], &shutdowns[1]]));
    }
    println!(
        "Polls of a silent stream, on two threads at once (ns per poll, median and quartiles):\n"
    );
    println!("| one `Shutdown` for both | one `Shutdown` for each |");
    println!("|--:|--:|");
    println!(
        "| {} | {} |\n",
        cell(quartiles(&one)),
        cell(quartiles(&two))
    );
}

/// Nanoseconds for each poll, on two threads at once, each with a stream of one of these.
fn quiet_polls(shutdowns: [&Shutdown; 2]) -> f64 {
    let barrier = Barrier::new(2);
    let times = thread::scope(|scope| {
        let threads = shutdowns.map(|shutdown| {
            let barrier = &barrier;
            scope.spawn(move || {
                let (_sender, receiver) = mpsc::channel(1);
                let mut body = with_layer(shutdown)(ReceiverStream::new(receiver));
                let mut cx = Context::from_waker(Waker::noop());
                barrier.wait();
                let start = Instant::now();
                for _ in 0..POLLS {
                    let polled = black_box(body.as_mut()).poll_frame(&mut cx);
                    assert!(matches!(polled, Poll::Pending));
                }
                start.elapsed()
            })
        });
        threads.map(|thread| thread.join().expect("no panic"))
    });
    (times[0] + times[1]).as_nanos() as f64 / f64::from(2 * POLLS)
}

fn cell(spread: Spread) -> String {
    format!(
        "{:.1} ({:.1} to {:.1})",
        spread.median, spread.lower, spread.upper
    )
}
