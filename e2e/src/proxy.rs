//! nginx, HAProxy or Caddy in front of two instances, for as long as a value lives.

use std::{
    fs,
    io::{Error, Result},
    net::{SocketAddr, TcpStream},
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

use crate::ports::free_address;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Nginx,
    Haproxy,
    Caddy,
}

/// What a proxy is started with: a file of the folder `proxies`, changed or as it is.
#[derive(Debug, Clone)]
pub struct Config {
    kind: Kind,
    text: String,
}

/// A process that is killed when this is dropped. Its files are in a folder that goes with it.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    directory: TempDir,
    /// Where it speaks HTTP/1.1.
    pub http1: SocketAddr,
    /// Where it speaks HTTP/2 without TLS.
    pub http2: SocketAddr,
}

/// The user and the group `nobody` of Debian. Proxies do not run as root, not even where the tests do.
const NOBODY: u32 = 65534;

const LONG: Duration = Duration::from_secs(30);

impl Kind {
    pub const ALL: [Self; 3] = [Self::Nginx, Self::Haproxy, Self::Caddy];

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
        // Debian has two of them where only root looks for commands.
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
    /// The file as it is.
    pub fn of(kind: Kind) -> Self {
        Self {
            kind,
            text: kind.template().to_owned(),
        }
    }

    /// Leaves a line out.
    ///
    /// # Panics
    ///
    /// Where the file has no such line: a test of what the line does would prove nothing.
    #[must_use]
    pub fn without(mut self, setting: &str) -> Self {
        let lines = self.text.lines();
        let (left_out, kept): (Vec<_>, Vec<_>) = lines.partition(|line| line.trim() == setting);
        assert_eq!(left_out.len(), 1, "{setting:?} in {:?}", self.kind);
        self.text = kept.join("\n") + "\n";
        self
    }

    /// Replaces a text wherever it stands.
    ///
    /// # Panics
    ///
    /// Where the file has no such text.
    #[must_use]
    pub fn replace(mut self, text: &str, by: &str) -> Self {
        assert!(self.text.contains(text), "{text:?} in {:?}", self.kind);
        self.text = self.text.replace(text, by);
        self
    }

    /// How long the proxy waits for the next bytes of an instance, where it has such a limit. The default is an hour.
    #[must_use]
    pub fn timeout(mut self, seconds: u32) -> Self {
        self.text = self.text.replace("{{timeout}}", &seconds.to_string());
        self
    }

    /// Starts the proxy, and waits until it takes connections.
    pub async fn start(self, instances: [SocketAddr; 2]) -> Result<Proxy> {
        let config = self.timeout(60 * 60);
        // Somebody else may take a port between the look at it and the start of the proxy.
        let mut last = None;
        for _ in 0..3 {
            match config.try_start(instances).await {
                Ok(proxy) => return Ok(proxy),
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("an error of the last of three tries"))
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
    pub fn log(&self) -> String {
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
                    "takes no connections: {}",
                    self.log()
                )));
            }
            time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Errors say that it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
