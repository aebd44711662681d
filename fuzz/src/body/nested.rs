//! Two layers, one around the other: what both do together is what one may do.

use std::{rc::Rc, task::Poll};

use http::{HeaderValue, Request, Response, header::CONTENT_TYPE};
use tower_layer::{Layer, layer_fn};
use tower_sse_completion::{Ending, SseCompletionLayer};

use super::{
    end::{End, model},
    input::{By, Cancel, Input, When},
    run::bytes_of,
    upstream::{Canceller, Gave, Record, Upstream},
};
use crate::support::{
    CLOSE, Reports,
    decoder::decode,
    driver::{Driver, Output},
    script::EndStream,
    through,
};

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
    let script = input.script();
    let log = script.log();
    let mut response = Response::new(Upstream::new(script, &record, &canceller));
    let event_stream = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(CONTENT_TYPE, event_stream);
    let (outer, inner) = (layer(), layer());
    let both = layer_fn(|service| outer.layer(inner.layer(service)));
    let mut body = Driver::new(through(&both, Request::new(()), response).into_body());

    let mut output = Output::default();
    let mut polls = 0;
    // Whether the inner layer's stream was stopped, once it has ended.
    let mut was_stopped = None;
    let mut waits = false;
    while !body.is_end_stream() {
        canceller.reach(When::BeforePoll(polls));
        polls += 1;
        assert!(polls < 2 * input.steps.len() + 32, "C10: an end");
        let wakes = body.wakes();
        let polled = body.poll();
        if log.dropped() || reports.count() > 0 {
            was_stopped.get_or_insert(canceller.fired());
        }
        match polled {
            Poll::Pending if body.wakes() > wakes => {}
            Poll::Pending => {
                assert!(!canceller.fired(), "C10: a cancelled stream does not wait");
                let nothing_comes = record.polls.get() >= input.steps.len();
                if nothing_comes && !canceller.reach_later_poll() {
                    waits = true;
                    break;
                }
            }
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => output.frames.push(data),
                Err(frame) => output.trailers = frame.into_trailers().ok(),
            },
            Poll::Ready(Some(Err(error))) => {
                output.error = Some(error);
                break;
            }
            Poll::Ready(None) => break,
        }
    }
    drop(body);

    let out = output.bytes();
    if waits {
        let let_go = model(input, &record).let_go;
        assert_eq!(out.len(), let_go, "C6: let go at once");
        assert_eq!(reports.one().ending(), Ending::Dropped);
    } else {
        let is_stopped = was_stopped.expect("an end");
        let end = End::new(input, &record, is_stopped);
        let report = reports.one();
        if is_stopped {
            // The outer layer may see it first, and does not wait for what the inner one still has.
            assert!(!end.closes || out.ends_with(CLOSE), "C9: a close event");
            assert!(output.error.is_none(), "C12: no error");
            let ending = report.ending();
            assert!(matches!(ending, Ending::Cancelled | Ending::Dropped));
        } else if input.end_stream != EndStream::Lied {
            // What still comes of an upstream that was wrong about its end is no part of the inner layer's stream.
            let mut expected = bytes_of(&input.steps);
            expected.truncate(end.forwarded);
            if end.closes {
                let after_cr = expected.ends_with(b"\r");
                expected.extend_from_slice(if after_cr { b"\n" } else { b"" });
                expected.extend_from_slice(CLOSE);
            }
            assert_eq!(out, expected, "C1, C4: all of it, and one close event");
            end.assert_rest(&output);
            let ending = match record.last.get() {
                Gave::Error => Ending::Failed,
                _ if end.delivered => Ending::Completed,
                _ => Ending::Empty,
            };
            assert_eq!(report.ending(), ending, "C16: the inner layer's");
            assert_eq!(report.close_event_sent(), end.closes, "C16");
            assert_eq!(report.bytes(), end.forwarded as u64, "C16");
        }
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
