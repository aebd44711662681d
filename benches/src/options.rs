//! The arguments that these benchmarks share: how long to measure, and with how many streams.

use std::time::Duration;

/// `[--seconds N] [STREAMS...]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// How long to measure, all in all. Rounds are repeated until it is over.
    pub time: Duration,
    /// How many streams there are at once, one size after the other.
    pub streams: Vec<usize>,
}

impl Options {
    /// What the command line says, and otherwise these.
    ///
    /// # Panics
    ///
    /// With the usage, where an argument is not understood.
    pub fn from_command_line(seconds: u64, streams: &[usize]) -> Self {
        let mut options = Self {
            time: Duration::from_secs(seconds),
            streams: Vec::new(),
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            if argument == "--seconds" {
                let seconds = arguments.next().and_then(|seconds| seconds.parse().ok());
                options.time = seconds.map_or_else(|| usage(), Duration::from_secs);
            } else {
                let streams = argument.replace('_', "").parse().ok();
                let streams = streams.filter(|streams| *streams > 0);
                options.streams.push(streams.unwrap_or_else(|| usage()));
            }
        }
        if options.streams.is_empty() {
            options.streams = streams.to_vec();
        }
        options
    }
}

fn usage() -> ! {
    panic!("usage: [--seconds N] [STREAMS...]")
}
