//! Two instances that share a log, and the Redis that has the log.
//!
//! ```text
//! cargo run -p instances [-- --port 3001 --port 3002]
//! curl -N http://127.0.0.1:3001/events/ada
//! curl -N http://127.0.0.1:3002/events/ada -H 'last-event-id: …'
//! curl http://127.0.0.1:3002/publish -d 'an event'
//! curl -X POST http://127.0.0.1:3002/logout/ada
//! ```
//!
//! Each `--port` starts an instance. With the environment variable `REDIS_URL`, the log is in that Redis, which instances in
//! other processes can share: `REDIS_URL=redis://127.0.0.1:… cargo run -p instances -- --port 3003`.

use std::{env, time::Duration};

use futures_util::future::try_join_all;
use instances::{Error, app::Instance, redis_server::RedisServer};
use tokio::{net::TcpListener, time};
use tower_sse_completion::{Shutdown, stop_signal};

/// Approximate maximum number of entries in the log. More entries than are published while a client is not connected.
const LIMIT: usize = 10_000;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let ports = ports()?;
    let (url, _redis) = match env::var("REDIS_URL") {
        Ok(url) => (url, None),
        Err(_) => {
            let redis = RedisServer::start().await?;
            tokio::spawn(publish(Instance::connect(&redis.url(), LIMIT).await?));
            (redis.url(), Some(redis))
        }
    };
    println!("REDIS_URL={url}");
    try_join_all(ports.into_iter().map(|port| serve(port, &url))).await?;
    Ok(())
}

/// Returns the values of all `--port` options, and 3001 and 3002 without an option.
fn ports() -> Result<Vec<u16>, Error> {
    let mut arguments = env::args().skip(1);
    let mut ports = Vec::new();
    while let Some(name) = arguments.next() {
        match (&name[..], arguments.next()) {
            ("--port", Some(port)) => ports.push(port.parse()?),
            _ => return Err("usage: instances [--port PORT]...".into()),
        }
    }
    Ok(if ports.is_empty() {
        vec![3001, 3002]
    } else {
        ports
    })
}

async fn serve(port: u16, url: &str) -> Result<(), Error> {
    let shutdown = Shutdown::new();
    let app = Instance::connect(url, LIMIT).await?.app(&shutdown)?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("curl -N http://{}/events/ada", listener.local_addr()?);
    axum::serve(listener, app)
        .with_graceful_shutdown(shutdown.after(stop_signal()?))
        .await?;
    Ok(())
}

/// Publishes a numbered event each second.
async fn publish(instance: Instance) {
    for number in 1.. {
        if let Err(error) = instance.log.publish(&format!("event {number}")).await {
            eprintln!("event {number} may be missing: {error}");
        }
        time::sleep(Duration::from_secs(1)).await;
    }
}
