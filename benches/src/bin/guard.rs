//! Holds the instruction counts against the record: more than 2 % above it fails. `--record` writes the record anew.

use std::{path::Path, process::ExitCode};

use benchmarks::instructions::{guarded, read_record, write_record};

const RECORD: &str = "benches/instructions.txt";

fn main() -> ExitCode {
    let path = Path::new(RECORD);
    let counts = guarded();
    if std::env::args().nth(1).as_deref() == Some("--record") {
        return match write_record(path, &counts) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("cannot write {RECORD}: {error}");
                ExitCode::FAILURE
            }
        };
    }

    let record = read_record(path);
    let mut failed = 0;
    for (name, count) in &counts {
        let recorded = record.get(name).copied();
        // A rounded instruction is no regression.
        let passes = recorded.is_some_and(|recorded| *count <= recorded * 1.02 + 1.0);
        failed += usize::from(!passes);
        let mark = if passes { "ok" } else { "FAILED" };
        println!(
            "{mark:6} {name}: {count:.1}, recorded {}",
            recorded.unwrap_or(f64::NAN)
        );
    }
    println!("{} passed, {failed} failed", counts.len() - failed);
    if failed > 0 {
        println!("If it has to be so: benches/run --record");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
