//! Servers under load and at their end, all with the same clients: axum without and with the layer, and a Python stack.
//!
//! ```text
//! stacks python CLIENTS          all servers; needs UVICORN, which benches/python/run sets
//! stacks drain CLIENTS ROUNDS    the end of the axum servers; fails if a stream of the layer lacks its close event
//! ```
//!
//! Each server is a process with one thread for its event loop. This process has the clients, also with one thread.

mod ending;
mod load;
mod serve;
mod stack;

use std::{env, error::Error, io, time::Duration};

use benchmarks::statistics::medians;
use tokio::runtime::Builder;

use crate::stack::{STACKS, Stack};

/// The name of a stack, and its measurements.
type Row<const N: usize> = (&'static str, [f64; N]);

const USAGE: &str = "usage: stacks python CLIENTS | stacks drain CLIENTS ROUNDS";

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    rlimit::increase_nofile_limit(u64::MAX)?;
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let end = |clients, bound| {
        let runtime = &runtime;
        move |stack: &Stack| runtime.block_on(ending::measure(stack, clients, bound))
    };
    match arguments[..] {
        ["serve", variant] => runtime.block_on(serve::serve(variant))?,
        ["python", clients] => {
            let (clients, bound) = (clients.parse()?, Duration::from_secs(5));
            let loads = measure(
                3,
                |stack| stack.is_loaded,
                |stack| runtime.block_on(load::measure(stack, clients)),
            )?;
            load::print_table(clients, &loads);
            let endings = measure(3, |stack| stack.is_compared, end(clients, bound))?;
            ending::print_table(clients, bound, &endings);
        }
        ["drain", clients, rounds] => {
            let (clients, bound) = (clients.parse()?, Duration::from_secs(3));
            let endings = measure(rounds.parse()?, Stack::is_axum, end(clients, bound))?;
            ending::print_table(clients, bound, &endings);
        }
        _ => return Err(USAGE.into()),
    }
    Ok(())
}

/// Measures the stacks in turns, and returns the medians of the rounds.
fn measure<const N: usize>(
    rounds: usize,
    selected: impl Fn(&Stack) -> bool,
    mut measure: impl FnMut(&Stack) -> io::Result<[f64; N]>,
) -> io::Result<Vec<Row<N>>> {
    let stacks = STACKS.iter().filter(|stack| selected(stack));
    let mut measured: Vec<_> = stacks.map(|stack| (stack, Vec::new())).collect();
    for _ in 0..rounds {
        for (stack, rows) in &mut measured {
            let row = measure(stack)
                .map_err(|error| io::Error::other(format!("{}: {error}", stack.name)))?;
            rows.push(row);
        }
    }
    let medians = measured
        .iter()
        .map(|(stack, rows)| (stack.name, medians(rows)));
    Ok(medians.collect())
}
