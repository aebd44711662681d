//! The instruction counts: what is counted, and the record that new counts are held against.

use std::{
    collections::BTreeMap,
    fs, io,
    io::{BufRead, Read, Write},
    net::TcpStream,
    path::Path,
};

use crate::{
    callgrind::{count, instructions_per_unit},
    subjects::SUBJECTS,
};

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
        content_type: "text/event-stream",
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
pub const SERVER_VARIANTS: [&str; 4] = ["bare", "hand_written", "hand_written_boxed", "layer"];

/// Who answers requests.
pub const REQUEST_SUBJECTS: [&str; 3] = ["bare", "none", "shutdown"];

/// The figures that are recorded, by name: those of this crate, and the bare ones below them.
pub fn guarded() -> BTreeMap<String, f64> {
    let mut counts = BTreeMap::new();
    for case in &CASES {
        for subject in ["bare", "none", "token", "shutdown", "all_options"] {
            counts.insert(
                format!("frame, {}, {subject}", case.name),
                case.count(subject),
            );
        }
    }
    for subject in REQUEST_SUBJECTS {
        for content_type in ["application/json", "text/event-stream"] {
            let count = count_request(subject, content_type);
            counts.insert(format!("request, {content_type}, {subject}"), count);
        }
    }
    counts
}

impl Case {
    /// Instructions for each frame, the silence before it included.
    pub fn count(&self, subject: &str) -> f64 {
        debug_assert!(SUBJECTS.contains(&subject));
        let arguments = [subject, self.content_type, self.cut, self.silence];
        instructions_per_unit(&program("frames"), &arguments, self.frames)
    }
}

/// Instructions for a request and its answer of one frame.
pub fn count_request(subject: &str, content_type: &str) -> f64 {
    let arguments = [subject, content_type, "count"];
    instructions_per_unit(&program("requests"), &arguments, [1_000, 5_000])
}

/// Instructions of an axum server for each event that is delivered by itself.
pub fn count_delivery(variant: &str) -> f64 {
    const EVENTS: [u64; 2] = [1_000, 5_000];
    let [few, many] = EVENTS.map(|events| {
        let events = events.to_string();
        count(&program("server"), &[variant, &events], |output| {
            let mut address = String::new();
            output
                .read_line(&mut address)
                .expect("the server's address");
            let mut server = TcpStream::connect(address.trim()).expect("a connection");
            let request = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
            server.write_all(request).expect("a request");
            let mut answer = Vec::new();
            server.read_to_end(&mut answer).expect("an answer");
        })
    });
    (many as f64 - few as f64) / (EVENTS[1] - EVENTS[0]) as f64
}

/// A program of this package, which is beside the one that runs.
pub fn program(name: &str) -> String {
    let this = std::env::current_exe().expect("the path of this program");
    let program = this.with_file_name(name);
    assert!(program.exists(), "{} is not built", program.display());
    program.display().to_string()
}

pub fn read_record(path: &Path) -> BTreeMap<String, f64> {
    let record = fs::read_to_string(path).unwrap_or_default();
    let lines = record.lines().filter_map(|line| line.rsplit_once(": "));
    lines
        .filter_map(|(name, count)| Some((name.to_owned(), count.parse().ok()?)))
        .collect()
}

pub fn write_record(path: &Path, counts: &BTreeMap<String, f64>) -> io::Result<()> {
    let lines = counts
        .iter()
        .map(|(name, count)| format!("{name}: {count:.1}\n"));
    fs::write(path, lines.collect::<String>())
}
