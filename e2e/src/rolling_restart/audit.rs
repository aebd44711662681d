//! What one client has got, compared with what it should have got.

use super::flow;
use crate::event_source::Event;

/// Of one client.
#[derive(Debug, Default)]
pub struct Audit {
    /// By number; there is no event 0.
    seen: Vec<bool>,
    newest: u64,
    pub findings: Findings,
}

/// What is wrong, and what is right.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Findings {
    pub received: u64,
    pub missed: u64,
    pub seen_twice: u64,
    pub torn: u64,
    pub close_events: u64,
}

impl Audit {
    /// Looks at an event, in the order in which they came.
    pub fn look(&mut self, event: &Event) {
        match event.kind.as_str() {
            "message" => self.message(event),
            // The close event is torn where a part of another event has got into it.
            "close" if event.data.is_empty() => self.findings.close_events += 1,
            _ => self.findings.torn += 1,
        }
    }

    /// The number of the newest event.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    fn message(&mut self, event: &Event) {
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
            self.findings.seen_twice += 1;
        } else if number > self.newest {
            self.findings.missed += number - self.newest - 1;
            self.newest = number;
        } else {
            // It was missed, and came later.
            self.findings.missed -= 1;
        }
    }
}

impl std::ops::AddAssign for Findings {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.missed += other.missed;
        self.seen_twice += other.seen_twice;
        self.torn += other.torn;
        self.close_events += other.close_events;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn audit(events: &[(&str, String, u64)]) -> Findings {
        let mut audit = Audit::default();
        for (kind, data, number) in events {
            audit.look(&Event {
                kind: (*kind).to_owned(),
                data: data.clone(),
                last_event_id: number.to_string(),
            });
        }
        audit.findings
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
        assert_eq!(audit(&clean), expected);
        assert_eq!(audit(&[message(1), message(4)]).missed, 2);
        assert_eq!(audit(&[message(1), message(3), message(2)]).missed, 0);
        assert_eq!(audit(&[message(1), message(2), message(1)]).seen_twice, 1);
        let half = flow::data(2)[..9].to_owned();
        assert_eq!(audit(&[message(1), ("message", half.clone(), 2)]).torn, 1);
        assert_eq!(audit(&[message(1), ("close", half, 2)]).torn, 1);
    }
}
