//! What is due at the end of a stream, from the contract alone: for two layers, and for one with a clock.

use super::{
    input::Input,
    model::Model,
    run::bytes_of,
    upstream::{Gave, Record},
};
use crate::support::driver::Output;

pub(super) struct End {
    /// So many of the upstream's bytes are out.
    pub(super) forwarded: usize,
    pub(super) closes: bool,
    pub(super) trailers: bool,
    pub(super) error: bool,
    pub(super) delivered: bool,
}

/// Of what came so far.
pub(super) fn model(input: &Input, record: &Record) -> Model {
    let mut model = Model::new(bytes_of(&input.steps), input.hold_limit);
    for frame in &*record.frames.borrow() {
        model.comes(frame);
    }
    model
}

impl End {
    /// Of a stream that was stopped from outside, or has ended by itself.
    pub(super) fn new(input: &Input, record: &Record, is_stopped: bool) -> Self {
        let model = model(input, record);
        let gave = record.last.get();
        let delivered = model.delivered_within(model.let_go);
        let is_due = match gave {
            _ if is_stopped => true,
            Gave::Error => input.close_on_failed,
            _ if delivered => input.close_on_completed,
            _ => input.close_on_empty,
        };
        let closes = is_due && !model.mid_event;
        Self {
            forwarded: if closes { model.let_go } else { model.came },
            closes,
            trailers: gave == Gave::Trailers,
            error: gave == Gave::Error && !closes && !is_stopped,
            delivered,
        }
    }

    #[track_caller]
    pub(super) fn assert_rest<E>(&self, output: &Output<E>) {
        assert_eq!(output.trailers.is_some(), self.trailers, "C13: trailers");
        assert_eq!(output.error.is_some(), self.error, "C12: the error");
    }
}
