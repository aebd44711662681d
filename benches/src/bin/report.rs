//! Runs everything and writes `BENCHMARKS.md` and its plot. Started by `benches/run`, from the root of the repository.

use std::{error::Error, fs, process::Command};

use benchmarks::{
    instructions::{
        CASES, REQUEST_SUBJECTS, SERVER_VARIANTS, count_delivery, count_request, program,
    },
    subjects::SUBJECTS,
};
use plotters::prelude::*;

const TEMPLATE: &str = include_str!("../../template.md");
const EVENT_STREAM: &str = "text/event-stream";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let deliveries = deliveries();
    plot(&deliveries)?;
    let parts = [
        ("machine", machine()?),
        ("deliveries", deliveries_table(&deliveries)),
        ("frames", frames()),
        ("requests", requests()?),
        ("scan", run(&program("scan"), &[])?),
        ("scale", run(&program("scale"), &[])?),
        ("tcp", run(&program("tcp"), &[])?),
        ("python", run("benches/python/run", &[])?),
    ];
    let report = parts
        .iter()
        .fold(TEMPLATE.to_owned(), |report, (name, part)| {
            report.replace(&format!("{{{{{name}}}}}"), part.trim_end())
        });
    fs::write("BENCHMARKS.md", report)?;
    Ok(())
}

fn machine() -> Result<String> {
    let processors = fs::read_to_string("/proc/cpuinfo")?;
    let value = |name| {
        let line = processors.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(": "))
            .map_or("unknown", |(_, value)| value)
    };
    let count = processors
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    Ok(format!(
        "Measured on {count} cores of {}, Linux {}, with {} and {}.",
        value("model name"),
        run("uname", &["--kernel-release"])?.trim(),
        run("rustc", &["--version"])?.trim(),
        run("valgrind", &["--version"])?.trim(),
    ))
}

/// Instructions of the server for each event, by variant.
fn deliveries() -> Vec<(&'static str, f64)> {
    SERVER_VARIANTS
        .map(|variant| (variant, count_delivery(variant)))
        .to_vec()
}

fn deliveries_table(deliveries: &[(&str, f64)]) -> String {
    let bare = deliveries[0].1;
    let rows = deliveries.iter().map(|(variant, count)| {
        let over = count - bare;
        vec![words(variant), format!("{count:.0}"), format!("{over:.0}")]
    });
    table(&["", "instructions", "over the bare body"], rows)
}

fn frames() -> String {
    let bare = CASES.each_ref().map(|case| case.count("bare"));
    let rows = SUBJECTS.iter().map(|subject| {
        let counts = CASES.iter().zip(&bare).map(|(case, bare)| match *subject {
            "bare" => format!("({bare:.0})"),
            subject => format!("{:.0}", case.count(subject) - bare),
        });
        [words(subject)].into_iter().chain(counts).collect()
    });
    let names = CASES.iter().map(|case| case.name);
    let head: Vec<&str> = [""].into_iter().chain(names).collect();
    table(&head, rows)
}

fn requests() -> Result<String> {
    let mut rows = Vec::new();
    for subject in REQUEST_SUBJECTS {
        let allocations = [subject, EVENT_STREAM, "allocations", "1000"];
        rows.push(vec![
            words(subject),
            format!("{:.0}", count_request(subject, "application/json")),
            format!("{:.0}", count_request(subject, EVENT_STREAM)),
            run(&program("requests"), &allocations)?.trim().to_owned(),
        ]);
    }
    let head = ["", "not an event stream", "event stream", "its allocations"];
    Ok(table(&head, rows))
}

fn words(name: &str) -> String {
    name.replace('_', " ")
}

fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output()?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{program} failed: {errors}").into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let rows: String = rows.into_iter().map(|row| line(&row)).collect();
    format!("{}|{}\n{rows}", line(&head), "---|".repeat(head.len()))
}

/// What each way to end a stream costs over the bare body.
fn plot(deliveries: &[(&str, f64)]) -> Result<()> {
    let bare = deliveries[0].1;
    let bars: Vec<(&str, f64)> = deliveries[1..]
        .iter()
        .map(|(name, count)| (*name, count - bare))
        .collect();
    let most = bars.iter().map(|bar| bar.1).fold(0.0, f64::max);
    let area = SVGBackend::new("benches/deliveries.svg", (640, 240)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(
            "Instructions for each delivered event, over the bare body",
            ("sans-serif", 16),
        )
        .margin(12)
        .x_label_area_size(28)
        .y_label_area_size(140)
        .build_cartesian_2d(0.0..most * 1.1, (0..bars.len()).into_segmented())?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_label_formatter(&|y| match y {
            SegmentValue::CenterOf(index) => {
                bars.get(*index).map_or("", |bar| bar.0).replace('_', " ")
            }
            _ => String::new(),
        })
        .draw()?;
    chart.draw_series(bars.iter().enumerate().map(|(index, (_, count))| {
        let corners = [
            (0.0, SegmentValue::Exact(index)),
            (*count, SegmentValue::Exact(index + 1)),
        ];
        let mut bar = Rectangle::new(corners, RGBColor(31, 95, 208).filled());
        bar.set_margin(8, 8, 0, 0);
        bar
    }))?;
    area.present()?;
    Ok(())
}
