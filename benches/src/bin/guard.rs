//! Compares the instruction counts with the record. With `--record`, writes the record anew.
//!
//! With the compiler of the record, a count may be 2 % above it. With another compiler, the instructions over those of
//! the bare body are compared, with a tolerance of 10 %.

use std::{env, error::Error, fs, process::ExitCode};

use benchmarks::{
    instructions::{Counts, count, guarded},
    process::output,
};

/// The compiler, and then a count in each line.
const RECORD: &str = "benches/instructions.txt";

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let compiler = output("rustc", &["--version"])?.trim().to_owned();
    let counts = count(guarded());
    if env::args().nth(1).as_deref() == Some("--record") {
        let lines = counts
            .iter()
            .map(|(name, count)| format!("{name}: {count:.1}\n"));
        fs::write(RECORD, format!("{compiler}\n{}", lines.collect::<String>()))?;
        return Ok(ExitCode::SUCCESS);
    }

    let record = fs::read_to_string(RECORD)?;
    let (recorded_with, record) = record.split_once('\n').ok_or("the record is empty")?;
    let record: Counts = record
        .lines()
        .filter_map(|line| line.rsplit_once(": "))
        .map(|(name, count)| Ok((name.to_owned(), count.parse()?)))
        .collect::<Result<_, Box<dyn Error>>>()?;
    if !record.keys().eq(counts.keys()) {
        return Err(format!("{RECORD} has other entries; benches/run --record").into());
    }
    let same_compiler = recorded_with == compiler;
    if !same_compiler {
        println!("{RECORD} is of {recorded_with}, and this is {compiler}.");
        println!("Compared are the instructions over the bare body, with a tolerance of 10 %.");
    }
    let (mut passed, mut failed) = (0, 0);
    for (name, count) in &counts {
        let (count, recorded, limit) = if same_compiler {
            // The record has one decimal.
            (*count, record[name], record[name] * 1.02 + 1.0)
        } else {
            let (case, subject) = name.rsplit_once(", ").ok_or("a name without a subject")?;
            if subject == "bare" {
                continue;
            }
            let over_bare = |counts: &Counts| counts[name] - counts[&format!("{case}, bare")];
            let recorded = over_bare(&record);
            (over_bare(&counts), recorded, recorded * 1.1 + 10.0)
        };
        let mark = if count <= limit { "ok" } else { "FAILED" };
        passed += usize::from(count <= limit);
        failed += usize::from(count > limit);
        println!("{mark:6} {name}: {count:.1}, recorded {recorded:.1}");
    }
    println!("guard: {passed} passed, {failed} failed");
    if failed > 0 || passed == 0 {
        println!("To accept these counts: benches/run --record");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
