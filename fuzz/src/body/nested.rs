//! Two layers, one around the other: what both do together is what one may do.

use std::{rc::Rc, task::Poll};

use http::{HeaderValue, Request, Response, header::CONTENT_TYPE};
use tower_layer::{Layer, layer_fn};
use tower_sse_completion::SseCompletionLayer;

use super::{
    input::{By, Cancel, Input, When},
    run::bytes_of,
    upstream::{Canceller, Record, Upstream},
};
use crate::support::{CLOSE, Reports, decoder::decode, driver::Driver, through};

pub(super) fn check(input: &Input) {
    let canceller = Canceller::new(input.cancel.map(|cancel| Cancel {
        // With the default event, which is told from the upstream's by its bytes alone.
        by: match cancel.by {
            By::ShutdownWith(_) => By::Shutdown,
            by => by,
        },
        ..cancel
    }));
    let record = Rc::<Record>::default();
    let reports = Reports::default();
    let layer = || {
        let of_request = Rc::clone(&canceller);
        let layer = SseCompletionLayer::new()
            .cancel_when(move |_| of_request.cancellation())
            .close_on_empty(input.close_on_empty)
            .close_on_completed(input.close_on_completed)
            .close_on_failed(input.close_on_failed)
            .hold_limit(input.hold_limit)
            .on_end(reports.observer());
        match input.has_shutdown {
            true => layer.shutdown(&canceller.shutdown),
            false => layer,
        }
    };
    canceller.reach(When::BeforeRequest);
    let mut response = Response::new(Upstream::new(input.script(), &record, &canceller));
    let event_stream = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(CONTENT_TYPE, event_stream);
    let (outer, inner) = (layer(), layer());
    let both = layer_fn(|service| outer.layer(inner.layer(service)));
    let mut body = Driver::new(through(&both, Request::new(()), response).into_body());

    let mut out = Vec::new();
    let mut polls = 0;
    while !body.is_end_stream() {
        canceller.reach(When::BeforePoll(polls));
        polls += 1;
        assert!(polls < 2 * input.steps.len() + 32, "C10: an end");
        let wakes = body.wakes();
        match body.poll() {
            Poll::Pending if body.wakes() > wakes => {}
            Poll::Pending => {
                assert!(!canceller.fired(), "C10: a cancelled stream does not wait");
                let waits = record.polls.get() >= input.steps.len();
                if waits && !canceller.reach_later_poll() {
                    break;
                }
            }
            Poll::Ready(Some(Ok(frame))) => {
                out.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
            }
            Poll::Ready(None | Some(Err(_))) => break,
        }
    }
    drop(body);
    if polls > 0 {
        reports.one();
    }

    let whole = bytes_of(&input.steps);
    let by_layers = !whole.starts_with(&out);
    let forwarded = match out.strip_suffix(CLOSE) {
        Some(rest) if by_layers => match rest.strip_suffix(b"\n") {
            Some(cr) if cr.ends_with(b"\r") && !whole.starts_with(rest) => cr,
            _ => rest,
        },
        _ => &out[..],
    };
    assert!(
        whole.starts_with(forwarded),
        "C4: a beginning and one close event"
    );
    let (with, without) = (decode(&out), decode(forwarded));
    assert!(!by_layers || !without.pending, "C5: between two events");
    let events = with.events.len() - usize::from(by_layers);
    assert_eq!(with.events[..events], without.events, "C1: one close event");
    assert!(
        decode(&whole).events.starts_with(&without.events),
        "C6: whole events"
    );
    assert_eq!(
        with.last_event_id, without.last_event_id,
        "C6: the resume point"
    );
}
