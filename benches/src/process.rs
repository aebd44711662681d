//! Programs as processes of their own: servers, and what the kernel says of them, and others.

use std::{
    fs, io,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, ExitStatus},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

/// It is killed when this is dropped.
#[derive(Debug)]
pub struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    /// Starts it, and waits until it has printed `http://` and its address.
    ///
    /// # Errors
    ///
    /// Where it cannot be started, or ends without that.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let (output, writer) = io::pipe()?;
        command.stdout(writer.try_clone()?).stderr(writer);
        let process = command.spawn()?;
        // The command has the other ends of the pipe, and they would keep it open.
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
                // It must not wait for somebody to read its log.
                thread::spawn(move || lines.for_each(drop));
                return Ok(server);
            }
            log += &line;
            log.push('\n');
        }
        Err(io::Error::other(format!(
            "{command:?} does not listen:\n{log}"
        )))
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What its threads have used so far.
    ///
    /// # Errors
    ///
    /// Where it has ended.
    pub fn cpu_time(&self) -> io::Result<Duration> {
        let mut nanoseconds = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.process.id()))? {
            let statistics = fs::read_to_string(thread?.path().join("schedstat"))?;
            nanoseconds += number(statistics.split_whitespace().next())?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// How many bytes of its memory are resident.
    ///
    /// # Errors
    ///
    /// Where it has ended.
    pub fn memory(&self) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        Ok(1024 * number(line.and_then(|line| line.split_whitespace().next()))?)
    }

    /// Sends SIGTERM.
    ///
    /// # Errors
    ///
    /// Where it has ended.
    pub fn terminate(&self) -> io::Result<()> {
        let process = Pid::from_child(&self.process);
        Ok(kill_process(process, Signal::TERM)?)
    }

    /// Whether it has ended, without waiting.
    ///
    /// # Errors
    ///
    /// Where the kernel does not say.
    pub fn status(&mut self) -> io::Result<Option<ExitStatus>> {
        self.process.try_wait()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Where it has ended already, so much the better.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn number(text: Option<&str>) -> io::Result<u64> {
    let number = text.and_then(|text| text.parse().ok());
    number.ok_or_else(|| io::Error::other("the kernel says something else"))
}

/// What this program prints.
///
/// # Errors
///
/// Where it cannot be started or fails: then with what it says.
pub fn output(program: &str, arguments: &[&str]) -> io::Result<String> {
    let output = Command::new(program).args(arguments).output()?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("{program} failed: {errors}")));
    }
    String::from_utf8(output.stdout).map_err(io::Error::other)
}
