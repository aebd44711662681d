//! A round over TCP: starts a server and its clients, drains the server, and waits for both.

use std::{
    env,
    process::{ExitStatus, Stdio},
    time::SystemTime,
};

use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use crate::{
    LONG, Result, WITHOUT_LAYER,
    measure::{Ends, Round, resident},
};

/// One of the processes of a round, killed with it.
pub struct Process {
    child: Child,
    /// It ends with its input, and to wait for a child would close that.
    _input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

pub async fn round(layer: &str, streams: usize) -> Result<Round> {
    let number = streams.to_string();
    let mut server = Process::start(&["server", layer, &number])?;
    let address = server.line().await?;
    let empty = resident(server.id()?)?;
    let mut clients = Process::start(&["clients", &address, &number])?;
    clients.line().await?;
    let full = resident(server.id()?)?;

    let start = SystemTime::now();
    server.terminate().await?;
    let bound = if layer == "with" { LONG } else { WITHOUT_LAYER };
    let exit = match timeout(bound, server.child.wait()).await {
        Ok(exit) => {
            succeeded(exit?)?;
            Some(SystemTime::now())
        }
        // It waits for its clients.
        Err(_) => None,
    };
    if exit.is_none() {
        server.child.kill().await?;
    }
    let ends: Ends = clients.line().await?.parse()?;
    succeeded(clients.child.wait().await?)?;
    Ok(Round::new(ends, start, exit, full.saturating_sub(empty)))
}

impl Process {
    /// Runs another role of this program.
    pub fn start(arguments: &[&str]) -> Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = child.stdout.take().ok_or("no output")?;
        let lines = BufReader::new(output).lines();
        let _input = child.stdin.take();
        Ok(Self {
            child,
            _input,
            lines,
        })
    }

    pub async fn line(&mut self) -> Result<String> {
        let line = timeout(LONG, self.lines.next_line()).await??;
        Ok(line.ok_or("a process of the round has failed")?)
    }

    fn id(&self) -> Result<u32> {
        Ok(self.child.id().ok_or("the process has ended")?)
    }

    async fn terminate(&self) -> Result<()> {
        let id = self.id()?.to_string();
        // A builtin of the shell, so that no package is needed for it.
        let mut kill = Command::new("sh");
        succeeded(kill.args(["-c", "kill -TERM \"$0\"", &id]).status().await?)
    }
}

fn succeeded(exit: ExitStatus) -> Result<()> {
    match exit.success() {
        true => Ok(()),
        false => Err(exit.to_string().into()),
    }
}
