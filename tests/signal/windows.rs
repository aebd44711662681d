//! The events of a console. Ctrl-Break is the only one that can be sent to one other process. Wine 8 does not send it.

use std::{io, process::Command};

use send_ctrlc::{Interruptible, InterruptibleChild, InterruptibleCommand};

pub(super) type Child = InterruptibleChild;

/// The events, each with the exit status of the process that the second one ends.
pub(super) const SIGNALS: &[(&str, i32)] = &[("Ctrl-Break", 0xC000_013A_u32 as i32)];

/// Starts the process in a group of its own, which alone receives the events that are sent to it.
pub(super) fn spawn(command: &mut Command) -> io::Result<Child> {
    command.spawn_interruptible()
}

pub(super) fn send(child: &mut Child, event: &str) {
    assert_eq!(event, "Ctrl-Break");
    child.terminate().expect("a console");
}
