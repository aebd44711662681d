//! Counts instructions with callgrind.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{self, ChildStdout, Command, Stdio},
};

/// A file, and a line of it.
pub type Line = (String, u32);

/// Uses a program while it runs.
pub trait Use: FnOnce(&mut BufReader<ChildStdout>) {}

impl<F: FnOnce(&mut BufReader<ChildStdout>)> Use for F {}

/// All instructions of a run, while `meanwhile` uses the program.
pub fn count(program: &str, arguments: &[&str], meanwhile: impl Use) -> u64 {
    let log = run(program, arguments, Path::new("/dev/null"), meanwhile);
    let counted = log.lines().find_map(|line| line.split_once("Collected :"));
    counted
        .and_then(|(_, number)| number.trim().parse().ok())
        .unwrap_or_else(|| panic!("no count from {program} {arguments:?}:\n{log}"))
}

/// The instructions of a run, by the lines of the source that they come from.
pub fn count_lines(program: &str, arguments: &[&str], meanwhile: impl Use) -> BTreeMap<Line, u64> {
    let profile = env::temp_dir().join(format!("callgrind-{}", process::id()));
    run(program, arguments, &profile, meanwhile);
    let lines = fs::read_to_string(&profile).expect("callgrind has written a profile");
    fs::remove_file(&profile).expect("it is ours");
    read_profile(&lines)
}

fn run(program: &str, arguments: &[&str], profile: &Path, meanwhile: impl Use) -> String {
    let mut child = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--compress-strings=no",
            "--compress-pos=no",
        ])
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(program)
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("valgrind is installed");
    meanwhile(&mut BufReader::new(
        child.stdout.take().expect("it is piped"),
    ));
    let errors = BufReader::new(child.stderr.take().expect("it is piped"));
    let lines = errors.lines().map_while(Result::ok);
    let log = lines.map(|line| line + "\n").collect::<String>();
    let status = child.wait().expect("it was started");
    assert!(status.success(), "{program} {arguments:?} failed:\n{log}");
    log
}

/// Sums up what each line costs by itself.
fn read_profile(profile: &str) -> BTreeMap<Line, u64> {
    let mut costs = BTreeMap::new();
    let mut file = "";
    let mut lines = profile.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("calls=") {
            // What follows is what the call costs, which the lines of the callee say, too.
            lines.next();
        } else if let Some((kind, name)) = line.split_once('=') {
            if matches!(kind, "fl" | "fi" | "fe") {
                file = name;
            }
        } else if let Some((number, cost)) = line.split_once(' ')
            && let (Ok(number), Ok(cost)) = (number.parse(), cost.trim().parse::<u64>())
        {
            *costs.entry((file.to_owned(), number)).or_default() += cost;
        }
    }
    costs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profile_is_summed_up_by_file_and_line_without_the_cost_of_calls() {
        let profile = "events: Ir\n\nfl=a.rs\nfn=f\n7 2\nfi=b.rs\n1 30\nfe=a.rs\n7 4\n\
                       cfn=g\ncalls=1 9\n8 1000\n8 5\n\ntotals: 41\n";
        let cost = |file: &str, line, cost| ((file.to_owned(), line), cost);
        let expected = [cost("a.rs", 7, 6), cost("a.rs", 8, 5), cost("b.rs", 1, 30)];
        assert_eq!(read_profile(profile), BTreeMap::from(expected));
    }
}
