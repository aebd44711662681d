//! The code that the benchmarks share.

use std::{io, process::Command};

pub mod callgrind;
pub mod subjects;
pub mod tables;
pub mod upstream;
pub mod variants;

/// Runs a program, and returns its output.
///
/// # Errors
///
/// Fails if the program fails, with its error output.
pub fn output(program: &str, arguments: &[&str]) -> io::Result<String> {
    let output = Command::new(program).args(arguments).output()?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("{program} failed: {errors}")));
    }
    String::from_utf8(output.stdout).map_err(io::Error::other)
}
