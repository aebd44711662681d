//! Compares the counts of the layer with the record. With `--record`, writes the record anew.
//!
//! A count may be 2 % above that of the record. If the record is of another compiler, instructions may be 10 % above it.

use std::{env, error::Error, fs, process::ExitCode};

use benchmarks::{callgrind::count_all, output, tables::Tables};

/// The compiler, and then the tables.
const RECORD: &str = "benches/instructions.txt";

/// The columns that do not depend on this crate, and are recorded for comparison.
const OTHERS: [&str; 4] = ["bare", "hand written", "hand written, boxed", "do nothing"];

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let compiler = output("rustc", &["--version"])?;
    let tables = count_all()?;
    if env::args().nth(1).as_deref() == Some("--record") {
        fs::write(RECORD, format!("{compiler}{tables}"))?;
        return Ok(ExitCode::SUCCESS);
    }

    println!("{tables}");
    let text = fs::read_to_string(RECORD)?;
    let record = Tables::parse(&text).ok_or("the record has another form")?;
    let names = |tables: &Tables| tables.counts().map(|(name, _)| name).collect::<Vec<_>>();
    if names(&record) != names(&tables) {
        return Err(format!("{RECORD} has other entries; benches/run --record").into());
    }
    let is_same_compiler = text.starts_with(&compiler);
    let (mut passed, mut failed) = (0, 0);
    for ((name, count), (_, recorded)) in tables.counts().zip(record.counts()) {
        if OTHERS.iter().any(|other| name.ends_with(other)) {
            continue;
        }
        if count <= limit(&name, recorded, is_same_compiler) {
            passed += 1;
        } else {
            failed += 1;
            println!("FAILED {name}: {count}, recorded {recorded}");
        }
    }
    println!("guard: {passed} passed, {failed} failed");
    if failed > 0 || passed == 0 {
        println!("To accept these counts: benches/run --record");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn limit(name: &str, recorded: f64, is_same_compiler: bool) -> f64 {
    match is_same_compiler {
        _ if name.starts_with("memory") => recorded * 1.02 + 0.5,
        false => recorded * 1.1 + 10.0,
        // The runtime reads the clock with each event. A carry from nanoseconds to seconds makes a difference of 12.
        true if name.starts_with("delivery") => recorded * 1.02 + 15.0,
        true => recorded * 1.02 + 0.5,
    }
}
