//! What a round has come to, as a line between processes and as a row of the table.

use std::{
    error::Error,
    fmt, fs,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{Result, WITHOUT_LAYER};

/// How the streams of all clients ended.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ends {
    /// With a close event and a clean end.
    closed: usize,
    cut: usize,
    /// Microseconds since 1970, for comparison with other processes.
    first: Option<u64>,
    last: u64,
}

#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// Streams with a close event and a clean end.
    pub closed: usize,
    cut: usize,
    /// From the start of the drain to the end of the first and of the last client, in microseconds.
    first: u64,
    last: u64,
    /// To the end of the server, or zero where it did not end.
    exit: u64,
    /// What the streams took, in bytes.
    memory: u64,
}

impl Ends {
    pub fn add(&mut self, closed: bool, at: SystemTime) {
        match closed {
            true => self.closed += 1,
            false => self.cut += 1,
        }
        let at = microseconds(at);
        self.first = Some(self.first.map_or(at, |first| first.min(at)));
        self.last = self.last.max(at);
    }
}

impl Round {
    pub fn new(ends: Ends, start: SystemTime, exit: Option<SystemTime>, memory: u64) -> Self {
        let start = microseconds(start);
        Self {
            closed: ends.closed,
            cut: ends.cut,
            first: ends.first.unwrap_or_default().saturating_sub(start),
            last: ends.last.saturating_sub(start),
            exit: exit.map_or(0, |exit| microseconds(exit).saturating_sub(start)),
            memory,
        }
    }
}

impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.first.unwrap_or_default();
        write!(f, "{} {} {first} {}", self.closed, self.cut, self.last)
    }
}

impl FromStr for Ends {
    type Err = Box<dyn Error>;

    fn from_str(line: &str) -> Result<Self> {
        let [closed, cut, first, last] = numbers(line)?;
        Ok(Self {
            closed: closed.try_into()?,
            cut: cut.try_into()?,
            first: Some(first),
            last,
        })
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            closed,
            cut,
            first,
            last,
            exit,
            memory,
        } = self;
        write!(f, "{closed} {cut} {first} {last} {exit} {memory}")
    }
}

impl FromStr for Round {
    type Err = Box<dyn Error>;

    fn from_str(line: &str) -> Result<Self> {
        let [closed, cut, first, last, exit, memory] = numbers(line)?;
        Ok(Self {
            closed: closed.try_into()?,
            cut: cut.try_into()?,
            first,
            last,
            exit,
            memory,
        })
    }
}

pub fn heading() -> &'static str {
    "| transport | layer | streams | close event and clean end | cut | drain to the first client's end \
     | to the last client's end | to the server's end | memory per stream |\n\
     |---|---|--:|--:|--:|--:|--:|--:|--:|"
}

/// Medians, but for the streams that were closed and cut: those are of the worst round.
pub fn row(transport: &str, layer: &str, streams: usize, rounds: &[Round]) -> String {
    let closed = rounds.iter().map(|round| round.closed).min();
    let cut = rounds.iter().map(|round| round.cut).max();
    let exit = match median(rounds, |round| round.exit) {
        0 => format!("killed after {} s", WITHOUT_LAYER.as_secs()),
        exit => milliseconds(exit),
    };
    format!(
        "| {transport} | {layer} | {streams} | {} | {} | {} | {} | {exit} | {} bytes |",
        closed.unwrap_or_default(),
        cut.unwrap_or_default(),
        milliseconds(median(rounds, |round| round.first)),
        milliseconds(median(rounds, |round| round.last)),
        median(rounds, |round| round.memory) / streams.max(1) as u64,
    )
}

/// Raises the limit of open files to what a connection for each stream takes.
pub fn allow_files(streams: usize) -> Result<()> {
    // Some are open already.
    let needed = streams as u64 + 64;
    let limit = rlimit::increase_nofile_limit(needed)?;
    match limit >= needed {
        true => Ok(()),
        false => {
            Err(format!("this machine allows {limit} open files, and {needed} are needed").into())
        }
    }
}

/// The resident memory of a process, in bytes.
pub fn resident(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kilobytes.ok_or("no resident memory")?.parse::<u64>()? * 1024)
}

fn median(rounds: &[Round], value: impl Fn(&Round) -> u64) -> u64 {
    let mut values: Vec<u64> = rounds.iter().map(value).collect();
    values.sort_unstable();
    values[values.len() / 2]
}

fn milliseconds(microseconds: u64) -> String {
    format!("{} ms", Duration::from_micros(microseconds).as_millis())
}

fn microseconds(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

fn numbers<const COUNT: usize>(line: &str) -> Result<[u64; COUNT]> {
    let numbers: std::result::Result<Vec<u64>, _> = line.split(' ').map(str::parse).collect();
    let numbers = numbers?.try_into();
    numbers.map_err(|_| format!("not {COUNT} numbers: {line}").into())
}
