//! The program: `cargo run -p instances`.

#[allow(dead_code, reason = "the other tests use the rest")]
mod support;

use std::{net::SocketAddr, process::Stdio};

use testkit::wait::within;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use self::support::{Client, signal};

#[tokio::test]
async fn one_command_starts_redis_and_instances_which_end_at_a_signal() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_instances"))
        .args(["--port", "0", "--port", "0"])
        .env_remove("REDIS_URL")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the program");
    let mut lines = BufReader::new(program.stdout.take().expect("a pipe")).lines();
    let mut line = async || {
        within(lines.next_line())
            .await
            .expect("text")
            .expect("a line")
    };
    assert!(line().await.starts_with("REDIS_URL=redis://127.0.0.1:"));
    let address = |command: String| -> SocketAddr {
        let address = command
            .strip_prefix("curl -N http://")
            .and_then(|url| url.split('/').next());
        address
            .and_then(|address| address.parse().ok())
            .expect("an address")
    };
    let (a, b) = (address(line().await), address(line().await));

    let mut client = Client::start(a, "ada").await;
    let event = client.next().await;
    let (word, number) = event.data.split_once(' ').expect("two words");
    assert_eq!(word, "event");
    let next = 1 + number.parse::<u64>().expect("a number");
    let mut client = Client::open(b, "ada", &event.last_event_id).await;
    assert_eq!(client.next().await.data, format!("event {next}"));

    signal("TERM", program.id().expect("a process"));
    while client.next().await.event_type != "close" {}
    assert!(within(program.wait()).await.expect("a status").success());
}
