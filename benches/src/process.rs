//! Other programs, and the counters of the kernel for them.

use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

/// A server process, which is killed when it is dropped.
#[derive(Debug)]
pub struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    /// Starts the server, and waits until it has printed `http://` and its address.
    ///
    /// # Errors
    ///
    /// Fails if the server does not start, or ends without an address.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let (output, writer) = io::pipe()?;
        command.stdin(Stdio::piped());
        command.stdout(writer.try_clone()?).stderr(writer);
        let process = command.spawn()?;
        // The command holds the other ends of the pipe, which would keep it open.
        command.stdout(io::stderr()).stderr(io::stderr());
        let mut server = Self {
            process,
            address: ([127, 0, 0, 1], 0).into(),
        };

        let mut lines = BufReader::new(output).lines();
        let mut log = String::new();
        for line in &mut lines {
            let line = line?;
            if let Some((_, address)) = line.split_once("http://") {
                let address = address.split_whitespace().next().unwrap_or_default();
                server.address = address.parse().map_err(io::Error::other)?;
                // A full pipe would block the server.
                thread::spawn(move || lines.for_each(drop));
                return Ok(server);
            }
            log += &line;
            log.push('\n');
        }
        let message = format!("{command:?} does not listen:\n{log}");
        Err(io::Error::other(message))
    }

    /// Writes a line to the input of the server.
    ///
    /// # Errors
    ///
    /// Fails if the server has ended.
    pub fn command(&mut self, line: &str) -> io::Result<()> {
        let input = self.process.stdin.as_mut().expect("a pipe");
        input.write_all(format!("{line}\n").as_bytes())
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the CPU time of all threads.
    ///
    /// # Errors
    ///
    /// Fails if the server has ended.
    pub fn cpu_time(&self) -> io::Result<Duration> {
        let mut nanoseconds = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.process.id()))? {
            let statistics = fs::read_to_string(thread?.path().join("schedstat"))?;
            nanoseconds += number(statistics.split_whitespace().next())?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// Returns the resident memory in bytes.
    ///
    /// # Errors
    ///
    /// Fails if the server has ended.
    pub fn memory(&self) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        Ok(1024 * number(line.and_then(|line| line.split_whitespace().next()))?)
    }

    /// Sends SIGTERM.
    ///
    /// # Errors
    ///
    /// Fails if the server has ended.
    pub fn terminate(&self) -> io::Result<()> {
        let process = self.process.id().to_string();
        output("sh", &["-c", "kill -TERM $0", &process]).map(drop)
    }

    /// Returns the exit status if the server has ended.
    ///
    /// # Errors
    ///
    /// Fails if the kernel does not return the status.
    pub fn status(&mut self) -> io::Result<Option<ExitStatus>> {
        self.process.try_wait()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error means that the process has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn number(text: Option<&str>) -> io::Result<u64> {
    let number = text.and_then(|text| text.parse().ok());
    number.ok_or_else(|| io::Error::other("no number in a file of /proc"))
}

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
