//! Python servers and axum, with the same clients: `stacks [--seconds N] [CLIENTS]`. `benches/python/run` starts it.
//!
//! Each server is one process with one thread for its event loop. This process has the clients, with one thread too.

mod ending;
mod load;
mod serve;
mod stack;

use std::{
    env,
    error::Error,
    io,
    time::{Duration, Instant},
};

use benchmarks::options::Options;
use tokio::runtime::Builder;

use crate::stack::Stack;

/// What was measured of each stack.
type Rounds<T> = Vec<(Stack, Vec<T>)>;

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    rlimit::increase_nofile_limit(u64::MAX)?;
    let arguments: Vec<String> = env::args().skip(1).collect();
    match &arguments[..] {
        [serve, side] if serve == "serve" => return Ok(runtime.block_on(serve::serve(side))?),
        [..] => {}
    }

    let options = Options::from_command_line(120, &[1_000]);
    let clients = options.streams[0];
    let half = options.time / 2;
    // Once through all stacks takes no longer than a small run may.
    let busy_time = (options.time / 60).clamp(Duration::from_millis(500), Duration::from_secs(2));
    let bound = (options.time / 24).clamp(Duration::from_secs(3), Duration::from_secs(5));
    let loads = rounds(half, &Stack::LOADED, |stack| {
        runtime.block_on(load::measure(stack, clients, busy_time))
    })?;
    load::print_table(clients, loads);
    let endings = rounds(half, &Stack::ENDED, |stack| {
        runtime.block_on(ending::measure(stack, clients, bound))
    })?;
    ending::print_table(clients, bound, endings);
    Ok(())
}

/// All stacks, one after the other, until the time is over.
fn rounds<T>(
    time: Duration,
    stacks: &[Stack],
    mut measure: impl FnMut(Stack) -> io::Result<T>,
) -> Result<Rounds<T>, Box<dyn Error>> {
    let mut measured: Vec<_> = stacks.iter().map(|&stack| (stack, Vec::new())).collect();
    let start = Instant::now();
    let mut round = Duration::ZERO;
    // A round that would end too late is not begun.
    while measured[0].1.is_empty() || start.elapsed() + round < time {
        let round_start = Instant::now();
        for (stack, values) in &mut measured {
            let value = measure(*stack);
            values.push(value.map_err(|error| format!("{}: {error}", stack.name()))?);
        }
        round = round_start.elapsed();
    }
    Ok(measured)
}
