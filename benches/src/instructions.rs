//! Counts instructions with callgrind.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{ChildStdout, Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
};

use crate::variants::Variant;

pub const EVENT_STREAM: &str = "text/event-stream";
pub const JSON: &str = "application/json";

/// The frames that are counted: a name, and the arguments of the program `frames`.
pub const CASES: [(&str, [&str; 3]); 8] = [
    ("20 B", [EVENT_STREAM, "20", "ready"]),
    ("100 B", [EVENT_STREAM, "100", "ready"]),
    ("1 KiB", [EVENT_STREAM, "1024", "ready"]),
    ("64 KiB", [EVENT_STREAM, "65536", "ready"]),
    ("100 B and silence", [EVENT_STREAM, "100", "silence"]),
    ("8 KiB, misaligned", [EVENT_STREAM, "chunks", "ready"]),
    ("1 byte", [EVENT_STREAM, "bytes", "ready"]),
    ("not an event stream", [JSON, "100", "ready"]),
];

/// The subjects of the program `requests`.
pub const REQUEST_SUBJECTS: [&str; 5] = ["bare", "do_nothing", "none", "shutdown", "all_options"];

/// The connections whose calls are counted, and their calls.
pub const CONNECTIONS: [&str; 3] = ["bare", "wrapped", "write_timeout"];
pub const CALLS: [(&str, &str); 3] = [
    ("write", "write"),
    ("flush", "flush"),
    ("pending read", "read"),
];

/// The name of the delivery through a connection that a shutdown can cut.
pub const WRAPPED_DELIVERY: &str = "layer and wrapped connection";

/// Instructions per unit of work, by the name of the work.
pub type Counts = BTreeMap<String, f64>;

/// Work that a program of this package does in a given number of units.
#[derive(Debug, Clone)]
pub struct Work {
    pub name: String,
    program: &'static str,
    arguments: Vec<&'static str>,
}

/// The units of a short run and of a long run. The difference excludes the work that a program does once.
const UNITS: [u32; 2] = [1_000, 5_000];

/// Returns the work whose counts are recorded: that of this crate, and the bare body for comparison.
pub fn guarded() -> Vec<Work> {
    let frames = ["bare", "none", "token", "shutdown", "all_options"].map(frames);
    let requests = ["bare", "none", "shutdown", "all_options"].map(requests);
    let connections = CONNECTIONS.map(connections);
    let work = frames.into_iter().chain(requests);
    work.flatten()
        .chain(connections.into_iter().flatten())
        .collect()
}

/// Returns each call of a connection.
pub fn connections(subject: &'static str) -> Vec<Work> {
    let call = |(name, call)| Work {
        name: format!("connection, {name}, {subject}"),
        program: "connections",
        arguments: vec![subject, call],
    };
    CALLS.map(call).to_vec()
}

/// Returns a frame of each case, with the silence before the frame.
pub fn frames(subject: &'static str) -> Vec<Work> {
    let frame = |(name, arguments): (&str, [&'static str; 3])| Work {
        name: format!("frame, {name}, {subject}"),
        program: "frames",
        arguments: [&[subject], &arguments[..]].concat(),
    };
    CASES.map(frame).to_vec()
}

/// Returns a request for each content type, with its response of one frame, which is polled to its end.
pub fn requests(subject: &'static str) -> Vec<Work> {
    let request = |content_type| Work {
        name: format!("request, {content_type}, {subject}"),
        program: "requests",
        arguments: vec![subject, content_type, "2", "count"],
    };
    [JSON, EVENT_STREAM].map(request).to_vec()
}

/// Returns a request for an event stream whose body is not polled, and one whose body is polled once.
pub fn starts(subject: &'static str) -> Vec<Work> {
    let start = |(name, polls)| Work {
        name: format!("{name}, {subject}"),
        program: "requests",
        arguments: vec![subject, EVENT_STREAM, polls, "count"],
    };
    [("head", "0"), ("first event", "1")].map(start).to_vec()
}

/// Returns an event that an axum server delivers in a separate write.
pub fn delivery(variant: Variant) -> Work {
    Work {
        name: format!("delivery, {}", variant.name()),
        program: "server",
        arguments: vec![variant.name(), "bare"],
    }
}

/// Returns an event of the layer that an axum server delivers through a connection that a shutdown can cut.
pub fn wrapped_delivery() -> Work {
    Work {
        name: format!("delivery, {WRAPPED_DELIVERY}"),
        program: "server",
        arguments: vec![Variant::Layer.name(), "wrapped"],
    }
}

/// Counts the instructions of all this work, on all processors.
pub fn count(work: impl IntoIterator<Item = Work>) -> Counts {
    let left = Mutex::new(work.into_iter().collect::<Vec<_>>());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let count_rest = || {
        let mut counts = Counts::new();
        while let Some(work) = next() {
            let [short, long] = UNITS.map(|units| work.run(units));
            let units = UNITS[1] - UNITS[0];
            counts.insert(work.name, (long - short) / f64::from(units));
        }
        counts
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(count_rest)).collect();
        let counts = threads.into_iter().map(|thread| thread.join());
        counts
            .flat_map(|counts| counts.expect("no panic"))
            .collect()
    })
}

/// Returns the path of a program of this package, which is in the folder of the running program.
pub fn program(name: &str) -> String {
    let this = std::env::current_exe().expect("the path of this program");
    let program = this.with_file_name(name);
    assert!(program.exists(), "{} is not built", program.display());
    program.display().to_string()
}

impl Work {
    /// Returns the instructions of a whole run.
    fn run(&self, units: u32) -> f64 {
        let mut child = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(program(self.program))
            .args(&self.arguments)
            .arg(units.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("valgrind is installed");
        if self.program == "server" {
            receive(child.stdout.take().expect("a pipe"));
        }
        let output = child.wait_with_output().expect("a running child");
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{self:?} failed:\n{log}");
        let count = log.lines().find_map(|line| line.split_once("Collected :"));
        let count = count.and_then(|(_, count)| count.trim().parse().ok());
        count.unwrap_or_else(|| panic!("no count of {self:?}:\n{log}"))
    }
}

/// Reads the event stream of the server that prints its address.
fn receive(server: ChildStdout) {
    let mut address = String::new();
    let read = BufReader::new(server).read_line(&mut address);
    read.expect("the server's address");
    let mut server = TcpStream::connect(address.trim()).expect("a connection");
    let request = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
    server.write_all(request).expect("a request");
    let mut response = Vec::new();
    server.read_to_end(&mut response).expect("a response");
}
