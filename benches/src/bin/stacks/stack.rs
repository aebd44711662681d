//! The servers that are compared.

use std::{env, io, process::Command};

use benchmarks::process::Server;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stack {
    /// Starlette alone, which knows nothing of event streams.
    Starlette,
    StarletteWithTimeout,
    SseStarlette,
    SseStarletteWithTimeout,
    /// With a close event by hand, from its `shutdown_event`.
    SseStarletteFarewell,
    Axum,
    AxumWithLayer,
}

/// For `--timeout-graceful-shutdown`, in seconds.
const GRACE: &str = "1";

impl Stack {
    /// Those that differ under load.
    pub const LOADED: [Self; 4] = [
        Self::Starlette,
        Self::SseStarlette,
        Self::Axum,
        Self::AxumWithLayer,
    ];

    /// Those that differ in how they end.
    pub const ENDED: [Self; 7] = [
        Self::Starlette,
        Self::StarletteWithTimeout,
        Self::SseStarlette,
        Self::SseStarletteWithTimeout,
        Self::SseStarletteFarewell,
        Self::Axum,
        Self::AxumWithLayer,
    ];

    pub fn name(self) -> String {
        let (name, option) = match self {
            Self::Starlette => ("Starlette on uvicorn", false),
            Self::StarletteWithTimeout => ("Starlette on uvicorn", true),
            Self::SseStarlette => ("sse-starlette on uvicorn", false),
            Self::SseStarletteWithTimeout => ("sse-starlette on uvicorn", true),
            Self::SseStarletteFarewell => ("sse-starlette on uvicorn, close event by hand", false),
            Self::Axum => ("axum", false),
            Self::AxumWithLayer => ("axum with the layer", false),
        };
        match option {
            true => format!("{name} `--timeout-graceful-shutdown {GRACE}`"),
            false => name.to_owned(),
        }
    }

    /// Numbered events with this pause in between.
    pub fn path(self, interval_ms: u64) -> String {
        let page = match self {
            Self::Starlette | Self::StarletteWithTimeout => "plain",
            Self::SseStarletteFarewell => "farewell",
            _ => "events",
        };
        format!("/{page}?interval_ms={interval_ms}")
    }

    /// # Errors
    ///
    /// Where it does not start.
    pub fn start(self) -> io::Result<Server> {
        let mut command = match self {
            Self::Axum => serve("without")?,
            Self::AxumWithLayer => serve("layer")?,
            _ => uvicorn()?,
        };
        if let Self::StarletteWithTimeout | Self::SseStarletteWithTimeout = self {
            command.args(["--timeout-graceful-shutdown", GRACE]);
        }
        Server::start(&mut command)
    }
}

fn serve(side: &str) -> io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.args(["serve", side]);
    Ok(command)
}

/// With its faster event loop and parser.
fn uvicorn() -> io::Result<Command> {
    let program = env::var_os("UVICORN")
        .ok_or_else(|| io::Error::other("UVICORN is not set; use benches/python/run"))?;
    let mut command = Command::new(program);
    command.args([
        "app:app",
        "--port",
        "0",
        "--no-access-log",
        "--no-use-colors",
    ]);
    command.args(["--loop", "uvloop", "--http", "httptools"]);
    command.args(["--app-dir", concat!(env!("CARGO_MANIFEST_DIR"), "/python")]);
    Ok(command)
}
