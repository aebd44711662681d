//! Runs all benchmarks, and writes `BENCHMARKS.md` and its plot. Started by `benches/run` in the root of the repository.

use std::{error::Error, fs};

use benchmarks::{
    instructions::{
        CALLS, CASES, CONNECTIONS, Counts, EVENT_STREAM, JSON, REQUEST_SUBJECTS, WRAPPED_DELIVERY,
        connections, count, delivery, frames, program, requests, starts, wrapped_delivery,
    },
    process::output,
    subjects::SUBJECTS,
    variants::VARIANTS,
};

const TEMPLATE: &str = include_str!("../../template.md");

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let frames = SUBJECTS.into_iter().flat_map(frames);
    let requests = REQUEST_SUBJECTS.into_iter().flat_map(requests);
    let starts = REQUEST_SUBJECTS.into_iter().flat_map(starts);
    let deliveries = VARIANTS.map(|(_, variant)| delivery(variant));
    let deliveries = deliveries.into_iter().chain([wrapped_delivery()]);
    let connections = CONNECTIONS.into_iter().flat_map(connections);
    let work = frames.chain(requests).chain(starts).chain(deliveries);
    let counts = count(work.chain(connections));

    fs::write("benches/deliveries.svg", plot(&counts))?;
    let parts = [
        ("machine", machine()?),
        ("aims", aims(&counts)),
        ("deliveries", deliveries_table(&counts)),
        ("connections", connections_table(&counts)),
        ("frames", frames_table(&counts)),
        ("requests", requests_table(&counts)),
        ("streams", streams_table(&counts)?),
        ("scan", output(&program("scan"), &[])?),
        ("tcp", output(&program("tcp"), &["180"])?),
        (
            "drain",
            output(&program("stacks"), &["drain", "10000", "3"])?,
        ),
        ("python", output("benches/python/run", &[])?),
    ];
    let fill = |report: String, (name, part): &(&str, String)| {
        report.replace(&format!("{{{{{name}}}}}"), part.trim_end())
    };
    fs::write(
        "BENCHMARKS.md",
        parts.iter().fold(TEMPLATE.to_owned(), fill),
    )?;
    Ok(())
}

/// Describes the machine and the versions of the crates that are measured.
fn machine() -> Result<String> {
    let processors = fs::read_to_string("/proc/cpuinfo")?;
    let lines = |name| {
        processors
            .lines()
            .filter(move |line| line.starts_with(name))
    };
    let model = lines("model name")
        .next()
        .and_then(|line| line.split_once(": "));
    let lock = fs::read_to_string("Cargo.lock")?;
    let version = |name: &str| {
        let start = lock.split_once(&format!("name = \"{name}\"\nversion = \""));
        let version = start.and_then(|(_, rest)| rest.split_once('"'));
        format!("{name} {}", version.map_or("", |(version, _)| version))
    };
    let crates = [
        "axum",
        "bytes",
        "http-body-util",
        "hyper",
        "memchr",
        "tokio",
        "tokio-util",
        "tower-http",
    ];
    Ok(format!(
        "Measured on {} cores of {}, Linux {}, with {}, {}, {}; the Python packages are those of \
         `benches/python/requirements.txt`.",
        lines("processor").count(),
        model.map_or("an unknown model", |(_, model)| model),
        output("uname", &["--kernel-release"])?.trim(),
        output("rustc", &["--version"])?.trim(),
        output("valgrind", &["--version"])?.trim(),
        crates.map(version).join(", "),
    ))
}

/// Compares the instructions over those of the bare body with the aims of the design.
fn aims(counts: &Counts) -> String {
    let rows = [
        ("frame, 100 B", "none", 38.0),
        ("frame, 100 B", "shutdown", 42.0),
        ("frame, 100 B and silence", "shutdown", 80.0),
        ("frame, 100 B and silence", "token", 220.0),
        ("frame, 8 KiB, misaligned", "none", 1200.0),
        ("frame, not an event stream", "shutdown", 7.0),
        ("delivery", "layer", 220.0),
        ("request, application/json", "shutdown", 200.0),
    ];
    let rows = rows.map(|(work, layer, aim)| {
        let over_bare = |subject| over_bare(counts, work, subject);
        let reached = over_bare(layer).round() <= aim;
        vec![
            words(&format!("{work}, {layer}")),
            format!("{aim:.0}"),
            format!("{:.0}", over_bare(layer)),
            if reached { "yes" } else { "no" }.to_owned(),
            format!("{:.0}", over_bare("do_nothing")),
        ]
    });
    table(&["", "aim", "layer", "reached", "*do nothing*"], rows)
}

fn over_bare(counts: &Counts, work: &str, subject: &str) -> f64 {
    counts[&format!("{work}, {subject}")] - counts[&format!("{work}, bare")]
}

fn deliveries_table(counts: &Counts) -> String {
    let names = VARIANTS.into_iter().map(|(name, _)| name);
    let rows = names.chain([WRAPPED_DELIVERY]).map(|name| {
        let count = counts[&format!("delivery, {name}")];
        let over = over_bare(counts, "delivery", name);
        vec![words(name), format!("{count:.0}"), format!("{over:.0}")]
    });
    table(&["", "instructions", "over the bare body"], rows)
}

fn connections_table(counts: &Counts) -> String {
    let rows = CONNECTIONS.map(|subject| {
        let cells = CALLS.map(|(call, _)| match subject {
            "bare" => format!("({:.0})", counts[&format!("connection, {call}, bare")]),
            _ => {
                let over = over_bare(counts, &format!("connection, {call}"), subject);
                format!("{over:.0}")
            }
        });
        [words(subject)].into_iter().chain(cells).collect()
    });
    let calls = CALLS.map(|(call, _)| call);
    let head: Vec<&str> = [""].into_iter().chain(calls).collect();
    table(&head, rows)
}

fn frames_table(counts: &Counts) -> String {
    let rows = SUBJECTS.map(|subject| {
        let cells = CASES.map(|(case, _)| match subject {
            "bare" => format!("({:.0})", counts[&format!("frame, {case}, bare")]),
            _ => format!(
                "{:.0}",
                over_bare(counts, &format!("frame, {case}"), subject)
            ),
        });
        [words(subject)].into_iter().chain(cells).collect()
    });
    let head: Vec<&str> = [""]
        .into_iter()
        .chain(CASES.map(|(case, _)| case))
        .collect();
    table(&head, rows)
}

fn requests_table(counts: &Counts) -> String {
    let rows = REQUEST_SUBJECTS.map(|subject| {
        let count = counts[&format!("request, {JSON}, {subject}")];
        let over = over_bare(counts, &format!("request, {JSON}"), subject);
        vec![words(subject), format!("{count:.0}"), format!("{over:.0}")]
    });
    table(&["", "instructions", "over the bare response"], rows)
}

fn streams_table(counts: &Counts) -> Result<String> {
    let mut rows = Vec::new();
    for subject in REQUEST_SUBJECTS {
        let measured = |polls, what| -> Result<f64> {
            let arguments = [subject, EVENT_STREAM, polls, what, "4096"];
            Ok(output(&program("requests"), &arguments)?.trim().parse()?)
        };
        let head = counts[&format!("head, {subject}")];
        let first_event = counts[&format!("first event, {subject}")] - head;
        let cells = [
            head,
            first_event,
            measured("2", "allocations")?,
            measured("1", "memory")?,
        ];
        let cells = cells.map(|cell| format!("{cell:.0}"));
        rows.push([words(subject)].into_iter().chain(cells).collect());
    }
    let head = [
        "",
        "request and response, instructions",
        "first event, instructions",
        "allocations",
        "bytes held",
    ];
    Ok(table(&head, rows))
}

fn words(name: &str) -> String {
    name.replace('_', " ")
}

fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let rows = rows
        .into_iter()
        .map(|row| format!("| {} |\n", row.join(" | ")));
    let rows: String = rows.collect();
    format!(
        "| {} |\n|{}\n{rows}",
        head.join(" | "),
        "---|".repeat(head.len())
    )
}

/// Draws the instructions over those of the bare body as bars.
fn plot(counts: &Counts) -> String {
    let variants = &VARIANTS[1..];
    let over = |name: &str| over_bare(counts, "delivery", name);
    let most = variants
        .iter()
        .map(|(name, _)| over(name))
        .fold(1.0, f64::max);
    let bars = (1..).zip(variants).map(|(row, (name, _))| {
        let (y, over) = (40 * row, over(name));
        let (width, text) = (400.0 * over / most, y + 17);
        format!(
            "<text x=\"140\" y=\"{text}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"150\" y=\"{y}\" width=\"{width:.0}\" height=\"24\" fill=\"#1f5fd0\"/>\n\
             <text x=\"{:.0}\" y=\"{text}\">{over:.0}</text>\n",
            words(name),
            158.0 + width,
        )
    });
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"640\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"640\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"150\" y=\"24\">Instructions for each delivered event, over the bare body</text>\n\
         {}</svg>\n",
        bars.collect::<String>(),
        height = 40 * (variants.len() + 1),
    )
}
