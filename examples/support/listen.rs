//! The listener of an example, at an address from the command line.

use std::{env, error::Error};

use tokio::net::TcpListener;

/// Listens on the address of the command line, 127.0.0.1:3000 by default. Prints the address, and each command with the
/// address before its path.
pub(crate) async fn listen(commands: &[&str]) -> Result<TcpListener, Box<dyn Error>> {
    let (host, port) = host_and_port()?;
    let listener = TcpListener::bind((&host[..], port))
        .await
        .map_err(|error| format!("cannot listen on {host}:{port}: {error}"))?;
    let address = listener.local_addr()?;
    println!("http://{address} (process {})", std::process::id());
    for command in commands {
        println!(
            "  {}",
            command.replacen(" /", &format!(" http://{address}/"), 1)
        );
    }
    Ok(listener)
}

/// Returns the values of `--host` and `--port`. The variable `PORT` of the environment is the default of the latter.
pub(crate) fn host_and_port() -> Result<(String, u16), String> {
    let mut host = "127.0.0.1".to_owned();
    let mut port = env::var("PORT").unwrap_or_else(|_| "3000".to_owned());
    let mut arguments = env::args().skip(1);
    while let Some(name) = arguments.next() {
        match (&name[..], arguments.next()) {
            ("--host", Some(value)) => host = value,
            ("--port", Some(value)) => port = value,
            _ => return Err("the options are --host ADDRESS and --port PORT".to_owned()),
        }
    }
    let port = port.parse().map_err(|_| format!("not a port: {port:?}"))?;
    Ok((host, port))
}
