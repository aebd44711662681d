//! A test in two processes.
//!
//! A test starts its own program once more, with the environment variable [`CHILD`]. The same test in that process is the
//! child, for example a server.

use std::{
    any, env,
    io::{self, BufRead, BufReader, Lines, Read},
    process::{ChildStderr, Command, Stdio},
    time::Duration,
};

use testkit::wait::within;
use tokio::{
    runtime::{Builder, Runtime},
    time::sleep,
};

const CHILD: &str = "TEST_CHILD";

/// Exit status of a child that ends on its own.
pub(crate) const ENDED: i32 = 42;

/// A child process, which is killed when it is dropped.
pub(crate) struct Process {
    pub(crate) child: system::Child,
    lines: Lines<BufReader<ChildStderr>>,
}

impl Process {
    /// Starts this test once more.
    pub(crate) fn start<T: Fn()>(_: T) -> Self {
        let (_, test) = any::type_name::<T>().split_once("::").expect("a path");
        let mut command = Command::new(env::current_exe().expect("a path"));
        command
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(CHILD, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = system::spawn(&mut command).expect("a process");
        let lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        Self { child, lines }
    }

    /// Waits for a line that starts with this word, and returns the rest of the line.
    pub(crate) fn wait_for(&mut self, word: &str) -> String {
        let mut seen = Vec::new();
        for line in &mut self.lines {
            let line = line.expect("text");
            if let Some(rest) = line.strip_prefix(word) {
                return rest.trim().to_owned();
            }
            seen.push(line);
        }
        panic!("the process has not written {word:?}: {seen:?}");
    }

    pub(crate) fn signal(&mut self, signal: &str) {
        system::send(&mut self.child, signal);
    }

    /// Closes the standard input of the process, for which [`wait_for_input`] waits.
    pub(crate) fn close_input(&mut self) {
        drop(self.child.stdin.take().expect("an open pipe"));
    }

    /// Waits for the end of the process, and returns its exit status.
    pub(crate) fn wait(mut self) -> Option<i32> {
        runtime().block_on(self.wait_until_ended())
    }

    /// Waits as [`wait`](Self::wait) does, in a runtime whose tasks run on.
    pub(crate) async fn wait_until_ended(&mut self) -> Option<i32> {
        let status = async {
            loop {
                match self.child.try_wait().expect("a status") {
                    Some(status) => return status.code(),
                    None => sleep(Duration::from_millis(2)).await,
                }
            }
        };
        within(status).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A process that has ended cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn is_child() -> bool {
    env::var_os(CHILD).is_some()
}

/// Blocks this thread until the standard input is closed.
pub(crate) fn wait_for_input() {
    let read = io::stdin().read_to_end(&mut Vec::new());
    read.expect("an open pipe");
}

pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

#[cfg(unix)]
mod system {
    use std::{io, process::Command};

    pub(crate) type Child = std::process::Child;

    pub(crate) fn spawn(command: &mut Command) -> io::Result<Child> {
        command.spawn()
    }

    pub(crate) fn send(child: &mut Child, signal: &str) {
        let kill = format!("kill -{signal} {}", child.id());
        let sent = Command::new("sh").args(["-c", &kill]).status();
        assert!(sent.expect("a shell").success(), "{kill}");
    }
}

/// The events of a console. Ctrl-Break is the only one that can be sent to one other process. Wine 8 does not send it.
#[cfg(windows)]
mod system {
    use std::{io, process::Command};

    use send_ctrlc::{Interruptible, InterruptibleChild, InterruptibleCommand};

    pub(crate) type Child = InterruptibleChild;

    /// Starts the process in a group of its own, which alone receives the events that are sent to it.
    pub(crate) fn spawn(command: &mut Command) -> io::Result<Child> {
        command.spawn_interruptible()
    }

    pub(crate) fn send(child: &mut Child, event: &str) {
        assert_eq!(event, "Ctrl-Break");
        child.terminate().expect("a console");
    }
}
