//! Runs everything and writes `BENCHMARKS.md` and its plot. Started by `benches/run`, from the root of the repository.

use std::{env, error::Error, fs, path::Path};

use benchmarks::{
    instructions::{
        CASES, EVENT_STREAM, REQUEST_SUBJECTS, SERVER_VARIANTS, Work, delivery, program, request,
    },
    process::output,
    subjects::SUBJECTS,
};
use plotters::prelude::*;

const TEMPLATE: &str = include_str!("../../template.md");

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let deliveries = deliveries();
    plot(&deliveries)?;
    let parts = [
        ("machine", machine()?),
        ("aims", aims(&deliveries)),
        ("deliveries", deliveries_table(&deliveries)),
        (
            "delivery profile",
            profile(&delivery("layer"), &delivery("bare")),
        ),
        ("frames", frames()),
        (
            "frame profile",
            profile(&CASES[1].frame("shutdown"), &CASES[1].frame("bare")),
        ),
        ("requests", requests()),
        ("request profile", profile(&json("shutdown"), &json("bare"))),
        ("streams", streams()?),
        ("scan", output(&program("scan"), &[])?),
        ("scale", output(&program("scale"), &[])?),
        ("tcp", output(&program("tcp"), &[])?),
        ("load", output("e2e/load", &[])?),
        ("python", output("benches/python/run", &[])?),
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
        "Measured on {count} cores of {}, Linux {}, with {}, {}, {}; the Python packages are those of \
         `benches/python/requirements.txt`.",
        value("model name"),
        output("uname", &["--kernel-release"])?.trim(),
        output("rustc", &["--version"])?.trim(),
        output("valgrind", &["--version"])?.trim(),
        crates()?,
    ))
}

/// The versions of what is measured beside this crate, or carries it.
fn crates() -> Result<String> {
    let lock = fs::read_to_string("Cargo.lock")?;
    let version = |name: &&str| {
        let start = lock.split_once(&format!("name = \"{name}\"\nversion = \""));
        let version = start.and_then(|(_, rest)| rest.split_once('"'));
        format!(
            "{name} {}",
            version.map_or("unknown", |(version, _)| version)
        )
    };
    let names = [
        "axum",
        "bytes",
        "http-body-util",
        "hyper",
        "memchr",
        "tokio",
        "tokio-util",
        "tower-http",
    ];
    Ok(names.iter().map(version).collect::<Vec<_>>().join(", "))
}

/// What the layer was to cost at most, in instructions, and what it costs.
fn aims(deliveries: &[(&str, f64)]) -> String {
    let frame = |name: &str, aim: Aim, layer, by_hand| {
        let case = CASES.iter().find(|case| case.name == name).expect("a case");
        let bare = case.frame("bare").count();
        let over = |subject| case.frame(subject).count() - bare;
        let by_hand = Option::map(by_hand, over);
        aim.row(
            &format!("frame, {name}, {layer}"),
            over(layer),
            over("do_nothing"),
            by_hand,
        )
    };
    let delivery = |variant| {
        let found = deliveries.iter().find(|(name, _)| *name == variant);
        found.expect("a variant").1 - deliveries[0].1
    };
    let request = |subject| json(subject).count();
    let third = Aim::OfByHand(3.0);
    let by_hand = Some("hand_written");
    let rows = [
        frame("100 B", Aim::AtMost(25.0), "shutdown", by_hand),
        frame("100 B", third, "shutdown", by_hand),
        frame("100 B and silence", third, "shutdown", by_hand),
        frame("100 B and silence", third, "token", by_hand),
        frame("100 B and silence", third, "all_options", by_hand),
        frame("8 KiB, misaligned", third, "shutdown", by_hand),
        frame("not an event stream", Aim::AtMost(5.0), "shutdown", None),
        Aim::AtMost(100.0).row(
            "delivery in an axum server, shutdown",
            delivery("layer"),
            delivery("do_nothing"),
            Some(delivery("hand_written_boxed")),
        ),
        Aim::AtMost(100.0).row(
            "request that is not for an event stream, shutdown",
            request("shutdown") - request("bare"),
            request("do_nothing") - request("bare"),
            None,
        ),
    ];
    table(
        &["", "aim", "layer", "reached", "*do nothing*", "by hand"],
        rows,
    )
}

#[derive(Clone, Copy)]
enum Aim {
    AtMost(f64),
    /// At most so great a part of what a user would write.
    OfByHand(f64),
}

impl Aim {
    fn row(self, name: &str, layer: f64, do_nothing: f64, by_hand: Option<f64>) -> Vec<String> {
        let (aim, most) = match self {
            Self::AtMost(most) => (format!("{most:.0}"), most),
            Self::OfByHand(part) => {
                let most = by_hand.expect("what a user would write") / part;
                (format!("{most:.0}, a third of by hand"), most)
            }
        };
        // As exact as it is printed.
        let reached = if layer.round() <= most.round() {
            "yes"
        } else {
            "no"
        };
        vec![
            words(name),
            aim,
            format!("{layer:.0}"),
            reached.to_owned(),
            format!("{do_nothing:.0}"),
            by_hand.map_or(String::new(), |by_hand| format!("{by_hand:.0}")),
        ]
    }
}

/// Instructions of the server for each event, by variant.
fn deliveries() -> Vec<(&'static str, f64)> {
    SERVER_VARIANTS
        .map(|variant| (variant, delivery(variant).count()))
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
    let bare = CASES.each_ref().map(|case| case.frame("bare").count());
    let rows = SUBJECTS.iter().map(|subject| {
        let counts = CASES.iter().zip(&bare).map(|(case, bare)| match *subject {
            "bare" => format!("({bare:.0})"),
            subject => format!("{:.0}", case.frame(subject).count() - bare),
        });
        [words(subject)].into_iter().chain(counts).collect()
    });
    let names = CASES.iter().map(|case| case.name);
    let head: Vec<&str> = [""].into_iter().chain(names).collect();
    table(&head, rows)
}

/// A request whose answer is no event stream.
fn json(subject: &str) -> Work<'_> {
    request(subject, "application/json", "2")
}

fn requests() -> String {
    let counts = REQUEST_SUBJECTS.map(|subject| json(subject).count());
    let rows = REQUEST_SUBJECTS.iter().zip(counts).map(|(subject, count)| {
        let over = count - counts[0];
        vec![words(subject), format!("{count:.0}"), format!("{over:.0}")]
    });
    table(&["", "instructions", "over the bare response"], rows)
}

fn streams() -> Result<String> {
    let measured = |subject, polls, what, requests| -> Result<f64> {
        let arguments = [subject, EVENT_STREAM, polls, what, requests];
        Ok(output(&program("requests"), &arguments)?.trim().parse()?)
    };
    let mut times = REQUEST_SUBJECTS.map(|_| Vec::new());
    for _ in 0..21 {
        for (subject, times) in REQUEST_SUBJECTS.iter().zip(&mut times) {
            times.push(measured(subject, "0", "time", "10000")?);
        }
    }
    let mut rows = Vec::new();
    for (subject, mut times) in REQUEST_SUBJECTS.into_iter().zip(times) {
        let wrap = request(subject, EVENT_STREAM, "0").count();
        let first_event = request(subject, EVENT_STREAM, "1").count() - wrap;
        times.sort_by(f64::total_cmp);
        rows.push(vec![
            words(subject),
            format!("{wrap:.0}"),
            format!("{:.0}", times[10]),
            format!("{first_event:.0}"),
            format!("{:.0}", measured(subject, "2", "allocations", "1000")?),
            format!("{:.0}", measured(subject, "1", "memory", "4096")?),
        ]);
    }
    let head = [
        "",
        "request and response, instructions",
        "the same, ns",
        "first event, instructions",
        "allocations",
        "bytes held",
    ];
    Ok(table(&head, rows))
}

/// The lines of the source to which one does more than the other.
fn profile(more: &Work<'_>, less: &Work<'_>) -> String {
    let (mut costs, less) = (more.count_lines(), less.count_lines());
    for (line, cost) in less {
        *costs.entry(line).or_default() -= cost;
    }
    let mut costs: Vec<_> = costs.into_iter().collect();
    costs.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    let all: f64 = costs.iter().map(|(_, cost)| cost).sum();
    costs.retain(|(_, cost)| *cost >= 2.5);
    let rest = all - costs.iter().map(|(_, cost)| cost).sum::<f64>();
    let rows = costs.iter().map(|((file, number), cost)| {
        let source = fs::read_to_string(file).unwrap_or_default();
        let line = source.lines().nth(*number as usize - 1);
        let source = line.map_or(String::new(), |line| {
            format!("`{}`", line.trim().replace('|', "\\|"))
        });
        vec![
            format!("{cost:.0}"),
            format!("{}:{number}", known(file)),
            source,
        ]
    });
    let rest = [vec![
        format!("{rest:.0}"),
        "all other lines".into(),
        String::new(),
    ]];
    table(&["instructions", "line", ""], rows.chain(rest))
}

/// The part of a path that does not depend on the machine.
fn known(path: &str) -> &str {
    let here = env::current_dir().expect("the root of the repository");
    if let Ok(path) = Path::new(path).strip_prefix(here) {
        return path.to_str().unwrap_or_default();
    }
    let crates = path.split_once("/registry/src/");
    let library = path.split_once("/rustc/");
    match crates
        .or(library)
        .and_then(|(_, path)| path.split_once('/'))
    {
        Some((_version, path)) => path,
        None => path,
    }
}

fn words(name: &str) -> String {
    name.replace('_', " ")
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
        .disable_mesh()
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
