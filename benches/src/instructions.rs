//! The instruction counts: what is counted, and the record that new counts are held against.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::ChildStdout,
};

use crate::{
    callgrind::{Line, count, count_lines},
    subjects::SUBJECTS,
};

pub const EVENT_STREAM: &str = "text/event-stream";

/// What is polled: a name, the content type, how the upstream cuts, whether it is silent before each frame, and how many
/// frames make two runs.
pub struct Case {
    pub name: &'static str,
    content_type: &'static str,
    cut: &'static str,
    silence: &'static str,
    frames: [u64; 2],
}

const fn case(name: &'static str, cut: &'static str, silence: &'static str) -> Case {
    Case {
        name,
        content_type: EVENT_STREAM,
        cut,
        silence,
        frames: [1_000, 5_000],
    }
}

pub const CASES: [Case; 8] = [
    case("20 B", "20", "ready"),
    case("100 B", "100", "ready"),
    case("1 KiB", "1024", "ready"),
    case("64 KiB", "65536", "ready"),
    case("100 B and silence", "100", "silence"),
    case("8 KiB, misaligned", "chunks", "ready"),
    case("1 byte", "bytes", "ready"),
    Case {
        content_type: "application/json",
        ..case("not an event stream", "100", "ready")
    },
];

/// Where an event stream is delivered by an axum server, and by whom.
pub const SERVER_VARIANTS: [&str; 5] = [
    "bare",
    "hand_written",
    "hand_written_boxed",
    "do_nothing",
    "layer",
];

/// Who answers requests.
pub const REQUEST_SUBJECTS: [&str; 5] = ["bare", "do_nothing", "none", "shutdown", "all_options"];

/// What a program does, but for how many units of work.
pub struct Work<'a> {
    program: &'static str,
    arguments: Vec<&'a str>,
    units: [u64; 2],
    meanwhile: fn(&mut BufReader<ChildStdout>),
}

/// The figures that are recorded, by name: those of this crate, and the bare ones below them.
pub fn guarded() -> BTreeMap<String, f64> {
    let mut counts = BTreeMap::new();
    for case in &CASES {
        for subject in ["bare", "none", "token", "shutdown", "all_options"] {
            let name = format!("frame, {}, {subject}", case.name);
            counts.insert(name, case.frame(subject).count());
        }
    }
    for subject in ["bare", "none", "shutdown", "all_options"] {
        for content_type in ["application/json", EVENT_STREAM] {
            let name = format!("request, {content_type}, {subject}");
            counts.insert(name, request(subject, content_type, "2").count());
        }
    }
    counts
}

impl Case {
    /// A frame, the silence before it included.
    pub fn frame(&self, subject: &'static str) -> Work<'static> {
        debug_assert!(SUBJECTS.contains(&subject));
        Work {
            program: "frames",
            arguments: vec![subject, self.content_type, self.cut, self.silence],
            units: self.frames,
            meanwhile: |_output| {},
        }
    }
}

/// A request, and its answer of one frame, whose body is polled so often: twice, to its end.
pub fn request<'a>(subject: &'a str, content_type: &'a str, polls: &'a str) -> Work<'a> {
    Work {
        program: "requests",
        arguments: vec![subject, content_type, polls, "count"],
        units: [1_000, 5_000],
        meanwhile: |_output| {},
    }
}

/// An event that an axum server delivers by itself.
pub fn delivery(variant: &str) -> Work<'_> {
    Work {
        program: "server",
        arguments: vec![variant],
        units: [1_000, 5_000],
        meanwhile: |output| {
            let mut address = String::new();
            output
                .read_line(&mut address)
                .expect("the server's address");
            let mut server = TcpStream::connect(address.trim()).expect("a connection");
            let request = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
            server.write_all(request).expect("a request");
            let mut answer = Vec::new();
            server.read_to_end(&mut answer).expect("an answer");
        },
    }
}

impl Work<'_> {
    /// How many instructions a unit of it takes. Whatever the program does besides, such as starting, does not count.
    pub fn count(&self) -> f64 {
        let [few, many] = self.units.map(|units| self.run(units, count));
        self.per_unit(few, many)
    }

    /// The same, by the lines of the source that they come from.
    pub fn count_lines(&self) -> BTreeMap<Line, f64> {
        let [few, mut many] = self.units.map(|units| self.run(units, count_lines));
        for line in few.keys() {
            many.entry(line.clone()).or_default();
        }
        let per_unit = |(line, many)| {
            let few = few.get(&line).copied().unwrap_or(0);
            (line, self.per_unit(few, many))
        };
        many.into_iter().map(per_unit).collect()
    }

    fn run<T>(
        &self,
        units: u64,
        run: impl FnOnce(&str, &[&str], fn(&mut BufReader<ChildStdout>)) -> T,
    ) -> T {
        let units = units.to_string();
        let arguments = [&self.arguments[..], &[&units]].concat();
        run(&program(self.program), &arguments, self.meanwhile)
    }

    fn per_unit(&self, few: u64, many: u64) -> f64 {
        (many as f64 - few as f64) / (self.units[1] - self.units[0]) as f64
    }
}

/// A program of this package, which is beside the one that runs.
pub fn program(name: &str) -> String {
    let this = std::env::current_exe().expect("the path of this program");
    let program = this.with_file_name(name);
    assert!(program.exists(), "{} is not built", program.display());
    program.display().to_string()
}
