//! The results of the servers, and the resources that remain after them.

use std::{collections::BTreeMap, io, mem, time::Duration};

use testkit::observed::Logged;
use tracing::Level;

use crate::{clients::End, resources::open_files};

/// All endings of streams, each of which occurs.
const ENDINGS: usize = 8;

/// Maximum number of allocations that remain after a server, some of which are its results.
const KEPT_ALLOCATIONS: i64 = 100;

/// The results of a server and its clients.
#[derive(Debug, Default)]
pub struct Life {
    pub endings: BTreeMap<&'static str, usize>,
    pub ends: BTreeMap<End, usize>,
    pub connections_cut: usize,
    pub drain: Duration,
    /// The peak of the resident memory, in bytes.
    pub peak: u64,
}

/// The results of all servers, and the resources that remain after them.
#[derive(Debug, Default)]
pub struct Findings {
    all: Life,
    /// Open files after the first server.
    files: Option<usize>,
    /// The peaks of the memory of all servers but the first.
    peaks: Vec<u64>,
    failures: Vec<String>,
}

impl Findings {
    /// Adds the next server.
    ///
    /// # Errors
    ///
    /// Fails if the kernel does not list the open files.
    pub fn add(&mut self, number: u32, life: Life, allocations: i64) -> io::Result<()> {
        let files = open_files()?;
        println!(
            "server {number}: {} streams, {} MiB, drained in {:.1?}, {} connections cut; \
             {files} files and {allocations} allocations are left",
            life.streams(),
            life.peak >> 20,
            life.drain,
            life.connections_cut,
        );
        if number > 0 {
            self.peaks.push(life.peak);
            self.expect(allocations <= KEPT_ALLOCATIONS, || {
                format!("{allocations} allocations remain after server {number}")
            });
        }
        let expected = *self.files.get_or_insert(files);
        self.expect(files == expected, || {
            format!("{files} files are open after server {number}, and {expected} before it")
        });
        self.all.add(life);
        Ok(())
    }

    /// Prints the sums, and returns all failures.
    pub fn finish(mut self, logged: &Logged) -> Vec<String> {
        let all = mem::take(&mut self.all);
        println!("endings: {:?}\nclients: {:?}", all.endings, all.ends);
        println!("streams reported once: {}", all.streams());
        self.expect(all.endings.len() == ENDINGS, || {
            "not every ending occurs".to_owned()
        });
        let cut = all.ends.get(&End::Cut).copied().unwrap_or_default();
        self.expect(cut <= all.connections_cut, || {
            format!(
                "{cut} streams are cut on {} connections",
                all.connections_cut
            )
        });
        let failed = all.endings.get("failed").copied().unwrap_or_default();
        let (errors, warnings) = (logged.count(Level::ERROR), logged.count(Level::WARN));
        self.expect((errors, warnings) == (failed, 0), || {
            format!("{errors} errors and {warnings} warnings for {failed} failed streams")
        });
        // The allocations are counted. The memory that the allocator cannot reuse must not grow without bound.
        let peaks = mem::take(&mut self.peaks);
        let maximum = |peaks: &[u64]| peaks.iter().copied().max().unwrap_or_default();
        let third = peaks.len() / 3;
        let middle = maximum(&peaks[third..2 * third]);
        self.expect(maximum(&peaks[2 * third..]) <= middle + middle / 2, || {
            format!("the peaks of the memory grow: {peaks:?}")
        });
        self.failures
    }

    fn expect(&mut self, holds: bool, failure: impl FnOnce() -> String) {
        if !holds {
            self.failures.push(failure());
        }
    }
}

impl Life {
    fn streams(&self) -> usize {
        self.endings.values().sum()
    }

    fn add(&mut self, life: Self) {
        for (ending, streams) in life.endings {
            *self.endings.entry(ending).or_default() += streams;
        }
        for (end, streams) in life.ends {
            *self.ends.entry(end).or_default() += streams;
        }
        self.connections_cut += life.connections_cut;
        self.drain = life.drain;
    }
}
