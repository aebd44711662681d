//! Where the events come from: a small log on a socket, which both instances read from its start.

use std::{io::Result, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::{self, MissedTickBehavior},
};

use super::flow::{self, Replay};

/// Publishes numbered events at a steady rate, from [`start`](Self::start) to [`stop`](Self::stop).
#[derive(Debug)]
pub struct Publisher {
    pub address: SocketAddr,
    newest: watch::Sender<u64>,
    rate: u32,
    flow: Option<JoinHandle<()>>,
    server: JoinHandle<()>,
}

impl Publisher {
    pub async fn bind(rate: u32) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let newest = watch::Sender::new(0);
        let numbers = newest.clone();
        let server = tokio::spawn(async move {
            while let Ok((subscriber, _)) = listener.accept().await {
                let newest = numbers.subscribe();
                // An error is a subscriber that has gone.
                tokio::spawn(async { publish(subscriber, newest).await.unwrap_or_default() });
            }
        });
        Ok(Self {
            address,
            newest,
            rate,
            flow: None,
            server,
        })
    }

    pub fn start(&mut self) {
        let newest = self.newest.clone();
        let mut ticks = time::interval(Duration::from_secs(1) / self.rate);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.flow = Some(tokio::spawn(async move {
            loop {
                ticks.tick().await;
                newest.send_modify(|number| *number += 1);
            }
        }));
    }

    /// Returns how many events there were.
    pub fn stop(&mut self) -> u64 {
        if let Some(flow) = self.flow.take() {
            flow.abort();
        }
        self.published()
    }

    /// Waits until there is another event.
    pub async fn next(&self) {
        let mut newest = self.newest.subscribe();
        newest.mark_unchanged();
        // The sender is here.
        let _ = newest.changed().await;
    }

    pub fn published(&self) -> u64 {
        *self.newest.borrow()
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.stop();
        self.server.abort();
    }
}

/// Follows a publisher for as long as this runs. Returns when the replay buffer has all there was, and the rest to be run.
pub async fn subscribe(
    publisher: SocketAddr,
    replay: Replay,
) -> Result<impl Future<Output = Result<()>>> {
    let mut lines = BufReader::new(TcpStream::connect(publisher).await?).lines();
    let behind = |line: &str| line.parse::<u64>().unwrap_or(0);
    let newest = behind(&lines.next_line().await?.unwrap_or_default());
    let mut follow = async move |until: u64| {
        let mut number = 0;
        while number < until {
            let Some(line) = lines.next_line().await? else {
                break;
            };
            let (first, second) = line.split_once('\t').unwrap_or_default();
            let data = second.replace('\t', "\n");
            number = behind(first);
            replay.push(number, flow::encode(number, &data));
        }
        Ok(())
    };
    follow(newest).await?;
    Ok(async move { follow(u64::MAX).await })
}

/// The number of the newest event, and then each event on a line: its number and the lines of its data, behind tabs.
async fn publish(mut subscriber: TcpStream, mut newest: watch::Receiver<u64>) -> Result<()> {
    let mut sent = 0;
    let mut text = format!("{}\n", *newest.borrow());
    loop {
        let number = *newest.borrow_and_update();
        for number in sent + 1..=number {
            let data = flow::data(number).replace('\n', "\t");
            text.push_str(&format!("{number}\t{data}\n"));
        }
        sent = number;
        subscriber.write_all(text.as_bytes()).await?;
        text.clear();
        if newest.changed().await.is_err() {
            return Ok(());
        }
    }
}
