//! A close event is never added after an event of its own type. The bytes decide, because middleware that rebuilds a response
//! loses the marker, and the marker does not exist between two processes.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use testkit::{
    MIRI_STRIDE,
    decoder::decode,
    driver::Driver,
    exchange::{CLOSE, cancellation_layer, drive, event_stream_response, send_response},
    reports::Reports,
    script::{AfterScript, EndStream, Script, Step, data},
    server::{self, VERSIONS, Version, next_data, receive},
    wait::until,
};
use tokio_util::sync::CancellationToken;
use tower::{Layer, layer::util::Stack, service_fn, util::MapResponseLayer};
use tower_sse_completion::{CloseEvent, Ending, InvalidCloseEvent, Shutdown, SseCompletionLayer};

const EVENT: &str = "data: 1\n\n";

/// The same event of the type `close`, as different servers write it.
const CLOSE_EVENTS: [&str; 10] = [
    // Before the cancellation is seen, the check covers frames that start with the `event` field.
    "event: close\ndata:\n\n",
    "event:close\ndata\n\n",
    "event: close\r\ndata: bye\r\n\r\n",
    "event: close\rdata: bye\r\r",
    // After the cancellation is seen, the check covers all frames.
    "data: bye\nevent: close\n\n",
    ": a comment\nid: 7\nevent: close\ndata: a\ndata: b\n\n",
    "event: other\nevent: close\ndata:\n\n",
    "event: close\n: a comment\ndata:\n\n",
    // Neither a comment nor a block without data is an event.
    "event: close\ndata:\n\n: a comment\n\n",
    "event: close\ndata:\n\nevent: other\nretry: 5\n\n",
];

/// Events that are not of the type `close`, and blocks that are no events.
const OTHER_EVENTS: [&str; 9] = [
    "data: close\n\n",
    "event: closed\ndata:\n\n",
    "event: clos\ndata:\n\n",
    "event: Close\ndata:\n\n",
    "event:  close\ndata:\n\n",
    "event: close \ndata:\n\n",
    "event: close\nevent: other\ndata:\n\n",
    // Clients drop an event without data.
    "event: close\n\n",
    "event: close\ndata:\n\ndata: after\n\n",
];

fn close_events(stream: &[u8]) -> usize {
    let events = decode(stream).events;
    let close = events.iter().filter(|event| event.event_type == "close");
    close.count()
}

#[track_caller]
fn assert_one_close_event(stream: &[u8], case: impl std::fmt::Debug) {
    let text = String::from_utf8_lossy(stream);
    assert_eq!(close_events(stream), 1, "{case:?}: {text:?}");
}

/// Cancels a stream as soon as its upstream is pending, and returns all bytes that the client receives.
fn cancelled_while_pending(steps: impl IntoIterator<Item = Step>, after: AfterScript) -> String {
    let token = CancellationToken::new();
    let mut body = drive(&cancellation_layer(&token), Script::new(steps).then(after));
    let mut bytes = body.ready_data().concat();
    token.cancel();
    bytes.extend(body.rest().bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Ends of an upstream whose stream is cancelled.
fn ends() -> [(Vec<Step>, AfterScript); 4] {
    [
        (vec![], AfterScript::End),
        (vec![], AfterScript::Pending),
        (vec![Step::Trailers], AfterScript::End),
        (vec![Step::Error], AfterScript::End),
    ]
}

#[test]
fn c9_event_that_the_handler_writes_after_the_cancellation_is_the_only_close_event() {
    for event in CLOSE_EVENTS {
        for cut in (0..=event.len()).step_by(MIRI_STRIDE) {
            for (last, after) in ends() {
                let (shutdown, reports) = (Shutdown::new(), Reports::default());
                let layer = SseCompletionLayer::new()
                    .shutdown(&shutdown)
                    .on_end(reports.observer());
                let mut steps = vec![data(EVENT), Step::Pending];
                steps.extend([data(&event[..cut]), data(&event[cut..])]);
                steps.extend(last);
                let mut body = drive(&layer, Script::new(steps).then(after));
                body.data();
                assert!(body.poll().is_pending());
                shutdown.close();
                let output = body.rest();
                let case = (event, cut);
                assert_eq!(output.text(), event, "{case:?}");
                assert_eq!(
                    output.error, None,
                    "{case:?}: the stream ends with the event"
                );
                let report = reports.only();
                assert_eq!(
                    (report.ending(), report.close_event_sent()),
                    (Ending::Cancelled, false),
                    "{case:?}: the layer has written no event"
                );
            }
        }
    }
}

#[test]
fn c9_event_that_was_forwarded_before_the_cancellation_is_seen_is_the_only_close_event() {
    for event in &CLOSE_EVENTS[..4] {
        for cut in (0..event.len()).step_by(MIRI_STRIDE) {
            for (last, after) in ends() {
                // The cancellation fires before or after the event. Until the upstream is pending, it is not seen.
                for pending in [1, 3] {
                    let mut steps = vec![data(EVENT), data(&event[..cut]), data(&event[cut..])];
                    steps.insert(pending, Step::Pending);
                    steps.extend(last.clone());
                    let text = cancelled_while_pending(steps, after.clone());
                    assert_one_close_event(text.as_bytes(), (event, cut, pending));
                }
            }
        }
    }
}

#[test]
fn c9_policies_add_no_event_after_an_event_of_the_same_type() {
    for end_stream in [EndStream::Unknown, EndStream::Known] {
        for (last, is_failure) in [(vec![], false), (vec![Step::Error], true)] {
            let layer = SseCompletionLayer::new()
                .close_on_completed(!is_failure)
                .close_on_failed(is_failure);
            let steps = [vec![data(EVENT), data(CLOSE)], last].concat();
            let output = drive(&layer, Script::new(steps).end_stream(end_stream)).rest();
            assert_one_close_event(&output.bytes(), (end_stream, is_failure));
        }
    }
}

#[test]
fn c9_close_event_follows_every_other_event() {
    let close = "event: close\ndata:\n\n";
    for event in OTHER_EVENTS {
        for is_early in [false, true] {
            let mut steps = vec![data(EVENT), data(event), Step::Pending];
            if !is_early {
                steps.rotate_right(1);
            }
            let text = cancelled_while_pending(steps, AfterScript::Pending);
            let case = (event, is_early);
            assert_eq!(text, [EVENT, event, close].concat(), "{case:?}");
        }
    }
}

#[test]
fn c9_named_events_before_the_cancellation_do_not_replace_the_close_event() {
    let named = "event: token\ndata: 1\n\n";
    let frames = [1, 31, 32, 33, 100].into_iter();
    for frames in frames.step_by(MIRI_STRIDE.min(3)) {
        for earlier in [EVENT, named, "event: close\ndata: 1\n\n"] {
            // The last event looks like an `event` field in its second frame, which continues a line.
            for last in [
                &[named][..],
                &[EVENT],
                &["data: x", "event: close\ndata:\n\n"],
            ] {
                let steps = last.iter().cycle().take(frames * last.len()).map(data);
                let steps = [data(earlier)].into_iter().chain(steps);
                let text = cancelled_while_pending(steps, AfterScript::Pending);
                let case = (frames, earlier, last);
                assert!(text.ends_with(CLOSE_EVENTS[0]), "{case:?}");
                let added = text.len() - earlier.len() - frames * last.concat().len();
                assert_eq!(added, CLOSE.len(), "{case:?}");
            }
        }
    }
}

#[test]
fn c9_unfinished_event_after_an_event_of_the_same_type_is_discarded() {
    for is_early in [false, true] {
        let mut steps = vec![data([CLOSE, b"data: 2"].concat()), Step::Pending];
        if !is_early {
            steps.rotate_right(1);
        }
        let text = cancelled_while_pending(steps, AfterScript::Pending);
        assert_eq!(
            text.as_bytes(),
            CLOSE,
            "before the cancellation: {is_early}"
        );
    }
}

#[test]
fn c9_event_after_an_unfinished_large_event_is_the_only_close_event() {
    let shutdown = Shutdown::new();
    let large = "data: more than fits";
    let rest = "\n\nevent: close\ndata:\n\n";
    let steps = [data(large), Step::Pending, data(rest)];
    let upstream = Script::new(steps).then(AfterScript::Pending);
    let layer = SseCompletionLayer::new()
        .shutdown(&shutdown)
        .buffer_limit(16);
    let mut body = drive(&layer, upstream);
    assert_eq!(body.data(), large);
    body.assert_pending();
    shutdown.close();
    assert_eq!(body.rest().text(), rest);
}

/// The memory for a line is bounded, so a type that exceeds the bound is never equal to the type of the close event.
#[test]
fn c7_type_that_is_too_long_is_not_the_type_of_the_close_event() {
    for length in [500, 504, 505, 506, 507, 520] {
        let shorter = "x".repeat(length);
        let event = format!("event: {shorter}x\ndata:\n\n");
        let token = CancellationToken::new();
        let close_event = CloseEvent::named(&shorter).expect("a valid name");
        let layer = cancellation_layer(&token).close_event(close_event);
        let steps = [Step::Pending, data(&event[..300]), data(&event[300..])];
        let mut body = drive(&layer, Script::new(steps));
        body.assert_pending();
        token.cancel();
        let expected = format!("{event}event: {shorter}\ndata:\n\n");
        assert_eq!(body.rest().text(), expected, "{length}");
    }
}

/// Returns a layer that sends this close event.
type Source = fn(CloseEvent, &Shutdown, &mut Response<Script>) -> SseCompletionLayer;

#[test]
fn c9_type_of_the_close_event_of_the_stream_decides() -> Result<(), InvalidCloseEvent> {
    let bye = CloseEvent::named("bye")?.data("x");
    let sources: [Source; 4] = [
        |event, _, _| SseCompletionLayer::new().close_event(event),
        |event, _, _| SseCompletionLayer::new().close_event_with(move |_| event.clone()),
        |event, _, response| {
            response.extensions_mut().insert(event);
            SseCompletionLayer::new()
        },
        |event, shutdown, _| {
            shutdown.close_with(event);
            SseCompletionLayer::new()
        },
    ];
    for (number, source) in sources.into_iter().enumerate() {
        for (last, is_added) in [
            ("event: bye\ndata: 1\n\n", false),
            ("event: close\ndata:\n\n", true),
        ] {
            let shutdown = Shutdown::new();
            let mut response = event_stream_response(Script::frames([EVENT, last]));
            let layer = source(bye.clone(), &shutdown, &mut response).shutdown(&shutdown);
            shutdown.close();
            let response = send_response(&layer, Request::new(()), response);
            let text = Driver::new(response.into_body()).rest().text();
            let added = if is_added {
                "event: bye\ndata: x\n\n"
            } else {
                ""
            };
            assert_eq!(text, [EVENT, last, added].concat(), "source {number}");
        }
    }
    Ok(())
}

#[test]
fn c9_gateway_adds_nothing_to_the_close_event_of_its_app() {
    let app = [EVENT.as_bytes(), CLOSE];
    let length: usize = app.iter().map(|frame| frame.len()).sum();
    for cut in (0..length).step_by(MIRI_STRIDE) {
        let first = cut.min(EVENT.len());
        let second = cut.saturating_sub(EVENT.len());
        let frames = [
            &app[0][..first],
            &app[0][first..],
            &app[1][..second],
            &app[1][second..],
        ];
        // The gateway receives the signal after any number of polls: before, between and after the frames of the app.
        for polls in 0..=6 {
            let token = CancellationToken::new();
            let steps = frames
                .into_iter()
                .flat_map(|frame| [data(frame), Step::Pending]);
            let mut gateway = drive(&cancellation_layer(&token), Script::new(steps));
            let mut bytes = Vec::new();
            for _ in 0..polls {
                if let Poll::Ready(Some(Ok(frame))) = gateway.poll() {
                    bytes.extend(frame.into_data().expect("data"));
                }
            }
            token.cancel();
            bytes.extend(gateway.rest().bytes());
            assert_one_close_event(&bytes, (cut, polls));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(miri, ignore = "needs sockets")]
async fn c9_gateway_and_app_that_stop_together_send_one_close_event() {
    const CLIENTS: usize = 100;
    for version in VERSIONS {
        let shutdowns = [Shutdown::new(), Shutdown::new()];
        let layers = shutdowns
            .each_ref()
            .map(|shutdown| SseCompletionLayer::new().shutdown(shutdown));
        let upstream = || Script::frames([EVENT]).then(AfterScript::Pending);
        let app = server::serve_scripts(layers[0].clone(), upstream).await;
        let gateway = server::serve(layers[1].layer(service_fn(
            move |_: Request<Incoming>| async move {
                Ok::<_, Infallible>(server::request(app, version, "GET", "/").await)
            },
        )))
        .await;
        let clients = (0..CLIENTS).map(|_| open(gateway, version));
        let clients = join_all(clients).await;
        until(|| {
            shutdowns
                .iter()
                .all(|shutdown| shutdown.open_streams() == CLIENTS)
        })
        .await;
        shutdowns.iter().for_each(Shutdown::close);
        for client in clients {
            let text = receive(client).await.text();
            assert_eq!(text.as_bytes(), CLOSE, "{version:?}");
        }
    }
}

async fn open(address: SocketAddr, version: Version) -> Incoming {
    let mut body = server::request(address, version, "GET", "/")
        .await
        .into_body();
    assert_eq!(next_data(&mut body).await, EVENT);
    body
}

/// A body between two layers that delays the frames of the inner layer after a number of frames.
struct Delayed<B> {
    inner: Pin<Box<B>>,
    frames: usize,
    heartbeat: Option<&'static str>,
}

impl<B: Body<Data = Bytes>> Body for Delayed<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.frames == 0 {
            // The heartbeat is returned, and the delayed frame is still pending.
            let heartbeat = self.heartbeat.take();
            return heartbeat.map_or(Poll::Pending, |comment| {
                Poll::Ready(Some(Ok(Frame::data(comment.into()))))
            });
        }
        let polled = ready!(self.inner.as_mut().poll_frame(cx));
        self.frames -= 1;
        Poll::Ready(polled)
    }
}

#[test]
fn c9_end_that_a_body_between_two_layers_delays_adds_no_close_event() {
    // Without the extensions, a comment after the close event hides it.
    for (keeps_extensions, heartbeat) in [(false, None), (true, None), (true, Some(": ping\n\n"))] {
        for frames in [0, 1, 31, 32, 33] {
            let tokens = [CancellationToken::new(), CancellationToken::new()];
            let hold_back = MapResponseLayer::new(move |response: Response<_>| {
                let (mut head, inner) = response.into_parts();
                if !keeps_extensions {
                    head.extensions = http::Extensions::new();
                }
                let body = Delayed {
                    inner: Box::pin(inner),
                    // The events and the close event are forwarded.
                    frames: frames + 1,
                    heartbeat,
                };
                Response::from_parts(head, body)
            });
            let inner = Stack::new(cancellation_layer(&tokens[0]), hold_back);
            let layers = Stack::new(inner, cancellation_layer(&tokens[1]));
            let upstream = Script::frames(vec![EVENT; frames]).then(AfterScript::Pending);
            let mut body = drive(&layers, upstream);
            let mut bytes = Vec::new();
            for _ in 0..frames {
                bytes.extend(body.data());
            }
            tokens[0].cancel();
            bytes.extend(body.data());
            if heartbeat.is_some() {
                bytes.extend(body.data());
            }
            body.assert_pending();
            tokens[1].cancel();
            bytes.extend(body.rest().bytes());
            assert_one_close_event(&bytes, (keeps_extensions, heartbeat, frames));
        }
    }
}

/// Returns a new response without the extensions, like middleware that replaces the body.
fn rebuild<B>(response: Response<B>) -> Response<B> {
    let (head, body) = response.into_parts();
    let mut rebuilt = Response::new(body);
    (*rebuilt.status_mut(), *rebuilt.headers_mut()) = (head.status, head.headers);
    rebuilt
}

#[test]
fn c22_layers_around_a_response_that_was_rebuilt_write_one_close_event() {
    for frames in [0, 1, 31, 32, 33, 64, 100] {
        for polls in [0, 1, 31, 32, 33] {
            let shutdown = Shutdown::new();
            let layer = SseCompletionLayer::new().shutdown(&shutdown);
            let two = Stack::new(
                Stack::new(layer.clone(), MapResponseLayer::new(rebuild)),
                layer.clone(),
            );
            let three = Stack::new(Stack::new(two, MapResponseLayer::new(rebuild)), layer);
            let upstream = Script::frames(vec![EVENT; frames]).then(AfterScript::Pending);
            let mut body = drive(&three, upstream);
            for _ in 0..polls.min(frames) {
                body.data();
            }
            shutdown.close();
            assert_one_close_event(&body.rest().bytes(), (frames, polls));
            assert_eq!(
                shutdown.open_streams(),
                0,
                "all layers have counted the end"
            );
        }
    }
}

#[test]
fn c22_layers_write_one_close_event_after_any_number_of_frames() {
    // Without the hints of the inner body, the outer layer cannot detect that the inner layer has ended.
    let map_frame = || {
        MapResponseLayer::new(|response: Response<_>| {
            response.map(|body| BodyExt::map_frame(body, |frame| frame))
        })
    };
    for frames in (0..=100).step_by(MIRI_STRIDE) {
        for polls in [0, 1, 20, 31, 32, 33, 64] {
            for trailers in [false, true] {
                let token = CancellationToken::new();
                let layer = || cancellation_layer(&token);
                let two = Stack::new(Stack::new(layer(), map_frame()), layer());
                let three = Stack::new(two, layer());
                let mut steps = vec![data(EVENT); frames];
                steps.extend(trailers.then_some(Step::Trailers));
                let after = if trailers {
                    AfterScript::End
                } else {
                    AfterScript::Pending
                };
                let mut body = drive(&three, Script::new(steps).then(after));
                for _ in 0..polls.min(frames) {
                    body.data();
                }
                token.cancel();
                let output = body.rest();
                assert_one_close_event(&output.bytes(), (frames, polls, trailers));
            }
        }
    }
}
