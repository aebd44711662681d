//! Holds the instruction counts against the record: more than 2 % above it fails. With `--record`, writes the record anew.

use std::{collections::BTreeMap, env, error::Error, fs, process::ExitCode};

use benchmarks::{instructions::guarded, process::output};

/// The compiler, and then a figure in each line.
const RECORD: &str = "benches/instructions.txt";

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let compiler = output("rustc", &["--version"])?.trim().to_owned();
    if env::args().nth(1).as_deref() == Some("--record") {
        let figures = guarded().into_iter();
        let lines = figures.map(|(name, count)| format!("{name}: {count:.1}\n"));
        let record = format!("{compiler}\n{}", lines.collect::<String>());
        fs::write(RECORD, record)?;
        return Ok(ExitCode::SUCCESS);
    }

    let record = fs::read_to_string(RECORD)?;
    let (recorded_with, record) = record.split_once('\n').ok_or("the record is empty")?;
    if recorded_with != compiler {
        println!("NOT compared: {RECORD} is of {recorded_with}, but this is {compiler}");
        println!("To record what this one makes: benches/run --record");
        return Ok(ExitCode::SUCCESS);
    }
    let record: BTreeMap<&str, f64> = record
        .lines()
        .filter_map(|line| line.rsplit_once(": "))
        .map(|(name, count)| Ok((name, count.parse()?)))
        .collect::<Result<_, Box<dyn Error>>>()?;

    let counts = guarded();
    let mut failed = 0;
    for (name, count) in &counts {
        let recorded = record.get(name.as_str()).copied().unwrap_or(0.0);
        // A rounded instruction is no regression.
        let passes = *count <= recorded * 1.02 + 1.0;
        failed += usize::from(!passes);
        let mark = if passes { "ok" } else { "FAILED" };
        println!("{mark:6} {name}: {count:.1}, recorded {recorded:.1}");
    }
    println!("{} passed, {failed} failed", counts.len() - failed);
    if failed > 0 {
        println!("If it has to be so: benches/run --record");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
