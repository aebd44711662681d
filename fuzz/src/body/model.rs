//! What of a stream has to be out by now, from the contract alone.

use bytes::Bytes;

use crate::scan::Scan;

pub(super) struct Model {
    /// All that the upstream may come to send.
    pub(super) whole: Vec<u8>,
    scan: Scan,
    hold_limit: usize,
    /// So many bytes came.
    pub(super) came: usize,
    /// So many of them may go out: up to the last boundary, or all if the rest is too large to hold.
    pub(super) let_go: usize,
    /// What is out ends within an event that was too large to hold.
    pub(super) mid_event: bool,
    /// The last frame found nothing held, and goes out as a whole.
    pub(super) passes: bool,
    /// Where the frames start that are not empty.
    starts: Vec<usize>,
}

impl Model {
    pub(super) fn new(whole: Vec<u8>, hold_limit: usize) -> Self {
        Self {
            scan: Scan::new(&whole),
            whole,
            hold_limit,
            came: 0,
            let_go: 0,
            mid_event: false,
            passes: false,
            starts: Vec::new(),
        }
    }

    pub(super) fn comes(&mut self, frame: &Bytes) {
        if frame.is_empty() {
            return;
        }
        let start = self.came;
        let was_held = self.is_held();
        self.starts.push(start);
        self.came += frame.len();
        let boundary = self.scan.last_boundary(start, self.came);
        let whole = boundary.unwrap_or(self.let_go);
        let stays_mid_event = self.mid_event && boundary.is_none();
        self.mid_event = stays_mid_event || self.came - whole > self.hold_limit;
        self.let_go = if self.mid_event { self.came } else { whole };
        self.passes = !was_held && !self.is_held();
    }

    pub(super) fn is_held(&self) -> bool {
        self.let_go < self.came
    }

    pub(super) fn held(&self) -> &[u8] {
        &self.whole[self.let_go..self.came]
    }

    pub(super) fn delivered_within(&self, length: usize) -> bool {
        self.scan
            .first_delivery
            .is_some_and(|first| first <= length)
    }

    /// Of which something is within so many bytes.
    pub(super) fn frames_within(&self, length: usize) -> u64 {
        self.starts.iter().filter(|&&start| start < length).count() as u64
    }

    pub(super) fn is_boundary(&self, length: usize) -> bool {
        self.scan.is_boundary(length)
    }
}
