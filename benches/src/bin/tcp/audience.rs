//! The subscribers of all sides, and the server process that they are connected to.

use std::{
    env, io,
    net::SocketAddr,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use benchmarks::subscriber::Subscriber;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    sync::Notify,
    task::JoinSet,
    time,
};

use crate::{Side, server::CPU_TIME};

pub struct Audience {
    subscribers: usize,
    arrivals: Arc<Arrivals>,
    commands: BufReader<TcpStream>,
    /// They end with this.
    _clients: JoinSet<()>,
    _server: Child,
}

/// How many subscribers have the event that was published last.
#[derive(Default)]
struct Arrivals {
    arrived: AtomicUsize,
    all: Notify,
    subscribers: usize,
}

/// A server that has not delivered an event by then never will.
const PATIENCE: Duration = Duration::from_secs(30);

impl Audience {
    /// Starts a server, and connects so many subscribers to each of these sides.
    ///
    /// # Errors
    ///
    /// Where there are not enough file descriptors or ports.
    pub async fn connect(sides: &[Side], subscribers: usize) -> io::Result<Self> {
        let mut server = Command::new(env::current_exe()?)
            .arg("serve")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut addresses = String::new();
        let output = server.stdout.take().expect("it is piped");
        BufReader::new(output).read_line(&mut addresses).await?;
        let (events, commands) = addresses.trim().split_once(' ').expect("two addresses");
        let events: SocketAddr = events.parse().map_err(io::Error::other)?;
        let commands = TcpStream::connect(commands).await?;
        commands.set_nodelay(true)?;

        let arrivals = Arc::new(Arrivals {
            subscribers,
            ..Arrivals::default()
        });
        // The sides take turns, so that their memory lies in between each other's.
        let paths = (0..subscribers).flat_map(|_| sides.iter().copied().map(Side::path));
        let clients = stream::iter(paths)
            .map(|path| Subscriber::new(events, path))
            .buffered(64)
            .map_ok(|subscriber| read(subscriber, Arc::clone(&arrivals)))
            .try_fold(JoinSet::new(), async |mut clients, client| {
                clients.spawn(client);
                Ok(clients)
            })
            .await?;
        Ok(Self {
            subscribers,
            arrivals,
            commands: BufReader::new(commands),
            _clients: clients,
            _server: server,
        })
    }

    /// Publishes events to this side, each when all subscribers have the one before, and returns what CPU time that took
    /// the server.
    pub async fn deliver(&mut self, side: Side, events: usize) -> Duration {
        let before = self.cpu_time().await;
        for _ in 0..events {
            self.command(side.path()).await;
            time::timeout(PATIENCE, self.arrivals.all())
                .await
                .unwrap_or_else(|_| panic!("not all {} have the event", self.subscribers));
        }
        self.cpu_time().await - before
    }

    async fn cpu_time(&mut self) -> Duration {
        self.command(CPU_TIME).await;
        let mut answer = String::new();
        let answered = self.commands.read_line(&mut answer).await;
        answered.expect("the server answers");
        Duration::from_nanos(answer.trim().parse().expect("nanoseconds"))
    }

    async fn command(&mut self, command: &str) {
        let command = format!("{command}\n");
        let written = self.commands.write_all(command.as_bytes()).await;
        written.expect("the server listens");
    }
}

async fn read(mut subscriber: Subscriber, arrivals: Arc<Arrivals>) {
    loop {
        let events = subscriber.read().await.expect("no end");
        arrivals.add(usize::try_from(events).expect("few events"));
    }
}

impl Arrivals {
    fn add(&self, events: usize) {
        let arrived = self.arrived.fetch_add(events, Ordering::AcqRel) + events;
        if arrived == self.subscribers {
            self.all.notify_one();
        }
    }

    async fn all(&self) {
        self.all.notified().await;
        self.arrived.store(0, Ordering::Release);
    }
}
