//! nginx, HAProxy or Caddy before two instances.

use std::{
    fs,
    io::{Error, Result},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::{
        fs::{MetadataExt, chown},
        process::CommandExt,
    },
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::time;

use crate::event_source::Version;

/// The program of a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Nginx,
    Haproxy,
    Caddy,
}

/// The configuration of a proxy: a file of the folder `proxies`, with changes.
#[derive(Debug, Clone)]
pub struct Config {
    kind: Kind,
    text: String,
}

/// A running proxy. Its process is killed and its folder is removed when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    directory: TempDir,
    http1: SocketAddr,
    /// Without TLS.
    http2: SocketAddr,
}

/// The user and the group `nobody` of Debian. Proxies do not run as root, even if the tests do.
const NOBODY: u32 = 65534;

const LONG: Duration = Duration::from_secs(30);

/// Returns an unused loopback address. Its port is outside of the range for outgoing connections, so that a server that
/// restarts finds the port free again.
///
/// # Errors
///
/// Fails if no port is free.
pub fn free_address() -> Result<SocketAddr> {
    let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, fastrand::u16(20_000..32_000)));
    let listener = (0..100).find_map(|_| listen().ok());
    listener.map_or_else(listen, Ok)?.local_addr()
}

impl Kind {
    /// All proxies.
    pub const ALL: [Self; 3] = [Self::Nginx, Self::Haproxy, Self::Caddy];

    /// Returns the name of the program.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Caddy => "caddy",
        }
    }

    fn template(self) -> &'static str {
        match self {
            Self::Nginx => include_str!("../proxies/nginx.conf"),
            Self::Haproxy => include_str!("../proxies/haproxy.cfg"),
            Self::Caddy => include_str!("../proxies/Caddyfile"),
        }
    }

    fn command(self, config: &Path) -> Command {
        // Debian installs two of the proxies outside of the `PATH` of users.
        let system = Path::new("/usr/sbin").join(self.name());
        let mut command = match system.exists() {
            true => Command::new(system),
            false => Command::new(self.name()),
        };
        match self {
            Self::Nginx => command.args(["-e", "stderr", "-c"]).arg(config),
            Self::Haproxy => command.args(["-db", "-f"]).arg(config),
            Self::Caddy => command
                .args(["run", "--adapter", "caddyfile", "--config"])
                .arg(config),
        };
        command
    }
}

impl Config {
    /// Returns the file without changes.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            text: kind.template().to_owned(),
        }
    }

    /// Removes a line.
    ///
    /// # Panics
    ///
    /// Panics unless the file has exactly one such line: a test of the effect of the line would prove nothing.
    #[must_use]
    pub fn remove_line(mut self, setting: &str) -> Self {
        let lines = self.text.lines();
        let (left_out, kept): (Vec<_>, Vec<_>) = lines.partition(|line| line.trim() == setting);
        assert_eq!(left_out.len(), 1, "{setting:?} in {:?}", self.kind);
        self.text = kept.join("\n") + "\n";
        self
    }

    /// Replaces every occurrence of this text.
    ///
    /// # Panics
    ///
    /// Panics if the file has no such text.
    #[must_use]
    pub fn replace(mut self, text: &str, by: &str) -> Self {
        assert!(self.text.contains(text), "{text:?} in {:?}", self.kind);
        self.text = self.text.replace(text, by);
        self
    }

    /// Sets the maximum time for which nginx and HAProxy wait for the next bytes of an instance. The default is an hour.
    #[must_use]
    pub fn timeout(mut self, seconds: u32) -> Self {
        self.text = self.text.replace("{{timeout}}", &seconds.to_string());
        self
    }

    /// Starts the proxy, and waits until it accepts connections.
    ///
    /// # Errors
    ///
    /// Fails if the proxy is not installed or refuses its configuration.
    pub async fn start(self, instances: [SocketAddr; 2]) -> Result<Proxy> {
        let config = self.timeout(60 * 60);
        // Another process may take the port before the proxy does.
        for _ in 0..2 {
            if let Ok(proxy) = config.try_start(instances).await {
                return Ok(proxy);
            }
        }
        config.try_start(instances).await
    }

    async fn try_start(&self, instances: [SocketAddr; 2]) -> Result<Proxy> {
        let (http1, http2) = (free_address()?, free_address()?);
        let directory = tempfile::Builder::new()
            .prefix(self.kind.name())
            .tempdir()?;
        let path = directory.path();
        let text = self
            .text
            .replace("{{directory}}", &path.display().to_string())
            .replace("{{http1_port}}", &http1.port().to_string())
            .replace("{{http2_port}}", &http2.port().to_string())
            .replace("{{instance_a}}", &instances[0].to_string())
            .replace("{{instance_b}}", &instances[1].to_string());
        let config = path.join("config");
        fs::write(&config, text)?;
        let log = fs::File::create(path.join("log"))?;

        let mut command = self.kind.command(&config);
        command
            .current_dir(path)
            .envs(["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"].map(|name| (name, path)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        if fs::metadata("/proc/self")?.uid() == 0 {
            chown(path, Some(NOBODY), Some(NOBODY))?;
            command.uid(NOBODY).gid(NOBODY);
        }
        let child = command.spawn().map_err(|error| {
            Error::other(format!("{} does not start: {error}", self.kind.name()))
        })?;
        let mut proxy = Proxy {
            child,
            directory,
            http1,
            http2,
        };
        proxy.ready().await?;
        Ok(proxy)
    }
}

impl Proxy {
    /// Returns the address for this version of HTTP.
    pub fn address(&self, version: Version) -> SocketAddr {
        match version {
            Version::Http1 => self.http1,
            Version::Http2 => self.http2,
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    async fn ready(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Err(Error::other(format!("{status}: {}", self.log())));
            }
            if [self.http1, self.http2]
                .map(TcpStream::connect)
                .iter()
                .all(Result::is_ok)
            {
                return Ok(());
            }
            if started.elapsed() > LONG {
                return Err(Error::other(format!(
                    "the proxy accepts no connections: {}",
                    self.log()
                )));
            }
            time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // An error means that the process has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
