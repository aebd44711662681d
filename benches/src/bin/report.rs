//! Runs all benchmarks, and writes `BENCHMARKS.md`. Started by `benches/run` in the root of the repository.

use std::{error::Error, fs};

use benchmarks::{
    callgrind::{count, count_all},
    output,
    tables::Table,
    upstream::Shape,
};

const TEMPLATE: &str = include_str!("../../template.md");

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let mut tables = count_all()?;
    for (name, count) in count("counts", &["others"])? {
        tables.add(&name, count);
    }
    let table = |title| tables.get(title).to_string();
    let parts = [
        ("machine", machine()?),
        (
            "summary",
            summary(tables.get("frame"), tables.get("others")),
        ),
        ("delivery", table("delivery")),
        ("connection", table("connection")),
        ("frame", table("frame")),
        ("others", table("others")),
        ("start", table("start")),
        ("memory", table("memory")),
        ("not an event stream", table("not an event stream")),
    ];
    let fill = |report: String, (name, part): &(&str, String)| {
        report.replace(&format!("{{{{{name}}}}}"), part.trim_end())
    };
    let report = parts.iter().fold(TEMPLATE.to_owned(), fill);
    Ok(fs::write("BENCHMARKS.md", report)?)
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
        // The newest version is the last.
        let start = lock.rsplit_once(&format!("name = \"{name}\"\nversion = \""));
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
        "Measured on {} cores of {}, Linux {}, with {}, {}, {}.",
        lines("processor").count(),
        model.map_or("an unknown model", |(_, model)| model),
        output("uname", &["--kernel-release"])?.trim(),
        output("rustc", &["--version"])?.trim(),
        output("valgrind", &["--version"])?.trim(),
        crates.map(version).join(", "),
    ))
}

/// Compares the counts of a frame, as ranges over all shapes.
fn summary(frame: &Table, others: &Table) -> String {
    let groups = [(true, false), (true, true), (false, false), (false, true)];
    let of_shapes = |column: &str| {
        groups.map(|(is_whole, silence)| {
            let shapes = Shape::all().into_iter();
            let shapes = shapes.filter(|shape| shape.has_whole_events() == is_whole);
            range(shapes.map(|shape| frame.get(&shape.row(silence), column)))
        })
    };
    let of_any_shape = |column: &str| {
        let [ready, silence] =
            ["ready", "after a silence"].map(|row| others.get(row, column).to_string());
        [ready.clone(), silence.clone(), ready, silence]
    };
    let rows = [
        ("`take_until(…).chain(…)`", of_shapes("hand written")),
        ("`select!` in async-stream", of_any_shape("select")),
        ("axum's `Sse`, which encodes", of_any_shape("sse")),
        ("tower-http's `TraceLayer`", of_any_shape("trace")),
        (
            "tower-http's `ResponseBodyTimeoutLayer`",
            of_any_shape("timeout"),
        ),
        ("a layer that does nothing", of_shapes("do nothing")),
        ("**the layer** with a `Shutdown`", of_shapes("shutdown")),
        ("two layers with a `Shutdown`", of_shapes("two layers")),
        ("the layer with a `CancellationToken`", of_shapes("token")),
        ("the layer with all options", of_shapes("all options")),
    ];
    let rows = rows.map(|(name, cells)| format!("| {name} | {} |\n", cells.join(" | ")));
    format!(
        "| | whole events | after a silence | parts of events, CR | after a silence |\n\
         |---|--:|--:|--:|--:|\n{}",
        rows.concat()
    )
}

fn range(counts: impl Iterator<Item = f64> + Clone) -> String {
    let least = counts.clone().fold(f64::MAX, f64::min);
    let most = counts.fold(f64::MIN, f64::max);
    match least == most {
        true => format!("{least}"),
        false => format!("{least} to {most}"),
    }
}
