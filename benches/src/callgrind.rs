//! Counts instructions with callgrind.

use std::{
    io::{BufRead, BufReader},
    process::{ChildStdout, Command, Stdio},
};

/// How many instructions this program takes for each unit of work, which its last argument counts. Whatever it does
/// besides, such as starting, does not count.
pub fn instructions_per_unit(program: &str, arguments: &[&str], units: [u64; 2]) -> f64 {
    let [few, many] = units.map(|units| {
        let units = units.to_string();
        count(program, &[arguments, &[&units]].concat(), |_output| {})
    });
    (many as f64 - few as f64) / (units[1] - units[0]) as f64
}

/// All instructions of a run, while `meanwhile` uses the program.
pub fn count(
    program: &str,
    arguments: &[&str],
    meanwhile: impl FnOnce(&mut BufReader<ChildStdout>),
) -> u64 {
    let mut child = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            program,
        ])
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("valgrind is installed");
    meanwhile(&mut BufReader::new(
        child.stdout.take().expect("it is piped"),
    ));
    let errors = BufReader::new(child.stderr.take().expect("it is piped"));
    let mut counted = None;
    let mut log = String::new();
    for line in errors.lines().map_while(Result::ok) {
        if let Some((_, number)) = line.split_once("Collected :") {
            counted = number.trim().parse().ok();
        }
        log += &line;
        log.push('\n');
    }
    let status = child.wait().expect("it was started");
    assert!(status.success(), "{program} {arguments:?} failed:\n{log}");
    counted.unwrap_or_else(|| panic!("no count from {program} {arguments:?}:\n{log}"))
}
