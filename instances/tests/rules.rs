//! The rules of `docs/instances.md`, with a real Redis.

mod support;

use std::{pin::pin, time::Duration};

use futures_util::{Stream, StreamExt, future::join_all, poll};
use instances::log::{FIRST, Id, Log, Message};
use redis::pipe;
use testkit::{
    decoder::Event,
    wait::{until, within},
};
use tokio::time;

use self::support::{Client, Server, connect, instance, log_command, redis, signal};

const LIMIT: usize = 10_000;

async fn next(messages: &mut (impl Stream<Item = Message> + Unpin)) -> Message {
    within(messages.next()).await.expect("a message")
}

/// Opens the stream of a client again until the instance is connected to Redis, and returns the first event.
async fn resume(server: &Server, client: &Client) -> (Client, Event) {
    within(async {
        loop {
            let mut client = Client::open(server.address, "ada", client.last_event_id()).await;
            let event = client.next().await;
            if event.event_type != "close" {
                return (client, event);
            }
            time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
}

fn event(id: Id, data: &str) -> Message {
    Message::Event(id, data.into())
}

#[tokio::test]
async fn ids_are_those_of_the_log_on_every_instance() {
    let redis = redis().await;
    let (a, b) = (instance(&redis, LIMIT).await, instance(&redis, LIMIT).await);
    let mut clients = [
        Client::start(a.address, "ada").await,
        Client::start(b.address, "bob").await,
    ];
    for (server, data) in [(&a, "one"), (&b, "two"), (&a, "two\nlines")] {
        let id = server.log.publish(data).await.expect("a log").to_string();
        for client in &mut clients {
            let event = client.next().await;
            assert_eq!((event.data.as_str(), &event.last_event_id), (data, &id));
        }
    }
    let log: Vec<(String, Vec<String>)> =
        log_command(&mut connect(&redis).await, "XRANGE", &["-", "+"]).await;
    let data: Vec<_> = log[1..].iter().map(|(_, fields)| &fields[1]).collect();
    assert_eq!(data, ["one", "two", "two\nlines"]);
    assert_eq!(clients[0].last_event_id(), log[3].0);
}

#[tokio::test]
async fn client_resumes_on_another_instance() {
    let redis = redis().await;
    let (a, b) = (instance(&redis, LIMIT).await, instance(&redis, LIMIT).await);
    let client = Client::start(a.address, "ada").await;
    // The first event may be published while the client is not connected.
    let start = client.last_event_id().to_owned();
    drop(client);
    a.log.publish("1").await.expect("a log");
    let mut client = Client::open(b.address, "ada", &start).await;
    assert_eq!(client.data().await, ["1"]);

    // More than a page of the log.
    let data: Vec<String> = (2..=250).map(|number| number.to_string()).collect();
    for data in &data {
        b.log.publish(data).await.expect("a log");
    }
    let first = client.next().await;
    assert_eq!(first.data, "2");
    let mut client = Client::open(a.address, "ada", &first.last_event_id).await;
    for data in &data[1..] {
        assert_eq!(client.next().await.data, *data);
    }
    b.log.publish("live").await.expect("a log");
    assert_eq!(client.data().await, ["live"]);
}

#[tokio::test]
async fn event_that_is_published_after_the_replay_was_read_arrives_once() {
    let redis = redis().await;
    let log = instance(&redis, LIMIT).await.log;
    let start = log.publish("0").await.expect("a log");
    let mut messages = pin!(log.follow(start));
    // This poll sends the command that reads the log. The reply has no event.
    assert!(poll!(messages.next()).is_pending());
    let first = log.publish("1").await.expect("a log");
    // Once another stream has received the event without the log, the reader has sent the event.
    let mut live = pin!(log.follow(start));
    assert_eq!(next(&mut live).await, event(first, "1"));
    time::sleep(Duration::from_millis(300)).await;

    assert_eq!(next(&mut messages).await, event(first, "1"));
    let second = log.publish("2").await.expect("a log");
    assert_eq!(next(&mut messages).await, event(second, "2"));
}

#[tokio::test]
async fn many_streams_that_read_from_the_log_take_turns() {
    let redis = redis().await;
    let log = instance(&redis, LIMIT).await.log;
    let start = log.publish("0").await.expect("a log");
    let mut connection = connect(&redis).await;
    let mut config = redis::cmd("CONFIG");
    config.arg("SET").arg("slowlog-log-slower-than").arg(0);
    config.exec_async(&mut connection).await.expect("an option");
    let mut streams: Vec<_> = (0..50).map(|_| Box::pin(log.follow(start))).collect();
    for messages in &mut streams {
        // Each poll sends a command, or waits for a turn.
        assert!(poll!(messages.next()).is_pending());
    }
    let first = log.publish("1").await.expect("a log");
    let mut slowlog = redis::cmd("SLOWLOG");
    slowlog.arg("GET").arg(-1);
    type Commands = Vec<(i64, i64, i64, Vec<String>, String, String)>;
    let commands: Commands = slowlog.query_async(&mut connection).await.expect("a log");
    let mut names = commands.iter().rev().map(|command| command.3[0].as_str());
    let before = names.by_ref().take_while(|name| *name != "XADD");
    assert!(
        before.filter(|name| *name == "XRANGE").count() < 20,
        "{commands:?}"
    );
    for messages in &mut streams {
        assert_eq!(next(messages).await, event(first, "1"));
    }
}

#[tokio::test]
async fn lagging_stream_reads_from_the_log_again() {
    let redis = redis().await;
    let log = instance(&redis, LIMIT).await.log;
    let start = log.publish("0").await.expect("a log");
    let mut slow = Box::pin(log.follow(start));
    let published = publish_unpolled(&mut slow, &log, start).await;
    for (number, id) in (1..).zip(published) {
        assert_eq!(next(&mut slow).await, event(id, &number.to_string()));
    }
}

#[tokio::test]
async fn lagging_stream_whose_cursor_was_trimmed_receives_a_reset() {
    let redis = redis().await;
    let log = instance(&redis, LIMIT).await.log;
    let start = log.publish("0").await.expect("a log");
    let mut slow = Box::pin(log.follow(start));
    let published = publish_unpolled(&mut slow, &log, start).await;
    // Leaves entries that the reader of the instance may not have read yet.
    let _: i64 = log_command(&mut connect(&redis).await, "XTRIM", &["MAXLEN", "100"]).await;
    assert_eq!(next(&mut slow).await, Message::Reset(published[399]));
    let last = log.publish("last").await.expect("a log");
    assert_eq!(next(&mut slow).await, event(last, "last"));
}

/// Publishes 400 events while a stream at the end of the log is not polled. Another stream receives the events.
async fn publish_unpolled(
    slow: &mut (impl Stream<Item = Message> + Unpin),
    log: &Log,
    start: Id,
) -> Vec<Id> {
    // The stream has read the log, and receives the entries of the reader.
    let waiting = Duration::from_millis(300);
    assert!(time::timeout(waiting, slow.next()).await.is_err());
    let mut fast = pin!(log.follow(start));
    let mut published = Vec::new();
    for number in 1..=400 {
        let data = number.to_string();
        let id = log.publish(&data).await.expect("a log");
        assert_eq!(next(&mut fast).await, event(id, &data));
        published.push(id);
    }
    published
}

#[tokio::test]
async fn client_whose_cursor_is_not_in_the_log_receives_a_reset() {
    let redis = redis().await;
    // Before the instance starts, so that its reader does not miss the entry that is trimmed.
    let mut connection = connect(&redis).await;
    let add = ["*", "data", ""];
    let trimmed: String = log_command(&mut connection, "XADD", &add).await;
    let mut newest: String = log_command(&mut connection, "XADD", &add).await;
    let _: i64 = log_command(&mut connection, "XTRIM", &["MAXLEN", "1"]).await;
    let server = instance(&redis, LIMIT).await;
    let first = FIRST.to_string();
    let cursors = [
        "",
        "7",
        "+",
        "7-x",
        "0-0",
        &first,
        &trimmed,
        "99999999999999-0",
    ];
    for cursor in cursors {
        let mut client = Client::open(server.address, "ada", cursor).await;
        let reset = client.next().await;
        assert_eq!(reset.event_type, "reset", "{cursor:?}");
        assert_eq!(reset.last_event_id, newest, "{cursor:?}");
        let data = format!("after {cursor}");
        newest = server.log.publish(&data).await.expect("a log").to_string();
        assert_eq!(client.data().await, [data]);
        assert_eq!(client.last_event_id(), newest);
    }
}

#[tokio::test]
async fn log_keeps_about_as_many_entries_as_its_limit() {
    let redis = redis().await;
    let log = instance(&redis, 100).await.log;
    let published = (0..500).map(|number| number.to_string());
    for data in published {
        log.publish(&data).await.expect("a log");
    }
    let length: usize = log_command(&mut connect(&redis).await, "XLEN", &[]).await;
    // Redis trims whole nodes of 100 entries.
    assert!((100..=200).contains(&length), "{length}");
}

#[tokio::test]
async fn streams_of_an_instance_share_one_reader() {
    let redis = redis().await;
    let server = instance(&redis, LIMIT).await;
    let clients = (0..20).map(|user| Client::start(server.address, ["ada", "bob"][user % 2]));
    let mut clients = join_all(clients).await;
    server.log.publish("1").await.expect("a log");
    for client in &mut clients {
        assert_eq!(client.data().await, ["1"]);
    }
    let mut connection = connect(&redis).await;
    let list: String = redis::cmd("CLIENT")
        .arg("LIST")
        .query_async(&mut connection)
        .await
        .expect("a list");
    assert_eq!(list.matches("cmd=xread").count(), 1, "{list}");
}

#[tokio::test]
async fn lost_redis_ends_the_streams_with_a_close_event() {
    let mut redis = redis().await;
    let server = instance(&redis, LIMIT).await;
    let mut client = Client::start(server.address, "ada").await;
    server.log.publish("1").await.expect("a log");
    assert_eq!(client.data().await, ["1"]);

    redis.kill().await.expect("a process");
    assert_eq!(client.end().await.0, "close");
    // A client that reconnects while Redis is not available.
    let mut early = Client::open(server.address, "ada", client.last_event_id()).await;
    assert_eq!(early.end().await.0, "close");
    server.log.publish("lost").await.expect_err("no Redis");

    redis.restart().await.expect("a Redis");
    let mut connection = connect(&redis).await;
    let _: String = log_command(&mut connection, "XADD", &["*", "data", "2"]).await;
    let (mut client, next) = resume(&server, &client).await;
    assert_eq!(next.data, "2");
    server.log.publish("3").await.expect("a log");
    assert_eq!(client.data().await, ["3"]);
}

#[tokio::test]
async fn unresponsive_redis_ends_the_streams_with_a_close_event() {
    let redis = redis().await;
    let server = instance(&redis, LIMIT).await;
    let mut client = Client::start(server.address, "ada").await;
    let process = redis.id().expect("a process");
    signal("STOP", process);
    let end = client.end().await;
    signal("CONT", process);
    assert_eq!(end.0, "close");
}

#[tokio::test]
async fn reader_whose_next_entry_was_trimmed_ends_the_streams() {
    let redis = redis().await;
    let server = instance(&redis, LIMIT).await;
    let mut client = Client::start(server.address, "ada").await;
    let mut overtake = pipe();
    overtake.atomic();
    for data in ["missed", "kept"] {
        overtake
            .cmd("XADD")
            .arg("events")
            .arg("*")
            .arg("data")
            .arg(data);
    }
    overtake.cmd("XTRIM").arg("events").arg("MAXLEN").arg(1);
    overtake
        .exec_async(&mut connect(&redis).await)
        .await
        .expect("a log");
    assert_eq!(client.end().await.0, "close");
    assert_eq!(resume(&server, &client).await.1.event_type, "reset");
}

#[tokio::test]
async fn logout_ends_the_streams_of_the_user_on_every_instance() {
    let redis = redis().await;
    let (a, b) = (instance(&redis, LIMIT).await, instance(&redis, LIMIT).await);
    let mut ada = [
        Client::start(a.address, "ada").await,
        Client::start(a.address, "ada").await,
        Client::start(b.address, "ada").await,
    ];
    let mut bob = Client::start(a.address, "bob").await;
    b.log.log_out("ada").await.expect("a log");
    for client in &mut ada {
        assert_eq!(client.end().await.0, "logged-out");
    }
    // The logout is not an event, and does not affect a new session.
    let mut again = Client::open(a.address, "ada", bob.last_event_id()).await;
    a.log.publish("1").await.expect("a log");
    for client in [&mut bob, &mut again] {
        assert_eq!(client.data().await, ["1"]);
    }
}

#[tokio::test]
async fn reconnection_times_of_a_shutdown_and_of_a_killed_process_differ() {
    let redis = redis().await;
    let server = instance(&redis, LIMIT).await;
    let clients = (0..10).map(|_| Client::start(server.address, "ada"));
    let mut clients = join_all(clients).await;
    let started: Vec<_> = clients.iter().map(Client::retry).collect();
    server.shutdown.close();
    let mut closed = Vec::new();
    for client in &mut clients {
        let (name, retry) = client.end().await;
        assert_eq!(name, "close");
        closed.push(retry);
    }
    for mut times in [started, closed] {
        times.sort_unstable();
        times.dedup();
        assert!(times.len() > 1, "{times:?}");
        assert!(
            times.iter().all(|time| (1_000..=5_000).contains(time)),
            "{times:?}"
        );
    }
    until(|| server.shutdown.open_streams() == 0).await;
}
