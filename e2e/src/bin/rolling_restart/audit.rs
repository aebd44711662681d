//! Compares the events that one client has received with those of the log.

use std::{collections::HashSet, ops::AddAssign};

use testkit::decoder::Event;

use crate::flow::Events;

/// The events of one client.
#[derive(Debug, Default)]
pub struct Audit(Vec<Event>);

/// The counts of received and damaged events.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Findings {
    pub received: u64,
    pub missed: u64,
    pub received_twice: u64,
    pub torn: u64,
    pub close_events: u64,
}

impl Audit {
    /// Adds the next event.
    pub fn add(&mut self, event: Event) {
        self.0.push(event);
    }

    /// Returns the ID of the newest event.
    pub fn newest(&self) -> &str {
        self.0.last().map_or("", |event| &event.last_event_id)
    }

    /// Compares the events with those of the log.
    pub fn findings(&self, log: &Events) -> Findings {
        let mut findings = Findings::default();
        let mut seen = HashSet::new();
        for event in &self.0 {
            match event.event_type.as_str() {
                "message" if log.get(&event.last_event_id) == Some(&event.data) => {
                    findings.received += 1;
                    findings.received_twice += u64::from(!seen.insert(&event.last_event_id));
                }
                // Data in the close event are a part of another event.
                "close" if event.data.is_empty() => findings.close_events += 1,
                _ => findings.torn += 1,
            }
        }
        findings.missed = (log.len() - seen.len()) as u64;
        findings
    }
}

impl AddAssign for Findings {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.missed += other.missed;
        self.received_twice += other.received_twice;
        self.torn += other.torn;
        self.close_events += other.close_events;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(events: &[(&str, &str, &str)]) -> Findings {
        let log = ["1-0", "2-0", "2-1"].map(|id| (id.to_owned(), format!("data of {id}")));
        let event = |&(event_type, data, id): &(&str, &str, &str)| Event {
            event_type: event_type.to_owned(),
            data: data.to_owned(),
            last_event_id: id.to_owned(),
        };
        Audit(events.iter().map(event).collect()).findings(&log.into())
    }

    #[test]
    fn every_kind_of_damage_is_counted() {
        let [one, two, three] = [
            ("message", "data of 1-0", "1-0"),
            ("message", "data of 2-0", "2-0"),
            ("message", "data of 2-1", "2-1"),
        ];
        let clean = findings(&[one, two, ("close", "", "2-0"), three]);
        let expected = Findings {
            received: 3,
            close_events: 1,
            ..Findings::default()
        };
        assert_eq!(clean, expected);
        assert_eq!(findings(&[one]).missed, 2);
        assert_eq!(findings(&[one, three]).missed, 1);
        assert_eq!(findings(&[one, two, one, three]).received_twice, 1);
        assert_eq!(
            findings(&[one, ("message", "data of", "2-0"), three]).torn,
            1
        );
        assert_eq!(
            findings(&[one, ("close", "data of 2-0", "2-0"), three]).torn,
            1
        );
        // An event that is not in the log, and a gap that a `reset` has announced.
        assert_eq!(findings(&[one, ("message", "data of 1-1", "1-1")]).torn, 1);
        assert_eq!(findings(&[one, ("reset", "", "2-1")]).torn, 1);
    }
}
