//! End marks, streams without a close event, and idle timeouts that ignore events.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::Request;
use testkit::{
    MIRI_STRIDE, PrintOnPanic,
    decoder::decode,
    driver::Driver,
    exchange::{CLOSE, cancellation_layer, drive, event_stream_response, send_response},
    feed::feed,
    model::{Deadlines, Judge, Match, Options, Policy, Progress, StreamJudge},
    reports::Reports,
    script::{AfterScript, EndStream, Script, Step, data},
    server::{self, VERSIONS},
};
use tokio::time::advance;
use tokio_util::sync::CancellationToken;
use tower_layer::{Layer, layer_fn};
use tower_sse_completion::{
    CloseEvent, Ending, EventMatch, IdleTimeout, KeepAlive, Shutdown, SseCompletionLayer,
};

const SECOND: Duration = Duration::from_secs(1);
const EVENT: &str = "data: 1\n\n";
const MARK: &str = "data: [DONE]\n\n";
/// Has a type and data that no mark has.
const LATE: &str = "event: late\ndata: late\n\n";

/// Returns a layer that would add something at every end, and its reports.
fn observed() -> (Reports, SseCompletionLayer) {
    let reports = Reports::default();
    let layer = SseCompletionLayer::new()
        .on_end(reports.observer())
        .close_on_completed(true)
        .close_on_truncated(true)
        .close_on_failed(true);
    (reports, layer)
}

/// Returns a layer that has this end mark and would add something at every other end, and its reports.
fn marked(end_mark: EventMatch) -> (Reports, SseCompletionLayer) {
    let (reports, layer) = observed();
    (reports, layer.end_mark(end_mark))
}

fn done() -> EventMatch {
    EventMatch::data("[DONE]")
}

/// Returns the ending that is reported, and asserts that no close event is.
#[track_caller]
fn ending(reports: &Reports) -> Ending {
    let report = reports.only();
    assert!(!report.close_event_sent());
    report.ending()
}

/// Returns these bytes in one frame, byte by byte, and split in two everywhere.
fn framings(bytes: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    let cuts = (1..bytes.len()).step_by(MIRI_STRIDE);
    let in_two = cuts.map(|cut| vec![&bytes[..cut], &bytes[cut..]]);
    [vec![bytes], bytes.chunks(1).collect()]
        .into_iter()
        .chain(in_two)
}

/// Returns all rows of a table of events, or a sample of them under Miri.
fn sample<T, const N: usize>(rows: [T; N]) -> impl Iterator<Item = T> {
    rows.into_iter().step_by(MIRI_STRIDE.min(6))
}

/// Asserts whether this event, which a blank line ends, is an end mark of this layer.
#[track_caller]
fn assert_is_mark(layer: &SseCompletionLayer, event: &str, is_mark: bool) {
    for frames in framings(&[event.as_bytes(), b"\n\n", LATE.as_bytes()].concat()) {
        let reports = Reports::default();
        let layer = layer.clone().close_event(None).on_end(reports.observer());
        let rest = drive(&layer, Script::frames(frames)).rest();
        let (expected, late) = match is_mark {
            true => (Ending::Completed, ""),
            false => (Ending::Truncated, LATE),
        };
        assert_eq!(rest.text(), format!("{event}\n\n{late}"), "{layer:?}");
        assert_eq!(ending(&reports), expected, "{layer:?} and {event:?}");
    }
}

#[test]
fn c26_output_ends_with_the_first_mark() {
    use Ending::{Completed, Empty, Truncated};
    for (stream, output, expected) in sample([
        // The rest of the frame is discarded.
        ("data: [DONE]\n\ndata: 2\n\n", "data: [DONE]\n\n", Completed),
        (
            "data: [DONE]\n\ndata: unfinished",
            "data: [DONE]\n\n",
            Completed,
        ),
        (
            "data: 1\n\ndata: [DONE]\n\n: bye\n",
            "data: 1\n\ndata: [DONE]\n\n",
            Completed,
        ),
        (
            "data: [DONE]\n\ndata: [DONE]\n\n",
            "data: [DONE]\n\n",
            Completed,
        ),
        // A CR at the end becomes a CRLF.
        (
            "data: [DONE]\r\rdata: 2\r\r",
            "data: [DONE]\r\r\n",
            Completed,
        ),
        // At the end of the upstream, the missing line ends are added.
        ("data: [DONE]\n", "data: [DONE]\n\n", Completed),
        ("data: [DONE]", "data: [DONE]\n\n", Completed),
        ("data: [DONE]\r", "data: [DONE]\r\n\n", Completed),
        (
            "event: stop\ndata: x\n",
            "event: stop\ndata: x\n\n",
            Completed,
        ),
        // More of a line without its end may be missing. Only data counts then.
        ("event: stop\ndata: x", "event: stop\ndata: x", Truncated),
        ("data: x\nevent: stop", "data: x\nevent: stop", Truncated),
        // Without a mark, an upstream ends too early.
        ("data: 1\n\n", "data: 1\n\n", Truncated),
        ("data: 1\n\ndata: [DON", "data: 1\n\ndata: [DON", Truncated),
        // An event without data is not delivered, and therefore no mark.
        (
            "event: stop\n\ndata: 1\n\n",
            "event: stop\n\ndata: 1\n\n",
            Truncated,
        ),
        (
            ": note\n\nevent: stop\n\n",
            ": note\n\nevent: stop\n\n",
            Empty,
        ),
        ("", "", Empty),
    ]) {
        for frames in framings(stream.as_bytes()) {
            let (reports, layer) = marked(done());
            let layer = layer.end_mark(EventMatch::event("stop")).close_event(None);
            let rest = drive(&layer, Script::frames(&frames)).rest();
            // The LF after a CR is in the frame of the CR, or is added.
            assert_eq!(rest.text(), output, "{stream:?}");
            assert_eq!(ending(&reports), expected, "{stream:?}");
        }
    }
}

/// Streams with and without end marks: fields in several orders, every line end, byte order marks, data of several lines, events
/// above the limits of the buffer, and all that may stand around an end mark or be missing from it.
const STREAMS: [&str; 45] = [
    "event: stop\ndata: [DONE]\nid: 7\n: note\nretry: 5\n\ndata: 1\n\n",
    "data: 1\r\rretry: 5\r: note\rid: 7\rdata: [DONE]\revent: stop\r\rdata: 2\r\r",
    "\u{feff}id: 7\r\ndata: [DONE]\r\nretry: 5\r\nevent: stop\r\n: note\r\n\r\ndata: 1\r\n\r\n",
    "data: a\ndata:\ndata: b\n\n",
    "data:a\r\nevent: x\r\ndata\r\n: note\r\ndata:b\r\n\r\ndata: late\r\n\r\n",
    "\u{feff}data: a\rdata: \rid: 1\rdata: b\r\r",
    "data: [DONE]\n\ndata: 1\n\n",
    "data: 1\n\ndata: [DONE]\n\ndata: 2\n\n",
    "data: 1\n\ndata: 2\n\ndata: [DONE]\n\n",
    "data: [DONE]\n\ndata: [DONE]\n\n",
    "data: [DONE]\n\n\n\n",
    "data: [DONE]\n\n: bye\n",
    "data: [DONE]\n\ndata: unfinished",
    "\n\n: hi\n\nretry: 5\n\ndata: [DONE]\r\rdata: 2\n\n",
    "data: [DONE]\n\r\n\ndata: 2\n\n",
    "\u{feff}data: [DONE]\n\r\r\n",
    "data: 1\n\nid: 7\rdata: [DONE]\n\ndata: 2\n\n",
    "event: stop\nid: 7\n\nevent: stop\n\ndata: 1\n\n",
    "event: stop\ndata: longer than the limits of the buffer\n\nevent: late\ndata: late\n\n",
    "data: longer than the limits of the buffer\ndata: y\nevent: stop\n\n",
    "data: 1\n\n: longer than the limits of the buffer\nevent: stop\ndata\n\n",
    "data: [DONE]\n",
    "data: [DONE]\r\n",
    "data: [DONE]\r",
    "data:[DONE]",
    "\u{feff}data: [DONE]",
    "\u{feff}data: [DONE]\n",
    "\u{feff}\ndata: [DONE]\n\ndata: 1\n\n",
    "data: 1\r\rdata: [DONE]\r",
    "data: 1\r\n\r\ndata: [DONE]",
    "event: x\nid: 7\ndata: [DONE]\nretry: 5\n",
    "data: [DONE]\n: note",
    ": note\r\ndata: [DONE]\r\nevent: x",
    "data: 1\n\n\ndata: [DONE]\n",
    "event: stop\ndata: x",
    "data: x\revent: stop\r",
    "data: [DONE]\ndata",
    "data: [DONE] \n",
    "event: [DONE]\n",
    "data: 1\n\ndata: [DON",
    "data: 1\r\r",
    "data: 1\n\n: note\n\nretry: 5\n\n",
    ": x\nid: 7\n\n",
    "\u{feff}",
    "",
];

/// Ends of an upstream, and cancellations of its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Eof,
    /// The upstream reports its end with its last frame.
    Reported,
    Trailers,
    Error,
    CancelledWhilePending,
    CancelledBeforeEof,
    CancelledBeforeError,
}

const ENDS: [End; 7] = [
    End::Eof,
    End::Reported,
    End::Trailers,
    End::Error,
    End::CancelledWhilePending,
    End::CancelledBeforeEof,
    End::CancelledBeforeError,
];

#[tokio::test(start_paused = true)]
async fn c26_every_stream_agrees_with_the_model_in_every_framing_with_every_limit_and_end() {
    let event = |text: &str| Match::Event(text.to_owned());
    let data = |text: &str| Match::Data(text.to_owned());
    let by_function = Match::Function(|event_type, data| event_type == "stop" || data == "x");
    // The end marks, and the events that the idle timeout ignores.
    let matches = [
        (vec![data("[DONE]")], vec![]),
        (vec![event("stop")], vec![event("stop")]),
        (vec![by_function, event("message")], vec![]),
        (
            vec![data("a\n\nb"), data("longer than the limits of the buffer")],
            vec![],
        ),
        (vec![], vec![event("stop"), data("1")]),
    ];
    let streams = STREAMS
        .iter()
        .flat_map(|stream| matches.iter().map(move |matches| (stream, matches)));
    for (stream, (end_marks, ignored)) in streams.step_by(MIRI_STRIDE) {
        // Every framing, and twice every combination of an end, a policy and a limit.
        let framings: Vec<_> = framings(stream.as_bytes()).collect();
        for number in (0..framings.len().max(2 * 42)).step_by(MIRI_STRIDE) {
            let case = Case {
                frames: &framings[number % framings.len()],
                end: ENDS[number % 7],
                closes: number % 2 == 0,
                limit: [0, 10, 1024][number % 3],
                end_marks,
                ignored,
            };
            case.judge();
        }
    }
}

#[derive(Debug)]
struct Case<'a> {
    frames: &'a [&'a [u8]],
    end: End,
    /// The policy has a close event for every end, or for none.
    closes: bool,
    limit: usize,
    end_marks: &'a [Match],
    ignored: &'a [Match],
}

impl Case<'_> {
    /// Runs the stream, and judges its bytes, its hints and its report after each poll by the model of the contract.
    fn judge(&self) {
        let upstream = self.upstream();
        let _case = PrintOnPanic((self, format!("{upstream:?}")));
        let (token, reports) = (CancellationToken::new(), Reports::default());
        let mut judge = StreamJudge::new(self.options(), &reports);
        let log = judge.log().clone();
        let layer = self.layer(&token).on_end(reports.observer());
        let mut body = drive(&layer, judge.upstream(upstream));
        let cancel = || {
            token.cancel();
            log.cancel();
        };
        if matches!(
            self.end,
            End::CancelledBeforeEof | End::CancelledBeforeError
        ) {
            cancel();
        }
        loop {
            match judge.poll(&mut body) {
                Progress::Ready => {}
                Progress::Waiting => cancel(),
                Progress::Finished | Progress::Ended => break,
            }
        }
        judge.finish(body);
    }

    fn upstream(&self) -> Script {
        let last = match self.end {
            End::Trailers => Some(Step::Trailers),
            End::Error | End::CancelledBeforeError => Some(Step::Error),
            _ => None,
        };
        Script::new(self.frames.iter().map(data).chain(last))
            .then(match self.end {
                End::CancelledWhilePending => AfterScript::Pending,
                _ => AfterScript::End,
            })
            .end_stream(match self.end {
                End::Reported => EndStream::Known,
                _ => EndStream::Unknown,
            })
    }

    fn options(&self) -> Options {
        Options {
            policy: Policy {
                close_event: true,
                close_on_empty: self.closes,
                close_on_completed: self.closes,
                close_on_truncated: self.closes,
                close_on_failed: self.closes,
            },
            buffer_limit: self.limit,
            end_marks: self.end_marks.to_vec(),
            ignored: self.ignored.to_vec(),
            deadlines: Deadlines {
                idle_timeout: Some(SECOND),
                ..Deadlines::default()
            },
            ..Options::default()
        }
    }

    fn layer(&self, token: &CancellationToken) -> SseCompletionLayer {
        let ignored = self.ignored.iter().cloned().map(EventMatch::from);
        let timeout = ignored.fold(IdleTimeout::after(SECOND), IdleTimeout::ignoring);
        let layer = cancellation_layer(token)
            .close_on_empty(self.closes)
            .close_on_completed(self.closes)
            .close_on_truncated(self.closes)
            .close_on_failed(self.closes)
            .buffer_limit(self.limit)
            .idle_timeout(timeout);
        let end_marks = self.end_marks.iter().cloned().map(EventMatch::from);
        end_marks.fold(layer, SseCompletionLayer::end_mark)
    }
}

#[test]
fn c26_data_is_exact() {
    let layer = SseCompletionLayer::new().end_mark(done());
    for event in sample([
        "data: [DONE]",
        "data:[DONE]",
        "unknown\ndata:[DONE]\nunknown: 2",
        "event: x\ndata: [DONE]",
        "data: [DONE]\nevent: x\nevent: y",
        ": data: 2\ndata: [DONE]\n:",
    ]) {
        assert_is_mark(&layer, event, true);
    }
    for event in sample([
        "data: [DONE] ",
        "data:  [DONE]",
        "data:\t[DONE]",
        "data: [done]",
        "data: [DONE]!",
        "data: [DONE",
        "data: DONE]",
        "data: x\ndata: [DONE]",
        "data: [DONE]\ndata: x",
        "data: [DONE]\ndata",
        "data\ndata: [DONE]",
        "Data: [DONE]",
        "DATA: [DONE]",
        "data : [DONE]",
        " data: [DONE]",
        "data: data: [DONE]",
        "dat: [DONE]",
        "datas: [DONE]",
        "event: [DONE]\ndata: x",
        "id: [DONE]\ndata:",
        ": x\n:data: [DONE]",
        "data: \u{feff}[DONE]",
        "\u{feff}data: [DONE]\ndata: x",
        "data: [DONE]\0",
    ]) {
        assert_is_mark(&layer, event, false);
    }
    let marked = |data| SseCompletionLayer::new().end_mark(EventMatch::data(data));
    for event in ["data", "data:", "data: ", "event: x\ndata\nid: 1"] {
        assert_is_mark(&marked(""), event, true);
    }
    for event in sample([
        "data:  ",
        "data: x",
        "data\ndata",
        "event: x",
        "id",
        "retry: 5",
        ":",
    ]) {
        assert_is_mark(&marked(""), event, false);
    }
    assert_is_mark(&marked("\n"), "data\ndata", true);
    assert_is_mark(&marked("é\u{1f389}"), "data: é\u{1f389}", true);
}

#[test]
fn c26_type_is_that_of_the_last_event_field_or_message() {
    for (event, event_type) in sample([
        ("data: x", "message"),
        ("event: message\ndata: x", "message"),
        ("event:message\ndata", "message"),
        ("event\ndata: x", "message"),
        ("event:\ndata: x", "message"),
        ("event: stop\nevent:\ndata: x", "message"),
        ("event: stop\ndata: x\nevent", "message"),
        ("Event: stop\ndata: x", "message"),
        ("event : stop\ndata: x", "message"),
        ("event: stop\ndata: x", "stop"),
        ("data: x\nevent: stop", "stop"),
        ("event: go\ndata\nid: 1\nevent:stop", "stop"),
        ("event: stop\ndata:", "stop"),
        ("event:  stop\ndata: x", " stop"),
        ("event: stop \ndata: x", "stop "),
        ("event: stopping\ndata: x", "stopping"),
        ("event: sto\ndata: x", "sto"),
    ]) {
        // A client does not receive an event with an empty type.
        for mark in ["message", "stop", event_type, ""] {
            let layer = SseCompletionLayer::new().end_mark(EventMatch::event(mark));
            assert_is_mark(&layer, event, mark == event_type);
        }
    }
}

#[test]
fn c26_types_and_data_above_the_buffer_limit_match_but_functions_do_not_receive_them() {
    let long = "x".repeat(100);
    let limited = |end_mark| SseCompletionLayer::new().end_mark(end_mark).buffer_limit(8);
    for (end_mark, event, is_mark) in sample([
        (EventMatch::data(&*long), format!("data: {long}"), true),
        (EventMatch::data(&*long), format!("data: {long}x"), false),
        (
            EventMatch::data(&*long),
            format!("data: {}", &long[1..]),
            false,
        ),
        (
            EventMatch::event(&*long),
            format!("event: {long}\ndata"),
            true,
        ),
        (
            EventMatch::event("stop"),
            format!("event: stop\ndata: {long}"),
            true,
        ),
        (
            EventMatch::event("stop"),
            format!("data: {long}\nid: {long}\nevent: stop"),
            true,
        ),
    ]) {
        assert_is_mark(&limited(end_mark), &event, is_mark);
    }
    for (event, is_received) in sample([
        ("data: 12345678", true),
        ("data: 123456789", false),
        ("data: 1234\ndata: 567", true),
        ("data: 1234\ndata: 5678", false),
        ("event: 12345678\ndata", true),
        ("event: 123456789\ndata", false),
        ("event: 123456789\nevent: x\ndata: 12345678", true),
        ("id: 123456789\ndata: x\n: 123456789", true),
    ]) {
        // Another mark may need more of the data.
        for other in ["short", "a longer mark than the limit"] {
            let layer = limited(EventMatch::when(|event| event.event_type() != "late"))
                .end_mark(EventMatch::data(other));
            assert_is_mark(&layer, event, is_received);
        }
    }
}

#[test]
fn c26_function_receives_each_delivered_event_once() {
    let streams: [&[u8]; 5] = [
        b"data: 1\n\ndata: 2\r\n\r\nevent: x\ndata:\r\r",
        b"event: x\n\n: note\n\nretry: 5\n\nevent: y\ndata: 1\ndata: 2\n\nid: 1\n\n",
        b"\xEF\xBB\xBFevent: \xFF\ndata: a\xC3\ndata: \xA9\xF0\x9F\n\ndata\n\n",
        b"data: 1\n\ndata: unfinished",
        b"\xEF\xBBdata: 1\ndata: 2\n\n\xEF\xBB\xBFdata: 3\n\n",
    ];
    for stream in streams {
        let expected = decode(stream).events.into_iter();
        let expected: Vec<_> = expected.map(|it| (it.event_type, it.data)).collect();
        for frames in framings(stream) {
            let events = Arc::new(Mutex::new(Vec::new()));
            let seen = Arc::clone(&events);
            let (reports, layer) = marked(EventMatch::when(move |event| {
                let event = (event.event_type().to_owned(), event.data().to_owned());
                seen.lock().unwrap().push(event);
                false
            }));
            drive(&layer.close_event(None), Script::frames(frames)).rest();
            assert_eq!(ending(&reports), Ending::Truncated);
            let stream = stream.escape_ascii();
            assert_eq!(*events.lock().unwrap(), expected, "{stream}");
        }
    }
}

/// The mark is too long to be joined with the bytes that were held before it.
#[test]
fn c6_and_c11_and_c26_long_mark_in_two_frames_ends_with_the_second_and_cannot_be_cancelled_between()
{
    let stream = format!("event: stop\ndata: {}\n\n", "x".repeat(9000));
    let (first, second) = stream.split_at(5000);
    for is_cancelled in [false, true] {
        let (reports, layer) = marked(EventMatch::event("stop"));
        let shutdown = Shutdown::new();
        let upstream = Script::new([data(first), data(format!("{second}{LATE}")), Step::Error]);
        let log = upstream.log();
        let mut body = drive(&layer.shutdown(&shutdown), upstream);
        assert_eq!(body.data(), first);
        assert_eq!((reports.count(), log.dropped()), (0, false));
        if is_cancelled {
            shutdown.close();
        }
        assert_eq!(body.data(), second);
        assert!(log.dropped());
        assert_eq!(ending(&reports), Ending::Completed);
        assert_eq!(body.rest().frames, [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn c26_nothing_follows_the_mark() {
    for (behind, after) in sample([
        (vec![], AfterScript::End),
        (vec![], AfterScript::Pending),
        (vec![], AfterScript::Repeat(EVENT.into())),
        (vec![Step::Error], AfterScript::End),
        (vec![Step::Trailers], AfterScript::End),
        (vec![Step::Panic], AfterScript::End),
        (vec![data(LATE), Step::Pending], AfterScript::End),
    ]) {
        for end_stream in [EndStream::Unknown, EndStream::Known, EndStream::Wrong] {
            let (reports, layer) = marked(done());
            let shutdown = Shutdown::new();
            let layer = layer
                .shutdown(&shutdown)
                .keep_alive(KeepAlive::new().interval(SECOND))
                .idle_timeout(SECOND * 2)
                .max_age(SECOND * 3);
            let steps = [data(MARK)].into_iter().chain(behind.clone());
            let upstream = Script::new(steps)
                .then(after.clone())
                .end_stream(end_stream);
            let log = upstream.log();
            let mut response = event_stream_response(upstream);
            let of_response = CloseEvent::new().data("of the response");
            response.extensions_mut().insert(of_response);
            let response = send_response(&layer, Request::new(()), response);
            let mut body = Driver::new(response.into_body());
            assert_eq!(
                (body.is_end_stream(), body.size_hint().exact()),
                (false, None)
            );
            assert_eq!(body.data(), MARK);

            // Everything has happened in the poll that returned the mark.
            assert_eq!((log.polls(), log.dropped()), (1, true));
            assert_eq!(ending(&reports), Ending::Completed);
            assert_eq!(shutdown.open_streams(), 0);
            assert_eq!(body.size_hint().exact(), Some(0));
            shutdown.close_with(CloseEvent::new().data("of the shutdown"));
            assert_eq!(body.advance(10).await, []);
            assert_eq!(body.rest().frames, [""; 0]);
            reports.only();
        }
    }
}

#[test]
fn c26_body_that_is_dropped_after_the_mark_is_completed() {
    for (frames, expected) in [(1, Ending::Dropped), (2, Ending::Completed)] {
        let (reports, layer) = marked(done());
        let upstream = Script::frames([EVENT, MARK]).then(AfterScript::Pending);
        let mut body = drive(&layer, upstream);
        for _ in 0..frames {
            assert_eq!(reports.count(), 0);
            body.data();
        }
        body.drop_body();
        assert_eq!(ending(&reports), expected);
    }
}

#[tokio::test]
#[cfg_attr(miri, ignore = "needs sockets")]
async fn c26_response_of_a_server_is_complete_although_its_upstream_hangs_behind_the_mark() {
    for version in VERSIONS {
        for frames in [
            vec![EVENT, MARK],
            vec!["data: 1\n\ndata: [DONE]\r\r"],
            vec![EVENT, "data: [DO", "NE]\n\n"],
        ] {
            let (reports, layer) = marked(done());
            let hanging = move || Script::frames(&frames).then(AfterScript::Pending);
            let server = server::serve_scripts(layer, hanging).await;
            let response = server::request(server, version, "GET", "/").await;
            let text = server::receive(response.into_body()).await.text();
            let events = decode(text.as_bytes()).events;
            let data: Vec<_> = events.iter().map(|event| &event.data).collect();
            assert_eq!(data, ["1", "[DONE]"], "{version:?}");
            assert_eq!(ending(&reports), Ending::Completed);
        }
    }
}

#[test]
fn c11_and_c26_mark_within_the_frames_after_a_cancellation_wins() {
    // The frames before the mark, and whether the mark is among the 32 frames after the cancellation.
    for (before, wins) in [(0, true), (1, true), (31, true), (32, false), (40, false)] {
        let (reports, layer) = marked(done());
        let shutdown = Shutdown::new();
        shutdown.close_with(CloseEvent::new());
        let frames = vec![EVENT; before].into_iter().chain([MARK, LATE]);
        let upstream = Script::frames(frames).then(AfterScript::Pending);
        let output = drive(&layer.shutdown(&shutdown), upstream).rest().bytes();
        let report = reports.only();
        let result = (report.ending(), report.close_event_sent());
        let (events, last, expected) = match wins {
            true => (before, MARK.as_bytes(), (Ending::Completed, false)),
            false => (32, CLOSE, (Ending::Cancelled, true)),
        };
        assert_eq!(output, [EVENT.repeat(events).as_bytes(), last].concat());
        assert_eq!(result, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn c16_and_c26_mark_that_is_ready_wins_over_a_deadline() {
    for layer in [
        SseCompletionLayer::new().max_age(Duration::ZERO),
        SseCompletionLayer::new().idle_timeout(Duration::ZERO),
        SseCompletionLayer::new()
            .max_age(SECOND)
            .idle_timeout(SECOND),
    ] {
        let reports = Reports::default();
        let layer = layer.end_mark(done()).on_end(reports.observer());
        let (events, upstream) = feed();
        let mut body = drive(&layer, upstream);
        events.send(MARK);
        advance(SECOND * 2).await;
        assert_eq!(body.rest().text(), MARK);
        assert_eq!(ending(&reports), Ending::Completed);
    }
}

#[tokio::test(start_paused = true)]
async fn c17_and_c26_byte_order_mark_before_a_mark_is_dropped_after_a_comment() {
    for stream in [
        "\u{feff}data: [DONE]\n\n",
        "\u{feff}data: [DONE]\n",
        "\u{feff}data: [DONE]",
    ] {
        let (reports, layer) = marked(done());
        let (events, upstream) = feed();
        let mut body = drive(&layer.keep_alive(SECOND), upstream);
        body.assert_pending();
        assert_eq!(body.advance(1).await, [(1, ":\n\n".into())]);
        stream
            .as_bytes()
            .chunks(2)
            .for_each(|part| events.send(part));
        drop(events);
        assert_eq!(body.rest().text(), MARK);
        assert_eq!(ending(&reports), Ending::Completed);
        let report = reports.only();
        assert_eq!(report.bytes_received(), stream.len() as u64);
        assert_eq!(report.bytes_sent(), 3 + MARK.len() as u64);
    }
}

#[test]
fn c26_function_of_a_layer_that_wraps_a_stream_twice_is_called_once_for_each_event() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let layer = SseCompletionLayer::new().end_mark(EventMatch::when(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        false
    }));
    let twice = layer_fn(|service| layer.layer(layer.layer(service)));
    drive(&twice, Script::frames([EVENT, EVENT])).rest();
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[test]
fn c22_marks_of_several_layers_add_up() {
    let stop = || EventMatch::event("stop");
    let long = EventMatch::data("a longer mark than the limit");
    for (inner, outer) in [
        (done(), stop()),
        (stop(), done()),
        (
            done(),
            EventMatch::when(|event| event.event_type() == "stop"),
        ),
    ] {
        for stream in [
            MARK,
            "event: stop\ndata\n\n",
            "data: a longer mark than the limit\n\n",
        ] {
            let reports = Reports::default();
            let inner = SseCompletionLayer::new()
                .end_mark(inner.clone())
                .close_on_completed(true);
            let outer = SseCompletionLayer::new()
                .end_mark(outer.clone())
                .end_mark(long.clone())
                .close_on_truncated(true)
                .buffer_limit(16)
                .on_end(reports.observer());
            let both = layer_fn(|service| outer.layer(inner.layer(service)));
            let mut body = drive(
                &both,
                Script::frames([EVENT, stream, LATE]).then(AfterScript::Pending),
            );
            assert_eq!(body.rest().text(), format!("{EVENT}{stream}"));
            assert_eq!(ending(&reports), Ending::Completed);
        }
    }
}

#[test]
fn c26_panic_in_a_function_fails_and_ends_the_stream() {
    for (frames, is_forwarded) in [
        // In the fast path, in the first poll, with held bytes, and at the end of the upstream.
        (vec![EVENT, "data: panic\n\n", LATE], true),
        (vec!["data: panic\n\n", LATE], false),
        (vec!["data: pa", "nic\n\ndata: 2\n\n", LATE], false),
        (vec![EVENT, "data: panic\n"], true),
        (vec!["data: panic\n"], false),
    ] {
        let (reports, layer) = marked(EventMatch::when(|event| {
            assert_ne!(event.data(), "panic", "an intended panic");
            false
        }));
        let upstream = Script::frames(frames.clone());
        let log = upstream.log();
        let mut body = drive(&layer, upstream);
        if is_forwarded {
            assert_eq!(body.data(), EVENT);
        }
        let polled = catch_unwind(AssertUnwindSafe(|| body.poll()));
        assert!(polled.is_err(), "{frames:?}");
        // The frame is lost, so the stream cannot go on.
        let polls = log.polls();
        assert_eq!(body.rest().frames, [""; 0], "{frames:?}");
        assert_eq!((log.polls(), log.dropped()), (polls, true));
        assert_eq!(ending(&reports), Ending::Failed);
        assert_eq!(reports.only().delivered(), is_forwarded);
    }
}

#[test]
fn c2_and_c26_upstream_that_is_wrong_about_its_end_is_passed_through() {
    let (reports, layer) = marked(done());
    let layer = layer.close_on_truncated(false);
    let upstream = Script::frames([EVENT, MARK, LATE]).end_stream(EndStream::Wrong);
    let mut body = drive(&layer, upstream);
    assert_eq!(body.data(), EVENT);
    assert!(body.is_end_stream());
    assert_eq!(ending(&reports), Ending::Truncated);
    assert_eq!(body.collect().text(), format!("{MARK}{LATE}"));
}

#[tokio::test(start_paused = true)]
async fn c9_and_c15_stream_of_a_layer_without_a_close_event_has_that_of_its_response_or_none() {
    let of_shutdown = || CloseEvent::new().data("of the shutdown");
    let of_response = CloseEvent::new().data("of the response");
    for (of_response, rest) in [
        (None, ""),
        (Some(of_response), "event: close\ndata: of the response\n\n"),
    ] {
        for (stop, expected) in [
            ("close", Ending::Cancelled),
            ("close_with", Ending::Cancelled),
            ("drain", Ending::Cancelled),
            ("end_on_drain", Ending::Cancelled),
            ("max_age", Ending::Expired),
            ("idle_timeout", Ending::Idle),
        ] {
            let (reports, layer) = observed();
            let shutdown = Shutdown::new();
            let layer = layer.close_event(None).shutdown(&shutdown);
            let layer = match stop {
                "max_age" => layer.max_age(SECOND),
                "idle_timeout" => layer.idle_timeout(SECOND),
                _ => layer.end_on_drain(move |_| stop == "end_on_drain"),
            };
            let upstream = Script::frames(["data: 1\n\ndata: 2"]).then(AfterScript::Pending);
            let mut response = event_stream_response(upstream);
            if let Some(event) = of_response.clone() {
                response.extensions_mut().insert(event);
            }
            let response = send_response(&layer, Request::new(()), response);
            let mut body = Driver::new(response.into_body());
            assert_eq!(body.ready_data(), [EVENT]);
            let grace = SECOND * if stop == "drain" { 1 } else { 60 };
            match stop {
                "close" => shutdown.close(),
                "close_with" => shutdown.close_with(of_shutdown()),
                "drain" | "end_on_drain" => {
                    drop(tokio::spawn(
                        shutdown.drain(grace).close_event(of_shutdown()),
                    ));
                }
                _ => {}
            }
            tokio::time::sleep(SECOND * 3 / 2).await;
            // Bytes of an unfinished event are discarded.
            assert_eq!(body.rest().text(), rest, "{stop}");
            let report = reports.only();
            let result = (report.ending(), report.close_event_sent());
            assert_eq!(result, (expected, of_response.is_some()), "{stop}");
        }
    }
}

#[test]
fn c9_and_c11_error_after_a_cancellation_is_replaced_by_a_clean_end() {
    for (content, forwarded) in [("", ""), (EVENT, EVENT), ("data: 1\n\ndata: 2", EVENT)] {
        for last in [Step::Error, Step::Trailers] {
            let (reports, layer) = observed();
            let shutdown = Shutdown::new();
            shutdown.close();
            let layer = layer.shutdown(&shutdown).close_event(None);
            let output = drive(&layer, Script::new([data(content), last.clone()])).collect();
            assert_eq!((output.text().as_str(), output.error), (forwarded, None));
            assert_eq!(output.trailers.is_some(), matches!(last, Step::Trailers));
            assert_eq!(ending(&reports), Ending::Cancelled);
        }
    }
}

fn ping() -> EventMatch {
    EventMatch::event("ping")
}

const PING: &str = "event: ping\ndata: {}\n\n";

fn idle_layer(timeout: impl Into<IdleTimeout>) -> SseCompletionLayer {
    SseCompletionLayer::new()
        .close_event(CloseEvent::new().data("idle"))
        .idle_timeout(timeout)
}

const IDLE: &str = "event: close\ndata: idle\n\n";

#[tokio::test(start_paused = true)]
async fn c16_ignored_events_do_not_reset_the_idle_timeout_and_others_do() {
    let long = format!("event: ping\ndata: {}\n\n", "x".repeat(100));
    for (frames, is_ignored) in sample([
        (vec![PING], true),
        (vec!["data: {}\nevent: ping\n\n"], true),
        (vec!["event: ping\r\ndata: {}\r\n\r\n"], true),
        (vec!["event: ping\rdata\r\r\n"], true),
        (vec!["event: pi", "ng\ndata: {}\n", "\n"], true),
        (vec![PING, ": note\n\n", PING, "event: ping\n\n"], true),
        (
            vec!["event: ping\ndata: {}\n\nretry: 5\n\nevent: ping\ndata\n\n"],
            true,
        ),
        (vec!["data: [HEARTBEAT]\n\n"], true),
        (vec!["data: {\"type\":\"ping\"}\n\n"], true),
        // An event above the limit of the buffer.
        (vec![&long[..80], &long[80..]], true),
        (vec![EVENT], false),
        (vec![PING, EVENT], false),
        (vec!["data: 1\n\nevent: ping\ndata: {}\n\n"], false),
        (vec!["event: ping\ndata: {}\n\ndata: 1\n\n"], false),
        (vec!["event: pings\ndata: {}\n\n"], false),
        (vec!["event: ping\nevent: x\ndata: {}\n\n"], false),
        (vec!["da", "ta: 1\n", "\n"], false),
    ]) {
        let timeout = IdleTimeout::after(SECOND * 60)
            .ignoring(ping())
            .ignoring(EventMatch::data("[HEARTBEAT]"))
            .ignoring(EventMatch::when(|event| {
                event.data().contains("\"type\":\"ping\"")
            }));
        let (events, upstream) = feed();
        let mut body = drive(&idle_layer(timeout).buffer_limit(64), upstream);
        events.send(EVENT);
        assert_eq!(body.ready_data(), [EVENT]);
        for _ in 0..5 {
            assert_eq!(body.advance(10).await, []);
            frames.iter().for_each(|frame| events.send(frame));
            assert_eq!(body.ready_data().concat(), frames.concat().into_bytes());
        }
        let idle_in = if is_ignored { 10 } else { 60 };
        assert_eq!(
            body.advance(61).await,
            [(idle_in, IDLE.into())],
            "{frames:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn c16_stream_of_ignored_events_is_idle_from_its_start() {
    let timeout = IdleTimeout::after(SECOND * 15).ignoring(ping());
    let reports = Reports::default();
    let (events, upstream) = feed();
    let mut body = drive(&idle_layer(timeout).on_end(reports.observer()), upstream);
    for _ in 0..2 {
        events.send(PING);
        assert_eq!(body.ready_data(), [PING]);
        assert_eq!(body.advance(7).await, []);
    }
    assert_eq!(body.advance(10).await, [(1, IDLE.into())]);
    let report = reports.only();
    assert_eq!(
        (report.ending(), report.delivered()),
        (Ending::Idle, true),
        "a ping is an event"
    );
    assert_eq!(report.time_to_first_event(), Some(Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn c6_and_c16_event_of_two_frames_counts_when_its_end_is_returned() {
    for timeout in [
        IdleTimeout::after(SECOND * 10),
        IdleTimeout::after(SECOND * 10).ignoring(ping()),
    ] {
        let event = format!("data: {}\n\n", "x".repeat(9000));
        let (events, upstream) = feed();
        let mut body = drive(&idle_layer(timeout), upstream);
        let (first, second) = event.split_at(5000);
        events.send(first);
        body.assert_pending();
        events.send(second);
        assert_eq!(body.data(), first);
        // A client that does not read.
        advance(SECOND * 8).await;
        assert_eq!(body.data(), second);
        body.assert_pending();
        assert_eq!(body.advance(20).await, [(10, IDLE.into())]);
    }
}

#[tokio::test(start_paused = true)]
async fn c16_and_c22_shortest_idle_timeout_holds_with_the_events_that_it_ignores() {
    let plain = |seconds| IdleTimeout::after(SECOND * seconds);
    let ignoring = |seconds| plain(seconds).ignoring(ping());
    // The inner and the outer timeout, and the second in which a stream of a ping every 4 seconds is idle.
    for (inner, outer, expected) in sample([
        (Some(ignoring(10)), None, Some(10)),
        (None, Some(ignoring(10)), Some(10)),
        (Some(ignoring(10)), Some(plain(20)), Some(10)),
        (Some(plain(20)), Some(ignoring(10)), Some(10)),
        (Some(plain(10)), Some(ignoring(20)), None),
        (Some(ignoring(20)), Some(plain(10)), None),
        (Some(ignoring(10)), Some(plain(10)), Some(10)),
        (Some(plain(10)), Some(ignoring(10)), None),
        (Some(ignoring(20)), Some(ignoring(10)), Some(10)),
    ]) {
        let layer = |timeout: Option<IdleTimeout>| match timeout {
            Some(timeout) => idle_layer(timeout),
            None => SseCompletionLayer::new(),
        };
        let (inner, outer) = (layer(inner), layer(outer));
        let both = layer_fn(|service| outer.layer(inner.layer(service)));
        let (events, upstream) = feed();
        let mut body = drive(&both, upstream);
        body.assert_pending();
        let mut idle_at = None;
        for second in 1..=40 {
            if second % 4 == 0 && idle_at.is_none() {
                events.send(PING);
                body.ready_data();
            }
            if !body.advance(1).await.is_empty() {
                idle_at = Some(second);
                break;
            }
        }
        assert_eq!(idle_at, expected);
    }
}

#[test]
fn c26_function_receives_events_without_a_buffer_limit() {
    let (reports, layer) = marked(EventMatch::when(|event| event.data() == "[DONE]"));
    let upstream = Script::frames([EVENT, "data: [DO", "NE]\n\n"]).then(AfterScript::Pending);
    let output = drive(&layer.buffer_limit(usize::MAX), upstream).rest();
    assert_eq!(output.text(), format!("{EVENT}{MARK}"));
    assert_eq!(ending(&reports), Ending::Completed);
}

#[tokio::test(start_paused = true)]
async fn c26_function_of_several_options_is_called_once_for_an_event() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = {
        let calls = Arc::clone(&calls);
        EventMatch::when(move |event| {
            calls.fetch_add(1, Ordering::Relaxed);
            event.data() == "[DONE]"
        })
    };
    let timeout = || {
        let timeout = IdleTimeout::after(SECOND);
        timeout.ignoring(counted.clone()).ignoring(counted.clone())
    };
    for (is_mark, layer) in [
        (false, SseCompletionLayer::new().idle_timeout(timeout())),
        (
            true,
            SseCompletionLayer::new()
                .idle_timeout(timeout())
                .end_mark(counted.clone()),
        ),
    ] {
        calls.store(0, Ordering::Relaxed);
        let upstream = Script::frames([EVENT, MARK]).then(AfterScript::Pending);
        let mut body = drive(&layer, upstream);
        body.ready_data();
        assert_eq!(calls.load(Ordering::Relaxed), 2, "mark: {is_mark}");
    }
}

#[tokio::test(start_paused = true)]
async fn c26_ignored_events_are_not_tested_for_an_end_mark() {
    let (reports, layer) = marked(done());
    let ignored = EventMatch::when(|_| panic!("an intended panic"));
    let layer = layer.idle_timeout(IdleTimeout::after(SECOND).ignoring(ignored));
    let output = drive(&layer, Script::frames([MARK]).then(AfterScript::Pending)).rest();
    assert_eq!(output.text(), MARK);
    assert_eq!(ending(&reports), Ending::Completed);
}
