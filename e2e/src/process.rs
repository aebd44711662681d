//! Servers that a program of this package runs in processes of their own.

use std::{error::Error, io, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time,
};

/// The process of a server, which is killed when it is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    output: Lines<BufReader<ChildStdout>>,
}

/// Maximum time until a condition holds.
const LONG: Duration = Duration::from_secs(120);

impl Process {
    /// Starts this program again with these arguments, and returns when the program has printed its first line.
    ///
    /// # Errors
    ///
    /// Fails if the program ends before that.
    pub async fn start(arguments: &[String]) -> Result<Self, Box<dyn Error>> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = child.stdout.take().ok_or("no output")?;
        let mut output = BufReader::new(output).lines();
        match output.next_line().await? {
            Some(_ready) => Ok(Self { child, output }),
            None => Err(format!("{arguments:?} does not start").into()),
        }
    }

    /// Sends SIGTERM.
    ///
    /// # Errors
    ///
    /// Fails if the process has ended.
    pub async fn terminate(&self) -> Result<(), Box<dyn Error>> {
        let id = self.child.id().ok_or("the instance has ended")?;
        // `kill` is a builtin of every shell.
        let kill = format!("kill -TERM {id}");
        let signalled = Command::new("sh").args(["-c", &kill]).status().await?;
        match signalled.success() {
            true => Ok(()),
            false => Err("the instance has ended".into()),
        }
    }

    /// Returns the next line that the process prints, or `None` at the end of its output.
    ///
    /// # Errors
    ///
    /// Fails if the output is not text.
    pub async fn line(&mut self) -> io::Result<Option<String>> {
        self.output.next_line().await
    }

    /// Returns `true` if the process ends within this time.
    ///
    /// # Errors
    ///
    /// Fails if the kernel does not return the status.
    pub async fn ends_within(&mut self, time: Duration) -> io::Result<bool> {
        match time::timeout(time, self.child.wait()).await {
            Ok(status) => status.map(|_| true),
            Err(_) => Ok(false),
        }
    }

    /// Kills the process.
    ///
    /// # Errors
    ///
    /// Fails if the process has ended.
    pub async fn kill(&mut self) -> io::Result<()> {
        self.child.kill().await
    }
}

/// Returns once the condition holds.
///
/// # Errors
///
/// Fails if the condition does not hold after two minutes.
pub async fn until(event: &str, condition: impl Fn() -> bool) -> Result<(), String> {
    let wait = async {
        while !condition() {
            time::sleep(Duration::from_millis(20)).await;
        }
    };
    time::timeout(LONG, wait)
        .await
        .map_err(|_| format!("timed out waiting until {event}"))
}

/// Raises the limit of open files.
///
/// # Errors
///
/// Fails if the system does not permit this number.
pub fn allow_files(files: u64) -> io::Result<()> {
    match rlimit::increase_nofile_limit(files)? >= files {
        true => Ok(()),
        false => Err(io::Error::other(format!("{files} files have to be open"))),
    }
}
