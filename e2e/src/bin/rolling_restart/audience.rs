//! The clients of a run.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use e2e::event_source::{ClientEvent, Entrance, EventSource, Version};
use tokio::task::JoinSet;

use crate::{audit::Audit, flow::Events, instance::INSTANCE, outcome::Outcome};

/// Clients that read until the audience is dropped.
#[derive(Debug)]
pub struct Audience {
    clients: Vec<Arc<Mutex<Client>>>,
    /// Aborts its tasks when it is dropped.
    _tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Client {
    audit: Audit,
    /// The number of the instance whose stream is open.
    instance: Option<usize>,
    reconnects: Vec<Duration>,
    clean_ends: usize,
    cuts: usize,
    unreachable: usize,
    gave_up: bool,
}

impl Audience {
    /// Starts these clients, each with one of these addresses.
    pub fn gather(clients: usize, addresses: &[SocketAddr]) -> Self {
        let start = Instant::now();
        let mut tasks = JoinSet::new();
        let clients = addresses.iter().cycle().take(clients).map(|address| {
            let client = Arc::<Mutex<Client>>::default();
            let entrance = Entrance::new(Version::Http1, &[*address], 0);
            let source = EventSource::new(entrance, "/events");
            tasks.spawn(read(source, Arc::clone(&client), start));
            client
        });
        Self {
            clients: clients.collect(),
            _tasks: tasks,
        }
    }

    /// Returns `true` if every client that has not given up has an open stream.
    pub fn all_read(&self) -> bool {
        self.all(|client| client.gave_up || client.instance.is_some())
    }

    /// Returns the number of clients that have an open stream of this instance.
    pub fn readers(&self, instance: usize) -> usize {
        self.sum(|client| usize::from(client.instance == Some(instance)))
    }

    /// Returns the number of streams that have ended.
    pub fn ends(&self) -> usize {
        self.sum(|client| client.clean_ends + client.cuts)
    }

    /// Returns `true` if this event is the newest one of every client.
    pub fn have_received(&self, id: &str) -> bool {
        self.all(|client| client.audit.newest() == id)
    }

    /// Adds the findings of all clients to the outcome.
    pub fn report(&self, log: &Events, outcome: &mut Outcome) {
        for client in &self.clients {
            let client = lock(client);
            outcome.findings += client.audit.findings(log);
            outcome.clean_ends += client.clean_ends;
            outcome.cuts += client.cuts;
            outcome.unreachable += client.unreachable;
            outcome.gave_up += usize::from(client.gave_up);
            outcome.reconnects.extend(&client.reconnects);
        }
        outcome.reconnects.sort_unstable();
    }

    fn sum(&self, count: impl Fn(&Client) -> usize) -> usize {
        self.clients.iter().map(|client| count(&lock(client))).sum()
    }

    fn all(&self, condition: impl Fn(&Client) -> bool) -> bool {
        self.clients.iter().all(|client| condition(&lock(client)))
    }
}

fn lock(client: &Mutex<Client>) -> MutexGuard<'_, Client> {
    client.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn read(mut source: EventSource, client: Arc<Mutex<Client>>, start: Instant) {
    let mut connected = false;
    loop {
        let event = source.next().await;
        let mut client = lock(&client);
        match event {
            ClientEvent::Connecting => {
                if std::mem::replace(&mut connected, true) {
                    client.reconnects.push(start.elapsed());
                }
            }
            ClientEvent::Opened(headers) => {
                let number = headers
                    .get(INSTANCE)
                    .and_then(|number| number.to_str().ok());
                client.instance = number.and_then(|number| number.parse().ok());
            }
            ClientEvent::Event(event) => client.audit.add(event),
            ClientEvent::Ended { clean } => {
                client.instance = None;
                client.clean_ends += usize::from(clean);
                client.cuts += usize::from(!clean);
            }
            ClientEvent::Unreachable => client.unreachable += 1,
            ClientEvent::Failed(_) => {
                client.gave_up = true;
                return;
            }
        }
    }
}
