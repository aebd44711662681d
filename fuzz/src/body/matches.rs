//! The end marks of a layer, and the events that its idle timeout ignores.

use testkit::model::Match;
use tower_sse_completion::{EventMatch, IdleTimeout, SseCompletionLayer};

/// Returns one of a few sets of end marks.
pub(super) fn end_marks(number: u8) -> Vec<Match> {
    let event = |text: &str| Match::Event(text.to_owned());
    let data = |text: &str| Match::Data(text.to_owned());
    match number % 8 {
        0 | 1 => vec![],
        2 => vec![data("x")],
        3 => vec![event("close")],
        4 => vec![event("close"), data("")],
        5 => vec![event("message")],
        6 => vec![Match::Function(is_short)],
        _ => vec![Match::Function(is_short), data("x\n1")],
    }
}

/// Returns the events that an idle timeout ignores.
pub(super) fn ignored() -> Vec<Match> {
    vec![Match::Event("close".to_owned()), Match::Function(is_short)]
}

pub(super) fn mark(layer: SseCompletionLayer, end_marks: &[Match]) -> SseCompletionLayer {
    end_marks
        .iter()
        .fold(layer, |layer, it| layer.end_mark(event_match(it)))
}

pub(super) fn ignore(timeout: IdleTimeout, ignored: &[Match]) -> IdleTimeout {
    ignored
        .iter()
        .fold(timeout, |timeout, it| timeout.ignoring(event_match(it)))
}

fn event_match(event_match: &Match) -> EventMatch {
    match event_match {
        Match::Event(text) => EventMatch::event(text),
        Match::Data(text) => EventMatch::data(text),
        Match::Function(function) => {
            let function = *function;
            EventMatch::when(move |event| function(event.event_type(), event.data()))
        }
    }
}

fn is_short(event_type: &str, data: &str) -> bool {
    event_type == "y" || data.chars().count() == 1
}
