//! All clients of a run.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::Semaphore,
    task::{AbortHandle, JoinSet},
};

use super::{
    audit::{Audit, Findings},
    instance::INSTANCE,
};
use crate::event_source::{EventSource, Happening};

/// Clients that read until this is dropped.
#[derive(Debug)]
pub struct Audience {
    seats: Vec<Arc<Seat>>,
    log: Arc<Log>,
    /// Ends the clients when it is dropped.
    _clients: JoinSet<()>,
}

/// One client, as it is at the moment.
#[derive(Debug, Default)]
struct Seat {
    audit: Mutex<Audit>,
    /// The number of the instance that it reads from, plus one.
    instance: AtomicUsize,
}

/// What happens to all clients.
#[derive(Debug)]
pub struct Log {
    pub start: Instant,
    pub reconnects: Mutex<Vec<Duration>>,
    pub clean_ends: AtomicUsize,
    pub cuts: AtomicUsize,
    pub unreachable: AtomicUsize,
    pub given_up: AtomicUsize,
}

/// How many clients connect for the first time at once.
const DOORS: usize = 100;

impl Audience {
    /// Each client has one of these addresses.
    pub fn gather(clients: usize, addresses: &[SocketAddr]) -> Self {
        let log = Arc::new(Log {
            start: Instant::now(),
            reconnects: Mutex::default(),
            clean_ends: AtomicUsize::default(),
            cuts: AtomicUsize::default(),
            unreachable: AtomicUsize::default(),
            given_up: AtomicUsize::default(),
        });
        let doors = Arc::new(Semaphore::new(DOORS));
        let mut tasks = JoinSet::new();
        let seats = addresses.iter().cycle().take(clients).map(|address| {
            let seat = Arc::new(Seat::default());
            let source = EventSource::new(*address, "/events");
            let task = read(source, seat.clone(), log.clone(), doors.clone());
            let _: AbortHandle = tasks.spawn(task);
            seat
        });
        Self {
            seats: seats.collect(),
            log,
            _clients: tasks,
        }
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    pub fn clients(&self) -> usize {
        self.seats.len()
    }

    /// How many have an open stream.
    pub fn reading(&self) -> usize {
        let seats = self.seats.iter();
        seats
            .filter(|seat| seat.instance.load(Ordering::SeqCst) > 0)
            .count()
    }

    /// How many have an open stream from this instance.
    pub fn reading_from(&self, instance: usize) -> usize {
        let seats = self.seats.iter();
        seats
            .filter(|seat| seat.instance.load(Ordering::SeqCst) == instance + 1)
            .count()
    }

    /// How many have got this event, or a later one.
    pub fn arrived_at(&self, number: u64) -> usize {
        let seats = self.seats.iter();
        seats.filter(|seat| seat.audit().newest() >= number).count()
    }

    /// What all of them have found so far.
    pub fn findings(&self) -> Findings {
        let mut all = Findings::default();
        for seat in &self.seats {
            all += seat.audit().findings;
        }
        all
    }

    /// What they have missed, where this was the last event.
    pub fn missed(&self, last: u64) -> u64 {
        let seats = self.seats.iter();
        seats
            .map(|seat| {
                let audit = seat.audit();
                audit.findings.missed + last.saturating_sub(audit.newest())
            })
            .sum()
    }
}

impl Seat {
    fn audit(&self) -> std::sync::MutexGuard<'_, Audit> {
        self.audit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read(mut source: EventSource, seat: Arc<Seat>, log: Arc<Log>, doors: Arc<Semaphore>) {
    let mut door = doors.acquire().await.ok();
    let mut first = true;
    loop {
        match source.next().await {
            Happening::Connecting if first => first = false,
            Happening::Connecting => {
                let mut reconnects = log
                    .reconnects
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                reconnects.push(log.start.elapsed());
            }
            Happening::Opened(headers) => {
                door = None;
                let number = headers
                    .get(INSTANCE)
                    .and_then(|number| number.to_str().ok());
                let number = number.and_then(|number| number.parse::<usize>().ok());
                seat.instance
                    .store(number.unwrap_or(0) + 1, Ordering::SeqCst);
            }
            Happening::Event(event) => seat.audit().look(&event),
            Happening::Ended { clean } => {
                seat.instance.store(0, Ordering::SeqCst);
                let ends = if clean { &log.clean_ends } else { &log.cuts };
                ends.fetch_add(1, Ordering::SeqCst);
            }
            Happening::Unreachable => {
                log.unreachable.fetch_add(1, Ordering::SeqCst);
            }
            Happening::Failed(_) => {
                log.given_up.fetch_add(1, Ordering::SeqCst);
                break;
            }
        }
    }
    drop(door);
}
