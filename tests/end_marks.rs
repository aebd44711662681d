//! End marks, streams without a close event, and idle timeouts that ignore events.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use http_body::Body;
use testkit::{
    MIRI_STRIDE,
    decoder::{decode, deliveries},
    driver::Driver,
    exchange::{CLOSE, cancellation_layer, drive, event_stream_response, send_response},
    feed::feed,
    reports::Reports,
    script::{AfterScript, EndStream, Script, ScriptError, Step, data, trailers},
    server::{self, VERSIONS},
};
use tokio::time::advance;
use tokio_util::sync::CancellationToken;
use tower_layer::{Layer, layer_fn};
use tower_sse_completion::{
    CloseEvent, Ending, EventMatch, IdleTimeout, KeepAlive, Shutdown, SseCompletionLayer, SseEvent,
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

/// Returns all splits of these bytes into two frames, and the bytes one by one.
fn framings(bytes: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    let cuts = (1..bytes.len()).step_by(MIRI_STRIDE);
    let in_two = cuts.map(|cut| vec![&bytes[..cut], &bytes[cut..]]);
    in_two.chain([vec![bytes], bytes.chunks(1).collect()])
}

/// Returns all orders of these lines.
fn orders<'a>(lines: &[&'a str]) -> Vec<Vec<&'a str>> {
    if lines.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for index in 0..lines.len() {
        let mut rest = lines.to_vec();
        let first = rest.remove(index);
        all.extend(
            orders(&rest)
                .into_iter()
                .map(|order| [vec![first], order].concat()),
        );
    }
    all
}

/// Asserts that this stream ends with its event number `count`, which is an end mark, in every framing.
#[track_caller]
fn assert_ends(end_mark: &EventMatch, stream: &[u8], count: usize) {
    // The event is complete with the first byte of its blank line. The LF of a CRLF, or the one that clients need which do not
    // know a lone CR, belongs to the output.
    let read = deliveries(stream)[count - 1];
    let mut output = stream[..read].to_vec();
    if output.ends_with(b"\r") {
        output.push(b'\n');
    }
    for frames in framings(stream) {
        let shown = || {
            format!(
                "{:?}",
                frames
                    .iter()
                    .map(|frame| frame.escape_ascii().to_string())
                    .collect::<Vec<_>>()
            )
        };
        let (reports, layer) = marked(end_mark.clone());
        let mut body = drive(&layer, Script::frames(&frames).then(AfterScript::Pending));
        let rest = body.rest();
        assert_eq!(rest.text(), String::from_utf8_lossy(&output), "{}", shown());
        assert_eq!(ending(&reports), Ending::Completed, "{}", shown());

        let mut received = 0;
        let frames_read = frames.iter().take_while(|frame| {
            let is_read = received < read;
            received += frame.len() * usize::from(is_read);
            is_read
        });
        let frames_read = frames_read.count();
        let report = reports.only();
        let counts = (
            report.data_frames(),
            report.bytes_received(),
            report.bytes_sent(),
        );
        assert_eq!(
            counts,
            (frames_read as u64, received as u64, output.len() as u64),
            "{}",
            shown()
        );
        assert!(report.delivered() && report.time_to_first_event().is_some());
    }
    assert_eq!(decode(&output).events.len(), count);
}

/// Asserts whether this event, which a blank line ends, is an end mark.
#[track_caller]
fn assert_matches(end_mark: EventMatch, event: &str, is_mark: bool) {
    for frames in framings(&[event.as_bytes(), b"\n\n", LATE.as_bytes()].concat()) {
        let (reports, layer) = observed();
        let layer = layer.end_mark(end_mark.clone()).close_event(None);
        let rest = drive(&layer, Script::frames(frames)).rest();
        let (expected, late) = match is_mark {
            true => (Ending::Completed, ""),
            false => (Ending::Truncated, LATE),
        };
        assert_eq!(rest.text(), format!("{event}\n\n{late}"), "{end_mark:?}");
        assert_eq!(ending(&reports), expected, "{end_mark:?} and {event:?}");
    }
}

#[test]
fn c26_output_ends_with_the_mark_in_every_order_of_fields_and_every_framing() {
    let fields = ["event: stop", "data: [DONE]", "id: 7", ": note", "retry: 5"];
    let by_function =
        |event: &SseEvent<'_>| (event.event_type(), event.data()) == ("stop", "[DONE]");
    let end_marks = [
        done(),
        EventMatch::event("stop"),
        EventMatch::when(by_function),
    ];
    let orders = orders(&fields);
    for (number, order) in orders.iter().enumerate().step_by(MIRI_STRIDE) {
        for line_end in ["\n", "\r", "\r\n"] {
            let mark = order
                .iter()
                .map(|field| [field, line_end].concat())
                .collect::<String>();
            let start = ["", "\u{feff}"][number % 2];
            let stream = format!("{start}data: 1{line_end}{line_end}{mark}{line_end}{LATE}");
            assert_ends(&end_marks[number % 3], stream.as_bytes(), 2);
        }
    }
    assert_eq!(orders.len(), 120);
}

#[test]
fn c26_data_of_several_lines_is_joined() {
    let lines = EventMatch::data("a\n\nb");
    for stream in [
        "data: a\ndata:\ndata: b\n\n",
        "data:a\r\nevent: x\r\ndata\r\n: note\r\ndata:b\r\n\r\n",
        "\u{feff}data: a\rdata: \rid: 1\rdata: b\r\r",
    ] {
        assert_ends(&lines, stream.as_bytes(), 1);
        assert_ends(
            &lines,
            [stream.as_bytes(), LATE.as_bytes()].concat().as_slice(),
            1,
        );
    }
}

#[test]
fn c26_first_mark_of_a_frame_ends_the_stream() {
    for (stream, count) in [
        ("data: [DONE]\n\ndata: 1\n\n", 1),
        ("data: 1\n\ndata: [DONE]\n\ndata: 2\n\n", 2),
        ("data: 1\n\ndata: 2\n\ndata: [DONE]\n\n", 3),
        ("data: [DONE]\n\ndata: [DONE]\n\n", 1),
        ("data: [DONE]\n\n\n\n", 1),
        ("data: [DONE]\n\n: bye\n", 1),
        ("data: [DONE]\n\ndata: unfinished", 1),
        ("\n\n: hi\n\nretry: 5\n\ndata: [DONE]\r\rdata: 2\n\n", 1),
        ("data: [DONE]\n\r\n\ndata: 2\n\n", 1),
        ("\u{feff}data: [DONE]\n\r\r\n", 1),
    ] {
        assert_ends(&done(), stream.as_bytes(), count);
    }
}

#[test]
fn c26_data_is_exact() {
    for event in [
        "data: [DONE]",
        "data:[DONE]",
        "unknown\ndata:[DONE]\nunknown: 2",
        "event: x\ndata: [DONE]",
        "data: [DONE]\nevent: x\nevent: y",
        ": data: 2\ndata: [DONE]\n:",
    ] {
        assert_matches(done(), event, true);
    }
    for event in [
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
    ] {
        assert_matches(done(), event, false);
    }
    for event in ["data", "data:", "data: ", "event: x\ndata\nid: 1"] {
        assert_matches(EventMatch::data(""), event, true);
    }
    for event in [
        "data:  ",
        "data: x",
        "data\ndata",
        "event: x",
        "id",
        "retry: 5",
        ":",
    ] {
        assert_matches(EventMatch::data(""), event, false);
    }
    assert_matches(EventMatch::data("\n"), "data\ndata", true);
    assert_matches(EventMatch::data("é\u{1f389}"), "data: é\u{1f389}", true);
}

#[test]
fn c26_type_is_that_of_the_last_event_field_or_message() {
    for event in [
        "data: x",
        "event: message\ndata: x",
        "event:message\ndata",
        "event\ndata: x",
        "event:\ndata: x",
        "event: stop\nevent:\ndata: x",
        "event: stop\ndata: x\nevent",
        "Event: stop\ndata: x",
        "event : stop\ndata: x",
    ] {
        assert_matches(EventMatch::event("message"), event, true);
        assert_matches(EventMatch::event("stop"), event, false);
    }
    for event in [
        "event: stop\ndata: x",
        "data: x\nevent: stop",
        "event: go\ndata\nid: 1\nevent:stop",
        "event: stop\ndata:",
    ] {
        assert_matches(EventMatch::event("stop"), event, true);
        assert_matches(EventMatch::event("message"), event, false);
    }
    for event in [
        "event:  stop\ndata: x",
        "event: stop \ndata: x",
        "event: stopping\ndata: x",
        "event: sto\ndata: x",
    ] {
        assert_matches(EventMatch::event("stop"), event, false);
    }
    // A client does not receive an event with an empty type.
    assert_matches(EventMatch::event(""), "data: x", false);
}

#[test]
fn c26_event_without_data_is_no_mark_and_leaves_nothing_behind() {
    for event in [
        "event: stop",
        "event: stop\nid: 7",
        "event: stop\n\nevent: stop",
    ] {
        for frames in framings(format!("{event}\n\n{EVENT}").as_bytes()) {
            let (reports, layer) = marked(EventMatch::event("stop"));
            let output = drive(&layer, Script::frames(frames)).rest().bytes();
            assert!(output.ends_with(CLOSE), "{}", output.escape_ascii());
            assert_eq!(reports.only().ending(), Ending::Truncated);
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
        let mut expected = decode(stream).events;
        expected
            .iter_mut()
            .for_each(|event| event.last_event_id.clear());
        for frames in framings(stream) {
            let events = Arc::new(Mutex::new(Vec::new()));
            let seen = Arc::clone(&events);
            let (reports, layer) = marked(EventMatch::when(move |event| {
                let event = (event.event_type().to_owned(), event.data().to_owned());
                seen.lock().unwrap().push(event);
                false
            }));
            let output = drive(&layer, Script::frames(frames)).rest().bytes();
            assert!(output.ends_with(CLOSE));
            assert_eq!(reports.only().ending(), Ending::Truncated);
            let expected: Vec<_> = expected
                .iter()
                .map(|it| (it.event_type.clone(), it.data.clone()))
                .collect();
            assert_eq!(
                *events.lock().unwrap(),
                expected,
                "{}",
                stream.escape_ascii()
            );
        }
    }
}

#[test]
fn c26_event_above_the_buffer_limit_matches_by_its_type() {
    let long = "x".repeat(100);
    for limit in [0, 16, 99, 200] {
        for stream in [
            format!("event: stop\ndata: {long}\n\n"),
            format!("data: {long}\ndata: y\nid: {long}\nevent: stop\n\n"),
            format!("{EVENT}: {long}\nevent: stop\ndata\n\n"),
        ] {
            for frames in framings((stream.clone() + LATE).as_bytes()) {
                let (reports, layer) = marked(EventMatch::event("stop"));
                let layer = layer.buffer_limit(limit);
                let output = drive(&layer, Script::frames(frames)).rest().bytes();
                assert_eq!(output, stream.as_bytes());
                assert_eq!(ending(&reports), Ending::Completed);
            }
        }
    }
}

#[test]
fn c26_data_above_the_buffer_limit_matches_a_mark_of_the_same_length() {
    let long = "x".repeat(100);
    for (sent, is_mark) in [
        (long.clone(), true),
        (format!("{long}x"), false),
        ("x".repeat(99), false),
    ] {
        for frames in framings(format!("data: {sent}\n\n").as_bytes()) {
            let (reports, layer) = marked(EventMatch::data(&long));
            drive(
                &layer.buffer_limit(8).close_event(None),
                Script::frames(frames),
            )
            .rest();
            assert_eq!(ending(&reports) == Ending::Completed, is_mark);
        }
    }
}

#[test]
fn c26_function_receives_types_and_data_up_to_the_buffer_limit() {
    for (event, is_received) in [
        ("data: 12345678", true),
        ("data: 123456789", false),
        ("data: 1234\ndata: 567", true),
        ("data: 1234\ndata: 5678", false),
        ("event: 12345678\ndata", true),
        ("event: 123456789\ndata", false),
        ("event: 123456789\nevent: x\ndata: 12345678", true),
        ("id: 123456789\ndata: x\n: 123456789", true),
    ] {
        // Another mark may need more of the data.
        for other in ["short", "a longer mark than the limit"] {
            let end_mark = EventMatch::when(|_| true);
            for frames in framings(format!("{event}\n\n").as_bytes()) {
                let (reports, layer) = marked(end_mark.clone());
                let layer = layer.end_mark(EventMatch::data(other)).buffer_limit(8);
                drive(&layer.close_event(None), Script::frames(frames)).rest();
                assert_eq!(
                    ending(&reports) == Ending::Completed,
                    is_received,
                    "{event}"
                );
            }
        }
    }
}

#[test]
fn c6_and_c26_long_mark_in_two_frames_is_returned_in_consecutive_frames() {
    let stream = format!("event: stop\ndata: {}\n\n", "x".repeat(9000));
    let (first, second) = stream.split_at(5000);
    for second in [second.to_owned(), format!("{second}{LATE}")] {
        let (reports, layer) = marked(EventMatch::event("stop"));
        let upstream = Script::frames([first, &second]);
        let log = upstream.log();
        let mut body = drive(&layer, upstream.then(AfterScript::Pending));
        assert_eq!(body.data(), first);
        assert_eq!(reports.count(), 0);
        assert!(!log.dropped());
        assert_eq!(body.data(), stream[5000..]);
        assert!(log.dropped());
        assert_eq!(ending(&reports), Ending::Completed);
        assert_eq!(body.rest().frames, [""; 0]);
    }
}

#[test]
fn c11_and_c26_cancellation_between_the_frames_of_a_mark_is_too_late() {
    let event = format!("event: stop\ndata: {}\n\n", "x".repeat(9000));
    let (first, second) = event.split_at(5000);
    let (reports, layer) = marked(EventMatch::event("stop"));
    let shutdown = Shutdown::new();
    let upstream = Script::new([data(first), data(second), Step::Error]);
    let mut body = drive(&layer.shutdown(&shutdown), upstream);
    assert_eq!(body.data(), first);
    shutdown.close();
    assert_eq!(body.rest().text(), second);
    assert_eq!(ending(&reports), Ending::Completed);
}

#[test]
fn c26_frame_with_the_mark_is_not_copied() {
    let frame = Bytes::from(format!("{EVENT}{MARK}{LATE}"));
    let (_, layer) = marked(done());
    let mut body = drive(&layer, Script::new([Step::Data(frame.clone())]));
    let returned = body.data();
    assert_eq!(returned, frame[..EVENT.len() + MARK.len()]);
    assert_eq!(returned.as_ptr(), frame.as_ptr());
}

/// Streams that end in a mark without its blank line, and the line ends that are added.
const UNFINISHED: [(&str, &str); 14] = [
    ("data: [DONE]\n", "\n"),
    ("data: [DONE]\r\n", "\n"),
    ("data: [DONE]\r", "\n\n"),
    ("data: [DONE]", "\n\n"),
    ("data:[DONE]", "\n\n"),
    ("\u{feff}data: [DONE]", "\n\n"),
    ("\u{feff}data: [DONE]\n", "\n"),
    ("data: 1\n\ndata: [DONE]\n", "\n"),
    ("data: 1\r\rdata: [DONE]\r", "\n\n"),
    ("data: 1\r\n\r\ndata: [DONE]", "\n\n"),
    ("event: x\nid: 7\ndata: [DONE]\nretry: 5\n", "\n"),
    ("data: [DONE]\n: note", "\n\n"),
    (": note\r\ndata: [DONE]\r\nevent: x", "\n\n"),
    ("data: 1\n\n\ndata: [DONE]\n", "\n"),
];

#[test]
fn c26_mark_counts_without_its_blank_line_at_the_end_of_the_upstream() {
    for (stream, added) in UNFINISHED {
        for frames in framings(stream.as_bytes()) {
            for limit in [0, 10, 1024] {
                for end_stream in [EndStream::Unknown, EndStream::Known] {
                    for last in [None, Some(Step::Trailers)] {
                        let (reports, layer) = marked(done());
                        let steps = frames.iter().map(data).chain(last.clone());
                        let upstream = Script::new(steps).end_stream(end_stream);
                        let mut body = drive(&layer.buffer_limit(limit), upstream);
                        let output = body.collect();
                        let shown = || format!("{stream:?}, {limit}, {frames:?}, {last:?}");
                        assert_eq!(output.text(), format!("{stream}{added}"), "{}", shown());
                        assert_eq!(
                            output.trailers,
                            last.map(|_| trailers()),
                            "{}",
                            frames.len()
                        );
                        assert!(matches!(body.poll(), Poll::Ready(None)));
                        assert!(body.is_end_stream());

                        let report = reports.only();
                        assert_eq!(ending(&reports), Ending::Completed);
                        assert!(report.delivered() && report.time_to_first_event().is_some());
                        let counts = (
                            report.data_frames(),
                            report.bytes_received(),
                            report.bytes_sent(),
                        );
                        let lengths = (frames.len(), stream.len(), stream.len() + added.len());
                        assert_eq!(
                            counts,
                            (lengths.0 as u64, lengths.1 as u64, lengths.2 as u64)
                        );

                        let decoded = decode(&output.bytes());
                        let last = decoded.events.last().map(|event| event.data.as_str());
                        assert_eq!((last, decoded.pending), (Some("[DONE]"), false));
                    }
                }
            }
        }
    }
}

#[test]
fn c26_only_data_counts_without_the_last_line_end() {
    let by_function =
        || EventMatch::when(|event| event.data() == "x" || event.event_type() == "stop");
    for (end_mark, stream) in [
        (EventMatch::event("stop"), "event: stop\ndata: x"),
        (EventMatch::event("stop"), "data: x\nevent: stop"),
        (EventMatch::event("message"), "data: x"),
        (by_function(), "event: stop\ndata: x"),
        (by_function(), "data: x"),
    ] {
        for frames in framings(stream.as_bytes()) {
            let (reports, layer) = marked(end_mark.clone());
            let layer = layer.close_on_truncated(false);
            assert_eq!(drive(&layer, Script::frames(frames)).rest().text(), stream);
            assert_eq!(ending(&reports), Ending::Truncated, "{stream:?}");
        }
        for line_end in ["\n", "\r", "\r\n"] {
            let whole_lines = stream.to_owned() + line_end;
            for frames in framings(whole_lines.as_bytes()) {
                let (reports, layer) = marked(end_mark.clone());
                let output = drive(&layer, Script::frames(frames)).rest().text();
                assert_eq!(output.trim_end(), stream);
                assert_eq!(ending(&reports), Ending::Completed, "{whole_lines:?}");
                assert!(!decode(output.as_bytes()).pending);
            }
        }
    }
}

#[test]
fn c26_unfinished_event_that_is_no_mark_is_truncated() {
    for stream in [
        "data: [DONE",
        "data: [DONE]\ndata: x",
        "data: [DONE]\ndata",
        "data: [DONE] \n",
        "event: [DONE]\n",
        ": x\nid: 7",
        "data: 1\n\ndata: [DON",
    ] {
        for frames in framings(stream.as_bytes()) {
            for limit in [0, 1024] {
                let (reports, layer) = marked(done());
                let layer = layer.close_on_truncated(false).buffer_limit(limit);
                let upstream = Script::frames(frames.clone()).end_stream(EndStream::Known);
                assert_eq!(drive(&layer, upstream).rest().text(), stream);
                assert_eq!(ending(&reports), Ending::Truncated);
            }
        }
    }
}

#[test]
fn c26_failed_upstream_has_no_mark_without_its_blank_line() {
    for (stream, _) in UNFINISHED {
        let steps = || [data(stream), Step::Error];
        let (reports, layer) = marked(done());
        let output = drive(&layer.clone().close_on_failed(false), Script::new(steps())).collect();
        assert_eq!(
            (output.text(), output.error),
            (stream.to_owned(), Some(ScriptError))
        );
        assert_eq!(ending(&reports), Ending::Failed);

        let output = drive(&layer, Script::new(steps())).rest();
        assert!(output.bytes().ends_with(CLOSE));
        assert!(
            !output.text().contains("[DONE]"),
            "C9: the close event replaces it"
        );
    }
}

#[test]
fn c26_upstream_that_ends_after_an_event_without_a_mark_is_truncated() {
    for content in [
        "data: 1\n\n",
        "data: 1\r\r",
        "data: 1\n\n: note\n\nretry: 5\n\n",
        "data:1\n\ndata: 2\n\n",
    ] {
        for (steps, end_stream) in [
            (vec![data(content)], EndStream::Unknown),
            (vec![data(content)], EndStream::Known),
            (vec![data(content), Step::Trailers], EndStream::Unknown),
            (
                vec![data(content), Step::Pending, data("")],
                EndStream::Known,
            ),
        ] {
            let upstream = || Script::new(steps.clone()).end_stream(end_stream);
            let (reports, layer) = marked(done());
            let layer = layer.close_on_truncated(false);
            assert_eq!(drive(&layer, upstream()).collect().text(), content);
            assert_eq!(ending(&reports), Ending::Truncated);

            let (reports, layer) = marked(done());
            let output = drive(&layer.close_on_completed(false), upstream()).collect();
            assert!(output.bytes().ends_with(CLOSE));
            let report = reports.only();
            assert_eq!(
                (report.ending(), report.close_event_sent()),
                (Ending::Truncated, true)
            );
        }
    }
}

#[test]
fn c26_upstream_that_ends_without_an_event_is_empty() {
    for content in ["", "\n", ": note\n", "event: stop\nid: 7\n\n", "\u{feff}"] {
        let (reports, layer) = marked(done());
        let output = drive(&layer.close_on_empty(false), Script::frames([content])).rest();
        assert_eq!(output.text(), content);
        assert_eq!(ending(&reports), Ending::Empty);
        let (_, layer) = marked(done());
        let output = drive(&layer, Script::frames([content])).rest();
        assert!(output.bytes().ends_with(CLOSE));
    }
}

/// Returns a body whose response has a close event of its own.
fn with_close_event(
    layer: &SseCompletionLayer,
    upstream: Script,
) -> Driver<impl Body<Data = Bytes, Error = ScriptError>> {
    let mut response = event_stream_response(upstream);
    response
        .extensions_mut()
        .insert(CloseEvent::new().data("of the response"));
    Driver::new(send_response(layer, Request::new(()), response).into_body())
}

#[tokio::test(start_paused = true)]
async fn c26_nothing_follows_the_mark() {
    for (behind, after) in [
        (vec![], AfterScript::End),
        (vec![], AfterScript::Pending),
        (vec![], AfterScript::Repeat(EVENT.into())),
        (vec![Step::Error], AfterScript::End),
        (vec![Step::Trailers], AfterScript::End),
        (vec![Step::Panic], AfterScript::End),
        (vec![data(LATE), Step::Pending], AfterScript::End),
    ] {
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
            let mut body = with_close_event(&layer, upstream);
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
    let (reports, layer) = marked(done());
    let mut body = drive(
        &layer,
        Script::frames([EVENT, MARK]).then(AfterScript::Pending),
    );
    body.data();
    assert_eq!(reports.count(), 0);
    body.data();
    body.drop_body();
    assert_eq!(ending(&reports), Ending::Completed);

    let (reports, layer) = marked(done());
    let mut body = drive(
        &layer,
        Script::frames([EVENT, MARK]).then(AfterScript::Pending),
    );
    body.data();
    body.drop_body();
    assert_eq!(ending(&reports), Ending::Dropped, "before the mark");
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
            let data = decode(text.as_bytes())
                .events
                .into_iter()
                .map(|event| event.data);
            assert_eq!(data.collect::<Vec<_>>(), ["1", "[DONE]"], "{version:?}");
            assert_eq!(ending(&reports), Ending::Completed);
        }
    }
}

#[tokio::test]
#[cfg_attr(miri, ignore = "needs sockets")]
async fn c26_client_that_leaves_at_the_mark_has_a_complete_response() {
    for version in VERSIONS {
        let (reports, layer) = marked(done());
        let shutdown = Shutdown::new();
        let hanging = || Script::frames([EVENT, MARK]).then(AfterScript::Pending);
        let server = server::serve_scripts(layer.shutdown(&shutdown), hanging).await;
        let mut body = server::request(server, version, "GET", "/")
            .await
            .into_body();
        let mut received = Vec::new();
        while !received.ends_with(MARK.as_bytes()) {
            received.extend(server::next_data(&mut body).await);
        }
        drop(body);
        let drained = shutdown.drain(SECOND * 60).await;
        assert_eq!(drained.still_open(), 0);
        assert_eq!(ending(&reports), Ending::Completed, "{version:?}");
    }
}

#[test]
fn c11_and_c26_mark_within_the_frames_after_a_cancellation_wins() {
    // The frames before the mark, the frame that has the mark, and whether the mark is among the 32 frames after the
    // cancellation.
    for (before, wins) in [(0, true), (1, true), (31, true), (32, false), (40, false)] {
        for kind in 0..3 {
            let (reports, layer) = marked(done());
            let shutdown = Shutdown::new();
            let token = CancellationToken::new();
            let cancelled = token.clone();
            let layer = layer
                .shutdown(&shutdown)
                .cancel_when(move |_| cancelled.clone().cancelled_owned());
            let frames = vec![EVENT; before].into_iter().chain([MARK, LATE]);
            let mut body = drive(&layer, Script::frames(frames).then(AfterScript::Pending));
            match kind {
                0 => shutdown.close(),
                1 => shutdown.close_with(CloseEvent::new()),
                _ => token.cancel(),
            }
            let output = body.rest().text();
            let report = reports.only();
            let result = (report.ending(), report.close_event_sent());
            match wins {
                true => {
                    assert_eq!(output, EVENT.repeat(before) + MARK);
                    assert_eq!(result, (Ending::Completed, false));
                }
                false => {
                    let closed = String::from_utf8_lossy(CLOSE);
                    assert_eq!(output, EVENT.repeat(32) + &closed);
                    assert_eq!(result, (Ending::Cancelled, true));
                }
            }
        }
    }
}

#[test]
fn c26_unfinished_mark_wins_over_a_cancellation_if_the_upstream_ends() {
    for (stream, added) in UNFINISHED {
        let (reports, layer) = marked(done());
        let shutdown = Shutdown::new();
        shutdown.close();
        let mut body = drive(&layer.shutdown(&shutdown), Script::frames([stream]));
        assert_eq!(body.rest().text(), format!("{stream}{added}"));
        assert_eq!(ending(&reports), Ending::Completed);
    }
    // The upstream has not ended, so more may follow.
    let (reports, layer) = marked(done());
    let shutdown = Shutdown::new();
    let upstream = Script::frames(["data: [DONE]\n"]).then(AfterScript::Pending);
    let mut body = drive(&layer.shutdown(&shutdown), upstream);
    body.assert_pending();
    shutdown.close();
    assert_eq!(body.rest().bytes(), CLOSE);
    assert_eq!(reports.only().ending(), Ending::Cancelled);
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
async fn c18_and_c26_drain_does_not_wait_for_an_upstream_that_hangs_behind_its_mark() {
    let (reports, layer) = marked(done());
    let shutdown = Shutdown::new();
    let upstream = Script::frames([MARK]).then(AfterScript::Pending);
    let mut body = drive(&layer.shutdown(&shutdown), upstream);
    let (drained, ()) = tokio::join!(shutdown.drain(SECOND * 60), async {
        tokio::time::sleep(SECOND).await;
        assert_eq!(body.rest().text(), MARK);
    });
    assert_eq!((drained.ended(), drained.still_open()), (1, 0));
    assert_eq!(ending(&reports), Ending::Completed);
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
fn c26_several_marks_add_up() {
    for stream in [
        MARK,
        "event: stop\ndata\n\n",
        "event: response.failed\ndata: {}\n\n",
    ] {
        let (reports, layer) = marked(done());
        let layer = layer
            .end_mark(EventMatch::event("stop"))
            .end_mark(EventMatch::when(|event| {
                event.event_type().ends_with(".failed")
            }));
        let output = drive(&layer, Script::frames([EVENT, stream, LATE])).rest();
        assert_eq!(output.text(), format!("{EVENT}{stream}"));
        assert_eq!(ending(&reports), Ending::Completed);
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
fn c26_layer_without_marks_passes_marks_on() {
    let (reports, layer) = observed();
    let layer = layer.close_on_completed(false);
    assert_eq!(
        drive(&layer, Script::frames([MARK, LATE])).rest().text(),
        format!("{MARK}{LATE}")
    );
    assert_eq!(ending(&reports), Ending::Completed);
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

/// Stops of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StopKind {
    Future,
    Close,
    CloseWith,
    DrainWith,
    EndOnDrain,
    MaxAge,
    Idle,
}

const STOPS: [StopKind; 7] = [
    StopKind::Future,
    StopKind::Close,
    StopKind::CloseWith,
    StopKind::DrainWith,
    StopKind::EndOnDrain,
    StopKind::MaxAge,
    StopKind::Idle,
];

/// Stops a stream of this layer, and returns its rest, and the ending that is due.
async fn stopped(
    kind: StopKind,
    layer: SseCompletionLayer,
    upstream: Script,
    event: Option<CloseEvent>,
) -> (Vec<u8>, Ending) {
    let shutdown = Shutdown::new();
    let token = CancellationToken::new();
    let cancelled = token.clone();
    let layer = layer
        .shutdown(&shutdown)
        .cancel_when(move |_| cancelled.clone().cancelled_owned());
    let (layer, ending) = match kind {
        StopKind::MaxAge => (layer.max_age(SECOND), Ending::Expired),
        StopKind::Idle => (layer.idle_timeout(SECOND), Ending::Idle),
        StopKind::EndOnDrain => (layer.end_on_drain(|_| true), Ending::Cancelled),
        _ => (layer, Ending::Cancelled),
    };
    let mut response = event_stream_response(upstream);
    if let Some(event) = event {
        response.extensions_mut().insert(event);
    }
    let mut body = Driver::new(send_response(&layer, Request::new(()), response).into_body());
    let mut output = body.ready_data().concat();
    let of_shutdown = CloseEvent::new().data("of the shutdown");
    match kind {
        StopKind::Future => token.cancel(),
        StopKind::Close => shutdown.close(),
        StopKind::CloseWith => shutdown.close_with(of_shutdown),
        StopKind::DrainWith | StopKind::EndOnDrain => {
            let grace = SECOND * if kind == StopKind::DrainWith { 0 } else { 60 };
            let drain = shutdown.drain(grace).close_event(of_shutdown);
            let (drained, rest) = tokio::join!(drain, async {
                tokio::time::sleep(SECOND / 2).await;
                body.rest()
            });
            assert_eq!((drained.ended(), drained.still_open()), (1, 0));
            output.extend(rest.bytes());
            return (output, ending);
        }
        StopKind::MaxAge | StopKind::Idle => advance(SECOND).await,
    }
    output.extend(body.rest().bytes());
    (output, ending)
}

#[tokio::test(start_paused = true)]
async fn c9_and_c15_stopped_stream_without_a_close_event_ends_at_a_boundary() {
    for kind in STOPS {
        for (content, whole) in [
            ("", ""),
            ("data: 1\n\n", "data: 1\n\n"),
            ("data: 1\r\r", "data: 1\r\r"),
            ("data: 1\n\nid: 7\ndata: 2\n", "data: 1\n\n"),
            ("data: 1", ""),
            (": note\n: unfinished", ": note\n"),
        ] {
            let (reports, layer) = observed();
            let upstream = Script::frames([content]).then(AfterScript::Pending);
            let (output, due) = stopped(kind, layer.close_event(None), upstream, None).await;
            assert_eq!(
                String::from_utf8_lossy(&output),
                whole,
                "{kind:?} after {content:?}"
            );
            assert_eq!(ending(&reports), due);
            let report = reports.only();
            assert_eq!(report.bytes_received(), content.len() as u64);
            assert_eq!(report.bytes_sent(), whole.len() as u64);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c15_close_event_of_the_response_wins_over_none_of_the_layer() {
    let of_response = || CloseEvent::new().data("of the response");
    for kind in STOPS {
        let (reports, layer) = observed();
        let upstream = Script::frames([EVENT]).then(AfterScript::Pending);
        let (output, due) =
            stopped(kind, layer.close_event(None), upstream, Some(of_response())).await;
        let expected = format!("{EVENT}event: close\ndata: of the response\n\n");
        assert_eq!(String::from_utf8_lossy(&output), expected, "{kind:?}");
        let report = reports.only();
        assert_eq!((report.ending(), report.close_event_sent()), (due, true));
    }
}

#[tokio::test(start_paused = true)]
async fn c15_and_c22_innermost_layer_that_sets_a_close_event_or_none_decides() {
    let of_layer = || CloseEvent::new().data("of the layer");
    let event = "event: close\ndata: of the layer\n\n";
    for (inner, outer, expected) in [
        (
            SseCompletionLayer::new().close_event(None),
            SseCompletionLayer::new().close_event(of_layer()),
            "",
        ),
        (
            SseCompletionLayer::new(),
            SseCompletionLayer::new().close_event(None),
            "",
        ),
        (
            SseCompletionLayer::new().close_event(of_layer()),
            SseCompletionLayer::new().close_event(None),
            event,
        ),
        (
            SseCompletionLayer::new()
                .close_event(None)
                .close_event(of_layer()),
            SseCompletionLayer::new(),
            event,
        ),
        (
            SseCompletionLayer::new()
                .close_event(Some(of_layer()))
                .close_event(None),
            SseCompletionLayer::new(),
            "",
        ),
    ] {
        let token = CancellationToken::new();
        let cancel = cancellation_layer(&token);
        let all = layer_fn(|service| cancel.layer(outer.layer(inner.layer(service))));
        let mut body = drive(
            &all,
            Script::frames([EVENT, "data: 2"]).then(AfterScript::Pending),
        );
        assert_eq!(body.data(), EVENT);
        body.assert_pending();
        token.cancel();
        assert_eq!(body.rest().text(), expected);
    }
}

#[test]
fn c9_without_a_close_event_every_other_end_is_forwarded_as_it_is() {
    for (content, expected) in [
        ("", Ending::Empty),
        (": note\n", Ending::Empty),
        ("data: 1\n\n", Ending::Completed),
        ("data: 1\n\ndata: 2", Ending::Truncated),
        ("data: 1\r", Ending::Truncated),
    ] {
        for end_stream in [EndStream::Unknown, EndStream::Known] {
            for (last, expected) in [
                (None, expected),
                (Some(Step::Trailers), expected),
                (Some(Step::Error), Ending::Failed),
            ] {
                let (reports, layer) = observed();
                let steps = [data(content)].into_iter().chain(last.clone());
                let upstream = Script::new(steps).end_stream(end_stream);
                let output = drive(&layer.close_event(None), upstream).collect();
                assert_eq!(output.text(), content);
                assert_eq!(output.error.is_some(), matches!(last, Some(Step::Error)));
                assert_eq!(
                    output.trailers.is_some(),
                    matches!(last, Some(Step::Trailers))
                );
                assert_eq!(ending(&reports), expected, "{content:?}, {last:?}");
            }
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

#[test]
fn c7_and_c9_event_above_the_buffer_limit_is_cut_with_and_without_a_close_event() {
    for content in ["data: more than fits", "data: 1\n\ndata: more than fits\n"] {
        let (reports, layer) = observed();
        let shutdown = Shutdown::new();
        let layer = layer.shutdown(&shutdown).buffer_limit(8).close_event(None);
        let mut body = drive(&layer, Script::frames([content]).then(AfterScript::Pending));
        assert_eq!(body.data(), content);
        shutdown.close();
        assert_eq!(body.rest().frames, [""; 0]);
        assert_eq!(ending(&reports), Ending::Cancelled);
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
async fn c16_ignored_events_do_not_reset_the_idle_timeout() {
    for pings in [
        vec![PING],
        vec!["data: {}\nevent: ping\n\n"],
        vec!["event: ping\r\ndata: {}\r\n\r\n"],
        vec!["event: ping\rdata\r\r\n"],
        vec!["event: pi", "ng\ndata: {}\n", "\n"],
        vec![PING, ": note\n\n", PING, "event: ping\n\n"],
        vec!["event: ping\ndata: {}\n\nretry: 5\n\nevent: ping\ndata\n\n"],
    ] {
        let timeout = IdleTimeout::after(SECOND * 60).ignoring(ping());
        let (events, upstream) = feed();
        let mut body = drive(&idle_layer(timeout), upstream);
        events.send(EVENT);
        assert_eq!(body.ready_data(), [EVENT]);
        for _ in 0..5 {
            assert_eq!(body.advance(10).await, []);
            pings.iter().for_each(|ping| events.send(ping));
            assert_eq!(body.ready_data().concat(), pings.concat().into_bytes());
        }
        assert_eq!(body.advance(60).await, [(10, IDLE.into())], "{pings:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn c16_other_events_reset_the_idle_timeout() {
    for others in [
        vec![EVENT],
        vec![PING, EVENT],
        vec!["data: 1\n\nevent: ping\ndata: {}\n\n"],
        vec!["event: ping\ndata: {}\n\ndata: 1\n\n"],
        vec!["event: pings\ndata: {}\n\n"],
        vec!["event: ping\nevent: x\ndata: {}\n\n"],
        vec!["da", "ta: 1\n", "\n"],
    ] {
        let timeout = IdleTimeout::after(SECOND * 60).ignoring(ping());
        let (events, upstream) = feed();
        let mut body = drive(&idle_layer(timeout), upstream);
        for _ in 0..5 {
            body.assert_pending();
            assert_eq!(body.advance(50).await, [], "{others:?}");
            others.iter().for_each(|other| events.send(other));
            assert_eq!(body.ready_data().concat(), others.concat().into_bytes());
        }
        assert_eq!(body.advance(61).await, [(60, IDLE.into())], "{others:?}");
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
async fn c16_several_matches_of_an_idle_timeout_add_up() {
    let timeout = IdleTimeout::after(SECOND * 10)
        .ignoring(ping())
        .ignoring(EventMatch::data("[HEARTBEAT]"))
        .ignoring(EventMatch::when(|event| {
            event.data().contains("\"type\":\"ping\"")
        }));
    let (events, upstream) = feed();
    let mut body = drive(&idle_layer(timeout), upstream);
    body.assert_pending();
    for ignored in [
        PING,
        "data: [HEARTBEAT]\n\n",
        "data: {\"type\":\"ping\"}\n\n",
    ] {
        assert_eq!(body.advance(3).await, []);
        events.send(ignored);
        assert_eq!(body.ready_data(), [ignored]);
    }
    assert_eq!(body.advance(10).await, [(1, IDLE.into())]);
}

#[tokio::test(start_paused = true)]
async fn c16_event_above_the_buffer_limit_is_ignored_by_its_type() {
    let long = "x".repeat(100);
    let timeout = IdleTimeout::after(SECOND * 10).ignoring(ping());
    let (events, upstream) = feed();
    let mut body = drive(&idle_layer(timeout).buffer_limit(8), upstream);
    body.assert_pending();
    assert_eq!(body.advance(9).await, []);
    events.send(format!("event: ping\ndata: {long}"));
    events.send("\n\n");
    assert_eq!(body.ready_data().len(), 2);
    assert_eq!(body.advance(10).await, [(1, IDLE.into())]);
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
async fn c16_ignored_events_without_a_mark_leave_the_endings_as_they_are() {
    let ignoring = || IdleTimeout::after(SECOND).ignoring(ping());
    for (stream, expected) in [
        (EVENT, Ending::Completed),
        (PING, Ending::Completed),
        ("", Ending::Empty),
        ("event: ping\n", Ending::Truncated),
        ("data: more than fits in the buffer", Ending::Truncated),
    ] {
        for end_stream in [EndStream::Unknown, EndStream::Known] {
            let reports = Reports::default();
            let layer = SseCompletionLayer::new()
                .idle_timeout(ignoring())
                .close_on_empty(false)
                .buffer_limit(16)
                .on_end(reports.observer());
            let upstream = Script::frames([stream]).end_stream(end_stream);
            let mut body = drive(&layer, upstream);
            if stream.len() > 16 {
                assert_eq!(body.data(), stream);
                let is_known = end_stream == EndStream::Known;
                assert_eq!(body.is_end_stream(), is_known, "C13: with the last frame");
            } else {
                assert_eq!(body.rest().text(), stream);
            }
            body.rest();
            assert_eq!(ending(&reports), expected, "{stream:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c16_event_that_is_both_ignored_and_a_mark_ends_the_stream() {
    let timeout = IdleTimeout::after(SECOND * 10).ignoring(done());
    let reports = Reports::default();
    let layer = idle_layer(timeout)
        .end_mark(done())
        .on_end(reports.observer());
    assert_eq!(
        drive(&layer, Script::frames([MARK, LATE])).rest().text(),
        MARK
    );
    assert_eq!(ending(&reports), Ending::Completed);
}

#[tokio::test(start_paused = true)]
async fn c16_and_c22_shortest_idle_timeout_holds_with_the_events_that_it_ignores() {
    let plain = |seconds| IdleTimeout::after(SECOND * seconds);
    let ignoring = |seconds| plain(seconds).ignoring(ping());
    // The inner and the outer timeout, and the second in which a stream of a ping every 4 seconds is idle.
    for (inner, outer, expected) in [
        (Some(ignoring(10)), None, Some(10)),
        (None, Some(ignoring(10)), Some(10)),
        (Some(ignoring(10)), Some(plain(20)), Some(10)),
        (Some(plain(20)), Some(ignoring(10)), Some(10)),
        (Some(plain(10)), Some(ignoring(20)), None),
        (Some(ignoring(20)), Some(plain(10)), None),
        (Some(ignoring(10)), Some(plain(10)), Some(10)),
        (Some(plain(10)), Some(ignoring(10)), None),
        (Some(ignoring(20)), Some(ignoring(10)), Some(10)),
    ] {
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
