//! What can be seen while a run goes on: one line that changes on a terminal, and a line per second elsewhere.

use std::{
    io::{IsTerminal, Write, stdout},
    time::{Duration, Instant},
};

use super::{audience::Audience, plot};

#[derive(Debug)]
pub struct Progress {
    clients: usize,
    terminal: bool,
    next: Instant,
    spinner: usize,
}

const SPINNER: [char; 8] = ['⣷', '⣯', '⣟', '⡿', '⢿', '⣻', '⣽', '⣾'];
const BAR: usize = 20;

impl Progress {
    pub fn new(clients: usize) -> Self {
        Self {
            clients,
            terminal: stdout().is_terminal(),
            next: Instant::now(),
            spinner: 0,
        }
    }

    pub fn show(&mut self, phase: &str, audience: &Audience, published: u64) {
        if Instant::now() < self.next {
            return;
        }
        let reading = audience.reading();
        let findings = audience.findings();
        let line = format!(
            "{:5.1} s  {phase:<19}  event {published:<4}  {reading:>5} read ▕{}▏  {} missed  {} twice  {} torn",
            audience.log().start.elapsed().as_secs_f64(),
            plot::bar(reading, self.clients, BAR),
            findings.missed,
            findings.seen_twice,
            findings.torn,
        );
        let mut out = stdout().lock();
        // A line that cannot be written is not worth an end of the run.
        let _ = if self.terminal {
            self.spinner += 1;
            let spinner = SPINNER[self.spinner % SPINNER.len()];
            // Where the terminal is too narrow, the line ends at its edge.
            write!(out, "\r\x1b[K\x1b[?7l{spinner} {line}\x1b[?7h").and_then(|()| out.flush())
        } else {
            writeln!(out, "  {line}")
        };
        self.next = Instant::now() + Duration::from_millis(if self.terminal { 80 } else { 1_000 });
    }

    /// Takes the line away.
    pub fn finish(&mut self) {
        if self.terminal {
            print!("\r\x1b[K");
        }
    }
}
