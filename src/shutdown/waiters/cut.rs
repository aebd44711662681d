//! The last phase of a shutdown, which fails every connection.

use super::{Phase, Shared, lock};

impl Shared {
    /// Counts a connection that starts now.
    pub(in crate::shutdown) fn connect(&self) {
        // Therefore the connection is among those that are cut, or the last phase has been entered.
        let _cut = lock(&self.cut);
        self.streams().connect();
    }

    /// Enters the last phase. Returns the number of connections, or `None` if the phase had been entered before.
    pub(in crate::shutdown) fn cut(&self) -> Option<usize> {
        let mut cut = lock(&self.cut);
        let is_first = cut.is_none();
        // The number is set before the first connection fails, so that a drain that waits for that connection sees the number.
        let open = *cut.get_or_insert_with(|| self.streams().connections());
        let before = self.advance(Phase::Cut);
        drop(cut);
        self.wake(before, Phase::Cut);
        is_first.then_some(open)
    }

    /// Returns the number of connections that have been cut, or `None` until the last phase is entered.
    pub(in crate::shutdown) fn connections_cut(&self) -> Option<usize> {
        *lock(&self.cut)
    }
}
