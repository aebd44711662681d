//! Where nothing is pending at the client, for every length of a stream at once. The decoder of the tests says the same
//! of one length; it takes too long to ask it of all of them.

use crate::support::decoder::{boundaries, decode};

pub struct Scan {
    /// For every length from 0 on: nothing is pending behind so many bytes.
    boundaries: Vec<bool>,
    /// The length with which the first event is delivered.
    pub first_delivery: Option<usize>,
}

impl Scan {
    pub fn new(stream: &[u8]) -> Self {
        let mut scan = Self {
            boundaries: vec![false; stream.len() + 1],
            first_delivery: None,
        };
        scan.boundaries[0] = true;
        let mut has_fields = false;
        let mut has_data = false;
        let mut start = if stream.starts_with(b"\xEF\xBB\xBF") {
            3
        } else {
            0
        };
        while let Some(length) = stream[start..]
            .iter()
            .position(|byte| b"\r\n".contains(byte))
        {
            let end = start + length;
            match &stream[start..end] {
                [] => {
                    if has_data {
                        scan.first_delivery.get_or_insert(end + 1);
                    }
                    has_fields = false;
                    has_data = false;
                }
                [b':', ..] => {}
                line => {
                    has_fields = true;
                    has_data |= line == b"data" || line.starts_with(b"data:");
                }
            }
            scan.boundaries[end + 1] = !has_fields;
            start = end + 1;
            if stream[end..].starts_with(b"\r\n") {
                scan.boundaries[end + 2] = !has_fields;
                start = end + 2;
            }
        }
        scan.check(stream);
        scan
    }

    /// The last boundary that is more than `after` and at most `to`.
    pub fn last_boundary(&self, after: usize, to: usize) -> Option<usize> {
        (after + 1..=to).rev().find(|&at| self.boundaries[at])
    }

    pub fn is_boundary(&self, length: usize) -> bool {
        self.boundaries[length]
    }

    /// The decoder has to agree: everywhere in a short stream, and about a long one as a whole.
    fn check(&self, stream: &[u8]) {
        if stream.len() <= 24 {
            let all = (0..=stream.len()).filter(|&at| self.boundaries[at]);
            assert_eq!(all.collect::<Vec<_>>(), boundaries(stream));
        }
        let decoded = decode(stream);
        assert_eq!(decoded.pending, !self.boundaries[stream.len()]);
        assert_eq!(decoded.events.is_empty(), self.first_delivery.is_none());
    }
}
