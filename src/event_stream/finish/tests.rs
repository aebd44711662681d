//! Checks [`Outcome::decide`] for all inputs against a second formulation of clauses C7, C9, C11, C12 and C16, written from
//! the contract: one sentence of the contract is one line here.

use super::{Facts, Outcome, UpstreamEnd};
use crate::{
    config::ClosePolicy,
    report::{Ending, Stop},
};

const STOPS: [Option<Stop>; 4] = [
    None,
    Some(Stop::Cancelled),
    Some(Stop::Expired),
    Some(Stop::Idle),
];
const ENDS: [UpstreamEnd; 4] = [
    UpstreamEnd::Open,
    UpstreamEnd::Eof,
    UpstreamEnd::Trailers,
    UpstreamEnd::Error,
];
const BOOLS: [bool; 2] = [false, true];

/// One input of the function.
#[derive(Debug, Clone, Copy)]
struct Case {
    stop: Option<Stop>,
    end: UpstreamEnd,
    facts: Facts,
    policy: ClosePolicy,
}

/// Returns all inputs that can occur: a stream that nothing has stopped does not end while its upstream is open, and an end mark
/// without its blank line is an unfinished event at the end of the upstream of a layer with end marks.
fn cases() -> impl Iterator<Item = Case> {
    let stops_and_ends = STOPS.into_iter().flat_map(|stop| {
        let ends = ENDS.into_iter();
        ends.filter(move |&end| stop.is_some() || end != UpstreamEnd::Open)
            .map(move |end| (stop, end))
    });
    stops_and_ends
        .flat_map(|(stop, end)| {
            (0..1_u32 << 10).map(move |bits| {
                let [
                    delivered,
                    has_unfinished_event,
                    is_inside_event,
                    has_close_event,
                    expects_end_mark,
                    ends_with_end_mark,
                    on_empty,
                    on_completed,
                    on_truncated,
                    on_failed,
                ] = std::array::from_fn(|index| BOOLS[(bits >> index & 1) as usize]);
                Case {
                    stop,
                    end,
                    facts: Facts {
                        delivered,
                        has_unfinished_event,
                        is_inside_event,
                        has_close_event,
                        expects_end_mark,
                        ends_with_end_mark,
                    },
                    policy: ClosePolicy {
                        on_empty: Some(on_empty),
                        on_completed: Some(on_completed),
                        on_truncated: Some(on_truncated),
                        on_failed: Some(on_failed),
                    },
                }
            })
        })
        .filter(|case| !case.facts.ends_with_end_mark || case.may_end_with_end_mark())
}

impl Case {
    fn may_end_with_end_mark(&self) -> bool {
        let has_ended = matches!(self.end, UpstreamEnd::Eof | UpstreamEnd::Trailers);
        has_ended && self.facts.has_unfinished_event && self.facts.expects_end_mark
    }

    /// C26: the output ends with the mark, and the ending is `completed`, regardless of what else has happened.
    fn is_marked(&self) -> bool {
        self.facts.ends_with_end_mark
    }

    fn is_cancelled(&self) -> bool {
        self.stop == Some(Stop::Cancelled) && !self.is_marked()
    }

    /// C16: a deadline never overrules an upstream that ended or failed on its own.
    fn reached_deadline(&self) -> bool {
        !self.is_cancelled() && self.stop.is_some() && self.end == UpstreamEnd::Open
    }

    fn ended_on_its_own(&self) -> bool {
        let has_ended = matches!(self.end, UpstreamEnd::Eof | UpstreamEnd::Trailers);
        has_ended && !self.is_cancelled() && !self.is_marked()
    }

    fn failed_on_its_own(&self) -> bool {
        !self.is_cancelled() && self.end == UpstreamEnd::Error
    }

    /// C9: an upstream that ends on its own inside an event has truncated its stream. C26: with end marks, so has an upstream that
    /// ends after an event and without a mark.
    fn is_truncated(&self) -> bool {
        let lacks_mark = self.facts.expects_end_mark && self.facts.delivered;
        self.ended_on_its_own() && (self.facts.has_unfinished_event || lacks_mark)
    }

    /// C9: the upstream ends empty without having delivered an event, and without an unfinished one.
    fn is_empty(&self) -> bool {
        self.ended_on_its_own() && !self.facts.has_unfinished_event && !self.facts.delivered
    }

    fn is_completed(&self) -> bool {
        self.ended_on_its_own() && self.facts.delivered && !self.is_truncated()
    }

    /// All endings whose condition holds, of which there must be one.
    fn endings(&self) -> Vec<Ending> {
        let conditions = [
            (self.is_cancelled(), Ending::Cancelled),
            (
                self.reached_deadline() && self.stop == Some(Stop::Expired),
                Ending::Expired,
            ),
            (
                self.reached_deadline() && self.stop == Some(Stop::Idle),
                Ending::Idle,
            ),
            (self.is_truncated(), Ending::Truncated),
            (self.is_empty(), Ending::Empty),
            (self.is_completed() || self.is_marked(), Ending::Completed),
            (self.failed_on_its_own(), Ending::Failed),
        ];
        let met = conditions.into_iter().filter(|(holds, _)| *holds);
        met.map(|(_, ending)| ending).collect()
    }

    /// C9: the reasons for a close event.
    fn is_close_event_due(&self) -> bool {
        let is_set = |option: Option<bool>| option == Some(true);
        let policy = &self.policy;
        let stopped = self.is_cancelled() || self.reached_deadline();
        let by_policy = self.is_empty() && is_set(policy.on_empty)
            || self.is_completed() && is_set(policy.on_completed)
            || self.is_truncated() && is_set(policy.on_truncated)
            || self.failed_on_its_own() && is_set(policy.on_failed);
        stopped || by_policy
    }

    /// C9 and C12: the stream ends with a close event in place of what is left of the upstream. C7: not inside an event that
    /// has been forwarded.
    fn ends_with_close_event(&self) -> bool {
        self.is_close_event_due() && !self.facts.is_inside_event && self.facts.has_close_event
    }

    /// C9: without a close event, a stopped stream ends at a boundary, and everything else is forwarded as it is.
    fn ends_at_boundary(&self) -> bool {
        (self.is_cancelled() || self.reached_deadline()) && !self.facts.is_inside_event
    }

    fn expected(&self) -> Outcome {
        let endings = self.endings();
        let [ending] = endings[..] else {
            panic!("the contract has one ending for {self:?}, not {endings:?}");
        };
        Outcome {
            ending,
            closes: self.ends_with_close_event(),
            // C4 and C12.
            keeps_rest: !self.ends_with_close_event() && !self.ends_at_boundary(),
        }
    }
}

#[test]
fn c9_outcome_is_that_of_the_contract_for_all_inputs() {
    let mut number = 0;
    for case in cases() {
        let outcome = Outcome::decide(case.stop, case.end, case.facts, &case.policy);
        assert_eq!(outcome, case.expected(), "{case:?}");
        number += 1;
    }
    assert_eq!(number, 15 * 512 + 8 * 128, "all combinations");
}
