//! A `redis-server` that ends with this process.

use std::{
    fs,
    iter::repeat_with,
    net::{Ipv4Addr, TcpListener},
    path::Path,
    time::Duration,
};

use redis::{Client, RedisResult, cmd};
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time,
};

use crate::Error;

/// A server on a port of the loopback address, with its append-only file in a temporary directory.
#[derive(Debug)]
pub struct RedisServer {
    directory: TempDir,
    port: u16,
    child: Child,
}

/// Maximum time in which the server has to start.
const LIMIT: Duration = Duration::from_secs(30);

impl RedisServer {
    /// Starts a server with an empty log.
    pub async fn start() -> Result<Self, Error> {
        let directory = tempfile::tempdir()?;
        // Below the ports of outgoing connections, so that the port is still free when the server starts again.
        let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
        let ports = repeat_with(|| fastrand::u16(20_000..32_000)).take(100);
        let mut result = Err("no port is free".into());
        // Another process may take the port first.
        for port in ports.filter(free).take(3) {
            result = run(directory.path(), port).await.map(|child| (port, child));
            if result.is_ok() {
                break;
            }
        }
        let (port, child) = result?;
        Ok(Self {
            directory,
            port,
            child,
        })
    }

    /// Returns the URL of the server.
    pub fn url(&self) -> String {
        url(self.port)
    }

    /// Returns the ID of the process, unless it was killed.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Kills the server. Its files are kept.
    pub async fn kill(&mut self) -> Result<(), Error> {
        Ok(self.child.kill().await?)
    }

    /// Starts the server again, with the same port and files.
    pub async fn restart(&mut self) -> Result<(), Error> {
        self.child = run(self.directory.path(), self.port).await?;
        Ok(())
    }
}

fn url(port: u16) -> String {
    format!("redis://127.0.0.1:{port}")
}

/// Runs the program, and returns once the server responds.
async fn run(directory: &Path, port: u16) -> Result<Child, Error> {
    let log = directory.join("log");
    let mut command = Command::new("redis-server");
    command
        .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
        // An event that a client has received survives the end of the server.
        .args(["--appendonly", "yes", "--appendfsync", "always"])
        .args(["--save", "", "--logfile"])
        .arg(&log)
        .arg("--dir")
        .arg(directory);
    let mut child = command.kill_on_drop(true).spawn().map_err(|error| {
        format!("redis-server of Debian's package redis-server does not start: {error}")
    })?;
    time::timeout(LIMIT, wait_for_reply(&mut child, port))
        .await
        .unwrap_or_else(|_| Err("redis-server does not respond".into()))
        .map_err(|error| {
            let log = fs::read_to_string(log).unwrap_or_default();
            format!("{error}\n{log}")
        })?;
    Ok(child)
}

async fn wait_for_reply(child: &mut Child, port: u16) -> Result<(), Error> {
    // Another server may have the port.
    let own = format!("\r\nprocess_id:{}\r\n", child.id().unwrap_or_default());
    let client = Client::open(url(port))?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Err(format!("redis-server: {status}").into());
        }
        if let Ok(mut connection) = client.get_multiplexed_async_connection().await {
            let info: RedisResult<String> = cmd("INFO").query_async(&mut connection).await;
            let ready = [&own, "\r\nloading:0\r\n"];
            if info.is_ok_and(|info| ready.iter().all(|line| info.contains(line))) {
                return Ok(());
            }
        }
        time::sleep(Duration::from_millis(10)).await;
    }
}
