//! Counts instructions with callgrind.
//!
//! A program does its work between two marks, and prints the name of the work. callgrind writes a profile at each mark.

use std::{
    error::Error,
    fmt::Display,
    fs,
    hint::black_box,
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{ChildStdout, Command, Stdio},
};

use crate::{output, subjects::UNITS, tables::Tables, upstream::Shape, variants::VARIANTS};

/// callgrind writes a profile whenever this function is called.
#[inline(never)]
pub fn mark() {
    black_box(());
}

/// Does this work between two marks. The work has [`UNITS`] units.
pub fn measure(name: impl Display, mut work: impl FnMut()) {
    // The first time, the work allocates what is used later.
    work();
    mark();
    work();
    mark();
    println!("{name}");
}

/// Counts all work that is recorded.
///
/// # Errors
///
/// Fails if a program fails.
pub fn count_all() -> Result<Tables, Box<dyn Error>> {
    let mut tables = Tables::default();
    let mut add = |counts: Vec<(String, f64)>| {
        counts
            .iter()
            .for_each(|(name, count)| tables.add(name, *count));
    };
    add(count("counts", &[])?);
    for shape in [Shape::data_first(), Shape::event_first()] {
        for (variant, _) in VARIANTS {
            add(count("server", &[variant, shape.name])?);
        }
    }
    let memory = output(&program_path("memory"), &[])?;
    let memory = memory.lines().filter_map(|line| line.rsplit_once(": "));
    let memory = memory.map(|(name, count)| Ok((name.to_owned(), count.parse()?)));
    add(memory.collect::<Result<_, Box<dyn Error>>>()?);
    Ok(tables)
}

/// Runs a program of this package under callgrind, and returns the name and the instructions per unit of each work. Reads the
/// event stream of a program that prints its address. The profiles of the work stay in the folder `callgrind`.
///
/// # Errors
///
/// Fails if the program fails, or if its profiles do not match the names.
pub fn count(program: &str, arguments: &[&str]) -> Result<Vec<(String, f64)>, Box<dyn Error>> {
    let program = program_path(program);
    let folder = Path::new(&program).with_file_name("callgrind");
    fs::create_dir_all(&folder)?;
    let mut child = Command::new("valgrind")
        .args(["-q", "--tool=callgrind", "--compress-strings=no"])
        .arg("--dump-before=*callgrind::mark*")
        .arg(format!("--callgrind-out-file={}/out", folder.display()))
        .arg(&program)
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()?;
    let names = read_names(child.stdout.take().expect("a pipe"));
    if names.is_err() {
        // A server would wait for its client.
        child.kill()?;
    }
    let (status, names) = (child.wait()?, names?);
    if !status.success() {
        return Err(format!("{program} {arguments:?} failed").into());
    }
    let mut counts = Vec::new();
    for (number, name) in names.into_iter().enumerate() {
        // The profile before this one is that of the preparations.
        let profile = folder.join(name.replace([' ', '`', ';', ','], "_"));
        fs::rename(folder.join(format!("out.{}", 2 * number + 2)), &profile)?;
        let text = fs::read_to_string(&profile)?;
        let count = text.lines().find_map(|line| line.strip_prefix("summary: "));
        let count: f64 = count.ok_or("a profile without a summary")?.parse()?;
        counts.push((name, count / UNITS as f64));
    }
    Ok(counts)
}

/// Returns the path of a program of this package, which is in the folder of the running program.
///
/// # Panics
///
/// Panics if the program is not built.
pub fn program_path(name: &str) -> String {
    let this = std::env::current_exe().expect("the path of this program");
    let program = this.with_file_name(name);
    assert!(program.exists(), "{} is not built", program.display());
    program.display().to_string()
}

/// Reads the names that a program prints, and the event stream at the address that a server prints.
fn read_names(output: ChildStdout) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for line in BufReader::new(output).lines() {
        let line = line?;
        match line.strip_prefix("http://") {
            Some(address) => receive(address)?,
            None => names.push(line),
        }
    }
    Ok(names)
}

/// Reads an event stream to its end.
fn receive(address: &str) -> io::Result<()> {
    let mut server = TcpStream::connect(address)?;
    server.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")?;
    server.read_to_end(&mut Vec::new())?;
    Ok(())
}
