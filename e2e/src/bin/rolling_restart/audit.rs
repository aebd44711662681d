//! Compares the events that one client has received with those of the flow.

use testkit::decoder::Event;

use crate::flow;

/// The events of one client.
#[derive(Debug, Default)]
pub struct Audit {
    /// By number; there is no event 0.
    seen: Vec<bool>,
    newest: u64,
    findings: Findings,
}

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
    pub fn add(&mut self, event: &Event) {
        match event.event_type.as_str() {
            "message" => self.add_message(event),
            // Data in the close event are a part of another event.
            "close" if event.data.is_empty() => self.findings.close_events += 1,
            _ => self.findings.torn += 1,
        }
    }

    /// Returns the number of the newest event.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// Returns the counts up to this event, the last one that was published.
    pub fn findings(&self, last: u64) -> Findings {
        Findings {
            missed: self.findings.missed + last.saturating_sub(self.newest),
            ..self.findings
        }
    }

    fn add_message(&mut self, event: &Event) {
        let number = event.last_event_id.parse().unwrap_or(0);
        if event.data != flow::data(number) {
            self.findings.torn += 1;
            return;
        }
        self.findings.received += 1;
        let index = usize::try_from(number).expect("a small number");
        if self.seen.len() <= index {
            self.seen.resize(index + 1, false);
        }
        if std::mem::replace(&mut self.seen[index], true) {
            self.findings.received_twice += 1;
        } else if number > self.newest {
            self.findings.missed += number - self.newest - 1;
            self.newest = number;
        } else {
            // The event was counted as missed, and has arrived late.
            self.findings.missed -= 1;
        }
    }
}

impl std::ops::AddAssign for Findings {
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

    fn findings(events: &[(&str, String, u64)], last: u64) -> Findings {
        let mut audit = Audit::default();
        for (event_type, data, number) in events {
            audit.add(&Event {
                event_type: (*event_type).to_owned(),
                data: data.clone(),
                last_event_id: number.to_string(),
            });
        }
        audit.findings(last)
    }

    fn message(number: u64) -> (&'static str, String, u64) {
        ("message", flow::data(number), number)
    }

    #[test]
    fn every_kind_of_damage_is_found() {
        let clean = [
            message(1),
            message(2),
            ("close", String::new(), 2),
            message(3),
        ];
        let expected = Findings {
            received: 3,
            close_events: 1,
            ..Findings::default()
        };
        assert_eq!(findings(&clean, 3), expected);
        assert_eq!(findings(&[message(1), message(4)], 4).missed, 2);
        assert_eq!(findings(&[message(1), message(3), message(2)], 3).missed, 0);
        assert_eq!(
            findings(&[message(1), message(2), message(1)], 2).received_twice,
            1
        );
        assert_eq!(findings(&[message(1)], 3).missed, 2);
        let half = flow::data(2)[..9].to_owned();
        assert_eq!(
            findings(&[message(1), ("message", half.clone(), 2)], 2).torn,
            1
        );
        assert_eq!(findings(&[message(1), ("close", half, 2)], 2).torn, 1);
    }
}
