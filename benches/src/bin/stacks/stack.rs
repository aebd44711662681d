//! The servers that are compared.

use std::{env, io, process::Command};

use benchmarks::process::Server;

#[derive(Debug)]
pub struct Stack {
    pub name: &'static str,
    /// The stack differs from the others under load.
    pub is_loaded: bool,
    /// The stack is part of the comparison with Python.
    pub is_compared: bool,
    program: Program,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Program {
    /// Uvicorn, with a page of `app.py` and these options.
    Uvicorn(&'static str, &'static [&'static str]),
    /// This program as a server, with this variant.
    Axum(&'static str),
}

const GRACE: &[&str] = &["--timeout-graceful-shutdown", "1"];

const fn stack(name: &'static str, is_loaded: bool, program: Program) -> Stack {
    Stack {
        name,
        is_loaded,
        is_compared: true,
        program,
    }
}

pub const STACKS: [Stack; 8] = [
    stack("Starlette on uvicorn", true, Program::Uvicorn("plain", &[])),
    stack(
        "Starlette on uvicorn `--timeout-graceful-shutdown 1`",
        false,
        Program::Uvicorn("plain", GRACE),
    ),
    stack(
        "sse-starlette on uvicorn",
        true,
        Program::Uvicorn("events", &[]),
    ),
    stack(
        "sse-starlette on uvicorn `--timeout-graceful-shutdown 1`",
        false,
        Program::Uvicorn("events", GRACE),
    ),
    stack(
        "sse-starlette on uvicorn, hand-written close event",
        false,
        Program::Uvicorn("farewell", &[]),
    ),
    stack("axum", true, Program::Axum("bare")),
    Stack {
        is_compared: false,
        ..stack(
            "axum, hand-written close event",
            false,
            Program::Axum("hand written"),
        )
    },
    stack("axum with the layer", true, Program::Axum("shutdown")),
];

impl Stack {
    pub fn is_axum(&self) -> bool {
        matches!(self.program, Program::Axum(_))
    }

    pub fn has_layer(&self) -> bool {
        self.program == Program::Axum("shutdown")
    }

    /// Returns the path of numbered events with this pause between them.
    pub fn path(&self, interval_ms: u64) -> String {
        let page = match self.program {
            Program::Uvicorn(page, _) => page,
            Program::Axum(_) => "events",
        };
        format!("/{page}?interval_ms={interval_ms}")
    }

    /// Starts the server.
    ///
    /// # Errors
    ///
    /// Fails if the server does not start.
    pub fn start(&self) -> io::Result<Server> {
        let mut command = match self.program {
            Program::Axum(variant) => {
                let mut command = Command::new(env::current_exe()?);
                command.args(["serve", variant]);
                command
            }
            Program::Uvicorn(_, options) => {
                let uvicorn = env::var_os("UVICORN").ok_or_else(|| {
                    io::Error::other("UVICORN is not set; use benches/python/run")
                })?;
                let mut command = Command::new(uvicorn);
                command
                    .args([
                        "app:app",
                        "--port",
                        "0",
                        "--no-access-log",
                        "--no-use-colors",
                    ])
                    .args(["--loop", "uvloop", "--http", "httptools", "--app-dir"])
                    .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/python"))
                    .args(options);
                command
            }
        };
        Server::start(&mut command)
    }
}
