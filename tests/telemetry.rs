//! The log events of the feature `tracing`.

use std::{
    io,
    sync::{Arc, Mutex},
};

use http::Request;
use testkit::{
    driver::Driver,
    exchange::{drive, event_stream_response, send_response},
    reports::Reports,
    script::{Script, Step},
};

use tower_sse_completion::SseCompletionLayer;
use tracing_subscriber::fmt::MakeWriter;

/// Collects the text that a subscriber writes.
#[derive(Clone, Default)]
struct Text(Arc<Mutex<Vec<u8>>>);

impl io::Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Text {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Returns the text of all events and spans of this closure.
fn traced(run: impl FnOnce()) -> String {
    let text = Text::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .without_time()
        .with_writer(text.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, run);
    let bytes = text.0.lock().expect("no panic").clone();
    String::from_utf8(bytes).expect("text")
}

fn run_stream(steps: impl IntoIterator<Item = Step>) {
    drive(&SseCompletionLayer::new(), Script::new(steps)).rest();
}

#[test]
fn stream_is_traced_once_in_the_span_of_its_request() {
    let text = traced(|| {
        let response = event_stream_response(Script::frames(["data: 1\n\n"]));
        let response = tracing::info_span!("request", id = 7)
            .in_scope(|| send_response(&SseCompletionLayer::new(), Request::new(()), response));
        Driver::new(response.into_body()).rest();
    });
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(
        text.contains("DEBUG request{id=7}: tower_sse_completion: event stream ended"),
        "{text}"
    );
    for field in [
        "sse.ending=\"completed\"",
        "sse.delivered=true",
        "sse.data_frames=1",
        "sse.bytes_received=9",
        "sse.duration=",
        "sse.time_to_first_event=",
        "http.response.body.size=9",
    ] {
        assert!(text.contains(field), "{field} is missing: {text}");
    }
    assert!(!text.contains("error.type"), "{text}");
    assert!(!text.contains("sse.close_event"), "{text}");
}

#[test]
fn level_depends_on_the_ending_and_the_text_of_an_error_is_not_logged() {
    let text = traced(|| run_stream([Step::Error]));
    assert!(text.contains("ERROR"), "{text}");
    assert!(text.contains("error.type=\"upstream\""), "{text}");
    assert!(!text.contains("password"), "{text}");
    let text = traced(|| run_stream([]));
    assert!(text.contains("DEBUG"), "{text}");
    assert!(text.contains("sse.close_event=\"close\""), "{text}");
    let text = traced(|| {
        let layer = SseCompletionLayer::new().cancel_when(|_| std::future::ready(()));
        drive(&layer, Script::new([])).rest();
    });
    assert!(text.contains("INFO"), "{text}");
}

/// A writer that panics.
struct Broken;

impl io::Write for Broken {
    fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
        panic!("the subscriber panics intentionally");
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn c21_panic_of_the_subscriber_does_not_withhold_the_report() {
    let reports = Reports::default();
    let layer = SseCompletionLayer::new().on_end(reports.observer());
    let subscriber = tracing_subscriber::fmt()
        .without_time()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(|| Broken)
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        drive(&layer, Script::new([])).rest();
    });
    assert_eq!(reports.count(), 1);
}
