//! The log events and metrics of the features `tracing` and `metrics`.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::Request;
use metrics_exporter_prometheus::PrometheusBuilder;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use testkit::{
    driver::Driver,
    exchange::{drive, event_stream, event_stream_response, send_response},
    reports::Reports,
    script::{AfterScript, Script, Step, data},
};
use tokio::{
    io::{AsyncWriteExt, duplex},
    runtime::{Builder, Runtime},
};
use tower_sse_completion::{ResponseBody, Shutdown, SseCompletionLayer};
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

/// Returns a runtime whose clock is paused.
fn paused() -> Runtime {
    let mut runtime = Builder::new_current_thread();
    runtime.enable_time().start_paused(true);
    runtime.build().expect("a runtime")
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
        "sse.close_event_sent=false",
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
}

#[test]
fn level_depends_on_the_ending_and_the_text_of_an_error_is_not_logged() {
    let text = traced(|| run_stream([Step::Error]));
    assert!(text.contains("ERROR"), "{text}");
    assert!(text.contains("error.type=\"upstream\""), "{text}");
    assert!(!text.contains("password"), "{text}");
    let text = traced(|| run_stream([]));
    assert!(text.contains("DEBUG"), "{text}");
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

/// Returns the counters and gauges by name and labels, and the number of values of each histogram.
fn measured(run: impl FnOnce(&Snapshotter)) -> BTreeMap<String, f64> {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || run(&snapshotter));
    snapshot(&snapshotter)
}

fn snapshot(snapshotter: &Snapshotter) -> BTreeMap<String, f64> {
    let values = snapshotter.snapshot().into_vec().into_iter();
    let value = |value| match value {
        DebugValue::Counter(count) => count as f64,
        DebugValue::Gauge(gauge) => gauge.into_inner(),
        DebugValue::Histogram(values) => values.len() as f64,
    };
    values
        .map(|(key, _, _, debug)| (key.key().to_string(), value(debug)))
        .collect()
}

#[test]
#[cfg_attr(miri, ignore = "the exporter has inline assembly")]
fn metrics_are_described_when_a_layer_is_made() {
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        run_stream([data("data: 1\n\n")]);
        paused().block_on(async {
            let shutdown = Shutdown::new();
            let _left = shutdown.connection(duplex(1).0);
            shutdown.drain(Duration::ZERO).await;
        });
    });
    let text = recorder.handle().render();
    for (name, kind) in [
        ("sse_streams_open", "gauge"),
        ("sse_streams_ended_total", "counter"),
        ("sse_close_events_sent_total", "counter"),
        ("sse_stream_duration_seconds", "summary"),
        ("sse_time_to_first_event_seconds", "summary"),
        ("sse_connections_cut_total", "counter"),
    ] {
        assert!(text.contains(&format!("# HELP {name} ")), "{text}");
        assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{text}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "Miri rejects an atomic bucket of the recorder")]
fn streams_are_counted_by_ending() {
    let measured = measured(|snapshotter| {
        let layer = SseCompletionLayer::new();
        let upstream = Script::frames(["data: 1\n\n"]).then(AfterScript::Pending);
        let mut open = drive(&layer, upstream);
        let unpolled: ResponseBody<_> = event_stream(&layer, Script::new([]));
        drop(unpolled);
        assert_eq!(snapshot(snapshotter).len(), 0, "not before the first poll");
        open.data();
        let metrics = snapshot(snapshotter);
        assert_eq!(metrics["Key(sse_streams_open)"], 1.0, "{metrics:?}");
        drop(open);
        run_stream([]);
        run_stream([]);
        run_stream([data("data: 1\n\n")]);
    });
    for (name, value) in [
        ("Key(sse_streams_open)", 0.0),
        ("Key(sse_streams_ended_total, [ending = dropped])", 1.0),
        ("Key(sse_streams_ended_total, [ending = empty])", 2.0),
        ("Key(sse_streams_ended_total, [ending = completed])", 1.0),
        ("Key(sse_close_events_sent_total)", 2.0),
        ("Key(sse_stream_duration_seconds, [ending = empty])", 2.0),
        ("Key(sse_time_to_first_event_seconds)", 2.0),
    ] {
        assert_eq!(measured.get(name), Some(&value), "{name}: {measured:#?}");
    }
}

#[test]
fn c24_cut_connections_are_counted_by_reason() {
    let measured = measured(|_| {
        paused().block_on(async {
            let shutdown = Shutdown::new();
            let connection = || shutdown.connection(duplex(8).0);
            let (mut stalled, _client) = {
                let (server, client) = duplex(8);
                let limit = Duration::from_secs(30);
                (shutdown.connection(server).write_timeout(limit), client)
            };
            stalled.write_all(&[0; 9]).await.expect_err("timed out");
            stalled.flush().await.expect_err("timed out");
            drop(stalled);
            let _left = [connection(), connection(), connection()];
            assert_eq!(shutdown.drain(Duration::ZERO).await.connections_cut(), 3);
            assert_eq!(shutdown.drain(Duration::ZERO).await.connections_cut(), 0);
        });
    });
    for (reason, count) in [("shutdown", 3.0), ("write_timeout", 1.0)] {
        let name = format!("Key(sse_connections_cut_total, [reason = {reason}])");
        assert_eq!(measured.get(&name), Some(&count), "{name}: {measured:#?}");
    }
}
