//! What a broadcast to many event streams costs, and how long they take to end: `scale [--seconds N] [STREAMS...]`.
//!
//! The layer with a `Shutdown`, beside the stream that is written by hand with a `CancellationToken`. No sockets.

mod audience;
mod polls;
mod sides;

use std::time::{Duration, Instant};

use benchmarks::{
    options::Options,
    statistics::{Spread, exponent, quartiles},
};

use crate::{
    audience::Round,
    sides::{SIDES, Side},
};

/// What one side took for each stream, in nanoseconds, for each round.
#[derive(Default)]
struct Measured {
    broadcast: Vec<f64>,
    close: Vec<f64>,
}

/// A row of a table: by hand, and with the layer.
struct Row {
    workers: usize,
    streams: usize,
    sides: [Spread; 2],
}

const WORKERS: [usize; 2] = [1, 2];

fn main() {
    let options = Options::from_command_line(120, &[1_000, 10_000, 100_000]);
    // The larger a round, the fewer of them are there; the largest size has half of the time.
    let shares: f64 = options.streams.iter().map(|&streams| share(streams)).sum();
    let time_for_polls = options.time / 20;
    let time_for_workers = (options.time - time_for_polls) / WORKERS.len() as u32;

    let (mut broadcast, mut close) = (Vec::new(), Vec::new());
    for workers in WORKERS {
        for &streams in &options.streams {
            let time = time_for_workers.mul_f64(share(streams) / shares);
            let sides = measure(workers, streams, time);
            let row = |values: fn(&Measured) -> &Vec<f64>| Row {
                workers,
                streams,
                sides: sides.each_ref().map(|side| quartiles(values(side))),
            };
            broadcast.push(row(|side| &side.broadcast));
            close.push(row(|side| &side.close));
        }
    }
    print_table(
        "One event to every stream, until the last one has it (ns per stream, median and quartiles)",
        &broadcast,
    );
    print_table(
        "From the signal to the end of the last stream (ns per stream, median and quartiles)",
        &close,
    );
    polls::print_table(time_for_polls);
}

fn share(streams: usize) -> f64 {
    (streams as f64).sqrt()
}

/// Rounds of both sides, alternating, until the time is over.
fn measure(workers: usize, streams: usize, time: Duration) -> [Measured; 2] {
    let mut sides = [Measured::default(), Measured::default()];
    // The first round finds the memory cold.
    for side in SIDES {
        audience::round(workers, streams, side);
    }
    let start = Instant::now();
    let mut layer_first = false;
    while start.elapsed() < time || sides[1].close.len() < 3 {
        let order = match layer_first {
            true => [Side::Layer, Side::ByHand],
            false => SIDES,
        };
        for side in order {
            let Round { broadcasts, close } = audience::round(workers, streams, side);
            let measured = &mut sides[side as usize];
            let per_stream = |time: Duration| time.as_nanos() as f64 / streams as f64;
            measured.broadcast.extend(broadcasts.map(per_stream));
            measured.close.push(per_stream(close));
        }
        layer_first = !layer_first;
    }
    sides
}

fn print_table(caption: &str, rows: &[Row]) {
    println!("{caption}:\n");
    println!("| worker threads | streams | by hand | with the layer | layer / by hand |");
    println!("|--:|--:|--:|--:|--:|");
    for row in rows {
        let [by_hand, layer] = row.sides;
        println!(
            "| {} | {} | {} | {} | {:.2} |",
            row.workers,
            row.streams,
            cell(by_hand),
            cell(layer),
            layer.median / by_hand.median
        );
    }
    for workers in WORKERS {
        let rows: Vec<_> = rows.iter().filter(|row| row.workers == workers).collect();
        if rows.len() < 2 {
            continue;
        }
        let [by_hand, layer] = SIDES.map(|side| {
            let all_streams = |row: &&Row| {
                let streams = row.streams as f64;
                (streams, streams * row.sides[side as usize].median)
            };
            exponent(&rows.iter().map(all_streams).collect::<Vec<_>>())
        });
        println!("| {workers} | exponent of the growth | {by_hand:.2} | {layer:.2} | |");
    }
    println!();
}

fn cell(spread: Spread) -> String {
    format!(
        "{:.0} ({:.0} to {:.0})",
        spread.median, spread.lower, spread.upper
    )
}
