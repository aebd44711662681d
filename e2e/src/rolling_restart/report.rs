//! What is printed when all runs are over.

use std::{
    io::{IsTerminal, stdout},
    time::Duration,
};

use super::{outcome::Outcome, plot};

/// One column of the plot.
const PERIOD: Duration = Duration::from_millis(250);
const HEIGHT: usize = 8;

/// Of a tick under the plot.
const TICK: usize = 5;

const LABEL: usize = 42;
const COLUMN: usize = 26;

/// Prints a table with a column for each run, a plot for each, and the verdict.
pub fn print(outcomes: &[Outcome]) {
    print_table(outcomes);
    println!("\nreconnects per {} ms; ▲ is a SIGTERM", PERIOD.as_millis());
    let most = outcomes
        .iter()
        .flat_map(|outcome| outcome.reconnects_per(PERIOD))
        .max();
    for outcome in outcomes {
        print_plot(outcome, most.unwrap_or(0));
    }
    println!();
    for outcome in outcomes {
        print_verdict(outcome);
    }
}

fn print_table(outcomes: &[Outcome]) {
    let row = |label: &str, cell: &dyn Fn(&Outcome) -> String| {
        let cells = outcomes
            .iter()
            .map(|outcome| format!("{:>COLUMN$}", cell(outcome)));
        println!("{label:<LABEL$}{}", cells.collect::<String>());
    };
    println!();
    row("", &|run| run.end.title());
    println!("{}", "─".repeat(LABEL + COLUMN * outcomes.len()));
    row("clients", &|run| grouped(run.clients as u64));
    row("events published", &|run| grouped(run.published));
    row("events received", &|run| grouped(run.findings.received));
    row("  missed", &|run| grouped(run.findings.missed));
    row("  seen twice", &|run| grouped(run.findings.seen_twice));
    row("  torn", &|run| grouped(run.findings.torn));
    row("streams that ended", &|run| {
        grouped((run.clean_ends + run.cuts) as u64)
    });
    row("  with a close event", &|run| {
        grouped(run.findings.close_events)
    });
    row("  cut", &|run| grouped(run.cuts as u64));
    row("an instance is gone after SIGTERM in", &stops);
    row("reconnects", &|run| grouped(run.reconnects.len() as u64));
    row("  most in one second", &|run| {
        most(run, Duration::from_secs(1))
    });
    row("  most in 250 ms", &|run| most(run, PERIOD));
    row("  refused, and tried again", &|run| {
        grouped(run.unreachable as u64)
    });
    row("clients that gave up", &|run| grouped(run.given_up as u64));
}

fn print_plot(outcome: &Outcome, most: usize) {
    let counts = outcome.reconnects_per(PERIOD);
    println!("\n  {}", paint(BOLD, &outcome.end.title()));
    for (row, line) in plot::columns(&counts, most, HEIGHT).iter().enumerate() {
        let label = if row == 0 {
            grouped(most as u64)
        } else {
            String::new()
        };
        let side = if row == 0 { '┤' } else { '│' };
        println!("  {label:>6} {side}{}", paint(CYAN, line));
    }
    println!("  {:>6} ┼{}", 0, "─".repeat(counts.len()));
    let column = |time: Duration| (time.as_nanos() / PERIOD.as_nanos()) as usize;
    let names = ["▲ A", "▲ B"].iter().map(|name| (*name).to_owned());
    let stops = outcome.stops.iter().map(|stop| column(stop.at)).zip(names);
    println!("  {:>6}  {}", "", plot::marks(&stops.collect::<Vec<_>>()));
    let ticks = (0..)
        .step_by(TICK)
        .map(|second| (column(Duration::from_secs(second)), format!("{second} s")));
    let ticks: Vec<_> = ticks
        .take_while(|(column, _)| *column < counts.len())
        .collect();
    println!("  {:>6}  {}", "", plot::marks(&ticks));
}

fn print_verdict(outcome: &Outcome) {
    let title = outcome.end.title();
    let found = &outcome.findings;
    let (style, mut verdict) = match outcome.is_good() {
        true => {
            let (clients, events) = (grouped(outcome.clients as u64), grouped(outcome.published));
            (
                GREEN,
                format!("✓ {title}: all {clients} clients got all {events} events, once and whole"),
            )
        }
        false => {
            let [missed, twice, torn] = [found.missed, found.seen_twice, found.torn].map(grouped);
            (
                RED,
                format!("✗ {title}: {missed} missed, {twice} seen twice, {torn} torn"),
            )
        }
    };
    let also = [
        (outcome.cuts, "streams cut"),
        (outcome.killed(), "instances killed"),
        (outcome.given_up, "clients gave up"),
    ];
    for (count, what) in also.into_iter().filter(|(count, _)| *count > 0) {
        verdict += &format!(", {} {what}", grouped(count as u64));
    }
    println!("{}", paint(style, &verdict));
}

fn most(outcome: &Outcome, window: Duration) -> String {
    grouped(outcome.most_reconnects_in(window) as u64)
}

fn stops(outcome: &Outcome) -> String {
    let times = outcome
        .stops
        .iter()
        .map(|stop| format!("{:.2} s", stop.took.as_secs_f64()));
    let times = times.collect::<Vec<_>>().join(", ");
    match outcome.killed() {
        0 => times,
        _ => times + " (killed)",
    }
}

/// With a comma between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

const BOLD: &str = "1";
const RED: &str = "31";
const GREEN: &str = "32";
const CYAN: &str = "36";

fn paint(style: &str, text: &str) -> String {
    match stdout().is_terminal() {
        true => format!("\x1b[{style}m{text}\x1b[0m"),
        false => text.to_owned(),
    }
}
