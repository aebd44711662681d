//! The memory of an unfinished event.

use std::mem;

use bytes::Bytes;

/// Data that is forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Forward {
    pub(crate) data: Bytes,
    /// The data ends an event that has a `data` field. After the first such event, it is known only if the caller of
    /// [`push`](super::event_buffer::EventBuffer::push) requests it.
    pub(crate) delivered: bool,
}

impl Forward {
    pub(super) fn new(data: Bytes, delivered: bool) -> Self {
        Self { data, delivered }
    }
}

#[derive(Debug, Default)]
pub(super) struct Held {
    /// The rest of what has been forwarded last, which is forwarded next.
    pub(super) queued: Option<Forward>,
    /// The unfinished event. It is a copy, so that a few bytes do not keep a large buffer of the upstream alive.
    bytes: Vec<u8>,
    /// Upstream data frames of which nothing has been forwarded yet.
    pub(super) frames: u64,
}

/// Up to this length, buffered bytes are copied once more when they are forwarded, and the memory is reused.
const MAX_COPIED: usize = 1024;

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        self.queued.is_none() && self.bytes.is_empty()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the number of bytes, those of the rest included.
    pub(super) fn len(&self) -> u64 {
        let queued = self.queued.as_ref();
        (self.bytes.len() + queued.map_or(0, |rest| rest.data.len())) as u64
    }

    /// Appends these bytes. The memory grows by powers of two up to the limit.
    pub(super) fn push(&mut self, bytes: &[u8], limit: usize) {
        let length = self.bytes.len() + bytes.len();
        if length > self.bytes.capacity() {
            let capacity = length.next_power_of_two().min(limit.max(length));
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the bytes, and the number of their frames.
    pub(super) fn take(&mut self) -> (Bytes, u64) {
        let bytes = match self.bytes.len() {
            0 => Bytes::new(),
            1..=MAX_COPIED => {
                let copy = Bytes::copy_from_slice(&self.bytes);
                self.bytes.clear();
                copy
            }
            _ => mem::take(&mut self.bytes).into(),
        };
        (bytes, mem::take(&mut self.frames))
    }
}
